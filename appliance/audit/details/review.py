"""Details of what reviewers do, of findings and of keys."""

from __future__ import annotations

from dataclasses import dataclass

from appliance.audit.details.codec import Details


@dataclass(frozen=True, kw_only=True)
class SearchDetails(Details):
    """One page of a list: the filter as far as it was set, the page, and which events it showed.

    ``before`` is the position of the page, ``newest`` and ``oldest`` are the first and last number of the ``shown``.
    """

    user: str = ""
    since_us: int | None = None
    until_us: int | None = None
    text: str = ""
    actions: tuple[str, ...] = ()
    subject: str = ""
    before: int | None = None
    shown: int | None = None
    newest: int | None = None
    oldest: int | None = None


@dataclass(frozen=True, kw_only=True)
class VerificationDetails(Details):
    """A full verification: how many events there are, how many contents are erased, up to where they are signed."""

    events: int
    erased: int
    signed_to: int | None
    faults: int


@dataclass(frozen=True, kw_only=True)
class EventsExported(Details):
    """Chosen events that left in a file of evidence."""

    sequences: tuple[int, ...]
    with_content: bool


@dataclass(frozen=True, kw_only=True)
class RangeExported(Details):
    """A range of events that left in an extract."""

    first: int
    last: int
    with_content: bool


@dataclass(frozen=True, kw_only=True)
class FindingDetails(Details):
    """A finding of the signer, or the acknowledgement of one."""

    finding: str
    faults: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class KeyReplaced(Details):
    """The note with which the old key signed the new one."""

    note: str
