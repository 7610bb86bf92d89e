"""Starts and watches the programs of the appliance, once the door is shut (`appliance.runtime.serve`).

The supervisor stays small: it imports nothing heavy, and it holds the sockets that outlive a restart (listener,
doorbell). It restarts programs that die, with growing delays, and an engine that neither answers nor computes. It
resumes a process that somebody has stopped (SIGSTOP). It ends when it is told to (SIGTERM, SIGINT, SIGQUIT, SIGHUP), or
when a program dies again and again before the appliance was ever ready.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict

from appliance.child import NoProcessError
from appliance.config import Config
from appliance.doorbell import Doorbell
from appliance.errors import CANNOT_SERVE, PACKED_ANEW, ApplianceError
from appliance.isolation import Watch
from appliance.isolation.files import Places
from appliance.isolation.policy import Kind
from appliance.runtime.announcement import Announcement
from appliance.runtime.children import Child, changed_processes
from appliance.runtime.log_relay import Outputs, wait_for_end
from appliance.runtime.messages import Messages
from appliance.runtime.processes import Programs, engine_kind, program_for, spawn
from appliance.runtime.readiness import EndedWorkers, EnginePulse, ReadyPipe
from appliance.signals import how_ended, name_of
from appliance.transport import Transport

_log = logging.getLogger(__name__)

STOP_S = 6.0  # for engine and web together; then they are killed
RECORDER_STOP_S = 3.0  # for the last signed checkpoint
LOG_STOP_S = 1.0  # for the last lines of the log
MAX_FAILED_STARTS = 3  # in a row, before the appliance was ever ready
_TICK_S = 0.1  # until ready, and while stopping
_LOOK_S = 1.0  # between two looks at the watcher's reports and at the engine's progress
STILL_S = 60.0  # how long an engine may neither answer nor compute
_PAUSED_AGAIN_S = 60.0  # between two messages that the same process was stopped
SIGNALS = {signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP}


class StartError(ApplianceError):
    """The appliance could not be started."""


class Supervisor:
    """Every program of one site; `run` returns when a signal ends it."""

    def __init__(
        self, config: Config, programs: Programs, listener: socket.socket, doorbell: Doorbell, reader_bell: Doorbell,
        messages: Sequence[dict[str, object]], places: Places | None, watch: Watch | None, transport: Transport,
        url: str, say: Callable[[str], None], *, on_trial: bool = False,
    ) -> None:  # fmt: skip
        """Args:
        messages: the first ones to the recorder.
        on_trial: this release has never served. Then the recorder, which upgrades the database, starts only when the
            model has loaded: until then the release before can be served again.
        places: what files programs may use; None: this host has no Landlock.
        """
        self._programs, self._say, self._places, self._watch = programs, say, places, watch
        self._link_url = config.site_addresses[0].url if config.site_addresses else url
        self._doorbell, self._reader_bell, self._pulse = doorbell, reader_bell, EnginePulse(doorbell.web_end)
        self._web_probe, self._recorder_probe = ReadyPipe(), ReadyPipe()
        self._messages = Messages(messages)
        self._on_trial = on_trial
        kinds = (Kind.RECORDER, Kind.WEB, Kind.PACKER, engine_kind(config), Kind.READER, Kind.ADMINISTRATION)
        self._outputs = Outputs(kinds)
        self._ended_workers = EndedWorkers()
        self._why = "an error of the supervisor"  # why it stops
        bell, ready, workers = "APPLIANCE_DOORBELL_FD", "APPLIANCE_READY_FD", "APPLIANCE_WORKERS_FD"
        recorder_fds, engine_fds = {ready: self._recorder_probe.fd}, {bell: doorbell.engine_end.fileno()}
        web_fds = {bell: doorbell.web_end.fileno(), ready: self._web_probe.fd, workers: self._ended_workers.fd}
        reads = "APPLIANCE_READER_FD"
        web_fds[reads] = reader_bell.web_end.fileno()
        self._recorder = Child(program_for(Kind.RECORDER, programs.recorder, programs, places, recorder_fds))
        kill = signal.SIGKILL
        self._engine = Child(
            program_for(engine_kind(config), programs.engine, programs, places, engine_fds, death_signal=kill),
            preparation=program_for(Kind.PACKER, programs.packer, programs, places, {}, death_signal=kill),
        )
        self._web = Child(program_for(Kind.WEB, programs.web, programs, places, web_fds, listener.fileno()))
        reader_fds = {reads: reader_bell.engine_end.fileno()}
        self._reader = Child(program_for(Kind.READER, programs.reader, programs, places, reader_fds, death_signal=kill))
        self._children = (self._recorder, self._engine, self._reader, self._web)
        self._announcement = Announcement(config, transport, url)
        self._announced = False
        self._paused_again_s: dict[str, float] = {}
        os.chdir(config.home)

    def run(self) -> None:
        """Start everything, watch it, and end it in order."""
        self._outputs.start()
        try:
            while not self._told_to_end():
                self._reap()
                self._report_ended_workers()
                self._messages.recorded(self._recorder_probe.answers())
                self._start_due()
                self._report_refusals()
                self._feel_pulse()
                self._messages.send()
                if not self._announced:
                    self._announce_when_ready()
        finally:
            self._stop()

    def _told_to_end(self) -> bool:
        """Wait for a signal or the next thing to do; True for the signals that end the appliance."""
        due = [child.start_at_s for child in self._children if not child.pid and not self._waits(child)]
        wait_s = min([_LOOK_S if self._announced else _TICK_S, *(at_s - time.monotonic() for at_s in due)])
        received = signal.sigtimedwait(SIGNALS, max(wait_s, 0.0))
        if received is None or received.si_signo == signal.SIGCHLD:
            return False
        self._why = f"signal {name_of(received.si_signo)}"
        return True

    def _start_due(self) -> None:
        """Start the programs that are due. If this user may start no process now, the start is put off.

        Raises:
            StartError: as `_reap`.
        """
        for child in self._children:
            if child.is_due and not self._waits(child):
                try:
                    self._start(child)
                except NoProcessError as exc:
                    delay_s = self._put_off(child, child.next_program().name, str(exc), 0.0)
                    _log.error("the %s does not start: %s; trying again in %.1f s", child.program.name, exc, delay_s)
        if not self._outputs.pid:
            with contextlib.suppress(NoProcessError):
                self._outputs.start()

    def _waits(self, child: Child) -> bool:
        """Web workers use the database only after the recorder has made or upgraded it."""
        if child is self._recorder:
            return self._on_trial and not self._pulse.was_felt
        return child is self._web and not self._recorder_probe.is_answered()

    def _start(self, child: Child) -> None:
        child.started_s = time.monotonic()
        stdin = self._new_messages() if child is self._recorder else 0
        program = child.next_program()
        output = self._outputs.of(program.kind)
        child.pid = spawn(program, watch=self._watch, output=output, stdin=stdin)

    def _new_messages(self) -> int:
        """The messages for a new recorder. They include whether there are packed weights to compare."""
        reader = self._messages.new_reader()
        if self._engine.is_prepared:
            self._messages.add({"event": "packer_ended", "anew": False})
        return reader

    def _reap(self) -> None:
        """Find out which programs ended, and when each is to start again.

        Raises:
            StartError: one keeps ending before the appliance was ever ready, or says that it cannot serve.
        """
        for pid, status in self._ended_processes():
            if self._watch is not None and pid == self._watch.pid:
                self._report_refusals()
                self._watch = None
                self._messages.add({"event": "watch_ended"})
                _log.error("the watcher has ended; refused calls are seen by nobody until the appliance is restarted")
            if pid == self._outputs.pid:
                _log.error("the log relay has ended; another one takes over")
                self._outputs.pid = 0
            for child in self._children:
                if child.pid == pid:
                    self._take_end(child, os.waitstatus_to_exitcode(status))

    def _report_refusals(self) -> None:
        if self._watch is not None:
            for refused in self._watch.refusals():
                self._messages.add({"event": "attempt_refused", **asdict(refused)})

    def _ended_processes(self) -> Iterator[tuple[int, int]]:
        """The processes that ended, with their statuses. Processes that somebody has stopped are resumed."""
        for pid, status in changed_processes():
            if os.WIFSTOPPED(status):
                self._go_on(pid, name_of(os.WSTOPSIG(status)))
            else:
                yield pid, status

    def _go_on(self, pid: int, stopped_by: str) -> None:
        os.kill(pid, signal.SIGCONT)  # not reaped yet, so the pid is still its own
        named = {child.pid: child.next_program().name for child in self._children if child.pid}
        named |= {self._outputs.pid: "log relay"} | ({} if self._watch is None else {self._watch.pid: "watcher"})
        name, how, now_s = named.get(pid, "command"), f"stopped by {stopped_by}", time.monotonic()
        if now_s >= self._paused_again_s.get(name, 0.0):
            self._paused_again_s[name] = now_s + _PAUSED_AGAIN_S
            _log.warning("the %s was %s and goes on", name, how)
            self._messages.add({"event": "process_paused", "process": name, "how": how})

    def _feel_pulse(self) -> None:
        """Kill an engine at a standstill, so that its turns end and another takes its place."""
        if not self._engine.runs_its_program or not self._pulse.is_lost(self._engine.pid, limit_s=STILL_S):
            return
        self._engine.killed_because = "killed, because it neither answered nor computed"
        _log.error("the engine has neither answered nor computed for %.0f s and is killed", STILL_S)
        os.kill(self._engine.pid, signal.SIGKILL)

    def _take_end(self, child: Child, code: int) -> None:
        name, ran_s = child.next_program().name, child.ran_s()
        if child.has_prepared(code):
            self._messages.add({"event": "packer_ended", "anew": code == PACKED_ANEW})
            return
        how, child.killed_because = child.killed_because or how_ended(code), ""
        if not self._announced and code == CANNOT_SERVE:
            raise StartError(f"the {name} cannot serve as things are; see its message above")
        delay_s = self._put_off(child, name, how, ran_s)
        _log.warning("the %s ended after %.0f s (%s); starting it again in %.1f s", name, ran_s, how, delay_s)
        self._messages.add({"event": "process_ended", "process": name, "how": how, "ran_s": round(ran_s, 1)})
        for served, bell in ((self._engine, self._doorbell), (self._reader, self._reader_bell)):
            if child is served and bell.is_shut():
                self._replace(bell, name)

    def _put_off(self, child: Child, name: str, how: str, ran_s: float) -> float:
        """Put off the next start of a program; return by how many seconds.

        Raises:
            StartError: it keeps failing before the appliance was ever ready.
        """
        delay_s = child.put_off(ran_s)
        if not self._announced and child.failures >= MAX_FAILED_STARTS:
            often = f"{how}, {child.failures} times"
            raise StartError(f"the {name} does not start ({often}); see its messages above")
        return delay_s

    def _replace(self, bell: Doorbell, name: str) -> None:
        """Make a new doorbell. A process that holds the old one has shut it, so all that hold it are restarted."""
        _log.error("the doorbell was shut by a web worker or the %s; both begin again with another", name)
        bell.replace()
        if self._web.pid:
            os.kill(self._web.pid, signal.SIGTERM)

    def _report_ended_workers(self) -> None:
        """Pass on what gunicorn reports. Workers are its children, and it restarts them."""
        for ended in self._ended_workers.ended():
            self._messages.add({"event": "process_ended", "process": "web worker", **ended})

    def _report_killed(self, child: Child) -> None:
        """Report that a program had to be killed at the end. Nobody can record that of the recorder itself."""
        if child is not self._recorder:
            ran_s = round(child.ran_s(), 1)
            how = "killed, because it did not stop when it was told to"
            self._messages.add({"event": "process_ended", "process": child.program.name, "how": how, "ran_s": ran_s})

    def _announce_when_ready(self) -> None:
        if not self._announcement.is_asked:
            if not self._recorder_probe.is_answered():  # it has made the database
                return
            argv, link_fd = (*self._programs.first_admin, self._link_url), self._announcement.ask()
            program = program_for(Kind.ADMINISTRATION, argv, self._programs, self._places, {})
            spawn(program, watch=self._watch, output=self._outputs.of(program.kind), stdout=link_fd)
            os.close(link_fd)
        words = self._announcement.words()
        if self._web_probe.is_answered() and self._pulse.was_felt and words is not None:
            self._announced, self._on_trial = True, False
            self._say(words)
            self._messages.add({"event": "ready"})

    def _stop(self) -> None:
        """End engine and web first, so that running answers end and are recorded; then end the recorder, which signs
        last. If the recorder has just died, start another first; otherwise nobody would record the end."""
        serving = (self._web, self._engine, self._reader)
        if not self._recorder.pid and self._recorder_probe.is_answered():
            self._start(self._recorder)
        for child in serving:
            if child.pid:
                os.kill(child.pid, signal.SIGTERM)  # not reaped yet, so the pid is still its own
        self._wait_for(serving, STOP_S)
        self._report_refusals()
        self._messages.add({"event": "stopping", "why": self._why})
        self._messages.send()
        self._messages.close()
        self._wait_for((self._recorder,), RECORDER_STOP_S)
        self._outputs.close()
        wait_for_end(self._outputs, LOG_STOP_S)
        if self._watch is not None:
            self._watch.stop()

    def _wait_for(self, children: tuple[Child, ...], limit_s: float) -> None:
        deadline_s = time.monotonic() + limit_s
        while any(child.pid for child in children):
            if time.monotonic() >= deadline_s:
                for child in children:
                    if child.pid:
                        _log.warning("the %s did not end in time and is killed", child.program.name)
                        self._report_killed(child)
                        with contextlib.suppress(ProcessLookupError):
                            os.killpg(child.pid, signal.SIGKILL)
                deadline_s = math.inf
            ended = {pid for pid, _ in self._ended_processes()}
            for child in self._children:
                child.pid = 0 if child.pid in ended else child.pid
            signal.sigtimedwait({signal.SIGCHLD}, _TICK_S)
