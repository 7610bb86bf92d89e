"""`appliance doctor`: examines a host and a site and says what is well, what is not, and what to do about it.

It changes no setting. A child process makes the proof of silence, because the proof cannot be undone.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

from appliance.config import Config
from appliance.disk import measured, refusal
from appliance.errors import ApplianceError
from appliance.isolation import Silence, SilenceError, owner_to_become, refuse_root
from appliance.isolation.administration import confine_command
from appliance.isolation.files import places_of
from appliance.isolation.policy import Kind
from appliance.isolation.trial import try_silence
from appliance.runtime.processes import engine_kind
from appliance.runtime.site_lock import is_served
from appliance.transport import Transport, certificate_files, transport_of
from installer.formats.clock import has_lost_its_time
from installer.formats.units import host_of, listening


@dataclass(frozen=True)
class Advice:
    """The result of one check. ``remedy`` is None if there is nothing to do."""

    subject: str
    is_well: bool
    detail: str
    remedy: str | None = None
    is_warning: bool = False  # somebody should know it, but nothing here is wrong


@dataclass(frozen=True)
class Report:
    """All results; ``silence`` is None if the door could not be shut."""

    is_well: bool
    advice: tuple[Advice, ...]
    silence: Silence | None

    def in_json(self) -> dict[str, Any]:
        """The report for a script. The list keeps its name of release 0.1.0."""
        silence = None if self.silence is None else asdict(self.silence)
        return {"is_well": self.is_well, "findings": [asdict(one) for one in self.advice], "silence": silence}

    def lines(self) -> Iterator[str]:
        """The report for a person at a terminal."""
        for one in self.advice:
            mark = "FAIL" if not one.is_well else "warn" if one.is_warning else "ok  "
            yield f"{mark}  {one.subject}: {one.detail}"
            if one.remedy:
                yield f"      to do: {one.remedy}"
        if self.silence is not None:
            yield from silence_lines(self.silence)


def silence_lines(silence: Silence) -> Iterator[str]:
    """The layers and the table of the proof, as docs/silence.md shows them."""
    yield ""
    yield f"Silence on Linux {silence.kernel}, uid {silence.uid}"
    for layer in silence.layers:
        yield f"  {'in force' if layer.in_force else 'missing ':<9} {layer.name}: {layer.detail}"
        if layer.remedy:
            yield f"  {'':<9} to enable: {layer.remedy}"
    yield ""
    yield from proof_lines(silence)


def proof_lines(silence: Silence) -> Iterator[str]:
    """The proof, one line for each attempt: the answers to the programs and to the supervisor, if they made it."""
    yield f"  {'tried':<37} {'programs':<10} supervisor"
    for name in dict.fromkeys(attempt.way for attempt in silence.attempts):
        answers = {attempt.kind: attempt.answer for attempt in silence.attempts if attempt.way == name}
        told = {answer for kind, answer in answers.items() if kind != Kind.SUPERVISOR}
        yield f"  {name:<37} {' / '.join(sorted(told)):<10} {answers.get(Kind.SUPERVISOR, '-')}"


def examine(config: Config) -> Report:
    """Check everything. A check that fails becomes advice, never an error. Call this before any thread is started.

    A child tries silence as the service would start. Then this process is confined as the site's owner for the rest.

    Raises:
        SilenceError: this process cannot be confined.
    """
    unit = listening(config.home.absolute(), os.geteuid())
    silence, about_silence = _examine_silence(config)
    advice = [about_silence, _examine_user(config)]
    confine_command(config)
    for subject, look in (
        ("release", _look_at_release), ("processor", _look_at_processor), ("memory", _look_at_memory),
        ("record", _look_at_record),
        ("transport", partial(_look_at_transport, unit=unit)),
    ):  # fmt: skip
        try:
            advice.append(Advice(subject, True, look(config)))
        except ApplianceError as exc:
            advice.append(Advice(subject, False, str(exc)))
    advice += [_examine_disk(config), _examine_clock(datetime.now(UTC)), *_advisories(config, datetime.now(UTC))]
    return Report(all(one.is_well for one in advice), tuple(advice), silence)


def _examine_user(config: Config) -> Advice:
    owner = config.state_dir.stat().st_uid
    try:
        refuse_root(config.state_dir)
    except SilenceError as exc:
        return Advice("user", False, str(exc))
    return Advice("user", True, f"the appliance runs as uid {owner}")


def _examine_silence(config: Config) -> tuple[Silence | None, Advice]:
    try:
        places = places_of(config, engine=engine_kind(config))
        become = owner_to_become(config.state_dir)
        silence = try_silence(become=become, programs=places.kinds, places=places)
    except SilenceError as exc:
        return None, Advice("silence", False, str(exc))
    return silence, Advice("silence", True, silence.summary())


def _look_at_release(config: Config) -> str:
    from appliance.installed_release import load_release, verify_vocabulary
    from appliance.runtime.installed import verify_installed

    installed = verify_installed(config.release_dir)
    release = load_release(config.release_dir)
    verify_vocabulary(release.vocabulary)
    graphs = ", ".join(sorted(release.graphs))
    dense = {None: "", "int8": "; attention and head in 8 bits on a CPU", "bf16": "; attention and head as published"}
    compared = "no manifest to compare with" if installed is None else f"{installed.files:,} files as installed"
    converted = "" if release.model.converted is None else f"; {release.model.converted.sentences}"
    about = f"{release.name} {release.version} ({graphs}){dense[release.dense]}{converted}"
    return f"{about}; {compared}; the vocabulary is the known one"


def _look_at_processor(_config: Config) -> str:
    from appliance.engine.host import physical_cores
    from appliance.engine.operators import load_operators

    best, *others = load_operators().paths()
    rest = f" (it also has {', '.join(others)})" if others else "; answers are slow without AVX2"
    return f"CPU answers use {best}{rest}; {physical_cores()} of its cores can be used"


def _look_at_memory(config: Config) -> str:
    """What an engine would serve if it started now, and what the longest conversation takes.

    Raises:
        MemoryPlanError: nothing fits.
    """
    from appliance.engine.memory_needs import read_needs
    from appliance.engine.startup import choose_accelerator, plan_engine
    from appliance.installed_release import load_release

    release = load_release(config.release_dir)
    longest = read_needs(release, choose_accelerator(config, release), config).longest_sentence()
    if is_served(config):
        served = "the engine that runs has what it needs; its log says how many conversations it chose at its start"
    else:
        served = plan_engine(config, release).sentence()
    return f"{served}; {longest}"


def _look_at_record(config: Config) -> str:
    """Check that the database answers and the newest signed checkpoint fits the log.

    Raises:
        DatabaseError, RecordError: the database cannot be used.
        ApplianceError: the log is broken.
    """
    from appliance.audit.checkpoint import integrity
    from appliance.audit.log import AuditLog
    from appliance.database.transactions import as_iso, open_database

    database = open_database(config.database_url)
    try:
        found = integrity(AuditLog(database), config.state_dir)
    finally:
        database.close()
    if found.state == "broken":
        raise ApplianceError(f"the log is broken: {found.fault}; see: appliance audit verify")
    if found.verified_us is None:
        return f"{found.size} events, no checkpoint signed yet"
    if found.ahead:
        raise ApplianceError(f"the newest checkpoint is of {as_iso(found.verified_us)}, after what the clock says now")
    return f"{found.size} events, the first {found.verified_size} signed at {as_iso(found.verified_us)}"


def _look_at_transport(config: Config, unit: str | None = None) -> str:
    """How people reach the address where the appliance listens.

    Args:
        unit: where a socket unit listens for this site, which binds in place of the setting; None without one.
    Raises:
        ApplianceError: without encryption, or with a certificate that clients refuse now or within 30 days.
    """
    from appliance.certificates import load_pair, now_utc

    transport = transport_of(config, config.listen_host if unit is None else host_of(unit))
    by_unit = "" if unit is None else f"the socket unit listens on {unit}: "
    if transport is Transport.PLAIN:
        raise ApplianceError("plain HTTP on a network; remove tls.plain_http, and passwords and prompts are encrypted")
    files = certificate_files(config, transport)
    if files is None:
        return f"{by_unit}plain HTTP on loopback, which no wire carries"
    if transport is Transport.LOCAL_AUTHORITY and not files.certificate.exists():
        return f"{by_unit}TLS with a certificate of this site's own, made at the first start"
    certificate = load_pair(files)
    problem = certificate.problem(now_utc())
    if problem is not None:
        raise ApplianceError(problem)
    names = ", ".join(certificate.names) or "no name"
    return f"{by_unit}TLS with {files.certificate} for {names}, until {certificate.ends:%Y-%m-%d}"


def _examine_disk(config: Config) -> Advice:
    """Check the disks of the record and of ``state/``, which may differ from the disk of the releases."""
    directories = [path for path in (config.record_dir, config.state_dir) if path.exists()] or [config.home]
    use = measured(*directories)
    remedy = "free space there, or make the disk larger; when it is full, nothing is recorded and nothing is answered"
    problem = refusal(config.record_dir)
    if problem is not None:
        return Advice("disk", False, f"{use.words()}; {problem}", remedy)
    return Advice("disk", use.level in ("ok", "warning"), use.words(), None if use.level == "ok" else remedy)


def _examine_clock(now: datetime) -> Advice:
    text = f"{now:%Y-%m-%d %H:%M:%S} UTC"
    if not has_lost_its_time(now):
        return Advice("clock", True, text)
    return Advice("clock", False, text, "set the clock; the record would bear false times")


def _advisories(config: Config, now: datetime) -> Iterator[Advice]:
    """What is known about vulnerabilities of the release's parts: a summary, then one line for each."""
    from appliance.advisories import load_advisories
    from installer.formats.advisories import OLD_DAYS

    try:
        found = load_advisories(config.release_dir)
    except ApplianceError as exc:
        yield Advice("advisories", True, str(exc), "ask the sender for a new archive", is_warning=True)
        return
    if found is None:
        yield Advice("advisories", True, "the release carries no data about vulnerabilities")
        return
    is_old = found.is_old(now)
    remedy = f"ask the sender for a release with newer data than {OLD_DAYS} days" if is_old else None
    yield Advice("advisories", True, found.words(now), remedy, is_warning=is_old or bool(found.affected))
    for one in found.affected:
        yield Advice("advisories", True, str(one), "ask the sender for a newer release", is_warning=True)
