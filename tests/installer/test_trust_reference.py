"""Our verdicts on metadata against those of python-tuf's own client: what we accept, it accepts.

We refuse more: an archive has one spelling and one version number, and comes whole.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from tuf.api import exceptions as tuf_errors
from tuf.ngclient import Updater, UpdaterConfig
from tuf.ngclient.fetcher import FetcherInterface

from installer.errors import TrustError
from installer.trust import verify_metadata
from tests.installer.archives import NOW
from tests.installer.repository import Repository, accept, forwarded
from tests.installer.test_trust_attacks import OTHER, THEFTS, doubled


class _Members(FetcherInterface):
    """Hands the archive's metadata members to the client as if they were a repository."""

    def __init__(self, members: Mapping[str, bytes]) -> None:
        self._members = members

    def _fetch(self, url: str) -> Iterator[bytes]:
        name = urlsplit(url).path.removeprefix("/")
        if name not in self._members:
            raise tuf_errors.DownloadHTTPError(f"no {name}", 404)
        return iter((self._members[name],))


def reference_accepts(members: Mapping[str, bytes], root: bytes, trust: Path) -> bool:
    config = UpdaterConfig(max_root_rotations=64)
    try:
        Updater(str(trust), "archive:///metadata/", fetcher=_Members(members), config=config, bootstrap=root).refresh()
    except (tuf_errors.RepositoryError, tuf_errors.DownloadError):
        return False
    return True


def ours_accept(members: Mapping[str, bytes], root: bytes, trust: Path) -> bool:
    try:
        verify_metadata(members, root, trust)
    except TrustError:
        return False
    return True


ROLES = ("root", "targets", "snapshot", "timestamp")
ROTATIONS = [(), *((role,) for role in ROLES), ("snapshot", "timestamp"), ("targets", "snapshot", "timestamp")]


@pytest.mark.parametrize("rotated", ROTATIONS, ids=lambda roles: "+".join(roles) or "none")
def test_what_we_accept_the_reference_accepts(rotated: tuple[str, ...], tmp_path: Path) -> None:
    """A site that accepted version 5 is offered archives of each version, from the sender and from thieves."""
    repository = Repository()
    root, thieves = repository.roots[0], [repository.stolen(*roles) for roles in itertools.combinations(ROLES[1:], 2)]
    verified = verify_metadata(repository.members(5), root, None)
    offers = {f"{v} before": repository.members(v) for v in (4, 5, 6)}
    if rotated:
        repository.rotate(*rotated)
    offers |= {f"{v} after": repository.members(v) for v in (4, 5, 6)}
    offers |= {f"theft {n}": thief.members(6, paths=OTHER) for n, thief in enumerate(thieves)}
    offers |= {name: make(repository) for name, (_, _, make) in THEFTS.items()}
    offers["expired"] = repository.members(6, expires={"targets": NOW.replace(year=NOW.year - 1)})
    offers["forwarded"] = forwarded(repository, repository.members(6), 99)
    verdicts = {}
    for number, (name, members) in enumerate(offers.items()):
        ours = ours_accept(members, root, accept(verified, tmp_path / f"{number}-ours"))
        reference = reference_accepts(members, root, accept(verified, tmp_path / f"{number}-reference"))
        verdicts[name] = (ours, reference)
    print(verdicts)
    assert not {name for name, (ours, reference) in verdicts.items() if ours and not reference}
    assert verdicts["6 after"] == (True, True)
    if not rotated:
        assert verdicts["timestamp key: version 2^40"] == (False, True), "the attack works against the reference"
        assert verdicts["timestamp key: version 2^40"] == verdicts["forwarded"]
        assert not any(reference for name, (_, reference) in verdicts.items() if name in ("4 before", "expired"))


def test_the_reference_counts_key_ids(tmp_path: Path) -> None:
    """The attack that `test_one_key_under_two_ids_does_not_meet_a_threshold_of_two` refuses."""
    repository, _ = doubled()
    (tmp_path / "trust").mkdir()
    assert reference_accepts(repository.members(5), repository.roots[0], tmp_path / "trust")
