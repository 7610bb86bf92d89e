"""Who asks, and under which address, when a reverse proxy stands in between.

Only peers named in ``[proxy] trusted`` are believed. Forwarding headers of other peers are ignored. The rules:

1. The search for the client goes through X-Forwarded-For (or ``for`` in Forwarded, RFC 7239) from the right: each
   trusted proxy vouches for the address that it added. The first address that is not a trusted proxy's is the client's.
   A value that is no address ends the search at the address before it.
2. Scheme and host come from the proxy that named the client: if there are as many values as addresses, the value at the
   client's place counts. Otherwise the last value counts, which the nearest proxy wrote.
3. When both kinds of header are present, X-Forwarded-* count and Forwarded does not, because a proxy that sets one kind
   passes the other on as the client sent it. ``[proxy] headers`` names the kind where it is the other way round.
   X-Real-IP, one address, belongs to the first kind and counts only where X-Forwarded-For is absent.
4. Lists are read from the right, so no quotation and no length that a client chose can hide what a proxy wrote.
5. A value that is no scheme (http, https), no host or no address is ignored. Nothing here raises.

Afterwards REMOTE_ADDR, wsgi.url_scheme and HTTP_HOST are what they would be without the proxy.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from appliance.addresses import Address, Network, parse_address
from appliance.config import Config, ProxyHeaders

_log = logging.getLogger(__name__)

PROXY_REMARK: Final = "appliance.proxy"  # key in the environ; webui.security explains refused forms with this `Remark`
SAY_AGAIN_S: Final = 600.0
_MOST_HOPS: Final = 50  # a longer list is no chain of proxies
_WRITTEN: Final = re.compile(  # RFC 7239 section 6: alone or with a port, IPv6 then in brackets
    r"\[([0-9A-Fa-f:.%A-Za-z_-]+)\](?::[0-9A-Za-z._-]{1,20})?|([0-9.]+)(?::[0-9A-Za-z._-]{1,20})?|([0-9A-Za-z:.%_-]+)"
)
_HOST: Final = re.compile(r"(?:\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._-]{1,253})(?::[0-9]{1,5})?")
_PAIR: Final = re.compile(r'\s*([A-Za-z]+)=("(?:[^"\\]|\\.)*"|[^\s";,]*)\s*')
_PART: Final = re.compile(r'(?:"(?:[^"\\]|\\.)*+"|[^;"])*')  # a parameter of an element, up to a semicolon
_ELEMENT_BACKWARDS: Final = re.compile(r'(?:"(?:"\\|[^"])*+"|[^,"])*')  # an element, read from its end up to a comma
_MOST_FORWARDED_CHARS: Final = 4096
_HEADERS: Final = (
    "HTTP_X_FORWARDED_FOR", "HTTP_X_FORWARDED_PROTO", "HTTP_X_FORWARDED_HOST", "HTTP_X_FORWARDED_PORT",
    "HTTP_FORWARDED", "HTTP_X_REAL_IP",
)  # fmt: skip
WsgiApp = Callable[[dict[str, Any], Any], Iterable[bytes]]


@dataclass(frozen=True)
class Remark:
    """What the server noticed of a proxy: the peer, whether it is trusted, whether it sent forwarding headers. ``say``
    logs a sentence about it, at most once in ten minutes."""

    peer: str
    is_trusted: bool
    has_headers: bool
    say: Callable[[str], None]


@dataclass(frozen=True)
class _Word:
    """What the proxies say. The nearest proxy's values come last."""

    addresses: Sequence[str] = ()
    schemes: Sequence[str] = ()
    hosts: Sequence[str] = ()


@dataclass(frozen=True)
class TrustedProxies:
    """The peers that are believed, and the kind of header that they use."""

    networks: tuple[Network, ...] = ()
    headers: ProxyHeaders = "any"

    @classmethod
    def of(cls, config: Config) -> TrustedProxies:
        return cls(config.proxy_trusted, config.proxy_headers)

    def is_trusted(self, address: str) -> bool:
        parsed = _address(address)
        return parsed is not None and any(parsed in network for network in self.networks)

    def client(self, peer: str, addresses: Sequence[str]) -> tuple[str, int | None]:
        """Rule 1: the client's address, and its place among `addresses`; None: it is the peer itself."""
        found: tuple[str, int | None] = (peer, None)
        for place in reversed(range(max(0, len(addresses) - _MOST_HOPS), len(addresses))):
            parsed = _address(addresses[place])
            if parsed is None:
                break
            found = str(parsed), place
            if not self.is_trusted(found[0]):
                break
        return found


class ThroughProxies:
    """WSGI middleware that puts the client in the proxy's place."""

    def __init__(self, app: WsgiApp, proxies: TrustedProxies, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._app, self._proxies, self._clock_s = app, proxies, clock_s
        self._say_at_s: dict[str, float] = {}

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        peer = environ.get("REMOTE_ADDR", "")
        has_headers = any(name in environ for name in _HEADERS)
        is_trusted = self._proxies.is_trusted(peer)
        word = _word_of(environ, self._proxies.headers) if is_trusted else _Word()
        environ[PROXY_REMARK] = Remark(peer, is_trusted, has_headers, partial(self._say, f"form {peer}"))
        if is_trusted:
            self._apply(word, peer, environ)
        elif has_headers and self._proxies.networks:
            self._say(peer, f"{peer} sends forwarding headers, which are ignored: it is not in [proxy] trusted")
        return self._app(environ, start_response)

    def _apply(self, word: _Word, peer: str, environ: dict[str, Any]) -> None:
        client, place = self._proxies.client(peer, word.addresses)
        if place is None:
            silent = f"the trusted proxy {peer} does not say for whom it asks (X-Forwarded-For)"
            self._say(peer, f"{silent}; the record holds the proxy's address")
        environ["REMOTE_ADDR"] = client
        if place is not None:
            environ["REMOTE_PORT"] = ""
        scheme = _of_client(word.schemes, place, len(word.addresses)).lower()
        if scheme in ("http", "https"):
            environ["wsgi.url_scheme"] = scheme
        host = _of_client(word.hosts, place, len(word.addresses))
        if _HOST.fullmatch(host):
            port = environ.get("HTTP_X_FORWARDED_PORT", "")
            environ["HTTP_HOST"] = _with_port(host, port, environ["wsgi.url_scheme"])

    def _say(self, about: str, sentence: str) -> None:
        """Log once for each `about` in ten minutes. A stranger with many addresses cannot fill the log."""
        now_s = self._clock_s()
        self._say_at_s = {each: at_s for each, at_s in self._say_at_s.items() if at_s > now_s}
        if about not in self._say_at_s and len(self._say_at_s) < 20:
            self._say_at_s[about] = now_s + SAY_AGAIN_S
            _log.warning("%s; see docs/tls-and-proxies.md", sentence)


def _word_of(environ: dict[str, Any], headers: ProxyHeaders) -> _Word:
    """The values of the kind of header that counts (rule 3)."""
    addresses, schemes, hosts = (_listed(environ.get(name, "")) for name in _HEADERS[:3])
    x_forwarded = _Word(addresses or _listed(environ.get("HTTP_X_REAL_IP", ""))[-1:], schemes, hosts)
    if headers == "x-forwarded" or (headers == "any" and x_forwarded != _Word([], [], [])):
        return x_forwarded
    return _forwarded(environ.get("HTTP_FORWARDED", ""))


def _listed(value: str) -> list[str]:
    return [item.strip() for item in value.split(",") if item.strip()]  # RFC 9110 section 5.6.1: no empty ones


def _forwarded(value: str) -> _Word:
    """The values of RFC 7239's header. It is read from the right, so nothing that a client wrote changes how its
    proxy's values are read. An element that cannot be read is ignored, with everything before it."""
    addresses, schemes, hosts = list[str](), list[str](), list[str]()
    for backwards in _pieces(_ELEMENT_BACKWARDS, value[: -_MOST_FORWARDED_CHARS - 1 : -1]):
        if not backwards.strip():  # RFC 9110 section 5.6.1, as in `_listed`
            continue
        pairs = _pairs(backwards[::-1])
        if pairs is None:
            break
        addresses.append(pairs.get("for", ""))
        schemes.append(pairs.get("proto", ""))
        hosts.append(pairs.get("host", ""))
    return _Word(addresses[::-1], schemes[::-1] if any(schemes) else [], hosts[::-1] if any(hosts) else [])


def _pairs(element: str) -> dict[str, str] | None:
    """The parameters of one element; None if it cannot be read."""
    pairs, read_chars = dict[str, str](), 0
    for part in _pieces(_PART, element):
        read_chars += len(part) + 1
        if not part.strip():
            continue
        pair = _PAIR.fullmatch(part)
        if pair is None:
            return None
        pairs[pair[1].lower()] = re.sub(r"\\(.)", r"\1", pair[2][1:-1]) if pair[2].startswith('"') else pair[2]
    return pairs if read_chars >= len(element) else None


def _pieces(pattern: re.Pattern[str], text: str) -> Iterator[str]:
    """The texts between separators of one character, up to a text that cannot be read. The time is linear."""
    at = 0
    while (piece := pattern.match(text, at)) is not None and (at := piece.end() + 1):
        if at <= len(text) and text[at - 1] == '"':  # a quotation without an end
            return
        yield piece[0]
        if at > len(text):
            return


def _of_client(values: Sequence[str], place: int | None, addresses: int) -> str:
    """The value that belongs to the client (rule 2)."""
    if not values:
        return ""
    return values[place] if place is not None and len(values) == addresses else values[-1]


def _address(text: str) -> Address | None:
    """The address in a text as proxies write it: alone, with a port, in brackets, with a zone, or IPv4 within IPv6."""
    written = _WRITTEN.fullmatch(text.strip())
    if written is None:
        return None
    try:
        return parse_address(written[1] or written[2] or written[3])
    except ValueError:
        return None


def _with_port(host: str, port: str, scheme: str) -> str:
    """The host, with X-Forwarded-Port unless the host has a port or the port is the scheme's default."""
    has_port = host.rpartition("]")[2].count(":") == 1
    if has_port or not re.fullmatch(r"[0-9]{1,5}", port) or port == {"http": "80", "https": "443"}[scheme]:
        return host
    return f"{host}:{port}"
