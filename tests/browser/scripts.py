"""What the fake engine says in the browser tests, in steps, so that a test can look at an unfinished answer."""

from __future__ import annotations

import threading
from collections.abc import Iterable

from appliance.turns.events import AnswerDelta, ReasoningDelta, Started, TurnEvent
from appliance.turns.request import TurnRequest
from tests.fakes import done
from tests.waiting import HELD_S

RICH_ANSWER = """\
Checking the archive takes **three steps**, and each can fail only loudly.

1. Compare the root key with the one you were given on paper.
2. Run `installer verify`:

```bash
installer verify gpt-oss-0.1.0.airgap --root root.json   # reads the medium once
```

3. Read what it prints.

| Check | What it proves | Time |
|---|---|--:|
| Signature | the metadata is ours | 0.1 s |
| Digests | every byte is the one signed | 41.0 s |
| Versions | nothing older comes back | 0.1 s |

The digest of a file is a number below $2^{256}$, and two files share one with probability

$$p \\approx \\frac{n^2}{2^{257}}$$

```python
def is_plausible(size_bytes: int) -> bool:
    \"\"\"Whether a shard may be this large.\"\"\"
    return 0 < size_bytes <= 1 << 30  # one GiB
```

> What is not signed is not used.
"""
REASONING = (
    "The person asks how to check the archive. The installer does it while it copies. "
    "I should name the steps in order, give the command, and say what each check proves."
)


class Pace:
    """The engine's script: a rich answer, or the question itself after the word ECHO. While held it waits half-way."""

    def __init__(self) -> None:
        self._gate = threading.Event()
        self._gate.set()

    def hold(self) -> None:
        """Stop each answer after its first words."""
        self._gate.clear()

    def release(self) -> None:
        self._gate.set()

    def script(self, request: TurnRequest) -> Iterable[TurnEvent]:
        """The events of one turn."""
        asked = request.messages[-1].content
        answer = asked.removeprefix("ECHO ") if asked.startswith("ECHO ") else RICH_ANSWER
        first, _, rest = answer.partition("\n")
        yield Started(prompt_tokens=48, queued_s=0.0)
        for word in REASONING.split(" "):
            yield ReasoningDelta(word + " ")
        yield AnswerDelta(first + "\n")
        self._gate.wait(HELD_S)
        for line in rest.splitlines(keepends=True):
            yield AnswerDelta(line)
        yield done(prompt_tokens=48, completion_tokens=412, reasoning_tokens=41, decode_s=3.9, prefill_s=0.2)
