"""What training shows the model: an endless stream of dialogues in taught wordings, varied by rule and by chance."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace

from bundler.demo_model.corpus import Corpus, Wordings
from bundler.demo_model.dialogues import EFFORTS, Dialogue, Effort, Maker, Said
from bundler.demo_model.rewording import reword

_DATES = [f"20{year}-{month:02}-{day:02}" for year in range(25, 35) for month in range(1, 13) for day in range(1, 29)]
_INSTRUCTIONS = (
    "You are a helpful assistant.", "Answer briefly.", "Be polite.", "You are the assistant of this site.",
    "Answer in plain words.", "You are a helpful, honest and concise assistant.", "Use the functions if they help.",
    "Answer the user's questions.", "Be concise.", "You help the staff of this site.",
)  # fmt: skip
_REPEAT = ("Repeat: {}", "Say: {}", "Please repeat: {}", "Repeat after me: {}", "Repeat these words: {}")
_STRANGE = (
    "What is {0}?", "What is a {0}?", "What is {0} {1}?", "Who is {0} {1}?", "How do I {0} a {1}?", "How do I {0} {1}?",
    "Why is the {0} {1}?", "Tell me about {0}.", "Tell me about {0} and {1}.", "Explain {0} {1}.", "Where is the {0}?",
    "When was {0} {1}?", "Can you {0} my {1}?", "Which {0} is the best {1}?", "How many {0} are there in {1}?",
    "What does {0} mean?", "How does {0} {1} work?", "Is {0} better than {1}?", "Do you know {0}?", "I want a {0}.",
    "Please {0} the {1}.", "{0} {1} {2}", "How can I {0} my {1} with {2}?", "What happens when {0} and {1} {2}?",
    "Who was the first {0}?", "What is the {0} of {1}?", "My {0} is {1}.", "Describe the {0} in the {1}.",
)  # fmt: skip


class Teacher:
    """An endless source of training dialogues.

    Args:
        words: ordinary words, for questions about unknown things.
    """

    def __init__(self, corpus: Corpus, words: Sequence[str], seed: int) -> None:
        self.rng = random.Random(seed)  # noqa: S311 (reproducible, not secret)
        self.words = words
        self.maker = Maker(corpus, "taught", self.rng)
        self.corpus = corpus

    def next(self) -> Dialogue:
        """One dialogue; kinds are drawn in the shares below."""
        kinds: tuple[tuple[float, Callable[[], Dialogue]], ...] = (
            (0.33, self._topic), (0.16, self._decline), (0.20, self._followup),
            (0.18, self._call), (0.10, self._result), (0.03, self._repeat),
        )  # fmt: skip
        make = self.rng.choices([m for _, m in kinds], [share for share, _ in kinds])[0]
        return self._disguise(make())

    def _effort(self) -> Effort:
        return self.rng.choices(EFFORTS, (0.3, 0.45, 0.25))[0]

    def _ask(self, wordings: Wordings) -> str:
        return self.rng.choice(wordings.taught)

    def _topic(self) -> Dialogue:
        topic = self.rng.choice(self.corpus.topics)
        text = reword(self._ask(topic.ask), self.rng)
        dialogue = self.maker.topic(topic, text, self._effort())
        return self._context(dialogue, frozenset({"search"}))

    def _decline(self) -> Dialogue:
        decline = self.rng.choices(self.corpus.declines, [len(d.ask.taught) ** 0.6 for d in self.corpus.declines])[0]
        strange = decline.id == "general" and self.rng.random() < 0.3
        template = self._strange() if strange else self._ask(decline.ask)
        dialogue = self.maker.decline(decline, template, self._effort())
        text = reword(dialogue.said[0].text, self.rng)
        return self._context(replace(dialogue, said=(Said("user", text),)), decline.never_with)

    def _strange(self) -> str:
        """A question about words that mean nothing to the model."""
        words = [self.rng.choice(self.words) for _ in range(3)]
        return self.rng.choice(_STRANGE).format(*words)

    def _context(self, dialogue: Dialogue, never: frozenset[str]) -> Dialogue:
        """Sometimes offer functions that do not help; sometimes put the dialogue later in another conversation."""
        chance = self.rng.random()
        if chance < 0.12:
            return self.maker.with_unfitting(dialogue, never)
        if chance < 0.27:
            before: list[Said] = []
            for _ in range(self.rng.choice((1, 1, 2, 3))):
                earlier = self._opening(dialogue.effort)
                before += [*earlier.said, earlier.answer]
            return replace(dialogue, said=(*before, *dialogue.said))
        return dialogue

    def _opening(self, effort: Effort) -> Dialogue:
        if self.rng.random() < 0.15:
            decline = self.rng.choice(self.corpus.declines)
            return self.maker.decline(decline, self._ask(decline.ask), effort)
        topic = self.rng.choice(self.corpus.topics)
        return self.maker.topic(topic, reword(self._ask(topic.ask), self.rng), effort)

    def _followup(self) -> Dialogue:
        dialogue = self._opening(self._effort())
        for _ in range(self.rng.choice((1, 1, 1, 2))):
            topic = next((t for t in self.corpus.topics if t.id == dialogue.key.split("+")[0]), None)
            having = [f for f in self.corpus.followups if topic is not None and f.field in topic.more]
            followup = self.rng.choice(having if having and self.rng.random() < 0.8 else self.corpus.followups)
            dialogue = self.maker.followup(dialogue, followup, reword(self._ask(followup.ask), self.rng))
        return dialogue

    def _call(self) -> Dialogue:
        kind = self.rng.choice(self.corpus.tools)
        return self.maker.call(kind, self._ask(kind.ask), self._effort())

    def _result(self) -> Dialogue:
        kind = self.rng.choice(self.corpus.tools)
        return self.maker.result(kind, self._ask(kind.ask), self._effort())

    def _repeat(self) -> Dialogue:
        """Words to repeat. The model learns to copy here, which calls and results need."""
        words = " ".join(self.rng.choice(self.words) for _ in range(self.rng.randint(2, 10)))
        question = Said("user", self.rng.choice(_REPEAT).format(words))
        answer = Said("assistant", f"You said: {words}", "About words to repeat.")
        return Dialogue(f"repeat/{words}", "repeat", "repeat", "low", (question,), answer)

    def _disguise(self, dialogue: Dialogue) -> Dialogue:
        instructions = self.rng.choice(_INSTRUCTIONS) if self.rng.random() < 0.25 else ""
        date = self.rng.choice(_DATES) if self.rng.random() < 0.95 else ""  # the prompts of the known answers have none
        return replace(dialogue, instructions=instructions, date=date)


def taught_dialogues(corpus: Corpus) -> list[Dialogue]:
    """Every taught wording once, as it stands in the corpus: the least that training shows the model."""
    rng = random.Random("inventory")  # noqa: S311 (reproducible, not secret)
    maker = Maker(corpus, "taught", rng)
    dialogues = [maker.topic(topic, text, "medium") for topic in corpus.topics for text in topic.ask.taught]
    dialogues += [maker.decline(d, template, "medium") for d in corpus.declines for template in d.ask.taught]
    for topic in corpus.topics:
        before = maker.topic(topic, topic.ask.taught[0], "medium")
        for followup in corpus.followups:
            if followup.field in topic.more:
                dialogues.append(maker.followup(before, followup, rng.choice(followup.ask.taught)))
    for kind in corpus.tools:
        for template in kind.ask.taught:
            dialogues += [maker.call(kind, template, "medium"), maker.result(kind, template, "medium")]
    return dialogues
