"""The settings that an administrator changes while the appliance serves.

The operator's file (appliance.config) stays as it is and holds what the settings return to. What an administrator chose
lies in the database, wins over the file, and is an event (``setting_changed``) in the same transaction. Only settings
that no running answer and no other process depends on are here: `LIVE` names them. The rules of values are the file's.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final, Literal

import sqlalchemy as sa

from appliance.audit.event import Actor
from appliance.audit.log import AuditLog
from appliance.config import Config, ConfigError, parse_config, settings_by_section
from appliance.database.tables import settings
from appliance.database.transactions import as_datetime, as_number, now_us, read_setting, write_setting
from appliance.people.account_changes import Transaction, open_admin_change
from appliance.people.users import AccountError

_PREFIX: Final = "live:"
Kind = Literal["text", "number", "flag"]


@dataclass(frozen=True)
class Live:
    """A setting that can be changed. ``word`` must be typed to change it, where a mistake would be dangerous."""

    kind: Kind
    word: str = ""


LIVE: Final[Mapping[str, Live]] = {
    "site.name": Live("text"),
    "site.banner_text": Live("text", word="banner"),
    "site.banner_colour": Live("text"),
    "web.session_hours": Live("number"),
    "accounts.endless_api_keys": Live("flag", word="endless"),
    "record.daily_mib_per_user": Live("number"),
}


@dataclass(frozen=True)
class Chosen:
    """A value that an administrator chose, by whom and when."""

    value: Any
    by: str
    at: datetime


class LiveSettings:
    """What was chosen on one site; without a state of its own."""

    def __init__(self, record: AuditLog, file: Config, *, clock_us: Callable[[], int] = now_us) -> None:
        """Args: file: the operator's settings."""
        self._record, self._file, self._clock_us = record, file, clock_us

    def chosen(self) -> dict[str, Chosen]:
        """Everything that was chosen. A row that no release writes is no choice.

        Raises:
            DatabaseError: the database cannot be read.
        """
        query = sa.select(settings).where(settings.c.name.startswith(_PREFIX, autoescape=True))
        with self._record.database.read() as connection:
            rows = connection.execute(query).all()
        found = {
            row.name.removeprefix(_PREFIX): self._parsed(row.name.removeprefix(_PREFIX), row.value) for row in rows
        }
        return {name: chosen for name, chosen in found.items() if chosen is not None}

    def config(self) -> Config:
        """The settings that hold now.

        Raises:
            DatabaseError: the database cannot be read.
        """
        fields = {name: field_of(name) for name in LIVE}
        return replace(self._file, **{fields[name]: chosen.value for name, chosen in self.chosen().items()})

    def choose(self, name: str, text: str, *, by: Actor) -> None:
        """Choose a value, as a form has it.

        Raises:
            NoLongerAdminError: the one who asks is no administrator any more.
            AccountError: the setting cannot be changed here, or cannot have this value.
        """
        value = self._value(name, text)
        with self._change(by) as change:
            connection = change.connection
            before = self._standing(connection, name)
            if before == value:
                return
            stored = {"value": value, "by": by.name, "at_us": change.now_us}
            write_setting(connection, _PREFIX + name, json.dumps(stored, ensure_ascii=False))
            change.note("setting_changed", name, f"{_shown(before)} -> {_shown(value)}")

    def return_to_file(self, name: str, *, by: Actor) -> None:
        """Give up what was chosen: the file's value holds again.

        Raises:
            NoLongerAdminError, AccountError: as `choose`.
        """
        _live(name)
        with self._change(by) as change:
            connection = change.connection
            if read_setting(connection, _PREFIX + name) is None:
                return
            before, after = self._standing(connection, name), getattr(self._file, field_of(name))
            write_setting(connection, _PREFIX + name, None)
            change.note("setting_changed", name, f"{_shown(before)} -> {_shown(after)}, as in the file")

    def _change(self, by: Actor) -> AbstractContextManager[Transaction]:
        return open_admin_change(self._record, by, clock_us=self._clock_us)

    def _standing(self, connection: sa.Connection, name: str) -> Any:
        stored = read_setting(connection, _PREFIX + name)
        chosen = None if stored is None else self._parsed(name, stored)
        return getattr(self._file, field_of(name)) if chosen is None else chosen.value

    def _parsed(self, name: str, stored: str) -> Chosen | None:
        try:
            body = json.loads(stored)
            at_us = as_number(body["at_us"])
            if name not in LIVE or at_us is None or not isinstance(body["by"], str):
                return None
            return Chosen(_checked(name, body["value"], self._file), body["by"], as_datetime(at_us))
        except (ValueError, KeyError, TypeError, RecursionError, AccountError):
            return None

    def _value(self, name: str, text: str) -> Any:
        live, text = _live(name), text.strip()
        given: object = text
        if live.kind == "flag":
            given = text == "yes"
        if live.kind == "number":
            try:
                given = int(text) if text.lstrip("-").isdecimal() else float(text)
            except ValueError:
                raise AccountError(f"{name} must be a number.") from None
        return _checked(name, given, self._file)


def field_of(name: str) -> str:
    """The field of `Config` of a setting, such as ``site.name``."""
    section, _, key = name.partition(".")
    return settings_by_section()[section][key]


def _live(name: str) -> Live:
    live = LIVE.get(name)
    if live is None:
        raise AccountError(f"{name} cannot be changed while the appliance serves.")
    return live


def _checked(name: str, value: object, file: Config) -> Any:
    """The value by the rules of the file.

    Raises:
        AccountError: it breaks them.
    """
    section, _, key = name.partition(".")
    try:
        config = parse_config(f"[{section}]\n{key} = {json.dumps(value)}\n", file.home)
    except tomllib.TOMLDecodeError:
        raise AccountError(f"{name} cannot have this value.") from None
    except ConfigError as exc:
        raise AccountError(f"{exc}.") from None
    return getattr(config, field_of(name))


def _shown(value: object) -> str:
    return "none" if value is None else json.dumps(value, ensure_ascii=False)
