"""`appliance keys`: API keys of any account, made and ended on the host.

Whoever has the command line needs nobody's leave. Each change is an event like one of the pages, with `via=cli` and the
name of the person at the terminal.
"""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from appliance.command import home_option, json_option, print_result, record_of, say
from appliance.errors import ApplianceError

if TYPE_CHECKING:
    from appliance.audit.event import Actor
    from appliance.people.accounts import Accounts, User
    from appliance.people.api_keys import ApiKey, ApiKeys
    from appliance.people.key_rights import KeyRights

_SCOPES: Final = ("models", "generate", "tokenize", "responses")
_DAYS: Final = re.compile(r"([0-9]{1,6})d")
_EXPIRES: Final = "When the key ends: a number of days (90d), a date (2027-03-31, its end in UTC), or never."


class _Limit(click.ParamType[int]):
    """A whole number above 0, or `none`, which is 0 here."""

    name = "N|none"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if value == "none":
            return 0
        if isinstance(value, int):
            return value
        if not re.fullmatch(r"[0-9]{1,15}", value) or int(value) == 0:
            self.fail(f"{value!r} is neither a whole number above 0 nor none", param, ctx)
        return int(value)


def _rights_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options that say what a key may do."""
    for option in (
        click.option("--tokens-per-day", type=_Limit(), help="Tokens of prompts and answers in a day (UTC)."),
        click.option("--requests-per-minute", type=_Limit(), help="Requests in a minute."),
        click.option("--scope", "scopes", type=click.Choice((*_SCOPES, "all")), multiple=True,
                     help="What the key may do; give it once for each scope. [default: all]"),
    ):  # fmt: skip
        command = option(command)
    return command


@click.group()
def keys() -> None:
    """API keys: add, list, change and revoke."""


@keys.command("add")
@click.argument("person")
@click.argument("label")
@home_option
@_rights_options
@click.option("--expires", default="90d", show_default=True, help=_EXPIRES)
@json_option
def keys_add(
    person: str, label: str, home: Path, scopes: tuple[str, ...], requests_per_minute: int | None,
    tokens_per_day: int | None, expires: str, as_json: bool,
) -> None:  # fmt: skip
    """Make an API key for the account PERSON and print its secret, this once. LABEL says what the key is for."""
    with _keys(home) as site:
        from appliance.people.key_rights import FULL_RIGHTS

        user = site.accounts.find(person)
        rights = _rights(FULL_RIGHTS, scopes, requests_per_minute, tokens_per_day)
        key, secret = site.keys.create(user, label, by=site.actor, expires_at=_end(expires), rights=rights)
        try:
            print_result(as_json, {**_public(key, user), "secret": secret}, secret)
            sys.stdout.flush()
        except OSError as exc:
            site.keys.revoke(user.id, key.id, by=site.actor)
            problem = f"the secret could not be printed ({exc.strerror}), so the key {key.id} was revoked; try again"
            raise ApplianceError(problem) from exc
    if not as_json:
        say(f"Made the key {key.id} for {user.name}, {_ends(key)}: {rights.words()}.", err=True)


@keys.command("list")
@click.argument("person", required=False)
@home_option
@json_option
def keys_list(person: str | None, home: Path, as_json: bool) -> None:
    """List the API keys, or those of the account PERSON, without their secrets. Exit status 1 if one of them, or an
    account, is damaged."""
    with _keys(home) as site:
        from appliance.database.damaged_rows import Rows

        people = site.accounts.list_users() if person is None else Rows([site.accounts.find(person)])
        found = [(user, site.keys.list_keys(user.id)) for user in people]
    body: list[dict[str, Any]] = [_public(key, user) for user, keys in found for key in keys]
    damaged = [(user.name, row) for user, keys in found for row in keys.damaged]
    damaged += [(row.name, row) for row in people.damaged]  # keys of an account that cannot be read open nothing
    lines = [_line(key, user) for user, keys in found for key in keys]
    lines += [f"{name:<16} DAMAGED, and can do nothing: {row}" for name, row in damaged]
    body += [{"owner": name, "damaged": str(row)} for name, row in damaged]
    print_result(as_json, body, "\n".join(lines) or "There is no API key.")
    if damaged:
        sys.exit(1)


@keys.command("change")
@click.argument("key_id", metavar="KEY")
@home_option
@_rights_options
def keys_change(
    key_id: str, home: Path, scopes: tuple[str, ...], requests_per_minute: int | None, tokens_per_day: int | None
) -> None:
    """Change what the key may do, at once. KEY is its id in `keys list`; what is not named stays as it is."""
    if not scopes and requests_per_minute is None and tokens_per_day is None:
        raise click.UsageError("Name what is to change: --scope, --requests-per-minute or --tokens-per-day.")
    with _keys(home) as site:
        rights = site.keys.change(
            key_id, lambda now: _rights(now, scopes, requests_per_minute, tokens_per_day), by=site.actor
        )
    say(f"The key {key_id} now has: {rights.words()}.")


@keys.command("revoke")
@click.argument("key_id", metavar="KEY")
@home_option
def keys_revoke(key_id: str, home: Path) -> None:
    """Stop an API key for good; answers under way end. KEY is its id in `keys list`."""
    with _keys(home) as site:
        site.keys.revoke(site.keys.owner_of(key_id).id, key_id, by=site.actor)
    say(f"Revoked the key {key_id}.")


@dataclasses.dataclass(frozen=True)
class _Keys:
    """What the commands of `keys` work with."""

    accounts: Accounts
    keys: ApiKeys
    actor: Actor


@contextmanager
def _keys(home: Path) -> Iterator[_Keys]:
    with record_of(home) as (config, log, actor):
        from appliance.people.account_store import AccountStore
        from appliance.people.accounts import Accounts
        from appliance.people.api_keys import ApiKeys

        made = ApiKeys(log.database, log, allow_endless=config.endless_api_keys)
        yield _Keys(Accounts(AccountStore(log)), made, actor)


def _rights(
    now: KeyRights, scopes: tuple[str, ...], requests_per_minute: int | None, tokens_per_day: int | None
) -> KeyRights:
    """The rights `now` with what the options change: None leaves a limit as it is, and 0 takes it away."""
    from appliance.people.key_rights import ALL_SCOPES, KeyRights, Scope

    def limit(chosen: int | None, before: int | None) -> int | None:
        return before if chosen is None else chosen or None

    chosen = ALL_SCOPES if "all" in scopes else frozenset(map(Scope, scopes)) or now.scopes
    per_minute, per_day = now.requests_per_minute, now.tokens_per_day
    return KeyRights(chosen, limit(requests_per_minute, per_minute), limit(tokens_per_day, per_day))


def _end(expires: str) -> datetime | None:
    """Raises: UsageError: it names no end."""
    from appliance.people.api_keys import end_of_day

    if expires == "never":
        return None
    try:
        days = _DAYS.fullmatch(expires)
        return datetime.now(UTC) + timedelta(days=int(days[1])) if days else end_of_day(date.fromisoformat(expires))
    except (ValueError, OverflowError):
        raise click.UsageError(f"--expires {expires!r} is no end. {_EXPIRES}") from None


def _ends(key: ApiKey) -> str:
    return "which never ends" if key.expires_at is None else f"which ends on {key.expires_at:%Y-%m-%d at %H:%M} UTC"


def _state(key: ApiKey) -> str:
    if key.revoked_at is not None:
        return "revoked"
    return "works" if key.works_at(datetime.now(UTC)) else "ended"


def _line(key: ApiKey, user: User) -> str:
    state = "disabled" if user.disabled and _state(key) == "works" else _state(key)
    ends = "never ends" if key.expires_at is None else f"ends {key.expires_at:%Y-%m-%d}"
    return f"{key.id:<17}{user.name:<16} {state:<9}{ends:<16} {key.rights.words()}  {key.label}"


def _public(key: ApiKey, user: User) -> dict[str, Any]:
    def moment(at: datetime | None) -> str | None:
        return None if at is None else at.isoformat()

    return {
        "id": key.id,
        "owner": user.name,
        "label": key.label,
        "state": _state(key),
        "scopes": sorted(scope.value for scope in key.rights.scopes),
        "requests_per_minute": key.rights.requests_per_minute,
        "tokens_per_day": key.rights.tokens_per_day,
        "created_at": moment(key.created_at),
        "used_at": moment(key.used_at),
        "expires_at": moment(key.expires_at),
        "revoked_at": moment(key.revoked_at),
    }
