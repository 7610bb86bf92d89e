"""The packer: what it makes, when it looks closely, and that an engine finds the result."""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance.config import Config
from appliance.engine.packed_weights import PackingError
from appliance.engine.packer import pack
from appliance.installed_release import InstalledRelease


@pytest.fixture
def config(tmp_path: Path, release: InstalledRelease) -> Config:
    return Config(home=tmp_path, release_dir=release.path, database_url="sqlite://")


def packed(config: Config) -> Path:
    (data,) = config.packed_dir.rglob("packed.bin")
    return data


def test_packs_once(config: Config) -> None:
    assert pack(config, thorough=False)
    made = packed(config).stat()
    assert not pack(config, thorough=False)
    assert not pack(config, thorough=True)
    assert packed(config).stat().st_ino == made.st_ino


def test_a_close_look_finds_a_flipped_bit_and_mends_it(config: Config) -> None:
    pack(config, thorough=False)
    whole = packed(config).read_bytes()
    packed(config).write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    assert not pack(config, thorough=False)  # the engine compares digests; it would end, and be started after this
    assert pack(config, thorough=True)
    assert packed(config).read_bytes() == whole


def test_a_missing_part_is_found_without_a_close_look(config: Config) -> None:
    pack(config, thorough=False)
    data = packed(config)
    data.write_bytes(data.read_bytes()[:-1])
    assert pack(config, thorough=False)


def test_nothing_is_packed_for_cuda(config: Config, tmp_path: Path) -> None:
    cuda = Config(home=config.home, release_dir=config.release_dir, database_url="sqlite://", accelerator="cuda")
    assert not pack(cuda, thorough=True)
    assert not (tmp_path / "state").exists()


def test_where_nothing_can_be_written_is_said(config: Config) -> None:
    config.state_dir.mkdir()
    config.packed_dir.write_text("a file")
    with pytest.raises(PackingError, match="cannot be written"):
        pack(config, thorough=False)
