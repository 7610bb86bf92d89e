"""A network of the test's own, in which the real supervisor runs. Code inside its programs attacks, and a watch sees
every packet. Run it in a new network namespace:

    unshare --net python -m tests.attacks.attacked_network DIRECTORY

It prints one JSON object: what became of each try, and which of the attacker's marks a packet carried, for code that
runs unconfined and for code inside a web worker, an engine and a recorder, with every layer and with the filter alone.
"""

from __future__ import annotations

import contextlib
import json
import select
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from appliance.config import load_config
from appliance.database.tables import audit_contents, audit_events
from appliance.database.transactions import open_database
from tests.appliance.supervised import ENGINE, supervised
from tests.attacks import inside

_ETH_P_ALL = 3
MARKS = {
    "the attacker's address": socket.inet_pton(socket.AF_INET6, inside.ATTACKER),
    "the IPv4 group": socket.inet_aton(inside.GROUP4),
    "the IPv6 group": socket.inet_pton(socket.AF_INET6, inside.GROUP6),
    "the text": inside.TEXT,
}
_IMPORT = "import json, sys\nsys.path.insert(0, {release!r})\nfrom inside import attack, connections\n"
_WEB = (
    _IMPORT + "def app(environ, start_response):\n"
    "    outcomes = attack(connections()[-1])\n"
    "    start_response('200 OK', [('Content-Type', 'application/json')])\n"
    "    return [json.dumps(outcomes).encode()]\n"
)
_SAY = "print('{name} tried:', json.dumps(attack(None)), flush=True)\n"


class Watch:
    """Every packet on every link."""

    def __init__(self) -> None:
        self._packets = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ETH_P_ALL))

    def marks(self) -> list[str]:
        """The attacker's marks that packets carried since the last call."""
        found = set()
        while select.select([self._packets], [], [], 0.3)[0]:  # packets may still be on their way
            data = self._packets.recv(65536)
            found |= {name for name, mark in MARKS.items() if mark in data}
        return sorted(found)


def make_network() -> None:
    """Set up loopback, and a link to nowhere that takes everything else."""
    for command in (
        "ip link set lo up",
        "ip link add quiet0 type veth peer name quiet1",
        "ip link set quiet0 arp off up",
        "ip link set quiet1 arp off up",
        "ip addr add 198.51.100.1/24 dev quiet0",
        "ip -6 addr add fd00::1/64 dev quiet0 nodad",
        "ip route add default dev quiet0",
        "ip -6 route add default dev quiet0",
    ):
        subprocess.run(command.split(), check=True)


def unconfined(watch: Watch) -> dict[str, Any]:
    """What the same code does to an accepted connection in a process without any confinement."""
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as listener:
        client = socket.create_connection(listener.getsockname()[:2])
        accepted = listener.accept()[0]
        with client, accepted:
            watch.marks()
            outcomes = {}
            for name, attempt in inside.tries_on(accepted).items():
                try:
                    attempt()
                    outcomes[name] = "OPEN"
                except OSError as exc:
                    outcomes[name] = str(exc)
            return {"outcomes": outcomes, "marks": watch.marks()}


def attacked(home: Path, watch: Watch, leave_out: list[str]) -> dict[str, Any]:
    """Run the real supervisor with the attacker's code in each of its programs."""
    release = home / "current"
    release.mkdir(parents=True)
    shutil.copy(inside.__file__, release / "inside.py")
    (home / "state" / "config").mkdir(parents=True)
    (home / "state" / "config" / "appliance.toml").write_text('[listen]\nhost = "::1"\n')
    imports = _IMPORT.format(release=str(release))
    (release / "attacked.py").write_text(_WEB.format(release=str(release)))
    recorder = "from appliance.runtime.recorder import main\nmain()\n"
    options: dict[str, Any] = {
        "web": "attacked:app", "engine": imports + _SAY.format(name="engine") + ENGINE,
        "recorder": imports + _SAY.format(name="recorder") + recorder, "leave_out": leave_out,
    }  # fmt: skip
    with supervised(home, **options) as site:
        url = site.url
        watch.marks()  # the proof of silence used loopback
        with urllib.request.urlopen(url, timeout=30) as answer:  # noqa: S310
            web = json.load(answer)
        marks = watch.marks()
        tried = {name: json.loads(site.wait_for(f"{name} tried: (.*)")) for name in ("engine", "recorder")}
        events = wait_for_events(home, {"web", "engine-cpu", "recorder"})
        said = site.said()
    return {"web": web, **tried, "marks": marks, "events": events, "said": said}


def wait_for_events(home: Path, kinds: set[str]) -> list[dict[str, Any]]:
    """Return the record's events of refused attempts, once each kind has one for its last attempt."""
    events, contents = audit_events.c, audit_contents.c
    wanted = sa.select(events.subject, events.outcome, contents.text, contents.details)
    wanted = wanted.join(audit_contents, contents.sequence == events.sequence).where(events.action == "attempt_refused")
    deadline_s = time.monotonic() + 20
    database = open_database(load_config(home).database_url)
    with contextlib.closing(database):
        while True:
            with database.read() as connection:
                rows = connection.execute(wanted).all()
            last = {row.subject.partition(":")[0] for row in rows if row.subject.endswith(": call 400")}
            if last >= kinds or time.monotonic() > deadline_s:
                return [
                    {"subject": row.subject, "outcome": row.outcome, "text": row.text, **json.loads(row.details)}
                    for row in rows
                ]
            time.sleep(0.1)


def main(directory: Path) -> None:
    make_network()
    watch = Watch()
    result = {"unconfined": unconfined(watch)}
    hosts: dict[str, list[str]] = {"every layer": [], "filter alone": ["namespace", "landlock"]}
    for name, leave_out in hosts.items():
        result[name] = attacked(directory / name.replace(" ", "-"), watch, leave_out)
    print(json.dumps(result))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
