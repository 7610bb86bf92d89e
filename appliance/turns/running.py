"""The turns of conversations: each runs in a thread of its own, and not in the request of the browser that asked.

    with turns.claim(user_id, conversation_id) as place:        # one turn at a time for a conversation
        turn = run_turn(.., place.engine(engine), ..)           # place.engine ends the turn when it is stopped
        place.start(turn, keep_question, about)                 # records it, keeps the question, starts a thread
    turns.find(user_id, conversation_id) -> Reader | None       # in any worker: read along
    turns.stop(user_id, conversation_id, turn_id)               # in any worker
    with turns.ended(user_id, conversation_id):                 # no turn runs there, and none can begin
        ..

A turn ends when its answer is complete or reaches a limit, when the asker's access ends, when somebody stops it, and
when the process ends. A process that dies leaves its files. The next one that finds them closes the turn
(`appliance.turns.interrupted`), or puts the recorded answer into the conversation (`appliance.turns.unkept`).
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Final

from appliance.audit.log import AuditLog, RecordError
from appliance.database.transactions import DatabaseError
from appliance.errors import ApplianceError
from appliance.people.conversations import ConversationNotFoundError, Conversations, NewMessage
from appliance.turns.answer import About
from appliance.turns.engine import Engine
from appliance.turns.events import Failed, Waiting, failed
from appliance.turns.interrupted import LostTurns
from appliance.turns.journal import (
    ConversationBusyError,
    Head,
    Journal,
    Kept,
    Reader,
    claim,
    open_reader,
    remove_dead,
)
from appliance.turns.permits import ended_by
from appliance.turns.run import Turn
from appliance.turns.unkept import keep_recorded

_log = logging.getLogger(__name__)
_STOP_CHECK_S: Final = 0.1
_STOP_LIMIT_S: Final = 10.0  # a stopped turn ends within a second, unless the disk or the engine stands still
_KEEP_LIMIT_S: Final = 30.0  # each try waits up to ten seconds for the database already
_KEEP_AGAIN_S: Final = 1.0
_ID: Final = re.compile(r"[0-9A-Za-z]{1,64}")  # of users, conversations and turns: these become names of files


class TooManyTurnsError(ApplianceError):
    """One person has as many turns running as one may."""

    def __init__(self, most: int) -> None:
        super().__init__(f"You have {most} questions under way, and that is as many as one person may.")


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
        directory: one for all web workers.
        keep_limit_s: how long a recorded answer is tried to be put into its conversation.
        """
        self._directory = directory
        self._record = record
        self._keep_limit_s = keep_limit_s
        self._conversations = conversations
        self._most_per_person = most_per_person
        self._lost = LostTurns(record)
        self._burying = threading.Lock()  # of _lost
        self._lock = threading.Lock()
        self._threads: set[threading.Thread] = set()  # guarded by _lock
        self._ending = threading.Event()

    @contextmanager
    def claim(self, user_id: str, conversation_id: str) -> Iterator[Place]:
        """The place of a turn, given back at the end of the block unless the turn was started.

        Raises:
            ConversationBusyError: one is running there.
            TooManyTurnsError: this person has too many, in all web workers together.
            RecordError, DatabaseError: a dead turn of the conversation cannot be closed.
            OSError: the directory cannot be written.
        """
        path = self._path(user_id, conversation_id)
        place = Place(self, claim(path, partial(self._bury, path)), user_id, conversation_id)
        try:
            if self._count(user_id) > self._most_per_person:
                raise TooManyTurnsError(self._most_per_person)
            yield place
        finally:
            if not place.is_started:
                place.journal.close()

    def find(self, user_id: str, conversation_id: str) -> Reader | None:
        """A reader of the turn that runs in a conversation, to be closed; None where none runs.

        Raises:
            RecordError, DatabaseError: a dead turn cannot be closed.
        """
        path = self._path(user_id, conversation_id)
        reader = open_reader(path)
        if reader is None:
            return None
        if reader.head is not None and reader.has_owner():
            return reader
        reader.close()
        remove_dead(path, partial(self._bury, path))
        return None

    def stop(self, user_id: str, conversation_id: str, turn_id: str | None = None) -> bool:
        """Make a turn end within a second; False if it does not run. None: whichever runs in the conversation."""
        reader = self.find(user_id, conversation_id)
        if reader is None:
            return False
        with closing(reader):
            if reader.head is None or turn_id not in (None, reader.head.turn):
                return False
            reader.stop()
        return True

    @contextmanager
    def ended(self, user_id: str, conversation_id: str) -> Iterator[None]:
        """Stop what runs in a conversation, wait until its answer is recorded, and let no turn begin in the block.

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
        """Close and remove what dead processes left; what cannot be closed now is left for the next call."""
        stops = list(self._directory.glob("*.stop"))  # before the turns: each of these belongs to one, or to none
        for path in self._files():
            try:
                remove_dead(path, partial(self._bury, path))
            except (RecordError, DatabaseError, OSError):
                _log.exception("a turn whose process died is not closed yet")
        running = self._running()
        for stop in stops:
            if stop.stem not in running:
                with suppress(OSError):
                    stop.unlink()

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

    def run(self, place: Place, turn: Turn, question_id: str, about: About) -> None:
        """Run a turn in a thread.

        Raises:
            RuntimeError: there can be no further thread.
        """
        thread = threading.Thread(target=self._run, args=(place, turn, question_id, about), name="turn", daemon=True)
        with self._lock:
            self._threads.add(thread)
        try:
            thread.start()
        except BaseException:  # the machine has no thread left
            with self._lock:
                self._threads.discard(thread)
            raise

    def _run(self, place: Place, turn: Turn, question_id: str, about: About) -> None:
        journal = place.journal
        try:
            with closing(turn):
                for event in turn:
                    if not isinstance(event, Waiting):
                        journal.write(event)
        except Exception:  # the answer is in the record, and must still reach the conversation
            _log.exception("turn %s failed", turn.request.id)
            turn.answer.add(failed("engine_failed"))
        finally:
            self._end(place, turn, question_id, about)
            with self._lock:
                self._threads.discard(threading.current_thread())

    def _end(self, place: Place, turn: Turn, question_id: str, about: About) -> None:
        """Put the answer under its question. While the database is busy, try again for a limited time; after that the
        file is left, and who finds it puts the recorded answer there."""
        journal, deadline_s = place.journal, time.monotonic() + self._keep_limit_s
        while True:
            try:
                journal.write(Kept(self._keep(place, turn, question_id, about)))
                journal.close()
            except DatabaseError:
                if time.monotonic() < deadline_s and not self._ending.wait(_KEEP_AGAIN_S):
                    continue
                _log.exception("turn %s: its answer is not in the conversation yet", turn.request.id)
                journal.write(Kept(None))
                journal.leave()
            return

    def _keep(self, place: Place, turn: Turn, question_id: str, about: About) -> str | None:
        """The id of the new message; None where the conversation cannot take it.

        Raises:
            DatabaseError: the database is busy.
        """
        words = turn.answer.words
        facts = turn.answer.facts(about, turn=turn.request.id, prompt_event=turn.prompt_event, event=turn.answer_event)
        new = NewMessage("assistant", words.text, words.reasoning or None, words.calls, facts)
        try:
            return self._conversations.append(place.user_id, place.conversation_id, new, parent_id=question_id).id
        except ConversationNotFoundError:  # deleted meanwhile; the record has the answer
            return None
        except DatabaseError:
            raise
        except Exception:  # also of damaged rows: the file must be closed, or the conversation takes no more questions
            _log.exception("turn %s: its answer is not in the conversation", turn.request.id)
            return None

    def _claim_stopped(self, user_id: str, conversation_id: str) -> Journal:
        path, deadline_s = self._path(user_id, conversation_id), time.monotonic() + _STOP_LIMIT_S
        while True:
            self.stop(user_id, conversation_id)  # again each time: a turn that is being prepared cannot be stopped yet
            try:
                return claim(path, partial(self._bury, path))
            except ConversationBusyError:
                if time.monotonic() > deadline_s:
                    raise
            time.sleep(_STOP_CHECK_S)

    def _path(self, user_id: str, conversation_id: str) -> Path:
        if not (_ID.fullmatch(user_id) and _ID.fullmatch(conversation_id)):
            raise RuntimeError("internal error: an id that cannot be the name of a file")
        return self._directory / f"{user_id}.{conversation_id}"

    def _files(self, user_id: str = "*") -> list[Path]:
        return [path for path in self._directory.glob(f"{user_id}.*") if path.suffix != ".stop"]

    def _count(self, user_id: str) -> int:
        readers = [reader for path in self._files(user_id) if (reader := open_reader(path)) is not None]
        owned = sum(reader.has_owner() for reader in readers)
        for reader in readers:
            reader.close()
        return owned

    def _running(self) -> set[str]:
        """The turns that have a file, by their ids."""
        heads = [_head_of(path) for path in self._files()]
        return {head.turn for head in heads if head is not None}

    def _bury(self, path: Path) -> None:
        """Close the turns of dead processes in the record and in their conversations, then the one of this file."""
        with self._burying:
            self._lost.close()
        head = _head_of(path)
        user_id, _, conversation_id = path.name.partition(".")
        if head is None:
            return
        try:
            keep_recorded(self._record, self._conversations, user_id, conversation_id, head)
        except DatabaseError:
            raise
        except Exception:  # of damaged rows: the file must go, or the conversation takes no more questions
            _log.exception("turn %s: its answer is in the record alone", head.turn)


def _head_of(path: Path) -> Head | None:
    """Which turn a file belongs to; None where it does not say."""
    reader = open_reader(path)
    if reader is None:
        return None
    with closing(reader), suppress(OSError, ValueError, TypeError, KeyError):  # written by nobody of ours
        return reader.head
    return None


class Place:
    """The place of one turn in a conversation."""

    def __init__(self, turns: RunningTurns, journal: Journal, user_id: str, conversation_id: str) -> None:
        self.journal = journal
        self.user_id, self.conversation_id = user_id, conversation_id
        self.is_started = False
        self._turns = turns

    def engine(self, engine: Engine, *, is_ending: Callable[[], bool] = lambda: False) -> Engine:
        """`engine`, but its turn ends when somebody stops it. Args: is_ending: whether the server wants to end."""

        def why() -> Failed | None:
            if self.journal.is_stopped():
                return failed("stopped")
            return failed("closing") if is_ending() else self._turns.why_to_end()

        return ended_by(engine, why, interval_s=_STOP_CHECK_S)

    def start(self, turn: Turn, keep_question: Callable[[], str], about: About) -> None:
        """Record a turn's prompt, then have its question kept, then let it go on by itself.

        Args: keep_question: puts the question into the conversation; the value is the message that is answered.
        Raises:
            NotRecordedError: the prompt is not recorded; the question is not kept either.
            OSError, RuntimeError: the turn's file cannot be written, or there is no thread for the turn. These, and
                errors of `keep_question`, end the turn in the record.
        """
        refused = turn.begin()
        if refused is not None:
            raise NotRecordedError(refused)
        try:
            question_id = keep_question()
            self.journal.begin(Head(turn.request.id, question_id, time.monotonic(), about))
            self._turns.run(self, turn, question_id, about)
        except BaseException:
            turn.close()
            raise
        self.is_started = True
