"""A keys directory (0700): private keys, the chain of roots that trusts them, and the ledger of `bundler.ledger`.

    ROLE.pem                  a key for one role (root, targets, snapshot, timestamp), as `bundler keygen` makes four
    NAME.pem, NAME.pub        one person's key and its public half
    NAME.token, NAME.pub      the same for a key inside a PKCS#11 token, which never leaves it
    root.json, N.root.json    the newest root and the older ones; root.json is what the operator needs, by another way
    next-root.json            a root that not enough people have signed yet
    installer-key.pem         public: checks the signature of the kit

A build place holds the chain, the ledger and the keys that may be online. A person's directory holds that person's key,
and can be anywhere. One passphrase or PIN opens all keys of a directory.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from securesystemslib.signer import Key, Signer
from tuf.api.metadata import Metadata, Root

from bundler.errors import KeysError
from bundler.private_keys import (
    PUBLIC_SUFFIX,
    Secret,
    make_signer,
    read_private,
    read_public,
    write_new,
    write_private,
    write_public,
)
from bundler.roots import RELEASE_ROLES, ROLES, Group, first_root, is_complete, parse_draft, root_bytes, sign_root
from bundler.rotation import settle
from bundler.tokens import TOKEN_SUFFIX, TokenPlace, make_token_key, read_token, write_token
from installer.durable import write_durably
from installer.signers import KEY_NAME, key_name

ROOT = "root.json"
DRAFT = "next-root.json"
INSTALLER_KEY = "installer-key.pem"  # public: checks the signature of the kit


@dataclass(frozen=True)
class SigningKeys:
    """The keys of a directory that sign releases. Each was checked: root.json trusts it for a role."""

    directory: Path
    roots: tuple[bytes, ...]  # the chain, version 1 first; the last is root.json
    signers: tuple[Signer, ...]

    @property
    def newest(self) -> Root:
        return parse_draft(self.roots[-1]).signed


def generate_keys(directory: Path, *, expires: datetime, passphrase: str | None = None) -> Path:
    """Make one key for each role, and the root metadata that trusts these keys: everything that one person needs.

    Returns:
        the path of root.json.
    Raises:
        KeysError: the directory is not empty (keys are never overwritten) or cannot be written.
    """
    _make_empty(directory)
    signers = {role: make_signer() for role in ROLES}
    root = first_root({role: Group((signer.public_key,)) for role, signer in signers.items()}, expires=expires)
    sign_root(root, None, signers.values())
    try:
        for role, signer in signers.items():
            write_private(directory / f"{role}.pem", signer, passphrase)
        write_new(directory / ROOT, root_bytes(root), mode=0o644)
    except OSError as exc:
        raise KeysError(f"cannot write keys to {directory}: {exc.strerror}") from exc
    return directory / ROOT


def generate_person(directory: Path, name: str, *, passphrase: str | None = None) -> Path:
    """Make one person's key.

    Returns:
        the path of its public half.
    Raises:
        KeysError: as `generate_keys`, or the name has other characters than roots may show.
    """
    _require_name(name)
    _make_empty(directory)
    signer = make_signer(name)
    try:
        write_private(directory / f"{name}.pem", signer, passphrase)
        write_public(directory / f"{name}{PUBLIC_SUFFIX}", signer.public_key)
    except OSError as exc:
        raise KeysError(f"cannot write keys to {directory}: {exc.strerror}") from exc
    return directory / f"{name}{PUBLIC_SUFFIX}"


def generate_in_token(directory: Path, name: str, place: TokenPlace, secret: Secret) -> Path:
    """Make one person's key inside a PKCS#11 token, or use the key of this name that is there already.

    Returns:
        the path of its public half.
    Raises:
        KeysError: the token cannot be used.
    """
    _require_name(name)
    key = make_token_key(place, name, secret)
    _make_empty(directory)
    try:
        write_token(directory / f"{name}{TOKEN_SUFFIX}", place, name)
        write_public(directory / f"{name}{PUBLIC_SUFFIX}", key)
    except OSError as exc:
        raise KeysError(f"cannot write keys to {directory}: {exc.strerror}") from exc
    return directory / f"{name}{PUBLIC_SUFFIX}"


def _require_name(name: str) -> None:
    if not KEY_NAME.fullmatch(name) or name in ROLES:
        raise KeysError(f"{name!r} cannot name a key: at most 40 letters, digits and ._@- are allowed, and no role")


def _make_empty(directory: Path) -> None:
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if any(directory.iterdir()):
            raise KeysError(f"{directory} is not empty; existing keys are never overwritten")
    except OSError as exc:
        raise KeysError(f"cannot write keys to {directory}: {exc.strerror}") from exc


def load_keys(directory: Path, secret: Secret | None = None) -> SigningKeys:
    """Read the root chain, and the keys that sign releases. Root keys may be elsewhere, and so may any other.

    Raises:
        KeysError: a file is missing, unreadable, open to others, or does not fit root.json.
    """
    try:
        roots = load_roots(directory)
        newest = parse_draft(roots[-1]).signed
        settle(directory, newest)
        paths = [path for path in _key_files(directory) if path.stem != Root.type]
        signers = tuple(_load_signer(path, secret) for path in paths)
        for path, signer in zip(paths, signers, strict=True):
            _require_trusted(path, signer.public_key, newest)
    except OSError as exc:
        raise KeysError(f"cannot read {exc.filename}: {exc.strerror}; `bundler keygen` makes keys") from exc
    return SigningKeys(directory, roots, tuple(s for s in signers if _signs_releases(s.public_key, newest)))


def load_roots(directory: Path) -> tuple[bytes, ...]:
    """The chain of roots, version 1 first.

    Raises:
        KeysError: one is damaged. OSError: one is missing.
    """
    newest = (directory / ROOT).read_bytes()
    version = parse_draft(newest).signed.version
    return (*((directory / f"{n}.root.json").read_bytes() for n in range(1, version)), newest)


def load_signers(directory: Path, secret: Secret | None = None) -> tuple[Signer, ...]:
    """All keys of a directory, whatever they may sign.

    Raises:
        KeysError: there is none, or one cannot be used.
    """
    try:
        if (directory / ROOT).exists():
            settle(directory, parse_draft((directory / ROOT).read_bytes()).signed)
        signers = tuple(_load_signer(path, secret) for path in _key_files(directory))
    except OSError as exc:
        raise KeysError(f"cannot read {exc.filename}: {exc.strerror}; `bundler keygen` makes keys") from exc
    if not signers:
        raise KeysError(f"{directory} holds no key; `bundler keygen` makes keys")
    return signers


def _key_files(directory: Path) -> list[Path]:
    paths = (path for path in directory.iterdir() if path.suffix in (".pem", TOKEN_SUFFIX) and path.name[0] != ".")
    return sorted(path for path in paths if path.name != INSTALLER_KEY)


def _load_signer(path: Path, secret: Secret | None) -> Signer:
    public = path.with_suffix(PUBLIC_SUFFIX)
    if path.suffix == TOKEN_SUFFIX:
        return read_token(path, read_public(public), secret)
    known = read_public(public) if public.exists() else None
    return read_private(path, known.unrecognized_fields.get("name") if known else None, secret)


def _require_trusted(path: Path, key: Key, newest: Root) -> None:
    """A key that is named after a role is for that role; any other must have one."""
    roles = [role for role in ROLES if key.keyid in newest.roles[role].keyids]
    if path.stem in ROLES and path.stem not in roles:
        raise KeysError(f"{path} is not a private key that {ROOT} trusts for the role {path.stem}")
    if not roles:
        raise KeysError(f"{path} ({key_name(key)}) is not a key that {ROOT} (version {newest.version}) trusts")


def _signs_releases(key: Key, newest: Root) -> bool:
    return any(key.keyid in newest.roles[role].keyids for role in RELEASE_ROLES)


def put_root(directory: Path, metadata: Metadata[Root]) -> Path:
    """Make a complete root the newest of the directory, or write it as a draft that others must sign.

    Returns:
        the path of what was written: root.json or next-root.json.
    Raises:
        KeysError: it does not follow the directory's newest root.
    """
    roots = load_roots(directory) if (directory / ROOT).exists() else ()
    before = parse_draft(roots[-1]).signed if roots else None
    if metadata.signed.version != len(roots) + 1:
        raise KeysError(f"{directory} needs root {len(roots) + 1} next, and this is root {metadata.signed.version}")
    if not is_complete(metadata, before):
        return _replace(directory / DRAFT, root_bytes(metadata))
    if roots:  # again, if a killed command did so; until root.json is exchanged, nobody reads this file
        _replace(directory / f"{len(roots)}.root.json", roots[-1])
    path = _replace(directory / ROOT, root_bytes(metadata))
    (directory / DRAFT).unlink(missing_ok=True)
    settle(directory, metadata.signed)
    return path


def _replace(path: Path, data: bytes) -> Path:
    write_durably(path, data, mode=0o644)
    return path


def utc(date: datetime) -> datetime:
    """The same instant in UTC without microseconds, because TUF dates have none."""
    return date.astimezone(UTC).replace(microsecond=0)


def make_directory(directory: Path) -> None:
    """A directory for roots and a ledger, if it is not there yet."""
    os.makedirs(directory, mode=0o700, exist_ok=True)
