"""What the integrity page says about a verification. Pure: reports in, words out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from appliance.audit.fault import Fault
from appliance.audit.pages import PagesReport
from appliance.audit.verify import VerificationReport

MOST_LISTED: Final = 50


@dataclass(frozen=True)
class PageReport:
    """One verification. A list of more than `MOST_LISTED` sentences ends with how many are left out."""

    is_intact: bool
    size: int
    duration_s: float
    erased: int
    checkpoints: int
    checked: Sequence[str]
    unchecked: Sequence[str]
    root: str  # hexadecimal; "" if events are missing
    remarks: Sequence[str]
    known_damage: Sequence[str]
    faults: Sequence[str]


def page_report(report: VerificationReport, pages: PagesReport) -> PageReport:
    """What was found in the log and beside it."""
    faults = (*report.faults, *pages.faults)
    return PageReport(
        is_intact=not faults, size=report.size, duration_s=report.duration_s, erased=report.erased,
        checkpoints=report.checkpoints, checked=pages.checked, unchecked=pages.unchecked,
        root=report.root.hex() if report.root else "", remarks=_listed((*report.remarks, *pages.remarks)),
        known_damage=_listed(report.known_damage), faults=_listed(faults),
    )  # fmt: skip


def _listed(found: Sequence[Fault]) -> tuple[str, ...]:
    more = [f"And {len(found) - MOST_LISTED:,} more."] if len(found) > MOST_LISTED else []
    return (*(str(one) for one in found[:MOST_LISTED]), *more)
