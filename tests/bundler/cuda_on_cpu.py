"""Makes the graph for CUDA run on a CPU: in half precision, with the CPU's kernel for its experts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from bundler.export import ExportedGraph


def with_8_bit_experts(cuda: ExportedGraph, target: Path) -> Path:
    """The CUDA graph with the CPU's 8-bit expert kernels in place of its own. They use the bytes stored for CUDA."""
    model = onnx.load(cuda.model)
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    doubled = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12])
    for node in model.graph.node:
        if node.op_type != "QMoE":
            continue
        for at in (2, 5):
            paired = numpy_helper.to_array(stored[node.input[at]])
            nibbles = np.stack([paired & 15, paired >> 4], axis=-1).reshape(*paired.shape[:2], -1)
            codes = (doubled[nibbles.swapaxes(1, 2)] + 128).astype(np.uint8)
            exponents = np.frombuffer(stored[node.input[at + 1]].raw_data, np.uint8).astype(int)
            scales = (2.0 ** (exponents - 128)).astype(np.float16).reshape(*codes.shape[:2], -1)
            model.graph.initializer.append(numpy_helper.from_array(codes, f"{node.input[at]}.codes"))
            model.graph.initializer.append(numpy_helper.from_array(scales, f"{node.input[at]}.steps"))
            node.input[at + 1] = f"{node.input[at]}.steps"
            node.input[at] += ".codes"
        del node.input[8:]
        for attribute in [a for a in node.attribute if a.name in ("quant_type", "expert_weight_bits")]:
            node.attribute.remove(attribute)
        node.attribute.append(helper.make_attribute("expert_weight_bits", 8))
    onnx.save(model, target)
    return target
