"""At the start: limits that are set on a machine are seen, and settings that do not fit are refused once, in words."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from appliance.cgroups import control_groups
from appliance.config import Config
from appliance.engine.memory_plan import MemoryPlanError
from appliance.engine.packer import pack
from appliance.errors import CANNOT_SERVE
from tests.appliance.engine.conftest import release_dir, vocabulary_file  # noqa: F401 - fixtures
from tests.appliance.engine.test_memory_plan import write_release
from tests.appliance.supervised import WEB, supervised
from tests.conftest import require

GB = 1_000_000_000
PACKER = "from appliance.engine.packer import main; raise SystemExit(main())"
ENGINE = "from appliance.engine.server import main; raise SystemExit(main())"
# The process joins the group before it asks.
JOIN = "import os, sys; open(sys.argv[1] + '/cgroup.procs', 'w').write(str(os.getpid()))\n"


@pytest.fixture
def group(request: pytest.FixtureRequest) -> Iterator[tuple[int, Path]]:
    """A real control group of the parameter's controller, below our own: (version, path)."""
    controller: str = request.param
    made = None
    for inner in control_groups(controller):
        with suppress(OSError):
            path = inner.path / f"attack-{os.getpid()}"
            path.mkdir()
            limit = {"cpu": ("cpu.cfs_quota_us", "cpu.max"), "memory": ("memory.limit_in_bytes", "memory.max")}
            if (path / limit[controller][inner.version - 1]).exists():
                made = inner.version, path
                break
            path.rmdir()
    require(made is not None, f"a control group for {controller} that can be made (root)")
    assert made is not None
    yield made
    for below in [*made[1].glob("*/cgroup.procs"), made[1] / "cgroup.procs"]:
        below.parent.rmdir()


def told(inside: Path, question: str) -> str:
    """What a process prints that has joined the group."""
    program = [sys.executable, "-c", JOIN + question, str(inside)]
    return subprocess.run(program, check=True, capture_output=True, text=True).stdout.strip()


@pytest.mark.parametrize("group", ["cpu"], indirect=True)
def test_half_a_core_gets_one_thread(group: tuple[int, Path]) -> None:
    """Case quota-cgroup-v1; ollama 17916."""
    version, path = group
    (path / ("cpu.cfs_quota_us" if version == 1 else "cpu.max")).write_text("50000")
    question = "from appliance.engine.host import physical_cores; print(physical_cores())"
    assert told(path, question) == "1"
    (path / "below").mkdir()
    assert told(path / "below", question) == "1"


@pytest.mark.parametrize("group", ["memory"], indirect=True)
def test_a_limit_of_memory_is_believed_also_from_below(group: tuple[int, Path]) -> None:
    version, path = group
    (path / ("memory.limit_in_bytes" if version == 1 else "memory.max")).write_text(str(2 * GB))
    (path / "below").mkdir()
    question = "from appliance.engine.host import available_memory_bytes; print(available_memory_bytes())"
    for inside in (path, path / "below"):
        assert 1.5 * GB < int(told(inside, question)) <= 2 * GB


def test_settings_that_do_not_fit_are_refused_once_and_not_three_times(tmp_path: Path) -> None:
    """The real engine refuses under the real supervisor, at the sizes of gpt-oss-20b: 1.7 TB of caches."""
    write_release(tmp_path / "current", "gpt-oss-20b")
    (tmp_path / "current" / "tinyweb.py").write_text(WEB)
    (tmp_path / "state" / "config").mkdir(parents=True)
    settings = "[engine]\nslots = 256\ncontext_tokens = 131072\n"
    (tmp_path / "state" / "config" / "appliance.toml").write_text(settings)
    with supervised(tmp_path, release=False, engine=ENGINE) as site:
        assert site.process.wait(60) == 1
        said = site.said()
    assert said.count("256 conversations of 131,072 tokens do not fit into memory") == 1
    assert "GB can be used" in said
    assert said.endswith("Error: the engine cannot serve as things are; see its message above\n")


def test_what_will_be_refused_is_not_packed_first(tmp_path: Path) -> None:
    release = write_release(tmp_path / "current", "gpt-oss-20b")  # its weights are not there to be packed
    settings = {"slots": 256, "context_tokens": 131_072, "accelerator": "cpu"}
    config = Config(home=tmp_path, release_dir=release, database_url="sqlite://", **settings)  # type: ignore[arg-type]
    with pytest.raises(MemoryPlanError, match="256 conversations"):
        pack(config, thorough=False)


def test_any_program_that_cannot_serve_is_started_once(tmp_path: Path) -> None:
    with supervised(tmp_path, engine=f"print('why'); raise SystemExit({CANNOT_SERVE})") as site:
        assert site.process.wait(20) == 1
        assert site.said().count("why\n") == 1


def test_a_site_that_sets_nothing_starts_and_says_what_it_serves(tmp_path: Path, release_dir: Path) -> None:  # noqa: F811
    shutil.copytree(release_dir, tmp_path / "current")  # a directory that the service's user may enter
    (tmp_path / "current" / "tinyweb.py").write_text(WEB)
    with supervised(tmp_path, release=False, packer=PACKER, engine=ENGINE) as site:
        assert site.url
        assert "8 conversations of 512 tokens; gpt-oss-random needs" in site.said()


def test_damaged_packed_weights_are_packed_anew_and_not_taken_for_a_lack_of_memory(
    tmp_path: Path,
    release_dir: Path,  # noqa: F811
) -> None:
    shutil.copytree(release_dir, tmp_path / "current")
    (tmp_path / "current" / "tinyweb.py").write_text(WEB)
    with supervised(tmp_path, release=False, packer=PACKER, engine=ENGINE) as site:
        assert site.url
    packed = next((tmp_path / "state" / "packed").glob("*/packed.bin"))
    with packed.open("r+b") as stream:
        stream.write(b"\xff" * 64)
    with supervised(tmp_path, release=False, packer=PACKER, engine=ENGINE) as site:
        assert site.url
