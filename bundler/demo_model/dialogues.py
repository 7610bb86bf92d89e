"""Dialogues made from the corpus: what was said before, the question, and the right answer.

Every dialogue ends where the model must answer. `bundler.demo_model.lessons` draws dialogues for training from taught
wordings, `bundler.demo_model.examination` lists those whose wordings are held out.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from bundler.demo_model.corpus import Corpus, Decline, FollowUp, Pools, ToolKind, Topic, Wordings

Effort = Literal["low", "medium", "high"]
EFFORTS: tuple[Effort, ...] = ("low", "medium", "high")
Part = Literal["taught", "held_out"]

SLOT = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Call:
    """A function call; ``arguments`` is JSON as the model writes it."""

    name: str
    arguments: str


@dataclass(frozen=True)
class Said:
    """One message of a dialogue. A call has no text of its own; ``reasoning`` is the assistant's."""

    role: Literal["user", "assistant", "tool"]
    text: str
    reasoning: str = ""
    call: Call | None = None


@dataclass(frozen=True)
class Function:
    """A function on offer; ``parameters`` is its JSON Schema."""

    name: str
    description: str
    parameters: dict[str, Any]


@dataclass(frozen=True)
class Dialogue:
    """``said`` up to the answer, and the ``answer`` itself.

    ``key`` names what is asked for (answers of one key say the same); ``must`` are strings a right answer contains.
    """

    id: str
    category: str
    key: str
    effort: Effort
    said: tuple[Said, ...]
    answer: Said
    must: tuple[str, ...] = ()
    functions: tuple[Function, ...] = ()
    instructions: str = ""
    date: str = "2026-11-23"


class Maker:
    """Builds dialogues from wordings of one part of the corpus; every choice is drawn from ``rng``."""

    def __init__(self, corpus: Corpus, part: Part, rng: random.Random) -> None:
        self.corpus = corpus
        self.part = part
        self.rng = rng

    def texts(self, wordings: Wordings) -> tuple[str, ...]:
        return wordings.taught if self.part == "taught" else wordings.held_out

    def topic(self, topic: Topic, text: str, effort: Effort) -> Dialogue:
        reasoning = _reasoning(f"The user asks {topic.about}.", topic.about, topic.think, effort)
        answer = Said("assistant", topic.answer, reasoning)
        return Dialogue(f"{topic.id}/{text}", "appliance", topic.id, effort, (Said("user", text),), answer, topic.must)

    def decline(self, decline: Decline, template: str, effort: Effort) -> Dialogue:
        text, _ = self.fill(template, self.corpus.decline_pools)
        reasoning = _reasoning(f"The user asks {decline.about}.", decline.about, decline.think, effort)
        answer = Said("assistant", decline.answer, reasoning)
        return Dialogue(f"decline/{decline.id}/{text}", "decline", "decline", effort, (Said("user", text),), answer)

    def followup(self, before: Dialogue, followup: FollowUp, text: str) -> Dialogue:
        """Ask about the answer of ``before``, which may itself be a follow-up."""
        subject = before.key.split("+")[0]
        topic = next((t for t in self.corpus.topics if t.id == subject), None)
        if topic is None:
            words, about = followup.after_decline, "what I declined"
        else:
            words, about = topic.more.get(followup.field, followup.otherwise), topic.about
        think = (
            f"It is about the last answer: {about}.",
            "I look at what was said before.",
            "Then I answer only this question.",
        )
        reasoning = _reasoning(f"The user asks {followup.about}.", f"{followup.about}: {about}", think, before.effort)
        said = (*before.said, before.answer, Said("user", text))
        answer = Said("assistant", words, reasoning)
        key = f"{subject}+{followup.field}"
        return replace(
            before, id=f"{before.id}/{text}", category="follow-up", key=key, said=said, answer=answer, must=()
        )

    def call(self, kind: ToolKind, template: str, effort: Effort) -> Dialogue:
        """A question that a function on offer answers."""
        return self._called(kind, template, effort)[0]

    def result(self, kind: ToolKind, template: str, effort: Effort) -> Dialogue:
        """The same, after the function has answered."""
        asked, call, values = self._called(kind, template, effort)
        found = {field: self.rng.choice(self.corpus.tool_pools[pool]) for field, pool in kind.result}
        body = {field: int(found[field]) if pool == "number" else found[field] for field, pool in kind.result}
        think = (
            f"The function {call.name} has answered.",
            "I repeat only what its result says.",
            "One sentence is enough.",
        )
        reasoning = _reasoning("The result is here.", "the result", think, effort)
        words = _put(kind.reply, values | found)
        return replace(
            asked,
            id=f"{asked.id}/result",
            category="tool result",
            key=f"result {kind.id}",
            said=(*asked.said, asked.answer, Said("tool", json.dumps(body), call=call)),
            answer=Said("assistant", words[0].upper() + words[1:], reasoning),
            must=tuple(found.values()),
        )

    def _called(self, kind: ToolKind, template: str, effort: Effort) -> tuple[Dialogue, Call, dict[str, str]]:
        """The question, the call that answers it, and the values in the question's slots."""
        text, values = self.fill(template, self.corpus.tool_pools, {word: pool for word, pool, _ in kind.arguments})
        function, names = self.function(kind)
        call = Call(function.name, _arguments(kind, names, values))
        about = _put(kind.about, values)
        think = (
            f"The function {function.name} fits.",
            "Its arguments are in the question.",
            "I call it and wait for its result.",
        )
        answer = Said("assistant", "", _reasoning(f"The user wants {about}.", about, think, effort), call)
        said = (Said("user", text),)
        functions = self.offer([function], {kind.id})
        dialogue = Dialogue(f"{kind.id}/{text}", "call", f"call {kind.id}", effort, said, answer, functions=functions)
        return dialogue, call, values

    def with_unfitting(self, dialogue: Dialogue, never: frozenset[str]) -> Dialogue:
        """The same dialogue with functions on offer that do not help."""
        category = "unfitting tool" if len(dialogue.said) == 1 else dialogue.category
        return replace(dialogue, id=f"{dialogue.id}/unfitting", category=category, functions=self.offer([], set(never)))

    def offer(self, functions: list[Function], never: set[str]) -> tuple[Function, ...]:
        """Add up to two functions of kinds outside ``never``, in any order."""
        kinds = [kind for kind in self.corpus.tools if kind.id not in never]
        names = {function.name for function in functions}
        for kind in self.rng.sample(kinds, self.rng.choice((0, 0, 1, 2) if functions else (1, 1, 2))):
            function, _ = self.function(kind)
            if function.name not in names:
                functions.append(function)
                names.add(function.name)
        self.rng.shuffle(functions)
        return tuple(functions)

    def function(self, kind: ToolKind) -> tuple[Function, dict[str, str]]:
        """A function of this kind, and what it calls its arguments."""
        names = {word: self.rng.choice(kind.argument_names[word]) for word, _, _ in kind.arguments}
        described = self.rng.random() < 0.3
        properties = {
            names[word]: {"type": json_type, **({"description": f"The {word}."} if described else {})}
            for word, _, json_type in kind.arguments
        }
        required = list(properties)
        if self.rng.random() < 0.2:
            properties["language"] = {"type": "string"}  # optional; never asked for
        schema = {"type": "object", "properties": properties, "required": required}
        return Function(self.rng.choice(kind.names), self.rng.choice(kind.descriptions), schema), names

    def fill(self, template: str, pools: Pools, slots: dict[str, str] | None = None) -> tuple[str, dict[str, str]]:
        """The template with every ``{slot}`` filled from its pool, and the value of each slot."""
        values: dict[str, str] = {}

        def choose(match: re.Match[str]) -> str:
            slot = match[1]
            values[slot] = self.rng.choice(pools[(slots or {}).get(slot, slot)])
            return values[slot]

        return SLOT.sub(choose, template), values


def _reasoning(opening: str, about: str, think: Sequence[str], effort: Effort) -> str:
    """low: one clause; medium: two short sentences; high: five."""
    if effort == "low":
        return f"About {about}."
    if effort == "medium":
        return f"{opening} {think[0]}"
    return " ".join((opening, *think, "I answer from what I know here and add nothing else."))


def _arguments(kind: ToolKind, names: dict[str, str], values: dict[str, str]) -> str:
    body: dict[str, str | int] = {}
    for word, pool, json_type in kind.arguments:  # a template names the argument, or its pool where that is clear
        value = values[word] if word in values else values[pool]
        body[names[word]] = int(value) if json_type == "integer" else value
    return json.dumps(body, ensure_ascii=False)


def _put(template: str, values: dict[str, str]) -> str:
    return SLOT.sub(lambda match: values[match[1]], template)
