"""What has been rendered already, in each web worker."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from typing import Final


class RenderCache:
    """Texts that were made from other texts, by the digest of those. Drops the least recently used. Thread-safe."""

    def __init__(self, max_chars: int) -> None:
        self._max_chars = max_chars
        self._chars = 0
        self._made: OrderedDict[bytes, str] = OrderedDict()  # guarded by _lock, as is _chars
        self._lock = threading.Lock()

    def get(self, key: bytes) -> str | None:
        with self._lock:
            if key in self._made:
                self._made.move_to_end(key)
            return self._made.get(key)

    def put(self, key: bytes, made: str) -> None:
        """Keep `made`, unless it is larger than a quarter of the cache."""
        if len(made) > self._max_chars // 4:
            return
        with self._lock:
            self._chars += len(made) - len(self._made.pop(key, ""))
            self._made[key] = made
            while self._chars > self._max_chars:
                self._chars -= len(self._made.popitem(last=False)[1])


KEPT: Final = RenderCache(16_000_000)  # characters of HTML, in each web worker


def digest(*parts: str) -> bytes:
    """A key for what is made from these texts."""
    state = hashlib.sha256()
    for part in parts:
        encoded = part.encode("utf-8", "surrogatepass")
        state.update(len(encoded).to_bytes(8, "big") + encoded)
    return state.digest()
