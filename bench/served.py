"""The appliance with a benchmark's model, as a client sees it: time to ready, to the first byte, and its memory."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path

import numpy as np

from appliance.audit.log import AuditLog
from appliance.config import init_state
from appliance.database.transactions import open_database
from appliance.engine.harmony import Vocabulary, load_vocabulary, render_prompt
from appliance.turns.request import Message, TurnRequest
from bench.machine import peak_memory
from bench.random_model import VERSION
from bundler.demo_model.words import common_words
from bundler.tokenizer import published_vocabulary
from installer.formats.release import DESCRIPTOR, ModelCard, Release, Target, encode_release
from installer.formats.vocabulary import PATH as VOCABULARY
from tests.webui.served import add_user_with_key

_PROMPT_TOKENS = 127
_READY = "Appliance ready at "
_ANSWER_LIMIT_S = 900.0


def prepare_site(site: Path, graph: Path, config: Path, accelerator: str, dense: str, context_tokens: int) -> str:
    """Make a site with a release of the graph, whose files it shares; the value is a user's API key.

    If root makes it, it is served as nobody.
    """
    release = site / "releases" / VERSION
    shutil.rmtree(release, ignore_errors=True)
    shutil.rmtree(site / "state" / "database", ignore_errors=True)
    (release / "model").mkdir(parents=True)
    shutil.copytree(graph.parent, release / "model" / accelerator, copy_function=os.link)
    shutil.copy(config, release / "model" / "config.json")
    vocabulary = release / VOCABULARY
    vocabulary.parent.mkdir()
    vocabulary.write_bytes(published_vocabulary())
    described = Release(
        name="random", version=VERSION, accelerators=(accelerator,), dense=dense,
        graphs={accelerator: f"model/{accelerator}/{graph.name}"}, config="model/config.json",
        vocabulary=VOCABULARY, known_answers=None, target=Target(("3.11",), "any"),
        model=ModelCard("random", "Random", "Random weights.", context_tokens, (), None),
    )  # fmt: skip
    (release / DESCRIPTOR).write_bytes(encode_release(described))
    current = site / "current"
    current.unlink(missing_ok=True)
    current.symlink_to(f"releases/{VERSION}")
    init_state(site)
    database = open_database(f"sqlite:///{site}/state/database/appliance.sqlite3")
    key = add_user_with_key(AuditLog(database))
    database.close()
    if os.geteuid() == 0:  # the appliance never serves as root
        for path in (site / "state", *(site / "state").rglob("*")):
            shutil.chown(path, "nobody")
    return key


@contextmanager
def serving(site: Path, command: Path | None = None) -> Iterator[tuple[int, str]]:
    """Start the appliance. The value is its process and its address, when it is ready.

    Args:
        command: the appliance's command; None: this checkout's.
    """
    appliance = command or Path(sys.executable).with_name("appliance")
    program = [str(appliance), "serve", "--home", str(site), "--port", "0"]
    output = site / "output"
    with output.open("w") as stream:
        process = subprocess.Popen(program, stdout=stream, stderr=subprocess.STDOUT)
    try:
        while _READY not in output.read_text():
            if process.poll() is not None:
                raise RuntimeError(f"the appliance did not start:\n{output.read_text()}")
            time.sleep(0.01)
        yield process.pid, output.read_text().partition(_READY)[2].split()[0]
    finally:
        process.terminate()
        process.wait(timeout=60)


def measure_served(site: Path, key: str) -> list[tuple[str, float, str]]:
    """Start it twice, the second time with everything packed and in the page cache, then send requests."""
    with serving(site):
        pass
    started = time.perf_counter()
    with serving(site) as (pid, url), peak_memory(pid) as peak:
        ready_s = time.perf_counter() - started
        prompts = _prompts(site, 12)
        _first_byte_s(url, key, prompts[:1])
        one = min(_first_byte_s(url, key, [prompt]) for prompt in prompts[1:4])
        four = min(_first_byte_s(url, key, prompts[at : at + 4]) for at in (4, 8))
    return [
        ("ready_s", ready_s, "s from the command to ready, files in the page cache"),
        ("first_byte_s", one, f"s to the first token, {_PROMPT_TOKENS}-token prompt, through the API"),
        ("first_byte_x4_s", four, "s until each of 4 streams has its first token"),
        ("peak_rss_gb", peak[0] / 1e9, "GB held by engine, web, record and supervisor"),
    ]


def _prompts(site: Path, count: int) -> list[str]:
    """Texts with different beginnings whose complete prompts have the same length."""
    vocabulary = load_vocabulary(site / "current" / "tokenizer" / "o200k_base.tiktoken")
    rng, words = np.random.default_rng(5), common_words()
    texts: list[str] = []
    while len(texts) < count:
        text = " ".join(words[int(at)] for at in rng.integers(0, len(words), 150))
        while len(_rendered(vocabulary, text)) > _PROMPT_TOKENS:
            text = text.rpartition(" ")[0]
        if len(_rendered(vocabulary, text)) == _PROMPT_TOKENS:
            texts.append(text)
    return texts


def _rendered(vocabulary: Vocabulary, text: str) -> list[int]:
    request = TurnRequest(id="x", user="ada", messages=(Message("user", text),), seed=1)
    return render_prompt(vocabulary, request, today=date.today())


def _first_byte_s(url: str, key: str, prompts: list[str]) -> float:
    """Seconds until the one-token answers to all prompts are complete. All prompts are sent at once."""
    started = time.perf_counter()
    threads = [threading.Thread(target=_ask, args=(url, key, prompt)) for prompt in prompts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - started


def _ask(url: str, key: str, prompt: str) -> None:
    # Temperature 0: a random model's logits are so flat that a draw would need all of them, unlike a real model's.
    messages = [{"role": "user", "content": prompt}]
    body = {"model": "random", "messages": messages, "max_tokens": 1, "temperature": 0}
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    request = urllib.request.Request(f"{url}/v1/chat/completions", json.dumps(body).encode(), headers)  # noqa: S310
    with urllib.request.urlopen(request, timeout=_ANSWER_LIMIT_S) as answer:  # noqa: S310
        json.load(answer)
