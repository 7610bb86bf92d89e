"""The files of running turns, in one directory for all web workers.

    files = TurnFiles(directory, record, conversations)
    journal = files.claim(user_id, conversation_id)             # the owner's side
    reader = files.find(user_id, conversation_id)               # a reader's side; None where no turn runs
    files.clear_dead()                                          # in any process, at any time

A process that dies leaves its files. The next process that meets such a file closes the turn before it removes the
file: it records an answer if there is none (`appliance.turns.interrupted`), or puts the recorded answer into the
conversation (`appliance.turns.unkept`). A response in the background has a file of its own, with its id in the name
instead of a conversation's.
"""

from __future__ import annotations

import logging
import re
import threading
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Final

from appliance.audit.log import AuditLog, RecordError
from appliance.database.transactions import DatabaseError
from appliance.people.conversations import Conversations
from appliance.turns.interrupted import LostTurns
from appliance.turns.journal import Head, Journal, Reader, claim, open_reader, remove_dead
from appliance.turns.unkept import fail_response, keep_recorded

_log = logging.getLogger(__name__)
_ID: Final = re.compile(r"[0-9A-Za-z_]{1,64}")  # users, conversations and turns: their ids become file names


class TurnFiles:
    """Finds, claims and clears the files of turns; thread-safe."""

    def __init__(self, directory: Path, record: AuditLog, conversations: Conversations) -> None:
        self._directory = directory
        self._record = record
        self._conversations = conversations
        self._lost = LostTurns(record)  # guarded by _closing
        self._closing = threading.Lock()

    def claim(self, user_id: str, conversation_id: str) -> Journal:
        """Become the owner of a conversation's new file.

        Raises:
            ConversationBusyError: a turn runs in the conversation.
            RecordError, DatabaseError: a dead turn of the conversation cannot be closed.
            OSError: the directory cannot be written.
        """
        path = self._path(user_id, conversation_id)
        return claim(path, partial(self._close_dead, path))

    def find(self, user_id: str, conversation_id: str) -> Reader | None:
        """Open a reader of the turn that runs in a conversation; None where none runs. The caller closes the reader.

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
        remove_dead(path, partial(self._close_dead, path))
        return None

    def count(self, user_id: str) -> int:
        """How many turns of a person run, in all processes together."""
        readers = [reader for path in self._paths(user_id) if (reader := open_reader(path)) is not None]
        owned = sum(reader.has_owner() for reader in readers)
        for reader in readers:
            reader.close()
        return owned

    def clear_dead(self) -> None:
        """Close the turns of dead processes and remove their files. The next call tries again what fails now."""
        stops = list(self._directory.glob("*.stop"))  # before the turns: each of these belongs to one, or to none
        for path in self._paths():
            try:
                remove_dead(path, partial(self._close_dead, path))
            except (RecordError, DatabaseError, OSError):
                _log.exception("a turn whose process died is not closed yet")
        turns = self._turns()
        for stop in stops:
            if stop.stem not in turns:
                with suppress(OSError):
                    stop.unlink()

    def close_response(self, response_id: str) -> None:
        """End a response that is kept as running although it has no file: its turn is over, or the file was lost.

        Raises:
            RecordError, DatabaseError: it cannot be ended now.
        """
        with self._closing:
            self._lost.close()
        fail_response(self._record, response_id)

    def _path(self, user_id: str, conversation_id: str) -> Path:
        if not (_ID.fullmatch(user_id) and _ID.fullmatch(conversation_id)):
            raise RuntimeError("internal error: an id that cannot be the name of a file")
        return self._directory / f"{user_id}.{conversation_id}"

    def _paths(self, user_id: str = "*") -> list[Path]:
        return [path for path in self._directory.glob(f"{user_id}.*") if path.suffix != ".stop"]

    def _turns(self) -> set[str]:
        """The ids of the turns that have a file."""
        heads = [_head_of(path) for path in self._paths()]
        return {head.turn for head in heads if head is not None}

    def _close_dead(self, path: Path) -> None:
        """Close the turns of dead processes in the record and in their conversations, then the one of this file."""
        with self._closing:
            self._lost.close()
        head = _head_of(path)
        user_id, _, conversation_id = path.name.partition(".")
        if head is None:
            return
        if not head.question:
            fail_response(self._record, head.turn)
            return
        try:
            keep_recorded(self._record, self._conversations, user_id, conversation_id, head)
        except DatabaseError:
            raise
        except Exception:  # damaged rows, too: if the file stayed, the conversation would take no more questions
            _log.exception("turn %s: its answer is in the record alone", head.turn)


def _head_of(path: Path) -> Head | None:
    """Which turn a file belongs to; None where it does not say."""
    reader = open_reader(path)
    if reader is None:
        return None
    with closing(reader), suppress(OSError, ValueError, TypeError, KeyError):  # not a file that the appliance wrote
        return reader.head
    return None
