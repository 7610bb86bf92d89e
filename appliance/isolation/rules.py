"""The notation for the system calls of a kind: groups with a reason, calls as a whole or limited by arguments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from appliance.isolation.policy import Kind


@dataclass(frozen=True)
class Only:
    """A condition on 32 bits of one argument: masked, they equal one of ``values``, or none of them with ``unless``.

    The low 32 bits are a whole int, of which the kernel ignores the rest. ``high`` looks at the high 32 bits.
    """

    argument: int
    values: tuple[int, ...]
    mask: int = 0xFFFF_FFFF
    high: bool = False
    unless: bool = False


Rule = tuple[Only, ...]  # every condition must hold
Rules = tuple[Rule, ...]  # one rule must hold; empty: any arguments are allowed


@dataclass(frozen=True)
class Group:
    """Calls that some kinds need for one purpose."""

    why: str
    kinds: frozenset[Kind]
    calls: str = ""  # names
    partly: Mapping[str, Rules] = field(default_factory=dict)  # name -> the arguments that are allowed


@dataclass(frozen=True)
class Danger:
    """Calls that lead out or undo the isolation. Our code makes none of them: a process that does was taken over."""

    what: str  # completes "It tried to .."
    calls: str
    cuda: bool = True  # whether the engine on CUDA, which may make all other calls, is refused them too


@dataclass(frozen=True)
class CallPolicy:
    """The system calls of one kind. ``allowed`` maps a call to its rules; ``others`` decides about unnamed calls."""

    allowed: Mapping[str, Rules]
    refused: frozenset[str]  # matters only if ``others`` is True
    others: bool  # whether calls that neither field names are allowed
