"""The engine process, ``python -m appliance.engine.server``: takes turns from the doorbell, answers on their sockets.

It has four threads, each with one duty: the main thread runs the model; ``io`` reads requests and writes events;
``intake`` decodes and tokenises, so that neither of the others waits for a long prompt; ``questions`` says which tokens
a text has (token_questions.py). The doorbell is not touched before the model is loaded, so every answer, also to a
status request, comes from an engine that is ready.

The process opens no socket and connects to nothing. Its only sockets are those handed to it.

Environment: APPLIANCE_HOME (the site), APPLIANCE_DOORBELL_FD (the engine's end of the doorbell). SIGTERM and SIGINT end
every turn with Failed("engine_stopped"), then the process, with exit code 0.
"""

from __future__ import annotations

import logging
import os
import queue
import signal
import socket
import sys
import threading
from collections.abc import Callable
from datetime import date
from pathlib import Path
from types import FrameType

from appliance.config import load_config
from appliance.engine.connections import Connection, ConnectionLoop
from appliance.engine.harmony import ConversationError, Vocabulary, count_public_tokens, render_prompt
from appliance.engine.host import resident_bytes
from appliance.engine.jobs import Job
from appliance.engine.model.base import OnnxModel
from appliance.engine.packed_weights import PackingError
from appliance.engine.request_limits import check_request, surely_too_long
from appliance.engine.scheduler import STOPPED, Scheduler
from appliance.engine.startup import choose_accelerator, load_engine
from appliance.engine.token_questions import TokenQuestions
from appliance.engine.wire import ProtocolError, StatusRequest, decode
from appliance.errors import CANNOT_SERVE, ApplianceError
from appliance.installed_release import InstalledRelease, load_release
from appliance.isolation.confinement import seal
from appliance.isolation.seccomp import pretend
from appliance.turns.engine import CountRequest, Status, TextRequest, TokensRequest
from appliance.turns.events import Done, EngineEvent, Failed
from appliance.turns.request import TurnRequest

_HOME, _DOORBELL = "APPLIANCE_HOME", "APPLIANCE_DOORBELL_FD"
_FAREWELL_S = 2.0  # in which clients may take their last event at the end
_IDLE_S = 0.25  # how long an idle engine takes to notice a signal
# CUDA's library binds a Unix socket for processes that would share memory with this one, and gives up when the filter
# refuses that. No process shares memory with the engine, so the library is told that the socket was bound.
_CUDA_PRETENCE = ("bind", "listen")
_log = logging.getLogger("appliance.engine")


class EngineServer:
    """Serves one doorbell with one scheduler."""

    def __init__(
        self,
        doorbell: socket.socket,
        scheduler: Scheduler,
        vocabulary: Vocabulary,
        status: Callable[[], Status],
        *,
        today: Callable[[], date] = date.today,
    ) -> None:
        self._scheduler = scheduler
        self._vocabulary = vocabulary
        self._status = status
        self._today = today
        self._stopping = threading.Event()
        self._failed = False
        self._lock = threading.Lock()
        self._jobs: dict[Connection, Job] = {}  # submitted, client still there; held under _lock
        self._lines: queue.SimpleQueue[tuple[Connection, bytes] | None] = queue.SimpleQueue()
        self._questions = TokenQuestions(vocabulary, scheduler.context_tokens, today=today)
        self._connections = ConnectionLoop(
            doorbell,
            on_request=lambda connection, line: self._lines.put((connection, line)),
            on_gone=self._cancel,
            on_abandoned=self.stop,
        )

    def run(self) -> bool:
        """Serve until ``stop``; the calling thread runs the model. False if another thread failed."""
        io = threading.Thread(target=self._watched, args=(self._connections.run,), name="io")
        intake = threading.Thread(target=self._watched, args=(self._take_in,), name="intake")
        questions = threading.Thread(target=self._watched, args=(self._questions.run,), name="questions")
        for thread in (io, intake, questions):
            thread.start()
        try:
            while not self._stopping.is_set():
                if not self._scheduler.step():
                    self._scheduler.wait_for_work(_IDLE_S)
        finally:
            self._lines.put(None)
            intake.join()
            self._questions.stop()
            questions.join()
            self._scheduler.stop(STOPPED)
            self._connections.stop(_FAREWELL_S)
            io.join()
            self._connections.close()
        return not self._failed

    def stop(self) -> None:
        """Make ``run`` end soon. May be called from any thread and from a signal handler."""
        self._stopping.set()

    def _watched(self, work: Callable[[], None]) -> None:
        """Run a thread's work. If it raises, the server ends, because it could serve only in part."""
        try:
            work()
        except BaseException:
            self._failed = True
            self.stop()
            raise

    def _take_in(self) -> None:
        while (item := self._lines.get()) is not None:
            connection, line = item
            if not connection.gone:
                self._answer(connection, line)

    def _answer(self, connection: Connection, line: bytes) -> None:
        try:
            request = decode(line)
            if isinstance(request, StatusRequest):
                connection.send(self._status())
            elif isinstance(request, TurnRequest):
                self._start(connection, request)
            elif isinstance(request, TokensRequest | CountRequest | TextRequest):
                self._questions.put(connection, request)
            else:
                raise ProtocolError(f"a {type(request).__name__} is not a request")
        except (ProtocolError, ConversationError) as exc:
            connection.send(Failed("bad_request", str(exc)))

    def _start(self, connection: Connection, request: TurnRequest) -> None:
        check_request(request)
        # Before the prompt is rendered: tokenising a prompt in vain would keep all other users waiting.
        refusal = self._scheduler.refusal(request.user) or surely_too_long(request, self._scheduler.context_tokens)
        if refusal is not None:
            connection.send(refusal)
            return
        today = self._today()
        prompt = render_prompt(self._vocabulary, request, today=today)
        public = count_public_tokens(self._vocabulary, prompt, request.effort, today=today)

        def sink(event: EngineEvent) -> None:
            connection.send(event)
            if isinstance(event, Done | Failed):
                with self._lock:
                    self._jobs.pop(connection, None)

        job = Job(request, prompt, sink, public, connection.send)
        with self._lock:
            if connection.gone:  # otherwise _cancel, which is called after ``gone`` is set, finds the job
                return
            self._jobs[connection] = job
        self._scheduler.submit(job)

    def _cancel(self, connection: Connection) -> None:
        with self._lock:
            job = self._jobs.pop(connection, None)
        if job is not None:
            self._scheduler.cancel(job)


def describe(release: InstalledRelease, model: OnnxModel, scheduler: Scheduler) -> Status:
    """The engine's present status."""
    load = scheduler.load()
    return Status(
        model=release.model.id,
        release=release.version,
        accelerator=model.accelerator,
        context_tokens=model.capacity,
        slots=scheduler.most_streams,
        active=load.active,
        queued=load.queued,
        details={
            "threads": model.threads,
            "layers": model.shape.layers,
            "vocabulary": model.shape.vocab,
            "prompt_tokens": scheduler.prompted,
            "cached_tokens": scheduler.reused,
            "cache_bytes": model.cache_bytes,
            "resident_bytes": resident_bytes(),
        },
        generated_tokens=scheduler.generated,
        tokens_from_drafts=scheduler.drafting.accepted,
    )


def main() -> int:
    """The process's exit code: 0 after a signal or the supervisor's end, 1 after an error, CANNOT_SERVE after one that
    a restart cannot resolve."""
    seal(os.environ)
    logging.basicConfig(level=logging.INFO, format="engine: %(message)s", stream=sys.stderr)
    missing = [name for name in (_HOME, _DOORBELL) if name not in os.environ]
    if missing:
        _log.error("%s is not set; `appliance serve` starts this program", " and ".join(missing))
        return 2
    try:
        doorbell = socket.socket(fileno=int(os.environ[_DOORBELL]))
        config = load_config(Path(os.environ[_HOME]))
        if choose_accelerator(config, load_release(config.release_dir)) == "cuda":
            pretend(_CUDA_PRETENCE)
        release, model, vocabulary = load_engine(config)
    except (PackingError, OSError, ValueError) as exc:  # the packer repairs damaged weights before a restart
        _log.error("%s", exc)
        return 1
    except ApplianceError as exc:  # a person must act first
        _log.error("%s", exc)
        return CANNOT_SERVE
    scheduler = Scheduler(
        model, vocabulary, queue_limit=config.queue_limit, user_limit=config.queue_limit_per_user,
        streams=config.streams or config.slots, longest_pause_s=config.longest_pause_s, drafts=config.drafts,
    )  # fmt: skip
    server = EngineServer(doorbell, scheduler, vocabulary, lambda: describe(release, model, scheduler))

    def stop(_signal: int, _frame: FrameType | None) -> None:
        server.stop()

    signal.signal(signal.SIGTERM, stop)
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # as under the supervisor
        signal.signal(signal.SIGINT, stop)
    _log.info(
        "serving %s %s on %s, up to %d answers at once",
        release.name, release.version, model.accelerator, scheduler.most_streams,
    )  # fmt: skip
    return 0 if server.run() else 1


if __name__ == "__main__":
    sys.exit(main())
