"""llm: the command, with its file of further models."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

CLIENT = "llm"
SETTINGS = (
    "in `extra-openai-models.yaml`: `model_id`, `model_name`, `api_base`, `api_key_name`, `supports_tools: true`, "
    "`supports_schema: true`"
)
FUNCTION = 'def weather(city: str) -> str:\n    "The weather in a city."\n    return f"sunny in {city}"\n'
ASKED = "What is the weather in Paris?"


def llm(site: tuple[str, ...], *options: str) -> str:
    """Run the command with a configuration of its own."""
    base_url, api_key, model = site
    with tempfile.TemporaryDirectory() as home:
        entry = {
            "model_id": "appliance", "model_name": model, "api_base": base_url, "api_key_name": "appliance",
            "supports_tools": True, "supports_schema": True,
        }  # fmt: skip
        Path(home, "extra-openai-models.yaml").write_text(json.dumps([entry]))
        Path(home, "keys.json").write_text(json.dumps({"appliance": api_key}))
        command = [str(Path(sys.executable).with_name("llm")), "-m", "appliance", *options]
        environ = {**os.environ, "LLM_USER_PATH": home}
        done = subprocess.run(
            command, env=environ, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60
        )
    if done.returncode != 0:
        raise RuntimeError(done.stderr.strip())
    return done.stdout.strip()


def stream(*site: str) -> object:
    return llm(site, "Hello")


def answer(*site: str) -> object:
    return llm(site, "--no-stream", "Hello")


def tool(*site: str) -> object:
    return llm(site, "--functions", FUNCTION, ASKED)


def structured(*site: str) -> object:
    return json.loads(llm(site, "--schema", "city str, degrees int", ASKED))


CASES = {"answer": answer, "stream": stream, "tool": tool, "structured: --schema": structured}
