"""The operator's settings: state/config/appliance.toml of a site, read once into one frozen ``Config``.

Every setting has a default, so the file may be absent. An unknown section or key, a wrong type and a value out of range
are each refused with one sentence that names the file and the setting. Only the command line and the entry modules of
child processes load a Config and pass it on.

The annotation of a field says where the file holds it (`Setting`), which values it may have, and how it refuses others.
"""

from __future__ import annotations

import os
import re
import stat
import tomllib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_type_hints

from appliance.addresses import Network
from appliance.child import errno_of_child
from appliance.errors import ApplianceError
from appliance.plain_file import read_plain
from appliance.setting_rules import (
    ADDRESS,
    ALIASES,
    COLOUR,
    DATABASE_URL,
    FILE,
    HOSTS,
    NETWORKS,
    ORIGINS,
    SITE_ADDRESSES,
    Setting,
    line,
    number,
    one_of,
    whole,
)
from appliance.site_address import SiteAddress
from installer.formats.checks import FaultError
from installer.formats.plain import check

Accelerator = Literal["auto", "cpu", "cuda"]
ProxyHeaders = Literal["any", "x-forwarded", "forwarded"]
CacheItem = Literal["float32", "bfloat16"]
STATE_DIRS = (
    *("trust", "config", "database", "audit", "keys", "signer", "tls", "packed"),
    *("tmp", "tmp/recorder", "tmp/web", "tmp/administration"),
)


class ConfigError(ApplianceError):
    """appliance.toml cannot be used as it stands."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """The settings of an operator. Paths are absolute. A name includes the unit.

    ``release_dir`` is the release that ``current`` named when the Config was made, so that a switch to another release
    cannot mix two releases in one process. It need not exist: accounts and the record work without a release.
    """

    home: Path
    release_dir: Path

    # [site]
    site_name: Annotated[str, Setting("site", "name"), line(80)] = "gpt-oss appliance"
    # the addresses at which people reach the site; empty: any
    site_addresses: Annotated[tuple[SiteAddress, ...], Setting("site", "address"), SITE_ADDRESSES] = ()
    # classification banner; None: no banner
    banner_text: Annotated[str | None, Setting("site", "banner_text"), line(120)] = None
    # "#rrggbb"; None: the colour of the pages
    banner_colour: Annotated[str | None, Setting("site", "banner_colour"), COLOUR] = None

    # [listen]
    listen_host: Annotated[str, Setting("listen", "host"), ADDRESS] = "127.0.0.1"
    listen_port: Annotated[int, Setting("listen", "port"), whole(0, 65535)] = 8080  # 0: any free port

    # [tls]
    # PEM, with its chain; None: the site makes one with its own authority
    tls_certificate: Annotated[Path | None, Setting("tls", "certificate"), FILE] = None
    tls_key: Annotated[Path | None, Setting("tls", "key"), FILE] = None
    # more names and addresses for the site's own certificate
    tls_names: Annotated[tuple[str, ...], Setting("tls", "names"), HOSTS] = ()
    tls_plain_http: Annotated[bool, Setting("tls", "plain_http")] = False  # serve a network without TLS

    # [proxy]
    # reverse proxies that may name the client
    proxy_trusted: Annotated[tuple[Network, ...], Setting("proxy", "trusted"), NETWORKS] = ()
    # headers in which they name the client
    proxy_headers: Annotated[ProxyHeaders, Setting("proxy", "headers"), one_of(ProxyHeaders)] = "any"

    # [engine]
    accelerator: Annotated[Accelerator, Setting("engine", "accelerator"), one_of(Accelerator)] = "auto"
    # conversations of full length that memory must hold at once; None: as memory allows (engine/memory_plan.py)
    slots: Annotated[int | None, Setting("engine", "slots"), whole(1, 256)] = None
    # tokens of the longest conversation; None: as memory allows, at most the release's limit
    context_tokens: Annotated[int | None, Setting("engine", "context_tokens"), whole(256, 131_072)] = None
    # the type of the numbers in a CPU's KV cache (docs/decisions/0019); CUDA's holds float16
    cache: Annotated[CacheItem, Setting("engine", "cache"), one_of(CacheItem)] = "bfloat16"
    # answers worked on at the same time; None: `slots` if that is set, else as memory and time allow
    streams: Annotated[int | None, Setting("engine", "streams"), whole(1, 256)] = None
    # turns that may wait to begin; beyond it, a user who has one waiting is answered "overloaded"
    queue_limit: Annotated[int, Setting("engine", "queue_limit"), whole(0, 10_000)] = 32
    # turns of one user that may wait; beyond it, the user is answered "too_many_waiting"
    queue_limit_per_user: Annotated[int, Setting("engine", "queue_limit_per_user"), whole(1, 10_000)] = 8
    # how long a streaming answer may pause while another prompt is prefilled
    longest_pause_s: Annotated[float, Setting("engine", "longest_pause_s"), number(0.05, 60)] = 0.3
    # compute tokens ahead where an answer repeats what it has read (engine/drafting.py); CPU only
    drafts: Annotated[bool, Setting("engine", "drafts")] = True
    # keep the model from writing malformed headers (engine/harmony_grammar.py)
    harmony_grammar: Annotated[bool, Setting("engine", "harmony_grammar")] = True

    # [web]
    web_workers: Annotated[int, Setting("web", "workers"), whole(1, 64)] = 1
    # threads per worker; an answer that waits to begin holds one, an answer that streams does not
    web_threads: Annotated[int, Setting("web", "threads"), whole(2, 1024)] = 48
    # a sign-in lasts this long without use
    session_hours: Annotated[float, Setting("web", "session_hours"), number(0.1, 720)] = 12.0

    # MiB of one attached file; 0: people attach none. More does not pass the server (webui/serving/limits.py)
    attachment_mib: Annotated[int, Setting("web", "attachment_mib"), whole(0, 8)] = 8

    # origins whose pages may call the API from a browser
    cors_origins: Annotated[tuple[str, ...], Setting("web", "cors_origins"), ORIGINS] = ()
    # [api]
    # names beside the model's own id by which a program may ask for it; clients with built-in names need them
    model_aliases: Annotated[tuple[str, ...], Setting("api", "model_aliases"), ALIASES] = ()
    # how long programs can read and continue what /v1/responses answered (people/responses.py); 0: nothing is kept
    response_days: Annotated[int, Setting("api", "response_days"), whole(0, 3650)] = 30

    # [accounts]
    # whether people may make API keys that never end
    endless_api_keys: Annotated[bool, Setting("accounts", "endless_api_keys")] = False

    # [record]
    database_url: Annotated[str, Setting("record", "database_url"), DATABASE_URL]
    # seconds between signed checkpoints of the record
    checkpoint_interval_s: Annotated[float, Setting("record", "checkpoint_interval_s"), number(1, 60)] = 60.0
    # MiB that the record takes for one person in a day (UTC); more is refused
    daily_mib_per_user: Annotated[int, Setting("record", "daily_mib_per_user"), whole(1, 1_000_000)] = 1024

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
        """The directory whose disk must not fill up: the record's, or state/ if the record is in a database server."""
        return self.state_dir if self.database_file is None else self.database_file.parent


@cache
def settings_by_section() -> dict[str, dict[str, str]]:
    """What appliance.toml may hold: section -> key -> field of ``Config``."""
    found: dict[str, dict[str, str]] = {}
    for field, hint in get_type_hints(Config, include_extras=True).items():
        for setting in (part for part in get_args(hint) if isinstance(part, Setting)):
            found.setdefault(setting.section, {})[setting.key] = field
    return found


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
        config = parse_config(text, home)
    except (ConfigError, tomllib.TOMLDecodeError) as exc:
        raise ConfigError(f"{path}: {exc}") from exc
    return replace(config, release_dir=config.release_dir.resolve())


def parse_config(text: str, home: Path) -> Config:
    """The Config of the site at ``home`` whose appliance.toml holds ``text``. This reads no file.

    Raises:
        ConfigError, tomllib.TOMLDecodeError: as ``load_config``, without the file's name.
    """
    given = _fields(tomllib.loads(text))
    found: dict[str, Any] = {
        "home": home,
        "release_dir": home / "current",
        "database_url": f"sqlite:///{home}/state/database/appliance.sqlite3",
    }
    try:
        config = check(Config, found | given)
    except FaultError as exc:
        raise ConfigError(_sentence(exc)) from exc
    _check_tls(config)
    below_state = {name: home / "state" / given[name] for name in ("tls_certificate", "tls_key") if name in given}
    return replace(config, **below_state)  # an absolute path stays as it is


def _fields(sections: dict[str, Any]) -> dict[str, Any]:
    """The values of the file, by the name of their field in ``Config``."""
    given: dict[str, Any] = {}
    known = settings_by_section()
    for section, body in sections.items():
        if section not in known:
            raise ConfigError(f"unknown section [{section}]; known are {', '.join(known)}")
        if not isinstance(body, dict):
            raise ConfigError(f"{section} must be a section, [{section}]")
        for key, value in body.items():
            if key not in known[section]:
                raise ConfigError(f"unknown setting {section}.{key}; known are {', '.join(known[section])}")
            given[known[section][key]] = value
    return given


def _sentence(fault: FaultError) -> str:
    """Describe the fault with the name that the setting has in the file."""
    names = {
        field: f"{section}.{key}" for section, keys in settings_by_section().items() for key, field in keys.items()
    }
    return f"{names[str(fault.at[0])]} {fault.said}, not {fault.value!r}"


def _check_tls(config: Config) -> None:
    if (config.tls_certificate is None) != (config.tls_key is None):
        raise ConfigError("tls.certificate and tls.key go together; set both, or none for the site's own certificate")
    if config.tls_certificate is not None and config.tls_plain_http:
        raise ConfigError("tls.certificate and tls.plain_http contradict each other; remove one of them")


def init_state(home: Path, database: Path | None = None) -> None:
    """Make ``state/`` and its directories with mode 0700 where they are missing, and give ``state/`` this mode.

    Root does this as the owner of ``state/``, which the appliance becomes. A signing key that an older release kept
    beside the public key moves to the directory that only a signer can read.

    Args:
        database: the database file, which gets mode 0600. SQLite would copy any other mode to the files beside it, by a
            call that a confined process is refused and that is reported as an attempt. None: leave the file alone.
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
    if stat.S_IMODE(state.stat().st_mode) != 0o700:  # only if needed: a confined command may not call chmod
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
    """Do ``work`` as that user, in a child: root must not follow a link that the user may have made.

    Raises:
        OSError: the error of the work.
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
    """Why root, acting as the owner of ``state``, cannot prepare it, and what mends that."""
    owner = state.stat()
    for directory in reversed(state.parents):
        try:
            _as_user(owner.st_uid, owner.st_gid, partial(os.stat, f"{directory}/."))
        except OSError:
            return f"{directory} is closed to uid {owner.st_uid}; open it to them, or start as its owner"
    mend = f"installer own --prefix {state.parent}"
    return f"not all of it is uid {owner.st_uid}'s; give it to the appliance's user with: {mend}"
