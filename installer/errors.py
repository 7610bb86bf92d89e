"""Everything the installer refuses or cannot do. One root, one line each; the facts are fields.

Each way in which an archive can be wrong has a class of its own: the operator must react differently (copy it again,
ask the sender, or raise the alarm), and the table in docs/tampering.md names the class.
"""

from __future__ import annotations

_COPY_AGAIN = "copy the archive again, and compare its SHA-256 with the carrying sheet; if it is right, ask the sender"
_ASK_THE_SENDER = "do not use it: ask the sender, by another way than it came, whether it is theirs"


class InstallerError(Exception):
    """Root of every error the installer raises on purpose. ``str()`` is one plain sentence."""

    to_do: str | None = None  # what the operator does, if the sentence does not say it


def told(error: InstallerError) -> str:
    """What a command prints of it: its class, the sentence, and what to do."""
    said = f"{type(error).__name__}: {error}"
    return said if error.to_do is None else f"{said}; {error.to_do}"


# --- the file -------------------------------------------------------------------------------------------------------


class ArchiveError(InstallerError):
    """The archive's bytes are not what its signed metadata and the format require."""


class TruncatedArchiveError(ArchiveError):
    """The file ends inside a member, or before the end-of-archive blocks."""

    def __init__(self, where: str) -> None:
        super().__init__(f"the archive ends too early: {where} is incomplete; copy the file again")
        self.where = where


class TrailingBytesError(ArchiveError):
    """Something follows the end-of-archive blocks."""

    to_do = _COPY_AGAIN

    def __init__(self) -> None:
        super().__init__("the archive has bytes after its end")


class HeaderError(ArchiveError):
    """A tar header, padding or the end blocks are not the bytes that this format prescribes."""

    to_do = _COPY_AGAIN

    def __init__(self, where: str, why: str) -> None:
        super().__init__(f"{where}: {why}")
        self.where = where


class ForbiddenMemberError(ArchiveError):
    """A member is not a plain file: link, device, directory, sparse file or an extended header."""

    to_do = _COPY_AGAIN

    def __init__(self, name: str, kind: str) -> None:
        super().__init__(f"member {name!r} is a {kind}; only plain files are allowed")
        self.name, self.kind = name, kind


class EscapingPathError(ArchiveError):
    """A name leaves the release directory or claims a place that is made on the host."""

    to_do = _COPY_AGAIN

    def __init__(self, path: str, why: str) -> None:
        super().__init__(f"path {path!r} is refused: {why}")
        self.path = path


class DuplicateMemberError(ArchiveError):
    """The same member occurs twice."""

    to_do = _COPY_AGAIN

    def __init__(self, name: str) -> None:
        super().__init__(f"member {name!r} occurs twice")
        self.name = name


class MissingMemberError(ArchiveError):
    """A member that must come here is absent, or comes elsewhere."""

    to_do = _COPY_AGAIN

    def __init__(self, name: str, found: str | None) -> None:
        place = "the archive ends" if found is None else f"{found!r} stands"
        super().__init__(f"member {name!r} is missing: {place} in its place")
        self.name, self.found = name, found


class UnexpectedMemberError(ArchiveError):
    """A member that the signed metadata does not list."""

    to_do = _COPY_AGAIN

    def __init__(self, name: str) -> None:
        super().__init__(f"member {name!r} is not listed in the signed metadata")
        self.name = name


class LimitError(ArchiveError):
    """A count or size exceeds what this version of the format allows."""

    to_do = _COPY_AGAIN

    def __init__(self, what: str, limit: int, actual: int) -> None:
        super().__init__(f"{what} is {actual}, the limit is {limit}")
        self.limit, self.actual = limit, actual


class DigestMismatchError(ArchiveError):
    """A member's bytes are not the signed ones."""

    to_do = _COPY_AGAIN

    def __init__(self, path: str, expected: str, actual: str) -> None:
        super().__init__(f"{path}: expected {expected}, got {actual}")
        self.path, self.expected, self.actual = path, expected, actual


class ReleaseDescriptorError(ArchiveError):
    """release.json is signed but is not a release description this installer understands."""

    to_do = _COPY_AGAIN


class DeltaError(ArchiveError):
    """metadata/delta.json does not say what a delta may leave out."""


class BaseNeededError(ArchiveError):
    """A delta leaves out blobs that the site does not have, or has damaged."""

    def __init__(self, base: str, lacking: int, first: str) -> None:
        super().__init__(
            f"this archive is a delta: {lacking} files must be here already, and are absent or damaged ({first} is the "
            f"first); install the archive of {base}, or repair that release with it if it is here, and then this one"
        )
        self.base, self.lacking, self.first = base, lacking, first


class MediaError(ArchiveError):
    """A medium cannot be read on. What was verified stays in quarantine, and the same command goes on from there."""


class MissingVolumeError(MediaError):
    """A volume is on none of the given media."""

    def __init__(self, name: str, numbers: list[int], count: int, where: str) -> None:
        named = ", ".join(f"{name}.{number:03}" for number in numbers)
        super().__init__(f"{len(numbers)} of {count} volumes are missing: {named}; looked at {where}")
        self.name, self.numbers = name, numbers


class DamagedVolumeError(MediaError):
    """A volume's bytes are not those that its header describes."""

    def __init__(self, path: str, number: int, why: str) -> None:
        super().__init__(f"volume {number} is damaged: {path}: {why}; copy this volume again")
        self.path, self.number = path, number


class VolumeHeaderError(MediaError):
    """A volume's header is damaged, or contradicts those of the other volumes."""

    def __init__(self, path: str, why: str) -> None:
        super().__init__(f"{path}: {why}")
        self.path = path


class ForeignVolumeError(ArchiveError):
    """A volume belongs to another archive than the others."""

    def __init__(self, path: str, name: str, expected: str) -> None:
        super().__init__(f"{path} is a volume of another archive ({name}) than the rest ({expected}); leave it out")
        self.path = path


class RepeatedVolumeError(ArchiveError):
    """Two different files are the same volume."""

    def __init__(self, number: int, one: str, other: str) -> None:
        super().__init__(f"volume {number} is given twice: {one} and {other}; leave one out")
        self.number = number


class AmbiguousMediaError(ArchiveError):
    """The media hold several archives, or none, and no file says which one is meant."""


# --- trust ----------------------------------------------------------------------------------------------------------


class TrustError(InstallerError):
    """The signed metadata cannot be accepted."""


class MalformedMetadataError(TrustError):
    """A metadata file is not the canonical form of TUF metadata."""

    to_do = _ASK_THE_SENDER


class UnknownKeyError(TrustError):
    """The metadata is signed, but by no key that the given root trusts for that role."""

    to_do = _ASK_THE_SENDER


class SignatureError(TrustError):
    """A signature by a trusted key does not fit the metadata, or too few trusted keys signed it."""

    to_do = _ASK_THE_SENDER


class ExpiredError(TrustError):
    """Metadata is past its expiry date, by this host's clock."""


class ClockError(TrustError):
    """This host's clock has lost its time, so nobody can tell whether anything has expired."""


class OlderVersionError(TrustError):
    """The archive's metadata is older than metadata that this site has already accepted."""


class MixedMetadataError(TrustError):
    """Metadata files do not belong together."""

    to_do = _ASK_THE_SENDER


class VersionConflictError(TrustError):
    """The site has accepted other contents under the archive's version number."""


class RevokedKeyError(TrustError):
    """The metadata is signed by a key that a later root has revoked."""


class UnsoundRootError(TrustError):
    """A root's thresholds do not count different Ed25519 keys."""

    to_do = _ASK_THE_SENDER


class TrustLostError(TrustError):
    """The site has releases, but nothing that says which metadata it has accepted."""


class RootUpdateError(TrustError):
    """A root file is not the next root of this site."""


# --- the host -------------------------------------------------------------------------------------------------------


class PreflightError(InstallerError):
    """The host cannot take this release."""


class PlatformError(PreflightError):
    """Machine or C library differ from what the release was built for, or no Python of the host fits."""


class OtherPythonError(PlatformError):
    """The release was built for other Pythons than the one that runs the installer."""

    def __init__(self, pythons: tuple[str, ...], running: str) -> None:
        """
        Args:
            running: such as "CPython 3.9".
        """
        wanted = pythons[0] if len(pythons) == 1 else f"{', '.join(pythons[:-1])} or {pythons[-1]}"
        super().__init__(
            f"the release needs CPython {wanted}, this is {running}: install one of these Pythons (RHEL 9: dnf install "
            "python3.12; Ubuntu 22.04: apt install python3.11), or name one with --interpreter"
        )
        self.pythons = pythons


class SpaceError(PreflightError):
    """Too little free disk space, found before anything was written."""


class PrefixError(PreflightError):
    """The prefix cannot be used: not writable, not a directory, or not a site."""


class OwnerError(PreflightError):
    """The user as whom the appliance should run does not exist, has privileges, or cannot be created here."""


class ReachError(PreflightError):
    """The user as whom the appliance should run cannot reach the prefix or the interpreter."""


class ServiceError(InstallerError):
    """The service of a site cannot be made, changed or started as it was asked for; the release stays installed."""


class StorageFullError(InstallerError):
    """The disk (or a quota or file size limit) became full while writing; what was staged has been removed."""


class BusyError(InstallerError):
    """Another installer holds the prefix."""


class ReleaseConflictError(InstallerError):
    """A different release is already installed under this version."""


class WheelInstallError(InstallerError):
    """The release's wheels cannot be unpacked into its environment."""

    to_do = "ask the sender for an archive with sound packages; nothing was changed here"


class SelfTestError(InstallerError):
    """The assembled release does not give its known answers; it was removed and `current` is unchanged."""


class ReceiptError(InstallerError):
    """An installed release has a receipt by which nothing can be decided."""


class DamagedReceiptError(ReceiptError):
    """receipt.json is not what an installer writes, or is that of another release."""

    def __init__(self, version: str, why: str) -> None:
        super().__init__(f"the receipt of release {version} is damaged: {why}")
        self.version, self.why = version, why


class NewerReceiptError(ReceiptError):
    """A newer installer wrote receipt.json, in a format that this one does not read."""

    def __init__(self, version: str, found: int) -> None:
        super().__init__(
            f"a newer installer installed release {version} (its receipt has format {found}): use that installer"
        )
        self.version, self.found = version, found


class ServedError(InstallerError):
    """The appliance serves what should be removed."""


class ExportError(InstallerError):
    """The record could not be exported before its removal; nothing was removed."""


class ProductError(InstallerError):
    """The archive holds another product than the site serves."""


class PublisherError(InstallerError):
    """The archive comes from another publisher than the site's releases."""


class NoReleaseError(InstallerError):
    """There is no release to show or to go back to."""
