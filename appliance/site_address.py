"""The addresses at which people reach the site (``[site] address``), and the Host headers that name one of them.

Hosts are compared in one form: lower case, without a final dot, IP addresses in their canonical spelling, and names
with letters outside ASCII as browsers send them (``xn--..``). A missing port means the default of the scheme.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_AUTHORITY: Final = re.compile(
    r"(\[[0-9A-Fa-f:.]{2,45}\]|(?=.{1,254}(?::|$))[A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63})*\.?)(?::([0-9]{1,5}))?"
)
_LOOPBACK_NAME: Final = "localhost"


@dataclass(frozen=True)
class SiteAddress:
    """One address of the site. ``host`` is in the form described above, without brackets."""

    scheme: str
    host: str
    port: int

    @property
    def url(self) -> str:
        """The address as people type it, without a slash at the end."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}" + ("" if self.port == _DEFAULT_PORTS[self.scheme] else f":{self.port}")

    def is_named_by(self, host: str, port: int | None) -> bool:
        """Whether a Host header of these two parts means this address."""
        return host == self.host and (self.port if port is None and self._has_default_port else port) == self.port

    @property
    def _has_default_port(self) -> bool:
        return self.port == _DEFAULT_PORTS[self.scheme]


def parse_site_address(text: str) -> SiteAddress:
    """Parse an address that an operator has written.

    Raises:
        ValueError: it is not ``http://HOST`` or ``https://HOST``, with or without a port, and nothing behind it.
    """
    parts = urlsplit(text.strip())
    if parts.scheme not in _DEFAULT_PORTS or parts.path not in ("", "/") or parts.query or parts.fragment:
        raise ValueError("not an address of a site")
    name, colon, rest = parts.netloc.rpartition(":") if not parts.netloc.endswith("]") else (parts.netloc, "", "")
    authority = _ascii(name) + colon + rest if colon else _ascii(parts.netloc)
    host, port = parse_authority(authority)
    if port == 0:
        raise ValueError("no port")
    return SiteAddress(parts.scheme, host, port or _DEFAULT_PORTS[parts.scheme])


def parse_authority(text: str) -> tuple[str, int | None]:
    """Split a Host header into the host, in its one form, and the port.

    Raises:
        ValueError: it is not a host with or without a port.
    """
    found = _AUTHORITY.fullmatch(text)
    if found is None:
        raise ValueError("not a host")
    host, port = found[1], None if found[2] is None else int(found[2])
    if port is not None and port > 65535:
        raise ValueError("not a port")
    if host.startswith("["):
        return str(ipaddress.IPv6Address(host[1:-1])), port
    return host.lower().removesuffix("."), port


def is_loopback(host: str) -> bool:
    """Whether a host, in its one form, is this machine itself."""
    try:
        if host == _LOOPBACK_NAME:
            return True
        address = ipaddress.ip_address(host)
        return (getattr(address, "ipv4_mapped", None) or address).is_loopback
    except ValueError:
        return False


def site_url(addresses: Iterable[SiteAddress], host: str, port: int, scheme: str) -> str:
    """The address for links: the first that the operator named, otherwise the address that the appliance listens on."""
    for address in addresses:
        return address.url
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def _ascii(host: str) -> str:
    """The name as browsers send it.

    A name for which IDNA 2003 and IDNA 2008 differ is refused, because browsers use the latter.
    """
    if host.isascii():
        return host
    sent = host.lower().encode("idna").decode("ascii")
    if sent.encode("ascii").decode("idna") != host.lower().removesuffix("."):
        raise ValueError("write the name as browsers send it, with xn--")
    return sent
