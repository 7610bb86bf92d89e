"""The server as a gunicorn worker. gunicorn starts the workers, restarts those that die and stops them in order.

Like `webui.wsgi`, which runs in the same process, it reads the environment:

    APPLIANCE_HOME         the site directory
    APPLIANCE_TRANSPORT    how requests arrive, one of `appliance.transport.Transport`; absent: plain, over loopback
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import ssl
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from gunicorn.arbiter import Arbiter
from gunicorn.workers.base import Worker

from appliance.config import Config, load_config
from appliance.errors import ApplianceError
from appliance.signals import ignore_all_but
from appliance.transport import Transport, certificate_files
from webui.proxies import TrustedProxies
from webui.serving.contexts import Contexts, wait_for_files
from webui.serving.limits import limits_of_this_process
from webui.serving.server import Server

_HEARTBEAT_S: Final = 1.0
_SWITCH_S: Final = 0.0005  # a computing thread gives way to the event loop so often; every 5 ms would delay each piece
_RECORD_S: Final = 1.5  # the last part of the time for stopping, in which cut-off answers are recorded as such
_FIRST_CERTIFICATE_S: Final = 30.0  # the recorder makes it while this process starts


class SiteWorker(Worker):  # type: ignore[misc]  # gunicorn has no types
    """One process that serves ``self.wsgi`` on ``self.sockets``."""

    alive: bool  # gunicorn's: False once it was told to end

    def init_process(self) -> None:
        """Prepare what can fail, before the worker says that it is ready. A failure is one sentence in the log."""
        try:
            config = load_config(Path(os.environ["APPLIANCE_HOME"]))
            self._proxies = TrustedProxies.of(config)
            self._limits = limits_of_this_process()
            self._tls = _tls_of(config, Transport(os.environ.get("APPLIANCE_TRANSPORT", Transport.LOOPBACK)))
        except ApplianceError as exc:
            self.log.error("%s", exc)
            sys.exit(Arbiter.WORKER_BOOT_ERROR)
        super().init_process()

    def init_signals(self) -> None:
        """Replace gunicorn's own method, which would restore the defaults of signals that nobody should send."""
        ignore_all_but({signal.SIGTERM})
        signal.signal(signal.SIGTERM, self.handle_exit)  # until the event loop takes it over
        signal.signal(signal.SIGABRT, self.handle_abort)  # gunicorn sends it when the heartbeat is missing

    def run(self) -> None:
        """Serve until the end. gunicorn calls it."""
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        sys.setswitchinterval(_SWITCH_S)
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, stop.set)
        server = Server(
            self.wsgi, self._limits, threads=self.cfg.threads, tls=self._tls,
            is_exempt=self._proxies.is_trusted, is_multiprocess=self.cfg.workers > 1,
        )  # fmt: skip
        await server.start(listener.sock for listener in self.sockets)
        while self.alive and not stop.is_set() and self.ppid == os.getppid():
            self.notify()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), _HEARTBEAT_S)
        self.alive = False
        await server.stop(answer_s=max(0.0, self.cfg.graceful_timeout - _RECORD_S), record_s=_RECORD_S * 0.8)


def _tls_of(config: Config, transport: Transport) -> Callable[[], ssl.SSLContext | None]:
    """The context for a new connection.

    Raises:
        CertificateError: there is no certificate that can be used.
    """
    files = certificate_files(config, transport)
    if files is None:
        return lambda: None
    if transport is Transport.LOCAL_AUTHORITY:
        wait_for_files(files, limit_s=_FIRST_CERTIFICATE_S)
    return Contexts(files).current
