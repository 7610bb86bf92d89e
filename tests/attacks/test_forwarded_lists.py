"""Clients behind a proxy that sets Forwarded (RFC 7239). Their own words stand left of the proxy's, and must not change
how the proxy's are read.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.webui.test_proxies import seen

# As proxies append: the forms that the manuals of nginx and HAProxy show, and an address with a port.
OWN_WORDS = [
    ("for=10.2.0.1", "10.2.0.1"),
    ("for=10.2.0.1;proto=https", "10.2.0.1"),
    ('proto=https;for="[2001:db8::1]"', "2001:db8::1"),
    ('for="10.2.0.1:4711";by="[::1]";host="chat.corp"', "10.2.0.1"),
]


def client_of(value: str) -> str:
    return seen("127.0.0.1", {"Forwarded": value}, "forwarded")[0]


@pytest.mark.parametrize(("own", "client"), OWN_WORDS)
@pytest.mark.parametrize(
    "written",
    [
        'x="', 'for="', 'for=6.6.6.6;x="', 'for=6.6.6.6, x="', '"', 'x="\\', 'for=6.6.6.6;x="\\",', "for=6.6.6.6,,",
        ",", ";;;", 'for="6.6.6.6\\', "for=6.6.6.6" + " " * 8192, "for=6.6.6.6," * 2500, 'x="' + '"\\' * 9000,
    ],
)  # fmt: skip
def test_an_open_quotation_hides_nobody(written: str, own: str, client: str) -> None:
    assert client_of(f"{written}, {own}") == client


@pytest.mark.parametrize("length", [4083, 4096, 8179, 8192, 8193, 20_000])
@pytest.mark.parametrize(("own", "client"), OWN_WORDS)
def test_a_long_list_forges_no_address(length: int, own: str, client: str) -> None:
    """The last entry counts, however much stands before it and wherever the list is cut."""
    forged = "for=6.6.6.6"
    written = f"x={'y' * (length - len(forged) - 3)},{forged}"
    assert len(written) == length
    assert client_of(f"{written}, {own}") == client


@given(st.text('for=;, "\\[]:.0123456789%host', max_size=60) | st.text(st.characters(max_codepoint=255)),
       st.sampled_from(OWN_WORDS))  # fmt: skip
def test_whatever_the_client_wrote_the_proxys_words_are_read_alike(written: str, own: tuple[str, str]) -> None:
    assert client_of(f"{written},{own[0]}") == own[1]
