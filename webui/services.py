"""What every view is given: one frozen record of services, made once by `webui.wsgi` and handed to `create_app`.

Views reach it with `services()`; nothing in this package holds state of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, cast

from flask import Flask, current_app

if TYPE_CHECKING:
    from appliance.accounts import Accounts
    from appliance.audit.log import AuditLog
    from appliance.config import Config
    from appliance.conversations import Conversations
    from appliance.engine.client import EngineClient

_KEY = "gpt_oss_appliance.services"


@dataclass(frozen=True)
class ModelInfo:
    """The `model` object of release.json, as shown to people."""

    id: str
    title: str
    description: str  # one honest sentence
    context_tokens: int
    example_prompts: tuple[str, ...]
    notice: str | None  # text to show on the page


@dataclass(frozen=True)
class ReleaseInfo:
    """Which release is running."""

    name: str
    version: str


@dataclass(frozen=True)
class Services:
    """Everything a view may use."""

    config: Config
    accounts: Accounts
    conversations: Conversations
    record: AuditLog
    engine: EngineClient
    model: ModelInfo
    release: ReleaseInfo
    clock: Callable[[], datetime]  # aware, UTC


def services() -> Services:
    """The running application's services; needs an application context."""
    return cast(Services, current_app.extensions[_KEY])


def install_services(app: Flask, given: Services) -> None:
    """Make `given` what `services()` returns inside `app`."""
    app.extensions[_KEY] = given
