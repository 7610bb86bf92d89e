"""What lies beside an archive for the person who carries it: the kit, its digest and signature, and the carrying sheet.

gpt-oss-20b.airgap    gpt-oss-20b.airgap.sheet.html    installer.pyz    installer.pyz.sha256    installer.pyz.sig
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bundler.archive import digest_file
from bundler.errors import BuildError
from bundler.keys import INSTALLER_KEY, ROOT, SigningKeys
from bundler.kit import KIT, build_kit, public_key_pem, sign_kit
from bundler.lock import KitTarget, load_kit_lock
from bundler.sheet import Carried, Sheet, encode_sheet
from bundler.wheelhouse import fetch_wheels
from installer.durable import write_durably
from installer.fingerprint import root_fingerprint
from installer.progress import SILENT, Progress
from installer.verify import VerifiedArchive

_EXECUTABLE = 0o755


@dataclass(frozen=True)
class Carriage:
    """The files to carry, and what people compare."""

    sheet: Path
    files: tuple[Carried, ...]
    fingerprint: str  # of the root

    def as_json(self) -> dict[str, Any]:
        return {
            "sheet": str(self.sheet),
            "files": [asdict(file) for file in self.files],
            "fingerprint": self.fingerprint,
        }


def write_carriage(
    archive: Sequence[Path],
    verified: VerifiedArchive,
    keys: SigningKeys,
    wheel_cache: Path,
    progress: Progress = SILENT,
) -> Carriage:
    """Write kit and sheet beside an archive, and the kit's public key beside root.json.

    Args:
        archive: the archive, or its volumes in order.
    Raises:
        BundlerError: the kit cannot be built or signed, or a file cannot be written.
    """
    progress.stage("Writing the kit and the carrying sheet", sum(path.stat().st_size for path in archive))
    kit = build_kit(fetch_wheels(load_kit_lock(), KitTarget(), wheel_cache))
    directory = archive[0].parent
    beside = {
        KIT: kit,
        f"{KIT}.sha256": f"{hashlib.sha256(kit).hexdigest()}  {KIT}\n".encode(),
        f"{KIT}.sig": sign_kit(keys, kit),
    }
    pem = public_key_pem(keys)
    fingerprint = root_fingerprint(keys.roots[-1])
    files = tuple(_carried(path, progress) for path in archive)
    files += tuple(Carried(name, len(data), hashlib.sha256(data).hexdigest()) for name, data in beside.items())
    by_another_way = tuple(
        Carried(name, len(data), hashlib.sha256(data).hexdigest())
        for name, data in ((ROOT, keys.roots[-1]), (INSTALLER_KEY, pem))
    )
    sheet = directory / f"{archive[0].name}.sheet.html"
    release = verified.release
    text = encode_sheet(
        Sheet(
            release=f"{release.name} {release.version}",
            model=release.model.title,
            pythons=release.target.pythons,
            valid_until=verified.metadata.expires,
            archive=archive[0].name,
            files=files,
            by_another_way=by_another_way,
            fingerprint=fingerprint,
        )
    )
    try:
        for name, data in beside.items():
            write_durably(directory / name, data)
        (directory / KIT).chmod(_EXECUTABLE)
        write_durably(sheet, text.encode())
        write_durably(keys.directory / INSTALLER_KEY, pem)
    except OSError as exc:
        raise BuildError(f"the archive is written, but not the kit beside it: {exc.strerror}") from exc
    return Carriage(sheet, files, fingerprint)


def _carried(path: Path, progress: Progress) -> Carried:
    digest, size = digest_file(path, progress)
    return Carried(path.name, size, digest)
