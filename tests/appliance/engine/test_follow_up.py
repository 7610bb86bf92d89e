"""A follow-up of a long conversation computes only what is new, on a real model whose windowed layers are rings."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from appliance.engine.harmony import Vocabulary
from appliance.engine.jobs import Job
from appliance.engine.model.base import OnnxModel
from appliance.engine.model.load import load_model
from appliance.engine.sampling import TopLogits
from appliance.engine.scheduler import Scheduler
from appliance.engine.snapshots import Snapshot
from appliance.engine.steps import Append, Chunk
from appliance.turns.events import Done, EngineEvent
from appliance.turns.request import Message, TurnRequest
from tests.appliance.engine.conftest import export_random
from tests.appliance.engine.test_reuse import greedy

CONTEXT, PROMPT, VOCAB = 4096, 3000, 1000


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_random(tmp_path_factory.mktemp("long"), vocab=VOCAB, seed=1, context=CONTEXT)


class Counting:
    """A model that counts the tokens of prompts that it computes."""

    def __init__(self, model: OnnxModel) -> None:
        self._model = model
        self.slots, self.capacity, self.windows = model.slots, model.capacity, model.windows
        self.mixes, self.copies, self.takes_drafts = model.mixes, model.copies, model.takes_drafts
        self.arithmetic, self.cache_bytes = model.arithmetic, model.cache_bytes
        self.computed = 0

    def slot_bytes(self, held: int) -> int:
        return self._model.slot_bytes(held)

    def give_back(self, slot: int, kept: int) -> None:
        self._model.give_back(slot, kept)

    def plan_chunk(self, past: int, length: int, most: int | None = None) -> range:
        return self._model.plan_chunk(past, length, most)

    def prefill(self, slot: int, tokens: Sequence[int], past: int, *, want_logits: bool) -> TopLogits | None:
        self.computed += len(tokens)
        return self._model.prefill(slot, tokens, past, want_logits=want_logits)

    def decode(self, appends: Sequence[Append]) -> list[TopLogits]:
        return self._model.decode(appends)

    def step(self, appends: Sequence[Append], chunk: Chunk | None) -> tuple[list[TopLogits], TopLogits | None]:
        self.computed += len(chunk.tokens) if chunk is not None else 0
        return self._model.step(appends, chunk)

    def take_snapshot(self, slot: int, first: int, end: int) -> Snapshot:
        return self._model.take_snapshot(slot, first, end)

    def copy_prefix(self, source: int, target: int, length: int, snapshot: Snapshot | None) -> None:
        self._model.copy_prefix(source, target, length, snapshot)


class Conversation:
    """Turns of one user."""

    def __init__(self, graph: Path, vocabulary: Vocabulary, *, drafts: bool) -> None:
        self.model = Counting(load_model(graph, accelerator="cpu", slots=2, context_tokens=CONTEXT))
        self._graph = graph
        self.drafts = drafts
        self.scheduler = Scheduler(self.model, vocabulary, queue_limit=9, drafts=drafts, clock=lambda: 0.0)
        rng = random.Random(1)
        lines = [[rng.randrange(VOCAB) for _ in range(12)] for _ in range(5)]  # repeated, so that there are drafts
        self.prompt = [token for _ in range(PROMPT // 12) for token in rng.choice(lines)]

    def turn(self, prompt: Sequence[int], answer_tokens: int) -> tuple[list[int], int]:
        """The answer to a prompt, and how many tokens of the prompt were computed."""
        events: list[EngineEvent] = []
        request = TurnRequest(
            id="turn", user="ann", messages=(Message("user", "x"),), seed=1, temperature=0.0, max_tokens=answer_tokens
        )
        before = self.model.computed
        self.scheduler.submit(Job(request, list(prompt), events.append, 61))
        while self.scheduler.step():
            pass
        (done,) = (event for event in events if isinstance(event, Done))
        computed = self.model.computed - before
        assert computed == len(prompt) - done.cached_tokens
        return list(done.token_ids), computed

    def fresh_answer(self, prompt: Sequence[int], answer_tokens: int) -> list[int]:
        """What a model answers that has seen nothing before."""
        fresh = load_model(self._graph, accelerator="cpu", slots=1, context_tokens=CONTEXT)
        return list(greedy(fresh, list(prompt), answer_tokens))


def line(number: int, tokens: int = 12) -> list[int]:
    return [random.Random(number).randrange(VOCAB) for _ in range(tokens)]


@pytest.fixture(params=[False, True], ids=["no drafts", "drafts"])
def conversation(graph: Path, vocabulary: Vocabulary, request: pytest.FixtureRequest) -> Conversation:
    made = Conversation(graph, vocabulary, drafts=request.param)
    assert made.model.windows is not None
    assert made.model.windows.ring < PROMPT / 7
    return made


def test_a_follow_up_computes_its_line_and_the_last_token_of_the_answer(conversation: Conversation) -> None:
    """An answer's last token was drawn, and nothing was computed with it yet."""
    answer, computed = conversation.turn(conversation.prompt, 60)
    assert computed == PROMPT
    prompt = conversation.prompt + answer
    for number in range(3):
        prompt += line(number)
        answer, computed = conversation.turn(prompt, 40)
        assert computed == 1 + 12
        last, prompt = prompt, prompt + answer
    assert answer == conversation.fresh_answer(last, 40)
    assert bool(conversation.scheduler.drafting.accepted) == conversation.drafts


@pytest.mark.parametrize("reasoning", [40, 500])
def test_what_was_reasoned_is_left_out_and_only_the_answer_after_it_is_computed_again(
    conversation: Conversation, reasoning: int
) -> None:
    """Harmony leaves out the reasoning of earlier turns. 500 tokens of it overwrite the rings, and snapshots remain."""
    said, _ = conversation.turn(conversation.prompt, reasoning + 20)
    final = said[reasoning:]
    assert final[0] != said[0]
    prompt = conversation.prompt + final + line(1)
    answer, computed = conversation.turn(prompt, 20)
    assert computed == len(final) + 12
    assert answer == conversation.fresh_answer(prompt, 20)


def test_a_turn_of_a_tool_computes_its_result_and_the_follow_up_its_line(conversation: Conversation) -> None:
    call, _ = conversation.turn(conversation.prompt, 300)
    prompt = conversation.prompt + call + line(1, 150)  # a tool's result, longer than the window of 16
    answer, computed = conversation.turn(prompt, 40)
    assert computed == 1 + 150
    prompt += answer + line(2)
    answer, computed = conversation.turn(prompt, 20)
    assert computed == 1 + 12
    assert answer == conversation.fresh_answer(prompt, 20)


def test_another_conversation_in_between_costs_the_follow_up_nothing(conversation: Conversation) -> None:
    answer, _ = conversation.turn(conversation.prompt, 60)
    _, computed = conversation.turn(line(7, 700), 30)
    assert computed == 700
    _, computed = conversation.turn(conversation.prompt + answer + line(1), 20)
    assert computed == 1 + 12
