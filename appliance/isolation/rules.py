"""How the system calls of a kind of process are written down: alone or by their arguments, in groups with a reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from appliance.isolation.policy import Kind


@dataclass(frozen=True)
class Only:
    """A condition on one argument: 32 bits of it, masked, are one of ``values``; with ``unless``, none of them.

    The low 32 bits are all of an int: the kernel ignores the rest.
    """

    argument: int
    values: tuple[int, ...]
    mask: int = 0xFFFF_FFFF
    high: bool = False
    unless: bool = False


Rule = tuple[Only, ...]  # every condition must hold
Rules = tuple[Rule, ...]  # one rule must hold; none: whatever the arguments


@dataclass(frozen=True)
class Group:
    """Calls that some kinds need for one purpose."""

    why: str
    kinds: frozenset[Kind]
    calls: str = ""  # names
    partly: Mapping[str, Rules] = field(default_factory=dict)  # name -> with which arguments


@dataclass(frozen=True)
class Danger:
    """Calls that lead out or undo the isolation: whoever tries one means it, or was taken over."""

    what: str  # completes "It tried to .."
    calls: str
    cuda: bool = True  # refused to the engine on CUDA, too, for which everything else is allowed


@dataclass(frozen=True)
class CallPolicy:
    """The system calls of one kind. ``allowed`` maps a call to its rules; what is in neither follows ``others``."""

    allowed: Mapping[str, Rules]
    refused: frozenset[str]  # says something only where ``others`` are allowed
    others: bool  # whether calls that nobody named are allowed
