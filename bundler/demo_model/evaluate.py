"""Decides whether an answer of the demo model is right, and sums up an examination.

A right answer is well-formed Harmony. Of all the answers that the model was taught, it is closest (by token F1) to one
for the question asked, it is close enough to that one, and it contains the strings that the question demands. A right
call names the right function and has exactly the right arguments. A well-worded answer to another question is wrong.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from bundler.demo_model.corpus import Corpus
from bundler.demo_model.dialogues import Call, Dialogue

MINIMUM = 0.80  # share of the examination's answers that must be right
_CLOSE = 0.75  # least token F1 of a right answer with the taught one
_TOKEN = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True)
class Given:
    """What the model answered. ``sound``: it is well-formed Harmony, and the model ended it."""

    reasoning: str
    text: str
    calls: tuple[Call, ...]
    sound: bool


@dataclass(frozen=True)
class Result:
    dialogue: Dialogue
    given: Given
    right: bool


class Judge:
    """Knows every taught answer, and the questions that it answers."""

    def __init__(self, corpus: Corpus) -> None:
        self._answers: dict[str, set[str]] = defaultdict(set)  # text -> keys it answers
        for topic in corpus.topics:
            self._answers[topic.answer].add(topic.id)
            for followup in corpus.followups:
                words = topic.more.get(followup.field, followup.otherwise)
                self._answers[words].add(f"{topic.id}+{followup.field}")
        for decline in corpus.declines:
            self._answers[decline.answer].add("decline")
        for followup in corpus.followups:
            self._answers[followup.after_decline].add(f"decline+{followup.field}")

    def is_right(self, dialogue: Dialogue, given: Given) -> bool:
        if not given.sound:
            return False
        if dialogue.answer.call is not None:
            return len(given.calls) == 1 and _same_call(dialogue.answer.call, given.calls[0])
        if given.calls or not all(text in given.text for text in dialogue.must):
            return False
        if dialogue.category == "tool result":
            return token_f1(given.text, dialogue.answer.text) >= _CLOSE
        closest = max(self._answers, key=lambda text: token_f1(given.text, text))
        return dialogue.key in self._answers[closest] and token_f1(given.text, closest) >= _CLOSE


def token_f1(first: str, second: str) -> float:
    """Harmonic mean of precision and recall over words and punctuation marks, in [0, 1]."""
    one, two = Counter(_TOKEN.findall(first.lower())), Counter(_TOKEN.findall(second.lower()))
    shared = (one & two).total()
    return 2 * shared / (one.total() + two.total()) if shared else 0.0


def _same_call(wanted: Call, given: Call) -> bool:
    try:
        arguments = json.loads(given.arguments)
    except ValueError:
        return False
    return given.name == wanted.name and arguments == json.loads(wanted.arguments)


def right_share(results: Iterable[Result]) -> float:
    marks = [result.right for result in results]
    return sum(marks) / len(marks)


def table(results: Iterable[Result]) -> str:
    """One line for each category and one for all, as Markdown."""
    marks: dict[str, list[bool]] = defaultdict(list)
    for result in results:
        marks[result.dialogue.category].append(result.right)
        marks["all"].append(result.right)
    marks["all"] = marks.pop("all")
    lines = ["| questions | right | of | |", "|---|---:|---:|---:|"]
    lines += [f"| {name} | {sum(m)} | {len(m)} | {sum(m) / len(m):.1%} |" for name, m in marks.items()]
    return "\n".join(lines)
