"""The bytes that are hashed."""

from __future__ import annotations

import hashlib
import json

import pytest

from appliance.audit.details.codec import Details
from appliance.audit.event import Actor, Content, Header, SealedContent, encode_header, parse_header, seal_content

HEADER = Header(7, 1_795_398_974_059_955, Actor("u1", "zoë", "web", "10.0.0.1"), "prompt", "ok", "t-1", bytes(32))


def test_header_is_encoded_as_documented() -> None:
    assert encode_header(HEADER).decode() == (
        '{"action":"prompt","actor":{"address":"10.0.0.1","id":"u1","name":"zoë","via":"web"},"content":"' + "00" * 32
        + '","outcome":"ok","sequence":7,"subject":"t-1","time":"2026-11-23T01:56:14.059955Z","v":1}'
    )  # fmt: skip


def test_header_survives_encoding() -> None:
    assert parse_header(encode_header(HEADER)) == HEADER


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace('"v":1', '"v": 1'),
        lambda text: text.replace('"v":1', '"v":2'),
        lambda text: text.replace('"sequence":7,', ""),
        lambda text: text.replace("2026-11-23T", "2026-11-23 "),
        lambda text: text.replace('"prompt"', '"prompt","extra":1'),
        lambda text: text[:-1],
        lambda text: "[]",
    ],
)
def test_rejects_header_in_any_other_form(change) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match="not an event header"):
        parse_header(change(encode_header(HEADER).decode()).encode())


def test_commitment_is_sha256_of_salt_and_canonical_content() -> None:
    sealed = seal_content(Content('say "é"\n', Details(unknown={"b": 1.5, "a": [None, True]})), b"s" * 32)
    expected = b'{"details":{"a":[null,true],"b":1.5},"text":"say \\"\xc3\xa9\\"\\n"}'
    assert sealed.content_bytes() == expected
    assert sealed.commitment() == hashlib.sha256(b"s" * 32 + expected).digest()
    assert json.loads(expected)["text"] == sealed.text


def test_same_content_has_another_commitment_under_another_salt() -> None:
    assert SealedContent(b"1", "x", "{}").commitment() != SealedContent(b"2", "x", "{}").commitment()


@pytest.mark.parametrize(
    "content",
    [
        Content("a\0b"),
        Content("\ud800"),
        Content("x", Details(unknown={"k": "\udfff"})),
        Content("x", Details(unknown={"k": float("nan")})),
    ],
    ids=["nul", "surrogate", "surrogate in details", "nan"],
)
def test_rejects_content_that_cannot_be_stored_exactly(content: Content) -> None:
    with pytest.raises(ValueError, match=r"NUL|surrogate|JSON"):
        seal_content(content, bytes(32))
