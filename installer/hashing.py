"""SHA-256 of bytes that arrive piece by piece, computed by a thread beside the one that reads and writes them.

Hashing takes about as long as writing on a fast disk. Both release the interpreter's lock, so that together they take
as long as the slower one.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

_AHEAD = 8  # pieces that may wait to be hashed; they are in memory


class RunningDigest:
    """A digest whose pieces are hashed in their order. The caller must not change a piece afterwards."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self._pool = pool
        self._sha256 = hashlib.sha256()
        self._waiting: deque[Future[None]] = deque()

    def update(self, piece: bytes | memoryview) -> None:
        """Add a piece. Waits while too many pieces wait already."""
        self._waiting.append(self._pool.submit(self._sha256.update, piece))
        if len(self._waiting) > _AHEAD:
            self._waiting.popleft().result()

    def hexdigest(self) -> str:
        """The digest of all pieces."""
        while self._waiting:
            self._waiting.popleft().result()
        return self._sha256.hexdigest()


@contextmanager
def running_digest() -> Iterator[RunningDigest]:
    """A digest and its thread, which ends with the block."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        yield RunningDigest(pool)
