"""`bundler sign`: one person's signature, at another time and place."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from bundler.commands.options import JSON, PASSPHRASE_FILE, PATH, secret_of
from bundler.commands.show import describe_root, print_fingerprint, print_root
from bundler.errors import SigningError
from bundler.keys import DRAFT, ROOT, load_signers, put_root
from bundler.ledger import enter_signing
from bundler.private_keys import Secret
from bundler.roots import is_complete as root_is_complete
from bundler.roots import parse_draft, root_bytes, sign_root
from bundler.sign import is_complete, roots_of, standing, with_signatures_of, with_signers
from bundler.signing import describe, lines_of, locked, read_unsigned, replace_head
from installer.archive import ArchiveReader, root_name
from installer.commands.output import say
from installer.durable import write_durably
from installer.fingerprint import root_fingerprint
from installer.terminal import StageLines
from installer.trust import verify_metadata


@click.command()
@click.argument("file", type=PATH)
@click.option("--keys", type=PATH, help="Directory with the key of the person who signs.")
@click.option("--signatures", type=PATH, multiple=True,
              help="File that was signed elsewhere (NAME.airgap.signing), to put its signatures into FILE. Repeatable.",
)  # fmt: skip
@click.option(
    "--root", type=PATH, help="Trusted root.json; FILE must belong to it.  [default: the one beside the keys]"
)
@click.option("--yes", is_flag=True, help="Sign without asking.")
@PASSPHRASE_FILE
@JSON
def sign(
    file: Path, keys: Path | None, signatures: tuple[Path, ...], root: Path | None, yes: bool,
    passphrase_file: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Add one person's signature to FILE: an archive, the NAME.airgap.signing of one, or a root (next-root.json).

    An archive is verified first, and only its first few kilobytes are written again. The command shows what is signed
    and asks. Then it says who has signed and who has not; `complete` of --json is false while signatures are missing.
    """
    if keys is None and not signatures:
        raise click.UsageError("give --keys, --signatures or both")
    secret = secret_of(passphrase_file)
    with file.open("rb") as stream:
        is_root = stream.read(1) == b"{"
    if is_root and keys is None:
        raise click.UsageError("a root is signed with --keys; `bundler trust adopt` puts signatures together")
    if is_root and keys is not None:
        _sign_root(file, keys, root, secret, yes, as_json)
    else:
        _sign_archive(file, keys, signatures, root, secret, yes, as_json)


def _sign_archive(
    file: Path, keys: Path | None, signatures: tuple[Path, ...], root: Path | None, secret: Secret | None, yes: bool,
    as_json: bool,
) -> None:  # fmt: skip
    trusted = root or (keys / ROOT if keys is not None and (keys / ROOT).exists() else None)
    with locked(file) as opened:
        with StageLines() as progress:
            progress.stage("Verifying", file.stat().st_size)
            unsigned = read_unsigned(file, trusted.read_bytes() if trusted else None, progress)
        members, done = dict(unsigned.members), list[str]()
        for other in signatures:
            with other.open("rb") as stream:
                members = with_signatures_of(members, ArchiveReader(stream).read_metadata())
        if keys is not None:
            _confirm([f"You sign {line}" for line in describe(unsigned)], yes, as_json)
            members, done = with_signers(members, load_signers(keys, secret))
            if not done:
                raise SigningError(f"no signature of the keys in {keys} is missing: {_missing(members)}")
            enter_signing(keys, unsigned.targets, unsigned.signing, len(roots_of(members)))
        if is_complete(members):
            verify_metadata(members, members[root_name(len(roots_of(members)))], None)  # for example, has it expired?
        replace_head(file, opened, unsigned.members, members)
    if as_json:
        people: list[dict[str, Any]] = [asdict(signers) for signers in standing(members)]
        click.echo(json.dumps({"file": str(file), "complete": is_complete(members), "done": done, "signers": people}))
    else:
        for line in [*(f"signed as {line}" for line in done), *lines_of(standing(members))]:
            say(line)
        say("Complete." if is_complete(members) else "NOT complete: signatures are missing.")


def _missing(members: dict[str, bytes]) -> str:
    lines = [f"{s.role}: {s}" for s in standing(members) if not s.is_enough]
    return "; ".join(lines) if lines else "it is complete"


def _sign_root(file: Path, keys: Path, root: Path | None, secret: Secret | None, yes: bool, as_json: bool) -> None:
    draft = parse_draft(file.read_bytes())
    beside = root or file.with_name(ROOT)
    before = parse_draft(beside.read_bytes()).signed if draft.signed.version > 1 and beside.exists() else None
    if draft.signed.version > 1 and (before is None or before.version != draft.signed.version - 1):
        raise SigningError(f"give root {draft.signed.version - 1} with --root: this root must follow it")
    if not as_json:
        print_root(draft, before)
    _confirm(["You sign this root: it decides whose archives are installed."], yes, as_json)
    done = sign_root(draft, before, load_signers(keys, secret))
    if not done:
        raise SigningError(f"no key in {keys} counts for this root")
    complete = root_is_complete(draft, before)
    if complete and file.name == DRAFT and (draft.signed.version == 1 or file.with_name(ROOT).exists()):
        file = put_root(file.parent, draft)
    else:
        write_durably(file, root_bytes(draft))
    if as_json:
        click.echo(json.dumps({"file": str(file), "done": done, **describe_root(draft, before)}))
    else:
        say(f"Signed as {', '.join(done)}.")
        say(f"Complete: {file}" if complete else f"NOT complete: {file} lacks signatures.")
        if complete:
            print_fingerprint(root_fingerprint(root_bytes(draft)))


def _confirm(lines: list[str], yes: bool, as_json: bool) -> None:
    for line in () if as_json else lines:
        say(line)
    if not yes:
        click.confirm("Sign?", abort=True, err=True)
