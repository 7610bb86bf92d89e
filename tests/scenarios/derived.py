"""Archives of releases that differ from a given one in a few files of our own wheel.

The same sender signs them, and nothing is built."""

from __future__ import annotations

import hashlib
import io
import json
import re
import shutil
import tarfile
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from installer.formats.release import DESCRIPTOR, encode_release, parse_release
from tests.installer.archives import Sender, make_wheel


def sender_like(keys: Path, directory: Path) -> Sender:
    """A sender with a copy of these keys and of their ledger."""
    directory.mkdir()
    shutil.copytree(keys, directory / "keys")
    return Sender(directory)


def derived_archive(
    archive: Path,
    sender: Sender,
    version: str,
    sources: Mapping[str, bytes],
    *,
    extra: Mapping[str, bytes] | None = None,
) -> Path:
    """An archive like ``archive``, with these files in our wheel.

    Args:
        sources: path in the wheel -> contents.
        extra: path in the release -> contents.
    """
    files = targets_of(archive)
    wheel = next(name for name in files if name.startswith("wheels/gpt_oss_appliance-"))
    changed = _with_sources(files[wheel], sources)
    before, after = (hashlib.sha256(data).hexdigest() for data in (files[wheel], changed))
    locks = {name: text.decode() for name, text in files.items() if re.fullmatch(r"wheels/requirements.*\.lock", name)}
    assert all(text.count(before) == 1 for text in locks.values())  # one for each Python
    # Without known answers: a self-test takes seconds.
    release = replace(parse_release(files[DESCRIPTOR]), version=version, known_answers=None)
    files |= {name: text.replace(before, after).encode() for name, text in locks.items()}
    files |= {wheel: changed, DESCRIPTOR: encode_release(release)}
    return sender.archive(files | dict(extra or {}), version)


def targets_of(archive: Path) -> dict[str, bytes]:
    """Path -> contents of everything in a release."""
    with tarfile.open(archive) as tar:
        blobs = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
    listed = json.loads(blobs["metadata/targets.json"])["signed"]["targets"]
    return {path: blobs[f"targets/{target['hashes']['sha256']}"] for path, target in listed.items()}


def _with_sources(wheel: bytes, sources: Mapping[str, bytes]) -> bytes:
    with zipfile.ZipFile(io.BytesIO(wheel)) as before:
        files = {name: before.read(name) for name in before.namelist()}
    info = next(name for name in files if re.fullmatch(r"[^/]+\.dist-info/RECORD", name))
    del files[info]
    return make_wheel({**files, **sources}, info.rpartition("/")[0])
