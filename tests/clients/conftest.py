"""One served site for the programs of all clients, and what each program printed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.clients.scripted import obey
from tests.conftest import require
from tests.fakes import FakeEngine
from tests.webui.served import gunicorn, site_with_key

PROJECT = Path(__file__).parents[2]
HERE = Path(__file__).parent
MODEL = "gpt-oss-fake"
LIMIT_S = 240  # for one program: all its cases, on a loaded machine
ENVIRONMENTS = {"llama_index_client.py": "llama"}  # the others are in "agents"; .ci/clients lists both


@dataclass(frozen=True)
class Report:
    """What one program printed, and `elsewhere`: the hosts that it asked for besides the appliance."""

    client: str
    version: str
    settings: str
    cases: dict[str, dict[str, Any]]
    elsewhere: list[str]


Reports = Callable[[str], Report]


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str, str]]:
    """Base URL, API key and model: all that a user is told."""
    home = tmp_path_factory.mktemp("site")
    with (
        site_with_key(home, MODEL) as (_, key),
        FakeEngine(obey) as engine,
        gunicorn(home, engine.doorbell, threads=8) as port,
    ):
        yield f"http://127.0.0.1:{port}/v1", key, MODEL


def command_of(program: str) -> list[str]:
    """How the program is run: by Node.js, or by the Python of its client's environment."""
    path = HERE / "programs" / program
    if path.suffix == ".mjs":
        node = shutil.which("node")
        require(node is not None and (PROJECT / "node_modules" / "ai").exists(), "Vercel's AI SDK (npm ci)")
        return [str(node), str(path)]
    python = PROJECT / ".venv-clients" / ENVIRONMENTS.get(program, "agents") / "bin" / "python"
    require(python.exists(), "the environment of the clients (.ci/clients/make)")
    return [str(python), str(HERE / "run_program.py"), str(path)]


@pytest.fixture(scope="session")
def reports(site: tuple[str, str, str], tmp_path_factory: pytest.TempPathFactory) -> Reports:
    """``reports(program)`` runs a program once, as its user would: nothing in its environment speaks of any client."""

    @cache
    def run(program: str) -> Report:
        home = tmp_path_factory.mktemp("user")
        elsewhere = home / "elsewhere"
        elsewhere.touch()
        isolated = {"PYTHONPATH": str(HERE / "isolated"), "ELSEWHERE": str(elsewhere)}
        environ = {"PATH": os.environ["PATH"], "HOME": str(home), **isolated}
        command = [*command_of(program), *site]
        done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False, timeout=LIMIT_S)
        assert done.returncode == 0, done.stdout + done.stderr
        printed = json.loads(done.stdout.splitlines()[-1])
        return Report(**printed, elsewhere=sorted(set(elsewhere.read_text().split())))

    return run
