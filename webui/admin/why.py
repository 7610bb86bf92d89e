"""Why a person may do something, or may not: the rules that decide, in their order, each with yes or no and its source.

Nothing is copied here: each line asks the function that the site itself asks (`has_role`, `has_scope`, `works_at`,
`TurnPlaces.uses`, `KeyUse`, `Allowance`, `AuditLog.refusal`), and changes or counts nothing. The first "no" decides;
the lines after it are shown, because they may come next.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from flask import Response, make_response, render_template, request

from appliance.people.allowance import MIB
from appliance.people.api_keys import ApiKey
from appliance.people.key_rights import Scope
from appliance.people.quotas import OF_WORDS
from appliance.people.users import Role, User, UserNotFoundError
from webui.admin.routes import blueprint
from webui.allowances import allowance, turn_places
from webui.api.auth import has_scope
from webui.api.scopes import SCOPES
from webui.services import services
from webui.session import has_role


@dataclass(frozen=True)
class Action:
    """Something that a person may want to do. ``scope``: it is done by a program with a key."""

    words: str
    role: Role
    runs_a_turn: bool = False
    scope: Scope | None = None


@dataclass(frozen=True)
class Rule:
    """One rule and what it says; ``source`` is where its facts come from."""

    words: str
    allows: bool
    because: str
    source: str


ACTIONS: Final[Mapping[str, Action]] = {
    "chat": Action("ask a question in the chat", Role.USER, runs_a_turn=True),
    "key": Action("make an API key", Role.USER),
    "review": Action("read the record", Role.REVIEWER),
    "admin": Action("administer accounts and settings", Role.ADMIN),
    **{
        name: Action(f"call {name}", Role.USER, scope is Scope.GENERATE, scope) for name, scope in SCOPES.items()
    },
}  # fmt: skip


@blueprint.get("/why")
def why() -> Response:
    """The form, and the rules for what it names."""
    people = services().accounts.list_users()
    asked, person = ACTIONS.get(request.args.get("action", "")), request.args.get("person", "").strip().lower()
    user, error = None, ""
    if person:
        try:
            user = services().accounts.find(person)
        except UserNotFoundError:
            error = f"Nobody has the name {person}."
    keys = [] if user is None else list(services().api_keys.list_keys(user.id))
    key = next((key for key in keys if key.id == request.args.get("key", "")), None)
    rules = [] if user is None or asked is None else list(rules_of(user, asked, key))
    page = render_template(
        "admin_why.html", people=people, actions=ACTIONS, person=person, action=request.args.get("action", ""),
        asked=asked, user_asked=user, keys=keys, key=key, rules=rules, error=error,
        decides=next((rule for rule in rules if not rule.allows), None),
    )  # fmt: skip
    return make_response(page)


def rules_of(user: User, action: Action, key: ApiKey | None) -> Iterator[Rule]:
    """The rules for this person and action, in the order in which the site asks them."""
    if action.scope is not None:
        yield _key_works(key)
    yield Rule(
        "The account is not disabled", not user.disabled,
        "it is disabled" if user.disabled else "it is active", "the account; events user_disabled and user_enabled",
    )  # fmt: skip
    roles = ", ".join(sorted(user.roles))
    yield Rule(
        f"The account has the role {action.role.value}", has_role(user, action.role), f"its roles are {roles}",
        "the account; events user_created and roles_changed",
    )  # fmt: skip
    if action.scope is not None and key is not None:
        scopes = ", ".join(sorted(key.rights.scopes))
        yield Rule(
            f"The key has the scope {action.scope.value}", has_scope(key, action.scope), f"its scopes are {scopes}",
            "the key; events api_key_created and api_key_changed",
        )  # fmt: skip
        yield from _requests_of_key(key)
    if action.runs_a_turn:
        yield from _rules_of_turn(user, key)


def _key_works(key: ApiKey | None) -> Rule:
    source = "the key; events api_key_created and api_key_revoked"
    if key is None:
        return Rule("A key of the account is used", False, "choose a key; without one every call is refused", source)
    now, words = services().clock(), f"The key “{key.label}” works"
    if key.works_at(now):
        return Rule(words, True, "it was not revoked and has not ended", source)
    return Rule(words, False, "it has ended" if key.revoked_at is None else "it was revoked", source)


def _requests_of_key(key: ApiKey) -> Iterator[Rule]:
    per_minute = key.rights.requests_per_minute
    if per_minute is not None:
        standing = services().api_keys.use.requests(key.id, key.label, per_minute)
        yield Rule(
            f"The key makes at most {per_minute:,} requests a minute", standing.remaining > 0,
            f"{standing.remaining:,} are left", "the key's limit, set on the command line",
        )  # fmt: skip


def _rules_of_turn(user: User, key: ApiKey | None) -> Iterator[Rule]:
    per_day = None if key is None else key.rights.tokens_per_day
    if key is not None and per_day is not None:
        tokens = services().api_keys.use.tokens(key.id, per_day)
        yield Rule(
            f"The key uses at most {per_day:,} tokens a day", tokens.remaining > 0, f"{tokens.remaining:,} are left",
            "the key's limit, set on the command line",
        )  # fmt: skip
    used, most = allowance().recorded_bytes(user.id), allowance().limits.daily_bytes
    yield Rule(
        f"At most {most // MIB:,} MiB are recorded for one person a day", used < most,
        f"{used / MIB:,.1f} MiB were recorded today", "the setting record.daily_mib_per_user",
    )  # fmt: skip
    uses = turn_places().uses(user.id)
    for use in uses:
        yield Rule(
            f"At most {use.limit.most:,} {OF_WORDS[use.limit.of]}", use.left > 0, f"{use.used:,} are used now",
            f"the quota of {use.limit.whose}; events quota_changed",
        )  # fmt: skip
    if not uses:
        yield Rule("A quota leaves room", True, "no quota holds for this person", "the page Quotas")
    refusal = services().record.refusal()
    yield Rule("The record can be written", refusal is None, refusal or "the disk has room", "the disk of the record")
