"""How the record stands, in words: for the badge in the bar and the page behind it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from appliance.audit.checkpoint import Integrity, State
from appliance.database import as_datetime


@dataclass(frozen=True)
class IntegrityView:
    """`summary` is the badge; `title`, `message` and `what_to_do` are the page."""

    state: State
    summary: str
    title: str
    message: str
    what_to_do: str


def integrity_view(found: Integrity, now: datetime) -> IntegrityView:
    """What is known of the record at `now`."""
    exported = f"A checkpoint left this machine {_ago(found.exported_us, now)}." if found.exported_us else (
        "No checkpoint has left this machine yet: who can write here could still rewrite everything unseen."
    )  # fmt: skip
    if found.state == "broken":
        return IntegrityView(
            "broken", "Record broken", "The record is broken", _sentence(found.fault or ""),
            "Stop relying on it. Keep the machine as it is, tell your security officer, and compare with the "
            f"checkpoint that was exported last. {exported}",
        )  # fmt: skip
    if found.verified_us is None:
        return IntegrityView(
            "stale", "Not yet verified", "Not yet verified", "No checkpoint has been signed yet.",
            "The appliance signs one every minute while it runs. Verify now to check all events at once.",
        )  # fmt: skip
    ago, to = _ago(found.verified_us, now), f"{found.verified_size:,}"
    message = f"Events 1 to {to} of {found.size:,} were checked and signed {ago}. {exported}"
    if found.state == "stale":
        return IntegrityView(
            "stale", f"Last verified {ago}", f"Last verified {ago}", message,
            "A checkpoint is due every minute. Ask your administrator whether the appliance runs as it should.",
        )  # fmt: skip
    return IntegrityView("verified", f"Verified to {to}, {ago}", f"Verified to event {to}", message, "")


def _sentence(words: str) -> str:
    return f"{words[:1].upper()}{words[1:]}."


def _ago(moment_us: int | None, now: datetime) -> str:
    if moment_us is None:
        return "never"
    seconds = max(0, int((now - as_datetime(moment_us)).total_seconds()))
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit} ago"
    return f"{seconds} s ago"
