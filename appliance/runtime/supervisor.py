"""`appliance serve`: binds the listening socket, shuts every way out, proves it, then starts and watches the programs.

    serve(config, programs, say=print)      # returns when a signal ends it

The supervisor stays small: it imports nothing heavy, holds the sockets that outlive a restart (listener, doorbell), and
restarts what dies, with growing delays, and an engine that neither answers nor computes. What somebody has stopped
(SIGSTOP) it makes go on. It ends when it is told to (SIGTERM, SIGINT, SIGQUIT, SIGHUP), or when a program dies again
and again before the appliance was ever ready.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from appliance.config import Config, init_state
from appliance.doorbell import Doorbell
from appliance.errors import CANNOT_SERVE, PACKED_ANEW, ApplianceError
from appliance.isolation import (
    Silence,
    Watch,
    check_access,
    owner_to_become,
    refuse_root,
    shut_the_door_for_programs,
)
from appliance.isolation.administration import CONFINED_ENVIRON
from appliance.isolation.files import Places, library_path, places_of, scratch_dir
from appliance.isolation.policy import Kind
from appliance.plain_file import read_plain
from appliance.runtime.inherited import begin_afresh, check_limits
from appliance.runtime.installed import InstalledRelease
from appliance.runtime.listener import listen, url_of
from appliance.runtime.log_relay import Outputs, wait_for_end
from appliance.runtime.notes import Notes
from appliance.runtime.processes import Program, Programs, engine_kind, spawn
from appliance.runtime.readiness import Answer, EndedWorkers, EnginePulse, ReadyPipe
from appliance.runtime.site_lock import lock_site
from appliance.signals import how_ended, ignore_all_but
from appliance.transport import Transport, authority_certificate, host_of, pem_fingerprint, transport_of

_log = logging.getLogger(__name__)

STOP_S = 6.0  # for engine and web together; then they are killed
RECORDER_STOP_S = 3.0  # for the last signed checkpoint
LOG_STOP_S = 1.0  # for the last lines of the log
FIRST_DELAY_S, LONGEST_DELAY_S = 0.5, 30.0  # before a restart
STEADY_S = 60.0  # a program that ran this long starts afresh with the shortest delay
MAX_FAILED_STARTS = 3  # in a row, before the appliance was ever ready
_TICK_S = 0.1  # until ready, and while stopping
_LOOK_S = 1.0  # between two looks at the watcher's reports and at the engine's progress
STILL_S = 60.0  # how long an engine may neither answer nor compute
_PAUSED_AGAIN_S = 60.0  # between two notes that the same process was stopped
_MOST_CHANGES = 64  # taken at once, so that stopping one process again and again does not hold up the rest
_SIGNALS = {signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP}


class StartError(ApplianceError):
    """The appliance could not be started."""


@dataclass
class _Child:
    """A program and its present process; ``pid`` 0 when there is none."""

    program: Program
    pid: int = 0
    started_s: float = 0.0
    failures: int = 0
    start_at_s: float = 0.0
    preparation: Program | None = None  # has to end well before each start of the program
    is_prepared: bool = False
    killed_because: str = ""  # by the supervisor

    def next_program(self) -> Program:
        """What is to run now. A preparation looks closer once the program has failed."""
        if self.preparation is None or self.is_prepared:
            return self.program
        again = ("--thorough",) if self.failures else ()
        return replace(self.preparation, argv=(*self.preparation.argv, *again))


def serve(
    config: Config,
    programs: Programs,
    *,
    say: Callable[[str], None],
    inherited_listener: int | None = None,
    installed: InstalledRelease | None = None,
) -> None:
    """Run the appliance until SIGTERM, SIGINT, SIGQUIT or SIGHUP (not under nohup).

    Args:
        say: is given lines for the person at the terminal.
        inherited_listener: descriptor of a listening socket that a service manager bound; None: bind one.
        installed: the release, compared with its manifest, for the record; None in a development checkout.
    Raises:
        SilenceError: the door cannot be shut.
        ListenError: the address cannot be listened on.
        SiteLockError: the site is already served.
        StartError: a program does not start.
        InheritedError: the caller's limits are too low.
    """
    begin_afresh()
    if config.database_url.startswith("postgresql"):
        raise StartError("a record in PostgreSQL needs a way to connect that this version does not open; use SQLite")
    refuse_root(config.state_dir)
    _take_signals()
    check_limits()
    init_state(config.home, config.database_file)
    listener = listen(config, inherited_listener)
    transport = transport_of(config, host_of(listener))
    locks = lock_site(config)
    doorbell = Doorbell()
    keep = [listener.fileno(), *locks, *doorbell.fds]
    places = places_of(config, engine=engine_kind(config))
    silence, watch = shut_the_door_for_programs(
        keep=keep, become=owner_to_become(config.state_dir), programs=places.kinds, places=places
    )
    _check_paths(config)
    _report(silence, say)
    if transport is Transport.PLAIN:
        say("NOT ENCRYPTED: passwords and prompts cross the network as plain HTTP, because it was asked for.")
    programs = replace(programs, environ={**programs.environ, "APPLIANCE_TRANSPORT": transport.value})
    url = url_of(listener, transport.scheme)
    granted = places if silence.files_abi else None
    release = None if installed is None else asdict(installed)
    started: dict[str, object] = {
        "event": "started", "summary": silence.summary(), "watched": watch is not None, "silence": asdict(silence),
        "release": release,
    }  # fmt: skip
    _Supervisor(config, programs, listener, doorbell, started, granted, watch, url, say).run()


class _Supervisor:
    def __init__(
        self, config: Config, programs: Programs, listener: socket.socket, doorbell: Doorbell,
        started: dict[str, object], places: Places | None, watch: Watch | None, url: str, say: Callable[[str], None],
    ) -> None:  # fmt: skip
        programs = replace(programs, environ={**programs.environ, "APPLIANCE_URL": url})
        self._config, self._programs, self._url, self._say = config, programs, url, say
        self._places, self._watch = places, watch
        self._link_url = config.site_addresses[0].url if config.site_addresses else url
        self._doorbell, self._pulse = doorbell, EnginePulse(doorbell.web_end)
        self._web_probe, self._recorder_probe = ReadyPipe(), ReadyPipe()
        self._notes = Notes(started)
        self._outputs = Outputs((Kind.RECORDER, Kind.WEB, Kind.PACKER, engine_kind(config), Kind.ADMINISTRATION))
        self._ended_workers = EndedWorkers()
        self._why = "an error of the supervisor"  # it stops
        bell, ready, workers = "APPLIANCE_DOORBELL_FD", "APPLIANCE_READY_FD", "APPLIANCE_WORKERS_FD"
        recorder_fds, engine_fds = {ready: self._recorder_probe.fd}, {bell: doorbell.engine_end.fileno()}
        web_fds = {bell: doorbell.web_end.fileno(), ready: self._web_probe.fd, workers: self._ended_workers.fd}
        self._recorder = _Child(_program(Kind.RECORDER, programs.recorder, programs, places, recorder_fds))
        kill = signal.SIGKILL
        self._engine = _Child(
            _program(engine_kind(config), programs.engine, programs, places, engine_fds, death_signal=kill),
            preparation=_program(Kind.PACKER, programs.packer, programs, places, {}, death_signal=kill),
        )
        self._web = _Child(_program(Kind.WEB, programs.web, programs, places, web_fds, listener.fileno()))
        self._children = (self._recorder, self._engine, self._web)
        self._first_admin: Answer | None = None
        self._announced = False
        self._paused_again_s: dict[str, float] = {}
        os.chdir(config.home)

    def run(self) -> None:
        """Start everything, watch it, and end it in order."""
        self._outputs.start()
        try:
            while not self._told_to_end():
                self._reap()
                self._note_ended_workers()
                self._notes.recorded(self._recorder_probe.answers())
                self._start_due()
                self._note_refusals()
                self._feel_pulse()
                self._notes.send()
                if not self._announced:
                    self._announce_when_ready()
        finally:
            self._stop()

    def _told_to_end(self) -> bool:
        """Wait for a signal or the next thing to do; True for the signals that end the appliance."""
        due = [child.start_at_s for child in self._children if not child.pid and not self._waits(child)]
        wait_s = min([_LOOK_S if self._announced else _TICK_S, *(at_s - time.monotonic() for at_s in due)])
        received = signal.sigtimedwait(_SIGNALS, max(wait_s, 0.0))
        if received is None or received.si_signo == signal.SIGCHLD:
            return False
        self._why = f"signal {signal.Signals(received.si_signo).name}"
        return True

    def _start_due(self) -> None:
        for child in self._children:
            if not child.pid and not self._waits(child) and time.monotonic() >= child.start_at_s:
                self._start(child)

    def _waits(self, child: _Child) -> bool:
        """Web workers use the database only after the recorder has made or upgraded it."""
        return child is self._web and not self._recorder_probe.is_answered()

    def _start(self, child: _Child) -> None:
        child.started_s = time.monotonic()
        stdin = self._new_notes() if child is self._recorder else 0
        program = child.next_program()
        output = self._outputs.of(program.kind)
        child.pid = spawn(program, watch=self._watch, output=output, stdin=stdin)

    def _new_notes(self) -> int:
        """The notes for a new recorder. They include whether there are packed weights to compare."""
        reader = self._notes.new_reader()
        if self._engine.is_prepared:
            self._notes.add({"event": "packer_ended", "anew": False})
        return reader

    def _reap(self) -> None:
        """Note which programs ended, and when each is to start again.

        Raises:
            StartError: one keeps ending before the appliance was ever ready, or says that it cannot serve.
        """
        for pid, status in self._ended_processes():
            if self._watch is not None and pid == self._watch.pid:
                self._note_refusals()
                self._watch = None
                self._notes.add({"event": "watch_ended"})
                _log.error("the watcher has ended; refused calls are seen by nobody until the appliance is restarted")
            if pid == self._outputs.pid:
                _log.error("the log relay has ended; another one takes over")
                self._outputs.start()
            for child in self._children:
                if child.pid == pid:
                    self._note_end(child, os.waitstatus_to_exitcode(status))

    def _note_refusals(self) -> None:
        if self._watch is not None:
            for refused in self._watch.refusals():
                self._notes.add({"event": "attempt_refused", **asdict(refused)})

    def _ended_processes(self) -> Iterator[tuple[int, int]]:
        """The processes that ended, with their statuses. Those that somebody has stopped are made to go on."""
        for pid, status in _changed_processes():
            if os.WIFSTOPPED(status):
                self._go_on(pid, signal.Signals(os.WSTOPSIG(status)))
            else:
                yield pid, status

    def _go_on(self, pid: int, stopped_by: signal.Signals) -> None:
        os.kill(pid, signal.SIGCONT)  # not reaped yet, so the pid is still its own
        named = {child.pid: child.next_program().name for child in self._children if child.pid}
        named |= {self._outputs.pid: "log relay"} | ({} if self._watch is None else {self._watch.pid: "watcher"})
        name, how, now_s = named.get(pid, "command"), f"stopped by {stopped_by.name}", time.monotonic()
        if now_s >= self._paused_again_s.get(name, 0.0):
            self._paused_again_s[name] = now_s + _PAUSED_AGAIN_S
            _log.warning("the %s was %s and goes on", name, how)
            self._notes.add({"event": "process_paused", "process": name, "how": how})

    def _feel_pulse(self) -> None:
        """End an engine that has come to a standstill, so that another takes its place and its turns end."""
        is_engine = self._engine.pid and self._engine.next_program() is self._engine.program
        if not is_engine or not self._pulse.is_lost(self._engine.pid, limit_s=STILL_S):
            return
        self._engine.killed_because = "killed, because it neither answered nor computed"
        _log.error("the engine has neither answered nor computed for %.0f s and is killed", STILL_S)
        os.kill(self._engine.pid, signal.SIGKILL)

    def _note_end(self, child: _Child, code: int) -> None:
        name, ran_s = child.next_program().name, time.monotonic() - child.started_s
        was_preparing = child.preparation is not None and not child.is_prepared
        child.pid, child.is_prepared = 0, was_preparing and code in (0, PACKED_ANEW)
        if child.is_prepared:
            self._notes.add({"event": "packer_ended", "anew": code == PACKED_ANEW})
            return
        child.failures = 1 if ran_s >= STEADY_S else child.failures + 1
        how, child.killed_because = child.killed_because or how_ended(code), ""
        if not self._announced and code == CANNOT_SERVE:
            raise StartError(f"the {name} cannot serve as things are; see its message above")
        if not self._announced and child.failures >= MAX_FAILED_STARTS:
            often = f"{how}, {child.failures} times"
            raise StartError(f"the {name} does not start ({often}); see its messages above")
        delay_s = min(FIRST_DELAY_S * 2 ** (child.failures - 1), LONGEST_DELAY_S)
        child.start_at_s = time.monotonic() + delay_s
        _log.warning("the %s ended after %.0f s (%s); starting it again in %.1f s", name, ran_s, how, delay_s)
        self._notes.add({"event": "process_ended", "process": name, "how": how, "ran_s": round(ran_s, 1)})
        if child is self._engine and self._doorbell.is_shut():
            self._replace_doorbell()

    def _replace_doorbell(self) -> None:
        """Who shut it was one of those that hold it: all of them begin again, with a new one."""
        _log.error("the doorbell was shut by a web worker or the engine; both begin again with another")
        self._doorbell.replace()
        if self._web.pid:
            os.kill(self._web.pid, signal.SIGTERM)

    def _note_ended_workers(self) -> None:
        """Workers are gunicorn's children: it restarts them, and tells us."""
        for ended in self._ended_workers.ended():
            self._notes.add({"event": "process_ended", "process": "web worker", **ended})

    def _note_killed(self, child: _Child) -> None:
        """One of ours had to be killed at the end. The recorder's own end is nobody's to record."""
        if child is not self._recorder:
            ran_s = round(time.monotonic() - child.started_s, 1)
            how = "killed, because it did not stop when it was told to"
            self._notes.add({"event": "process_ended", "process": child.program.name, "how": how, "ran_s": ran_s})

    def _announce_when_ready(self) -> None:
        if self._first_admin is None:
            if not self._recorder_probe.is_answered():  # it has made the database
                return
            self._first_admin = Answer()
            argv = (*self._programs.first_admin, self._link_url)
            program = _program(Kind.ADMINISTRATION, argv, self._programs, self._places, {})
            output = self._outputs.of(program.kind)
            spawn(program, watch=self._watch, output=output, stdout=self._first_admin.fd)
            os.close(self._first_admin.fd)
        link = self._first_admin.text()
        if self._web_probe.is_answered() and self._pulse.was_felt and link is not None:
            self._announced = True
            self._say(f"{link}{self._about_authority()}Appliance ready at {self._url}")

    def _about_authority(self) -> str:
        """How people come to trust the site's own certificate; empty where they need not."""
        if self._programs.environ["APPLIANCE_TRANSPORT"] != Transport.LOCAL_AUTHORITY:
            return ""
        path = authority_certificate(self._config)
        try:
            fingerprint = pem_fingerprint(read_plain(path).decode())
        except FileNotFoundError:
            fingerprint = "not there yet"
        except (OSError, ValueError) as exc:  # what lies there is the recorder's to mend, and ends nothing here
            fingerprint = f"not known, because the file cannot be read ({exc})"
        return (
            f"This site's own authority signs its certificate. Give {path} to browsers and clients;\n"
            f"  its SHA-256 fingerprint is {fingerprint}\n"
        )

    def _stop(self) -> None:
        """End engine and web first, so that answers under way end and are recorded; then the recorder, which signs
        last. If it has just died, start another first: otherwise nobody would record the end."""
        serving = (self._web, self._engine)
        if not self._recorder.pid and self._recorder_probe.is_answered():
            self._start(self._recorder)
        for child in serving:
            if child.pid:
                os.kill(child.pid, signal.SIGTERM)  # not reaped yet, so the pid is still its own
        self._wait_for(serving, STOP_S)
        self._note_refusals()
        self._notes.add({"event": "stopping", "why": self._why})
        self._notes.send()
        self._notes.close()
        self._wait_for((self._recorder,), RECORDER_STOP_S)
        self._outputs.close()
        wait_for_end(self._outputs, LOG_STOP_S)
        if self._watch is not None:
            self._watch.stop()

    def _wait_for(self, children: tuple[_Child, ...], limit_s: float) -> None:
        deadline_s = time.monotonic() + limit_s
        while any(child.pid for child in children):
            if time.monotonic() >= deadline_s:
                for child in children:
                    if child.pid:
                        _log.warning("the %s did not end in time and is killed", child.program.name)
                        self._note_killed(child)
                        with contextlib.suppress(ProcessLookupError):
                            os.killpg(child.pid, signal.SIGKILL)
                deadline_s = math.inf
            ended = {pid for pid, _ in self._ended_processes()}
            for child in self._children:
                child.pid = 0 if child.pid in ended else child.pid
            signal.sigtimedwait({signal.SIGCHLD}, _TICK_S)


def _program(
    kind: Kind, argv: tuple[str, ...], programs: Programs, places: Places | None, named_fds: Mapping[str, int],
    *fds: int, death_signal: signal.Signals = signal.SIGTERM,
) -> Program:  # fmt: skip
    """A program that learns the numbers of ``named_fds`` from its environment; ``fds`` it knows by agreement."""
    scratch = str(scratch_dir(Path(programs.environ["APPLIANCE_HOME"], "state"), kind))
    environ = {**programs.environ, "TMPDIR": scratch, **{name: str(fd) for name, fd in named_fds.items()}}
    if "LD_LIBRARY_PATH" in environ:
        environ["LD_LIBRARY_PATH"] = library_path(kind, environ["LD_LIBRARY_PATH"])
    if kind is Kind.ADMINISTRATION:
        environ[CONFINED_ENVIRON] = "1"
    name = kind.value.partition("-")[0]
    return Program(name, kind, argv, environ, (*fds, *named_fds.values()), death_signal, places)


def _take_signals() -> None:
    """From now on a signal waits for `_Supervisor`: it ends nothing halfway. nohup(1) has SIGHUP ignored."""
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        _SIGNALS.discard(signal.SIGHUP)
    ignore_all_but(_SIGNALS)
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)


def _check_paths(config: Config) -> None:
    """Refuse what a program would otherwise fail at less clearly.

    Raises:
        StartError: no release is installed.
        SilenceError: a file or directory is missing, or closed to this user.
    """
    check_access(Path(sys.executable), os.X_OK)
    check_access(config.state_dir, os.R_OK | os.W_OK | os.X_OK)
    if not os.path.lexists(config.home / "current"):
        raise StartError(f"no release is installed in {config.home}; install one with: installer install")
    check_access(config.release_dir / "release.json", os.R_OK)


def _report(silence: Silence, say: Callable[[str], None]) -> None:
    say(f"Silent: {silence.summary()}.")
    for layer in silence.layers:
        if not layer.in_force:
            say(f"Not in force: {layer.name}: {layer.detail}; to enable it: {layer.remedy}.")


def _changed_processes() -> Iterator[tuple[int, int]]:
    """Those that ended or were stopped since the last call; of very many, the next call has the rest."""
    for _ in range(_MOST_CHANGES):
        try:
            pid, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED)
        except ChildProcessError:
            return
        if pid == 0:
            return
        yield pid, status
