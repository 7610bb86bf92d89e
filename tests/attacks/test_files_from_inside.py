"""Code inside a real web worker and a real engine, under the real supervisor, tries files that are not its own.

Each attempt of the attack on the running appliance that succeeded once is here, and its siblings. The same code run
outside, as the same user, does what it tries, which shows that it is the confinement that refuses.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import pytest

from appliance.isolation.landlock import TRUNCATE_ABI, landlock_abi
from tests.appliance.supervised import ENGINE, Site, supervised
from tests.conftest import require
from tests.unprivileged import PROJECT, SERVICE_UID

INTRUDER = Path(__file__).with_name("intruder.py")
SITE_PACKAGES = Path(sys.prefix, "lib", f"python{sys.version_info.major}.{sys.version_info.minor}", "site-packages")
REFUSED = {"EACCES", "EPERM", "ENOENT", "EXDEV", "EROFS"}

# The engine reports what it tried in its status, which the web asks for. The web tries on its own.
TRYING = """
import json, os, sys
sys.path.insert(0, {release!r})
from intruder import try_all
"""
ATTACKED_ENGINE = (
    TRYING + 'OUTCOMES = try_all(json.load(open("{release}/engine.json")))\n'
    'print("engine tried:", json.dumps(OUTCOMES), flush=True)\n'
)
ATTACKED_WEB = (
    TRYING + "def app(environ, start_response):\n"
    '    start_response("200 OK", [("Content-Type", "application/json")])\n'
    '    return [json.dumps(try_all(json.load(open("{release}/web.json")))).encode()]\n'
)


@dataclass(frozen=True)
class Attacked:
    """The outcome of each attempt, inside and outside."""

    state: Path
    release: Path
    web: dict[str, str]
    engine: dict[str, str]
    outside: dict[str, str]


def host_attempts() -> list[list[str]]:
    """Attempts on the host, by any process."""
    return [
        ["write", "/proc/sys/kernel/core_pattern"], ["write", "/proc/sysrq-trigger"],
        ["write", "/proc/1/oom_score_adj"],
        ["make", "/etc/cron.d/gpt-oss"], ["make", "/var/spool/cron/gpt-oss"], ["make", "/tmp/gpt-oss-intruder"],
        ["make", "/dev/shm/gpt-oss-intruder"], ["make", "/var/tmp/gpt-oss-intruder"],
        ["write", "/dev/kmsg"], ["open", "/dev/kvm"], ["open", "/dev/userfaultfd"], ["open", "/dev/net/tun"],
        ["open", "/dev/ttyS0"], ["open", "/dev/tty"], ["open", "/dev/ptmx"], ["open", "/dev/fuse"],
        ["open", "/dev/mem"],
        ["look-into", "/dev/shm"], ["look-into", "/home"], ["look-into", "/proc"], ["look-into", "/"],
        ["read", "/etc/hosts"], ["read", f"/proc/{os.getpid()}/cmdline"], ["read", "/proc/1/environ"],
        ["execute", "/bin/true"], ["execute", "/bin/sh"], ["memory", str(os.getpid())],
    ]  # fmt: skip


def site_attempts(state: Path, release: Path) -> list[list[str]]:
    """Attempts on the site, by web and engine: neither signs, neither installs."""
    return [
        ["look-into", f"{state}/signer"], ["read", f"{state}/signer/audit.key"], ["write", f"{state}/signer/audit.key"],
        ["link", f"{state}/signer/audit.key"], ["remove", f"{state}/signer"], ["cut", f"{state}/signer/audit.key"],
        ["make", f"{state}/audit/checkpoint-2026-01-01.txt"], ["make", f"{state}/keys/audit.pub-"],
        ["make", f"{state}/trust/root.json"], ["write", f"{state}/trust/timestamp.json"], ["remove", f"{state}/trust"],
        ["write", f"{state}/config/appliance.toml"], ["cut", f"{state}/config/appliance.toml"],
        ["open-up", f"{state}/config/appliance.toml"], ["give-away", f"{state}/config/appliance.toml"],
        ["open-up", f"{state}/config"], ["remove", f"{state}/config"],
        ["make", f"{state}/packed/0.1.0"], ["write", f"{state}/supervisor.lock"],
        ["make", f"{state}/new"], ["symlink", f"{state}/database/link"], ["fifo", f"{state}/database/pipe"],
        ["make", f"{SITE_PACKAGES}/intruder.pth"], ["make", f"{SITE_PACKAGES}/sitecustomize.py"],
        ["make", f"{release}/intruder.pth"], ["write", f"{release}/release.json"],
        ["write", sys.executable], ["write", os.__file__], ["make", f"{PROJECT}/appliance/intruder.py"],
    ]  # fmt: skip


def engine_attempts(state: Path) -> list[list[str]]:
    """Attempts that the web is allowed and the engine is not."""
    return [
        ["look-into", f"{state}/database"], ["read", f"{state}/database/appliance.sqlite3"],
        ["write", f"{state}/database/appliance.sqlite3"], ["make", f"{state}/database/new"],
        ["look-into", f"{state}/keys"], ["look-into", f"{state}/audit"], ["make", f"{state}/tmp/web/new"],
    ]  # fmt: skip


def prepare(home: Path) -> tuple[Path, Path]:
    """Put the attacked files, and the attacks, where each process can read them."""
    state, release = home / "state", home / "current"
    for name in ("signer/audit.key", "trust/timestamp.json", "config/appliance.toml", "database/appliance.sqlite3"):
        (state / name).parent.mkdir(parents=True, exist_ok=True)
        (state / name).write_text("")
    release.mkdir()
    common = [*host_attempts(), *site_attempts(state, release)]
    written = ["execute-written", f"{state}/tmp/web/script"]
    (release / "web.json").write_text(json.dumps([*common, written]))
    (release / "engine.json").write_text(json.dumps([*common, *engine_attempts(state)]))
    (release / "intruder.py").write_bytes(INTRUDER.read_bytes())
    (release / "attackedweb.py").write_text(ATTACKED_WEB.format(release=str(release)))
    return state, release


def tried_by_web(site: Site) -> dict[str, str]:
    with urllib.request.urlopen(site.url, timeout=30) as answer:  # noqa: S310
        found: dict[str, str] = json.load(answer)
    return found


def tried_outside(state: Path, release: Path) -> dict[str, str]:
    """The engine's attempts by an unconfined process of the same user, after the appliance has ended."""
    code = f"import json, sys; sys.path.insert(0, {str(release)!r})\nfrom intruder import try_all\n"
    code += f"print(json.dumps(try_all(json.load(open({str(release / 'engine.json')!r})))))"
    user = {"user": SERVICE_UID, "group": SERVICE_UID, "extra_groups": ()} if os.geteuid() == 0 else {}
    done = subprocess.run(
        [sys.executable, "-B", "-c", code], capture_output=True, text=True, check=True,
        env={"TMPDIR": str(state / "tmp" / "web")}, cwd="/", **user,  # type: ignore[call-overload]
    )  # fmt: skip
    found: dict[str, str] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Attacked:
    require(landlock_abi() >= TRUNCATE_ABI, "Landlock, ABI 3")
    home = tmp_path_factory.mktemp("attacked")
    state, release = prepare(home)
    engine = ATTACKED_ENGINE.format(release=str(release)) + ENGINE
    with supervised(home, engine=engine, web="attackedweb:app") as site:
        web = tried_by_web(site)
        by_engine = json.loads(site.wait_for(r"engine tried: (\{.*\})"))
    return Attacked(state, release, web, by_engine, tried_outside(state, release))


@pytest.mark.parametrize("who", ["web", "engine"])
def test_nothing_of_the_host_or_of_others_is_reached(attacked: Attacked, who: str) -> None:
    outcomes = attacked.web if who == "web" else attacked.engine
    assert len(outcomes) >= len(host_attempts()) + len(site_attempts(attacked.state, attacked.release))
    assert {attempt: told for attempt, told in outcomes.items() if told not in REFUSED} == {}


def test_a_file_that_was_written_cannot_be_executed(attacked: Attacked) -> None:
    assert attacked.web[f"execute-written {attacked.state}/tmp/web/script"] in ("EACCES", "EPERM")


def test_the_same_attempts_unconfined_succeed(attacked: Attacked) -> None:
    """So neither a missing file nor a file's mode makes the refusals above."""
    state = attacked.state
    succeeding = {
        f"open-up {state}/config/appliance.toml", f"open-up {state}/config",
        f"give-away {state}/config/appliance.toml",
        f"read {state}/signer/audit.key", f"write {state}/signer/audit.key", f"look-into {state}/signer",
        f"remove {state}/signer", f"make {state}/trust/root.json", f"write {state}/trust/timestamp.json",
        f"write {state}/config/appliance.toml", f"cut {state}/config/appliance.toml", f"make {state}/packed/0.1.0",
        f"write {state}/database/appliance.sqlite3", f"make {state}/database/new", f"symlink {state}/database/link",
        f"link {state}/signer/audit.key", "make /tmp/gpt-oss-intruder", "read /etc/hosts", "execute /bin/true",
        "execute /bin/sh", "look-into /proc", "look-into /home",
    }  # fmt: skip
    assert {attempt for attempt in succeeding if attacked.outside[attempt] != "done"} == set()
