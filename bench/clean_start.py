"""What comparing an installed release costs: `python -m bench.clean_start --release SITE/current` prints one JSON line.

code_s         comparing all code, as every process of the appliance does when it starts; the best of --repeat
data_s         comparing the rest, as `serve` and `doctor` do besides: weights by size and time
code_cpu_s     processor time of the first, of all threads
whole_s        comparing everything by digest, weights included, as the recorder does slowly
hash_s         SHA-256 of as many bytes as the code has, in memory and in one thread: the reference for code_s
code_to_hash   code_s against hash_s
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

from installer.formats.manifest import Difference, compare_code, compare_data, load_manifest


def best_s(work: Callable[[], object], repeat: int) -> float:
    """The shortest of several runs; the first one warms the page cache."""
    times = []
    for _ in range(repeat + 1):
        began_s = time.perf_counter()
        work()
        times.append(time.perf_counter() - began_s)
    return min(times[1:])


def measure(release: str, repeat: int) -> dict[str, object]:
    manifest = load_manifest(release)
    sizes = {path: entry.size_bytes for path, entry in manifest.files.items()}
    code_bytes = sum(size for path, size in sizes.items() if path.startswith("venv/"))
    memory = bytes(code_bytes)

    def code() -> tuple[Difference, ...]:
        return compare_code(release, manifest)

    def whole() -> tuple[Difference, ...]:
        return code() + compare_data(release, manifest, hash_all=True)

    if found := code() + compare_data(release, manifest):
        raise SystemExit(f"{release} is not as it was installed: {found[0]}")
    code_s, hash_s = best_s(code, repeat), best_s(lambda: hashlib.sha256(memory).digest(), repeat)
    cpu_s = time.process_time()
    code()
    cpu_s = time.process_time() - cpu_s
    return {
        "cores": os.cpu_count(), "files": len(sizes), "code_bytes": code_bytes,
        "bytes": sum(sizes.values()), "code_s": round(code_s, 3), "code_cpu_s": round(cpu_s, 3),
        "data_s": round(best_s(lambda: compare_data(release, manifest), repeat), 3),
        "whole_s": round(best_s(whole, 1), 3),
        "hash_s": round(hash_s, 3), "code_to_hash": round(code_s / hash_s, 2),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--release", type=Path, required=True)
    parser.add_argument("--repeat", type=int, default=9)
    options = parser.parse_args()
    print(json.dumps(measure(str(options.release.resolve()), options.repeat)))


if __name__ == "__main__":
    main()
