"""Known answers: a few fixed prompts, and the logits that the release's own graph gives for them where it was built.

The installer has the release answer them again before it becomes current, so that a wrong library, a processor
without the kernel's instructions or a damaged graph is found then, and not by a user. The recording and the
comparison are the appliance's (`appliance selftest`); this module chooses the prompts and fixes the file's form:

    {"format": 1, "tolerance": 0.01, "cases": [{"prompt_ids": [..], "top_ids": [5 ids], "top_logits": [5 numbers]}]}
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from openai_harmony import (
    Conversation,
    HarmonyEncodingName,
    Message,
    ReasoningEffort,
    Role,
    SystemContent,
    load_harmony_encoding,
)

from bundler.errors import KnownAnswersError

FILE = "known_answers.json"
TOP = 5
DECIMALS = 3  # far below the tolerance, and above what summation order changes: the recording repeats
PROMPTS = (
    "What are you?",
    "How do I verify an archive before I install it?",
    "Write a short poem about a quiet network.",
    "Wie viele Einwohner hat Lissabon? Antworte in einem Satz.",
)


def encode_prompts(vocabulary_size: int) -> list[list[int]]:
    """The prompts as Harmony token ids, each waiting for the assistant. Without a date, which would change them.

    Raises:
        KnownAnswersError: the model's vocabulary is too small to be Harmony's.
    """
    encoding = load_harmony_encoding(HarmonyEncodingName.HARMONY_GPT_OSS)
    system = SystemContent.new().with_reasoning_effort(ReasoningEffort.LOW)
    conversations = (
        Conversation.from_messages(
            [
                Message.from_role_and_content(Role.SYSTEM, system),
                Message.from_role_and_content(Role.USER, prompt),
            ]
        )
        for prompt in PROMPTS
    )
    prompts = [encoding.render_conversation_for_completion(c, Role.ASSISTANT) for c in conversations]
    if max(max(ids) for ids in prompts) >= vocabulary_size:
        raise KnownAnswersError(
            f"the model has {vocabulary_size} tokens, too few for Harmony; --no-known-answers builds without them"
        )
    return prompts


def record_known_answers(release: Path, prompts: list[list[int]]) -> None:
    """Have the release tree's CPU graph answer the prompts and write known_answers.json into it.

    Args:
        release: a complete tree whose release.json says `known_answers: null`.
    Raises:
        KnownAnswersError: `appliance selftest` failed or wrote something else.
    """
    command = Path(sys.executable).with_name("appliance")
    with tempfile.TemporaryDirectory(prefix="bundler-answers-") as scratch:
        prompts_file, recorded = Path(scratch, "prompts.json"), Path(scratch, FILE)
        prompts_file.write_text(json.dumps(prompts))
        arguments = ["selftest", "--release", str(release), "--prompts", str(prompts_file), "--record", str(recorded)]
        try:
            done = subprocess.run(
                [str(command), *arguments], capture_output=True, text=True, errors="replace", check=False
            )
        except OSError as exc:
            raise KnownAnswersError(f"`appliance selftest` cannot be started: {exc.strerror}") from exc
        if done.returncode:
            last = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
            raise KnownAnswersError(f"the known answers could not be recorded: {last}")
        answers = parse_known_answers(recorded.read_bytes(), prompts)
    (release / FILE).write_text(json.dumps(answers, separators=(",", ":"), sort_keys=True) + "\n")


def parse_known_answers(data: bytes, prompts: list[list[int]]) -> dict[str, Any]:
    """Check a recording against the prompts and round its logits.

    Raises:
        KnownAnswersError: it is not the file described above, or holds a number that is not finite.
    """
    try:
        body = json.loads(data)
        cases: list[dict[str, list[Any]]] = [
            {
                "prompt_ids": list(map(int, case["prompt_ids"])),
                "top_ids": list(map(int, case["top_ids"])),
                "top_logits": [round(float(value), DECIMALS) for value in case["top_logits"]],
            }
            for case in body["cases"]
        ]
        tolerance = float(body["tolerance"])
    except (ValueError, KeyError, TypeError) as exc:
        raise KnownAnswersError(f"`appliance selftest` recorded something else than known answers: {exc!r}") from exc
    complete = body["format"] == 1 and [case["prompt_ids"] for case in cases] == prompts
    logits = [value for case in cases for value in case["top_logits"]]
    shaped = all(len(case["top_ids"]) == len(case["top_logits"]) == TOP for case in cases)
    if not complete or not shaped or not all(map(math.isfinite, logits)):
        raise KnownAnswersError("`appliance selftest` did not record every prompt with five finite logits")
    return {"format": 1, "cases": cases, "tolerance": tolerance}
