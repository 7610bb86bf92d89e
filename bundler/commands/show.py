"""What commands say of a verified archive."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from tuf.api.metadata import Metadata, Root

from bundler.carrying import Carriage
from bundler.roots import ROLES, group_of, root_bytes, root_signers
from bundler.roots import is_complete as root_is_complete
from bundler.sign import is_complete, standing
from bundler.signing import lines_of, signing_file
from installer.commands.output import say
from installer.fingerprint import root_fingerprint, spoken
from installer.formats.advisories import Advisories
from installer.signers import key_name
from installer.verify import VerifiedArchive

ONE_SIGNS = (
    "One signature is enough here: whoever gets that key and its passphrase can sign in the sender's name until every "
    "site has another root."
)
_DENSE_WORDS = {"int8": "8 bits (blocks of 32), and a prompt's activations", "bf16": "bfloat16 as published"}


def describe(verified: VerifiedArchive) -> dict[str, Any]:
    return {
        "release": asdict(verified.release),
        "metadata_version": verified.metadata.version,
        "expires": verified.metadata.expires,
        "complete": is_complete(verified.metadata.members),
        "signers": [asdict(signers) for signers in standing(verified.metadata.members)],
        "targets": [asdict(target) for target in verified.metadata.targets],
        "delta": None if verified.delta is None else asdict(verified.delta),
    }


def print_release(verified: VerifiedArchive) -> None:
    release = verified.release
    say(f"  {release.name} {release.version}: {release.model.title}, {' and '.join(release.accelerators)}")
    say(
        f"  for Python {', '.join(release.target.pythons)} on {release.target.platform}; "
        f"{len(verified.metadata.targets)} files"
    )
    say(f"  metadata version {verified.metadata.version}, valid until {verified.metadata.expires}")
    for line in lines_of(standing(verified.metadata.members)):
        say(f"  {line}")
    converted = release.model.converted
    experts = "rounded to MXFP4 here" if converted and converted.experts_from else "in MXFP4 as published"
    if release.dense is not None:
        say(f"  on CPUs, attention and head in {_DENSE_WORDS[release.dense]}; experts {experts}")
    if converted is not None:
        say(f"  {converted.sentences}")
        for layer, error in converted.expert_errors.items():
            say(f"    experts of layer {layer}: relative error {100 * error:.2g} %")
    if release.known_answers is None:
        say("  without known answers: the installer cannot test it")
    if verified.delta is not None:
        say(f"  a delta: {len(verified.delta.absent)} blobs are left out; a site needs {verified.delta.base}")


def print_advisories(found: Advisories | None, now: datetime) -> None:
    if found is None:
        say("  no data about vulnerabilities travels with it (--advisories)")
        return
    say(f"  vulnerabilities: {found.words(now)}")
    for one in found.affected:
        say(f"    {one}")


def print_what_is_missing(archive: Path, verified: VerifiedArchive) -> None:
    """Say that an archive cannot be installed yet, and what to do."""
    if not is_complete(verified.metadata.members):
        small = signing_file(archive)
        say("The archive is NOT complete: it lacks signatures, and nobody can install it yet.")
        say(f"Here:      bundler sign {archive} --keys DIRECTORY-OF-A-PERSON")
        say(f"Elsewhere: bundler sign {small.name} --keys DIRECTORY-OF-A-PERSON, then, with the file back here,")
        say(f"           bundler sign {archive} --signatures {small.name}")
        say(f"Last:      bundler carry {archive} --keys DIRECTORY-OF-THE-BUILD-PLACE, for the kit and the sheet")


def describe_root(metadata: Metadata[Root], before: Root | None) -> dict[str, Any]:
    """A root for scripts. ``before``: the root that it follows, whose people must sign it, too."""
    root = metadata.signed
    groups = {role: group_of(root, role) for role in ROLES}
    return {
        "version": root.version,
        "expires": root.expires.isoformat(),
        "complete": root_is_complete(metadata, before),
        "roles": {
            role: {"threshold": group.threshold, "keys": [key_name(key) for key in group.keys]}
            for role, group in groups.items()
        },
        "signers": [asdict(signers) for signers in root_signers(metadata, before)],
    }


def print_root(metadata: Metadata[Root], before: Root | None) -> None:
    root = metadata.signed
    say(f"Root {root.version}, valid until {root.expires:%Y-%m-%d}")
    for role in ROLES:
        group = group_of(root, role)
        names = ", ".join(key_name(key) for key in group.keys)
        say(f"  {role}: {group.threshold} of {len(group.keys)} must sign: {names}")
    if group_of(root, "root").threshold == 1:
        say(f"  {ONE_SIGNS} Two of three people are safer (--root-threshold 2).")
    for of, signers in zip(("itself", f"root {root.version - 1}"), root_signers(metadata, before), strict=False):
        say(f"  signatures by {of}: {signers}")
    if root_is_complete(metadata, before):
        print_fingerprint(root_fingerprint(root_bytes(metadata)))


def print_carriage(carriage: Carriage) -> None:
    say(f"Carry these files, and print {carriage.sheet}:")
    for file in carriage.files:
        say(f"  {file.size_bytes:>15,}  {file.sha256}  {file.name}")
    print_fingerprint(carriage.fingerprint)


def print_fingerprint(fingerprint: str) -> None:
    say(f"Fingerprint of root.json: {fingerprint}")
    for line in spoken(fingerprint):
        say(f"  {line}")
