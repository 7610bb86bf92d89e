"""Which processes a program may signal: this part of its policy needs process ids, which no list of calls has.

A program that starts no process may signal only itself. A program that starts some (gunicorn's workers) must signal
them, and a filter cannot tell these from other processes. It may not signal the supervisor and the watcher: their ids
are known, and stopping either would hide what follows. Landlock ABI 6, if present, keeps signals inside the program.
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
    """Narrow the policy of the calling process: no signal to ``never``, and to others only if its kind may."""
    spared = Only(0, tuple(sorted(set(never))), unless=True)
    own = spared if kind in _STARTING_OTHERS else Only(0, (os.getpid(),))
    narrowed: dict[str, Rules] = {"tgkill": ((own,),)}
    if "kill" in policy.allowed:
        narrowed["kill"] = tuple((*rule, spared) for rule in policy.allowed["kill"])
    if policy.others:
        narrowed["tkill"] = ((spared,),)
    return dataclasses.replace(policy, allowed={**policy.allowed, **narrowed})
