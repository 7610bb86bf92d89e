"""Compares the whole installed release with its manifest while the appliance serves, and records what was found.

    with watching(log, config.release_dir):      # a thread of the recorder
        ...

A start compares weights by size and time alone, because reading them takes up to a minute. This thread reads every
file of the release after the start and once a day, slowly (`RATE_BYTES_S`), and leaves the page cache to the engine.
Each complete comparison is one event, ``release_compared``: how many files, or which of them differ. A finding also
stands on the administration page until a later comparison finds nothing. Answers go on, because people decide whether
to stop.

Not covered: changes in the memory of a process, and a manifest that was exchanged together with the files (`installer
verify --prefix --root` finds that).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa

from appliance.audit.details.site import FileDifference, ReleaseDiffers, ReleaseIntact
from appliance.audit.event import Action, Actor, Content, NewEvent
from appliance.audit.log import AuditLog, Event
from appliance.audit.rows import load_events
from appliance.database.tables import audit_events
from appliance.errors import ApplianceError
from appliance.runtime.low_priority import run_last
from appliance.runtime.slow_reading import AGAIN_S, RATE_BYTES_S, StoppedError, pace
from installer.formats.manifest import (
    MANIFEST,
    ManifestError,
    Pace,
    compare_code,
    compare_data,
    damage,
    load_manifest,
)

_log = logging.getLogger(__name__)
_SYSTEM = Actor("", "appliance", "system")

_LISTED = 100  # differences in the details of the event


@contextmanager
def watching(log: AuditLog, release: Path, *, rate_bytes_s: int = RATE_BYTES_S) -> Iterator[None]:
    """Compare the release in a thread of its own while the block runs. A directory without a manifest belongs to
    a development checkout (`appliance.runtime.installed`) and is not watched."""
    if not (release / MANIFEST).exists():
        yield
        return
    stop = threading.Event()
    thread = threading.Thread(target=_watch, args=(log, release, stop, rate_bytes_s), name="release watch")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def comparison(release: Path, pace: Pace | None = None) -> NewEvent:
    """Read every file of the release; the event says what was found.

    Args:
        pace: called after each piece that was read.
    """
    try:
        manifest = load_manifest(str(release))
        found = compare_data(str(release), manifest, hash_all=True, pace=pace)  # first what the start did not read
        found += compare_code(str(release), manifest, pace=pace)
    except (ManifestError, OSError) as exc:
        return _found(release, str(exc), ReleaseDiffers(differences=(), count=0))
    if found:
        listed = tuple(FileDifference(difference.path, difference.fault) for difference in found[:_LISTED])
        return _found(release, damage(found), ReleaseDiffers(differences=listed, count=len(found)))
    text = f"{len(manifest.files)} files of release {release.name} are as they were installed"
    details = ReleaseIntact(manifest_sha256=manifest.sha256, files=len(manifest.files))
    return NewEvent(_SYSTEM, "release_compared", subject=release.name, content=Content(text, details))


def newest_finding(log: AuditLog, release: Path) -> str | None:
    """What the newest comparison of this release found, a sentence without a full stop; None where it found nothing.

    Raises:
        DatabaseError: the record cannot be read.
    """
    return finding_of(log, release, ("release_compared",), f"Release {release.name} is not as it was installed")


def finding_of(log: AuditLog, release: Path, actions: Sequence[Action], otherwise: str) -> str | None:
    """What the newest event of these actions found wrong with a release; None where it found nothing.

    Args:
        otherwise: the sentence to return where the event's own words were erased or damaged.
    Raises:
        DatabaseError: the record cannot be read.
    """
    events = audit_events.c
    query = sa.select(events.sequence, events.outcome)
    query = query.where(events.subject == release.name, events.action.in_(actions))
    with log.database.read() as connection:
        row = connection.execute(query.order_by(events.sequence.desc()).limit(1)).first()
    if row is None or row.outcome == "ok":
        return None
    event = load_events(log.database, [row.sequence]).get(row.sequence)
    content = event.content if isinstance(event, Event) else None
    words = otherwise if content is None else content.text
    return f"{words[:1].upper()}{words[1:]}"


def _found(release: Path, why: str, details: ReleaseDiffers) -> NewEvent:
    text = f"Release {release.name} is not as it was installed: {why}"
    return NewEvent(_SYSTEM, "release_compared", "failed", release.name, Content(text, details))


def _watch(log: AuditLog, release: Path, stop: threading.Event, rate_bytes_s: int) -> None:
    run_last()  # in addition to the rate limit
    while not stop.is_set():
        try:
            log.append(comparison(release, pace(stop, rate_bytes_s)))
        except StoppedError:
            return
        except ApplianceError as exc:
            _log.error("the comparison of the release is not recorded: %s", exc)
        stop.wait(AGAIN_S)
