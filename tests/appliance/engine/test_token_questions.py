"""Questions about tokens are answered beside the turns, and cannot keep these waiting."""

from __future__ import annotations

import random
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from datetime import date

import pytest

from appliance.doorbell import RING_BYTE
from appliance.engine import harmony
from appliance.engine.client import EngineClient
from appliance.engine.harmony import ALL_TOKENS, START, Vocabulary, _short_parts, render_prompt
from appliance.engine.token_questions import MOST_OF_ONE_PERSON, MOST_WAITING
from appliance.engine.wire import decode, encode
from appliance.turns.engine import CountRequest, Question, TextRequest, TokenCount, Tokens, TokensRequest, TokenText
from appliance.turns.events import Done, Failed
from appliance.turns.request import Message, Tool
from tests.appliance.engine.test_engine_server import REQUEST, TODAY, Served
from tests.waiting import HELD_S

BARE = replace(REQUEST, form="text")


@pytest.fixture
def served(vocabulary: Vocabulary) -> Iterator[Served]:
    served = Served(vocabulary, "<|channel|>final<|message|>Good morning.<|return|>")
    yield served
    served.close()
    assert served.sound is True


def test_tokens_are_those_of_the_prompt(vocabulary: Vocabulary, served: Served) -> None:
    found = EngineClient(served.web).ask(TokensRequest(REQUEST))
    assert found == Tokens(tuple(render_prompt(vocabulary, REQUEST, today=TODAY)), 4096)


def test_a_count_is_told_of_what_is_too_long_to_be_read(vocabulary: Vocabulary, served: Served) -> None:
    asked = replace(REQUEST, messages=(Message("user", "a b " * 4096),))
    found = EngineClient(served.web).ask(CountRequest(asked))
    assert found == TokenCount(len(render_prompt(vocabulary, asked, today=TODAY)), 4096)
    far_too_long = replace(REQUEST, messages=(Message("user", "x" * (4096 * 16 + 1)),))
    refused = EngineClient(served.web).ask(CountRequest(far_too_long))
    assert isinstance(refused, Failed)
    assert refused.code == "context_exceeded"


def test_the_counts_of_messages_add_up(served: Served) -> None:
    """The pages count a conversation once, and then only the question that is being written."""

    def count(*messages: Message) -> int:
        found = EngineClient(served.web).ask(CountRequest(replace(REQUEST, messages=messages)))
        assert isinstance(found, TokenCount)
        return found.count

    x = Message("user", "x")
    earlier = (Message("user", " a question "), Message("assistant", "An answer.\n"), Message("user", ""))
    for text in ("Hi", "\n\nand so on", " é𒐫<|end|>", "x" * 500):
        new = Message("user", text)
        assert count(*earlier, new) == count(*earlier, x) - count(x) + count(new)


def test_texts_are_what_each_spells(served: Served) -> None:
    asked = replace(BARE, messages=(Message("user", "Hi 𒐫"),))
    found = EngineClient(served.web).ask(TokensRequest(asked, with_texts=True))
    assert isinstance(found, Tokens)
    assert found.texts[0] == "Hi"
    assert len(found.texts) == len(found.ids) > 2
    assert "\ufffd" in "".join(found.texts)  # a character of several tokens


def test_tokens_become_text_and_special_ones_their_names(vocabulary: Vocabulary, served: Served) -> None:
    ids = (*vocabulary.encode("Köln "), START)
    assert EngineClient(served.web).ask(TextRequest("u", ids)) == TokenText("Köln <|start|>")


@pytest.mark.parametrize("token", [ALL_TOKENS, ALL_TOKENS + 5, 2**31, 2**40, -1])
def test_what_is_no_token_is_refused(served: Served, token: int) -> None:
    found = EngineClient(served.web).ask(TextRequest("u", (token,)))
    assert isinstance(found, Failed)
    assert (found.code, "no token" in found.message) == ("bad_request", True)


@pytest.mark.parametrize(
    ("question", "code"),
    [
        (TokensRequest(replace(BARE, tools=(Tool("f", ""),))), "bad_request"),
        (TokensRequest(replace(REQUEST, messages=())), "bad_request"),
        (TokensRequest(replace(BARE, messages=(Message("user", "x" * (4096 * 16 + 1)),))), "context_exceeded"),
        (TokensRequest(replace(BARE, messages=(Message("user", "a b " * 4096),))), "context_exceeded"),
        (TextRequest("u", (1,) * 4097), "context_exceeded"),
    ],
    ids=["tools of a bare text", "no message", "too many characters", "too many tokens", "too many ids"],
)
def test_what_no_turn_could_have_is_refused(served: Served, question: Question, code: str) -> None:
    found = EngineClient(served.web).ask(question)
    assert isinstance(found, Failed)
    assert found.code == code


class Held:
    """A server whose thread for questions stands still until ``go_on``."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.go_on = threading.Event()
        self.stands = threading.Event()
        self.served = Served(vocabulary, "<|channel|>final<|message|>Good morning.<|return|>", today=self._today)

    def _today(self) -> date:
        if threading.current_thread().name == "questions":
            self.stands.set()
            self.go_on.wait(HELD_S)
        return TODAY

    def put(self, question: Question) -> socket.socket:
        """Ask without waiting for the answer."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with theirs:
            socket.send_fds(self.served.web, [RING_BYTE], [theirs.fileno()])
        ours.sendall(encode(question))
        ours.settimeout(HELD_S)
        return ours


@pytest.fixture
def held(vocabulary: Vocabulary) -> Iterator[Held]:
    held = Held(vocabulary)
    yield held
    held.go_on.set()
    held.served.close()


def read(stream: socket.socket) -> object:
    with stream, stream.makefile("rb") as lines:
        return decode(lines.readline())


def test_a_turn_does_not_wait_for_a_question(held: Held) -> None:
    waiting = held.put(TokensRequest(REQUEST))
    assert held.stands.wait(HELD_S)
    assert isinstance(held.served.ask()[-1], Done)
    held.go_on.set()
    assert isinstance(read(waiting), Tokens)


def test_of_a_flood_few_may_wait_fewer_of_one_person_and_a_turn_runs_meanwhile(held: Held) -> None:
    """1,000 questions at once: 900 of one person, then those of a hundred others."""
    people = ["flood"] * 900 + [f"p{number}" for number in range(100)]
    with ExitStack() as streams:
        asked = []
        for person in people:
            asked.append(streams.enter_context(held.put(TokensRequest(replace(REQUEST, user=person)))))
        assert held.stands.wait(HELD_S)
        assert isinstance(held.served.ask()[-1], Done)
        refused = [read(stream) for stream in asked[MOST_OF_ONE_PERSON:900]]
        assert {one.code if isinstance(one, Failed) else "taken" for one in refused} == {"too_many_waiting"}
        taken = MOST_WAITING - MOST_OF_ONE_PERSON
        others = asked[900:]
        refused = [read(stream) for stream in others[taken:]]
        assert {one.code if isinstance(one, Failed) else "taken" for one in refused} == {"overloaded"}
        held.go_on.set()
        assert all(isinstance(read(stream), Tokens) for stream in [*asked[:MOST_OF_ONE_PERSON], *others[:taken]])


def test_one_whose_questions_were_answered_may_ask_again(held: Held) -> None:
    held.go_on.set()
    for _ in range(3 * MOST_OF_ONE_PERSON):
        assert isinstance(EngineClient(held.served.web).ask(TokensRequest(REQUEST)), Tokens)


def test_a_question_that_its_asker_left_costs_nothing(held: Held) -> None:
    first = held.put(TokensRequest(REQUEST))
    assert held.stands.wait(HELD_S)
    held.put(TokensRequest(REQUEST)).close()
    held.go_on.set()
    assert isinstance(read(first), Tokens)
    assert isinstance(EngineClient(held.served.web).ask(TokensRequest(REQUEST)), Tokens)


SIGNS = " \n\r\t/'sS.aZ9\u00e9\u5bb6\U0001f600_-(\u00a0\u0301\u00b2\x1c\x85\u2028\u3000\u200b"


def test_parts_of_a_text_have_the_tokens_of_the_whole(vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut wherever it may be cut, in texts of signs that the vocabulary's rules treat in different ways."""
    monkeypatch.setattr(harmony, "_PART_CHARS", 3)
    rng, cut = random.Random(5), 0
    for _ in range(4000):
        text = "".join(rng.choice(SIGNS) for _ in range(rng.randrange(1, 40)))
        parts = list(_short_parts(text))
        cut += len(parts) > 1
        assert [token for part in parts for token in vocabulary.encode(part)] == vocabulary.encode(text), ascii(text)
    assert cut > 1000
