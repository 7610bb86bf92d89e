"""`appliance serve`: binds the listening socket, shuts every way out, proves it, then hands over to the supervisor.

    serve(config, programs, say=print)      # returns when a signal ends it

This module imports nothing heavy, because every way out is shut before a heavy module is loaded.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

from appliance.config import Config, init_state
from appliance.doorbell import Doorbell
from appliance.isolation import Silence, check_access, owner_to_become, refuse_root, shut_the_door_for_programs
from appliance.isolation.files import places_of
from appliance.runtime.inherited import begin_afresh, check_limits
from appliance.runtime.installed import VerifiedRelease
from appliance.runtime.listener import listen, url_of
from appliance.runtime.processes import Programs, engine_kind
from appliance.runtime.site_lock import lock_site
from appliance.runtime.supervisor import SIGNALS, StartError, Supervisor
from appliance.signals import ignore_all_but
from appliance.transport import Transport, host_of, transport_of
from installer.formats.trial import is_on_trial, load_returned


def serve(
    config: Config,
    programs: Programs,
    *,
    say: Callable[[str], None],
    inherited_listener: int | None = None,
    installed: VerifiedRelease | None = None,
) -> None:
    """Run the appliance until SIGTERM, SIGINT, SIGQUIT or SIGHUP (not under nohup).

    Args:
        say: takes lines for the person at the terminal.
        inherited_listener: descriptor of a listening socket that a service manager bound; None: bind one.
        installed: the release, compared with its manifest, for the record; None in a development checkout.
    Raises:
        SilenceError: the ways out cannot be shut.
        NoProcessError: this user may start no more processes.
        ListenError: the appliance cannot listen on the address.
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
    on_trial, returned = is_on_trial(config.home, config.release_dir.name), load_returned(config.home)
    locks = lock_site(config)
    doorbell, reader_bell = Doorbell(), Doorbell()
    keep = [listener.fileno(), *locks, *doorbell.fds, *reader_bell.fds]
    places = places_of(config, engine=engine_kind(config))
    silence, watch = shut_the_door_for_programs(
        keep=keep, become=owner_to_become(config.state_dir), programs=places.kinds, places=places
    )
    _check_paths(config)
    _report(silence, say)
    if inherited_listener is not None:
        _report_address(config, listener, say)
    if transport is Transport.PLAIN:
        say("NOT ENCRYPTED: passwords and prompts cross the network as plain HTTP, because it was asked for.")
    url = url_of(listener, transport.scheme)
    environ = {**programs.environ, "APPLIANCE_TRANSPORT": transport.value, "APPLIANCE_URL": url}
    granted = places if silence.files_abi else None
    release = None if installed is None else asdict(installed)
    started: dict[str, object] = {
        "event": "started", "summary": silence.summary(), "watched": watch is not None, "silence": asdict(silence),
        "release": release,
    }  # fmt: skip
    messages = [started]
    if returned is not None and returned.to == config.release_dir.name:
        messages.append({"event": "returned", **asdict(returned)})
    if on_trial:
        say(f"Release {config.release_dir.name} is on trial: the database is upgraded when the model has loaded.")
    programs = replace(programs, environ=environ)
    Supervisor(
        config, programs, listener, doorbell, reader_bell, messages, granted, watch, transport, url, say,
        on_trial=on_trial,
    ).run()  # fmt: skip


def _take_signals() -> None:
    """Hold signals until the supervisor takes them, so that none ends a start halfway. nohup(1) has SIGHUP ignored."""
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        SIGNALS.discard(signal.SIGHUP)
    ignore_all_but(SIGNALS)
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)


def _check_paths(config: Config) -> None:
    """Refuse a site on which a program would fail with a less clear message.

    Raises:
        StartError: no release is installed.
        SilenceError: a file or directory is missing, or closed to this user.
    """
    check_access(Path(sys.executable), os.X_OK)
    check_access(config.state_dir, os.R_OK | os.W_OK | os.X_OK)
    if not os.path.lexists(config.home / "current"):
        raise StartError(f"no release is installed in {config.home}; install one with: installer install")
    check_access(config.release_dir / "release.json", os.R_OK)


def _report_address(config: Config, listener: socket.socket, say: Callable[[str], None]) -> None:
    """Say that the settings name another address than the one on which a service manager listens."""
    wanted = (config.listen_host, config.listen_port)
    if listener.family == socket.AF_UNIX or wanted in (
        listener.getsockname()[:2],
        (Config.listen_host, Config.listen_port),
    ):
        return
    host, port = listener.getsockname()[:2]
    say(
        f"The service manager listens on {host}, port {port}, so [listen] of appliance.toml does not count; change the "
        "address with: installer service install --listen"
    )


def _report(silence: Silence, say: Callable[[str], None]) -> None:
    say(f"Silent: {silence.summary()}.")
    for layer in silence.layers:
        if not layer.in_force:
            say(f"Not in force: {layer.name}: {layer.detail}; to enable it: {layer.remedy}.")
