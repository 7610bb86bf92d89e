"""Records what was packed for this processor, and compares it while the appliance serves.

    with PackedWatch(log, release, packed_dir) as packed:       # a thread of the recorder
        packed.packer_ended(anew=True)                          # told by the supervisor

The engine compares the packed weights with the description that lies beside them, which does not detect an exchange of
both. So the first packing of an installation is an event, ``weights_packed``, with the SHA-256 of both files: the
record is tamper-evident, and the packer cannot write there. The recorder reads the files itself. It takes nothing from
the packer; the supervisor tells it that the packer has ended and whether it packed. After each run of the packer, and
once a day, both files are compared with the newest such event of this version; the comparison is an event as well
(``weights_compared``). A finding stands on the administration page until a later comparison finds nothing.

Packing the same weights again gives the same bytes, on every processor (docs/decisions/0004). Where the packer says
that it packed anew and the bytes differ, one of the two packings was wrong: that is a finding, too, and the new bytes
are what later comparisons expect.

Weights that were packed before packings were recorded are recorded when they are first seen. Not covered: what a packer
that was taken over packs the first time, and changes between the packer's end and the reading of the files, which takes
a minute for gpt-oss-20b.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import sqlalchemy as sa

from appliance.audit.details.kinds import parse_details
from appliance.audit.details.site import PackedWeights
from appliance.audit.event import Action, Actor, Content, NewEvent
from appliance.audit.log import AuditLog, Event
from appliance.audit.rows import load_events
from appliance.database.tables import audit_events
from appliance.errors import ApplianceError
from appliance.runtime.low_priority import run_last
from appliance.runtime.release_watch import finding_of
from appliance.runtime.slow_reading import AGAIN_S, RATE_BYTES_S, StoppedError, pace
from installer.formats.manifest import MANIFEST, ManifestError, Pace, file_digest, load_manifest

_log = logging.getLogger(__name__)
_SYSTEM: Final = Actor("", "appliance", "system")
PACKED_FILES: Final = ("packed.bin", "packed.json")
SOON_BYTES_S: Final = 256 << 20  # after the packer: fast, because an exchange goes unnoticed until this is done
_MOST_PACKINGS: Final = 100  # events to look at; more would be needed only if somebody damaged some
_ACTIONS: Final[tuple[Action, ...]] = ("weights_packed", "weights_compared")


@dataclass(frozen=True)
class Packed:
    """The packed weights of one installed release: the digest of each file that is there, or why it has none."""

    manifest_sha256: str
    sha256: Mapping[str, str]

    def details(self, expected: tuple[int, Mapping[str, str]] | None = None) -> PackedWeights:
        """The details of an event; ``expected``: number and digests of an earlier event that differ from these."""
        event, sha256 = expected or (None, None)
        return PackedWeights(
            manifest_sha256=self.manifest_sha256, sha256=dict(self.sha256), event=event,
            expected=None if sha256 is None else dict(sha256),
        )  # fmt: skip


def read_packed(release: Path, packed_dir: Path, pace: Pace | None = None) -> Packed | None:
    """Read what is packed now; None where nothing was packed, as on CUDA, and in a development checkout.

    Raises:
        ManifestError: the manifest of the release cannot be read.
    """
    if not (release / MANIFEST).exists():
        return None
    directory = packed_dir / release.name
    present = [name for name in PACKED_FILES if os.path.lexists(directory / name)]
    if not present:
        return None
    found = {name: _digest_of(directory / name, pace) for name in present}
    return Packed(load_manifest(str(release)).sha256, found)


def _digest_of(path: Path, pace: Pace | None) -> str:
    """The file's digest, or words that say why it cannot be read."""
    try:
        return file_digest(str(path), pace, keep_cached=False)
    except OSError as exc:
        return f"cannot be read: {exc.strerror}"


def packed_event(log: AuditLog, release: Path, packed: Packed, *, anew: bool) -> NewEvent:
    """The event to record about the packed weights as they are now.

    Args:
        anew: the packer has just packed them, rather than found them.
    Raises:
        DatabaseError: the record cannot be read.
    """
    expected = _recorded(log, release)
    name = f"the packed weights of release {release.name}"
    if expected is None:
        text = f"{name}: packed now" if anew else f"{name}: seen for the first time; they were packed before"
        return _event(release, "weights_packed", text, packed.details())
    sequence, sha256 = expected
    differ = [file for file in PACKED_FILES if packed.sha256.get(file) != sha256.get(file)]
    if not differ:
        text = f"{name} are those of event {sequence}"
        return _event(release, "weights_compared", text, packed.details())
    details = packed.details(expected)
    if anew:
        text = f"{name} were packed anew, and are not those of event {sequence}: one of the two packings was wrong"
        return _event(release, "weights_packed", text, details, outcome_ok=False)
    text = f"{name} are not those of event {sequence}: {' and '.join(differ)} were exchanged"
    return _event(release, "weights_compared", text, details, outcome_ok=False)


def newest_packed_finding(log: AuditLog, release: Path) -> str | None:
    """What the newest look at the packed weights found, a sentence without a full stop; None where it found nothing.

    Raises:
        DatabaseError: the record cannot be read.
    """
    return finding_of(log, release, _ACTIONS, f"The packed weights of release {release.name} were exchanged")


class PackedWatch:
    """Compares the packed weights whenever the packer has ended, and daily after that."""

    def __init__(
        self, log: AuditLog, release: Path, packed_dir: Path, *,
        rates_bytes_s: tuple[int, int] = (SOON_BYTES_S, RATE_BYTES_S), again_s: float = AGAIN_S,
    ) -> None:  # fmt: skip
        self._log, self._release, self._packed_dir = log, release, packed_dir
        self._soon_bytes_s, self._daily_bytes_s = rates_bytes_s
        self._again_s = again_s
        self._ended: queue.SimpleQueue[bool | None] = queue.SimpleQueue()  # whether packed anew; None: stop
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="packed watch")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._ended.put(None)
        self._thread.join()

    def packer_ended(self, *, anew: bool) -> None:
        """Take note that the packed weights are there, packed just now (anew) or found."""
        self._ended.put(anew)

    def _watch(self) -> None:
        run_last()  # in addition to the rate limit
        anew, rate = self._ended.get(), self._soon_bytes_s
        while anew is not None:
            try:
                self._look(anew, rate)
            except StoppedError:
                return
            except (ApplianceError, ManifestError, OSError) as exc:
                _log.error("the packed weights are not compared: %s", exc)
            try:
                anew, rate = self._ended.get(timeout=self._again_s), self._soon_bytes_s
            except queue.Empty:
                anew, rate = False, self._daily_bytes_s

    def _look(self, anew: bool, rate_bytes_s: int) -> None:
        packed = read_packed(self._release, self._packed_dir, pace(self._stop, rate_bytes_s))
        if packed is not None:
            self._log.append(packed_event(self._log, self._release, packed, anew=anew))


def _recorded(log: AuditLog, release: Path) -> tuple[int, Mapping[str, str]] | None:
    """Number and digests of the newest event about packing this release whose content is as it was recorded."""
    events = audit_events.c
    query = sa.select(events.sequence).where(events.subject == release.name, events.action == "weights_packed")
    with log.database.read() as connection:
        numbers = list(connection.scalars(query.order_by(events.sequence.desc()).limit(_MOST_PACKINGS)))
    for number in numbers:
        event = load_events(log.database, [number]).get(number)
        if not isinstance(event, Event) or event.sealed is None:
            continue
        details = parse_details(event.header.action, event.sealed.details)
        if event.sealed.commitment() == event.header.commitment and isinstance(details, PackedWeights):
            return number, details.sha256
    return None


def _event(release: Path, action: Action, text: str, details: PackedWeights, *, outcome_ok: bool = True) -> NewEvent:
    return NewEvent(_SYSTEM, action, "ok" if outcome_ok else "failed", release.name, Content(text, details))
