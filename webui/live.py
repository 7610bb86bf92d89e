"""Settings that change while the site serves: `webui.services.services()` holds those of now in every request.

A worker looks into the database once in `_LOOK_S` seconds, so a change reaches every worker within that time, and the
one that made it at once. If the database cannot be read, the settings stay as they were.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final, cast

from flask import Flask, current_app

from appliance.database.transactions import DatabaseError
from appliance.people.allowance import MIB, Limits
from appliance.people.live_settings import LiveSettings
from webui import services as service_records
from webui.allowances import allowance_of
from webui.services import Services

_KEY: Final = "gpt_oss_appliance.live"
_LOOK_S: Final = 1.0
_log = logging.getLogger(__name__)


class LiveServices:
    """The services with the settings of now; thread-safe."""

    def __init__(self, app: Flask, file: Services, *, clock_s: Callable[[], float] = time.monotonic) -> None:
        """Args: file: the services with the settings of the operator's file."""
        self._app, self._file, self._clock_s = app, file, clock_s
        self.settings = LiveSettings(file.record, file.config)
        self._lock = threading.Lock()
        self._current = file  # guarded by _lock
        self._looked_s = -_LOOK_S  # guarded by _lock

    def current(self) -> Services:
        """The services of now."""
        with self._lock:
            if self._clock_s() - self._looked_s < _LOOK_S:
                return self._current
            self._looked_s = self._clock_s()
        self.look()
        return self._current

    def look(self) -> None:
        """Look into the database now."""
        try:
            config = self.settings.config()
        except DatabaseError:
            _log.exception("the settings stay as they were")
            return
        with self._lock:
            if config == self._current.config:
                return
            self._current = replace(self._file, config=config)
        self._file.api_keys.allow_endless = config.endless_api_keys
        self._file.sessions.set_idle(config.session_hours * 3600)
        limits = allowance_of(self._app).limits
        allowance_of(self._app).limits = Limits(limits.prompt_bytes, config.daily_mib_per_user * MIB)


def install(app: Flask, given: Services) -> None:
    """Have `services()` of `app` hold the settings of now."""
    live = app.extensions[_KEY] = LiveServices(app, given)
    service_records.install_source(app, live.current)


def live_services() -> LiveServices:
    """What keeps the settings of the running application."""
    return cast(LiveServices, current_app.extensions[_KEY])
