"""How much time and memory an extract takes: `python -m bench.extract [--events N] [--erase]` prints one JSON line.

write_s, check_s      writing the extract of all events, and proving it
write_mb, check_mb    the memory that each took beyond what its process had before (each has its own process)
extract_mb            size of the file
erase_s               erasing all contents (with --erase)
longest_append_ms     the longest that another process waited for an append meanwhile
longest_alone_ms      the same in five seconds without an erasure
"""

from __future__ import annotations

import argparse
import io
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from appliance.audit.erasure import erase
from appliance.audit.extract import write_extract
from appliance.audit.extract_check import verify_extract
from appliance.audit.log import AuditLog
from appliance.database.transactions import open_database
from bench.record import ACTOR, append_for, fill


def measured(step: str, url: str, state: Path, events: int) -> dict[str, float]:
    """Run one step in this process; its seconds, and the memory it took beyond what the process had."""
    log = AuditLog(open_database(url))
    path = state / "extract.jsonl"
    if step == "write":
        write_extract(log, state, io.BytesIO(), 1, 1, by=ACTOR)  # so that everything is signed and imported
    before, began_s = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    if step == "write":
        with path.open("wb") as file:
            write_extract(log, state, file, 1, events, by=ACTOR)
    elif step == "check":
        with path.open("rb") as file:
            assert verify_extract(file, (state / "keys" / "audit.pub").read_text()).events == events  # noqa: S101
    else:
        erase(log, 1, events, by=ACTOR, reason="benchmark")
    took_s = time.perf_counter() - began_s
    used = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    return {f"{step}_s": round(took_s, 1), f"{step}_mb": round(used, 1)}


def in_process(step: str, url: str, state: Path, events: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "bench.extract", "--child", step, url, str(state), "--events", str(events)]
    return subprocess.Popen(command, stdout=subprocess.PIPE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=1_000_000, help="how many events to export")
    parser.add_argument("--dir", default=".", help="where the database and the file are made")
    parser.add_argument("--erase", action="store_true", help="also erase all contents afterwards")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        step, url, state = options.child
        print(json.dumps(measured(step, url, Path(state), options.events)))
        return
    with tempfile.TemporaryDirectory(dir=options.dir) as directory:
        url, state = f"sqlite:///{directory}/bench.sqlite3", Path(directory)
        fill(url, options.events)
        result: dict[str, float] = {"events": options.events}
        for step in ("write", "check", *(["erase"] if options.erase else [])):
            if step == "erase":
                result["longest_alone_ms"] = round(append_for(url, 5.0, 1)[1] * 1000)
            child, waited_s = in_process(step, url, state, options.events), 0.0
            while step == "erase" and child.poll() is None:
                waited_s = max(waited_s, append_for(url, 1.0, 1)[1])
            result |= json.loads(child.communicate()[0])
            if step == "erase":
                result["longest_append_ms"] = round(waited_s * 1000)
        result["extract_mb"] = round((state / "extract.jsonl").stat().st_size / 1e6)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
