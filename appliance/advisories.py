"""What the release says of its own vulnerabilities, for `appliance doctor` and the administration page."""

from __future__ import annotations

from pathlib import Path

from appliance.errors import ApplianceError
from installer.formats.advisories import FILE, Advisories, parse_advisories
from installer.formats.fields import FormatError


def load_advisories(release: Path) -> Advisories | None:
    """The release's advisories.json; None if it carries none.

    Raises:
        ApplianceError: it cannot be read.
    """
    try:
        data = (release / FILE).read_bytes()
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise ApplianceError(f"{FILE} of the release cannot be read: {exc.strerror}") from exc
    try:
        return parse_advisories(data)
    except FormatError as exc:
        raise ApplianceError(f"{FILE} of the release is not what it should be: {exc}") from exc
