"""The fixed examination: dialogues whose last question is a wording that training never shows."""

from __future__ import annotations

import random
from dataclasses import replace

from bundler.demo_model.corpus import Corpus
from bundler.demo_model.dialogues import EFFORTS, SLOT, Dialogue, Effort, Maker


def held_out_dialogues(corpus: Corpus) -> list[Dialogue]:
    """The examination: every held-out wording once, declines twice; the three efforts take turns."""
    rng = random.Random("examination")  # noqa: S311 (reproducible, not secret)
    maker, taught = Maker(corpus, "held_out", rng), Maker(corpus, "taught", rng)
    dialogues: list[Dialogue] = []

    def effort() -> Effort:
        return EFFORTS[len(dialogues) % 3]

    for topic in corpus.topics:
        for text in topic.ask.held_out:
            dialogues.append(maker.topic(topic, text, effort()))
    for decline in corpus.declines:
        for template in decline.ask.held_out:
            for _ in range(2 if SLOT.search(template) else 1):
                dialogues.append(maker.decline(decline, template, effort()))
    for followup in corpus.followups:
        for topic in [t for t in corpus.topics if followup.field in t.more][::6]:
            before = taught.topic(topic, topic.ask.taught[0], effort())
            dialogues += [maker.followup(before, followup, text) for text in followup.ask.held_out]
    for kind in corpus.tools:
        for template in kind.ask.held_out:
            dialogues.append(maker.call(kind, template, effort()))
            dialogues.append(maker.result(kind, template, effort()))
    for topic in corpus.topics[3::8]:
        asked = maker.topic(topic, topic.ask.held_out[0], effort())
        dialogues.append(maker.with_unfitting(asked, frozenset({"search"})))
    for topic, earlier in zip(corpus.topics[1::8], corpus.topics[30::4], strict=False):
        before = taught.topic(earlier, earlier.ask.taught[0], effort())
        later = maker.topic(topic, topic.ask.held_out[0], effort())
        said = (*before.said, before.answer, *later.said)
        dialogues.append(replace(later, id=f"{before.id}/{later.id}", category="later turn", said=said))
    return dialogues
