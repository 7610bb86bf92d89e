"""Known answers: a few fixed prompts, and the logits that the release's own graph gives for them where it was built.

Before a release becomes current, the installer has it answer the prompts again. A wrong library, a processor without
the operators' instructions or a damaged graph shows then, and not to a user. `appliance selftest` records and compares;
this module chooses the prompts and rounds the logits. installer/formats/known_answers.py defines the file.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

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
from installer.formats.fields import FormatError
from installer.formats.known_answers import FILE, KnownAnswers, encode_known_answers, parse_known_answers

DECIMALS = 3  # coarser than what the order of sums changes, so recordings repeat; far finer than the tolerance
PROMPTS = (
    "What are you?",
    "How do I verify an archive before I install it?",
    "Write a short poem about a quiet network.",
    "Wie viele Einwohner hat Lissabon? Antworte in einem Satz.",
)


def encode_prompts(vocabulary_size: int) -> list[list[int]]:
    """The prompts as Harmony token ids, up to where the assistant answers. They hold no date, because it would change.

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
        answers = rounded_answers(recorded.read_bytes(), prompts)
    (release / FILE).write_bytes(encode_known_answers(answers))


def rounded_answers(data: bytes, prompts: list[list[int]]) -> KnownAnswers:
    """Check a recording against the prompts and round its logits.

    Raises:
        KnownAnswersError: it is no file of known answers, or not that of these prompts.
    """
    try:
        recorded = parse_known_answers(data)
    except FormatError as exc:
        raise KnownAnswersError(f"`appliance selftest` recorded something else than known answers: {exc}") from exc
    if [case.prompt_ids for case in recorded.cases] != prompts:
        raise KnownAnswersError("`appliance selftest` did not record every prompt")
    cases = (replace(case, top_logits=[round(value, DECIMALS) for value in case.top_logits]) for case in recorded.cases)
    return KnownAnswers(tuple(cases), recorded.tolerance)
