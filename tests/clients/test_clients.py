"""Real clients, each as its users set it up, against the real application in a real gunicorn; the engine is scripted.

Each program of `programs` is what a user of that client would write. `make clients` writes the table of docs/api.md.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.clients.conftest import HERE, PROJECT, Report, Reports
from tests.clients.scripted import WEATHER

PAGE = PROJECT / "docs" / "api.md"
PROGRAMS = (
    "openai_client.py", "openai_agents.py", "langchain_client.py", "pydantic_client.py", "instructor_client.py",
    "llama_index_client.py", "llm_command.py", "litellm_proxy.py", "ai_sdk.mjs",
)  # fmt: skip
HEADING = "| client | version | works | what its user sets |\n|---|---|---|---|\n"


def expected(case: str) -> Any:
    """What the program's user must see."""
    if "structured" in case or case == "json_object":
        return WEATHER
    if case.endswith("handoff"):
        return "Expert"  # the agent that had the last word
    return "It is sunny in Paris." if "tool" in case else "You said: Hello"


def row(report: Report) -> str:
    """One line of the table."""
    cells = (f"`{report.client}`", report.version, "; ".join(report.cases), report.settings)
    return f"| {' | '.join(cells)} |"


def test_every_program_is_tested() -> None:
    assert {path.name for path in (HERE / "programs").iterdir() if path.is_file()} == set(PROGRAMS)


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_case_of_a_client_gives_what_its_user_must_see(reports: Reports, program: str) -> None:
    outcomes = reports(program).cases
    assert outcomes == {name: {"value": expected(name)} for name in outcomes}


@pytest.mark.parametrize("program", PROGRAMS)
def test_no_client_asks_for_another_host(reports: Reports, program: str) -> None:
    assert reports(program).elsewhere == []


def test_another_host_would_be_seen(tmp_path: Path) -> None:
    """The test above can fail: a name and an address are refused and written down, in a child process, too."""
    asked_for = tmp_path / "elsewhere"
    asked_for.touch()
    attempts = ("socket.getaddrinfo('name.invalid', 443)", "socket.create_connection(('192.0.2.1', 443), 1)")
    environ = {**os.environ, "PYTHONPATH": str(HERE / "isolated"), "ELSEWHERE": str(asked_for)}
    for attempt in attempts:
        child = (
            f"import subprocess, sys; sys.exit(subprocess.call([sys.executable, '-c', \"import socket; {attempt}\"]))"
        )
        done = subprocess.run([sys.executable, "-c", child], env=environ, capture_output=True, text=True, check=False)
        assert "this network is isolated" in done.stderr
    assert set(asked_for.read_text().split()) == {"name.invalid", "192.0.2.1"}


def test_the_page_has_the_table_that_the_clients_gave(reports: Reports, pytestconfig: pytest.Config) -> None:
    table = "\n".join(row(reports(program)) for program in PROGRAMS)
    page = PAGE.read_text(encoding="utf-8")
    before, heading, rest = page.partition(HEADING)
    assert heading, "docs/api.md has no table of clients"
    printed, _, after = rest.partition("\n\n")
    if pytestconfig.getoption("--write-docs"):
        PAGE.write_text(f"{before}{heading}{table}\n\n{after}", encoding="utf-8")
    else:
        assert printed == table, "run `make clients`, which writes the table anew"
