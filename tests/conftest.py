"""Fixtures for every test, and `require`, by which a test says what it needs from the host. If that is missing, the
test is skipped with the reason; with REQUIRE_ALL=1 it fails.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.unprivileged import open_the_way, own_temporary_directory

if TYPE_CHECKING:
    from playwright.sync_api import Browser


_TEMPORARY = own_temporary_directory()
WAY_IS_OPEN = open_the_way()  # before any thread or program is started

# `pytest --fast` (`make check`) leaves these out: every test that starts the appliance, a browser or a compiler, runs a
# model, or takes more than about two seconds. A new file is part of the fast tests until it is named here.
SLOW = (
    "appliance/isolation",
    "attacks",
    "browser",
    "gpu",
    "scenarios",
    "appliance/audit/test_audit_cli.py",
    "appliance/audit/test_checkpoint.py",
    "appliance/audit/test_erasure.py",
    "appliance/audit/test_evidence.py",
    "appliance/audit/test_extract.py",
    "appliance/audit/test_fts_pages.py",
    "appliance/audit/test_log.py",
    "appliance/audit/test_review.py",
    "appliance/audit/test_signer.py",
    "appliance/audit/test_upgrade.py",
    "appliance/audit/test_upgrade_interrupted.py",
    "appliance/audit/test_verify.py",
    "appliance/audit/test_word_check.py",
    "appliance/engine/test_engine_model.py",
    "appliance/engine/test_engine_process.py",
    "appliance/engine/test_harmony_grammar.py",
    "appliance/engine/test_harmony_malformed.py",
    "appliance/engine/test_harmony_parser.py",
    "appliance/engine/test_memory_plan.py",
    "appliance/engine/test_reuse.py",
    "appliance/engine/test_selftest.py",
    "appliance/kernels/test_amx_emulated.py",
    "appliance/kernels/test_attention.py",
    "appliance/kernels/test_kernels.py",
    "appliance/kernels/test_phases.py",
    "appliance/kernels/test_sanitized.py",
    "appliance/people/test_accounts.py",
    "appliance/test_certificates.py",
    "appliance/test_cli.py",
    "appliance/people/test_conversations.py",
    "appliance/database/test_database.py",
    "appliance/database/test_schema.py",
    "appliance/runtime/test_recorder.py",
    "appliance/test_serve_tls.py",
    "appliance/runtime/test_supervisor.py",
    "appliance/turns/test_run.py",
    "bundler/test_bundler_cli.py",
    "bundler/test_demo_model.py",
    "bundler/test_demo_model_corpus.py",
    "bundler/test_export.py",
    "bundler/test_graph.py",
    "bundler/test_known_answers.py",
    "bundler/test_parity.py",
    "bundler/test_tokenizer.py",
    "bundler/test_wheelhouse.py",
    "installer/test_install.py",
    "installer/test_owner.py",
    "webui/serving/test_worker.py",
    "webui/test_admin.py",
    "webui/test_api.py",
    "webui/test_api_client.py",
    "webui/test_api_engine.py",
    "webui/test_app.py",
    "webui/test_auth.py",
    "webui/test_chat.py",
    "webui/test_chat_turns.py",
    "webui/test_chat_turns_in_trouble.py",
    "webui/test_rendering.py",
    "webui/test_review.py",
    "webui/test_review_integrity.py",
    "webui/test_security.py",
)
TESTS = Path(__file__).parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fast", action="store_true", help="leave out what tests/conftest.py lists as slow")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """True leaves a path out; None asks the next hook."""
    is_slow = any(collection_path == TESTS / name for name in SLOW)
    return True if is_slow and config.getoption("--fast") else None


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Keep what failed, to be looked at."""
    if _TEMPORARY is not None and exitstatus == pytest.ExitCode.OK:
        shutil.rmtree(_TEMPORARY, ignore_errors=True)


def require(present: bool, what: str) -> None:
    """Skip the calling test for lack of `what`, or fail it under REQUIRE_ALL=1."""
    if present:
        return
    if os.environ.get("REQUIRE_ALL") == "1":
        pytest.fail(f"{what} is missing and REQUIRE_ALL=1 forbids to skip")
    pytest.skip(f"{what} is missing")


@pytest.fixture
def roomy_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of every disk is free, however full the machine is. tests/attacks/test_up_disk.py fills a real one."""
    blocks, files = 1 << 30, 1 << 20
    found = os.statvfs_result((4096, 4096, blocks, blocks // 2, blocks // 2, files, files, files, 0, 255))
    monkeypatch.setattr("os.statvfs", lambda path: found)


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of the browser."""
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    require(path is not None, "a Chromium browser")
    assert path is not None
    return path


@pytest.fixture(scope="session")
def browser(chromium: str) -> Iterator[Browser]:
    """One browser for all tests of this process; each test takes a context of its own."""
    from playwright.sync_api import sync_playwright  # a machine with a GPU need not have it

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-quic"])
        yield browser
        browser.close()
