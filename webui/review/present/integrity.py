"""The state of the record in words, for the badge in the bar and the page behind it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from appliance.audit.checkpoint import AHEAD_S, Integrity, State
from appliance.database.transactions import as_datetime, as_iso


@dataclass(frozen=True)
class PageIntegrity:
    """`summary` is the badge; `title`, `message` and `what_to_do` are the page."""

    state: State
    summary: str
    title: str
    message: str
    what_to_do: str


def page_integrity(found: Integrity, now: datetime) -> PageIntegrity:
    """What is known of the record at `now`."""
    exported = f"A checkpoint left this machine {_ago(found.exported_us, now)}." if found.exported_us else (
        "No checkpoint has left this machine yet: whoever can write here could still rewrite everything unseen."
    )  # fmt: skip
    if found.state == "broken":
        return PageIntegrity(
            "broken", "Record broken", "The record is broken", _sentence(found.fault or ""),
            "Stop relying on it. Nothing is signed until a reviewer acknowledges what was found. Keep the machine as "
            "it is, tell your security officer, and compare with the checkpoint that was exported last "
            f"(appliance audit verify --against FILE). {exported}",
        )  # fmt: skip
    checked = _checked(found, now)
    if found.verified_us is None:
        return PageIntegrity(
            "stale", "Not yet signed", "Not yet signed", f"No checkpoint has been signed yet. {checked}",
            "The appliance signs one every minute while it runs. Verify now to check all events at once.",
        )  # fmt: skip
    ago, to = _ago(found.verified_us, now), f"{found.verified_size:,}"
    if found.ahead:
        return PageIntegrity(
            "stale", "Clock is behind", "The clock is behind the last checkpoint",
            f"Events 1 to {to} of {found.size:,} were signed at {_utc(found.verified_us)}, and the clock of this "
            f"machine says {now:%Y-%m-%d %H:%M:%S} UTC. {checked} {exported}",
            "One of the two times is wrong. Ask your administrator to set the clock, and who changed it.",
        )  # fmt: skip
    message = (
        f"Events 1 to {to} of {found.size:,} were signed {ago}: each was checked when it was new, and the log "
        f"continues what was signed before. {checked} {exported}"
    )
    if found.state == "stale":
        return PageIntegrity(
            "stale", f"Last signed {ago}", f"Last signed {ago}", message,
            "A checkpoint is due every minute. Ask your administrator whether the appliance runs as it should.",
        )  # fmt: skip
    every = "" if found.checked is None or "ago" not in (when := _ago(found.checked.time_us, now)) else (
        f"; every event checked {when}"
    )  # fmt: skip
    return PageIntegrity("verified", f"Signed to {to}, {ago}{every}", f"Signed to event {to}", message, "")


def _checked(found: Integrity, now: datetime) -> str:
    """When every event was last checked, and with which result."""
    if found.checked is None:
        return "No verification of every event has been made yet."
    outcome = "all were intact" if found.checked.intact else "faults were found"
    when = _ago(found.checked.time_us, now)
    return f"Events 1 to {found.checked.size:,} were last checked one by one {when}: {outcome}."


def _utc(moment_us: int) -> str:
    return f"{as_iso(moment_us)[:19].replace('T', ' ')} UTC"


def _sentence(words: str) -> str:
    return f"{words[:1].upper()}{words[1:]}."


def _ago(moment_us: int | None, now: datetime) -> str:
    """How long ago that was; the time itself if it lies ahead, because the clock was set back since."""
    if moment_us is None:
        return "never"
    seconds = int((now - as_datetime(moment_us)).total_seconds())
    if seconds < -AHEAD_S:
        return f"at {_utc(moment_us)}, which the clock of this machine has not reached"
    seconds = max(0, seconds)
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit} ago"
    return f"{seconds} s ago"
