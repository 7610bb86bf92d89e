"""Details of refusals."""

from __future__ import annotations

from dataclasses import dataclass

from appliance.audit.details.codec import Details


@dataclass(frozen=True, kw_only=True)
class PromptTooLarge(Details):
    """A prompt that cannot fit: its size, what fits, and the digest of its texts one after the other."""

    size_bytes: int
    limit_bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class BodyTooLarge(Details):
    """A body that was refused unread; its size is None where the request did not name one."""

    size_bytes: int | None


@dataclass(frozen=True, kw_only=True)
class QuotaSpent(Details):
    """A person's day is spent; the limit of one day."""

    limit_bytes: int


@dataclass(frozen=True, kw_only=True)
class ScopeMissing(Details):
    """A key, by its label, that lacks the scope of what was asked."""

    key: str
    scope: str


@dataclass(frozen=True, kw_only=True)
class KeyLimitReached(Details):
    """A key, by its label, whose limit is used up; ``of`` says what is limited, in words."""

    key: str
    limit: int
    of: str


@dataclass(frozen=True, kw_only=True)
class QuotaReached(Details):
    """A quota that is used up: its limit, what is limited, and whose quota it is, in words."""

    limit: int
    of: str
    whose: str


@dataclass(frozen=True, kw_only=True)
class RepeatedDenial(Details):
    """``count`` more denials of one source (`appliance.audit.repeated`).

    ``subjects`` are pages concerned. ``addresses`` are those of the source that the header does not name.
    """

    count: int
    within_s: float
    subjects: tuple[str, ...]
    addresses: tuple[str, ...] = ()
