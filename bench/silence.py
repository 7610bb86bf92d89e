"""How much the filters cost: the processor time of the system calls of a decoded token and of a request, as a ratio
with and without the two filters of the program that makes them.

    python -m bench.silence [--calls 200000] [--rounds 7]

Each round measures both in new processes, one after the other, so that a busy machine slows both alike; the median of
the rounds counts. The numbers of calls come from strace with the demo model, for a token and for a page, rounded up.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import statistics
import time
from collections.abc import Callable

import click

from appliance.isolation.kernel import PR_SET_NO_NEW_PRIVS, prctl
from appliance.isolation.policy import Kind, call_policy
from appliance.isolation.seccomp import Refusal, install_filter

# The calls of one decoded token (engine) and of one page (web worker), without those that no filter slows noticeably.
PER_TOKEN = {"send": 1, "poll": 1, "write": 1}
PER_REQUEST = {"send": 3, "receive": 9, "poll": 8, "write": 2, "fcntl": 4, "ioctl": 6}
TOKEN_US, REQUEST_US = 5_000, 500  # assumed processor time of a fast model's token, and of a request for a small page


def calls() -> dict[str, Callable[[], object]]:
    """One call of each sort, on descriptors of its own."""
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    other.setblocking(False)
    null = os.open(os.devnull, os.O_RDWR)
    poll = select.epoll()

    def receive() -> None:
        with contextlib.suppress(BlockingIOError):
            other.recv(1, socket.MSG_DONTWAIT)

    return {
        "send": lambda: (one.send(b"x"), other.recv(1)),
        "receive": receive,
        "poll": lambda: poll.poll(0),
        "write": lambda: os.write(null, b"x"),
        "fcntl": lambda: os.get_inheritable(null),
        "ioctl": lambda: os.isatty(null),
    }


def nanoseconds(kind: Kind | None, count: int) -> dict[str, float]:
    """The processor time of each sort of call, in a child with the filters of `kind` or with none."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            sorts = calls()
            if kind is not None:
                prctl(PR_SET_NO_NEW_PRIVS, 1)
                install_filter(call_policy(Kind.SUPERVISOR), Refusal.TRACE)
                install_filter(call_policy(kind), Refusal.ERRNO)
            found = {}
            for name, call in sorts.items():
                began_s = time.process_time()
                for _ in range(count):
                    call()
                found[name] = (time.process_time() - began_s) / count * 1e9
            os.write(write_end, json.dumps(found).encode())
        finally:
            os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as stream:
        answer: dict[str, float] = json.loads(stream.read())
    os.waitpid(pid, 0)
    return answer


@click.command()
@click.option("--calls", "count", default=200_000, show_default=True, help="Calls of each sort in each round.")
@click.option("--rounds", default=7, show_default=True, help="More rounds take longer and vary less.")
def main(count: int, rounds: int) -> None:
    """Print the time of each sort of call, and what the filters add to a token and to a request."""
    for kind, per, unit, us in (
        (Kind.ENGINE_CPU, PER_TOKEN, "token", TOKEN_US), (Kind.WEB, PER_REQUEST, "request", REQUEST_US),
    ):  # fmt: skip
        bare, filtered = [], []
        for _ in range(rounds):
            bare.append(nanoseconds(None, count))
            filtered.append(nanoseconds(kind, count))
        added_ns = 0.0
        for name, times in per.items():
            without = statistics.median(found[name] for found in bare)
            within = statistics.median(found[name] for found in filtered)
            ratio = statistics.median(b[name] / a[name] for a, b in zip(bare, filtered, strict=True))
            added_ns += times * max(within - without, 0.0)
            click.echo(f"{kind:<10} {name:<8} {without:6.0f} ns alone, {within:6.0f} ns filtered, ratio {ratio:.3f}")
        click.echo(f"{kind:<10} adds {added_ns / 1000:.2f} us to a {unit} of {us} us: {added_ns / us / 10:.3f} %")


if __name__ == "__main__":
    main()
