"""Runs one program of a user in the environment of its client, and prints what each of its cases gave, as JSON.

    python run_program.py PROGRAM BASE_URL API_KEY MODEL

What a case returns or raises is printed, not judged: the tests judge it.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import sys
from pathlib import Path
from typing import Any


def outcome(case: Any, *site: str) -> dict[str, Any]:
    """The value of a case, or its error with the errors that led to it."""
    try:
        return {"value": case(*site)}
    except Exception as error:
        chain: list[BaseException] = [error]
        while (cause := chain[-1].__cause__) is not None:
            chain.append(cause)
        return {"error": " <- ".join(f"{type(error).__name__}: {error}" for error in chain)[:1000]}


def main() -> None:
    path, *site = sys.argv[1:]
    program = Path(path)
    sys.path.insert(0, str(program.parent))  # as Python does when a user runs the program
    module = importlib.import_module(program.stem)
    cases = {name: outcome(case, *site) for name, case in module.CASES.items()}
    report = {
        "client": module.CLIENT,
        "version": importlib.metadata.version(module.CLIENT),
        "settings": module.SETTINGS,
    }
    print("\n" + json.dumps(report | {"cases": cases}), flush=True)


if __name__ == "__main__":
    main()
