"""How fast the record is: `python bench/record.py [--url URL] [--events N]` prints one JSON line.

append_per_s      durable appends by one process of 16 threads, as the appliance runs by default
append_4x4_per_s  the same by 4 processes of 4 threads each
single_per_s      appends by one thread alone, which the disk bounds
fdatasync_ms      the time of one small durable write, the reference for all three
appends_per_sync  append_per_s over the rate of one append per durable write: what sharing transactions gains
verify_per_s      events per second of a whole verification
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from appliance.audit.details.codec import Details
from appliance.audit.event import Actor, Content, NewEvent
from appliance.audit.log import AuditLog
from appliance.audit.review import Filter, search
from appliance.audit.verify import verify_log
from appliance.database.transactions import open_database

ACTOR = Actor("", "bench", "system")


def event(number: int) -> NewEvent:
    """A prompt of ordinary size: about 60 words."""
    text = f"Question {number}: " + "how does this appliance record what was asked, and who can read it? " * 4
    details = Details(unknown={"conversation": "c", "seed": 1})
    return NewEvent(ACTOR, "prompt", subject=f"turn-{number}", content=Content(text, details))


def append_for(url: str, seconds: float, threads: int) -> tuple[int, float]:
    """The events that `threads` threads append in `seconds`, and the longest wait in s."""
    database = open_database(url)
    log, counts, longest = AuditLog(database), [0] * threads, [0.0] * threads
    end_s = time.perf_counter() + seconds

    def work(thread: int) -> None:
        while (began_s := time.perf_counter()) < end_s:
            log.append(event(counts[thread]))
            counts[thread] += 1
            longest[thread] = max(longest[thread], time.perf_counter() - began_s)

    workers = [threading.Thread(target=work, args=(thread,)) for thread in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    database.close()
    return sum(counts), max(longest)


def append_in_processes(url: str, seconds: float, processes: int, threads: int) -> tuple[float, float]:
    """The events per second of all processes together, and the longest wait in s."""
    command = [sys.executable, __file__, "--url", url, "--seconds", str(seconds), "--child", str(threads)]
    children = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(processes)]
    results = [json.loads(child.communicate()[0]) for child in children]
    return sum(count for count, _ in results) / seconds, max(longest for _, longest in results)


def fdatasync_ms(directory: str) -> float:
    """The median time of 50 small durable writes."""
    times = []
    with tempfile.NamedTemporaryFile(dir=directory) as file:
        for _ in range(50):
            file.write(b"x" * 4096)
            file.flush()
            began_s = time.perf_counter()
            os.fdatasync(file.fileno())
            times.append(time.perf_counter() - began_s)
    return statistics.median(times) * 1000


def fill(url: str, count: int) -> None:
    """Fill the log to `count` events, many per transaction."""
    database = open_database(url)
    log = AuditLog(database)
    for start in range(log.size(), count, 5000):
        with database.write(serial=True) as connection:
            log.append_many_in(connection, [event(n) for n in range(start, min(start + 5000, count))])
    database.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help="database; a new SQLite file if not given")
    parser.add_argument("--dir", default=".", help="where that file is made (the disk to be measured)")
    parser.add_argument("--seconds", type=float, default=5.0, help="how long to append")
    parser.add_argument("--events", type=int, default=100_000, help="how many events to verify")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(append_for(options.url, options.seconds, options.child)))
        return
    with tempfile.TemporaryDirectory(dir=options.dir) as directory:
        url = options.url or f"sqlite:///{directory}/bench.sqlite3"
        sync_ms = fdatasync_ms(directory)
        single = append_for(url, options.seconds, 1)[0] / options.seconds
        shared, longest_s = append_in_processes(url, options.seconds, 1, 16)
        spread, longest_4x4_s = append_in_processes(url, options.seconds, 4, 4)
        fill(url, options.events)
        database = open_database(url)
        report = verify_log(database, Path(directory))
        began_s = time.perf_counter()
        search(AuditLog(database), ACTOR, Filter(text="appliance recor"), before=1 << 60)
        search_ms = (time.perf_counter() - began_s) * 1000
        database.close()
        size = os.path.getsize(url.removeprefix("sqlite:///")) / report.size if url.startswith("sqlite") else None
    print(
        json.dumps(
            {
                "append_per_s": round(shared), "longest_append_ms": round(longest_s * 1000),
                "append_4x4_per_s": round(spread), "longest_append_4x4_ms": round(longest_4x4_s * 1000),
                "single_per_s": round(single), "fdatasync_ms": round(sync_ms, 2),
                "appends_per_sync": round(shared * sync_ms / 1000, 1),
                "verified_events": report.size, "verify_per_s": round(report.size / report.duration_s),
                "intact": report.is_intact, "newest_50_search_ms": round(search_ms, 1),
                "bytes_per_event": None if size is None else round(size),
            }
        )
    )  # fmt: skip


if __name__ == "__main__":
    main()
