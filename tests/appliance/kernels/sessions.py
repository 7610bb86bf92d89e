"""Sessions of single graphs with the appliance's operators, for the tests of the operators."""

from __future__ import annotations

import onnx
import onnxruntime  # type: ignore[import-untyped]
from onnx import helper

from appliance.engine.operators import load_operators


def session_of_graph(graph: onnx.GraphProto) -> onnxruntime.InferenceSession:
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("gpt_oss", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    options.log_severity_level = 4
    options.register_custom_ops_library(load_operators().path)
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
