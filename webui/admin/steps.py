"""What leads from the first link to a running site. Each step is read from how the site stands, not ticked by hand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from flask import url_for

from appliance.audit.checkpoint import integrity
from appliance.people.accounts import Role
from appliance.transport import Transport
from webui.admin.alarms import Alarm
from webui.markings import known_markings
from webui.services import Services


@dataclass(frozen=True)
class Step:
    """One step. ``words`` say how it stands; ``where`` is the page that takes it, None where no page does."""

    title: str
    is_done: bool
    words: str
    where: str | None = None


def steps_left(found: list[Step]) -> int:
    """How many steps are still to be taken."""
    return sum(not step.is_done for step in found)


def steps(service: Services, alarms: Sequence[Alarm]) -> Iterator[Step]:
    """Every step in its order. Args: alarms: those that stand now."""
    yield _marking(service)
    yield from _people(service)
    yield _transport(service)
    yield _checkpoint(service)
    stand = "1 stands" if len(alarms) == 1 else f"{len(alarms)} stand"
    words = f"{stand} on their page, each with what to do." if alarms else "There are none."
    yield Step("Alarms", not alarms, words, url_for("admin.alarms"))


def _marking(service: Services) -> Step:
    known = known_markings()
    if known:
        words = f"The site has {len(known)}, from {known[0].name} to {known[-1].name}."
        return Step("Markings", True, words, url_for("admin.markings"))
    if service.config.banner_text:
        words = f"Every page has the banner “{service.config.banner_text}”; conversations carry no markings."
        return Step("Markings", True, words, url_for("admin.markings"))
    words = "Pages carry neither markings nor a banner. Make a list of markings, or set the banner among the settings."
    return Step("Markings", False, words, url_for("admin.markings"))


def _people(service: Services) -> Iterator[Step]:
    people = [user for user in service.accounts.list_users() if not user.disabled]
    users, reviewers, admins = (
        [user.name for user in people if role in user.roles] for role in (Role.USER, Role.REVIEWER, Role.ADMIN)
    )
    where = url_for("admin.index")
    chat = f"{len(users):,} may chat." if users else "Nobody may chat yet. Add people, one by one or from a table."
    yield Step("People who chat", bool(users), chat, where)
    review = f"{', '.join(reviewers[:5])} may read the record." if reviewers else (
        "Nobody may read the record yet. A reviewer should be somebody who is no administrator."
    )  # fmt: skip
    yield Step("A reviewer", bool(reviewers), review, where)
    second = f"There are {len(admins)}." if len(admins) > 1 else (
        "There is one. With a second, neither can make themselves a reviewer, and a lost password locks nobody out."
    )  # fmt: skip
    yield Step("A second administrator", len(admins) > 1, second, where)


def _transport(service: Services) -> Step:
    title, address = "TLS", service.site_url
    match service.transport:
        case Transport.CERTIFICATE:
            return Step(title, True, f"{address} has your organisation's certificate.", url_for("admin.alarms"))
        case Transport.LOCAL_AUTHORITY:
            words = f"{address} has a certificate of its own authority, which every browser must be told to trust."
            return Step(title, True, words, url_for("admin.alarms"))
        case Transport.PLAIN:
            words = f"{address} is reached without TLS, as the operator has set: passwords cross the network readable."
            return Step(title, False, f"{words} The operator's guide says how a certificate comes in.")
        case _:
            if service.config.proxy_trusted:
                return Step(title, True, "A proxy on this machine ends TLS before the site.")
            words = "The site is reached from this machine alone. The operator's guide opens it to the network."
            return Step(title, False, words)


def _checkpoint(service: Services) -> Step:
    found = integrity(service.record, service.config.state_dir)
    if found.exported_us is not None:
        return Step("First checkpoint off the machine", True, "A checkpoint was exported.", url_for("admin.alarms"))
    words = (
        "A reviewer exports the newest checkpoint on the page Integrity and keeps it elsewhere. Only such a copy "
        "shows a change of the whole record."
    )
    return Step("First checkpoint off the machine", False, words)
