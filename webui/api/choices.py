"""Several answers to one request (``n``): turns that run side by side, each recorded under an id of its own.

    requests = alternatives(first, count)
    with Choices([begin_turn(one) for one in requests]) as choices:
        for index, event in choices: ...

Each turn runs in a thread, because a turn blocks while its engine is silent. An engine that can copy prefixes computes
the prompt once: it copies each part from the turn that has it to the others. If one turn fails or the caller goes away,
all others end, too: each notices it at its next event, which the engine's client makes at least twice a second.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from itertools import chain
from queue import SimpleQueue
from typing import Protocol, Self

from flask import Response

from appliance.turns.events import Done, Failed, TurnEvent
from appliance.turns.run import Turn
from webui.api import errors
from webui.api.errors import ApiError
from webui.api.running import WAITING, Drawing, abort_unread, check_finished, event_stream
from webui.streaming import client_is_gone


class ChoicesDrawing(Protocol):
    """Draws several turns as one stream."""

    @property
    def each(self) -> Sequence[Drawing]:
        """What draws each turn."""

    def end_all(self, ends: Sequence[Done]) -> Iterable[str]:
        """What follows the ends of all turns. ``ends`` are in the order of the turns."""


def check_count(count: int, *, queue_limit: int, user_limit: int) -> None:
    """Refuse more answers than the engine would take from one person, even if it had nothing else to do.

    Raises:
        ApiError: 400; nothing is recorded.
    """
    most = min(queue_limit, user_limit) + 1  # one is worked on, the others wait
    if count > most:
        message = f"n must be at most {most} here: one person may not have more requests waiting."
        raise ApiError(400, "invalid_value", message, param="n")


class Choices(Iterator[tuple[int, TurnEvent]]):
    """The events of several turns in the order in which they come, each with the number of its turn."""

    def __init__(self, turns: Sequence[Turn]) -> None:
        """Start the turns; the caller must close the result."""
        self.turns = turns
        self._running = len(turns)
        self._events: SimpleQueue[tuple[int, TurnEvent | Exception]] = SimpleQueue()
        self._stopped = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(i,), name="choice") for i in range(len(turns))]
        for thread in self._threads:
            thread.start()

    def __next__(self) -> tuple[int, TurnEvent]:
        if not self._running:
            raise StopIteration
        index, event = self._events.get()
        if isinstance(event, Exception):
            raise event
        self._running -= isinstance(event, Done | Failed)
        return index, event

    def close(self) -> None:
        """Cancel what still runs. When this returns, the end of each turn is recorded."""
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self, index: int) -> None:
        try:
            with closing(self.turns[index]) as turn:
                while not self._stopped.is_set() and (event := next(turn, None)) is not None:
                    self._events.put((index, event))
        except Exception as exc:  # it is raised again in the thread of the request
            self._events.put((index, exc))


def finish_all(choices: Choices) -> list[Done]:
    """Run all turns to their ends, which are the value, in the order of the turns.

    Raises:
        ApiError: a turn failed or was cancelled.
        HTTPException: the caller has gone away, and nobody reads the answers.
    """
    ends: dict[int, Done] = {}
    with choices:
        for index, event in choices:
            if (done := _finished(event)) is not None:
                ends[index] = done
            elif client_is_gone():
                abort_unread()
    return _in_order(ends)


def streamed_choices(choices: Choices, drawing: ChoicesDrawing) -> Response:
    """The answers as they are written. A failure before every turn has begun is an HTTP error, a later one an object.

    Raises:
        ApiError: a turn was refused or failed at once.
    """
    try:
        begun = list(_until_all_began(choices))
    except BaseException:
        choices.close()
        raise
    response = event_stream(_drawn(begun, choices, drawing))
    response.call_on_close(choices.close)
    return response


def _until_all_began(choices: Choices) -> Iterator[tuple[int, TurnEvent]]:
    """The first events. A turn that waits for a place gives one within half a second."""
    silent = set(range(len(choices.turns)))
    while silent:
        index, event = next(choices)
        _finished(event)
        silent.discard(index)
        yield index, event


def _drawn(begun: Sequence[tuple[int, TurnEvent]], choices: Choices, drawing: ChoicesDrawing) -> Iterator[str]:
    for each in drawing.each:
        yield from each.begin()
    ends: dict[int, Done] = {}
    for index, event in chain(begun, choices):
        if client_is_gone():
            return
        try:
            yield from _piece(drawing.each[index], index, event, ends)
        except ApiError as error:
            yield from drawing.each[index].fail(error)
            return
    yield from drawing.end_all(_in_order(ends))


def _piece(drawing: Drawing, index: int, event: TurnEvent, ends: dict[int, Done]) -> Iterator[str]:
    """What one event adds to the stream; the end of a turn is noted in ``ends``."""
    done = _finished(event)
    if done is None:
        yield "".join(drawing.add(event)) or WAITING
    else:
        ends[index] = done
        yield from drawing.end(done)


def _finished(event: TurnEvent) -> Done | None:
    """The end of a complete turn; None while it goes on.

    Raises:
        ApiError: it failed or was cancelled.
    """
    if isinstance(event, Failed):
        raise errors.from_failed(event)
    if not isinstance(event, Done):
        return None
    check_finished(event)
    return event


def _in_order(ends: dict[int, Done]) -> list[Done]:
    return [ends[index] for index in sorted(ends)]
