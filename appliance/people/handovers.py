"""What one request of a browser leaves for the next one: a form is answered with a redirect, and the page behind it
shows the outcome.

Covers: a secret that is to be seen once (a new API key, a one-time link) stands in no address and no cookie. It waits
in a file, encrypted under a key that only the browser's session token yields, so the directory alone gives nothing
away, and another person who learns the address sees nothing. Of two requests that take the same thing, one gets it.
Does not cover: who may see it besides the holder of the token, and what the page does with it.

The files are for minutes and need not survive a crash: a key that was not seen is revoked and made again.
"""

from __future__ import annotations

import os
import re
import secrets
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from appliance.errors import ApplianceError

KEPT_S: Final = 600.0
MOST_PER_HOLDER: Final = 16  # the oldest go first
MAX_BYTES: Final = 256 * 1024
_PURPOSE: Final = b"gpt-oss-appliance handover 1"
_NONCE_BYTES: Final = 12
_NAME: Final = re.compile(r"[A-Za-z0-9_-]{22}")  # 128 random bits


class HandoverError(ApplianceError):
    """It could not be kept for the next page."""

    def __init__(self, why: str) -> None:
        super().__init__(
            f"What the page was to show could not be kept for it ({why}). If it was a new key or link, end it and make "
            "another."
        )


class Handovers:
    """Sealed files in one directory, which all web workers of a site share; thread-safe."""

    def __init__(self, directory: Path, *, clock_s: Callable[[], float] = time.time) -> None:
        self._directory = directory
        self._clock_s = clock_s

    def leave(self, holder: str, content: bytes) -> str:
        """Keep `content` for whoever has the token `holder`; returns the name under which it is found.

        Raises:
            HandoverError: the disk took nothing, or it is too large.
        """
        if len(content) > MAX_BYTES:
            raise HandoverError(f"it has more than {MAX_BYTES:,} bytes")
        name, nonce = secrets.token_urlsafe(16), secrets.token_bytes(_NONCE_BYTES)
        sealed = nonce + AESGCM(_key_of(holder)).encrypt(nonce, content, name.encode())
        try:
            self._directory.mkdir(mode=0o700, exist_ok=True)
            self._make_room(_prefix_of(holder))
            path = self._path(holder, name)
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(sealed)
        except OSError as exc:
            raise HandoverError(exc.strerror or "the disk failed") from exc
        return name

    def read(self, holder: str, name: str) -> bytes | None:
        """What `holder` left under this name; None if it is gone, too old or somebody else's."""
        if not _NAME.fullmatch(name):
            return None
        path = self._path(holder, name)
        try:
            if self._is_old(path):
                return None
            sealed = path.read_bytes()
            return AESGCM(_key_of(holder)).decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], name.encode())
        except (FileNotFoundError, InvalidTag, ValueError):  # ValueError: a file that was cut off
            return None

    def take(self, holder: str, name: str) -> bytes | None:
        """As `read`, and remove it: of all that try, one gets it."""
        content = self.read(holder, name)
        if content is None:
            return None
        try:
            self._path(holder, name).unlink()
        except FileNotFoundError:
            return None
        return content

    def _path(self, holder: str, name: str) -> Path:
        return self._directory / f"{_prefix_of(holder)}.{name}"

    def _is_old(self, path: Path) -> bool:
        """Files from the future are old, too: the clock was set back since."""
        return abs(self._clock_s() - path.stat().st_mtime) > KEPT_S

    def _make_room(self, prefix: str) -> None:
        mine: list[tuple[float, Path]] = []
        for path in self._directory.iterdir():
            try:
                if self._is_old(path):
                    path.unlink()
                elif path.name.startswith(prefix):
                    mine.append((path.stat().st_mtime, path))
            except FileNotFoundError:  # another worker was here first
                continue
        for _, path in sorted(mine)[: max(0, len(mine) - MOST_PER_HOLDER + 1)]:
            path.unlink(missing_ok=True)


def _prefix_of(holder: str) -> str:
    return sha256(_PURPOSE + holder.encode(errors="replace")).hexdigest()[:32]


def _key_of(holder: str) -> bytes:
    return HKDF(SHA256(), 32, salt=None, info=_PURPOSE).derive(holder.encode(errors="replace"))
