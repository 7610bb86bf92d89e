"""Small bar charts, drawn on the server: one bar for each value, in one colour, so that they print in black and white.

The chart shows the shape; the table beside it has the numbers. A chart has the unit square of its template: `WIDTH` by
`HEIGHT`, with the labels below.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

WIDTH: Final = 320
HEIGHT: Final = 96
_GAP_SHARE: Final = 0.25  # of the room of one bar
_MOST_LABELS: Final = 6


@dataclass(frozen=True)
class Bar:
    """One bar; ``words`` say what it stands for and how much."""

    x: float
    y: float
    width: float
    height: float
    words: str


@dataclass(frozen=True)
class Label:
    """A word below the bars."""

    x: float
    words: str


@dataclass(frozen=True)
class Chart:
    """One chart. ``top`` is the value of the line at the top."""

    title: str
    summary: str
    bars: tuple[Bar, ...]
    labels: tuple[Label, ...]
    top: str
    width: int = WIDTH
    height: int = HEIGHT


def bar_chart(title: str, values: Sequence[tuple[str, float]], *, unit: str = "") -> Chart:
    """A chart of named values, none of which is below 0."""
    top = _round_up(max((value for _, value in values), default=0))
    room = WIDTH / max(len(values), 1)
    bars = tuple(
        Bar(
            round(i * room + room * _GAP_SHARE / 2, 2), round(HEIGHT - HEIGHT * value / top, 2),
            round(room * (1 - _GAP_SHARE), 2), round(HEIGHT * value / top, 2), f"{name}: {shown(value)}{unit}",
        )
        for i, (name, value) in enumerate(values)
    )  # fmt: skip
    step = max(1, math.ceil(len(values) / _MOST_LABELS))
    labels = tuple(Label(round((i + 0.5) * room, 2), values[i][0]) for i in range(0, len(values), step))
    return Chart(title, _summary(values, unit), bars, labels, f"{shown(top)}{unit}")


def shown(value: float) -> str:
    """A number as people read it: 12,345, or 0.4 where that is all there is."""
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:,.1f}"


def _summary(values: Sequence[tuple[str, float]], unit: str) -> str:
    """What a chart says to somebody who does not see it."""
    if not any(value for _, value in values):
        return "Nothing in this time."
    name, most = max(values, key=lambda named: named[1])
    return f"At most {shown(most)}{unit}, on {name}; the last, {values[-1][0]}, has {shown(values[-1][1])}{unit}."


def _round_up(value: float) -> float:
    """The next number of the form 1, 2 or 5 times a power of ten; 1 for 0."""
    if value <= 0:
        return 1
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= value * (1 - 1e-9))
