"""Sixteen sessions on the memory of four long conversations, with a real model: what is computed, and what is held."""

from __future__ import annotations

import ctypes
import mmap
import random
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from appliance.engine.harmony import Vocabulary
from appliance.engine.jobs import Job
from appliance.engine.model.base import OnnxModel
from appliance.engine.model.load import load_model
from appliance.engine.scheduler import Scheduler
from appliance.turns.events import Done, EngineEvent
from appliance.turns.request import Message, TurnRequest
from tests.appliance.engine.conftest import export_random
from tests.appliance.engine.test_reuse import greedy

SESSIONS, TURNS, LONG, CONTEXT = 16, 3, 4, 6144  # the longest prompt of a session has a tenth of the context
VOCAB, PUBLIC, NEW, ANSWER = 1000, 61, 60, 8


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small graph with a longer context."""
    return export_random(tmp_path_factory.mktemp("sessions"), vocab=VOCAB, seed=1, context=8192)


def shared(graph: Path, *, slots: int = 64, long: int = LONG, context: int = CONTEXT) -> OnnxModel:
    """A model whose conversations share the memory of ``long`` long ones."""
    memory = long * load_model(graph, accelerator="cpu", slots=1, context_tokens=context).cache_bytes
    return load_model(graph, accelerator="cpu", slots=slots, context_tokens=context, cache_bytes=memory)


def shared_memory_bytes() -> int:
    """What this process holds of shared memory, the caches among it. RssShmem is the same, but only nearly right."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss_Shmem:"))


def cache_pages_bytes(model: OnnxModel) -> int:
    """The memory that the caches of a model hold, as the kernel counts their pages."""
    pages = 0
    for array in model._caches._arrays.values():
        resident = (ctypes.c_ubyte * (array.nbytes // mmap.PAGESIZE))()
        address = ctypes.c_void_p(array.ctypes.data)
        assert ctypes.CDLL(None).mincore(address, ctypes.c_size_t(array.nbytes), resident) == 0
        pages += sum(page & 1 for page in resident)
    return pages * mmap.PAGESIZE


@dataclass
class Sessions:
    """The conversations of several users, each with an answer of its own kept in its history, turn by turn."""

    scheduler: Scheduler
    rng: random.Random = field(default_factory=lambda: random.Random(1))
    prompts: dict[str, list[int]] = field(default_factory=dict)
    done: list[tuple[list[int], Done]] = field(default_factory=list)

    def ask(self, user: str, new: int = NEW, answer: int = ANSWER) -> Done:
        """The next turn of a user: what was asked and answered, and ``new`` more tokens."""
        prompt = self.prompts.setdefault(user, [7] * PUBLIC)
        prompt += [self.rng.randrange(VOCAB) for _ in range(new)]
        request = TurnRequest(
            id=f"{len(self.done)}", user=user, messages=(Message("user", "x"),), seed=1, temperature=0.0,
            max_tokens=answer,
        )  # fmt: skip
        events: list[EngineEvent] = []
        self.scheduler.submit(Job(request, list(prompt), events.append, PUBLIC))
        while self.scheduler.step():
            pass
        done = events[-1]
        assert isinstance(done, Done)
        self.done.append((list(prompt), done))
        prompt += done.token_ids
        return done


def interleaved(model: OnnxModel, vocabulary: Vocabulary) -> tuple[Sessions, list[int]]:
    """Every session's turns, one session after the other, and how many tokens each follow-up computed."""
    sessions = Sessions(Scheduler(model, vocabulary, queue_limit=100))
    computed: list[int] = []
    for turn in range(TURNS):
        for session in range(SESSIONS):
            done = sessions.ask(f"user {session}")
            computed += [done.prompt_tokens - done.cached_tokens] * (turn > 0)
    return sessions, computed


def test_every_follow_up_of_every_session_finds_its_prefix(graph: Path, vocabulary: Vocabulary) -> None:
    before, after = load_model(graph, accelerator="cpu", slots=LONG, context_tokens=CONTEXT), shared(graph)
    assert before.cache_bytes == after.cache_bytes
    # Four slots of their own: each session's turn takes the slot of one whose turn comes later.
    _, computed = interleaved(before, vocabulary)
    assert min(computed) >= NEW + ANSWER + NEW, "a follow-up found more than what everybody's prompt begins with"
    sessions, computed = interleaved(after, vocabulary)
    assert computed == [NEW + 1] * len(computed)  # the answer's last token was never computed
    fresh = load_model(graph, accelerator="cpu", slots=1, context_tokens=CONTEXT)
    for prompt, done in sessions.done[-SESSIONS:]:
        assert done.token_ids == greedy(fresh, prompt, ANSWER)


def test_caches_never_take_more_memory_than_they_may(graph: Path, vocabulary: Vocabulary) -> None:
    model, rng = shared(graph, long=1, context=2048), random.Random(2)
    sessions, most = Sessions(Scheduler(model, vocabulary, queue_limit=100)), 0
    for _ in range(40):
        user = f"user {rng.randrange(8)}"
        if len(sessions.prompts.get(user, ())) > 1000:
            del sessions.prompts[user]
        sessions.ask(user, new=rng.choice([10, 100, 800]), answer=rng.choice([1, 40]))
        most = max(most, cache_pages_bytes(model))
    # The rest is for snapshots, which are not in the caches: three of any conversation.
    snapshots = model.slot_bytes(1) - 3 * model.shape.cache.whole_pages(1) * 2 * 2 * 16 * 2
    assert 0.8 * (model.cache_bytes - snapshots) <= most <= model.cache_bytes - snapshots
    fresh = load_model(graph, accelerator="cpu", slots=1, context_tokens=CONTEXT)
    for prompt, done in sessions.done[-4:]:
        assert done.token_ids == greedy(fresh, prompt, len(done.token_ids))


@pytest.mark.parametrize("kept", [0, 1, 64, 65, 1000])
def test_memory_is_given_back_and_holds_zeros_afterwards(graph: Path, kept: int) -> None:
    model = shared(graph)
    for slot in (1, 2, 3):
        model.prefill_prompt(slot, [slot * 5] * 2000)
    filled, held = cache_pages_bytes(model), shared_memory_bytes()
    assert 3 * 2000 * 2 * 2 * 16 * 2 <= filled <= 3 * model.slot_bytes(2000)
    arrays = model._caches._arrays
    places = {name: min(2000, array.shape[2]) for name, array in arrays.items()}  # to read others would take memory
    before = {name: array[1:4, :, : places[name]].copy() for name, array in arrays.items()}
    model.give_back(2, kept)
    least = (2000 - kept - 128) * 2 * 2 * 16 * 2  # of the one layer that holds all positions
    assert cache_pages_bytes(model) <= filled - least
    assert shared_memory_bytes() <= held - least
    first = model.shape.cache.whole_pages(kept)
    for name, array in arrays.items():
        assert not array[2, :, first:].any(), "what was given back can still be read"
        after = array[1:4, :, : places[name]]
        np.testing.assert_array_equal(after[1, :, :kept], before[name][1, :, :kept])
        np.testing.assert_array_equal(after[[0, 2]], before[name][[0, 2]])


def test_nothing_of_what_gave_way_is_left_for_another_user(graph: Path, vocabulary: Vocabulary) -> None:
    """Ann's conversation is never asked for again, and Bob's needs all memory."""
    model = shared(graph, slots=8, long=1)
    sessions = Sessions(Scheduler(model, vocabulary, queue_limit=100))
    sessions.ask("ann", new=2000)
    (slot,) = [slot for slot in sessions.scheduler._slots.slots if slot.user == "ann"]
    arrays = model._caches._arrays
    assert all(array[slot.index].any() for array in arrays.values())
    assert sessions.ask("bob", new=CONTEXT - PUBLIC - ANSWER).cached_tokens == PUBLIC
    assert not slot.tokens
    assert not slot.snapshots
    assert not any(array[slot.index].any() for array in arrays.values())
