"""The details of events are stored byte for byte as before they were typed, and whatever is stored is read."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from appliance.audit.details.codec import Details, UnreadableDetails
from appliance.audit.details.denials import BodyTooLarge, PromptTooLarge, QuotaSpent, RepeatedDenial
from appliance.audit.details.kinds import KINDS, details_of, parse_details
from appliance.audit.details.review import SearchDetails
from appliance.audit.details.site import ApplianceStarted, PackedWeights
from appliance.audit.details.turns import (
    Beside,
    FinishedAnswer,
    LostAnswer,
    PromptDetails,
    TurnFailure,
    UnfinishedAnswer,
    read_beside,
)
from appliance.audit.event import ACTIONS, Action, Actor, Content, NewEvent
from appliance.audit.log import AuditLog
from appliance.database.transactions import open_database
from appliance.turns.events import Done
from appliance.turns.request import Bias, Message, Tool, TurnRequest
from tests.appliance.audit.details_scenario import events_of_every_kind

ROOT = Path(__file__).parents[3]
VECTORS = [
    cast("tuple[Action, str, str | None]", tuple(json.loads(line)))
    for line in Path(__file__).with_name("details_vectors.jsonl").read_text(encoding="utf-8").splitlines()
]
STORED = [(action, details) for action, _, details in VECTORS if details is not None]
DRAWN = (  # what no two runs share
    (re.compile(r"[0-9a-f]{64}"), "sha256"),
    (re.compile(r'(?<="process":)"[^"]*"'), '"a process"'),
    (re.compile(r'(?<="note":)"([^"\\]|\\.)*"'), '"a note"'),
    (re.compile(r"(?<=, of )2[-0-9]{9}T[:.0-9]*Z"), "a time"),
)
REQUEST = {"id": "t", "user": "a1", "messages": [{"role": "user", "content": "Hi"}], "seed": 5}
FIGURES = {
    "finish_reason": "stop", "prompt_tokens": 1, "completion_tokens": 2, "reasoning_tokens": 0, "cached_tokens": 0,
    "queued_s": 0, "prefill_s": 0.5, "decode_s": 0.5,
}  # fmt: skip
SAID: dict[str, object] = {"conversation": None, "reasoning": "", "tool_calls": []}
FORGED: tuple[object, ...] = (None, True, 7, -1.5, "", "x", [], ["x"], [[7]], {}, {"x": 7}, {"messages": 7}, 10**40)


def shown(details: str) -> str:
    for pattern, word in DRAWN:
        details = pattern.sub(word, details)
    return details


def canonical(values: object) -> str:
    return json.dumps(values, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


@pytest.fixture
def log(tmp_path: Path) -> Iterator[AuditLog]:
    database = open_database(f"sqlite:///{tmp_path}/record.sqlite3")
    yield AuditLog(database)
    database.close()


def test_details_are_stored_as_before_they_were_typed(log: AuditLog, tmp_path: Path) -> None:
    events_of_every_kind(log, tmp_path)
    events = [log.get(number) for number in range(1, log.size() + 1)]
    made = [
        (event.header.action, event.header.outcome, None if event.sealed is None else shown(event.sealed.details))
        for event in events
    ]
    assert made == VECTORS


def test_every_form_has_a_vector() -> None:
    read = {(action, type(parse_details(action, details))) for action, details in STORED}
    assert read >= {(action, kind) for action, kinds in KINDS.items() for kind in kinds}


@pytest.mark.parametrize(("action", "details"), STORED)
def test_what_is_read_is_written_as_it_was(action: Action, details: str) -> None:
    read = parse_details(action, details)
    assert type(read) in (Details, *KINDS.get(action, ()))
    assert dict(read.unknown) == {}
    assert canonical(read.values()) == details


@pytest.mark.parametrize("action", sorted(set(ACTIONS) - set(KINDS)))
def test_details_of_an_action_that_has_none_are_kept(action: Action) -> None:
    assert parse_details(action, "{}") == Details()
    assert parse_details(action, '{"more":[1]}') == Details(unknown={"more": [1]})


@pytest.mark.parametrize(
    ("action", "stored", "expected"),
    [
        (
            "prompt",
            {"conversation": "c1", "request": REQUEST},
            PromptDetails(conversation="c1", request=TurnRequest("t", "a1", (Message("user", "Hi"),), 5)),
        ),
        (
            "answer",
            {**SAID, **FIGURES, "token_ids": [1]},
            FinishedAnswer(
                conversation=None, reasoning="", tool_calls=(), done=Done("stop", 1, 2, 0, 0, 0.0, 0.5, 0.5, (1,))
            ),
        ),
        (
            "answer",
            {**SAID, "prompt_tokens": 3, "failure": {"code": "a code of then", "message": "m", "retry_after_s": None}},
            UnfinishedAnswer(
                conversation=None, reasoning="", tool_calls=(), prompt_tokens=3,
                failure=TurnFailure(code="a code of then", message="m", retry_after_s=None),
            ),
        ),
        ("review_search", {"text": "word", "user": "ada"}, SearchDetails(text="word", user="ada")),
        ("appliance_started", {"silence": {"kernel": "6.18"}}, ApplianceStarted(silence={"kernel": "6.18"})),
        (
            "weights_packed",
            {"manifest_sha256": "m", "sha256": {"packed.bin": "d"}, "of_a_later_release": [1]},
            PackedWeights(
                manifest_sha256="m", sha256={"packed.bin": "d"}, unknown={"of_a_later_release": [1]}
            ),
        ),
        ("process_ended", {}, Details()),  # what the recorder writes of a note that it cannot store
    ],
    ids=["prompt", "answer", "failed answer", "search", "start", "more fields", "no fields"],
)  # fmt: skip
def test_details_of_other_releases_are_read(action: Action, stored: dict[str, Any], expected: Details) -> None:
    assert parse_details(action, json.dumps(stored)) == expected


@pytest.mark.parametrize("stored", ["", "{", "7", "null", "[]", '"x"', "[" * 100_000, None, 7, b"\xff", "9" * 5000])
@pytest.mark.parametrize("action", ["prompt", "sign_in"])
def test_what_is_no_object_is_unreadable_and_raises_nothing(action: Action, stored: object) -> None:
    assert isinstance(parse_details(action, stored), UnreadableDetails)


@pytest.mark.parametrize(("action", "details"), STORED)
def test_forged_values_are_unreadable_or_of_the_declared_types(action: Action, details: str) -> None:
    values = json.loads(details)
    for name in values:
        lacking = {key: value for key, value in values.items() if key != name}
        for forged in [lacking, *({**values, name: value} for value in FORGED)]:
            read = details_of(action, forged)
            if isinstance(read, UnreadableDetails):
                assert "\n" not in read.problem
            else:
                assert details_of(action, json.loads(canonical(read.values()))) == read


def test_unreadable_details_say_what_is_wrong_and_are_never_written() -> None:
    read = details_of("record_verified", {"events": "many", "erased": 0, "signed_to": None, "faults": 0})
    assert isinstance(read, UnreadableDetails)
    assert "'many' is not a <class 'int'>" in read.problem
    with pytest.raises(RuntimeError, match="unreadable"):
        read.values()


def test_an_event_takes_no_details_of_another_action(log: AuditLog) -> None:
    event = NewEvent(Actor("", "", "system"), "sign_in", content=Content("x", QuotaSpent(limit_bytes=1)))
    with pytest.raises(RuntimeError, match="QuotaSpent are no details of sign_in"):
        log.append(event)
    assert log.size() == 0


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        ({"limit_bytes": 1, "sha256": "d", "size_bytes": 2}, PromptTooLarge),
        ({"size_bytes": 2}, BodyTooLarge),
        ({"limit_bytes": 1}, QuotaSpent),
        ({"count": 1, "within_s": 60, "subjects": []}, RepeatedDenial),
        ({}, Details),
    ],
)
def test_the_forms_of_a_denial_are_told_apart(stored: dict[str, object], expected: type[Details]) -> None:
    assert type(details_of("denied", stored)) is expected


def test_an_interrupted_answer_is_told_apart() -> None:
    failure = {"code": "interrupted", "message": "m"}
    assert type(details_of("answer", {**SAID, "failure": failure, "prompt_event": 7})) is LostAnswer


def test_what_stands_beside_a_prompt_is_read_from_the_beginning_of_its_details() -> None:
    stored = next(details for action, details in STORED if action == "prompt")
    read = parse_details("prompt", stored)
    assert isinstance(read, PromptDetails)
    assert read_beside(stored[:120]) == read.beside == Beside(
        system=9, earlier=2, earlier_characters=31, tools=2, tool_characters=74, stop=3
    )  # fmt: skip
    assert read_beside('{"conversation":null') is None
    with pytest.raises(ValueError, match="int"):
        read_beside('{"beside":{"tools":"two"},')


def keyed_reads(tree: ast.AST) -> Iterator[int]:
    """The lines that read ``details`` by a key."""
    for node in ast.walk(tree):
        match node:
            case ast.Subscript(value=read) | ast.Call(func=ast.Attribute(value=read, attr="get")):
                name = read.id if isinstance(read, ast.Name) else read.attr if isinstance(read, ast.Attribute) else ""
                if name == "details":
                    yield node.lineno


def test_only_the_package_of_details_reads_them_by_their_keys() -> None:
    assert list(keyed_reads(ast.parse("one.details['x']\ndetails.get('x')\ndetails.values()"))) == [1, 2]
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for room in ("appliance", "webui")
        for path in (ROOT / room).rglob("*.py")
        if path.parent != ROOT / "appliance" / "audit" / "details"
        for line in keyed_reads(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert found == []


def test_the_page_names_the_details_of_every_action() -> None:
    page = (ROOT / "docs" / "record.md").read_text(encoding="utf-8").partition("## All actions")[2]
    told = dict(re.findall(r"^\| `(\w+)` \| .*? \| (.*) \|$", page, re.MULTILINE))
    forms = {
        action: [", ".join(f"`{name}`" for name in kind.names()) for kind in KINDS.get(action, ())]
        for action in ACTIONS
    }
    assert told == {action: " or ".join(forms[action]) or "none" for action in ACTIONS}


def test_settings_that_earlier_releases_do_not_know_are_stored_where_they_are_used_and_read_again() -> None:
    plain = TurnRequest("t", "u", (Message("user", "Hi"),), seed=5)
    used = replace(
        plain, tools=(Tool("f", "", {}, strict=True),), must_call=("f",), answer_schema={"type": "object"},
        continues=True, form="text", top_k=4, min_p=0.1, frequency_penalty=0.5, presence_penalty=-0.5,
        logit_bias=(Bias(7, -100.0),), top_logprobs=0,
    )  # fmt: skip
    details = [PromptDetails(conversation=None, request=request) for request in (plain, used)]
    stored = [one.values()["request"] for one in details]
    later = {"must_call", "answer_schema", "continues", "form", "top_k", "min_p", "frequency_penalty"}
    later |= {"presence_penalty", "logit_bias", "top_logprobs"}
    assert stored[1].keys() - stored[0].keys() == later
    for one in details:
        read = parse_details("prompt", canonical(one.values()))
        assert isinstance(read, PromptDetails)
        assert read.request == one.request
