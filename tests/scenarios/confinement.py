"""A network of the test's own, sinks that notice every arrival, and the real supervisor. Run it in new namespaces:

    unshare --net python confinement.py OPTIONS        (--mount as well when root starts it for an ordinary user)

It prints one JSON object: what the unconfined probe reached, what arrived while the appliance answered a turn, and what
the probe reached under the supervisor. OPTIONS is a JSON object, see `Options`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import select
import signal
import socket
import sqlite3
import struct
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.appliance.supervised import ENGINE, supervised
from tests.scenarios.probe import OUTSIDE

_ETH_P_ALL, _PACKET_OUTGOING = 3, 4


@dataclasses.dataclass(frozen=True)
class Options:
    """``launcher`` precedes every command of the appliance and of the probe; ``python`` runs them.

    ``owner`` is the uid to whom root gives the state, for the appliance to leave root for; None: keep it as made.
    """

    directory: str
    release: str
    launcher: list[str]
    python: str
    leave_out: list[str]
    owner: int | None


class Sinks:
    """Listens on every address of this network by TCP, UDP and Unix sockets, and watches every packet on every link."""

    def __init__(self, directory: Path) -> None:
        self._arrived: list[str] = []
        self._ignored_ports: set[int] = set()
        first = socket.create_server(("127.0.0.1", 0))
        self.port = first.getsockname()[1]
        self._packets = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ETH_P_ALL))
        self._streams = {"tcp loopback": first}
        self._datagrams: dict[str, socket.socket] = {}
        for family, host, name in (
            (socket.AF_INET, "127.0.0.1", " loopback"),
            (socket.AF_INET, OUTSIDE, " outside"),
            (socket.AF_INET6, "::1", "6 loopback"),
        ):
            if host != "127.0.0.1":
                self._streams[f"tcp{name}"] = socket.create_server((host, self.port), family=family)
            self._datagrams[f"udp{name}"] = bound(family, socket.SOCK_DGRAM, (host, self.port))
        self._streams["unix path"] = listening(f"{directory}/stream")
        self._streams["unix abstract"] = listening(f"\0sink-{self.port}")
        self._datagrams["unix path datagram"] = bound(socket.AF_UNIX, socket.SOCK_DGRAM, f"{directory}/datagram")
        for name in ("stream", "datagram"):
            os.chmod(directory / name, 0o666)  # noqa: S103 - sinks are for everybody
        threading.Thread(target=self._watch, daemon=True).start()

    def ignore(self, port: int) -> None:
        """Ignore the appliance's own listener: people may come in."""
        self._ignored_ports.add(port)

    def take(self) -> list[str]:
        """What arrived since the last call, after a moment for what is still on its way."""
        time.sleep(0.3)
        arrived, self._arrived = self._arrived, []
        return sorted(set(arrived))

    def _watch(self) -> None:
        while True:
            sources = [self._packets, *self._streams.values(), *self._datagrams.values()]
            for ready in select.select(sources, [], [])[0]:
                self._arrived += self._received(ready)

    def _received(self, ready: socket.socket) -> list[str]:
        if ready is self._packets:
            data, (link, *_) = self._packets.recvfrom(2048)
            ports = ports_of(data)
            return [] if ports & self._ignored_ports else [f"packet on {link} to or from {sorted(ports)}"]
        for name, sock in self._streams.items():
            if sock is ready:
                sock.accept()[0].close()
                return [name]
        for name, sock in self._datagrams.items():
            if sock is ready:
                sock.recv(2048)
                return [name]
        raise RuntimeError("internal error: a socket that nobody made")


def bound(family: int, kind: int, address: tuple[str, int] | str) -> socket.socket:
    sock = socket.socket(family, kind)
    sock.bind(address)
    return sock


def listening(address: str) -> socket.socket:
    sock = bound(socket.AF_UNIX, socket.SOCK_STREAM, address)
    sock.listen()
    return sock


def ports_of(packet: bytes) -> set[int]:
    """Source and destination port of a TCP or UDP packet over IPv4 or IPv6; empty for others."""
    version = packet[0] >> 4
    if version == 4 and packet[9] in (6, 17):
        start = (packet[0] & 15) * 4
    elif version == 6 and packet[6] in (6, 17):
        start = 40
    else:
        return set()
    return set(struct.unpack_from("!HH", packet, start))


def make_network() -> None:
    """Set up loopback, and a link to nowhere that takes everything else. Turns off the kernel's own IPv6 chatter."""
    for command in (
        "ip link set lo up",
        "ip link add quiet0 type veth peer name quiet1",
        "sysctl -qw net.ipv6.conf.quiet0.disable_ipv6=1 net.ipv6.conf.quiet1.disable_ipv6=1",
        f"ip addr add {OUTSIDE}/24 dev quiet0",
        "ip link set quiet0 arp off up",
        "ip link set quiet1 arp off up",
        "ip route add default dev quiet0",
    ):
        subprocess.run(command.split(), check=True)


@contextmanager
def serving(options: Options, home: Path) -> Iterator[str]:
    """Run the real command on the site ``home``. Gives its address."""
    command = [*options.launcher, options.python, "-m", "appliance.cli", "serve", "--home", str(home), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        for line in process.stdout:
            print(line, end="", file=sys.stderr)
            if line.startswith("Appliance ready at "):
                yield line.split()[-1]
                return
        raise RuntimeError("the appliance did not start")
    finally:
        process.terminate()
        process.communicate(timeout=20)


def chat(options: Options, home: Path, url: str) -> str:
    """Take one turn through the API, with a key made beside the running appliance. Returns the finish reason."""
    make_key = """
import sys
from pathlib import Path
from appliance.people.account_store import AccountStore
from appliance.people.accounts import Accounts, Role
from appliance.audit.event import Actor
from appliance.audit.log import AuditLog
from appliance.config import load_config
from appliance.database.transactions import (open_database)
from appliance.people.api_keys import ApiKeys
database = open_database(load_config(Path(sys.argv[1])).database_url)
log, actor = AuditLog(database), Actor("", "test", "cli")
user = Accounts(AccountStore(log)).create_user("ann", None, [Role.USER], by=actor)
print(ApiKeys(database, log).create(user, "test", by=actor)[1])
"""
    made = [*options.launcher, options.python, "-c", make_key, str(home)]
    key = subprocess.run(made, capture_output=True, text=True, check=True).stdout.strip()
    body = {"model": "gpt-oss-random", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8}
    request = urllib.request.Request(  # noqa: S310
        f"{url}/v1/chat/completions",
        json.dumps(body).encode(),
        {"Authorization": f"Bearer {key}", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
        return str(json.load(answer)["choices"][0]["finish_reason"])


def attempts_in_record(home: Path) -> list[str]:
    """What the kernel refused to the appliance's own programs, which must be nothing."""
    with contextlib.closing(sqlite3.connect(home / "state" / "database" / "appliance.sqlite3")) as database:
        rows = database.execute("SELECT subject FROM audit_events WHERE action = 'attempt_refused'").fetchall()
    return [str(subject) for (subject,) in rows]


def new_site(options: Options, name: str) -> Path:
    home = Path(options.directory, name)
    subprocess.run([*options.launcher, "mkdir", home, home / "state"], check=True)
    if options.owner is not None:
        os.chown(home, options.owner, options.owner)
        os.chown(home / "state", options.owner, options.owner)
    return home


def run(options: Options) -> dict[str, Any]:
    make_network()
    directory = Path(options.directory)
    sinks = Sinks(directory)
    result: dict[str, Any] = {}
    probe = [str(Path(__file__).with_name("probe.py")), options.directory, str(sinks.port)]
    done = subprocess.run([*options.launcher, options.python, *probe], capture_output=True, text=True, check=True)
    result["unconfined"] = {"outcomes": json.loads(done.stdout), "arrived": sinks.take()}

    home = new_site(options, "site")
    subprocess.run([*options.launcher, "ln", "-s", options.release, home / "current"], check=True)
    with serving(options, home) as url:
        sinks.ignore(int(url.rpartition(":")[2]))
        sinks.take()
        result["chat"] = {"finish_reason": chat(options, home, url), "arrived": sinks.take()}
    result["attempts"] = attempts_in_record(home)

    probe_code = Path(__file__).with_name("probe.py").read_text().partition("if __name__")[0]
    engine = f"""{probe_code}
print("outcomes:", json.dumps(try_all({options.directory!r}, {sinks.port})), flush=True)
{ENGINE}"""
    home = new_site(options, "probed")
    launched = [*options.launcher, options.python]
    with supervised(home, launched=launched, engine=engine, leave_out=options.leave_out) as site:
        sinks.ignore(int(site.url.rpartition(":")[2]))
        # The proof of silence used loopback before the door was shut. Only what a new engine can do counts.
        first = site.ask()["engine"]
        sinks.take()
        os.kill(first, signal.SIGKILL)
        while site.ask()["engine"] == first:
            pass
        outcomes = json.loads(site.said().rpartition("outcomes:")[2].splitlines()[0])
        arrived, uid = sinks.take(), Path(f"/proc/{site.ask()['engine']}").stat().st_uid
        result["confined"] = {"outcomes": outcomes, "arrived": arrived, "said": site.said(), "uid": uid}
    return result


if __name__ == "__main__":
    with contextlib.redirect_stdout(sys.stderr):
        outcome = run(Options(**json.loads(sys.argv[1])))
    print(json.dumps(outcome))
