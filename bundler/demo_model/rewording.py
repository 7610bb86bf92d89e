"""Varies a question by rule, so that the model meets more wordings than people would write down.

Where a rule would yield a wording that is held out of training, `reword` returns the question unchanged.
"""

from __future__ import annotations

import random
import re
from functools import cache

from bundler.demo_model.corpus import load_corpus, normalise

_FRAMES: tuple[tuple[re.Pattern[str], tuple[str, ...]], ...] = (
    (
        re.compile(r"How (?:do|can) I (?P<x>[^?]+)\?"),
        (
            "How do I {x}?", "How can I {x}?", "How to {x}?", "how do i {x}", "Tell me how to {x}.",
            "Show me how to {x}.",
            "I want to {x}.", "I need to {x}, how?", "What do I do to {x}?", "Can you tell me how to {x}?",
            "Explain how I {x}.", "How would I {x}?", "What is the way to {x}?", "Please tell me how I can {x}.",
            "I would like to {x}. How?", "Could you show me how to {x}?", "how should I {x}?",
        ),
    ),
    (
        re.compile(r"(?:What is|Explain|Tell me about|What's) (?P<x>[^?.,]+)[?.]"),
        (
            "What is {x}?", "What's {x}?", "Explain {x}.", "Tell me about {x}.", "What does {x} mean?",
            "Can you explain {x}?", "Please explain {x}.", "what is {x}", "Describe {x}.",
            "Could you tell me what {x} is?",
            "I want to know about {x}.", "What do you know about {x}?", "And what is {x}?", "So what is {x}?",
        ),
    ),
    (
        re.compile(r"(?:Which|What) command (?P<x>[^?]+)\?"),
        ("Which command {x}?", "What command {x}?", "Is there a command that {x}?", "Name the command that {x}.",
         "I need the command that {x}.", "What is the command that {x}?"),
    ),
)  # fmt: skip
_BEFORE = (
    "Please: ", "Hello. ", "Hi, ", "Quick question: ", "Sorry, ", "One question: ", "Ok. ", "And ", "So ", "Well, ",
    "Thanks. ",
    "Hello, can you help? ", "I have a question. ", "Tell me, ", "Good. ", "Excuse me, ", "I wonder: ", "Next: ",
)  # fmt: skip
_AFTER = (" Thanks.", " please", " Please help.", " I am new here.", " Thank you.", " I do not know.", " right now",
          " here")  # fmt: skip


def reword(text: str, rng: random.Random) -> str:
    """The question, changed by none, one or several rules."""
    changed = text
    if rng.random() < 0.45:
        changed = _reframed(changed, rng)
    if rng.random() < 0.12:
        before = rng.choice(_BEFORE)
        keep = before.rstrip()[-1] in ".?" or changed[:2] in ("I ", "I'")
        changed = before + (changed if keep else changed[:1].lower() + changed[1:])
    if rng.random() < 0.06:
        changed = changed + rng.choice(_AFTER) if changed[-1:] in "?." else changed
    if rng.random() < 0.10:
        changed = changed.lower()
    if rng.random() < 0.15:
        changed = changed.rstrip("?.! ") or changed
    if rng.random() < 0.06:
        changed = _mistyped(changed, rng)
    return text if normalise(changed) in _forbidden() else changed


def _reframed(text: str, rng: random.Random) -> str:
    for pattern, frames in _FRAMES:
        match = pattern.fullmatch(text)
        if match:
            return rng.choice(frames).format(x=match["x"])
    return text


def _mistyped(text: str, rng: random.Random) -> str:
    """Two neighbouring letters change places."""
    at = rng.randrange(max(1, len(text) - 1))
    return text[:at] + text[at + 1 : at + 2] + text[at : at + 1] + text[at + 2 :]


@cache
def _forbidden() -> frozenset[str]:
    corpus = load_corpus()
    groups = (corpus.topics, corpus.declines, corpus.tools, corpus.followups)
    return frozenset(normalise(text) for group in groups for entry in group for text in entry.ask.held_out)
