"""What a wheel says of itself: name, licence and licence texts, what it needs, and the native code that it carries.

Formats: core metadata of PyPA, wheels (PEP 427), licence files (PEP 639), and bills of materials in wheels (PEP 770),
in which auditwheel names the libraries that it put in, with their versions.
"""

from __future__ import annotations

import hashlib
import json
import re
import zipfile
from dataclasses import dataclass
from email.message import Message
from email.parser import BytesHeaderParser
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name

from bundler.errors import WheelError
from bundler.licence_text import recognised
from bundler.wheelhouse import sha256_file
from installer.archive import CHUNK_BYTES

_LICENCE = re.compile(r"(licen[cs]e|copying|notice|authors|thirdpartynotices)[^/]*", re.IGNORECASE)
_UNSAFE = re.compile(r"[^A-Za-z0-9._+@-]+")
_BILL = re.compile(r"[^/]+\.dist-info/sboms/[^/]+\.json")
_NUMBERED = re.compile(r".+\.so\.([0-9]+(?:\.[0-9]+)*)")  # libonnxruntime.so.1.31.1
_ELF = b"\x7fELF"
MAX_LICENCE_BYTES = 4 << 20


@dataclass(frozen=True)
class NativePart:
    """Compiled code in a wheel."""

    path: str  # in the wheel
    sha256: str
    version: str | None  # as its file name ends; None: it does not say


@dataclass(frozen=True)
class BundledLibrary:
    """A library that the wheel's own bill of materials names."""

    name: str
    version: str | None
    purl: str | None


@dataclass(frozen=True)
class WheelFacts:
    """What a wheel says of itself."""

    file: str
    name: str  # canonical
    version: str
    sha256: str
    licence: str | None  # an SPDX expression, or the author's words
    licences: dict[str, bytes]  # file name -> text
    requires: tuple[str, ...]  # Requires-Dist
    native: tuple[NativePart, ...]
    bundled: tuple[BundledLibrary, ...]


def read_wheel(path: Path) -> WheelFacts:
    """Read a wheel's dist-info and look for native code in it.

    Raises:
        WheelError: the file is not a wheel, or a licence text is absurdly large.
    """
    try:
        with zipfile.ZipFile(path) as wheel:
            infos = [info for info in wheel.infolist() if not info.is_dir()]
            (metadata_info,) = (i for i in infos if i.filename.endswith(".dist-info/METADATA"))
            metadata = BytesHeaderParser().parsebytes(wheel.read(metadata_info))
            licences = {}
            for info in filter(_is_licence, infos):
                if info.file_size > MAX_LICENCE_BYTES:
                    raise WheelError(f"{path.name}: {info.filename} has {info.file_size} bytes")
                name = info.filename.split("/", 1)[1].removeprefix("licenses/")
                licences[safe_name(name)] = wheel.read(info)
            native = tuple(part for info in infos if (part := _native_part(wheel, info)) is not None)
            bundled = tuple(
                library for info in infos if _BILL.fullmatch(info.filename) for library in _bundled(wheel.read(info))
            )
    except (zipfile.BadZipFile, ValueError) as exc:
        raise WheelError(f"{path.name} is not a wheel: {exc}") from exc
    return WheelFacts(
        file=path.name,
        name=canonicalize_name(metadata["Name"]),
        version=metadata["Version"],
        sha256=sha256_file(path),
        licence=metadata["License-Expression"] or _licence(metadata) or _licence_of_texts(licences),
        licences=licences,
        requires=tuple(metadata.get_all("Requires-Dist", [])),
        native=native,
        bundled=tuple(sorted(set(bundled), key=lambda library: (library.name, library.version or ""))),
    )


def safe_name(name: str) -> str:
    """A file name that a release may contain."""
    return _UNSAFE.sub("_", name.replace("/", "-")).lstrip(".-+@") or "licence"


def _is_licence(info: zipfile.ZipInfo) -> bool:
    """Whether it is a licence file: in the dist-info (PEP 639), or at the top of a package."""
    directory, _, name = info.filename.rpartition("/")
    if ".dist-info/licenses" in directory:
        return True
    return directory.count("/") == 0 and bool(directory) and bool(_LICENCE.fullmatch(name)) and name.count(".py") == 0


def _licence(metadata: Message) -> str | None:
    """The licence in the author's words, from metadata older than licence expressions."""
    words = metadata["License"]
    if words and "\n" not in words.strip():
        return str(words).strip()
    classifiers = [c.rsplit(" :: ", 1)[-1] for c in metadata.get_all("Classifier", []) if c.startswith("License ::")]
    return " AND ".join(classifiers) or None


def _licence_of_texts(licences: dict[str, bytes]) -> str | None:
    """The licences whose texts the wheel carries, if its metadata names none."""
    found = {recognised(text.decode(errors="replace")) for text in licences.values()}
    return " AND ".join(sorted(name for name in found if name)) or None


def _native_part(wheel: zipfile.ZipFile, info: zipfile.ZipInfo) -> NativePart | None:
    """The member as native code, judged by its first bytes; None for any other file."""
    running = hashlib.sha256()
    with wheel.open(info) as member:
        start = member.read(len(_ELF))
        if start != _ELF:
            return None
        running.update(start)
        while chunk := member.read(CHUNK_BYTES):
            running.update(chunk)
    numbered = _NUMBERED.fullmatch(info.filename)
    return NativePart(info.filename, running.hexdigest(), numbered[1] if numbered else None)


def _bundled(data: bytes) -> list[BundledLibrary]:
    """The libraries of a CycloneDX file in a wheel. Another format says nothing here."""
    try:
        body: Any = json.loads(data)
    except ValueError:
        return []
    components = body.get("components", []) if isinstance(body, dict) else []
    return [
        BundledLibrary(str(c["name"]), _text(c.get("version")), _text(c.get("purl")))
        for c in components
        if isinstance(c, dict) and c.get("name")
    ]


def _text(value: object) -> str | None:
    return str(value) if value else None
