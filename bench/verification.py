"""The cost of checking a million events: `python bench/verification.py [--events N]` prints one JSON line.

built_s            making N prompts with contents, signed every 20,000, by bulk insert
verify             the full verification of events, contents and signatures: wall and CPU seconds, peak memory
integrity_check_s  SQLite's own check of every index
words_s            the comparison of the search index with the contents
export, check      an extract of everything as JSON lines, and its proof
Each part runs in a process of its own, so that its peak memory is its own.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from appliance.audit.event import Actor
from appliance.audit.extract import write_extract
from appliance.audit.extract_check import verify_extract
from appliance.audit.log import AuditLog
from appliance.audit.signer import LogSigner
from appliance.audit.verify import verify_log
from appliance.audit.word_check import check_words
from appliance.database.transactions import Database, open_database
from bench.record import event

ACTOR = Actor("", "bench", "system")
BATCH, SIGNED_EVERY = 5000, 20_000
Part = Callable[[Path, Database], dict[str, object]]


def url(directory: Path) -> str:
    return f"sqlite:///{directory}/database/bench.sqlite3"


def build(directory: Path, count: int) -> None:
    """Make a site whose log has `count` events."""
    database = open_database(url(directory))
    log = AuditLog(database)
    signer = LogSigner(log, directory)
    for start in range(0, count, BATCH):
        with database.write(serial=True) as connection:
            log.append_many_in(connection, [event(n) for n in range(start, min(start + BATCH, count))])
        if (start + BATCH) % SIGNED_EVERY == 0 or start + BATCH >= count:
            signer.sign()
    database.close()


def verify(directory: Path, database: Database) -> dict[str, object]:
    processes = len(os.sched_getaffinity(0))
    report = verify_log(database, directory, processes=processes)
    return {"intact": report.is_intact, "events": report.size, "processes": processes}


def integrity_check(_: Path, database: Database) -> dict[str, object]:
    with database.read() as connection:
        return {"answer": connection.exec_driver_sql("PRAGMA integrity_check").scalar()}


def words(_: Path, database: Database) -> dict[str, object]:
    processes = len(os.sched_getaffinity(0))
    with database.read() as connection:
        return {"faults": len(check_words(connection, is_sqlite=True, database=database, processes=processes))}


def export(directory: Path, database: Database) -> dict[str, object]:
    log = AuditLog(database)
    with (directory / "extract.jsonl").open("wb") as out:
        found = write_extract(log, directory, out, 1, log.size(), by=ACTOR)
    return {"events": found.last, "mib": (directory / "extract.jsonl").stat().st_size >> 20}


def check(directory: Path, _: Database) -> dict[str, object]:
    key = (directory / "keys" / "audit.pub").read_text()
    with (directory / "extract.jsonl").open("rb") as file:
        proven = verify_extract(file, key)
    return {"events": proven.events, "complete": proven.is_complete}


def measured(part: Part, directory: Path) -> dict[str, object]:
    """The part's result, with its time and memory, its own processes included."""
    began_s = time.perf_counter()
    database = open_database(url(directory))
    try:
        said = part(directory, database)
    finally:
        database.close()
    wall_s = time.perf_counter() - began_s
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cpu_s = sum(one.ru_utime + one.ru_stime for one in used)
    peak_mib = max(one.ru_maxrss for one in used) >> 10
    return {**said, "wall_s": round(wall_s, 2), "cpu_s": round(cpu_s, 2), "peak_mib_of_a_process": peak_mib}


def apart(part: Part, directory: Path) -> dict[str, object]:
    """`measured` in a fresh process."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(measured, (part, directory))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dir", default=".", help="where the site is made (the disk to be measured)")
    parser.add_argument("--events", type=int, default=1_000_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.dir) as name:
        directory = Path(name)
        began_s = time.perf_counter()
        # A child inherits its parent's peak, so this process stays small.
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            pool.apply(build, (directory, options.events))
        result: dict[str, object] = {"events": options.events, "built_s": round(time.perf_counter() - began_s, 1)}
        result["database_mib"] = (directory / "database" / "bench.sqlite3").stat().st_size >> 20
        for part in (verify, integrity_check, words, export, check):
            result[part.__name__] = apart(part, directory)
        result["cores"], result["free_gib"] = len(os.sched_getaffinity(0)), shutil.disk_usage(directory).free >> 30
    print(json.dumps(result))


if __name__ == "__main__":
    main()
