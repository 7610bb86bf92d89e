"""The turns of conversations, and responses in the background. Each runs in a thread of its own, not in the request of
the browser or the program that asked.

    with turns.claim(user_id, conversation_id) as place:        # one turn at a time in a conversation
        turn = run_turn(.., place.engine(engine), ..)           # place.engine ends the turn when it is stopped
        place.start(turn, keep_question, about)                 # records it, keeps the question, starts a thread
    place.start_response(turn, keep_request, keep_answer, ..)   # the same for a response; its id is that of the place
    turns.find(user_id, conversation_id) -> Reader | None       # in any worker: read along
    turns.stop(user_id, conversation_id, turn_id)               # in any worker
    with turns.ended(user_id, conversation_id):                 # no turn runs there, and none can begin
        ..

A turn ends when its answer is complete or reaches a limit, when the asker's access ends, when somebody stops it, and
when the process ends. `appliance.turns.files` closes the turns of processes that died.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Final

from appliance.audit.log import AuditLog
from appliance.database.transactions import DatabaseError
from appliance.errors import ApplianceError
from appliance.people.conversations import Conversations
from appliance.turns.answer import About
from appliance.turns.ended import EndedTurns
from appliance.turns.engine import Engine
from appliance.turns.events import Failed, Waiting, failed
from appliance.turns.files import TurnFiles
from appliance.turns.journal import ConversationBusyError, Head, Journal, Kept, Reader
from appliance.turns.keeping import Keep, keep_message, kept
from appliance.turns.permits import ended_by
from appliance.turns.run import Turn

_log = logging.getLogger(__name__)
_STOP_CHECK_S: Final = 0.1
_STOP_LIMIT_S: Final = 10.0  # a stopped turn ends within a second, unless the disk or the engine hangs
_KEEP_LIMIT_S: Final = 30.0  # one try may itself wait ten seconds for the database
_KEEP_AGAIN_S: Final = 1.0


class TooManyTurnsError(ApplianceError):
    """One person has as many turns running as one may."""

    def __init__(self, most: int) -> None:
        super().__init__(f"You have {most} questions under way, which is as many as one person may have.")


class NotRecordedError(ApplianceError):
    """The prompt is not recorded, so nothing was asked or kept."""

    def __init__(self, failure: Failed) -> None:
        super().__init__(failure.message)
        self.failure = failure


class RunningTurns:
    """The turns of this process, and access to those of the other web workers; thread-safe."""

    def __init__(
        self, directory: Path, record: AuditLog, conversations: Conversations, *, most_per_person: int,
        keep_limit_s: float = _KEEP_LIMIT_S,
    ) -> None:  # fmt: skip
        """Args:
        directory: the same for all web workers.
        keep_limit_s: how long to try to put a recorded answer into its conversation.
        """
        self._files = TurnFiles(directory, record, conversations)
        self.ended_turns = EndedTurns(directory / "ended")
        self._keep_limit_s = keep_limit_s
        self.conversations = conversations
        self._most_per_person = most_per_person
        self._lock = threading.Lock()
        self._threads: set[threading.Thread] = set()  # guarded by _lock
        self._ending = threading.Event()

    @contextmanager
    def claim(self, user_id: str, conversation_id: str) -> Iterator[Place]:
        """The place of a turn, given back at the end of the block unless the turn was started.

        Args:
            conversation_id: here and below, the id of the response where the turn is a response in the background.
        Raises:
            ConversationBusyError: a turn is running there.
            TooManyTurnsError: this person has too many turns, counted over all web workers.
            RecordError, DatabaseError: a dead turn of the conversation cannot be closed.
            OSError: the directory cannot be written.
        """
        place = Place(self, self._files.claim(user_id, conversation_id), user_id, conversation_id)
        try:
            if self._files.count(user_id) > self._most_per_person:
                raise TooManyTurnsError(self._most_per_person)
            yield place
        finally:
            if not place.is_started:
                place.journal.close()

    def find(self, user_id: str, conversation_id: str) -> Reader | None:
        """Open a reader of the turn that runs in a conversation; None where none runs. The caller closes the reader.

        Raises:
            RecordError, DatabaseError: a dead turn cannot be closed.
        """
        return self._files.find(user_id, conversation_id)

    def stop(self, user_id: str, conversation_id: str, turn_id: str | None = None) -> bool:
        """Make a turn end within a second; return False where it does not run.

        Args:
            turn_id: None stops whichever turn runs in the conversation.
        """
        reader = self.find(user_id, conversation_id)
        if reader is None:
            return False
        with closing(reader):
            if reader.head is None or turn_id not in (None, reader.head.turn):
                return False
            reader.stop()
        return True

    def end(self, user_id: str, conversation_id: str) -> None:
        """Stop the turn that runs in a place, and wait until its answer is recorded. Another turn may begin at once.

        Raises:
            ConversationBusyError: the turn does not end.
            RecordError, DatabaseError: a dead turn cannot be closed.
            OSError: the file that asks for the end cannot be made.
        """
        deadline_s = time.monotonic() + _STOP_LIMIT_S
        while self.stop(user_id, conversation_id):
            if time.monotonic() > deadline_s:
                raise ConversationBusyError
            time.sleep(_STOP_CHECK_S)

    @contextmanager
    def ended(self, user_id: str, conversation_id: str) -> Iterator[None]:
        """Stop the turn of a conversation, wait until its answer is recorded, and let no turn begin during the block.

        Raises:
            ConversationBusyError: the turn does not end.
            RecordError, DatabaseError: a dead turn of the conversation cannot be closed.
            OSError: the directory cannot be written.
        """
        journal = self._claim_stopped(user_id, conversation_id)
        try:
            yield
        finally:
            journal.close()

    def clear_dead(self) -> None:
        """Close the turns of dead processes and remove their files. The next call tries again what fails now."""
        self._files.clear_dead()
        self.ended_turns.make_room()

    def close_response(self, response_id: str) -> None:
        """End a response that is kept as running, and that `find` did not find.

        Raises:
            RecordError, DatabaseError: it cannot be ended now.
        """
        self._files.close_response(response_id)

    def end_all(self, limit_s: float) -> None:
        """End the turns of this process, and wait at most `limit_s` until their answers are recorded."""
        self._ending.set()
        deadline_s = time.monotonic() + limit_s
        with self._lock:
            threads = list(self._threads)
        for thread in threads:
            thread.join(max(0.0, deadline_s - time.monotonic()))

    def why_to_end(self) -> Failed | None:
        return failed("closing") if self._ending.is_set() else None

    def run(self, place: Place, turn: Turn, keep: Keep) -> None:
        """Run a turn in a thread.

        Raises:
            RuntimeError: no further thread can be started.
        """
        thread = threading.Thread(target=self._run, args=(place, turn, keep), name="turn", daemon=True)
        with self._lock:
            self._threads.add(thread)
        try:
            thread.start()
        except BaseException:  # the machine has no thread left
            with self._lock:
                self._threads.discard(thread)
            raise

    def _run(self, place: Place, turn: Turn, keep: Keep) -> None:
        journal = place.journal
        try:
            with closing(turn):
                for event in turn:
                    if not isinstance(event, Waiting):
                        journal.write(event)
                    elif event.queued is not None:
                        journal.write(event.queued)
        except Exception:  # the answer is in the record, and must still reach the conversation
            _log.exception("turn %s failed", turn.request.id)
            turn.answer.add(failed("engine_failed"))
        finally:
            self._end(place, turn, keep)
            with self._lock:
                self._threads.discard(threading.current_thread())

    def _end(self, place: Place, turn: Turn, keep: Keep) -> None:
        """Keep the answer. While the database is busy, try again for a limited time. Then leave the file; the process
        that finds it puts the recorded answer under its question, or ends the response."""
        journal, deadline_s = place.journal, time.monotonic() + self._keep_limit_s
        while True:
            try:
                journal.write(Kept(kept(turn, keep)))
                self._close(place, turn)
            except DatabaseError:
                if time.monotonic() < deadline_s and not self._ending.wait(_KEEP_AGAIN_S):
                    continue
                _log.exception("turn %s: its answer is not kept yet", turn.request.id)
                journal.write(Kept(None))
                journal.leave()
            return

    def _close(self, place: Place, turn: Turn) -> None:
        """Remove the file of a turn that is over, or put it where its readers still find it."""
        to = None
        if place.leaves_file:
            with suppress(OSError):
                to = self.ended_turns.place(place.user_id, turn.request.id)
        place.journal.close(to)
        if to is not None:
            self.ended_turns.make_room()

    def _claim_stopped(self, user_id: str, conversation_id: str) -> Journal:
        deadline_s = time.monotonic() + _STOP_LIMIT_S
        while True:
            self.stop(user_id, conversation_id)  # again each time: a turn that is being prepared cannot be stopped yet
            try:
                return self._files.claim(user_id, conversation_id)
            except ConversationBusyError:
                if time.monotonic() > deadline_s:
                    raise
            time.sleep(_STOP_CHECK_S)


class Place:
    """The place of one turn in a conversation."""

    def __init__(self, turns: RunningTurns, journal: Journal, user_id: str, conversation_id: str) -> None:
        self.journal = journal
        self.user_id, self.conversation_id = user_id, conversation_id
        self.is_started = False
        self.leaves_file = False  # for readers who come after the end
        self._turns = turns

    def engine(self, engine: Engine, *, is_ending: Callable[[], bool] = lambda: False) -> Engine:
        """An engine like `engine` whose turn ends when somebody stops it.

        Args:
            is_ending: whether the server is about to end.
        """

        def why() -> Failed | None:
            if self.journal.is_stopped():
                return failed("stopped")
            return failed("closing") if is_ending() else self._turns.why_to_end()

        return ended_by(engine, why, interval_s=_STOP_CHECK_S)

    def start(self, turn: Turn, keep_question: Callable[[], str], about: About, *, begun: str | None = None) -> None:
        """Record a turn's prompt, keep its question, then run the turn in a thread.

        Args:
            keep_question: puts the question into the conversation and returns the id of its message.
            begun: the message of the answer that the turn continues.
        Raises:
            NotRecordedError: the prompt is not recorded; the question is not kept either.
            OSError, RuntimeError: the turn's file cannot be written, or no thread can be started. These errors, and
                those of `keep_question`, end the turn in the record.
        """

        def begin() -> Keep:
            head = Head(turn.request.id, keep_question(), time.monotonic(), about, begun)
            self.journal.begin(head)
            return partial(keep_message, self._turns.conversations, self.user_id, self.conversation_id, head, turn)

        self._start(turn, begin)

    def start_response(
        self, turn: Turn, keep_request: Callable[[], None], keep_answer: Keep, *, include: tuple[str, ...]
    ) -> None:
        """Record a turn's prompt, keep the response that is begun, then run the turn in a thread.

        Args:
            keep_answer: keeps the end of the response. While it raises DatabaseError it is called again.
            include: as in `Head`.
        Raises: as `start`, with `keep_request` in place of `keep_question`.
        """

        def begin() -> Keep:
            self.leaves_file = True
            self.journal.begin(Head(turn.request.id, "", time.monotonic(), include=include))
            keep_request()
            return keep_answer

        self._start(turn, begin)

    def _start(self, turn: Turn, begin: Callable[[], Keep]) -> None:
        refused = turn.begin()
        if refused is not None:
            raise NotRecordedError(refused)
        try:
            self._turns.run(self, turn, begin())
        except BaseException:
            turn.close()
            raise
        self.is_started = True
