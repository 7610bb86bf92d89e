"""What the appliance says once, when it is ready: the first administrator's link, its own authority, its address."""

from __future__ import annotations

from appliance.config import Config
from appliance.plain_file import read_plain
from appliance.runtime.readiness import Answer
from appliance.transport import Transport, authority_certificate, pem_fingerprint


class Announcement:
    """Makes the announcement, once a short program has made the link."""

    def __init__(self, config: Config, transport: Transport, url: str) -> None:
        self._config, self._transport, self._url = config, transport, url
        self._first_admin: Answer | None = None

    @property
    def is_asked(self) -> bool:
        """Whether the program that makes the link has been started."""
        return self._first_admin is not None

    def ask(self) -> int:
        """The descriptor to which that program prints; close it once the program has inherited it."""
        self._first_admin = Answer()
        return self._first_admin.fd

    def words(self) -> str | None:
        """The announcement; None until the program has ended."""
        link = None if self._first_admin is None else self._first_admin.text()
        return None if link is None else f"{link}{self._about_authority()}Appliance ready at {self._url}"

    def _about_authority(self) -> str:
        """How people can trust the site's own certificate; empty for other certificates."""
        if self._transport is not Transport.LOCAL_AUTHORITY:
            return ""
        path = authority_certificate(self._config)
        try:
            fingerprint = pem_fingerprint(read_plain(path).decode())
        except FileNotFoundError:
            fingerprint = "not there yet"
        except (OSError, ValueError) as exc:  # the recorder repairs the file; the announcement goes on
            fingerprint = f"not known, because the file cannot be read ({exc})"
        return (
            f"This site's own authority signs its certificate. Give {path} to browsers and clients;\n"
            f"  its SHA-256 fingerprint is {fingerprint}\n"
        )
