"""Details of the appliance's own life: starts, processes, refused calls, the release and the packed weights."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from appliance.audit.details.codec import ALWAYS, Details


@dataclass(frozen=True, kw_only=True)
class StartedRelease(Details):
    """The release that runs; a directory without a manifest, as in development, is none."""

    version: str
    manifest_sha256: str
    files: int | None = None


@dataclass(frozen=True, kw_only=True)
class ApplianceStarted(Details):
    """A start: the proof of silence (`appliance.isolation.Silence`) and the signing key, empty while it is unknown.

    ``last_run`` says in a sentence that the run before did not end in order; None where it did.
    """

    silence: dict[str, Any]
    release: StartedRelease | None = field(default=None, metadata=ALWAYS)
    last_run: str | None = field(default=None, metadata=ALWAYS)
    signing_key: str | None = field(default=None, metadata=ALWAYS)


@dataclass(frozen=True, kw_only=True)
class ProcessEnded(Details):
    """How a process ended, and how long it had run."""

    how: str
    ran_s: float


@dataclass(frozen=True, kw_only=True)
class ProcessPaused(Details):
    """How a process was stopped from outside."""

    how: str


@dataclass(frozen=True, kw_only=True)
class AttemptRefused(Details):
    """Refused calls, as `appliance.isolation.refused.Refused` describes them."""

    kind: str
    call: str
    pid: int
    arguments: tuple[int, ...]
    count: int
    first_us: int


@dataclass(frozen=True, kw_only=True)
class ReleaseIntact(Details):
    """Every file of the release is as it was installed."""

    manifest_sha256: str
    files: int


@dataclass(frozen=True)
class FileDifference:
    """One file that is not as it was installed."""

    path: str
    fault: str


@dataclass(frozen=True, kw_only=True)
class ReleaseDiffers(Details):
    """The release is not as it was installed: the first differences, and how many there are."""

    differences: tuple[FileDifference, ...]
    count: int


@dataclass(frozen=True, kw_only=True)
class PackedWeights(Details):
    """Digests of the packed weights by file, or why a file has none; ``expected`` are those of another ``event``."""

    manifest_sha256: str
    sha256: dict[str, str]
    expected: dict[str, str] | None = None
    event: int | None = None


@dataclass(frozen=True, kw_only=True)
class SchemaUpgraded(Details):
    """The schema before and after, and what was verified both times: the events before this one and their tree's root.

    ``root`` is None where events are missing. ``faults`` counts those of a damaged record, and ``reason`` is why an
    operator upgraded it all the same.
    """

    before: str
    after: str
    events: int
    root: str | None = field(default=None, metadata=ALWAYS)
    faults: int = 0
    reason: str | None = None


@dataclass(frozen=True, kw_only=True)
class ReleaseReturned(Details):
    """A new release did not become healthy, so the one before is served again: which, why, and when that happened."""

    left: str
    to: str
    why: str
    at: str
