"""A merged adapter computes what Transformers computes with the adapter applied by PEFT, on tokens it never saw.

PEFT makes, saves and applies the adapters here. Merging rounds: attention and router to bfloat16, changed experts to
MXFP4. So three things are compared. The merged numbers, before they are rounded, are PEFT's to float32's last digits.
The logits are Transformers' if PEFT's merged weights are rounded likewise, by another algorithm. And rounding moves the
logits less than the adapter does.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from bundler.checkpoint import open_checkpoint
from bundler.checkpoints.adapter import Adapter, open_adapter
from bundler.checkpoints.names import PROJECTIONS
from bundler.export import export_graph
from tests.bundler.onnx_model import GraphRunner, open_session
from tests.bundler.parity import TOLERANCE, _transformers_model, relative_error, third_party
from tests.reference.gpt_oss import ReferenceModel, decode_mxfp4

pytestmark = [pytest.mark.usefixtures("exact_operators", "parity_extra")]

ATTENTION = {"target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"]}
ROUTER = {"target_modules": ["q_proj"], "target_parameters": ["mlp.router.weight"]}
EXPERTS = {"target_modules": [], "target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]}
SOME = {
    "target_modules": ["q_proj", "lm_head"],
    "target_parameters": ["layers.1.mlp.experts.gate_up_proj", "layers.2.mlp.experts.down_proj"],
    "rank_pattern": {"q_proj": 2, "layers.1.mlp.experts.gate_up_proj": 6},
    "alpha_pattern": {"lm_head": 4, "layers.2.mlp.experts.down_proj": 3},
    "use_rslora": True,
}
# the targets, whether parameters are held as Transformers 5 says they are, and the size of PEFT's B
CASES: dict[str, tuple[dict[str, Any], bool, float]] = {
    "attention": (ATTENTION, False, 0.05),
    "router": (ROUTER, False, 0.05),
    "experts": (EXPERTS, True, 0.2),
    "experts-swapped": (EXPERTS, False, 0.2),
    "patterns": (SOME, True, 0.2),
}
Ids = NDArray[np.int64]


def _adapted(checkpoint: Path, directory: Path, targets: dict[str, Any], *, transposed: bool, size: float) -> Any:
    """Transformers' model with a random adapter of PEFT applied; the adapter is written to `directory`."""
    with third_party():
        import torch
        from peft import LoraConfig, PeftModel, get_peft_model
        from transformers.models.gpt_oss.modeling_gpt_oss import GptOssExperts

        model = _transformers_model(ReferenceModel(checkpoint))
        for module in model.modules():
            if isinstance(module, GptOssExperts) and transposed:
                module.is_transposed = True  # type: ignore[assignment]
        torch.manual_seed(12)
        tuned = get_peft_model(model, LoraConfig(**{"r": 4, "lora_alpha": 16, "lora_dropout": 0.0, **targets}))
        for name, parameter in tuned.named_parameters():
            if "lora_B" in name:  # PEFT begins with zeros
                torch.nn.init.normal_(parameter, std=size)
        tuned.save_pretrained(str(directory), save_embedding_layers=False)
        assert isinstance(tuned, PeftModel)
        return tuned.eval()


def _logits(model: Any, ids: Ids) -> NDArray[np.float32]:
    with third_party():
        import torch

        with torch.inference_mode():
            logits: NDArray[np.float32] = model(torch.from_numpy(ids)[None]).logits[0].numpy()
    return logits


def _differences(adapter: Adapter, base: ReferenceModel, merged: Any) -> tuple[float, int]:
    """The largest difference between our sums and PEFT's, and how many matrices were changed."""
    theirs = {name: tensor.numpy() for name, tensor in merged.state_dict().items()}
    largest, changed = 0.0, 0
    for name, tensor in base.tensors.items():
        projection = next((p for p in PROJECTIONS if name.endswith(f".experts.{p}")), None)
        weights = tensor.astype(np.float32)
        if projection is not None:
            if (read_all := adapter.experts(int(name.split(".")[2]), projection)) is not None:
                by_expert = read_all()
                for expert, matrix in enumerate(weights):
                    for change in by_expert(expert):
                        change.add_to(matrix, 0)
                changed += 1
            weights = weights.swapaxes(1, 2)
        elif (read := adapter.matrix(name)) is not None:
            read().add_to(weights, 0)
            changed += 1
        largest = max(largest, float(np.abs(weights - theirs[name]).max()))
    return largest, changed


def _nearest_mxfp4(weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """[E, depth, rows] rounded along the depth, by trying every number of the format for every weight."""
    blocks = np.ascontiguousarray(weights.swapaxes(1, 2)).reshape(-1, 32).astype(np.float64)
    largest = np.abs(blocks).max(axis=1, keepdims=True)
    unit = 2.0 ** (np.floor(np.log2(largest, out=np.zeros_like(largest), where=largest > 0)) - 2)
    numbers = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])
    nearest = numbers[np.abs(np.abs(blocks)[..., None] / unit[..., None] - numbers).argmin(axis=-1)]
    rounded = (np.sign(blocks) * nearest * unit).astype(np.float32)
    result: NDArray[np.float32] = rounded.reshape(weights.swapaxes(1, 2).shape).swapaxes(1, 2)
    return result


def _rounded(model: Any, adapter: Adapter) -> Any:
    """PEFT's merged model with the one rounding that merging costs."""
    with third_party():
        import torch

        state = model.state_dict()
        for name, tensor in state.items():
            projection = next((p for p in PROJECTIONS if name.endswith(f".experts.{p}")), None)
            if projection is None:
                state[name] = tensor.to(torch.bfloat16).float()
            elif adapter.experts(int(name.split(".")[2]), projection) is not None:
                state[name] = torch.from_numpy(np.ascontiguousarray(_nearest_mxfp4(tensor.numpy())))
        model.load_state_dict(state)
    return model


@pytest.mark.parametrize("case", CASES)
def test_logits_are_those_of_transformers_with_the_adapter(case: str, small_checkpoint: Path, tmp_path: Path) -> None:
    targets, transposed, size = CASES[case]
    tuned = _adapted(small_checkpoint, tmp_path / "adapter", targets, transposed=transposed, size=size)
    ids = np.random.default_rng(8).integers(0, 300, 60)
    with_adapter, reference = _logits(tuned, ids), ReferenceModel(small_checkpoint)
    checkpoint = open_checkpoint(small_checkpoint, tmp_path / "adapter")
    graph = export_graph(checkpoint, tmp_path / "graph", accelerator="cpu", dense="bf16")
    ours = GraphRunner(open_session(graph.model)).prefill(ids)

    adapter = open_adapter(tmp_path / "adapter", checkpoint.config)
    with third_party():
        merged = tuned.merge_and_unload()
    largest, changed = _differences(adapter, reference, merged)
    assert largest < 1e-5
    assert changed >= 3

    error = _typical(ours, with_adapter)
    effect = _typical(reference.logits(ids), with_adapter)
    exact = relative_error(ours, _logits(_rounded(merged, adapter), ids))
    print(
        f"{case}: adapter {effect:.3f}, rounded {error:.4f}, apart from rounding {exact:.1e}; {checkpoint.converted()}"
    )
    assert exact < TOLERANCE
    assert effect > 2 * error


def _typical(ours: NDArray[Any], theirs: NDArray[Any]) -> float:
    """The median row's max |ours - theirs| / max |theirs|: a token that rounding sends to another expert is far off."""
    return float(np.median(np.abs(ours - theirs).max(axis=-1) / np.abs(theirs).max(axis=-1)))


@pytest.mark.parametrize("merged", [False, True], ids=["plain", "after-merging"])
def test_what_transformers_saves_is_read(merged: bool, small_checkpoint: Path, tmp_path: Path) -> None:
    """The real writer, in bfloat16, also of a model that PEFT merged."""
    with third_party():
        import torch

        if merged:
            tuned = _adapted(small_checkpoint, tmp_path / "adapter", EXPERTS, transposed=True, size=0.2)
            model = tuned.merge_and_unload()
        else:
            model = _transformers_model(ReferenceModel(small_checkpoint))
        model.to(torch.bfloat16).save_pretrained(str(tmp_path / "saved"))
    given = (tmp_path / "adapter") if merged else None
    ours, saved = open_checkpoint(small_checkpoint, given), open_checkpoint(tmp_path / "saved")
    assert saved.config == ours.config
    for name in ours.specs:
        if not name.endswith(("_blocks", "_scales")):
            np.testing.assert_array_equal(saved.read(name), ours.read(name), err_msg=name)
        elif name.endswith("_blocks"):
            scales = name.replace("_blocks", "_scales")
            numbers = [decode_mxfp4(side.read(name), side.read(scales)) for side in (ours, saved)]
            same = (numbers[0] == numbers[1]).mean()
            assert same == 1 or (merged and same > 0.97), name  # bfloat16 comes between PEFT's sum and our rounding


def test_peft_writes_the_fields_that_are_read(small_checkpoint: Path, tmp_path: Path) -> None:
    """Every field of this version of PEFT is known, so that a new one is noticed here first."""
    _adapted(small_checkpoint, tmp_path / "adapter", ATTENTION, transposed=True, size=0.05)
    body = json.loads((tmp_path / "adapter" / "adapter_config.json").read_bytes())
    assert body["peft_type"] == "LORA"
    open_adapter(tmp_path / "adapter", open_checkpoint(small_checkpoint).config)
