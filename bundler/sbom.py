"""The release's bill of materials: CycloneDX 1.6, JSON, made with cyclonedx-python-lib.

It names the weights by the digest of each file, the vocabulary, every wheel with its licence and digest, the native
code and the libraries in a wheel, and which of them needs which. The same release gives the same bytes: the serial
number is made from the contents, and the time, which the library always sets, is taken out.

Specification: CycloneDX 1.6, https://cyclonedx.org/docs/1.6/json/; package URLs:
https://github.com/package-url/purl-spec.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from uuid import UUID, uuid5

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import License
from cyclonedx.model.tool import ToolRepository
from cyclonedx.output import make_outputter
from cyclonedx.schema import OutputFormat, SchemaVersion
from packageurl import PackageURL

from bundler.dependencies import Hosts, dependencies_of
from bundler.lock import PROJECT
from bundler.wheel_facts import WheelFacts
from installer.formats.vocabulary import PATH as VOCABULARY
from installer.targets import Target, contents_digest

FILE = "sbom.cdx.json"
VOCABULARY_LICENCE = "MIT"
_SERIAL = UUID("6f1f6f1e-5f0a-5c39-9d10-2a4d9c1f7b53")  # a namespace of our own


@dataclass(frozen=True)
class Materials:
    """What a release is made of."""

    name: str
    version: str
    bundler: str  # version of this program
    model: str  # its id
    model_licence: str | None  # SPDX, or the publisher's words
    targets: tuple[Target, ...]  # all files but this one and those that name it
    wheels: tuple[WheelFacts, ...]
    hosts: Hosts
    extra: str  # of the project's own wheel: cpu or cuda


def encode_sbom(materials: Materials) -> bytes:
    """The bill of materials."""
    root = Component(
        name=materials.name, version=materials.version, type=ComponentType.APPLICATION, bom_ref="release",
        licenses=_licences("Apache-2.0"),
    )  # fmt: skip
    model, vocabulary = _model(materials), _vocabulary(materials.targets)
    wheels = {wheel.file: _wheel(wheel) for wheel in materials.wheels}
    tool = Component(name=f"{PROJECT} bundler", version=materials.bundler, type=ComponentType.APPLICATION)
    bom = Bom(
        serial_number=uuid5(_SERIAL, contents_digest(materials.targets)),
        metadata=BomMetaData(component=root, tools=ToolRepository(components=[tool])),
        components=[model, *vocabulary, *wheels.values()],
    )
    for component, needs in _edges(materials, root, [model, *vocabulary], wheels):
        bom.register_dependency(component, needs)
    body = json.loads(make_outputter(bom, OutputFormat.JSON, SchemaVersion.V1_6).output_as_string())
    del body["metadata"]["timestamp"]
    return (json.dumps(body, indent=1, sort_keys=True) + "\n").encode()


def _edges(
    materials: Materials, root: Component, parts: Sequence[Component], wheels: dict[str, Component]
) -> Iterator[tuple[Component, list[Component]]]:
    """Every component with those that it needs. The release needs the model, and the packages that no other needs."""
    needs = dependencies_of(materials.wheels, materials.hosts, {PROJECT: frozenset({materials.extra})})
    by_name: dict[str, list[Component]] = {}
    for wheel in materials.wheels:
        by_name.setdefault(wheel.name, []).append(wheels[wheel.file])
    needed = {name for names in needs.values() for name in names}
    top = [component for name, found in by_name.items() if name not in needed for component in found]
    yield root, [*parts, *top]
    yield from ((part, []) for part in parts)
    for wheel in materials.wheels:
        yield wheels[wheel.file], [component for name in sorted(needs[wheel.name]) for component in by_name[name]]


def _model(materials: Materials) -> Component:
    """The model, with every file below model/ as a part. Its version is the digest of these files."""
    files = [target for target in materials.targets if target.path.startswith("model/")]
    return Component(
        name=materials.model, version=f"sha256:{contents_digest(files)}", type=ComponentType.MACHINE_LEARNING_MODEL,
        bom_ref="model", licenses=_licences(materials.model_licence), components=[_file(target) for target in files],
    )  # fmt: skip


def _vocabulary(targets: Sequence[Target]) -> list[Component]:
    return [
        Component(
            name="o200k_base", version=f"sha256:{target.sha256}", type=ComponentType.DATA, bom_ref=target.path,
            hashes=[_sha256(target.sha256)], licenses=_licences(VOCABULARY_LICENCE),
        )
        for target in targets if target.path == VOCABULARY
    ]  # fmt: skip


def _wheel(wheel: WheelFacts) -> Component:
    """A wheel with its native code, and with the libraries that its own bill of materials names."""
    native = [
        Component(
            name=part.path, version=part.version, type=ComponentType.FILE, bom_ref=f"{wheel.file}/{part.path}",
            hashes=[_sha256(part.sha256)],
        )
        for part in wheel.native
    ]  # fmt: skip
    bundled = [
        Component(
            name=library.name, version=library.version, type=ComponentType.LIBRARY, purl=_purl(library.purl),
            bom_ref=f"{wheel.file}/bundled/{library.name}@{library.version}",
        )
        for library in wheel.bundled
    ]  # fmt: skip
    return Component(
        name=wheel.name, version=wheel.version, type=ComponentType.LIBRARY, bom_ref=wheel.file,
        hashes=[_sha256(wheel.sha256)], licenses=_licences(wheel.licence),
        purl=PackageURL("pypi", name=wheel.name, version=wheel.version, qualifiers={"file_name": wheel.file}),
        components=[*native, *bundled],
    )  # fmt: skip


def _file(target: Target) -> Component:
    return Component(
        name=target.path, type=ComponentType.FILE, bom_ref=target.path, hashes=[_sha256(target.sha256)]
    )  # fmt: skip


def _sha256(digest: str) -> HashType:
    return HashType(alg=HashAlgorithm.SHA_256, content=digest)


def _licences(words: str | None) -> list[License]:
    """An SPDX identifier or expression if it is one, else the words themselves."""
    return [] if words is None else [LicenseFactory().make_from_string(words)]


def _purl(text: str | None) -> PackageURL | None:
    try:
        return None if text is None else PackageURL.from_string(text)
    except ValueError:
        return None
