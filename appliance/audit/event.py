"""What an event of the record is, and the one encoding of it that is hashed.

An event has a header, which stays, and content, which can be erased. The header holds a commitment to the content,
SHA-256(salt || content bytes) with 32 random bytes of salt: a header alone says nothing about the content, and the
content cannot be changed unnoticed. Salt and content are erased together.

Event number ``sequence`` counts from 1, and is leaf ``sequence - 1`` of the Merkle tree: the tree of size N holds the
events 1 to N. Header and content are encoded as JSON with sorted keys, no white space and UTF-8 (RFC 8785 for the
strings and integers of a header).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import Literal, cast, get_args

from appliance.audit.details.codec import Details
from appliance.database.transactions import as_iso, from_iso

Via = Literal["web", "api", "cli", "system"]
Outcome = Literal["ok", "denied", "failed", "cancelled", "abandoned", "interrupted"]
Action = Literal[
    "prompt", "answer",
    "sign_in", "sign_out", "denied",
    "link_made", "link_withdrawn", "session_ended", "group_changed", "quota_changed", "setting_changed",
    "marking_changed", "conversation_marked", "shared_prompt_changed",
    "conversation_shared", "conversation_unshared", "shared_conversation_read",
    "user_created", "user_disabled", "user_enabled", "roles_changed", "password_changed",
    "api_key_created", "api_key_changed", "api_key_revoked",
    "approval_requested", "approval_confirmed", "approval_refused", "approval_expired",
    "review_search", "review_read", "record_verified", "checkpoint_exported", "evidence_exported",
    "content_erased", "erasure_finished",
    "conversation_deleted", "conversation_exported", "conversation_imported", "response_deleted",
    "appliance_started", "appliance_stopped", "process_ended", "process_paused", "release_compared",
    "weights_packed", "weights_compared",
    "attempt_refused", "watch_ended",
    "engine_restarted",  # written by releases before process_ended
    "disk_filling", "disk_full", "disk_freed",
    "record_finding", "finding_acknowledged", "signing_key_replaced", "index_rebuilt",
    "schema_upgraded",
    "release_returned",
]  # fmt: skip
ACTIONS: tuple[Action, ...] = get_args(Action)
SALT_BYTES = 32
_quoted = json.encoder.encode_basestring  # of a str, and nothing else
_canonical = json.JSONEncoder(ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":")).encode


@dataclass(frozen=True)
class Actor:
    """Who acts, and from where. ``user_id`` is empty for the appliance itself and for strangers."""

    user_id: str
    name: str
    via: Via
    address: str = ""


@dataclass(frozen=True)
class Content:
    """What was said or done: ``text`` in words for people, ``details`` for everything else.

    `appliance.audit.details.kinds` says which details the events of an action have.
    """

    text: str
    details: Details = field(default_factory=Details)


@dataclass(frozen=True)
class NewEvent:
    """An event to be appended. ``subject`` names what was acted on: a turn, a user's name, a conversation."""

    actor: Actor
    action: Action
    outcome: Outcome = "ok"
    subject: str = ""
    content: Content | None = None


@dataclass(frozen=True)
class Header:
    """The permanent part of an event; ``commitment`` is None when the event never had content."""

    sequence: int
    time_us: int  # microseconds since 1970-01-01 UTC
    actor: Actor
    action: Action
    outcome: Outcome
    subject: str
    commitment: bytes | None


@dataclass(frozen=True)
class SealedContent:
    """Content as it is stored: ``details`` is JSON text, kept as it was hashed."""

    salt: bytes
    text: str
    details: str

    def content_bytes(self) -> bytes:
        """The bytes behind the salt in the commitment."""
        return encode_content(self.text, self.details)

    def commitment(self) -> bytes:
        """32 bytes that fix salt and content."""
        return hashlib.sha256(self.salt + self.content_bytes()).digest()


def encode_content(text: str, details: str) -> bytes:
    """The bytes behind the salt in a commitment."""
    return f'{{"details":{details},"text":{_quoted(text)}}}'.encode()


def seal_content(content: Content, salt: bytes) -> SealedContent:
    """Fix the bytes of `content`.

    Raises:
        ValueError: the content cannot be stored exactly (NUL, a lone surrogate, a value that is not JSON).
    """
    sealed = SealedContent(salt, content.text, _canonical(content.details.values()))
    check_storable(sealed.text)
    check_storable(sealed.details)
    return sealed


def check_storable(text: str) -> None:
    """Refuse text that not every database can hold exactly.

    Raises:
        ValueError: NUL (PostgreSQL) or a lone surrogate (UTF-8).
    """
    if "\0" in text:
        raise ValueError("the text contains a NUL character")
    try:
        text.encode()
    except UnicodeEncodeError as exc:
        raise ValueError("the text contains a half of a surrogate pair") from exc


def encode_header(header: Header) -> bytes:
    """The bytes of the Merkle leaf."""
    actor = header.actor
    who = encode_actor(header.action, actor.address, actor.user_id, actor.name, actor.via)
    what = header.outcome, header.sequence, header.subject
    return encode_header_parts(who, header.commitment, *what, as_iso(header.time_us)).encode()


def encode_actor(action: str, address: str, user_id: str, name: str, via: str) -> str:
    """The beginning of a header, which many events share."""
    actor = f'"address":{_quoted(address)},"id":{_quoted(user_id)},"name":{_quoted(name)},"via":{_quoted(via)}'
    return f'{{"action":{_quoted(action)},"actor":{{{actor}}},'


def encode_header_parts(
    who: str, commitment: bytes | None, outcome: str, sequence: int, subject: str, time: str
) -> str:
    """The whole header after `encode_actor`: a verification of millions cannot afford an object for each."""
    content = "null" if commitment is None else f'"{commitment.hex()}"'
    what = f'"outcome":{_quoted(outcome)},"sequence":{sequence},"subject":{_quoted(subject)}'
    return f'{who}"content":{content},{what},"time":"{time}","v":1}}'


def parse_header(data: bytes) -> Header:
    """The header of a leaf's bytes.

    Raises:
        ValueError: the bytes are not what `encode_header` writes.
    """
    try:
        body = json.loads(data)
        actor = body["actor"]
        commitment = body["content"]
        header = Header(
            sequence=body["sequence"],
            time_us=from_iso(body["time"]),
            actor=Actor(actor["id"], actor["name"], cast("Via", actor["via"]), actor["address"]),
            action=body["action"],
            outcome=body["outcome"],
            subject=body["subject"],
            commitment=None if commitment is None else bytes.fromhex(commitment),
        )
        exact = encode_header(header) == data
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        raise ValueError(f"not an event header: {exc}") from exc
    if not exact:
        raise ValueError("not an event header: not in canonical form")
    return header
