"""A whole web application on a fresh SQLite site with a fake engine, and people who sign in to it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType

import argon2
import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from appliance.audit.details.denials import RepeatedDenial
from appliance.audit.event import Actor
from appliance.audit.log import AuditLog, Event
from appliance.config import Config, init_state
from appliance.database.transactions import Database, open_database
from appliance.installed_release import InstalledRelease
from appliance.people.account_store import AccountStore
from appliance.people.accounts import Accounts, Role, User
from appliance.people.api_keys import ApiKeys
from appliance.people.approvals import Approvals
from appliance.people.attachments import Attachments
from appliance.people.conversations import Conversations
from appliance.people.handovers import Handovers
from appliance.people.key_rights import FULL_RIGHTS, KeyRights
from appliance.people.passwords import Passwords
from appliance.people.responses import Responses
from appliance.people.sessions import Sessions
from appliance.people.sign_in import SignIn
from appliance.turns.running import RunningTurns
from installer.formats.release import ModelCard
from tests.fakes import FakeEngine, Gate, InProcessReader
from tests.webui.described_answers import hold_to_descriptions
from webui.app import create_app
from webui.denials import record_counts
from webui.handover import FIELD
from webui.services import Services

PASSWORD = "correct horse battery staple"
SYSTEM = Actor("", "test", "system")
# argon2id at its cheapest: these tests are not about the cost of hashing.
FAST_PASSWORDS = Passwords(argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1))
INSTALLED_S = 1_790_000_000
MODEL = ModelCard(
    id="gpt-oss-fake",
    title="Fake model",
    description="Repeats what you say.",
    context_tokens=4096,
    example_prompts=("One?", "Two?", "Three?", "Four?"),
    notice=None,
)


@dataclass
class Site:
    """One site under test."""

    services: Services
    engine: FakeEngine
    app: Flask

    def add_user(self, name: str, *roles: Role) -> User:
        return self.services.accounts.create_user(name, PASSWORD, roles or (Role.USER,), by=SYSTEM)

    def add_key(self, user: User, rights: KeyRights = FULL_RIGHTS) -> str:
        return self.services.api_keys.create(user, "test", by=SYSTEM, rights=rights)[1]

    def browser(self, user: User | None = None) -> Browser:
        """A browser, signed in as `user`."""
        browser = Browser(self.app.test_client())
        if user is not None:
            response = browser.post("/sign-in", name=user.name, password=PASSWORD)
            assert response.status_code == 303, response.text
        return browser

    def events(self) -> list[Event]:
        """The whole record, oldest first."""
        record = self.services.record
        return [record.get(number) for number in range(1, record.size() + 1)]

    def denials(self) -> list[str]:
        """The codes of all denials, oldest first, each as often as it occurred."""
        record_counts(self.app)
        found = [event.content for event in self.events() if event.header.action == "denied"]
        counts = [(c.text, c.details.count if isinstance(c.details, RepeatedDenial) else 1) for c in found if c]
        return [text.split(",")[0] for text, count in counts for _ in range(count)]


class Browser:
    """A test client that sends forms as our pages do: with Origin and the form token."""

    def __init__(self, client: FlaskClient) -> None:
        self.client = client

    def get(self, path: str) -> TestResponse:
        return self.client.get(path)

    def token(self) -> str:
        """The form token that a page gives this browser, signed in or not."""
        page = self.client.get("/account", follow_redirects=True).text
        found = re.search(r'<meta name="csrf-token" content="([0-9a-f]{64})">', page)
        assert found is not None, page
        return found[1]

    def send(self, path: str, **form: str | list[str]) -> TestResponse:
        """Send a form; the answer itself, which may be a redirect."""
        if "csrf_token" not in form:
            form["csrf_token"] = self.token()
        return self.client.post(path, data=form, headers={"Origin": "http://localhost"})

    def post(self, path: str, **form: str | list[str]) -> TestResponse:
        """Send a form, and see the page that shows what the form left for it, if it left something."""
        response = self.send(path, **form)
        dropped = response.headers.getlist("Set-Cookie")
        if f"{FIELD}=" in response.headers.get("Location", "") or any(c.startswith("refused=ey") for c in dropped):
            return self.client.get(response.headers["Location"])
        return response


MakeSite = Callable[..., Site]


@pytest.fixture(autouse=True)
def without_alarms_of_the_disk(roomy_disk: None) -> None:
    """Keep alarms of this machine's disk off the pages."""


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with its tables, to be copied, because making them takes a while."""
    path = tmp_path_factory.mktemp("database") / "empty.sqlite3"
    database = open_database(f"sqlite:///{path}")
    AuditLog(database)
    database.close()
    return path


@pytest.fixture
def make_site(tmp_path: Path, empty_database: Path) -> Iterator[MakeSite]:
    """Make sites. Keyword arguments change their Config or set the engine."""
    engines: list[FakeEngine] = []
    databases: list[Database] = []
    running_turns: list[RunningTurns] = []

    def make(engine: FakeEngine | None = None, model: ModelCard = MODEL, **changes: object) -> Site:
        home = tmp_path / f"site-{len(engines)}"
        init_state(home)
        engine = engine or FakeEngine()
        engines.append(engine)
        path = home / "state" / "database" / "appliance.sqlite3"
        shutil.copyfile(empty_database, path)
        database = open_database(f"sqlite:///{path}")
        databases.append(database)
        config = Config(home=home, release_dir=home, database_url=str(database.engine.url), **changes)  # type: ignore[arg-type]
        record = AuditLog(database)
        release = InstalledRelease(
            path=home, name="gpt-oss-fake", version="0.0.1", graphs=MappingProxyType({}), config=home, vocabulary=home,
            known_answers=None, dense=None, model=model, installed_s=INSTALLED_S,
        )  # fmt: skip
        conversations = Conversations(database, record)
        turns = RunningTurns(
            home / "state" / "tmp" / "web" / "turns", record, conversations, most_per_person=config.queue_limit_per_user
        )
        running_turns.append(turns)
        store = AccountStore(record, passwords=FAST_PASSWORDS)
        services = Services(
            config=config,
            release=release,
            accounts=Accounts(store),
            approvals=Approvals(store),
            sign_in=SignIn(store),
            sessions=Sessions(database, record, idle_s=config.session_hours * 3600),
            api_keys=ApiKeys(database, record, allow_endless=config.endless_api_keys),
            handovers=Handovers(home / "state" / "tmp" / "web" / "handovers"),
            conversations=conversations,
            responses=Responses(database, record, days=config.response_days),
            attachments=Attachments(database),
            reader=InProcessReader(),
            record=record,
            turns=turns,
            engine=engine.client,
            clock=lambda: datetime.now(UTC),
            listener_url="http://127.0.0.1:8080",
        )
        app = create_app(services)
        undescribed.append(hold_to_descriptions(app))
        return Site(services, engine, app)

    undescribed: list[list[str]] = []
    yield make
    for running in running_turns:
        running.end_all(10)
    for engine in engines:
        engine.close()
    for database in databases:
        database.close()
    assert [fault for faults in undescribed for fault in faults] == []


@pytest.fixture
def gate() -> Iterator[Gate]:
    """The script of an engine that stands still in the middle of each answer; it is let go at the end of the test."""
    gate = Gate()
    yield gate
    gate.go_on.set()


@pytest.fixture
def site(make_site: MakeSite) -> Site:
    """A site with the default settings."""
    return make_site()
