"""Decides how many drafted tokens a decode step verifies: only as many as are likely to be worth their time.

A step reads all weights for one token of each stream. More tokens take little longer, because they share most of what
is read. So tokens that may come next (draft_lookup.py) are computed as if they had been drawn. Each token of the answer
is then drawn from its own logits as ever; drafts behind the first that differs from the draw are dropped. On a CPU a
token gets the same bits whatever is computed beside it, so the answer is the same with and without drafts, token for
token. Source: speculative decoding (arXiv:2211.17192).

A wrong draft costs time, and other streams wait for it. Each stream has a credit, in steps without drafts: what its
drafts have gained, less what all drafts of its steps took, and a hundredth for each step without. No step has drafts
that are expected to take more than the credit of any of its streams. What they did take is measured: against steps of
the same streams, since a stream at another depth says nothing of these.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median_low

from appliance.engine.draft_lookup import DraftLookup
from appliance.engine.slots import MOST_DRAFTS

_MOST_TOGETHER = 64  # drafts in a step: each has logits of 0.8 MB (memory_needs.py)
_FIRST_CREDIT, _MOST_CREDIT, _STEP_CREDIT = 1.0, 8.0, 0.01  # steps without drafts
_FIRST_COST = 0.35  # of a draft beside one stream, as a share of the step without it, until it was measured
_LEAST_COST, _MOST_COST = 0.02, 1.0  # at most a step of its own
_LEAST_STEP_S = 1e-6  # shorter times are not trusted
_LEAST_PLAIN, _MOST_PLAIN = 2, 4  # steps without drafts whose times are needed, and kept
_RECENT = 0.2  # the weight of the last measurement
_DOUBTED = 0.01  # how much of a high cost each step without drafts takes back, so that it is measured again
_FORGOTTEN = 0.9  # what is left of an earlier draft's weight when the next is known


class DraftStream:
    """The drafts of one stream, and what they were worth."""

    def __init__(self, prompt: Sequence[int]) -> None:
        self.credit = _FIRST_CREDIT
        self._lookup = DraftLookup(prompt)
        self._right, self._known = 2.0, 3.0  # as if two of three drafts had been right

    def append(self, token: int) -> None:
        """The answer goes on with ``token``. Whether it would have been drafted changes the acceptance."""
        right = self._lookup.append(token)
        if right is not None:
            self._right = _FORGOTTEN * self._right + right
            self._known = _FORGOTTEN * self._known + 1

    def expected(self, drafts: int) -> float:
        """How many of so many drafts are accepted, on average."""
        return sum((self._right / self._known) ** place for place in range(1, drafts + 1))

    def draft(self, most: int, cost: float) -> list[int]:
        """As many drafts as are worth most. ``cost``: of each, as a share of a step's time."""
        best = max(range(most + 1), key=lambda drafts: (1 + self.expected(drafts)) / (1 + cost * drafts), default=0)
        return self._lookup.draft(best)


class _Steps:
    """How long steps of so many streams take, with drafts and without."""

    def __init__(self, streams: int) -> None:
        self._first_cost = _FIRST_COST / streams  # the more there are, the smaller a draft's share is
        self.cost = self._first_cost  # what a draft probably takes, as a share of a step without
        self._plain_s: deque[float] = deque(maxlen=_MOST_PLAIN)  # the last steps without drafts
        self._drafted = 0  # steps with drafts since

    @property
    def plain_s(self) -> float | None:
        """How long a step without drafts takes; None if it must be measured, because the speed of memory changes.

        The lower median counts: a step that was held up must not make drafts look cheap.
        """
        known = len(self._plain_s)
        return median_low(self._plain_s) if known >= _LEAST_PLAIN and self._drafted < 2**known else None

    def forget(self) -> None:
        """What steps without drafts took is of no use any more."""
        self._plain_s.clear()

    def note_plain(self, took_s: float) -> None:
        """A step without drafts took so long."""
        self._plain_s.append(max(took_s, _LEAST_STEP_S))
        self._drafted = 0
        self.cost = min(self.cost, _mixed(self.cost, self._first_cost, _DOUBTED))

    def note_drafts(self, drafts: int, took_s: float) -> float:
        """A step with so many drafts took so long. The value is what the drafts took, in steps without."""
        ratio = max(took_s, _LEAST_STEP_S) / median_low(self._plain_s)
        cost = min(max((ratio - 1) / drafts, _LEAST_COST), _MOST_COST)
        self.cost = _mixed(self.cost, cost)
        self._drafted += 1
        if ratio < 1:  # drafts make no step faster, so the machine became faster
            self.forget()
        return cost * drafts


@dataclass
class Drafting:
    """The drafts of one model's streams. ``longest_s``: how long a step with drafts may be expected to take."""

    longest_s: float
    drafted: int = 0  # so far, of all streams
    accepted: int = 0
    _steps: dict[int, _Steps] = field(default_factory=dict)
    _together: list[DraftStream] = field(default_factory=list)  # in the last step

    def plan(self, streams: Sequence[DraftStream], rooms: Sequence[int]) -> list[list[int]]:
        """The drafts of each stream for the next step.

        Args:
            rooms: how many tokens each answer may still have after the step's own.
        """
        none: list[list[int]] = [[] for _ in streams]
        steps = self._steps_of(streams)
        plain_s = steps.plain_s
        if plain_s is None:
            return none
        affordable = min(min(one.credit for one in streams), self.longest_s / plain_s - 1) / steps.cost
        most = min(MOST_DRAFTS, min(int(affordable), _MOST_TOGETHER) // len(streams))
        drafts = [one.draft(min(most, room), steps.cost) for one, room in zip(streams, rooms, strict=True)]
        cost = steps.cost * sum(map(len, drafts))
        if all(one.expected(len(own)) >= cost for one, own in zip(streams, drafts, strict=True)):
            return drafts
        return none

    def note(
        self, streams: Sequence[DraftStream], drafts: Sequence[Sequence[int]], accepted: Sequence[int], took_s: float
    ) -> None:
        """The step that was planned took so long, and so many drafts of each stream were what was drawn."""
        steps, count = self._steps_of(streams), sum(map(len, drafts))
        cost = steps.note_drafts(count, took_s) if count else 0.0
        if not count:
            steps.note_plain(took_s)
        for one, right in zip(streams, accepted, strict=True):
            change = right - cost if count else _STEP_CREDIT
            one.credit = min(one.credit + change, _MOST_CREDIT)
        self.drafted, self.accepted = self.drafted + count, self.accepted + sum(accepted)

    def _steps_of(self, streams: Sequence[DraftStream]) -> _Steps:
        """What is known of the steps of these streams: if they are others than before, only what drafts may take."""
        steps = self._steps.setdefault(len(streams), _Steps(len(streams)))
        if list(streams) != self._together:
            self._together = list(streams)
            steps.forget()
        return steps


def _mixed(before: float, now: float, weight: float = _RECENT) -> float:
    return before + weight * (now - before)
