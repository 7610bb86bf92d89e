"""Decides how many drafted tokens a decode step verifies: only as many as are likely to be worth their time.

A step reads all weights for one token of each stream. More tokens take little longer, because they share most of what
is read. So tokens that may come next (draft_lookup.py) are computed as if they had been drawn. Each token of the answer
is then drawn from its own logits as ever; drafts behind the first that differs from the draw are dropped. On a CPU a
token gets the same bits whatever is computed beside it, so the answer is the same with and without drafts, token for
token. Source: speculative decoding (arXiv:2211.17192).

A wrong draft costs time, and other streams wait for it. Each stream has a credit, in tokens: what its drafts have
gained, less what all drafts have cost it, and a hundredth of a token for each step without drafts. Nothing is drafted
that could cost more than the credit of any stream in the step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from appliance.engine.draft_lookup import DraftLookup

_MOST = 8  # drafts of a stream in a step
_FIRST_CREDIT, _MOST_CREDIT, _STEP_CREDIT = 1.0, 8.0, 0.01  # tokens
_FIRST_COST = 0.35  # of a draft beside one stream, as a share of the step without it, until it was measured
_LEAST_COST, _MOST_COST = 0.02, 2.0
_LEAST_STEP_S = 1e-6  # shorter times are not trusted
_REMEASURED = 64  # after so many steps with drafts one is done without, because the speed of memory changes
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


@dataclass
class _Steps:
    """How long steps of so many streams take."""

    first_cost: float
    plain_s: float | None = None  # without drafts
    drafted: int = 0  # since the last one without

    def __post_init__(self) -> None:
        self.cost = self.first_cost

    def note(self, drafts: int, took_s: float) -> None:
        """A step with so many drafts took so long."""
        took_s = max(took_s, _LEAST_STEP_S)
        if not drafts:
            self.plain_s = took_s if self.plain_s is None else _mixed(self.plain_s, took_s)
            self.cost = min(self.cost, _mixed(self.cost, self.first_cost, _DOUBTED))
            self.drafted = 0
        elif self.plain_s is not None:
            cost = (took_s / self.plain_s - 1) / drafts
            self.cost = _mixed(self.cost, min(max(cost, _LEAST_COST), _MOST_COST))
            self.drafted += 1


@dataclass
class Drafting:
    """The drafts of one model's streams. ``longest_s``: how long a step with drafts may take."""

    longest_s: float
    drafted: int = 0  # so far, of all streams
    accepted: int = 0
    _steps: dict[int, _Steps] = field(default_factory=dict)

    def plan(self, streams: Sequence[DraftStream], rooms: Sequence[int]) -> list[list[int]]:
        """The drafts of each stream for the next step.

        Args:
            rooms: how many tokens each answer may still have after the step's own.
        """
        none: list[list[int]] = [[] for _ in streams]
        steps = self._steps_of(len(streams))
        if steps.plain_s is None or steps.drafted >= _REMEASURED:
            return none
        affordable = min(min(one.credit for one in streams), self.longest_s / steps.plain_s - 1) / steps.cost
        most = min(_MOST, int(affordable) // len(streams))
        drafts = [one.draft(min(most, room), steps.cost) for one, room in zip(streams, rooms, strict=True)]
        cost = steps.cost * sum(map(len, drafts))
        if all(one.expected(len(own)) >= cost for one, own in zip(streams, drafts, strict=True)):
            return drafts
        return none

    def note(
        self, streams: Sequence[DraftStream], drafts: Sequence[Sequence[int]], accepted: Sequence[int], took_s: float
    ) -> None:
        """A step took so long, and so many drafts of each stream were what was drawn."""
        steps, count = self._steps_of(len(streams)), sum(map(len, drafts))
        steps.note(count, took_s)
        for one, right in zip(streams, accepted, strict=True):
            change = right - steps.cost * count if count else _STEP_CREDIT
            one.credit = min(one.credit + change, _MOST_CREDIT)
        self.drafted, self.accepted = self.drafted + count, self.accepted + sum(accepted)

    def _steps_of(self, streams: int) -> _Steps:
        """What is known of steps of so many streams. The more there are, the smaller a draft's share is."""
        return self._steps.setdefault(streams, _Steps(_FIRST_COST / streams))


def _mixed(before: float, now: float, weight: float = _RECENT) -> float:
    return before + weight * (now - before)
