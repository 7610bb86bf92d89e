"""Reads gpt-oss checkpoints, and gives every tensor in the layout in which gpt-oss is published (`bundler.layout`).

A directory holds ``config.json`` and either ``model.safetensors`` or ``model.safetensors.index.json`` with the shards
it names. `open_checkpoint` compares every header with what the configuration demands before anything else is done;
tensors are then read one at a time, so that the model is never in memory as a whole.

Published tensors are read as they are. Three things are converted while they are read (`bundler.checkpoints`): experts
in 16 or 32 bits are rounded to MXFP4, other tensors in float16 or float32 to bfloat16, and a LoRA adapter is added to
the matrices that it changes. `Checkpoint.converted` says what became of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from numpy.typing import NDArray

from bundler.checkpoints.adapter import Adapter, open_adapter
from bundler.checkpoints.files import INDEX, SINGLE, stored_tensors
from bundler.checkpoints.names import by_published_name
from bundler.checkpoints.readers import Reader, Readers, find_readers
from bundler.checkpoints.recognise import refuse_by_names, refuse_by_tensors
from bundler.layout import TensorSpec
from bundler.model_config import ModelConfig, load_model_config
from installer.formats.release import Converted

CONFIG: Final = "config.json"
_TYPES: Final = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in which every tensor has the right type and shape."""

    directory: Path
    config: ModelConfig
    config_bytes: bytes  # config.json, byte for byte
    specs: Mapping[str, TensorSpec]  # in the published layout
    adapter: Adapter | None
    _readers: Readers

    def read(self, name: str, rows: range | None = None) -> NDArray[Any]:
        """One tensor, or these rows of it: ``ml_dtypes.bfloat16`` or ``uint8``, shaped as ``specs[name]`` says.

        Raises:
            CheckpointError: the shard changed or vanished since it was opened, or the tensor holds infinities or NaN.
        """
        reader: Reader = self._readers.by_name[name]
        return reader(range(self.specs[name].shape[0]) if rows is None else rows)

    @property
    def rounded(self) -> frozenset[str]:
        """The tensors that are rounded to MXFP4 whenever they are read."""
        return self._readers.rounded

    def reading(self, others: Mapping[str, Reader]) -> Checkpoint:
        """The same checkpoint, some of whose tensors are read from elsewhere."""
        readers = replace(self._readers, by_name={**self._readers.by_name, **others})
        return replace(self, _readers=readers)

    @property
    def is_published(self) -> bool:
        """Whether every tensor is read as it is stored."""
        return self.adapter is None and not self._readers.experts_from and not self._readers.dense_from

    def converted(self) -> Converted | None:
        """How the tensors that were read so far differ from the stored ones; None if every one is read as stored."""
        if self.is_published:
            return None
        return Converted(
            adapter=self.adapter.name if self.adapter else None,
            experts_from=_words(self._readers.experts_from),
            expert_errors=_by_layer(self._readers.log.layer_errors()),
            adapter_changes=_by_layer(self._readers.log.layer_changes()) if self.adapter else {},
            dense_from=_words(self._readers.dense_from),
        )


def open_checkpoint(directory: Path, adapter: Path | None = None) -> Checkpoint:
    """Read the configuration and check every tensor's header; no tensor's data is read.

    Args:
        adapter: the directory of a LoRA adapter, which is merged into the weights.
    Raises:
        CheckpointError: naming the first file at fault, the fault and what was expected.
    """
    refuse_by_names(directory)
    config, config_bytes = load_model_config(directory / CONFIG)
    stored = stored_tensors(directory)
    refuse_by_tensors({name: tensor.path for name, tensor in stored.items()})
    changes = None if adapter is None else open_adapter(adapter, config)
    listing = directory / (INDEX if (directory / INDEX).exists() else SINGLE)
    specs, readers = find_readers(listing, config, by_published_name(stored), changes)
    return Checkpoint(directory, config, config_bytes, specs, changes, readers)


def _by_layer(values: Mapping[int, float]) -> dict[str, float]:
    return {str(layer): value for layer, value in values.items()}


def _words(kinds: frozenset[str]) -> str | None:
    return " and ".join(sorted(_TYPES.get(kind, kind) for kind in kinds)) or None
