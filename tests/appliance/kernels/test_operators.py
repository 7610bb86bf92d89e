"""Every operator has a file of its own that says what it takes, and is registered with ONNX Runtime."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from onnx import TensorProto, helper

os.environ["ORT_DISABLE_TELEMETRY"] = "1"
import onnxruntime  # type: ignore[import-untyped]

import appliance.kernels
from appliance.engine.operators import load_operators

FOLDER = Path(__file__).parents[3] / "appliance" / "kernels" / "operators"
FILES = sorted(path for path in FOLDER.glob("*.cc") if path.name != "operator.cc")


def name_of(path: Path) -> str:
    (name,) = re.findall(r'o\.name = .* return "(\w+)"', path.read_text())
    return str(name)


def refusal_of(operator: str) -> str:
    """What ONNX Runtime says to a node of that operator without any input."""
    node = helper.make_node(operator, [], ["y"], domain="gpt_oss")
    graph = helper.make_graph([node], "one", [], [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)])
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("gpt_oss", 1)], ir_version=8
    )
    options = onnxruntime.SessionOptions()
    options.register_custom_ops_library(str(appliance.kernels.library_path()))
    with pytest.raises(Exception) as refused:  # noqa: PT011 (ONNX Runtime has a type for each kind of failure)
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return str(refused.value)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_operator_is_registered(path: Path) -> None:
    load_operators()
    unknown = "is not a registered function/op"
    assert unknown in refusal_of("NoSuchOperator")
    assert unknown not in refusal_of(name_of(path))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_operator_has_tests_of_its_numbers(path: Path) -> None:
    tests = "".join(Path(__file__).with_name(name).read_text() for name in ("test_kernels.py", "test_attention.py"))
    assert re.search(rf'make_node\(\s*"{name_of(path)}"', tests)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_operator_says_what_it_takes(path: Path) -> None:
    assert f"\n// {name_of(path)}(" in path.read_text().partition("#include")[0]
