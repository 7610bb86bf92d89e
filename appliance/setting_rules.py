"""Which values a setting may have, and the words that refuse others. The annotations of ``Config`` use these rules."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, get_args

from appliance.addresses import Network, parse_network
from appliance.site_address import SiteAddress, parse_site_address
from installer.formats.checks import FaultError, Length, Must, Rule

_MOST_ADDRESSES: Final = 16


@dataclass(frozen=True)
class Setting:
    """The place of a field of ``Config`` in appliance.toml."""

    section: str
    key: str


def whole(low: int, high: int) -> Must:
    return Must(f"must be a whole number from {low} to {high}", ge=low, le=high)


def number(low: float, high: float) -> Must:
    return Must(f"must be a number from {low:g} to {high:g}", ge=low, le=high)


def one_of(names: Any) -> Must:
    quoted = [f'"{name}"' for name in get_args(names)]
    return Must(f"must be {', '.join(quoted[:-1])} or {quoted[-1]}")


def line(max_chars: int) -> Rule:
    def one_line(text: str) -> str:
        if not text.strip() or len(text) > max_chars or not text.isprintable():
            raise ValueError
        return text.strip()

    return Rule(one_line, f"must be one line of 1 to {max_chars} characters", takes=str)


def _as_site_addresses(given: Any) -> tuple[SiteAddress, ...]:
    texts = given if isinstance(given, list) else [given]
    if not 0 < len(texts) <= _MOST_ADDRESSES or not all(isinstance(text, str) for text in texts):
        raise ValueError
    return tuple(parse_site_address(text) for text in texts)


def _as_origins(texts: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(parse_site_address(text).url for text in texts)


def _as_colour(text: str) -> str:
    if not re.fullmatch("#[0-9A-Fa-f]{6}", text):
        raise ValueError
    return text.lower()


def _as_database_url(text: str) -> str:
    if not re.match(r"(sqlite|postgresql)(\+[a-z]+)?://", text):
        raise ValueError
    return text


def _as_file(text: str) -> Path:
    if not text.strip() or "\0" in text:
        raise ValueError
    return Path(text)


def _as_host(text: str) -> str:
    if len(text) > 253:
        raise ValueError
    try:
        ipaddress.ip_address(text)
    except ValueError:
        if not re.fullmatch(r"(?!-)[A-Za-z0-9-]{1,63}(\.[A-Za-z0-9-]{1,63})*", text):
            raise
    return text


def _as_networks(texts: tuple[str, ...]) -> tuple[Network, ...]:
    try:
        return tuple(parse_network(text) for text in texts)
    except ValueError as exc:
        raise FaultError(f"{_BE_NETWORKS}; {exc}") from exc


def _as_alias(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,127}", text):
        raise ValueError
    return text


def _as_aliases(texts: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(texts)) != len(texts):
        raise ValueError
    return texts


_BE_ALIASES: Final = (
    'must be a list of up to 32 different names such as ["gpt-4o-mini"], '
    "each of at most 128 letters, digits and . _ : / @ + -"
)
_BE_NETWORKS: Final = 'must be a list of IP addresses and networks such as ["10.0.0.5", "10.1.0.0/16", "::1"]'
_BE_HOSTS: Final = 'must be a list of at most 50 host names or IP addresses such as ["chat.example", "10.0.0.7"]'
_BE_SITES: Final = 'must be an address such as "https://chat.example", or a list of up to 16, names in ASCII'
_BE_ORIGINS: Final = 'must be a list of at most 50 origins such as ["https://tools.example"], without a path or *'
_BE_DATABASE: Final = 'must be a database URL beginning with "sqlite://" or "postgresql://"'

ADDRESS: Final = Rule(
    lambda text: str(ipaddress.ip_address(text)), "must be an IP address such as 127.0.0.1 or 0.0.0.0"
)
ALIASES: Final = Rule(
    _as_aliases,
    _BE_ALIASES,
    takes=Annotated[tuple[Annotated[str, Rule(_as_alias, _BE_ALIASES)], ...], Must(_BE_ALIASES, max_length=32)],
)
COLOUR: Final = Rule(_as_colour, 'must be a colour such as "#b91c1c"', takes=str)
DATABASE_URL: Final = Rule(_as_database_url, _BE_DATABASE, takes=str)
FILE: Final = Rule(_as_file, "must be the path of a file, absolute or below state/", takes=str)
HOSTS: Final = Must(_BE_HOSTS, takes=tuple[Annotated[str, Rule(_as_host, _BE_HOSTS)], ...], max_length=50)
NETWORKS: Final = Rule(_as_networks, takes=Annotated[tuple[str, ...], Must(_BE_NETWORKS, max_length=1000)])
ORIGINS: Final = Rule(_as_origins, _BE_ORIGINS, takes=Annotated[tuple[str, ...], Length(most=50)])
SITE_ADDRESSES: Final = Rule(_as_site_addresses, _BE_SITES, takes=Any)
