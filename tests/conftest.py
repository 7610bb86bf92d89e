"""Fixtures for every test, and `require`, by which a test says what it needs from the host. If that is missing, the
test is skipped with the reason; with REQUIRE_ALL=1 it fails.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.temporary import own_temporary_directory
from tests.unprivileged import open_the_way
from tests.waiting import HELD_S

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
    "clients",
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
    "bundler/test_adapter_parity.py",
    "bench/test_fullsize.py",
    "bundler/test_bundler_cli.py",
    "bundler/test_demo_model.py",
    "bundler/test_demo_model_corpus.py",
    "bundler/test_export.py",
    "bundler/test_graph.py",
    "bundler/test_known_answers.py",
    "bundler/test_parity.py",
    "bundler/test_passphrase_prompt.py",
    "bundler/test_sbom.py",
    "bundler/test_tokenizer.py",
    "bundler/test_tokens.py",
    "bundler/test_trust_commands.py",
    "bundler/test_wheelhouse.py",
    "installer/test_comparison.py",
    "installer/test_delta.py",
    "installer/test_earlier_sites.py",
    "installer/test_durability.py",
    "installer/test_install.py",
    "installer/test_keeper.py",
    "installer/test_media.py",
    "installer/test_output.py",
    "installer/test_owner.py",
    "installer/test_prefix.py",
    "installer/test_preflight.py",
    "installer/test_removal.py",
    "installer/test_repair.py",
    "installer/test_service.py",
    "installer/test_status.py",
    "installer/test_sticks.py",
    "installer/test_trust_site.py",
    "webui/serving/test_worker.py",
    "webui/test_admin.py",
    "webui/test_api.py",
    "webui/test_api_client.py",
    "webui/test_api_engine.py",
    "webui/test_app.py",
    "webui/test_auth.py",
    "webui/test_chat.py",
    "webui/test_converted_model.py",
    "webui/test_chat_turns.py",
    "webui/test_chat_turns_in_trouble.py",
    "webui/test_rendering.py",
    "webui/test_review.py",
    "webui/test_review_integrity.py",
    "webui/test_schemathesis.py",
    "webui/test_security.py",
)
# Files that take longest. They begin first, so that no worker still runs one when the others have nothing left. The
# first makes the demo. Others that need it do not stand directly behind it, because they would wait for it.
LONGEST = (
    "scenarios/test_operators_guide.py",
    "attacks/test_kills.py",
    "appliance/kernels/test_sanitized.py",
    "bundler/test_demo_model.py",
    "attacks/test_kills_leaving.py",
    "clients/test_clients.py",
    "scenarios/test_service.py",
    "scenarios/test_bare_hosts.py",
    "scenarios/test_damaged_site.py",
    "scenarios/test_leaving.py",
    "browser/test_browser.py",
    "attacks/test_clean_start.py",
    "bench/test_fullsize.py",
    "bundler/test_parity.py",
    "bundler/test_wheelhouse.py",
    "appliance/kernels/test_amx_emulated.py",
    "scenarios/test_whole_way.py",
    "appliance/engine/test_reuse.py",
    "attacks/test_strange_ends.py",
    "scenarios/test_proxies.py",
    "attacks/test_record_review.py",
    "browser/test_turns.py",
    "scenarios/test_silence.py",
    "appliance/runtime/test_supervisor.py",
    "scenarios/test_signals.py",
)
TESTS = Path(__file__).parent
MOST_WORKERS = 8  # each takes about a gigabyte


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """`-n auto`: one worker more than there are processors, because many tests wait for another process."""
    return min(len(os.sched_getaffinity(0)) + 1, MOST_WORKERS)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest files."""
    places = {TESTS / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path, len(places)))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fast", action="store_true", help="leave out what tests/conftest.py lists as slow")
    parser.addoption("--write-docs", action="store_true", help="write the tables that tests print into docs/")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """True leaves a path out; None asks the next hook."""
    is_slow = any(collection_path == TESTS / name for name in SLOW)
    return True if is_slow and config.getoption("--fast") else None


@pytest.hookimpl(trylast=True)  # when the workers have ended
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Keep what failed, to be looked at."""
    if _TEMPORARY is not None:
        _TEMPORARY.end(keep=exitstatus != pytest.ExitCode.OK)


def require(present: bool, what: str) -> None:
    """Skip the calling test for lack of `what`, or fail it under REQUIRE_ALL=1."""
    if present:
        return
    if os.environ.get("REQUIRE_ALL") == "1":
        pytest.fail(f"{what} is missing and REQUIRE_ALL=1 forbids skipping")
    pytest.skip(f"{what} is missing")


MakeOnce = Callable[[str, Callable[[Path], object]], Path]


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> MakeOnce:
    """``once(name, make)``: a directory that ``make`` fills once for all workers of this run. Do not write to it."""
    place = tmp_path_factory.getbasetemp()
    shared = place.parent if hasattr(pytestconfig, "workerinput") else place

    def made(name: str, make: Callable[[Path], object]) -> Path:
        directory = shared / name
        with (shared / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (shared / f"{name}.made").exists():
                directory.mkdir()  # exists if another worker's ``make`` failed, which then says why
                make(directory)
                (shared / f"{name}.made").touch()
        return directory

    return made


@pytest.fixture(scope="session")
def own_wheel(once: MakeOnce) -> Path:
    """This project's wheel, as `bundler build` makes it: compiling the operators takes half a minute."""
    from bundler.own_wheel import build_own_wheel  # not for every test

    (wheel,) = once("own-wheel", lambda directory: build_own_wheel(directory, dict(os.environ))).iterdir()
    return wheel


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
    from playwright.sync_api import expect, sync_playwright  # a machine with a GPU need not have it

    expect.set_options(timeout=HELD_S * 1000)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-quic"])
        yield browser
        browser.close()
