"""New keys in the place of old ones, for directories with one ROLE.pem for each role.

    ROLE.pem.next-KEYID8       a new key whose root is not complete yet
    ROLE.pem.until-root-N      the key before root N; it signs nothing more, and may be deleted

`settle` exchanges them as soon as the directory's newest root trusts the new key. It may be called at any time, so a
kill between the root and the exchange does no harm.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Root

from bundler.errors import KeysError
from bundler.private_keys import Secret, is_encrypted, make_signer, write_private
from bundler.roots import ROLES


@dataclass(frozen=True)
class FreshKeys:
    """New keys by role; nothing of them is on disk yet."""

    signers: Mapping[str, CryptoSigner]
    passphrases: Mapping[str, str | None]

    def write(self, directory: Path) -> None:
        """Write them beside the present ones.

        Raises:
            KeysError: they cannot be written.
        """
        for role, signer in self.signers.items():
            path = directory / f"{role}.pem.next-{signer.public_key.keyid[:8]}"
            try:
                write_private(path, signer, self.passphrases[role])
            except OSError as exc:
                raise KeysError(f"cannot write {path}: {exc.strerror}") from exc


NO_KEYS = FreshKeys({}, {})


def fresh_keys(directory: Path, roles: Sequence[str], secret: Secret | None) -> FreshKeys:
    """A new key for each role, to be encrypted like the present one and with the same passphrase.

    Raises:
        KeysError: the directory has no key of its own for a role.
    """
    passphrases = {}
    for role in roles:
        path = directory / f"{role}.pem"
        if not path.exists():
            raise KeysError(f"{path} does not exist, so nothing here can take its place: give the new keys with --key")
        if is_encrypted(path) and secret is None:
            raise KeysError(f"{path} is encrypted: give --passphrase-file, or run this in a terminal")
        passphrases[role] = secret() if secret is not None and is_encrypted(path) else None
    return FreshKeys({role: make_signer() for role in roles}, passphrases)


def settle(directory: Path, newest: Root) -> None:
    """Put new keys that the newest root trusts in the places of the old ones."""
    for role in ROLES:
        for keyid in newest.roles[role].keyids:
            fresh, path = directory / f"{role}.pem.next-{keyid[:8]}", directory / f"{role}.pem"
            if fresh.exists():
                if path.exists():
                    path.rename(directory / f"{role}.pem.until-root-{newest.version}")
                fresh.rename(path)
