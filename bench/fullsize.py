"""The way of a release at full size: checkpoint, archive, installation, recorded answer, each beside `cp`.

    python -m bench.fullsize --shape 20b --memory 16

It writes a random checkpoint of the shape, builds and signs its archive with the real commands, verifies and installs
the archive, runs the self-test once more by itself, starts the installed appliance, asks it and looks for the answer in
the verified record. Each step runs in a control group of so many GiB, in which it begins with its input out of the page
cache. Printed are each step's seconds, the bytes that it handles, its speed as a share of that of `cp` with the archive
(before and after, in such a group), and what it held and read (bench/control_group.py). At the end the figures of the
shape 120b are calculated from these speeds.

20b needs some 60 GB of disk. Everything that is written lies below --work and is removed at the end.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import click

from appliance.audit.log import AuditLog
from appliance.database.transactions import open_database
from appliance.engine.operators import ExpertShape, load_operators
from bench.control_group import Held, limited
from bench.copying import copy_s, evict
from bench.memory import ask
from bench.random_model import SHAPES
from bench.served import serving
from bundler.layout import expected_tensors
from bundler.model_config import parse_model_config
from bundler.own_wheel import build_own_wheel
from bundler.random_checkpoint import random_config, write_random_checkpoint
from tests.webui.served import add_user_with_key

_GIB = 1 << 30
_USER = "nobody"  # the appliance never serves as root
_COPY = "Verifying and copying"  # the installer's stage
_STAGE = re.compile(r"([A-Z][^:(]+)(?: \([^)]*\))?")  # a line that begins a stage


@dataclass(frozen=True)
class Step:
    """One step: how long it took, the bytes that it handled, what it held, and how long its stages took."""

    name: str
    took_s: float
    size_bytes: int
    held: Held
    stages_s: Mapping[str, float] = field(default_factory=dict)


@dataclass
class FullSize:
    """The steps, in the directory that they share."""

    work: Path
    shape: str
    limit_bytes: int  # 0: none
    own_wheel: Path

    def __post_init__(self) -> None:
        self.steps: list[Step] = []
        self.copies_s: list[float] = []
        self.checkpoint = self.work / "random"
        self.keys = self.work / "keys"
        self.archive = self.work / "random.airgap"
        self.site = self.work / "site"

    def run(self) -> None:
        """All steps in order."""
        config = random_config(**SHAPES[self.shape])
        self._step("checkpoint", lambda: write_random_checkpoint(self.checkpoint, config, seed=1), self.checkpoint)
        _command("bundler", "keygen", "--keys", self.keys, "--no-passphrase")
        evict(*_files(self.checkpoint))
        self._step("build", self._build, self.archive)
        shutil.rmtree(self.checkpoint)
        self._copy()
        root = ["--root", self.keys / "root.json"]
        self._step("verify", lambda: _command("installer", "verify", self.archive, *root), self.archive)
        options = [*root, "--prefix", self.site, *_owner()]
        self._step("install", lambda: _command("installer", "install", self.archive, *options), self.archive)
        self._copy()
        program = self.site / "current" / "venv" / "bin" / "appliance"
        release = (self.site / "current").resolve()
        evict(*_files(release / "model"))
        test = [str(program), "selftest", "--release", str(release)]
        self._step("self-test", lambda: _timed(test), self.archive)
        evict(*_files(release / "model"))
        self._step("first start and answer", self._answer, self.archive)

    def copied_s(self, size_bytes: int) -> float:
        """How long `cp` takes for so many bytes, at its speed with the archive."""
        return statistics.median(self.copies_s) * size_bytes / self.archive.stat().st_size

    def _build(self) -> Mapping[str, float]:
        python = f"{sys.version_info.major}.{sys.version_info.minor}"
        return _command(
            "bundler", "build", "--checkpoint", self.checkpoint, "--keys", self.keys, "--out", self.archive,
            "--own-wheel", self.own_wheel, "--python", python, "--no-kit",
        )  # fmt: skip

    def _answer(self) -> None:
        """Pack the weights, answer a prompt through the API, and find both in a record that verifies."""
        key = self._user()
        program = self.site / "current" / "venv" / "bin" / "appliance"
        with serving(self.site, program) as (_, url):
            answer = ask(url, key, 8, 1, 8, self._model())
            if answer["usage"]["completion_tokens"] < 1:
                raise RuntimeError(f"the model did not answer: {answer}")
        report = json.loads(_checked([str(program), "audit", "verify", "--home", str(self.site), "--json"]))
        if report["intact"] is not True:
            raise RuntimeError(f"the record does not verify: {report}")

    def _model(self) -> str:
        """The name that the API knows; a checkpoint of an official shape is called as the official one."""
        return str(json.loads((self.site / "current" / "release.json").read_bytes())["model"]["id"])

    def _user(self) -> str:
        """A user's API key."""
        _checked([str(self.site / "current/venv/bin/appliance"), "doctor", "--home", str(self.site)], may_fail=True)
        database = open_database(f"sqlite:///{self.site}/state/database/appliance.sqlite3")
        key = add_user_with_key(AuditLog(database))
        database.close()
        if os.geteuid() == 0:
            for path in (self.site / "state", *(self.site / "state").rglob("*")):
                shutil.chown(path, _USER)
        return key

    def _copy(self) -> None:
        with self._limited("cp"):
            self.copies_s.append(copy_s(self.archive, self.work / "copy", flush=False))

    def _step(self, name: str, run: Callable[[], Mapping[str, float] | None], size_of: Path) -> None:
        if self.archive.exists():
            evict(self.archive)
        with self._limited(name.split()[0]) as held:
            began_s = time.perf_counter()
            stages_s = run()
            took_s = time.perf_counter() - began_s
        size_bytes = sum(path.stat().st_size for path in _files(size_of))
        self.steps.append(Step(name, took_s, size_bytes, held, stages_s or {}))
        click.echo(f"{name}: {took_s:.1f} s, {held.own_bytes / 1e9:.2f} GB of its own", err=True)

    @contextlib.contextmanager
    def _limited(self, name: str) -> Iterator[Held]:
        if not self.limit_bytes:
            yield Held()
            return
        with limited(self.limit_bytes, name) as held:
            yield held


def _files(path: Path) -> list[Path]:
    return [path] if path.is_file() else [one for one in path.rglob("*") if one.is_file()]


def _owner() -> list[str]:
    return ["--user", _USER, "--no-service"] if os.geteuid() == 0 else []


def _command(name: str, *arguments: object) -> Mapping[str, float]:
    """Run one of this checkout's commands; how long each of its stages took."""
    return _timed([str(Path(sys.executable).with_name(name)), *map(str, arguments)])


def _timed(command: list[str]) -> dict[str, float]:
    """Run a command; the seconds of the stages that it names on stderr, each until the next (installer/terminal.py)."""
    said, began_s = list[str](), dict[str, float]()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stderr or ():
            said.append(line)
            if stage := _STAGE.fullmatch(line.strip()):
                began_s[stage[1]] = time.perf_counter()
    if process.returncode:
        raise click.ClickException(f"{' '.join(command)} failed:\n{''.join(said)}")
    times_s = [*began_s.values(), time.perf_counter()]
    return {name: times_s[at + 1] - times_s[at] for at, name in enumerate(began_s)}


def _checked(command: list[str], *, may_fail: bool = False) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode and not may_fail:
        raise click.ClickException(f"{' '.join(command)} failed:\n{done.stderr or done.stdout}")
    return done.stdout


def table(steps: list[Step], copied_s: Callable[[int], float]) -> Iterator[str]:
    """The figures of all steps as lines."""
    yield f"{'step':24}{'s':>9}{'GB':>8}{'of cp':>8}{'own GB':>9}{'peak GB':>9}{'read GB':>9}{'faults':>9}"
    for step in steps:
        held, share = step.held, copied_s(step.size_bytes) / step.took_s
        yield (
            f"{step.name:24}{step.took_s:9.1f}{step.size_bytes / 1e9:8.2f}{share:8.2f}{held.own_bytes / 1e9:9.2f}"
            f"{held.peak_bytes / 1e9:9.2f}{held.read_bytes / 1e9:9.2f}{held.faults:9,}"
        )


def stages(steps: list[Step], copied_s: Callable[[int], float]) -> Iterator[str]:
    """The stages of each step that took a second or more, and the speed of the installer's copy beside `cp`."""
    for step in steps:
        longer = [f"{name} {took_s:.1f} s" for name, took_s in step.stages_s.items() if took_s >= 1]
        if longer:
            yield f"{step.name}: {', '.join(longer)}"
        if _COPY in step.stages_s:
            yield f"{step.name}: {_COPY}: {copied_s(step.size_bytes) / step.stages_s[_COPY]:.2f} of cp"


def calculated(shape: str, steps: list[Step]) -> Iterator[str]:
    """What another shape would take at the speed of each step, and its largest part."""
    sizes = SHAPES[shape]
    config = parse_model_config(random_config(**sizes))
    size_bytes = sum(spec.size_bytes for spec in expected_tensors(config).values())
    yield f"{shape} by arithmetic: {size_bytes / 1e9:.1f} GB of weights"
    for step in steps:
        yield f"{step.name:24}{step.took_s * size_bytes / step.size_bytes:9.0f} s at {_speed(step):.2f} GB/s"
    experts = ExpertShape(sizes["experts"], sizes["hidden"], sizes["intermediate"])
    packed = load_operators().expert_bytes(experts)
    yield f"its largest part, the experts of one layer, takes {packed / 1e9:.2f} GB packed in the self-test"


def _speed(step: Step) -> float:
    return step.size_bytes / step.took_s / 1e9


@click.command()
@click.option("--shape", type=click.Choice(sorted(SHAPES)), default="20b", show_default=True)
@click.option("--memory", type=click.FloatRange(min=0), default=16.0, show_default=True,
              help="Limit of the control group in GiB; 0: no group, and nothing is said of memory.")  # fmt: skip
@click.option("--work", type=click.Path(path_type=Path, file_okay=False), default=Path(".bench"), show_default=True)
@click.option("--own-wheel", type=click.Path(path_type=Path, dir_okay=False), help="This project's wheel, if made.")
def main(shape: str, memory: float, work: Path, own_wheel: Path | None) -> None:
    """Bring a random model all the way, as the module's docstring says."""
    here = work.absolute() / f"fullsize-{os.getpid()}"
    here.mkdir(parents=True)
    try:
        wheel = own_wheel or build_own_wheel(here, os.environ)
        full = FullSize(here, shape, int(memory * _GIB), wheel)
        full.run()
        limit = f"a control group of {memory:g} GiB" if memory else "no control group"
        speeds = ", ".join(f"{full.archive.stat().st_size / took_s / 1e9:.2f}" for took_s in full.copies_s)
        click.echo(f"{shape} in {limit}; cp of the archive: {speeds} GB/s")
        for line in (
            *table(full.steps, full.copied_s),
            *stages(full.steps, full.copied_s),
            *calculated("120b", full.steps),
        ):
            click.echo(line)
    finally:
        shutil.rmtree(here)


if __name__ == "__main__":
    main()
