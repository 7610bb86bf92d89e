"""One key with forty requests in flight turns nobody else away: official clients, real web, real scheduler.

The model is a fake that stands still until it is let go, so that what waits is known and not a matter of time.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import openai
import pytest

from appliance.audit.log import AuditLog
from appliance.config import init_state
from appliance.database.transactions import open_database
from appliance.engine.harmony import Vocabulary
from appliance.engine.sampling import TopLogits
from appliance.engine.scheduler import Scheduler
from appliance.engine.server import EngineServer
from appliance.engine.steps import Append
from appliance.people.account_store import AccountStore
from appliance.people.accounts import Accounts, Role
from appliance.people.api_keys import ApiKeys
from tests.appliance.engine.conftest import vocabulary, vocabulary_file  # noqa: F401 - fixtures
from tests.fakes import FAKE_STATUS, FakeModel
from tests.webui.conftest import FAST_PASSWORDS, SYSTEM
from tests.webui.served import gunicorn, write_release

ATTACKERS, SLOTS, PLACES, PLACES_EACH = 40, 2, 8, 3
LIMIT_S = 60.0


class GatedModel(FakeModel):
    """Answers every prompt with ``reply``, and decodes nothing before ``go`` is set."""

    def __init__(self, reply: Sequence[int]) -> None:
        super().__init__({}, slots=SLOTS)
        self.reply, self.go = list(reply), threading.Event()

    def prefill(self, slot: int, tokens: Sequence[int], past: int, *, want_logits: bool) -> TopLogits | None:
        if want_logits:
            self.replies[(*self.held[slot][:past], *tokens)] = self.reply
        return super().prefill(slot, tokens, past, want_logits=want_logits)

    def decode(self, appends: Sequence[Append]) -> list[TopLogits]:
        assert self.go.wait(LIMIT_S)
        return super().decode(appends)


class Engine:
    """The engine's server in this process."""

    def __init__(self, vocabulary: Vocabulary) -> None:  # noqa: F811
        text = "<|channel|>final<|message|>Good morning.<|return|>"
        self.model = GatedModel(vocabulary.encoding.encode(text, allowed_special="all"))
        self.web, self._bell = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.scheduler = Scheduler(self.model, vocabulary, queue_limit=PLACES, user_limit=PLACES_EACH)
        self._server = EngineServer(self._bell, self.scheduler, vocabulary, lambda: FAKE_STATUS)
        self._thread = threading.Thread(target=self._server.run)
        self._thread.start()

    def wait_for(self, turns: int) -> None:
        """Wait until so many turns have a slot or a place in the queue. While the model stands still, it gets no second
        turn to prefill.
        """
        waited = threading.Event()
        for _ in range(int(LIMIT_S / 0.02)):
            load = self.scheduler.load()
            if load.active + load.queued == turns:
                return
            waited.wait(0.02)
        raise AssertionError(f"{load}, not {turns}")

    def close(self) -> None:
        self.model.go.set()
        self._server.stop()
        self._thread.join()
        self.web.close()
        self._bell.close()


class Asked(threading.Thread):
    """One request of a client in a thread of its own, and its outcome."""

    def __init__(self, client: openai.OpenAI) -> None:
        super().__init__()
        self.client = client
        self.answer: str | None = None
        self.refused: openai.RateLimitError | None = None
        self.start()

    def run(self) -> None:
        try:
            answer = self.client.chat.completions.create(
                model="gated", messages=[{"role": "user", "content": "Hello"}], seed=1
            )
            self.answer = answer.choices[0].message.content
        except openai.RateLimitError as exc:
            self.refused = exc


@pytest.fixture
def engine(vocabulary: Vocabulary) -> Iterator[Engine]:  # noqa: F811
    engine = Engine(vocabulary)
    yield engine
    engine.close()


@contextmanager
def clients(home: Path, engine: Engine, names: Sequence[str]) -> Iterator[list[openai.OpenAI]]:
    """A client with a key of its own for each person of one appliance."""
    init_state(home)
    write_release(home / "current", "gated")
    database = open_database(f"sqlite:///{home}/state/database/appliance.sqlite3")
    record = AuditLog(database)
    accounts, keys = Accounts(AccountStore(record, passwords=FAST_PASSWORDS)), ApiKeys(database, record)
    people = [accounts.create_user(name, None, [Role.USER], by=SYSTEM) for name in names]
    secrets = [keys.create(one, "test", by=SYSTEM)[1] for one in people]
    database.close()
    with gunicorn(home, engine.web, threads=48) as port:
        url = f"http://127.0.0.1:{port}/v1"
        made = [openai.OpenAI(base_url=url, api_key=key, max_retries=0, timeout=LIMIT_S) for key in secrets]
        yield made
        for client in made:
            client.close()


def test_forty_requests_of_one_key_give_nobody_else_a_429(tmp_path: Path, engine: Engine) -> None:
    with clients(tmp_path, engine, ["mallory", "ada", "bob"]) as (mallory, ada, bob):
        attack = [Asked(mallory) for _ in range(ATTACKERS)]
        engine.wait_for(SLOTS + PLACES_EACH)
        others = [Asked(client) for client in (ada, bob) for _ in range(PLACES_EACH - 1)]
        engine.wait_for(SLOTS + PLACES_EACH + len(others))
        engine.model.go.set()
        for asked in (*attack, *others):
            asked.join()
        assert [asked.answer for asked in others] == ["Good morning."] * len(others)
        refusals = [asked.refused for asked in attack if asked.refused is not None]
        assert len(refusals) == ATTACKERS - SLOTS - PLACES_EACH
        assert {refused.code for refused in refusals} == {"too_many_waiting"}
        assert all(int(refused.response.headers["Retry-After"]) >= 1 for refused in refusals)
        assert "as many as one person may" in refusals[0].message


def test_a_full_queue_still_has_a_place_for_whoever_has_none(tmp_path: Path, engine: Engine) -> None:
    crowd = [f"user{number}" for number in range(PLACES // PLACES_EACH + 1)]
    with clients(tmp_path, engine, [*crowd, "ada"]) as (*greedy, ada):
        asked = [Asked(client) for client in greedy for _ in range(PLACES_EACH + SLOTS)]
        engine.wait_for(SLOTS + PLACES)
        late = Asked(ada)
        engine.wait_for(SLOTS + PLACES + 1)
        engine.model.go.set()
        for one in (*asked, late):
            one.join()
        assert late.answer == "Good morning."
