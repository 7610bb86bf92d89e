"""Finds out, in a child, which silence this host would grant; `appliance doctor` reports it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict
from typing import Any

from appliance.child import ChildEndedError, value_of_child
from appliance.errors import ApplianceError
from appliance.isolation import AttemptResult, Layer, Silence, SilenceError, shut_the_door_for_programs
from appliance.isolation.files import Places
from appliance.isolation.policy import Kind


def try_silence(
    *,
    become: tuple[int, int] | None,
    programs: Collection[Kind],
    places: Places | None = None,
    leave_out: Collection[str] = (),
) -> Silence:
    """Shut the door in a child and return its report. The caller must have one thread.

    The arguments are those of ``shut_the_door_for_programs``.

    Raises:
        SilenceError: as ``shut_the_door_for_programs``.
    """
    try:
        report = value_of_child(lambda write_end: _report(write_end, become, programs, places, leave_out))
    except ChildEndedError as exc:
        raise SilenceError(f"the process that tried to be silent ended ({exc})") from exc
    if "error" in report:
        raise SilenceError(report["error"])
    layers = tuple(Layer(**layer) for layer in report["layers"])
    attempts = tuple(AttemptResult(**attempt) for attempt in report["attempts"])
    return Silence(report["kernel"], report["uid"], layers, attempts, report["files_abi"])


def _report(
    write_end: int,
    become: tuple[int, int] | None,
    programs: Collection[Kind],
    places: Places | None,
    leave_out: Collection[str],
) -> dict[str, Any]:
    try:
        silence, watch = shut_the_door_for_programs(
            keep=[write_end], become=become, programs=programs, places=places, leave_out=leave_out
        )
    except ApplianceError as exc:
        return {"error": str(exc)}
    if watch is not None:
        watch.stop()
    return asdict(silence)
