"""Keys inside PKCS#11 tokens: smart cards, USB tokens, hardware security modules. The private half never leaves them.

securesystemslib's own HSMSigner knows only ECDSA. Archives are signed with Ed25519, so this is a Signer of our own,
over python-pkcs11 (extra `pkcs11`). The token must know EdDSA (PKCS#11 3.0, or SoftHSM 2).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from securesystemslib.signer import Key, SecretsHandler, Signature, Signer, SSlibKey

from bundler.errors import KeysError
from bundler.private_keys import Secret, public_key, write_new

if TYPE_CHECKING:
    import pkcs11

TOKEN_SUFFIX = ".token"  # noqa: S105
_ED25519_PARAMETERS = bytes.fromhex("06032b6570")  # the object identifier 1.3.101.112 as DER (RFC 8410)
_PUBLIC_BYTES = 32


@dataclass(frozen=True)
class TokenPlace:
    """Which token: the PKCS#11 library that speaks to it, and its label."""

    module: str
    token: str


class TokenSigner(Signer):
    """Signs with a key in a token. Each signature opens a session of its own, so the token may be pulled in between."""

    def __init__(self, place: TokenPlace, label: str, key: SSlibKey, secret: Secret | None) -> None:
        self._place, self._label, self._key, self._secret = place, label, key, secret

    @property
    def public_key(self) -> Key:
        return self._key

    @classmethod
    def from_priv_key_uri(
        cls, priv_key_uri: str, public_key: Key, secrets_handler: SecretsHandler | None = None
    ) -> TokenSigner:
        raise NotImplementedError("a keys directory names its tokens in files: see read_token")

    def sign(self, payload: bytes) -> Signature:
        import pkcs11

        with _session(self._place, self._secret) as session:
            private: Any = session.get_key(pkcs11.ObjectClass.PRIVATE_KEY, label=self._label)
            signature = private.sign(payload, mechanism=pkcs11.Mechanism.EDDSA)
        made = Signature(self._key.keyid, signature.hex())
        self._key.verify_signature(made, payload)  # another key may have the label by now
        return made


def make_token_key(place: TokenPlace, label: str, secret: Secret) -> SSlibKey:
    """The public half of the token's key of this label. The token makes the key if it has none.

    Raises:
        KeysError: the token is absent, refuses the PIN, or does not know Ed25519.
    """
    import_pkcs11()
    import pkcs11

    with _session(place, secret, write=True) as session:
        known = list(session.get_objects({
            pkcs11.Attribute.CLASS: pkcs11.ObjectClass.PUBLIC_KEY, pkcs11.Attribute.LABEL: label,
        }))  # fmt: skip
        if len(known) > 1:
            raise KeysError(f"the token {place.token} has {len(known)} keys called {label}; choose another name")
        public: Any = known[0] if known else _generate(session, label)
        if public.key_type is not pkcs11.KeyType.EC_EDWARDS:
            raise KeysError(f"the key {label} in the token {place.token} is not an Ed25519 key")
        point = bytes(public[pkcs11.Attribute.EC_POINT])
    return public_key(Ed25519PublicKey.from_public_bytes(point[-_PUBLIC_BYTES:]), label)


def _generate(session: pkcs11.Session, label: str) -> pkcs11.PublicKey:
    import pkcs11

    parameters = session.create_domain_parameters(
        pkcs11.KeyType.EC_EDWARDS, {pkcs11.Attribute.EC_PARAMS: _ED25519_PARAMETERS}, local=True
    )
    public, _ = parameters.generate_keypair(mechanism=pkcs11.Mechanism.EC_EDWARDS_KEY_PAIR_GEN, store=True, label=label)
    return public


def write_token(path: Path, place: TokenPlace, label: str) -> None:
    """Write the file that says where the key is."""
    write_new(path, (json.dumps({**asdict(place), "label": label}, indent=1) + "\n").encode(), mode=0o600)


def read_token(path: Path, key: SSlibKey, secret: Secret | None) -> TokenSigner:
    """The signer that `path` describes. It does not ask for the PIN yet.

    Raises:
        KeysError: the file is not what `write_token` writes, or python-pkcs11 is missing.
    """
    try:
        fields = json.loads(path.read_bytes())
        label = fields.pop("label")
        place = TokenPlace(**fields)
    except (ValueError, TypeError, KeyError, AttributeError) as exc:
        raise KeysError(f"{path} does not say which token holds the key") from exc
    import_pkcs11()
    return TokenSigner(place, label, key, secret)


def import_pkcs11() -> None:
    """Raises KeysError if the optional package is missing."""
    try:
        import pkcs11  # noqa: F401
    except ImportError as exc:
        raise KeysError("keys in tokens need the extra `pkcs11`: pip install 'gpt-oss-appliance[pkcs11]'") from exc


@contextmanager
def _session(place: TokenPlace, secret: Secret | None, *, write: bool = False) -> Iterator[pkcs11.Session]:
    """A session with the token, logged in; the errors of PKCS#11 as sentences."""
    import pkcs11

    try:
        token = pkcs11.lib(place.module).get_token(token_label=place.token)
        if secret is None:
            raise KeysError(f"the token {place.token} needs its PIN: give --passphrase-file, or run this in a terminal")
        with token.open(rw=write, user_pin=secret()) as session:
            yield session
    except pkcs11.PKCS11Error as exc:
        said = str(exc) or type(exc).__name__
        raise KeysError(f"the token {place.token} ({place.module}) cannot be used: {said}") from exc
