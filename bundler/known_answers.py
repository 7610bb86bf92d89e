"""Known answers: what each operator of the release's own graph gives where it is built, for inputs made from a seed.

Before a release becomes current, the installer has it answer again. A wrong library, a processor that computes
something else, a damaged graph or damaged weights show then, and not to a user. `appliance selftest` records and
compares; this module runs it: `record_known_answers` while the tree is made, and `verify_known_answers` on the finished
tree, as the installer will. installer/formats/known_answers.py defines the file.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bundler.errors import KnownAnswersError
from installer.formats.fields import FormatError
from installer.formats.known_answers import FILE, parse_known_answers


def record_known_answers(release: Path) -> None:
    """Have the release tree's CPU graph answer and write known_answers.json into the tree.

    Args:
        release: a complete tree whose release.json says `known_answers: null`.
    Raises:
        KnownAnswersError: `appliance selftest` failed or wrote something else.
    """
    with tempfile.TemporaryDirectory(prefix="bundler-answers-") as scratch:
        recorded = Path(scratch, FILE)
        if (fault := _self_test(release, ["--record", str(recorded)])) is not None:
            raise KnownAnswersError(f"the known answers could not be recorded: {fault}")
        data = recorded.read_bytes()
    try:
        parse_known_answers(data)
    except FormatError as exc:
        raise KnownAnswersError(f"`appliance selftest` recorded something else than known answers: {exc}") from exc
    (release / FILE).write_bytes(data)


def verify_known_answers(release: Path) -> None:
    """Run the self-test of a finished tree, as the installer will run it on the host.

    Raises:
        KnownAnswersError: the tree does not give its known answers.
    """
    if (fault := _self_test(release, [])) is not None:
        raise KnownAnswersError(f"the release fails its self-test and is not signed: {fault}")


def _self_test(release: Path, arguments: Sequence[str]) -> str | None:
    """What `appliance selftest` finds wrong, in one line."""
    command = [str(Path(sys.executable).with_name("appliance")), "selftest", "--release", str(release), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    except OSError as exc:
        raise KnownAnswersError(f"`appliance selftest` cannot be started: {exc.strerror}") from exc
    if not done.returncode:
        return None
    return (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
