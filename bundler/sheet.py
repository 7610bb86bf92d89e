"""The carrying sheet: one page to print, which goes with the media but not on them.

It says what to carry and how to check it, with the exact commands. It is one HTML file without script and without any
other file. Text from the release is escaped.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from bundler.keys import INSTALLER_KEY, ROOT
from bundler.kit import KIT
from installer.fingerprint import spoken

_STYLE = """\
@page { size: A4; margin: 14mm }
body { font: 10.5pt/1.35 "Liberation Sans", Arial, sans-serif; color: #000; background: #fff }
body { max-width: 182mm; margin: 8mm auto }
@media print { body { margin: 0 } }
h1 { font-size: 16pt; margin: 0 0 1mm }
h2 { font-size: 11.5pt; margin: 5mm 0 1.5mm; border-bottom: 0.4mm solid #000 }
p { margin: 0 0 1.5mm }
table { border-collapse: collapse; width: 100% }
th { text-align: left; font-weight: 600; width: 70% }
td, th { padding: 0.6mm 3mm 0.6mm 0; vertical-align: top }
td.size { text-align: right; white-space: nowrap }
.digest, pre, .words { font-family: "Liberation Mono", "DejaVu Sans Mono", monospace }
.digest { font-size: 9pt; word-spacing: -0.3ch }
.words { font-size: 12pt; line-height: 1.45 }
pre { font-size: 7.5pt; background: #f1f1f1; padding: 1.5mm 2mm; margin: 0 0 2mm }
pre { white-space: pre-wrap; break-inside: avoid }
.sign td { border-bottom: 0.2mm solid #000; height: 8mm; width: 33% }
"""


@dataclass(frozen=True)
class Carried:
    """A file with what tells it from any other."""

    name: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class Sheet:
    """What the page says."""

    release: str  # name and version
    model: str
    pythons: tuple[str, ...]
    valid_until: str  # ISO 8601
    archive: str  # the name that the commands give
    files: tuple[Carried, ...]  # on the media
    by_another_way: tuple[Carried, ...]  # root.json and the key of the kit
    fingerprint: str  # of root.json, hexadecimal


def check_commands() -> list[str]:
    """The commands that check the kit before any of it runs. Each ends with 0 or the kit must not be used."""
    return [
        f"sha256sum -c {KIT}.sha256",
        f"openssl pkeyutl -verify -pubin -inkey {INSTALLER_KEY} -rawin -in {KIT} -sigfile {KIT}.sig",
    ]


def install_commands(archive: str, prefix: str = "/srv/gpt-oss") -> list[str]:
    """The commands that verify and install the archive with the kit."""
    archive, prefix = shlex.quote(archive), shlex.quote(prefix)
    return [
        f"python3 {KIT} verify {archive} --root {ROOT}",
        f"python3 {KIT} install {archive} --root {ROOT} --prefix {prefix}",
    ]


def encode_sheet(sheet: Sheet) -> str:
    """The page."""
    lines = "<br>".join(escape(line) for line in spoken(sheet.fingerprint))
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>Carrying sheet: {escape(sheet.release)}</title>
<style>
{_STYLE}</style>
</head>
<body>
<h1>{escape(sheet.release)}</h1>
<p>{escape(sheet.model)}. For Python {escape(_listed(sheet.pythons))}.
Signatures valid until {escape(sheet.valid_until[:10])}.</p>
<h2>On the media (name, size, SHA-256)</h2>
{_table(sheet.files)}
<h2>By another way than the media</h2>
<p>Whoever can exchange both the media and these two files can exchange everything.</p>
{_table(sheet.by_another_way)}
<h2>Fingerprint of root.json</h2>
<p>Read it to the sender over the telephone. <code>bundler keygen</code> printed it there, and
<code>installer verify</code> prints it here.</p>
<p class="words">{lines}</p>
<p class="digest">{_grouped(sheet.fingerprint)}</p>
<h2>On the isolated host</h2>
<p>1. Copy the kit and its signature to the host, because media may answer otherwise when they are read again. Check
the copy before you run it. Without openssl, compare what <code>sha256sum {KIT}</code> prints with this page.</p>
<pre class="check">{_commands(check_commands())}</pre>
<p>2. Verify and install. The kit needs Python 3.9 or newer; the release needs one of the Pythons named above.</p>
<pre class="install">{_commands(install_commands(sheet.archive))}</pre>
<h2>Handed over</h2>
<table class="sign"><tr><td>sent by</td><td>carried by</td><td>installed by, date</td></tr></table>
</body>
</html>
"""


def _table(files: Sequence[Carried]) -> str:
    rows = "\n".join(
        f'<tr><th scope="row">{escape(file.name)}</th><td class="size">{file.size_bytes:,} bytes</td></tr>\n'
        f'<tr><td colspan="2" class="digest">{_grouped(file.sha256)}</td></tr>'
        for file in files
    )
    return f"<table>\n{rows}\n</table>"


def _grouped(digest: str) -> str:
    """Hexadecimal digits in groups of eight, which people compare more easily."""
    return " ".join(digest[start : start + 8] for start in range(0, len(digest), 8))


def _listed(pythons: Sequence[str]) -> str:
    return pythons[0] if len(pythons) == 1 else f"{', '.join(pythons[:-1])} or {pythons[-1]}"


def _commands(lines: Sequence[str]) -> str:
    return escape("\n".join(lines))
