"""The release's bill of materials (CycloneDX 1.6, JSON) and the licence texts of what it carries.

The same wheels give the same bytes. cyclonedx-python-lib is not used: for one flat list of components it would bring
six more packages, and a random serial number and a time that would have to be removed again.

Specification: CycloneDX 1.6, https://cyclonedx.org/docs/1.6/json/; package URLs:
https://github.com/package-url/purl-spec.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from email.message import Message
from email.parser import BytesHeaderParser
from pathlib import Path
from typing import Any
from urllib.parse import quote

from packaging.utils import canonicalize_name

from bundler.errors import WheelError
from bundler.wheelhouse import sha256_file

_LICENCE = re.compile(r"(licen[cs]e|copying|notice|authors|thirdpartynotices)[^/]*", re.IGNORECASE)
_UNSAFE = re.compile(r"[^A-Za-z0-9._+@-]+")
MAX_LICENCE_BYTES = 4 << 20


@dataclass(frozen=True)
class Component:
    """One thing the release carries."""

    kind: str  # CycloneDX type: library, machine-learning-model, data
    name: str
    version: str
    sha256: str
    licence: str | None
    purl: str | None = None
    spdx: bool = False  # the licence is an SPDX expression; otherwise the author's words


@dataclass(frozen=True)
class WheelFacts:
    """What a wheel says about itself."""

    component: Component
    licences: dict[str, bytes]  # file name -> text


def read_wheel(path: Path) -> WheelFacts:
    """Name, version, licence and licence texts out of a wheel's dist-info.

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
    except (zipfile.BadZipFile, ValueError) as exc:
        raise WheelError(f"{path.name} is not a wheel: {exc}") from exc
    name, version = canonicalize_name(metadata["Name"]), metadata["Version"]
    purl = f"pkg:pypi/{quote(name)}@{quote(version)}?file_name={quote(path.name)}"  # a release has one for each Python
    expression = metadata["License-Expression"]
    component = Component(
        "library", name, version, sha256_file(path), expression or _licence(metadata), purl, spdx=bool(expression)
    )
    return WheelFacts(component, licences)


def _is_licence(info: zipfile.ZipInfo) -> bool:
    """Whether it is a licence file: in the dist-info (PEP 639), or at the top of a package."""
    directory, _, name = info.filename.rpartition("/")
    if ".dist-info/licenses" in directory:
        return True
    return directory.count("/") == 0 and bool(directory) and bool(_LICENCE.fullmatch(name)) and name.count(".py") == 0


def safe_name(name: str) -> str:
    """A file name that a release may contain."""
    return _UNSAFE.sub("_", name.replace("/", "-")).lstrip(".-+@") or "licence"


def write_sbom(path: Path, *, name: str, version: str, components: Sequence[Component]) -> None:
    """Write the bill of materials; components in the order of name, version and digest."""
    ordered = sorted(components, key=lambda c: (c.name, c.version, c.sha256))
    body = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": {"type": "application", "name": name, "version": version}},
        "components": [_component(c) for c in ordered],
    }
    path.write_text(json.dumps(body, indent=1, sort_keys=True) + "\n")


def _component(component: Component) -> dict[str, Any]:
    body: dict[str, Any] = {
        "type": component.kind,
        "bom-ref": component.purl or f"{component.name}@{component.sha256[:16]}",
        "name": component.name,
        "version": component.version,
        "hashes": [{"alg": "SHA-256", "content": component.sha256}],
    }
    if component.purl:
        body["purl"] = component.purl
    if component.licence:
        spdx, named = {"expression": component.licence}, {"license": {"name": component.licence}}
        body["licenses"] = [spdx if component.spdx else named]
    return body


def _licence(metadata: Message) -> str | None:
    """The licence in the author's words, from metadata older than licence expressions."""
    words = metadata["License"]
    if words and "\n" not in words.strip():
        return str(words).strip()
    classifiers = [c.rsplit(" :: ", 1)[-1] for c in metadata.get_all("Classifier", []) if c.startswith("License ::")]
    return " AND ".join(classifiers) or None
