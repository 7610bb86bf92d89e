"""litellm: a proxy before the appliance, asked by the OpenAI client."""

import atexit
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from functools import cache
from pathlib import Path

import openai_client

CLIENT = "litellm"
SETTINGS = (
    "in `litellm_params`: `model: openai/ID`, `api_base`, `api_key`; in `general_settings`: `master_key`; "
    "in its environment `LITELLM_LOCAL_MODEL_COST_MAP=True`, or it asks raw.githubusercontent.com for a list of prices"
)


@cache
def start(base_url: str, api_key: str, model: str) -> tuple[subprocess.Popen[bytes], int, str]:
    """Start the proxy once. The value is its process, its port and its key."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    home, master_key = Path(tempfile.mkdtemp()), f"sk-{secrets.token_hex(32)}"
    settings = f"{{model: openai/{model}, api_base: '{base_url}', api_key: '{api_key}'}}"
    models = f"model_list: [{{model_name: {model}, litellm_params: {settings}}}]\n"
    (home / "config.yaml").write_text(f"{models}general_settings: {{master_key: {master_key}}}\n")
    command = [
        str(Path(sys.executable).with_name("litellm")),
        "--config",
        str(home / "config.yaml"),
        "--host",
        "127.0.0.1",
    ]
    environ = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    process = subprocess.Popen(
        [*command, "--port", str(port)], cwd=home, env=environ, stdout=sys.stderr, stdin=subprocess.DEVNULL
    )
    atexit.register(lambda: (process.terminate(), process.wait(20)))
    return process, port, master_key


def proxy(base_url: str, api_key: str, model: str) -> tuple[str, str, str]:
    """What a client of the proxy needs to know, once the proxy listens."""
    process, port, key = start(base_url, api_key, model)
    wait_for(f"http://127.0.0.1:{port}/health/liveliness", process)
    return f"http://127.0.0.1:{port}/v1", key, model


def wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    while process.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=30).close()  # noqa: S310 - our own address
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise RuntimeError("The proxy ended.")


def through(case: object) -> object:
    return lambda *site: case(*proxy(*site))


CASES = {name: through(case) for name, case in openai_client.CASES.items()}
