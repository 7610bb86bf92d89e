"""The server around a scheduler, in this process: what happens when a part of it fails, and which graph it chooses."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import get_args

import pytest

from appliance.config import Accelerator, CacheItem, Config
from appliance.engine import host, startup
from appliance.engine.client import EngineClient
from appliance.engine.harmony import Vocabulary, render_prompt
from appliance.engine.model import ModelError
from appliance.engine.scheduler import Scheduler
from appliance.engine.server import EngineServer
from appliance.engine.startup import choose_accelerator, load_engine, plan_engine
from appliance.installed_release import InstalledRelease
from appliance.turns.events import AnswerDelta, Done, EngineEvent, Failed, Waiting
from appliance.turns.request import Message, Tool, ToolCall, TurnRequest
from tests.fakes import FAKE_STATUS, FakeModel

TODAY = date(2026, 11, 23)
REQUEST = TurnRequest(id="t", user="u", messages=(Message("user", "Hello"),), seed=1)


class Served:
    """A server in a thread, over a model that answers REQUEST with ``reply``."""

    def __init__(self, vocabulary: Vocabulary, reply: str, today: Callable[[], date] = lambda: TODAY) -> None:
        tokens = vocabulary.encoding.encode(reply, allowed_special="all")
        prompt = tuple(render_prompt(vocabulary, REQUEST, today=TODAY))
        self.model = FakeModel({prompt: tokens}, slots=1, capacity=4096)
        self.web, bell = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.bell = bell
        scheduler = Scheduler(self.model, vocabulary, queue_limit=5)
        self.server = EngineServer(bell, scheduler, vocabulary, lambda: FAKE_STATUS, today=today)
        self.sound: bool | None = None
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        self.sound = self.server.run()

    def ask(self, request: TurnRequest = REQUEST) -> list[EngineEvent]:
        with EngineClient(self.web).turn(request) as events:
            return [event for event in events if not isinstance(event, Waiting)]

    def close(self) -> None:
        self.server.stop()
        self.thread.join(10)
        self.web.close()
        self.bell.close()


def test_a_turn_goes_all_the_way_and_the_server_ends_soundly(vocabulary: Vocabulary) -> None:
    served = Served(vocabulary, "<|channel|>final<|message|>Good morning.<|return|>")
    events = served.ask()
    assert EngineClient(served.web).status() == FAKE_STATUS
    served.close()
    assert "".join(e.text for e in events if isinstance(e, AnswerDelta)) == "Good morning."
    assert isinstance(events[-1], Done)
    assert served.sound is True


def test_what_costs_only_its_frames_is_refused_before_it_is_tokenised(vocabulary: Vocabulary) -> None:
    """A hundred thousand empty messages kept everybody else's turns waiting for half a minute."""

    def rendered() -> date:
        raise RuntimeError("the conversation was rendered")

    served = Served(vocabulary, "", today=rendered)
    call = ToolCall("c", "f", "{}")
    for many in (
        replace(REQUEST, messages=(Message("user", ""),) * 2000),
        replace(REQUEST, messages=(Message("user", "x"), Message("assistant", "", tool_calls=(call,) * 2000))),
        replace(REQUEST, tools=tuple(Tool(f"f{number}", "") for number in range(2000))),
    ):
        (refused,) = served.ask(many)
        assert isinstance(refused, Failed)
        assert refused.code == "context_exceeded"
    served.close()
    assert served.sound is True


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_failed_thread_ends_the_server_and_every_turn(vocabulary: Vocabulary) -> None:
    def broken() -> date:
        raise RuntimeError("no date today")

    served = Served(vocabulary, "", today=broken)
    last = served.ask()[-1]
    served.thread.join(10)
    assert not served.thread.is_alive()
    assert served.sound is False
    assert isinstance(last, Failed)
    assert last.code == "engine_stopped"
    served.close()


@pytest.mark.parametrize(
    ("wanted", "graphs", "has_gpu", "chosen"),
    [
        ("auto", ["cpu"], True, "cpu"),
        ("auto", ["cpu", "cuda"], True, "cuda"),
        ("auto", ["cpu", "cuda"], False, "cpu"),
        ("auto", ["cuda"], False, "cuda"),  # and loading says what is missing, because there is nothing to fall back to
        ("cpu", ["cpu", "cuda"], True, "cpu"),
        ("cuda", ["cpu", "cuda"], False, "cuda"),
        ("cuda", ["cpu"], True, None),
        ("cpu", ["cuda"], True, None),
    ],
)
def test_the_configured_graph_is_chosen_and_auto_looks_for_a_gpu(
    release: InstalledRelease, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    wanted: Accelerator, graphs: list[str], has_gpu: bool, chosen: str | None,
) -> None:  # fmt: skip
    monkeypatch.setattr(host, "CUDA_DEVICE", tmp_path if has_gpu else tmp_path / "none")
    config = Config(home=tmp_path, release_dir=release.path, database_url="sqlite://", accelerator=wanted)
    offered = replace(release, graphs={kind: tmp_path / kind for kind in graphs})
    if chosen is None:
        with pytest.raises(ModelError, match=f"no {wanted} graph"):
            choose_accelerator(config, offered)
    else:
        assert choose_accelerator(config, offered) == chosen


@pytest.mark.parametrize("cache", get_args(CacheItem))
def test_the_caches_hold_what_is_set(release: InstalledRelease, tmp_path: Path, cache: CacheItem) -> None:
    config = Config(
        home=tmp_path, release_dir=release.path, database_url="sqlite://", cache=cache, slots=1, context_tokens=256
    )
    assert load_engine(config)[1].shape.cache.item == cache


def test_a_model_without_harmonys_vocabulary_is_refused(
    release: InstalledRelease, small_graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(startup, "load_release", lambda _path: replace(release, graphs={"cpu": small_graph}))
    with pytest.raises(ModelError, match="1,000 tokens"):
        load_engine(Config(home=tmp_path, release_dir=release.path, database_url="sqlite://"))


def test_the_engine_shares_the_memory_of_the_conversations_that_were_planned(
    release: InstalledRelease, tmp_path: Path
) -> None:
    config = Config(home=tmp_path, release_dir=release.path, database_url="sqlite://", slots=4, context_tokens=1024)
    plan = plan_engine(config, release)
    _, model, vocabulary = load_engine(config)
    assert model.cache_bytes == plan.cache_bytes == 4 * model.slot_bytes(1024)
    assert model.slots == plan.sharing > 4
    assert Scheduler(model, vocabulary, queue_limit=1, streams=config.slots).most_streams == 4
