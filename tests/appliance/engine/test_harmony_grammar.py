"""Under the grammar no header can be malformed, whatever the model tends to write."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import reduce

import numpy as np
import openai_harmony as oh
import pytest
from numpy.typing import NDArray

from appliance.engine.harmony import CALL, CHANNEL, CONSTRAIN, END, MESSAGE, RETURN, START, Vocabulary
from appliance.engine.harmony_grammar import HarmonyGrammar, HarmonyGrammars
from appliance.engine.harmony_header import read_header
from appliance.engine.jobs import Job
from appliance.engine.model.load import load_model
from appliance.engine.sampling import TopLogits
from appliance.engine.scheduler import Scheduler
from appliance.engine.token_mask import ListedTokens, State
from appliance.installed_release import InstalledRelease
from appliance.turns.events import Done, EngineEvent
from appliance.turns.request import Message, Tool, TurnRequest
from tests.appliance.engine.parsed_turn import Parsed, headers, unsound
from tests.appliance.engine.test_harmony_rules import ROWS, Row, one_by_one
from tests.fakes import FakeModel

FUNCTIONS = ("get_weather", "get", "get_weather_json", "n" * 64)
ODD_NAMES = ("functions", "function", "functions-", "functionfunction", "json", "json-", "final", "codecode")


@pytest.fixture(scope="module")
def grammar(vocabulary: Vocabulary) -> HarmonyGrammar:
    return HarmonyGrammar(vocabulary, FUNCTIONS)


def walk(grammar: HarmonyGrammar, tokens: Sequence[int]) -> int | None:
    """The position of the first token that the grammar forbids, or None if it takes them all."""
    state = grammar.start
    for place, token in enumerate(tokens):
        if not state.mask.permits(token):
            return place
        state = state.after(token)
    return None


def allowed(state: State) -> list[int]:
    mask = state.mask
    assert isinstance(mask, ListedTokens)
    assert not mask.excludes, "a text"
    return [int(token) for token in mask.ids]


SOUND = [
    "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>Four.<|return|>",
    "<|channel|>commentary<|message|>I look.<|end|><|start|>assistant<|channel|>final<|message|>Four.<|return|>",
    '<|channel|>final <|constrain|>json<|message|>{"ok":true}<|return|>',
    "<|channel|>commentary to=functions.get_weather<|message|>{}<|call|>",
    "<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{}<|call|>",
    "<|channel|>analysis to=functions.get<|message|>{}<|call|>",
    "<|channel|>analysis to=functions.get_weather_json<|message|>{}<|call|>",
    f"<|channel|>commentary to=functions.{'n' * 64} <|constrain|>json<|message|>" + "{}<|call|>",
    " to=functions.get_weather<|channel|>commentary <|constrain|>json<|message|>{}<|call|>",
    "<|channel|>analysis<|message|>.<|end|><|start|>assistant to=functions.get<|channel|>analysis<|message|>{}<|call|>",
]


@pytest.mark.parametrize("text", SOUND)
def test_sound_turns_are_allowed_however_they_are_cut_into_tokens(
    vocabulary: Vocabulary, grammar: HarmonyGrammar, text: str
) -> None:
    tokens = vocabulary.encoding.encode(text, allowed_special="all")
    for pieces in (tokens, one_by_one(vocabulary, tokens)):
        assert walk(grammar, pieces) is None
        assert not Parsed(vocabulary, pieces, functions=FUNCTIONS).parser.malformed


# A reader takes them for sound, but the grammar does not allow them: docs/decisions/0007.
_READ_ONLY = ("several finals", "parallel calls", "call on the analysis channel")


@pytest.mark.parametrize("row", ROWS, ids=[row.kind for row in ROWS])
def test_no_malformed_turn_of_the_page_is_allowed(vocabulary: Vocabulary, row: Row) -> None:
    tokens = vocabulary.encoding.encode(row.wrote, allowed_special="all")
    parsed = Parsed(vocabulary, tokens, functions=["get_weather"])
    wrong = walk(HarmonyGrammar(vocabulary, ["get_weather"]), tokens[: parsed.used])
    # Headers that are right; only the text is wrong, because its arguments are no JSON.
    is_allowed = not parsed.parser.malformed or row.kind == "arguments that are not JSON"
    assert (wrong is None) == (is_allowed and row.kind not in _READ_ONLY)


@pytest.mark.parametrize(
    "text",
    [
        "<|channel|>commentary to=functions.get_weath<|message|>",
        "<|channel|>commentary to=functions.get_weatherjson<|message|>",
        "<|channel|>commentary to=functions.rm<|message|>",
        "<|channel|>commentary to=browser.search<|message|>",
        "<|channel|>commentary to=functions.get_weather  <|message|>",
        "<|channel|>commentary to=functions.get_weather <|message|>",
        "<|channel|>commentary <|constrain|>json<|message|>",
        "<|channel|>final to=functions.get<|message|>",
        " to=functions.get<|channel|>final<|message|>",
        " to=functions.get<|channel|>commentary to=functions.get<|message|>",
        "<|channel|>analysis<|message|>Hm.<|return|>",
        "<|channel|>analysis<|message|>Hm.<|call|>",
        "<|channel|>commentary<|message|>Hm.<|return|>",
        "<|channel|>final<|message|>Hm.<|end|>",
        "<|channel|>commentary to=functions.get<|message|>{}<|end|>",
        "<|channel|>commentary to=functions.get<|message|>{}<|return|>",
        "<|channel|>analysis<|message|>Hm.<|end|><|start|>user",
        "<|channel|>analysis<|message|>Hm.<|end|>Hello",
        "<|channel|>final<|message|>Hm.<|endoftext|>",
        "<|channel|>final<|message|>Hm.<|reserved_200500|>",
        "<|channel|>final<|message|>Hm.<|start|>",
    ],
)
def test_the_last_token_of_these_is_forbidden(vocabulary: Vocabulary, grammar: HarmonyGrammar, text: str) -> None:
    tokens = vocabulary.encoding.encode(text, allowed_special="all")
    assert walk(grammar, tokens) is not None
    with pytest.raises(RuntimeError, match="internal error"):
        reduce(lambda state, token: state.after(token), tokens, grammar.start)


def test_without_functions_nothing_can_be_called(vocabulary: Vocabulary) -> None:
    start = HarmonyGrammar(vocabulary, ()).start
    assert allowed(start) == [CHANNEL]
    after_commentary = start.after(CHANNEL)
    for token in vocabulary.encode("commentary"):
        after_commentary = after_commentary.after(token)
    assert allowed(after_commentary) == [MESSAGE]


def test_a_name_that_begins_another_may_end_or_go_on(vocabulary: Vocabulary, grammar: HarmonyGrammar) -> None:
    state = grammar.start.after(CHANNEL)
    for token in vocabulary.encode("commentary to=functions.get"):
        state = state.after(token)
    ends = {vocabulary.token_bytes(token) or token for token in allowed(state)}
    assert ends >= {MESSAGE, b" ", b"_", b"_weather"}
    assert b"json" not in ends


def test_every_walk_that_the_grammar_allows_is_sound(vocabulary: Vocabulary, grammar: HarmonyGrammar) -> None:
    """At each place of a header take any permitted token at random. The library agrees that every turn is sound."""
    rng = random.Random(5)
    for _ in range(300):
        tokens, parsed = _walk_at_random(grammar, rng, vocabulary)
        assert not parsed.parser.malformed, vocabulary.encoding.decode(tokens)
        assert parsed.parser.finished == ("tool_calls" if parsed.calls else "stop")
        messages = vocabulary.encoding.parse_messages_from_completion_tokens(tokens, oh.Role.ASSISTANT)
        assert parsed.answer == "\n\n".join(
            m.content[0].text for m in messages if m.channel != "analysis" and "functions." not in (m.recipient or "")
        )  # the library takes a final's content type for its recipient


def _walk_at_random(grammar: HarmonyGrammar, rng: random.Random, vocabulary: Vocabulary) -> tuple[list[int], Parsed]:
    state, tokens = grammar.start, []
    while True:
        if state.mask.is_open:  # a text
            ends = [token for token in (END, RETURN, CALL) if state.mask.permits(token)]
            new = [*vocabulary.encode('{"a": 1}' if CALL in ends else "It is so."), *ends]
        else:
            new = [rng.choice(allowed(state))]
        for token in new:
            state = state.after(token)
        tokens += new
        if tokens[-1] in (RETURN, CALL):
            return tokens, Parsed(vocabulary, tokens, functions=FUNCTIONS)


def test_a_sound_header_means_the_function_that_it_names() -> None:
    """This holds even if the name consists of words that are stripped from a malformed recipient."""
    for name in ODD_NAMES:
        called = f" to=functions.{name}"
        for segments in (["assistant", f"commentary{called}"], [f"assistant{called}", "analysis  json"]):
            header = read_header(segments, started=True, complete=True, functions=ODD_NAMES)
            assert (header.function, header.is_sound) == (name, True), segments


def test_grammars_are_kept_by_their_functions(vocabulary: Vocabulary) -> None:
    grammars = HarmonyGrammars(vocabulary)
    first = grammars.start(["f"])
    assert grammars.start(["f"]) is first
    assert grammars.start(["g"]) is not first
    for number in range(40):
        grammars.start([f"h{number}"])
    assert grammars.start(["f"]) is not first


VOCAB = 201_088
_TOP = 256


class NoisyModel(FakeModel):
    """Writes noise: at each step the logits of a row drawn at random. ``likely`` tokens are likely at every step."""

    def __init__(self, likely: Sequence[int], *, slots: int) -> None:
        super().__init__({}, slots=slots, capacity=512)
        rng = np.random.default_rng(3)
        rows = rng.standard_normal((16, VOCAB)).astype(np.float32) * 8  # so steep that the top logits decide
        rows[:, [*likely, START, CHANNEL, CONSTRAIN, MESSAGE, END, RETURN, CALL, 199_999, 200_500]] += 28
        self._rows = [_top(row) for row in rows]
        self._rng = rng

    def _next(self, slot: int, *, is_draft: bool = False) -> TopLogits:
        return self._rows[self._rng.integers(len(self._rows))]


def _top(row: NDArray[np.float32]) -> TopLogits:
    order = np.argsort(-row, kind="stable")[:_TOP]
    wide = row.astype(np.float64)
    logsumexp = float(np.log(np.exp(wide - wide.max()).sum()) + wide.max())
    return TopLogits(order, row[order], logsumexp, VOCAB, lambda: row)


def _turns(vocabulary: Vocabulary, *, grammar: bool, temperature: float) -> list[Done]:
    scheduler = Scheduler(NoisyModel(vocabulary.encode(" to"), slots=8), vocabulary, queue_limit=100)
    sent: list[EngineEvent] = []
    for seed in range(100):
        request = TurnRequest(
            id=f"t{seed}", user="ann", messages=(Message("user", "x"),), seed=seed, max_tokens=90,
            tools=tuple(Tool(name, "") for name in FUNCTIONS), temperature=temperature, grammar=grammar,
        )  # fmt: skip
        scheduler.submit(Job(request, vocabulary.encode(f"prompt {seed}"), sent.append))
    while scheduler.step():
        pass
    return [event for event in sent if isinstance(event, Done)]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_not_even_noise_makes_a_malformed_header(vocabulary: Vocabulary, temperature: float) -> None:
    turns = _turns(vocabulary, grammar=True, temperature=temperature)
    written = [header for done in turns for header in headers(vocabulary, done.token_ids)]
    assert len(turns) == 100
    assert len(written) >= 100
    assert unsound(written, FUNCTIONS) == []
    assert {done.finish_reason for done in turns} >= {"stop", "tool_calls"}


def test_without_the_grammar_the_same_noise_does(vocabulary: Vocabulary) -> None:
    turns = _turns(vocabulary, grammar=False, temperature=1.0)
    assert sum(done.malformed for done in turns) > 90


def test_a_real_model_of_random_weights_is_held_to_it(release: InstalledRelease, vocabulary: Vocabulary) -> None:
    """The permitted tokens are seldom among its largest logits, so complete rows are fetched from the graph."""
    model = load_model(release.graphs["cpu"], accelerator="cpu", slots=2, context_tokens=256)
    scheduler = Scheduler(model, vocabulary, queue_limit=10)
    sent: list[EngineEvent] = []
    for seed in range(4):
        request = TurnRequest(
            id=f"t{seed}", user="ann", messages=(Message("user", "x"),), seed=seed, max_tokens=40, grammar=True,
            tools=(Tool("get", ""),), temperature=1.0 if seed else 0.0,
        )  # fmt: skip
        scheduler.submit(Job(request, vocabulary.encode(f"prompt {seed}"), sent.append))
    while scheduler.step():
        pass
    written = [header for done in sent if isinstance(done, Done) for header in headers(vocabulary, done.token_ids)]
    assert len(written) >= 4
    assert unsound(written, ["get"]) == []
