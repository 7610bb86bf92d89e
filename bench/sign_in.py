"""What a flood of wrong passwords leaves of the appliance: pages, a stream and memory, beside the same without a flood.
Also how long a stream goes on after its owner was disabled.

    python -m bench.sign_in [--seconds 5] [--strangers 32]

Each stranger has addresses of its own (127.x.y.z), takes another one for every attempt, and tries a name that does not
exist. The engine is a fake that writes a word every 20 ms. Prints one JSON object; times are milliseconds.
"""

from __future__ import annotations

import base64
import http.client
import json
import re
import secrets
import socket
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from statistics import quantiles
from urllib.parse import urlencode

import click
import psutil  # type: ignore[import-untyped]

from appliance.audit.event import Actor
from appliance.audit.log import AuditLog
from appliance.config import init_state
from appliance.database.transactions import open_database
from appliance.people.account_store import AccountStore
from appliance.people.accounts import Accounts
from appliance.turns.events import AnswerDelta, Started, TurnEvent
from appliance.turns.request import TurnRequest
from tests.fakes import FakeEngine, done
from tests.webui.served import add_user_with_key, gunicorn, write_release

WORD_S = 0.02
THREADS = 48  # the default of a worker


def words(request: TurnRequest) -> Iterable[TurnEvent]:
    yield Started(20, 0.0)
    for _ in range(100_000):
        time.sleep(WORD_S)
        yield AnswerDelta("word ")
    yield done()


def page_times_ms(port: int, seconds: float) -> list[float]:
    """Asks for the sign-in page again and again, and keeps the times."""
    times, deadline_s = [], time.monotonic() + seconds
    while time.monotonic() < deadline_s:
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
            begin_s = time.perf_counter()
            connection.request("GET", "/sign-in")
            connection.getresponse().read()
            times.append(1000 * (time.perf_counter() - begin_s))
    return times


class Stream:
    """A stream that is read throughout; ``gaps_ms`` are the times between its pieces."""

    def __init__(self, port: int, key: str) -> None:
        self.gaps_ms: list[float] = []
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        body = {"model": "gpt-oss-fake", "messages": [{"role": "user", "content": "Hi"}], "stream": True}
        headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        self._connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
        self._response = self._connection.getresponse()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def end_after_ms(self, change: Callable[[], object]) -> float:
        """How long the stream goes on after the change."""
        change()
        begin_s = time.perf_counter()
        self._thread.join(30)
        return round(1000 * (time.perf_counter() - begin_s), 1)

    def _read(self) -> None:
        last_s = time.perf_counter()
        while self._response.readline():
            now_s = time.perf_counter()
            self.gaps_ms.append(1000 * (now_s - last_s))
            last_s = now_s


@contextmanager
def flood(port: int, strangers: int) -> Iterator[Counter[int]]:
    """Send wrong passwords as fast as they are answered; the value counts the statuses."""
    statuses: Counter[int] = Counter()
    stop = threading.Event()
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
        connection.request("GET", "/sign-in")
        response = connection.getresponse()
        visit = (response.getheader("Set-Cookie") or "").partition(";")[0]
        token = re.search(r'csrf-token" content="([0-9a-f]{64})"', response.read().decode())
    if token is None:
        raise RuntimeError("the sign-in page has no form token")
    headers = {"Cookie": visit, "Content-Type": "application/x-www-form-urlencoded"}

    def attack(number: int) -> None:
        attempt = 0
        while not stop.is_set():
            attempt += 1
            source = (f"127.{1 + number}.{attempt // 250 % 250}.{1 + attempt % 250}", 0)
            form = {"name": secrets.token_hex(6), "password": "a wrong password", "csrf_token": token[1]}
            try:
                with closing(socket.create_connection(("127.0.0.1", port), 30, source)) as raw:
                    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
                    connection.sock = raw
                    connection.request("POST", "/sign-in", urlencode(form), headers)
                    statuses[_status_of(connection.getresponse())] += 1
            except OSError:
                statuses[0] += 1

    threads = [threading.Thread(target=attack, args=(number,), daemon=True) for number in range(strangers)]
    for thread in threads:
        thread.start()
    yield statuses
    stop.set()
    for thread in threads:
        thread.join(30)


def _status_of(answer: http.client.HTTPResponse) -> int:
    """The status of a refusal, which travels in a cookie to the page that shows it; else that of the answer."""
    refused = (answer.getheader("Set-Cookie") or "").partition(";")[0].partition("refused=")[2]
    return int(json.loads(base64.urlsafe_b64decode(refused))["status"]) if refused else answer.status


def summary(times_ms: list[float]) -> dict[str, float]:
    cuts = quantiles(times_ms, n=100)
    return {"p50": round(cuts[49], 1), "p99": round(cuts[98], 1)}


def memory_mib() -> float:
    """The memory of all processes that this one has started."""
    children = psutil.Process().children(recursive=True)
    return round(sum(int(child.memory_info().rss) for child in children) / 2**20, 1)


@click.command()
@click.option("--seconds", default=5.0, show_default=True, help="The length of each half.")
@click.option("--strangers", default=32, show_default=True, help="Connections that try passwords at once.")
def main(seconds: float, strangers: int) -> None:
    """Measure the pages and one stream, first without a flood, then with it."""
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        write_release(home / "release", "gpt-oss-fake")
        (home / "current").symlink_to("release")
        init_state(home)
        database = open_database(f"sqlite:///{home}/state/database/appliance.sqlite3")
        log = AuditLog(database)
        key = add_user_with_key(log)
        with FakeEngine(words) as engine, gunicorn(home, engine.doorbell, threads=THREADS) as port:
            stream = Stream(port, key)
            quiet, quiet_mib = page_times_ms(port, seconds), memory_mib()
            gaps, events = len(stream.gaps_ms), log.size()
            with flood(port, strangers) as statuses:
                flooded, flooded_mib = page_times_ms(port, seconds), memory_mib()
            accounts = Accounts(AccountStore(log))
            ada = accounts.find("ada")
            ended_ms = stream.end_after_ms(lambda: accounts.disable(ada.id, by=Actor("", "bench", "cli")))
            result = {
                "page_ms": {"quiet": summary(quiet), "flood": summary(flooded)},
                "stream_gap_ms": {"quiet": summary(stream.gaps_ms[10:gaps]), "flood": summary(stream.gaps_ms[gaps:])},
                "stream_after_disabling_ms": ended_ms,
                "memory_mib": {"quiet": quiet_mib, "flood": flooded_mib},
                "answers_per_s": {str(code): round(count / seconds, 1) for code, count in sorted(statuses.items())},
                "events_per_s": round((log.size() - events) / seconds, 1),
            }
        database.close()
    click.echo(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
