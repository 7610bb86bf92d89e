"""To whom a program may send a signal: the part of its policy that needs process ids, which no list of calls has.

A program that starts no process signals itself alone. One that starts some (gunicorn's workers) must name them, and a
filter cannot tell its own from others; it is refused the supervisor and the watcher, whose ids are known and whose end
or standstill would hide what follows. Landlock (ABI 6), where it is there, keeps all signals inside the program.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Collection
from typing import Final

from appliance.isolation.policy import Kind
from appliance.isolation.rules import CallPolicy, Only, Rules

_STARTING_OTHERS: Final = frozenset({Kind.WEB, Kind.ENGINE_CUDA})


def keep_signals(policy: CallPolicy, kind: Kind, *, never: Collection[int]) -> CallPolicy:
    """The policy of the calling process, narrowed: no signal to ``never``, and to others only as its kind may."""
    spared = Only(0, tuple(sorted(set(never))), unless=True)
    own = spared if kind in _STARTING_OTHERS else Only(0, (os.getpid(),))
    narrowed: dict[str, Rules] = {"tgkill": ((own,),)}
    if "kill" in policy.allowed:
        narrowed["kill"] = tuple((*rule, spared) for rule in policy.allowed["kill"])
    if policy.others:
        narrowed["tkill"] = ((spared,),)
    return dataclasses.replace(policy, allowed={**policy.allowed, **narrowed})
