"""Which of the 201,088 tokens the demo model has rows for."""

from __future__ import annotations

from bundler.demo_model.corpus import Corpus
from bundler.demo_model.lessons import Teacher
from bundler.demo_model.prompts import encode_answer, encode_prompt, harmony
from bundler.demo_model.words import common_words

_SAMPLE = 8_000  # training dialogues to take tokens from; the examination's are not among them


def used_tokens(corpus: Corpus) -> list[int]:
    """The ids, ascending: those of training dialogues, of common words after a space, of numbers to 999."""
    teacher = Teacher(corpus, common_words(), seed=0)
    used: set[int] = set()
    for _ in range(_SAMPLE):
        dialogue = teacher.next()
        used.update(encode_prompt(dialogue))
        used.update(encode_answer(dialogue.answer))
    for text in (*(f" {word}" for word in common_words()), *map(str, range(1000))):
        used.update(harmony().encode(text))
    return sorted(used)
