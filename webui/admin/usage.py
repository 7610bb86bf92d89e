"""The page of usage: charts of the days, and a table by day, person, group or key, also as CSV. It holds no words."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final, cast, get_args

from flask import Response, current_app, make_response, render_template, request, url_for

from appliance.database.transactions import as_us
from appliance.people.allowance import DAY_US
from appliance.people.usage import Figures
from appliance.people.usage_report import By, Line, usage_lines
from webui.admin.chart import Chart, bar_chart
from webui.admin.routes import blueprint
from webui.allowances import usage_of
from webui.csv_file import Cell, csv_response
from webui.services import services

SPANS: Final = (7, 30, 90, 365)  # days
BY_WORDS: Final[dict[By, str]] = {"day": "Day", "person": "Person", "group": "Group", "key": "API key"}
_HEAD: Final = (
    "people", "requests", "refused", "failed", "tokens_in", "tokens_out", "first_token_s_mean", "first_token_s_most",
    "whole_s_mean", "whole_s_most",
)  # fmt: skip


@blueprint.get("/usage")
def usage() -> Response:
    """Charts and a table."""
    by, span = _asked()
    days = _filled(_lines("day", span), span)
    lines = [(_day_of(line.name) if by == "day" else line.name, line) for line in _table(by, span, days)]
    page = render_template(
        "admin_usage.html", by=by, span=span, spans=SPANS, by_words=BY_WORDS, charts=charts_of(days), lines=lines,
        total=sum((line.figures for line in days), Figures()),
        csv=url_for("admin.usage_csv", by=by, days=span), today=_day_of(str(_today())),
    )  # fmt: skip
    return make_response(page)


@blueprint.get("/usage.csv")
def usage_csv() -> Response:
    """The table as a file."""
    by, span = _asked()
    lines = _table(by, span, _filled(_lines("day", span), span))
    rows = ((_day_of(line.name) if by == "day" else line.name, *_cells(line)) for line in lines)
    return csv_response(f"usage-by-{by}-{_day_of(str(_today()))}.csv", (by, *_HEAD), rows)


def charts_of(days: Sequence[Line]) -> list[Chart]:
    """One chart for each thing that is counted."""

    def chart(title: str, value: Any, unit: str = "") -> Chart:
        return bar_chart(title, [(_day_of(line.name), value(line)) for line in days], unit=unit)

    return [
        chart("Tokens a day", lambda line: line.figures.tokens),
        chart("Requests a day", lambda line: line.figures.requests),
        chart("People a day", lambda line: line.people),
        chart("Refusals a day", lambda line: line.figures.refused),
        chart("First token, mean", lambda line: line.figures.first_s or 0.0, " s"),
        chart("Whole answer, mean", lambda line: line.figures.whole_s or 0.0, " s"),
    ]


def _asked() -> tuple[By, int]:
    by, days = request.args.get("by", ""), request.args.get("days", "")
    span = int(days) if days in {str(span) for span in SPANS} else 30
    return (cast(By, by) if by in get_args(By) else "day"), span


def _table(by: By, span: int, days: list[Line]) -> list[Line]:
    """The newest day first; otherwise who uses most."""
    return [line for line in reversed(days) if line.figures != Figures()] if by == "day" else _lines(by, span)


def _lines(by: By, span: int) -> list[Line]:
    usage_of(current_app).keep()  # what this worker has counted since; the others keep theirs with their next turn
    return usage_lines(services().record.database, by, _today() - span + 1, _today())


def _filled(lines: Sequence[Line], span: int) -> list[Line]:
    """A line for each day, also where nothing was used."""
    found = {line.name: line for line in lines}
    days = map(str, range(_today() - span + 1, _today() + 1))
    return [found.get(day, Line(day, 0, Figures())) for day in days]


def _today() -> int:
    return as_us(services().clock()) // DAY_US


def _day_of(days_since_1970: str) -> str:
    return f"{datetime.fromtimestamp(int(days_since_1970) * DAY_US / 1_000_000, UTC):%Y-%m-%d}"


def _cells(line: Line) -> tuple[Cell, ...]:
    used = line.figures
    means = [None if mean is None else round(mean, 3) for mean in (used.first_s, used.whole_s)]
    mosts = [round(most / 1e6, 3) if used.timed else None for most in (used.first_most_us, used.whole_most_us)]
    return (
        line.people, used.requests, used.refused, used.failed, used.tokens_in, used.tokens_out, means[0], mosts[0],
        means[1], mosts[1],
    )  # fmt: skip
