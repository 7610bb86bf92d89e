"""`installer status`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import click

from installer.commands.options import JSON, PREFIX
from installer.commands.output import counted_bytes, say, say_json
from installer.errors import NoReleaseError
from installer.formats.manifest import Difference, damage
from installer.formats.trial import Returned, Trial, load_returned, load_trial
from installer.inspection import UNLISTED, differences_of, is_unlisted
from installer.service.keeper import MOST_STARTS
from installer.site import Site
from installer.survey import ReleaseCost, Survey, survey_site

Damaged = dict[str, tuple[Difference, ...]]


@click.command()
@PREFIX
@JSON
def status(prefix: Path, as_json: bool) -> None:
    """Show everything that lies in a site and what it costs: releases, what killed commands left, what is not ours.

    The command compares weights and wheels by size and time and all other files by digest; `installer verify --prefix`
    reads everything. The exit code is 1 if a release is damaged or `current` leads to none.
    """
    site = Site(prefix)
    if not (prefix / "releases").is_dir() and not (prefix / "state").is_dir():
        raise NoReleaseError(f"no release is installed in {prefix}")
    survey = survey_site(site)
    looks = {cost.version: differences_of(site, cost.version, hash_all=False) for cost in survey.releases}
    damaged = {version: found for version, found in looks.items() if found}
    if as_json:
        say_json(_body(site, survey, damaged))
    else:
        for line in (*_releases(site, survey), *_trials(site), *_faults(site, survey, damaged), *_rest(survey)):
            say(line)
    if damaged or survey.links or any(cost.fault for cost in survey.releases):
        sys.exit(1)
    if not survey.releases:
        raise NoReleaseError(f"no release is installed in {prefix}")


def _releases(site: Site, survey: Survey) -> Iterator[str]:
    marks = {site.pointed("previous"): "previous", site.pointed("current"): "current "}
    for cost in survey.releases:
        receipt = cost.receipt
        if receipt is None:
            continue
        mark = marks.get(cost.version, "        ")
        yield (
            f"{mark}  {cost.version}  {receipt.model}  installed {receipt.installed_at}  "
            f"self-test {receipt.self_test}  {_size(cost)}"
        )
        if receipt.allowed:
            yield f"          it was installed with {', '.join(_typed(receipt.allowed))}"


def _trial(site: Site) -> Trial | None:
    """The trial of the current release; only a start by the keeper ends it."""
    trial = load_trial(site.prefix)
    return trial if trial is not None and trial.release == site.named("current") else None


def _returned(site: Site) -> Returned | None:
    """The return to the current release, if the keeper made it the current one."""
    returned = load_returned(site.prefix)
    return returned if returned is not None and returned.to == site.named("current") else None


def _trials(site: Site) -> Iterator[str]:
    """What the keeper does about the current release, or has done."""
    if (trial := _trial(site)) is not None:
        way_back = f"release {trial.back_to} is served again if it does not become ready"
        if site.receipt(trial.back_to) is None:
            way_back = f"release {trial.back_to}, which was served before, is no longer installed"
        yield f"on trial  {trial.release}, {trial.starts} of {MOST_STARTS} starts; {way_back}"
    if (returned := _returned(site)) is not None:
        yield f"returned  {returned.left} {returned.why}, so {returned.to} is served again since {returned.at}"


def _faults(site: Site, survey: Survey, damaged: Damaged) -> Iterator[str]:
    for cost in survey.releases:
        if cost.fault is not None:
            yield f"FAIL  {cost.fault}  {_size(cost)}"
        elif cost.receipt is not None and is_unlisted(site.release(cost.version), cost.receipt):
            found, _, remedy = UNLISTED.partition(": ")
            yield f"FAIL  release {cost.version} cannot be checked: {found}"
            yield f"      to do: {remedy}"
        elif cost.version in damaged:
            yield f"FAIL  release {cost.version} is not as it was installed: {damage(damaged[cost.version])}"
            yield "      to do: `installer repair` with its archive, or install the archive again"
    for sentence in survey.links:
        yield f"FAIL  {sentence}"
        yield "      to do: `installer rollback --to VERSION`, or install an archive"


def _rest(survey: Survey) -> Iterator[str]:
    for other in survey.others:
        yield f"besides   {other.path}  {counted_bytes(other.size_bytes)}  {other.what}"
    state = "not readable for this user" if survey.state_bytes is None else counted_bytes(survey.state_bytes)
    yield f"store {counted_bytes(survey.store_bytes)}, state {state}, altogether {counted_bytes(survey.total_bytes)}"


def _size(cost: ReleaseCost) -> str:
    return f"{counted_bytes(cost.size_bytes)} ({counted_bytes(cost.own_bytes)} of its own)"


def _typed(allowed: tuple[str, ...]) -> list[str]:
    return [f"--{name}" if name == "switch-product" else f"--allow-{name}" for name in allowed]


def _body(site: Site, survey: Survey, damaged: Damaged) -> dict[str, object]:
    releases = [
        {**asdict(cost.receipt), "disk_bytes": cost.size_bytes, "own_disk_bytes": cost.own_bytes}
        for cost in survey.releases if cost.receipt is not None
    ]  # fmt: skip
    return {
        "current": site.pointed("current"),
        "previous": site.pointed("previous"),
        "releases": releases,
        "damaged": {version: [asdict(d) for d in found] for version, found in damaged.items()},
        "unusable": {cost.version: cost.fault for cost in survey.releases if cost.fault is not None},
        "links": list(survey.links),
        "trial": None if (trial := _trial(site)) is None else asdict(trial),
        "returned": None if (returned := _returned(site)) is None else asdict(returned),
        "besides": [asdict(other) for other in survey.others],
        "store_bytes": survey.store_bytes,
        "state_bytes": survey.state_bytes,
        "total_bytes": survey.total_bytes,
    }
