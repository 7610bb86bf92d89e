"""What travels between a web worker and the reader of files, and the lines in which it does.

A worker makes a Unix socket pair for each file and sends one end through the reader's doorbell, as it does for the
engine. The pair carries one line of JSON, a `ReadRequest`, then the file's bytes, and back one line, a `ReadFile` or a
`Refusal`. If the other side closes its end early, its process has ended.

The reader may have been taken over by the file that it reads. So an answer holds no sentences, only codes of which this
module knows every one; `text` is the one thing that the file decides, and `decode_answer` limits it.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

from appliance.audit.details.turns import FileForm, LeftOut
from appliance.turns.typed import checked

Code = Literal[
    "empty", "image", "not_text", "archive", "other_office", "old_office", "encrypted", "broken", "no_text",
    "too_long", "too_large_inside", "out_of_memory", "out_of_time", "reader_ended", "reader_busy",
]  # fmt: skip

_MOST_LEFT_OUT: Final = 16
_BESIDE_BYTES: Final = 4096  # of an answer's line, for everything but the text
_BYTES_PER_CHAR: Final = 12  # a JSON escape of a character beyond the BMP; the longest form of any


class WireError(Exception):
    """A line from the other side is not what this module writes."""


@dataclass(frozen=True)
class ReadRequest:
    """Asks for the text of a file of ``size_bytes``, which follow. The name serves as a hint, and is not trusted."""

    name: str
    size_bytes: int
    max_chars: int


@dataclass(frozen=True)
class ReadFile:
    """What a file says. ``parts`` counts pages or sheets; ``encoding`` is set where it is not UTF-8."""

    form: FileForm
    text: str
    parts: int | None = None
    encoding: str | None = None
    left_out: tuple[LeftOut, ...] = ()


@dataclass(frozen=True)
class Refusal:
    """Why a file has no text."""

    code: Code


def encode(record: ReadRequest | ReadFile | Refusal) -> bytes:
    """One line, newline included."""
    return json.dumps({"type": type(record).__name__, **asdict(record)}).encode() + b"\n"


def decode_request(line: bytes) -> ReadRequest:
    """Raises: WireError: the line is no request."""
    request = _decode(line, {"ReadRequest": ReadRequest})
    if request.size_bytes < 0 or request.max_chars < 0:
        raise WireError("a size below zero")
    return request  # type: ignore[no-any-return]


def decode_answer(line: bytes, max_chars: int) -> ReadFile | Refusal:
    """Raises: WireError: the line is no answer, or its text is empty or longer than was asked for."""
    answer: ReadFile | Refusal = _decode(line, {"ReadFile": ReadFile, "Refusal": Refusal})
    if isinstance(answer, ReadFile):
        _check(answer, max_chars)
    return answer


def longest_answer_bytes(max_chars: int) -> int:
    return _BYTES_PER_CHAR * max_chars + _BESIDE_BYTES


def _check(answer: ReadFile, max_chars: int) -> None:
    if len(answer.text) > max_chars or not answer.text.strip():
        raise WireError("a text that is empty or too long")
    if answer.parts is not None and not 0 < answer.parts <= 1_000_000_000:
        raise WireError("a number of parts that no file has")
    if answer.encoding not in (None, "UTF-16", "UTF-32", "Windows-1252") or len(answer.left_out) > _MOST_LEFT_OUT:
        raise WireError("facts that no file has")


def _decode(line: bytes, kinds: dict[str, type[Any]]) -> Any:
    try:
        body = json.loads(line)
        return checked(kinds[body.pop("type")], body)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as exc:
        raise WireError(f"unreadable record: {type(exc).__name__}") from exc
