"""A real model with rings, snapshots and copied beginnings gives the tokens that a fresh model gives."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, cast

import pytest

from appliance.engine.harmony import Vocabulary
from appliance.engine.jobs import Job
from appliance.engine.model.base import OnnxModel
from appliance.engine.scheduler import Scheduler
from appliance.engine.steps import Append
from appliance.turns.events import Done, EngineEvent
from appliance.turns.request import Message, TurnRequest

NewModel = Callable[..., OnnxModel]
CONTEXT = 1000  # more than three rings of 320
VOCAB = 1000


def greedy(model: OnnxModel, prompt: list[int], count: int) -> tuple[int, ...]:
    """The continuation of a prompt that nothing came before."""
    tokens = [int(model.prefill_prompt(0, prompt).ids[0])]
    while len(tokens) < count:
        (top,) = model.decode([Append(0, tokens[-1], len(prompt) + len(tokens) - 1)])
        tokens.append(int(top.ids[0]))
    return tuple(tokens)


def test_what_full_conversations_hold_beside_the_caches_is_counted(new_model: NewModel, vocabulary: Vocabulary) -> None:
    """Snapshots grow with a conversation; the plan of memory counts as many as there can be."""
    model = new_model(slots=2, context_tokens=CONTEXT)
    scheduler, rng = Scheduler(model, vocabulary, queue_limit=10), random.Random(1)
    for number in range(6):
        prompt = [rng.randrange(VOCAB) for _ in range(CONTEXT - 10 - number)]
        request = TurnRequest(id=str(number), user=f"user-{number}", messages=(Message("user", "x"),), seed=1)
        scheduler.submit(Job(request, prompt, lambda _: None, 61))
    while scheduler.step():
        pass
    for slot in scheduler._slots.slots:
        held = sum(part.nbytes for snapshot in slot.snapshots for part in cast("list[Any]", snapshot.saved))
        assert 0 < held <= model.shape.cache.snapshots_bytes(CONTEXT)
        assert len(slot.snapshots) == 2  # of the beginning that all share, and of the end


@pytest.mark.parametrize("seed", range(3))
def test_follow_ups_edits_and_shared_beginnings_give_what_a_fresh_model_gives(
    new_model: NewModel, vocabulary: Vocabulary, seed: int
) -> None:
    rng = random.Random(seed)
    model, fresh = new_model(slots=3, context_tokens=CONTEXT), new_model(slots=1, context_tokens=CONTEXT)
    scheduler = Scheduler(model, vocabulary, queue_limit=100)
    system = [rng.randrange(VOCAB) for _ in range(61)]
    conversations = {user: list(system) for user in ("ann", "bob")}
    asked: list[tuple[Job, list[EngineEvent]]] = []
    for number in range(24):
        user = rng.choice(list(conversations))
        past = conversations[user]
        if rng.random() < 0.25:  # an edit, or a new conversation
            del past[rng.choice([len(system), rng.randint(len(system), len(past))]) :]
        past += [rng.randrange(VOCAB) for _ in range(rng.choice([3, 40, 150]))]
        if len(past) > CONTEXT - 320:
            past[:] = system + past[-100:]
        request = TurnRequest(
            id=str(number), user=user, messages=(Message("user", "x"),), seed=1, temperature=0.0,
            max_tokens=rng.choice([1, 20, 300]),
        )  # fmt: skip
        events: list[EngineEvent] = []
        job = Job(request, list(past), events.append, len(system))
        scheduler.submit(job)
        asked.append((job, events))
        for _ in range(rng.choice([0, 5, 400])):
            scheduler.step()
    while scheduler.step():
        pass
    reused = 0
    for job, events in asked:
        done = events[-1]
        assert isinstance(done, Done)
        assert done.token_ids == greedy(fresh, job.prompt, len(done.token_ids)), job.request.id
        reused += done.cached_tokens
    assert reused > 61 * len(asked)  # more than the common beginning
