"""IP addresses in one form, and which addresses count as one source.

An IPv4 address within IPv6 (``::ffff:10.0.0.1``) is the IPv4 address. A zone (``%eth0``) names an interface of this
host and is no part of the address. One subscriber has all 2^64 addresses of an IPv6 /64, so these are one source.
"""

from __future__ import annotations

import ipaddress

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")
_WIDEST = {4: 8, 6: 7}  # prefix lengths of the largest private networks: 10.0.0.0/8 and fc00::/7


def parse_address(text: str) -> Address:
    """An address in its one form.

    Raises:
        ValueError: the text is no IP address.
    """
    parsed = ipaddress.ip_address(text.partition("%")[0] if ":" in text else text)
    return getattr(parsed, "ipv4_mapped", None) or parsed


def parse_network(text: str) -> Network:
    """An address or a network that an operator has written, in the form in which addresses are compared with it.

    Raises:
        ValueError: a sentence on what is wrong with it.
    """
    try:
        network = ipaddress.ip_network(text)
    except ValueError as exc:
        try:
            meant = ipaddress.ip_network(text, strict=False)
        except ValueError:
            raise ValueError(f"{text!r} is neither an IP address nor a network") from exc
        raise ValueError(f"{text} is an address within a network: write {meant}, or the address alone") from exc
    if isinstance(network, ipaddress.IPv6Network) and network.subnet_of(_MAPPED):
        network = ipaddress.IPv4Network((int(network.network_address) & 0xFFFF_FFFF, network.prefixlen - 96))
    if network.prefixlen < _WIDEST[network.version]:
        raise ValueError(f"{text} is wider than any private network: everybody in it could claim any address")
    return network


def network_of(address: str) -> str:
    """The source that an address belongs to: an IPv4 address, or an IPv6 /64."""
    try:
        parsed = parse_address(address)
    except ValueError:
        return "(no address)"
    return str(parsed) if parsed.version == 4 else str(ipaddress.IPv6Network((parsed, 64), strict=False))
