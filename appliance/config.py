"""The operator's settings: state/config/appliance.toml of a site, read once into one frozen ``Config``.

Every setting has a default, so an absent file is a valid one. An unknown section or key, a wrong type and a value out
of range are each refused with one sentence naming the file and the setting. Only the command line and the entry modules
of child processes load a Config; everything else is given one.
"""

from __future__ import annotations

import ipaddress
import os
import re
import stat
import tomllib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from appliance.addresses import Network, parse_network
from appliance.child import errno_of_child
from appliance.errors import ApplianceError
from appliance.plain_file import read_plain
from appliance.site_address import SiteAddress, parse_site_address

Accelerator = Literal["auto", "cpu", "cuda"]
ProxyHeaders = Literal["any", "x-forwarded", "forwarded"]
_MOST_ADDRESSES = 16
STATE_DIRS = (
    *("trust", "config", "database", "audit", "keys", "signer", "tls", "packed"),
    *("tmp", "tmp/recorder", "tmp/web", "tmp/administration"),
)


class ConfigError(ApplianceError):
    """appliance.toml cannot be used as it stands."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """What an operator may decide. Paths are absolute; seconds and hours are in the names.

    ``release_dir`` is where ``current`` pointed when the Config was made, so that a switch to another release cannot
    mix two releases in one process. It need not exist: accounts and the record work without a release.
    """

    home: Path
    release_dir: Path
    database_url: str
    listen_host: str = "127.0.0.1"
    listen_port: int = 8080  # 0: any free port
    site_name: str = "gpt-oss appliance"
    site_addresses: tuple[SiteAddress, ...] = ()  # under which people reach the site; empty: any
    banner_text: str | None = None  # classification banner; None: no banner
    banner_colour: str | None = None  # "#rrggbb"; None: the pages' own
    accelerator: Accelerator = "auto"
    slots: int | None = None  # conversations generated at once; None: as memory allows (engine/memory_plan.py)
    context_tokens: int | None = None  # per slot; None: as memory allows, at most what the release says
    queue_limit: int = 32  # turns waiting for a slot before the engine answers "overloaded" to who has one waiting
    queue_limit_per_user: int = 8  # turns of one user waiting before the engine answers "too_many_waiting"
    longest_pause_s: float = 0.3  # of a streaming answer while another's prompt is read
    harmony_grammar: bool = True  # keep the model from writing malformed headers (engine/harmony_grammar.py)
    web_workers: int = 1
    web_threads: int = 48  # per worker; an answer that waits for a slot holds one, one that streams does not
    tls_certificate: Path | None = None  # PEM, with its chain; None: one from an authority of this site's own
    tls_key: Path | None = None
    tls_names: tuple[str, ...] = ()  # further names and addresses in the site's own certificate
    tls_plain_http: bool = False  # serve a network without TLS
    proxy_trusted: tuple[Network, ...] = ()  # whose word about the client is taken
    proxy_headers: ProxyHeaders = "any"  # in which headers they give it
    session_hours: float = 12.0  # a sign-in lasts this long without use
    endless_api_keys: bool = False  # whether people may make API keys that never end
    checkpoint_interval_s: float = 60.0  # signed checkpoints of the record
    daily_mib_per_user: int = 1024  # recorded for one person in a day (UTC); more is refused

    @property
    def state_dir(self) -> Path:
        return self.home / "state"

    @property
    def keys_dir(self) -> Path:
        return self.state_dir / "keys"

    @property
    def tls_dir(self) -> Path:
        """The site's own certificate, its key, and the certificate of the authority that signed it."""
        return self.state_dir / "tls"

    @property
    def signer_dir(self) -> Path:
        """Private keys that only the recorder may read."""
        return self.state_dir / "signer"

    @property
    def packed_dir(self) -> Path:
        """Weights packed for this machine's processor, by release."""
        return self.state_dir / "packed"

    @property
    def audit_dir(self) -> Path:
        return self.state_dir / "audit"

    @property
    def database_file(self) -> Path | None:
        """The file of an SQLite database; None for a database server."""
        found = re.match(r"sqlite(?:\+[a-z]+)?:///([^?]+)", self.database_url)
        return Path(found[1]).absolute() if found else None

    @property
    def record_dir(self) -> Path:
        """Where the record is, as far as it is on a disk of this host: what must not fill up."""
        return self.state_dir if self.database_file is None else self.database_file.parent


def load_config(home: Path) -> Config:
    """Read the settings of the site at ``home``.

    Raises:
        ConfigError: the file is not TOML, or a setting is unknown, of the wrong type or out of range.
    """
    home = home.absolute()
    path = home / "state" / "config" / "appliance.toml"
    try:
        text = read_plain(path).decode()
    except FileNotFoundError:
        text = ""
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{path}: cannot be read: {exc}") from exc
    try:
        settings = parse_settings(text)
    except (ConfigError, tomllib.TOMLDecodeError) as exc:
        raise ConfigError(f"{path}: {exc}") from exc
    for name in ("tls_certificate", "tls_key"):
        if name in settings:
            settings[name] = home / "state" / settings[name]  # an absolute path stays as it is
    settings.setdefault("database_url", f"sqlite:///{home}/state/database/appliance.sqlite3")
    return Config(home=home, release_dir=(home / "current").resolve(), **settings)


def parse_settings(text: str) -> dict[str, Any]:
    """The keyword arguments of ``Config`` that appliance.toml sets.

    Raises:
        ConfigError, tomllib.TOMLDecodeError: as ``load_config``, without the file's name.
    """
    settings: dict[str, Any] = {}
    for section, body in tomllib.loads(text).items():
        if section not in SETTINGS:
            raise ConfigError(f"unknown section [{section}]; known are {', '.join(SETTINGS)}")
        if not isinstance(body, dict):
            raise ConfigError(f"{section} must be a section, [{section}]")
        for key, value in body.items():
            if key not in SETTINGS[section]:
                raise ConfigError(f"unknown setting {section}.{key}; known are {', '.join(SETTINGS[section])}")
            field, check = SETTINGS[section][key]
            try:
                settings[field] = check(value)
            except ValueError as exc:
                raise ConfigError(f"{section}.{key} must be {exc}, not {value!r}") from exc
    _check_tls(settings)
    return settings


def _check_tls(settings: dict[str, Any]) -> None:
    if ("tls_certificate" in settings) != ("tls_key" in settings):
        raise ConfigError("tls.certificate and tls.key go together; set both, or none for the site's own certificate")
    if "tls_certificate" in settings and settings.get("tls_plain_http"):
        raise ConfigError("tls.certificate and tls.plain_http contradict each other; remove one of them")


def init_state(home: Path, database: Path | None = None) -> None:
    """Make ``state/`` and its directories, mode 0700, where they are missing; tighten ``state/`` itself.

    Root does so as the owner of ``state/``, whom the appliance becomes. A signing key that an older release kept beside
    the public one moves to where only who signs may look.

    Args:
        database: its file, which gets mode 0600. SQLite copies another mode to the files beside it by a call that a
            confined process is refused, and that is reported as an attempt. None: leave it alone.
    Raises:
        ConfigError: the directories cannot be made.
    """
    state = home / "state"
    try:
        owner = state.stat() if state.exists() else None
        if os.geteuid() == 0 and owner is not None and owner.st_uid != 0:
            _as_user(owner.st_uid, owner.st_gid, lambda: _make_state(state, database))
        else:
            _make_state(state, database)
    except PermissionError as exc:
        why = _why_not(state) if os.geteuid() == 0 else f"{exc.strerror}; start as its owner"
        raise ConfigError(f"{state}: cannot be prepared: {why}") from exc
    except OSError as exc:
        raise ConfigError(f"{state}: cannot be prepared: {exc.strerror}") from exc


def _make_state(state: Path, database: Path | None) -> None:
    for path in (state, *(state / name for name in STATE_DIRS)):
        path.mkdir(mode=0o700, parents=path == state, exist_ok=True)
    if stat.S_IMODE(state.stat().st_mode) != 0o700:  # a command that is confined may not ask for it
        state.chmod(0o700)
    if database is not None:
        _close_to_others(database)
    old, key = state / "keys" / "audit.key", state / "signer" / "audit.key"
    if old.exists() and not key.exists():
        old.rename(key)


def _close_to_others(database: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        path = database.with_name(database.name + suffix)
        with suppress(FileNotFoundError):
            mode = path.lstat().st_mode
            if stat.S_ISREG(mode) and stat.S_IMODE(mode) != 0o600:
                path.chmod(0o600)


def _as_user(uid: int, gid: int, work: Callable[[], object]) -> None:
    """Do this as that user, in a child: root must not follow a link which that user may have put in its way.

    Raises:
        OSError: what it met.
    """

    def leave_root_and_work() -> None:
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
        work()

    code = errno_of_child(leave_root_and_work)
    if code:
        raise OSError(code, os.strerror(code))


def _why_not(state: Path) -> str:
    """Why its owner, as whom root works there, cannot prepare ``state``, and what mends it."""
    owner = state.stat()
    for directory in reversed(state.parents):
        try:
            _as_user(owner.st_uid, owner.st_gid, partial(os.stat, f"{directory}/."))
        except OSError:
            return f"{directory} is closed to uid {owner.st_uid}; open it to them, or start as its owner"
    mend = f"installer own --prefix {state.parent}"
    return f"not all of it is uid {owner.st_uid}'s; give it to the appliance's user with: {mend}"


# Each check returns the value or raises ValueError with what the value must be.


def _whole(low: int, high: int) -> Callable[[Any], int]:
    def check(value: Any) -> int:
        if type(value) is not int or not low <= value <= high:
            raise ValueError(f"a whole number from {low} to {high}")
        return value

    return check


def _number(low: float, high: float) -> Callable[[Any], float]:
    def check(value: Any) -> float:
        if type(value) not in (int, float) or not low <= value <= high:
            raise ValueError(f"a number from {low:g} to {high:g}")
        return float(value)

    return check


def _line(max_chars: int) -> Callable[[Any], str]:
    def check(value: Any) -> str:
        if not isinstance(value, str) or not value.strip() or len(value) > max_chars or not value.isprintable():
            raise ValueError(f"one line of 1 to {max_chars} characters")
        return value.strip()

    return check


def _address(value: Any) -> str:
    try:
        return str(ipaddress.ip_address(value if isinstance(value, str) else ""))
    except ValueError as exc:
        raise ValueError("an IP address such as 127.0.0.1 or 0.0.0.0") from exc


def _site_addresses(value: Any) -> tuple[SiteAddress, ...]:
    given = value if isinstance(value, list) else [value]
    try:
        if not 0 < len(given) <= _MOST_ADDRESSES or not all(isinstance(text, str) for text in given):
            raise ValueError
        return tuple(parse_site_address(text) for text in given)
    except ValueError as exc:
        raise ValueError('an address such as "https://chat.example", or a list of up to 16, names in ASCII') from exc


def _file(value: Any) -> Path:
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise ValueError("the path of a file, absolute or below state/")
    return Path(value)


def _yes_or_no(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("true or false")
    return value


def _names(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > 50 or not all(_is_host(name) for name in value):
        raise ValueError('a list of at most 50 host names or IP addresses such as ["chat.example", "10.0.0.7"]')
    return tuple(value)


def _is_host(value: Any) -> bool:
    if not isinstance(value, str) or len(value) > 253:
        return False
    try:
        ipaddress.ip_address(value)
    except ValueError:
        return re.fullmatch(r"(?!-)[A-Za-z0-9-]{1,63}(\.[A-Za-z0-9-]{1,63})*", value) is not None
    return True


def _networks(value: Any) -> tuple[Network, ...]:
    try:
        if not isinstance(value, list) or len(value) > 1000 or not all(isinstance(each, str) for each in value):
            raise ValueError
        return tuple(parse_network(each) for each in value)
    except ValueError as exc:
        wrong = f"; {exc}" if str(exc) else ""
        raise ValueError(
            f'a list of IP addresses and networks such as ["10.0.0.5", "10.1.0.0/16", "::1"]{wrong}'
        ) from exc


def _proxy_headers(value: Any) -> str:
    if value not in ("any", "x-forwarded", "forwarded"):
        raise ValueError('"any", "x-forwarded" or "forwarded"')
    return str(value)


def _colour(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"#[0-9A-Fa-f]{6}", value):
        raise ValueError('a colour such as "#b91c1c"')
    return value.lower()


def _accelerator(value: Any) -> str:
    if value not in ("auto", "cpu", "cuda"):
        raise ValueError('"auto", "cpu" or "cuda"')
    return str(value)


def _database_url(value: Any) -> str:
    if not isinstance(value, str) or not re.match(r"(sqlite|postgresql)(\+[a-z]+)?://", value):
        raise ValueError('a database URL beginning with "sqlite://" or "postgresql://"')
    return value


# section -> key -> (field of Config, check)
SETTINGS: dict[str, dict[str, tuple[str, Callable[[Any], Any]]]] = {
    "site": {
        "name": ("site_name", _line(80)),
        "address": ("site_addresses", _site_addresses),
        "banner_text": ("banner_text", _line(120)),
        "banner_colour": ("banner_colour", _colour),
    },
    "listen": {"host": ("listen_host", _address), "port": ("listen_port", _whole(0, 65535))},
    "tls": {
        "certificate": ("tls_certificate", _file),
        "key": ("tls_key", _file),
        "names": ("tls_names", _names),
        "plain_http": ("tls_plain_http", _yes_or_no),
    },
    "proxy": {"trusted": ("proxy_trusted", _networks), "headers": ("proxy_headers", _proxy_headers)},
    "engine": {
        "accelerator": ("accelerator", _accelerator),
        "slots": ("slots", _whole(1, 256)),
        "context_tokens": ("context_tokens", _whole(256, 131_072)),
        "queue_limit": ("queue_limit", _whole(0, 10_000)),
        "queue_limit_per_user": ("queue_limit_per_user", _whole(1, 10_000)),
        "longest_pause_s": ("longest_pause_s", _number(0.05, 60)),
        "harmony_grammar": ("harmony_grammar", _yes_or_no),
    },
    "web": {
        "workers": ("web_workers", _whole(1, 64)),
        "threads": ("web_threads", _whole(2, 1024)),
        "session_hours": ("session_hours", _number(0.1, 720)),
    },
    "accounts": {"endless_api_keys": ("endless_api_keys", _yes_or_no)},
    "record": {
        "database_url": ("database_url", _database_url),
        "checkpoint_interval_s": ("checkpoint_interval_s", _number(1, 60)),
        "daily_mib_per_user": ("daily_mib_per_user", _whole(1, 1_000_000)),
    },
}
