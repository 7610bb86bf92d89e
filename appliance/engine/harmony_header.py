"""What the header of a message says, even if the model wrote it wrong: channel, recipient, function. Pure.

A sound header is ``<|start|>assistant<|channel|>CHANNEL<|message|>``; a call names its function before or after the
channel: `` to=functions.NAME``, and may name a content type after it: `` <|constrain|>json``. docs/harmony.md lists
what else is understood.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Literal

from appliance.engine.harmony import FUNCTIONS, ROLE

Channel = Literal["analysis", "commentary", "final"]

_ANY = r"assistant|analysis|commentary|final|json|code|to\s*=|functions\."
# A word of a header must be followed by no lower-case letter, or by the next word of a header: "finally" is no word.
_ENDS = rf"(?=[^a-z0-9_]|$|{_ANY})"
_NAME = r"[A-Za-z0-9_.\-]"
_WRITTEN = r"[A-Za-z0-9_.\-:/]"  # where a recipient is expected
_TO = r"(?:(?i:to)\s*(?:=\s*|:\s*(?=functions)))+"
_QUOTES = r"\"'`<>"
_WORD = re.compile(
    rf"""[\s?!.,:;*\#~\-]*(?:
        (?P<role>(?i:assistant)){_ENDS}
        |(?P<channel>(?i:analysis|commentary|final)){_ENDS}
        |{_TO}[{_QUOTES}]?(?P<to>(?:(?i:functions?)\s+(?=[a-z]))?{_WRITTEN}*)[{_QUOTES}]?
        |(?P<bare>functions\.{_NAME}+)(?=\s*(?:$|\{{|{_ANY}))
        |(?P<type>json|code)(?=\s*(?:$|[\[{{]))
    )""",
    re.VERBOSE,
)
_HEADER_WORDS = re.compile(rf"(?i:assistant|analysis|commentary|final)|to\s*=\s*{_NAME}*|functions\.{_NAME}+|json|code")
_WORDS = (ROLE, "analysis", "commentary", "final", "json", "code", "to=", FUNCTIONS)
_LOWER_CASE_FOLLOWS = re.compile(r"\s+(?!to\s*=)[a-z]")
_OTHERS = re.compile(rf"\s*(?:user|system|developer|tool|(?P<function>functions\.{_NAME}*))(?![A-Za-z0-9_])")
_PREFIX = re.compile(r"^(?i:functions?|tools?|assistant|commentary|analysis)[.:/\s]*")
_DOUBLED = re.compile(r"(.+?)(?:functions?)?[.:/]*\1")
_RECIPIENT_BEHIND = re.compile(rf"(?<![A-Za-z0-9_])to\s*=\s*({_WRITTEN}+)")
_GLUED = re.compile(r"(?i:json|code|analysis|commentary|final|assistant|functions?|[.\-:/])$")
_NO_FUNCTIONS = {ROLE, "user", "all", "human"}  # recipients that mean no call
_RECIPIENT = rf"( to={FUNCTIONS}{_NAME}+)?"
_SOUND_ROLE = re.compile(ROLE + _RECIPIENT)
_SOUND_CHANNEL = re.compile(rf"(analysis|commentary|final){_RECIPIENT}\s*(json|code)?")


@dataclass(frozen=True)
class Header:
    """What a header says.

    channel: None if it is missing, unknown, or named in two ways. recipient: as written, "" if the name is missing,
    None if there is none. function: the offered function that the recipient means. doubtful: the function stands where
    the role belongs, so the message may also be an invented result. is_foreign: written in another's name. is_empty: it
    has no word of a header. rest: the part that belongs to no header. has_text: rest has a letter or digit. may_go_on:
    rest may be the beginning of a header's next word. names_json: it says that the content is JSON.
    """

    channel: Channel | None
    recipient: str | None
    function: str | None
    doubtful: bool
    is_foreign: bool
    is_empty: bool
    rest: str
    has_text: bool
    may_go_on: bool
    names_json: bool
    is_sound: bool


@dataclass
class _Found:
    channels: list[set[str]] = field(default_factory=list)
    recipients: list[str] = field(default_factory=list)
    words: int = 0
    rest: str = ""
    names_json: bool = False


def read_header(segments: Sequence[str], *, started: bool, complete: bool, functions: Collection[str]) -> Header:
    """
    Args:
        segments: the header's text, cut at each <|channel|>; a blank stands for <|constrain|>.
        started: it began with <|start|>.
        complete: <|message|> has ended it.
        functions: names of the offered functions.
    """
    found = _Found()
    for index, segment in enumerate(segments):
        is_first = index == 0
        _scan(segment, found, has_role=is_first and started, bare_text=is_first and not complete)
    if complete:  # the rest is no content, and may hide the recipient
        found.recipients += _RECIPIENT_BEHIND.findall(found.rest)
    other = _OTHERS.match(segments[0]) if started or complete else None
    recipient = next((name for name in found.recipients if name.casefold() not in _NO_FUNCTIONS), None)
    role_function = _meant(other["function"], functions) if other and other["function"] else None
    doubtful = role_function is not None and ROLE not in found.recipients
    known = [names for names in found.channels if names]
    channel = next(iter(known[-1])) if known and len(known[-1]) == 1 else None
    if doubtful:
        function = role_function
    elif recipient is None:  # in place of the channel
        function = _meant(found.rest.strip(), functions)
    else:
        function = _meant(recipient, functions) if recipient else None
    return Header(
        channel=channel,  # type: ignore[arg-type]  # _WORD has the three names
        recipient=recipient,
        function=function,
        doubtful=doubtful,
        is_foreign=other is not None and not doubtful,
        is_empty=not found.words,
        rest=found.rest,
        has_text=re.search(r"[^\W_]", _HEADER_WORDS.sub("", found.rest)) is not None,
        may_go_on=any(word.startswith(found.rest.strip()) for word in _WORDS),
        names_json=found.names_json,
        is_sound=_is_sound(segments, recipient, function, started=started),
    )


def _scan(segment: str, found: _Found, *, has_role: bool, bare_text: bool) -> None:
    """Take the words of a header from the beginning of a segment; what follows them is its rest.

    ``has_role``: <|start|> comes before the segment, so the role is complete whatever follows it: "assistanti cannot".
    ``bare_text``: neither <|channel|> nor <|message|> says that this is a header, and "final thoughts" is none.
    """
    at = len(ROLE) if has_role and segment.startswith(ROLE) else 0
    found.words += at > 0
    channels: set[str] = set()
    while match := _WORD.match(segment, at):
        if match["type"] and not (channels or found.channels or found.recipients):
            break
        if match["channel"] and bare_text and _LOWER_CASE_FOLLOWS.match(segment, match.end()):
            break
        if match["channel"]:
            channels.add(match["channel"].casefold())
        name = match["to"] if match["to"] is not None else match["bare"]
        if name is not None:
            found.recipients.append("" if name in _WORDS and name not in _NO_FUNCTIONS else name)
        found.names_json |= match["type"] == "json"
        found.words += 1
        at = match.end()
    found.channels.append(channels)
    found.rest += segment[at:]


def _meant(recipient: str, functions: Collection[str]) -> str | None:
    """The offered function that a recipient means, with its namespace missing or doubled, or words glued to it."""
    if (exact := recipient.removeprefix(FUNCTIONS)) in functions:
        return exact
    name = recipient
    while (found := _unglued(name, functions)) is None:
        name, shorter = _PREFIX.sub("", name), name
        if name == shorter:
            return None
    return found


def _unglued(name: str, functions: Collection[str]) -> str | None:
    while name not in functions:
        doubled = _DOUBLED.fullmatch(name)
        name, longer = doubled[1] if doubled else _GLUED.sub("", name), name
        if name == longer:
            return None
    return name


def _is_sound(segments: Sequence[str], recipient: str | None, function: str | None, *, started: bool) -> bool:
    if not started or len(segments) != 2 or recipient != (FUNCTIONS + function if function else None):
        return False
    role, channel = _SOUND_ROLE.fullmatch(segments[0]), _SOUND_CHANNEL.fullmatch(segments[1])
    if role is None or channel is None or (role[1] and channel[2]):
        return False
    return channel[1] != "final" or recipient is None
