"""Addresses in the text become links, and links that lead nowhere show their address.

``https://..`` and ``www...`` become links without the full stop behind them. Such an address ends where a blank or
Chinese, Japanese or Korean text begins, since no blank stands between them. The page follows only absolute addresses:
``[guide](docs/guide.md)`` becomes its words with the address in brackets behind.
"""

from __future__ import annotations

import re
from typing import Final

from markdown_it import MarkdownIt
from markdown_it.rules_core import StateCore
from markdown_it.token import Token

_ADDRESS: Final = re.compile(r"(?<![A-Za-z0-9/@.\-])(?:https?://|www\.(?=[A-Za-z0-9-]+\.))[!#-;=?-~]+", re.IGNORECASE)
_ABSOLUTE: Final = re.compile(r"https?://|mailto:", re.IGNORECASE)
_MAX_CHARS: Final = 2_000
_TRAILING: Final = ".,:;!?'\"*_~`|"
_PAIRS: Final = {")": "(", "]": "[", "}": "{"}


def add_links(markdown: MarkdownIt) -> None:
    """Have `markdown` treat addresses so."""
    markdown.core.ruler.push("dead_links", _show_dead)
    markdown.core.ruler.push("bare_links", _link)


def _show_dead(state: StateCore) -> None:
    for block in state.tokens:
        if block.type == "inline" and block.children and "](" in block.content:
            block.children = _without_dead(block.children)


def _without_dead(tokens: list[Token]) -> list[Token]:
    """`tokens` with words and an address in the place of each link that the cleaner would take the address of."""
    out, dead = list[Token](), None
    for token in tokens:
        if token.type == "link_open" and not _ABSOLUTE.match(str(token.attrs.get("href", ""))):
            dead = " ".join(str(token.attrs[name]) for name in ("href", "title") if token.attrs.get(name))
        elif token.type == "link_close" and dead is not None:
            out.append(_text(f" ({dead})" if dead else "", token.level))
            dead = None
        else:
            out.append(token)
    return out


def _link(state: StateCore) -> None:
    for block in state.tokens:
        if block.type == "inline" and block.children and ("://" in block.content or "www." in block.content.lower()):
            block.children = _linked(block.children)


def _linked(tokens: list[Token]) -> list[Token]:
    out, depth = list[Token](), 0
    for token in tokens:
        depth += {"link_open": 1, "link_close": -1}.get(token.type, 0)
        if token.type == "text" and not depth:
            out += _split(token)
        else:
            out.append(token)
    return out


def _split(token: Token) -> list[Token]:
    """`token` as text, links and text."""
    out, at = list[Token](), 0
    for found in _ADDRESS.finditer(token.content):
        address = _trimmed(found.group())
        if len(address) > _MAX_CHARS or not re.search(r"(?://|www\.)[A-Za-z0-9\[]", address):
            continue
        if found.start() > at:
            out.append(_text(token.content[at : found.start()], token.level))
        href = address if "://" in address else f"https://{address}"
        out.append(Token("link_open", "a", 1, attrs={"href": href}, level=token.level, markup="linkify"))
        out.append(_text(address, token.level + 1))
        out.append(Token("link_close", "a", -1, level=token.level, markup="linkify"))
        at = found.start() + len(address)
    return [*out, _text(token.content[at:], token.level)] if out else [token]


def _text(content: str, level: int) -> Token:
    return Token("text", "", 0, content=content, level=level)


def _trimmed(address: str) -> str:
    """Without punctuation at its end, and without a bracket that it did not open."""
    while address:
        last = address[-1]
        opening = _PAIRS.get(last)
        if last in _TRAILING or (opening is not None and address.count(last) > address.count(opening)):
            address = address[:-1]
        else:
            break
    return address
