"""What every view may use: one frozen record of services, which `webui.wsgi` makes once and hands to `create_app`.

Views reach it with `services()`; nothing in this package holds state of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import cast

from flask import Flask, current_app

from appliance.attachments.client import Reads
from appliance.audit.log import AuditLog
from appliance.config import Config
from appliance.installed_release import InstalledRelease
from appliance.people.accounts import Accounts
from appliance.people.api_keys import ApiKeys
from appliance.people.approvals import Approvals
from appliance.people.attachments import Attachments
from appliance.people.conversation_markings import ConversationMarkings
from appliance.people.conversations import Conversations
from appliance.people.groups import Groups
from appliance.people.handovers import Handovers
from appliance.people.instructions import Instructions
from appliance.people.markings import Markings
from appliance.people.oversight import Oversight
from appliance.people.prompts import Prompts
from appliance.people.quotas import Quotas
from appliance.people.responses import Responses
from appliance.people.sessions import Sessions
from appliance.people.shares import Shares
from appliance.people.sign_in import SignIn
from appliance.transport import Transport
from appliance.turns.engine import Engine
from appliance.turns.running import RunningTurns
from installer.formats.release import ModelCard

_KEY = "gpt_oss_appliance.services"


@dataclass(frozen=True)
class Services:
    """Everything a view may use."""

    config: Config
    release: InstalledRelease
    accounts: Accounts
    approvals: Approvals
    sign_in: SignIn
    sessions: Sessions
    api_keys: ApiKeys
    handovers: Handovers
    conversations: Conversations
    responses: Responses
    attachments: Attachments
    reader: Reads
    record: AuditLog
    turns: RunningTurns
    engine: Engine
    clock: Callable[[], datetime]  # aware, UTC
    listener_url: str  # where the appliance listens, as the supervisor knows it
    transport: Transport = Transport.LOOPBACK

    @property
    def site_url(self) -> str:
        """The beginning of every link that is handed out. It is never made from a request: that may name any host."""
        addresses = self.config.site_addresses
        return addresses[0].url if addresses else self.listener_url

    @property
    def groups(self) -> Groups:
        return Groups(self.record)

    @property
    def instructions(self) -> Instructions:
        return Instructions(self.record.database)

    @property
    def markings(self) -> Markings:
        return Markings(self.record)

    @property
    def conversation_markings(self) -> ConversationMarkings:
        return ConversationMarkings(self.record.database, self.record)

    @property
    def prompts(self) -> Prompts:
        return Prompts(self.record)

    @property
    def shares(self) -> Shares:
        return Shares(self.record)

    @property
    def quotas(self) -> Quotas:
        return Quotas(self.record)

    @property
    def oversight(self) -> Oversight:
        return Oversight(self.record)

    @property
    def model(self) -> ModelCard:
        """What the release says about its model."""
        return self.release.model


def install(app: Flask, given: Services) -> None:
    """Make `given` what `services()` returns inside `app`."""
    install_source(app, lambda: given)


def install_source(app: Flask, source: Callable[[], Services]) -> None:
    """Make what `source` returns what `services()` returns inside `app`."""
    app.extensions[_KEY] = source


def services() -> Services:
    """The running application's services; needs an application context."""
    return cast(Callable[[], Services], current_app.extensions[_KEY])()
