"""An answer is held to its schema, and a call that must be made is made, whatever the model tends to write."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from appliance.engine.constraint import Constraint, constraint_of
from appliance.engine.harmony import CALL, END, MESSAGE, RETURN, Vocabulary
from appliance.engine.harmony_grammar import HarmonyGrammar, HarmonyGrammars
from appliance.engine.jobs import Job
from appliance.engine.json_schema import SchemaError
from appliance.engine.model.load import load_model
from appliance.engine.request_limits import check_request
from appliance.engine.scheduler import Scheduler
from appliance.engine.steps import Model
from appliance.engine.wire import ProtocolError, decode, encode
from appliance.installed_release import InstalledRelease
from appliance.turns.answer import Answer
from appliance.turns.events import Done, EngineEvent, Failed
from appliance.turns.request import Message, Tool, TurnRequest
from appliance.turns.schemas import with_order
from tests.appliance.engine.parsed_turn import headers
from tests.appliance.engine.schema_walk import CLOSING, fits
from tests.appliance.engine.test_harmony_grammar import NoisyModel, walk
from tests.fakes import FakeModel

PLACE: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 8},
        "kind": {"enum": ["town", 'vill"age', "ключ", None]},
        "size": {"type": "integer", "minimum": -5, "maximum": 500},
        "seen": {"type": "array", "items": {"type": "boolean"}, "maxItems": 2},
    },
    "required": ["city", "kind", "size", "seen"],
    "additionalProperties": False,
}
DAY: dict[str, Any] = {
    "type": "object",
    "properties": {"day": {"enum": ["mon", "tue"]}},
    "required": ["day"],
    "maxProperties": 1,
}
NOTHING: dict[str, Any] = {"const": {}}
TOOLS = (Tool("at", "", PLACE), Tool("on", "", DAY), Tool("now", "", None))
ASKED = TurnRequest(id="t", user="ann", messages=(Message("user", "x"),), seed=0, max_tokens=150, grammar=True)


@dataclass
class Asked:
    """A turn that was run: the request and everything that was sent."""

    request: TurnRequest
    events: list[EngineEvent] = field(default_factory=list)

    @property
    def answer(self) -> Answer:
        answer = Answer()
        for event in self.events:
            answer.add(event, 0.0)
        return answer

    @property
    def end(self) -> Done | Failed:
        last = self.events[-1]
        assert isinstance(last, Done | Failed)
        return last

    @property
    def tokens(self) -> tuple[int, ...]:
        return self.end.token_ids if isinstance(self.end, Done) else ()

    @property
    def is_whole(self) -> bool:
        return isinstance(self.end, Done) and self.end.finish_reason != "length"


def run(model: Model, vocabulary: Vocabulary, requests: Sequence[TurnRequest], **settings: Any) -> list[Asked]:
    scheduler = Scheduler(model, vocabulary, queue_limit=100, clock=lambda: 0.0, **settings)
    turns = [Asked(request) for request in requests]
    for number, turn in enumerate(turns):
        scheduler.submit(Job(turn.request, vocabulary.encode(f"prompt {number}"), turn.events.append))
    while scheduler.step():
        pass
    return turns


def noise(vocabulary: Vocabulary) -> NoisyModel:
    closing = [token for text in CLOSING for token in vocabulary.encode(text)]
    return NoisyModel([*vocabulary.encode(" to"), *closing], slots=8)


def seeds(request: TurnRequest, count: int) -> list[TurnRequest]:
    """The request with many seeds, and temperatures from 0 to 2."""
    return [replace(request, id=f"t{n}", seed=n, temperature=n % 5 / 2) for n in range(count)]


@pytest.mark.parametrize("grammar", [True, False])
def test_an_answer_is_held_to_its_schema_whatever_the_model_writes(vocabulary: Vocabulary, grammar: bool) -> None:
    request = replace(ASKED, answer_schema=PLACE, grammar=grammar)
    turns = run(noise(vocabulary), vocabulary, seeds(request, 12))
    whole = [turn for turn in turns if turn.is_whole]
    assert len(whole) > 5
    for turn in whole:
        assert fits(json.loads(turn.answer.words.text), PLACE), turn.answer.words.text
    written = [header for turn in turns for header in headers(vocabulary, turn.tokens)]
    assert any("analysis" in header for header in written)


def test_without_a_schema_the_same_noise_fits_none(vocabulary: Vocabulary) -> None:
    turns = run(noise(vocabulary), vocabulary, seeds(ASKED, 4))
    assert not any(turn.answer.words.text.startswith("{") and turn.is_whole for turn in turns)


@pytest.mark.parametrize("names", [("at",), ("on", "now")])
def test_a_call_that_must_be_made_is_made_with_arguments_that_fit(
    vocabulary: Vocabulary, names: tuple[str, ...]
) -> None:
    request = replace(ASKED, tools=TOOLS, must_call=names)
    whole = [turn for turn in run(noise(vocabulary), vocabulary, seeds(request, 10)) if turn.is_whole]
    assert len(whole) > 4
    called, schemas = set(), {"at": PLACE, "on": DAY, "now": NOTHING}
    for turn in whole:
        (call,) = turn.answer.words.calls
        schema = schemas[call.name]
        assert fits(json.loads(call.arguments), schema), call
        called.add(call.name)
    assert called == set(names)


def test_only_the_calls_of_a_strict_function_are_held_to_its_schema_where_the_model_decides(
    vocabulary: Vocabulary,
) -> None:
    tools = (replace(TOOLS[0], strict=True), Tool("free", ""))
    turns = run(noise(vocabulary), vocabulary, seeds(replace(ASKED, tools=tools, max_tokens=60), 20))
    calls = [call for turn in turns if turn.is_whole for call in turn.answer.words.calls]
    held = [json.loads(call.arguments) for call in calls if call.name == "at"]
    assert len(held) > 1
    assert all(fits(value, PLACE) for value in held)
    free = [json.loads(call.arguments) for call in calls if call.name == "free"]
    assert all(isinstance(value, dict) for value in free)
    assert any(value for value in free)  # it takes no parameters


def test_drafts_change_nothing_of_a_held_answer(vocabulary: Vocabulary) -> None:
    line = '{"city":"Oslo","kind":"town","size":7,"seen":[true]}'
    text = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>"
    text += "[" + ",".join([line] * 6) + "]<|return|>"
    reply = vocabulary.encoding.encode(text, allowed_special="all")
    schema = with_order({"type": "array", "items": PLACE})
    known = {tuple(vocabulary.encode(f"prompt {number}")): reply for number in range(3)}
    request = replace(ASKED, answer_schema=schema, temperature=0.0)
    ends, steps = [], []
    for drafts in (False, True):
        model = FakeModel(known, slots=3, takes_drafts=True)
        turns = run(model, vocabulary, [replace(request, id=f"t{n}") for n in range(3)], drafts=drafts)
        ends.append([turn.tokens for turn in turns])
        assert all(turn.answer.words.text == "[" + ",".join([line] * 6) + "]" for turn in turns)
        steps.append(len(model.steps))
    assert ends[0] == ends[1] == [tuple(reply)] * 3
    assert steps[1] < steps[0]


@pytest.mark.parametrize("changes", [{"answer_schema": PLACE}, {"tools": TOOLS, "must_call": ("on",)}])
def test_a_real_model_of_random_weights_is_held_and_replayed(
    release: InstalledRelease, vocabulary: Vocabulary, changes: dict[str, Any]
) -> None:
    """What was recorded of a request is enough to say the same again, token for token."""
    request = replace(ASKED, max_tokens=60, **changes)
    requests = [replace(request, id=f"t{n}", seed=n, temperature=temperature) for n, temperature in enumerate((0, 2))]
    stored = [decode(encode(request)) for request in requests]
    ends = []
    for asked in (requests, [request for request in stored if isinstance(request, TurnRequest)]):
        model = load_model(release.graphs["cpu"], accelerator="cpu", slots=2, context_tokens=256)
        turns = run(model, vocabulary, asked)
        ends.append([turn.tokens for turn in turns])
        for turn in turns:
            written = turn.answer.words.calls[0].arguments if turn.answer.words.calls else turn.answer.words.text
            assert not turn.is_whole or fits(json.loads(written), DAY if turn.answer.words.calls else PLACE)
    assert ends[0] == ends[1]
    assert len(ends[0]) == 2


TURNS: list[tuple[dict[str, Any], str, bool]] = [
    ({"answer": True}, "<|channel|>final<|message|>{}<|return|>", True),
    ({"answer": True}, '<|channel|>final <|constrain|>json<|message|>{"a": 1}<|return|>', True),
    ({"answer": True}, "<|channel|>final<|message|><|return|>", False),
    ({"answer": True}, "<|channel|>final<|message|>{}\n<|return|>", False),
    ({"answer": True}, "<|channel|>final<|message|>Here: {}<|return|>", False),
    ({"answer": True}, "<|channel|>final<|message|>{}<|end|>", False),
    ({"answer": True}, "<|channel|>commentary<|message|>Hm.<|end|>", False),
    ({"answer": True}, "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>{}", True),
    ({"answer": True}, '<|channel|>commentary to=functions.f<|message|>{"any":[1]}<|call|>', True),
    ({}, '<|channel|>commentary to=functions.f <|constrain|>json<|message|>{"any":[1], "b": {}}<|call|>', True),
    ({}, "<|channel|>commentary to=functions.f<|message|>The result", False),
    ({}, "<|channel|>commentary to=functions.f<|message|>[1]", False),
    ({}, "<|channel|>commentary to=functions.f<|message|>{<|call|>", False),
    ({}, "<|channel|>commentary to=functions.f<|message|><|call|>", False),
    ({"grammar": False}, "<|channel|>commentary to=functions.f<|message|>The result<|call|>", True),
    ({"must_call": ("f",)}, "<|channel|>final<|message|>", False),
    ({"must_call": ("f",)}, "<|channel|>commentary to=functions.g<|message|>", False),
    ({"must_call": ("f",)}, " to=functions.g<|channel|>commentary<|message|>", False),
    ({"must_call": ("f",)}, "<|channel|>commentary<|message|>I look.<|end|><|start|>assistant", True),
    ({"must_call": ("f",)}, "<|channel|>commentary to=functions.f<|message|>{}<|call|>", True),
    ({"must_call": ("f",)}, " to=functions.f<|channel|>commentary <|constrain|>json<|message|>{}<|call|>", True),
    ({"must_call": ("f",)}, " to=functions.f<|channel|>analysis<|message|>[]", False),
    ({"strict": True}, "<|channel|>commentary to=functions.f<|message|>free", False),
    ({"strict": True}, '<|channel|>commentary to=functions.g<|message|>{"any":"text"}<|call|>', True),
    ({"strict": True}, "<|channel|>final<|message|>free<|return|>", True),
]


@pytest.mark.parametrize(("held", "text", "is_permitted"), TURNS)
def test_what_a_constraint_permits(vocabulary: Vocabulary, held: dict[str, Any], text: str, is_permitted: bool) -> None:
    strict, answer = held.get("strict", False), {"type": "object"} if held.get("answer") else None
    parameters = {"type": "object"}
    tools = (Tool("f", "", parameters, strict=strict), Tool("g", "", parameters))
    request = replace(
        ASKED, tools=tools, answer_schema=answer, must_call=held.get("must_call", ()), grammar=held.get("grammar", True)
    )
    grammar = HarmonyGrammar(vocabulary, ["f", "g"], constraint_of(request))
    stopped = walk(grammar, vocabulary.encoding.encode(text, allowed_special="all"))
    assert (stopped is None) == is_permitted


def test_a_schema_that_cannot_be_held_ends_the_turn_before_it_begins(vocabulary: Vocabulary) -> None:
    (turn,) = run(noise(vocabulary), vocabulary, [replace(ASKED, answer_schema={"not": {}})])
    assert turn.events == [
        Failed("bad_request", "The schema of the answer or of a call uses not, which cannot be held.")
    ]


def test_a_schema_that_becomes_too_complex_ends_its_turn_and_no_other(vocabulary: Vocabulary) -> None:
    complex_one = {"type": "string", "pattern": "^(.|..|...){1,500}x(y|z|.{20}){5}$"}
    requests = [replace(ASKED, id="a", answer_schema=complex_one), replace(ASKED, id="b", answer_schema=DAY)]
    failed, other = run(noise(vocabulary), vocabulary, requests)
    assert isinstance(failed.end, Failed)
    assert failed.end.code == "bad_request"
    assert "too complex" in failed.end.message
    assert other.is_whole


def test_a_grammar_is_compiled_once_for_the_same_constraint(vocabulary: Vocabulary) -> None:
    grammars = HarmonyGrammars(vocabulary)
    first = grammars.of(replace(ASKED, answer_schema=DAY))
    assert grammars.of(replace(ASKED, answer_schema=dict(DAY), seed=9)) is first
    assert grammars.of(replace(ASKED, answer_schema={"type": "object"})) is not first
    assert grammars.of(replace(ASKED, grammar=False)) is None
    assert constraint_of(ASKED) == Constraint()


def test_two_turns_in_one_grammar_do_not_touch_each_other(vocabulary: Vocabulary) -> None:
    start = HarmonyGrammars(vocabulary).of(replace(ASKED, answer_schema=DAY))
    assert start is not None
    header = vocabulary.encoding.encode("<|channel|>final<|message|>", allowed_special="all")
    begun = []
    for text in ('{"day":"mon"', '{"day":"'):
        state = start
        for token in [*header, *vocabulary.encode(text)]:
            state = state.after(token)
        begun.append(state)
    assert begun[0].mask.permits(*vocabulary.encode("}"))
    assert not begun[1].mask.permits(*vocabulary.encode("}"))
    assert not any(state.mask.permits(token) for state in begun for token in (RETURN, END, CALL, MESSAGE))


def test_a_token_that_the_schema_forbids_is_an_error_of_ours(vocabulary: Vocabulary) -> None:
    start = HarmonyGrammars(vocabulary).of(replace(ASKED, answer_schema=DAY))
    assert start is not None
    state = start
    for token in vocabulary.encoding.encode("<|channel|>final<|message|>{", allowed_special="all"):
        state = state.after(token)
    for wrong in (RETURN, *vocabulary.encode("x")):
        with pytest.raises(RuntimeError, match="internal error"):
            state.after(wrong)


def test_the_wire_refuses_a_call_of_a_function_that_is_not_offered() -> None:
    with pytest.raises(ProtocolError, match="must_call names a function"):
        check_request(replace(ASKED, tools=TOOLS, must_call=("other",)))


def test_a_number_that_cannot_be_held_is_refused_for_a_function_too() -> None:
    tool = Tool("f", "", {"properties": {"a": {"const": 2**60}}})
    with pytest.raises(SchemaError, match="beyond"):
        constraint_of(replace(ASKED, tools=(tool,), must_call=("f",)))
