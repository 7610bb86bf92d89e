"""What each kind of process of the appliance may do: the one place that the filter, Landlock and the proof read."""

from __future__ import annotations

from enum import StrEnum


class Kind(StrEnum):
    """The kinds of process that have a policy of their own."""

    SUPERVISOR = "supervisor"
    RECORDER = "recorder"
    ENGINE_CPU = "engine-cpu"
    ENGINE_CUDA = "engine-cuda"
    WEB = "web"
    PACKER = "packer"  # writes the weights packed for this processor, before an engine starts
    ADMINISTRATION = "administration"  # `appliance users`, `audit`, `doctor`, `selftest`
