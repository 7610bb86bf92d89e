"""What verification costs an installation, beside `cp` of the same bytes: `python -m bench.copying --gigabytes 2`.

It writes an archive of random bytes, signed with keys of its own, and then takes turns: `cp` of the archive and a flush
of the copy; the installer's copy into quarantine and store, with every digest compared and every file flushed. Before
each turn the archive's pages leave the page cache. Printed are the seconds of each and their ratio.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from installer.site import open_site
from installer.store import Staging
from installer.verify import DiscardingSink, verify_archive
from tests.installer.archives import Sender, small_files

_SHARD_BYTES = 1 << 28


def evict(*paths: Path) -> None:
    """Write files to the disk and drop their pages from the page cache."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def copy_s(source: Path, copy: Path, *, flush: bool) -> float:
    """Seconds of `cp` of a file that is not in the page cache; the copy is removed again."""
    evict(source)
    began_s = time.perf_counter()
    subprocess.run(["cp", source, copy], check=True)
    if flush:
        subprocess.run(["sync", copy], check=True)
    took_s = time.perf_counter() - began_s
    copy.unlink()
    return took_s


def install_s(archive: Path, root: bytes, prefix: Path) -> float:
    """Seconds until every blob of an archive is verified, in the store and on the disk."""
    evict(archive)
    began_s = time.perf_counter()
    with open_site(prefix) as site, archive.open("rb") as stream:
        staging = Staging(site, lambda release, metadata: None)
        verify_archive(stream, root, sink=staging)
        staging.commit()
    took_s = time.perf_counter() - began_s
    shutil.rmtree(prefix)
    return took_s


def verify_s(archive: Path, root: bytes) -> float:
    """Seconds of a verification that keeps nothing."""
    evict(archive)
    began_s = time.perf_counter()
    with archive.open("rb") as stream:
        verify_archive(stream, root, sink=DiscardingSink())
    return time.perf_counter() - began_s


@contextmanager
def random_archive(work: Path, size_bytes: int) -> Iterator[tuple[Path, bytes]]:
    """An archive of about so many random bytes, and its root; both are removed after the block."""
    work.mkdir(parents=True)
    try:
        sender = Sender.make(work / "sender")
        files = small_files()
        shards = -(-size_bytes // _SHARD_BYTES)
        files |= {f"model/weights-{n:05}.bin": os.urandom(min(size_bytes, _SHARD_BYTES)) for n in range(2, shards + 2)}
        yield sender.archive(files, version=1), sender.root
    finally:
        shutil.rmtree(work)


@click.command()
@click.option("--gigabytes", type=click.FloatRange(min=0.001), default=2.0, show_default=True)
@click.option("--repeat", type=click.IntRange(min=1), default=3, show_default=True)
@click.option("--work", type=click.Path(path_type=Path, file_okay=False), default=Path(".bench"), show_default=True)
def main(gigabytes: float, repeat: int, work: Path) -> None:
    """Compare the installer's copy with cp, as the module's docstring says."""
    work = work / f"copying-{os.getpid()}"
    with random_archive(work, int(gigabytes * 1e9)) as (archive, root):
        times: dict[str, list[float]] = {"cp": [], "cp and sync": [], "verify": [], "install": []}
        for _ in range(repeat):
            times["cp"].append(copy_s(archive, work / "copy", flush=False))
            times["cp and sync"].append(copy_s(archive, work / "copy", flush=True))
            times["verify"].append(verify_s(archive, root))
            times["install"].append(install_s(archive, root, work / "site"))
        click.echo(f"{archive.stat().st_size / 1e9:.2f} GB, {repeat} turns, medians")
        middle = {name: statistics.median(taken) for name, taken in times.items()}
        for name, took_s in middle.items():
            ratio = middle["cp"] / took_s
            click.echo(f"{name:12} {took_s:8.2f} s  {ratio:5.2f} of cp's speed")
        click.echo(f"install against cp and sync: {middle['cp and sync'] / middle['install']:.2f}")


if __name__ == "__main__":
    main()
