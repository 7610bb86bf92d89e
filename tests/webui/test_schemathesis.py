"""schemathesis sends what the OpenAPI document allows, and what it forbids, to the application in a real gunicorn."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.fakes import FakeEngine
from tests.webui.served import PROJECT, gunicorn, site_with_key

CONFIG = PROJECT / "tests" / "webui" / "schemathesis.toml"
MOST_SHOWN = 8000  # characters of a report; it holds whole bodies
LIMIT_S = 300  # only a run that hangs takes this long


def report_on(place: Path, *options: str, application: str = "webui.wsgi:app") -> tuple[int, str]:
    """Run schemathesis against a served site. The value is its exit code and its report."""
    home = place / "site"
    home.mkdir()
    with (
        site_with_key(home, "gpt-oss-fake") as (_, key),
        FakeEngine() as engine,
        gunicorn(home, engine.doorbell, application=application) as port,
    ):
        return _run(place, f"http://127.0.0.1:{port}/v1/openapi.json", key, options)


def _run(place: Path, address: str, key: str, options: tuple[str, ...]) -> tuple[int, str]:
    program = Path(sys.executable).with_name("schemathesis")
    environ = {**os.environ, "PYTHONPATH": str(PROJECT), "SCHEMATHESIS_HOOKS": "tests.webui.fuzz_hooks"}
    login = ("--header", f"Authorization: Bearer {key}")
    argv = (str(program), "--config-file", str(CONFIG), "run", address, *login, "--no-color", *options)
    done = subprocess.run(argv, cwd=place, env=environ, capture_output=True, text=True, timeout=LIMIT_S)
    return done.returncode, done.stdout + done.stderr


def test_nothing_that_is_sent_finds_a_fault(tmp_path: Path) -> None:
    code, report = report_on(tmp_path, "--max-examples", "15")
    assert code == 0, report[-MOST_SHOWN:]
    assert "Tested: 13" in report


LINKS = ("--phases", "stateful", "--include-path-regex", "^/v1/responses")


def test_kept_responses_are_there_until_they_are_deleted(tmp_path: Path) -> None:
    code, report = report_on(tmp_path, *LINKS, "--max-examples", "12")
    assert code == 0, report[-MOST_SHOWN:]
    assert "4 covered / 4 selected" in report


def test_a_response_that_is_not_kept_is_found(tmp_path: Path) -> None:
    code, report = report_on(
        tmp_path, *LINKS, "--max-examples", "12", application="tests.webui.faulty_site:forgetful_site()"
    )
    assert code == 1, report[-MOST_SHOWN:]
    assert "Created resource not found" in report.partition("Failures:")[2]


def test_planted_faults_are_found(tmp_path: Path) -> None:
    chat_alone = ("--phases", "fuzzing", "--include-path", "/v1/chat/completions", "--max-examples", "30")
    application = "tests.webui.faulty_site:site()"
    code, report = report_on(tmp_path, *chat_alone, "--continue-on-failure", application=application)
    assert code == 1, report[-MOST_SHOWN:]
    found = report.partition("Failures:")[2]
    for fault in ("Response violates schema", "Undocumented status code", "what_fits_the_schema", "Server error"):
        assert fault in found, found[-MOST_SHOWN:]
