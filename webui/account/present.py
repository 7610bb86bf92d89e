"""What the account page shows. Pure: records in, words and choices out."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Final, Literal

from appliance.people.api_keys import DEFAULT_DAYS, LONGEST_DAYS, ApiKey
from appliance.people.key_rights import ALL_SCOPES, KeyRights, Scope
from webui.confirm import Question

_DAYS: Final = (30, DEFAULT_DAYS, 365)  # the choices for a new key
_ENDS_SOON: Final = timedelta(days=14)
SCOPE_WORDS: Final[dict[Scope, tuple[str, str]]] = {  # a short name, and what the key may do
    Scope.GENERATE: ("Ask", "send questions to the model"),
    Scope.MODELS: ("Models", "list the models"),
    Scope.TOKENIZE: ("Tokens", "turn text into tokens and back"),
    Scope.RESPONSES: ("Stored responses", "read, continue and delete them"),
}


@dataclass(frozen=True)
class PageKey:
    """An API key on the page. ``state`` is "" while its end is far off."""

    id: str
    label: str
    created_at: datetime
    last_used_at: datetime | None
    expires_at: datetime | None
    state: Literal["", "soon", "ended"]
    days_left: int | None
    may: str
    limits: tuple[str, ...]


@dataclass(frozen=True)
class EndChoices:
    """When a new key may end."""

    days: tuple[int, ...]
    default_days: int
    earliest: date
    latest: date
    may_be_endless: bool


def page_key(key: ApiKey, now: datetime) -> PageKey:
    """A key as the page shows it at `now`."""
    left = None if key.expires_at is None else key.expires_at - now
    return PageKey(
        key.id, key.label, key.created_at, key.used_at, key.expires_at,
        state="" if left is None or left > _ENDS_SOON else "soon" if left > timedelta() else "ended",
        days_left=None if left is None else max(left.days, 0),
        may=_may(key.rights),
        limits=tuple(f"at most {limit}" for limit in key.rights.limit_words()),
    )  # fmt: skip


def _may(rights: KeyRights) -> str:
    if rights.scopes == ALL_SCOPES:
        return "Everything"
    return ", ".join(name for scope, (name, _) in SCOPE_WORDS.items() if scope in rights.scopes)


def end_choices(now: datetime, *, may_be_endless: bool) -> EndChoices:
    """The choices for a key that is made at `now`."""
    earliest, latest = (now + timedelta(days=days) for days in (1, LONGEST_DAYS - 1))
    return EndChoices(_DAYS, DEFAULT_DAYS, earliest.date(), latest.date(), may_be_endless)


def question_of_ending_sessions() -> Question:
    """What is asked before a person is signed out everywhere else."""
    return Question(
        title="Sign out everywhere else?",
        consequences=("Every other browser that is signed in to your account must sign in again.",
                      "Answers that were asked for there end. You stay signed in here, and API keys go on working."),
        button="End all others",
        back="/account",
    )  # fmt: skip


def question_of_revoking(key: ApiKey) -> Question:
    """What is asked before a key is revoked."""
    used = f"It was last used on {key.used_at:%Y-%m-%d at %H:%M} UTC." if key.used_at else "It was never used."
    return Question(
        title=f"Revoke the key “{key.label}”?",
        consequences=("Programs that use it are refused at once, and answers under way end.", used,
                      "A revoked key cannot be brought back; a new one can be made."),
        button="Revoke the key",
        back="/account",
    )  # fmt: skip
