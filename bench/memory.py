"""How much memory the appliance holds with default settings, within a limit, when every conversation is full.

    python -m bench.memory --shape 20b --limit-gb 16

The first start packs the model's weights. The second is within a control group of that limit (it needs a hierarchy of
control groups that it can write). Every slot is filled with a prompt of nearly the whole context. Printed are each
process's own memory, beside what is counted for it, and how fast a full slot decodes afterwards: weights that did not
stay in memory would be read from the disk then.
"""

from __future__ import annotations

import json
import os
import re
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import click

from appliance.config import Config
from appliance.engine.memory_needs import ENGINE_BYTES, cache_of
from bench.machine import descendants
from bench.random_model import packed_in, prepare
from bench.served import prepare_site, serving
from bundler.demo_model.words import common_words

_GROUPS = (("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max"))  # version 1, 2
_CHOSEN = re.compile(r"(\d+) conversations? of ([\d,]+) tokens\b.*")
_ROOM_TOKENS = 600  # left free in a slot: for what the appliance adds, the answer, and words of several tokens
_ANSWER_LIMIT_S = 3600.0


@contextmanager
def limited(limit_gb: float) -> Iterator[str]:
    """Put this process and its children into a control group with this limit; the value is its name."""
    root, name = next((root, name) for root, name in _GROUPS if Path(root, name.split(".")[0] + ".stat").exists())
    group = Path(root, f"bench-memory-{os.getpid()}")
    group.mkdir()
    (group / name).write_text(str(int(limit_gb * 1e9)))
    (group / "cgroup.procs").write_text(str(os.getpid()))
    try:
        yield str(group)
    finally:
        Path(root, "cgroup.procs").write_text(str(os.getpid()))
        group.rmdir()


def own_bytes(pid: int) -> dict[str, int]:
    """The anonymous memory of a process and its descendants, by kind of process."""
    held: dict[str, int] = {}
    for one in {pid, *descendants(pid)}:
        status = dict(line.split(":", 1) for line in Path(f"/proc/{one}/status").read_text().splitlines())
        words = Path(f"/proc/{one}/cmdline").read_text()
        kind = next((name for name in ("engine", "recorder", "gunicorn") if name in words), "supervisor")
        held[kind] = held.get(kind, 0) + int(status["RssAnon"].split()[0]) * 1024
    return held


def ask(url: str, key: str, words: int, seed: int, max_tokens: int, model: str = "random") -> dict[str, Any]:
    """One conversation of so many words, and its answer."""
    known = common_words()
    text = " ".join(known[(seed + at * 7919) % len(known)] for at in range(words))
    body = {"model": model, "messages": [{"role": "user", "content": text}], "max_tokens": max_tokens}
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    data = json.dumps({**body, "temperature": 0, "seed": seed}).encode()
    request = urllib.request.Request(f"{url}/v1/chat/completions", data, headers)  # noqa: S310
    with urllib.request.urlopen(request, timeout=_ANSWER_LIMIT_S) as answer:  # noqa: S310
        result: dict[str, Any] = json.load(answer)
    return result


@click.command()
@click.option("--shape", default="20b", show_default=True)
@click.option("--limit-gb", type=float, help="Limit of a control group to start in, in units of 10^9 bytes.")
@click.option("--fill", type=click.FloatRange(0, 1), default=1.0, show_default=True, help="Share of each slot to fill.")
@click.option("--work", type=click.Path(path_type=Path, file_okay=False), default=Path(".bench"), show_default=True)
def main(shape: str, limit_gb: float | None, fill: float, work: Path) -> None:
    """Start with defaults, fill every slot and print what is held, as the module's docstring says."""
    graph = prepare(work, shape, "cpu", "int8")
    site = (work / f"{shape}-defaults-site").absolute()
    key = prepare_site(site, graph, work / f"{shape}-config.json", "cpu", "int8", 131_072)
    if not (packed_in(site) / "packed.json").exists():
        with serving(site):
            pass
    with ExitStack() as stack:
        if limit_gb is not None:
            _drop(site)
            click.echo(f"within {stack.enter_context(limited(limit_gb))}, {limit_gb:g} GB")
        started_s = time.perf_counter()
        pid, url = stack.enter_context(serving(site))
        click.echo(f"ready in {time.perf_counter() - started_s:.1f} s")
        chosen = _CHOSEN.search((site / "output").read_text())
        if chosen is None:
            raise RuntimeError(f"the engine does not say what it chose: {(site / 'output').read_text()}")
        click.echo(chosen[0])
        slots, tokens = int(chosen[1]), int(chosen[2].replace(",", ""))
        _fill(url, key, slots, int((tokens - _ROOM_TOKENS) * fill))
        held = own_bytes(pid)
        for kind, size in held.items():
            click.echo(f"{kind:12}{size / 1e9:8.2f} GB of its own")
        cache = cache_of(work / f"{shape}-config.json", "cpu", Config.cache)
        beside = slots * cache.snapshots_bytes(tokens)
        click.echo(f"{'counted':12}{(ENGINE_BYTES + beside) / 1e9:8.2f} GB for the engine, {beside / 1e9:.2f} of that")
        click.echo(f"{'':20} for snapshots, which the plan counts with the slots; caches are shared memory, not here")
        begun_s = time.perf_counter()
        usage = ask(url, key, 8, 99, 32)["usage"]
        tok_s = usage["completion_tokens"] / (time.perf_counter() - begun_s)
        click.echo(f"{tok_s:.1f} tok/s afterwards, with a prompt of 8 words")


def _drop(site: Path) -> None:
    """Make the kernel drop the weights, so that pages that are read next count in the control group."""
    for path in [*site.glob("state/packed/*/packed.bin"), *site.glob("releases/*/model/cpu/*")]:
        descriptor = os.open(path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def _fill(url: str, key: str, slots: int, words: int) -> None:
    """Fill every slot with a conversation of so many words."""

    def one(seed: int) -> None:
        usage = ask(url, key, words, seed, 8)["usage"]
        click.echo(f"conversation {seed}: {usage['prompt_tokens']:,} tokens prefilled")

    threads = [threading.Thread(target=one, args=(seed,)) for seed in range(slots)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main()
