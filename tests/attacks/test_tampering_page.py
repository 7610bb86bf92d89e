"""docs/tampering.md lists every attack that tests try, how it is refused, and in which words.

The tables below hold what the tests expect, so each row is held by a test of its own. Running
`python -m tests.attacks.test_tampering_page` prints the tables for the page.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pytest

from tests.attacks.tampering_page import documented
from tests.attacks.test_insider_metadata import INSIDERS
from tests.attacks.test_insider_wheels import HOSTILE
from tests.attacks.test_insider_words import DESCRIPTIONS
from tests.attacks.test_tamper import ATTACKS as ARCHIVES
from tests.attacks.test_tamper import said_of
from tests.installer.test_delta import ATTACKS as DELTAS
from tests.installer.test_delta import MALFORMED, SAYS_NOTHING
from tests.installer.test_media import WRONG_MEDIA
from tests.installer.test_prefix import KINDS, MOUNTS, NAMES, PLACES
from tests.installer.test_preflight import HOSTS, MOMENTS
from tests.installer.test_trust_attacks import THEFTS
from tests.installer.test_trust_site import ROOTS
from tests.installer.test_wheels import RECORDS, STRANGERS

Row = tuple[str, str, str]
OUTCOMES = {"FAIL": "preflight: FAIL", "warn": "preflight: warn"}


def names(errors: Iterable[type]) -> str:
    return " or ".join(error.__name__ for error in errors)


def plain(pattern: str) -> str:
    """What a regular expression looks for, as a person reads it."""
    return pattern.replace("\\.", ".").removeprefix("^").replace("|", "or")


def tables() -> Iterator[tuple[str, list[Row]]]:
    yield "Archives", [(attack, names(errors), said_of(attack)) for attack, (errors, _) in ARCHIVES.items()]
    yield (
        "Deltas",
        [
            *((attack, error.__name__, words) for attack, (error, words, _) in DELTAS.items()),
            *((f"a delta member: {case}", "DeltaError", SAYS_NOTHING) for case in MALFORMED),
        ],
    )
    yield "Volumes", [(case, error.__name__, plain(words)) for case, (error, words, _) in WRONG_MEDIA.items()]
    yield "Stolen keys", [(theft, error.__name__, words) for theft, (error, words, _) in THEFTS.items()]
    yield "Metadata of an insider", [(case, e.__name__, words) for case, (e, words, _) in INSIDERS.items()]
    yield (
        "Descriptions of an insider",
        [(f"release.json: {case}", "ReleaseDescriptorError", words) for case, (_, words) in DESCRIPTIONS.items()],
    )
    yield "Roots that come alone", [(case, *told(words)) for case, (_, words) in ROOTS.items()]
    yield (
        "Wheels that are signed and hostile",
        [
            *((f"a wheel brings: {case}", "WheelInstallError", "writes or brings ..") for case in STRANGERS),
            *((f"it holds: {case}", "WheelInstallError", words) for case, (_, words) in HOSTILE.items()),
            *((f"its RECORD: {case}", "WheelInstallError", plain(words)) for case, (_, words) in RECORDS.items()),
        ],
    )
    yield (
        "Places and files",
        [
            *((f"a prefix whose name is wrong: {name}", "PrefixError", "has the character ..") for name in NAMES),
            *((f"a prefix: {case}", "PrefixError", words) for case, (_, words) in PLACES.items()),
            *((f"a prefix: {case}", "PrefixError", words) for case, (_, words) in MOUNTS.items()),
            *(
                (f"an archive or root.json: {case}", "InstallerError", words)
                for case, (_, words) in KINDS.items()
                if words
            ),
        ],
    )
    yield (
        "Hosts",
        [
            *(
                (f"{subject}: {host}", OUTCOMES[outcome], words)
                for host, (_, _, subject, outcome, words) in HOSTS.items()
                if outcome in OUTCOMES
            ),
            *((f"clock: {moment}", "ClockError", words) for moment, (*_, words) in MOMENTS.items() if words),
        ],
    )


def told(sentence: str) -> tuple[str, str]:
    """Class and words of a line that the command prints."""
    name, _, words = sentence.partition(": ")
    return name, words


def line(row: Row) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in row)} |"


TABLES = dict(tables())


@pytest.mark.parametrize("heading", TABLES)
def test_the_page_has_every_row_and_no_other(heading: str) -> None:
    assert documented(heading) == [line(row) for row in TABLES[heading]], "print the tables and put them into the page"


if __name__ == "__main__":
    for heading, rows in TABLES.items():
        print(f"### {heading}\n\n| attack | refused as | words |\n|---|---|---|")
        print("\n".join(map(line, rows)), end="\n\n")
