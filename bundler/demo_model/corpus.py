"""Reads what the demo model is taught: the four TOML files beside this module, as records.

This module decides which wordings are held out of training: in every list, the tenth (at least one) with the smallest
SHA-256. Nobody picks them, and a new wording in one list changes no other list.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from bundler.errors import BundlerError

FIELDS = ("why", "short", "command", "undo")  # what follow-up questions ask of a topic

Pools = Mapping[str, tuple[str, ...]]


class CorpusError(BundlerError):
    """A file of the corpus contradicts itself."""


@dataclass(frozen=True)
class Wordings:
    """Ways to ask for one thing, as templates with ``{pool}`` in them."""

    taught: tuple[str, ...]
    held_out: tuple[str, ...]


@dataclass(frozen=True)
class Topic:
    """One thing the model knows."""

    id: str
    about: str
    ask: Wordings
    answer: str
    must: tuple[str, ...]
    think: tuple[str, ...]
    more: Mapping[str, str]  # those of FIELDS that the topic has


@dataclass(frozen=True)
class Decline:
    """One kind of question the model does not answer, and what it says instead."""

    id: str
    about: str
    ask: Wordings
    answer: str
    think: tuple[str, ...]
    never_with: frozenset[str]


@dataclass(frozen=True)
class ToolKind:
    """A kind of function: its possible names and descriptions, its arguments, and how people ask for it."""

    id: str
    about: str
    names: tuple[str, ...]
    descriptions: tuple[str, ...]
    arguments: tuple[tuple[str, str, str], ...]  # (word in the templates, pool, JSON type)
    argument_names: Mapping[str, tuple[str, ...]]
    ask: Wordings
    result: tuple[tuple[str, str], ...]  # (field, pool)
    reply: str


@dataclass(frozen=True)
class FollowUp:
    """One kind of question about the answer before."""

    field: str
    about: str
    ask: Wordings
    otherwise: str
    after_decline: str


@dataclass(frozen=True)
class Corpus:
    topics: tuple[Topic, ...]
    declines: tuple[Decline, ...]
    decline_pools: Pools
    tools: tuple[ToolKind, ...]
    tool_pools: Pools
    followups: tuple[FollowUp, ...]


@cache
def load_corpus() -> Corpus:
    """The whole corpus.

    Raises:
        CorpusError: a wording occurs twice, so that it could be taught and held out at once.
    """
    topics, declines = _read("topics"), _read("declines")
    tools, followups = _read("tools"), _read("followups")
    corpus = Corpus(
        topics=tuple(_topic(body) for body in topics["topic"]),
        declines=tuple(_decline(body) for body in declines["decline"]),
        decline_pools=_pools(declines["pools"]),
        tools=tuple(_tool(body) for body in tools["tool"]),
        tool_pools=_pools(tools["pools"]) | {"number": tuple(str(n) for n in range(1, 100))},
        followups=tuple(_followup(body) for body in followups["followup"]),
    )
    _require_distinct(corpus)
    return corpus


def _read(name: str) -> dict[str, Any]:
    return tomllib.loads(resources.files("bundler.demo_model").joinpath(f"{name}.toml").read_text("utf-8"))


def _pools(body: dict[str, list[str]]) -> dict[str, tuple[str, ...]]:
    return {name: tuple(values) for name, values in body.items()}


def _wordings(ask: list[str]) -> Wordings:
    by_hash = sorted(ask, key=lambda text: hashlib.sha256(text.encode()).digest())
    held_out = set(by_hash[: max(1, round(len(ask) / 10))])
    return Wordings(tuple(t for t in ask if t not in held_out), tuple(t for t in ask if t in held_out))


def _topic(body: dict[str, Any]) -> Topic:
    return Topic(
        id=body["id"],
        about=body["about"],
        ask=_wordings(body["ask"]),
        answer=body["answer"].strip(),
        must=tuple(body["must"]),
        think=tuple(body["think"]),
        more={field: body[field].strip() for field in FIELDS if field in body},
    )


def _decline(body: dict[str, Any]) -> Decline:
    return Decline(
        id=body["id"],
        about=body["about"],
        ask=_wordings(body["ask"]),
        answer=body["answer"],
        think=tuple(body["think"]),
        never_with=frozenset(body["never_with"]),
    )


def _tool(body: dict[str, Any]) -> ToolKind:
    return ToolKind(
        id=body["id"],
        about=body["about"],
        names=tuple(body["names"]),
        descriptions=tuple(body["descriptions"]),
        arguments=tuple((word, pool, kind) for word, pool, kind in body["arguments"]),
        argument_names={word: tuple(names) for word, names in body["argument_names"].items()},
        ask=_wordings(body["ask"]),
        result=tuple((field, pool) for field, pool in body["result"]),
        reply=body["reply"],
    )


def _followup(body: dict[str, Any]) -> FollowUp:
    return FollowUp(body["field"], body["about"], _wordings(body["ask"]), body["otherwise"], body["after_decline"])


def normalise(text: str) -> str:
    """Reduce a question to what makes it one: case, spaces and punctuation do not count."""
    return " ".join("".join(" " if c in ".,:;!?" else c for c in text.casefold()).split())


def _require_distinct(corpus: Corpus) -> None:
    for group in (corpus.topics, corpus.declines, corpus.tools, corpus.followups):
        seen: set[str] = set()
        for entry in group:
            for text in (*entry.ask.taught, *entry.ask.held_out):
                key = normalise(text) or text
                if key in seen:
                    raise CorpusError(f'the wording "{text}" occurs twice')
                seen.add(key)
