"""Which wheel of a release needs which: Requires-Dist, its markers evaluated for the hosts that the release is for."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from bundler.errors import WheelError
from bundler.wheel_facts import WheelFacts


@dataclass(frozen=True)
class Hosts:
    """What markers ask about the hosts of a release."""

    pythons: tuple[str, ...]  # "3.11"
    platform: str  # "manylinux_2_28_x86_64"

    def environments(self) -> list[dict[str, str]]:
        """One environment of markers for each Python. Nothing in it comes from the builder."""
        return [
            {
                "implementation_name": "cpython", "implementation_version": f"{python}.0", "os_name": "posix",
                "platform_machine": self.platform.split("_", 3)[-1], "platform_python_implementation": "CPython",
                "platform_release": "", "platform_system": "Linux", "platform_version": "",
                "python_full_version": f"{python}.0", "python_version": python, "sys_platform": "linux",
            }
            for python in self.pythons
        ]  # fmt: skip


def dependencies_of(
    wheels: Collection[WheelFacts], hosts: Hosts, extras: Mapping[str, frozenset[str]]
) -> dict[str, frozenset[str]]:
    """Package -> the packages of the release that it needs on at least one of the hosts.

    Args:
        extras: which extras of a package are wanted from the start; those that requirements name come on top.
    Raises:
        WheelError: a requirement cannot be read.
    """
    requirements: dict[str, list[Requirement]] = {name: [] for name in sorted({wheel.name for wheel in wheels})}
    for wheel in wheels:
        try:
            requirements[wheel.name] += map(Requirement, wheel.requires)
        except InvalidRequirement as exc:
            raise WheelError(f"{wheel.file} needs something that cannot be read: {exc}".splitlines()[0]) from exc
    wanted = {name: {"", *extras.get(name, ())} for name in requirements}
    found: dict[str, set[str]] = {name: set() for name in requirements}
    changed = True
    while changed:  # an extra that one package asks for may bring requirements that ask for more
        changed = False
        for name, needs in requirements.items():
            for need in needs:
                target = str(canonicalize_name(need.name))
                if target not in requirements or not _applies(need, wanted[name], hosts):
                    continue
                if target not in found[name] or not need.extras <= wanted[target]:
                    changed = True
                    found[name].add(target)
                    wanted[target] |= need.extras
    return {name: frozenset(targets) for name, targets in found.items()}


def _applies(need: Requirement, extras: Collection[str], hosts: Hosts) -> bool:
    marker = need.marker
    if marker is None:
        return True
    return any(marker.evaluate({**each, "extra": extra}) for each in hosts.environments() for extra in extras)
