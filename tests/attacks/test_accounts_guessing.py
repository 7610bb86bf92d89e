"""Strangers guess passwords. They must not get far, keep anybody out, or keep the machine busy."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import argon2
import pytest
import sqlalchemy as sa

from appliance.addresses import network_of
from appliance.audit.log import AuditLog
from appliance.database.tables import known_addresses
from appliance.database.tables import sign_in_limits as limits_table
from appliance.database.transactions import Database, open_database
from appliance.errors import ApplianceError
from appliance.people import sign_in_limits
from appliance.people.account_store import AccountStore
from appliance.people.accounts import Accounts, Role, User
from appliance.people.hashing_places import HashingBusyError, HashingPlaces
from appliance.people.passwords import MAX_CHARS, PasswordRuleError, Passwords
from appliance.people.refusal_notes import Due, RefusalNotes
from appliance.people.sign_in import SignIn, SignInError
from appliance.people.sign_in_limits import ACCOUNT, ADDRESS, DEVICE, PAIR, SIGN_INS
from tests.appliance.records import Clock
from tests.waiting import HELD_S, wait_for
from tests.webui.conftest import FAST_PASSWORDS, PASSWORD, SYSTEM, MakeSite, Site
from webui.session import _device_kind

HOME, ELSEWHERE = "10.0.0.2", "10.7.7.7"
WRONG = "a guess"


@dataclass
class Door:
    """A site's sign-in page, with its time in the test's hands."""

    database: Database
    log: AuditLog
    clock: Clock
    accounts: Accounts
    sign_in: SignIn

    def knock(self, name: str = "ada", password: str = WRONG, address: str = HOME, device: str = "") -> User:
        return self.sign_in.authenticate(name, password, via="web", address=address, device=device)

    def is_refused_unseen(self, name: str = "ada", address: str = HOME, device: str = "") -> bool:
        """Guess once. True if the password was not even looked at."""
        try:
            self.knock(name, address=address, device=device)
        except SignInError as exc:
            return exc.retry_after_s > 0
        raise AssertionError("the guess was right")

    def guesses(self, count: int, address: Callable[[int], str], name: str = "ada") -> int:
        """Guess so many times. Returns how many of the passwords were looked at."""
        return sum(not self.is_refused_unseen(name, address(number)) for number in range(count))

    def rows(self) -> int:
        with self.database.read() as connection:
            return connection.scalar(sa.select(sa.func.count()).select_from(limits_table)) or 0


@pytest.fixture
def door(tmp_path: Path, empty_database: Path) -> Iterator[Door]:
    path = tmp_path / "door.sqlite3"
    path.write_bytes(empty_database.read_bytes())
    database = open_database(f"sqlite:///{path}")
    sa.event.listen(database.engine, "connect", lambda connection, _: connection.execute("PRAGMA synchronous = OFF"))
    database.close()
    log, clock = AuditLog(database), Clock()
    store = AccountStore(log, passwords=FAST_PASSWORDS, clock_us=clock)
    yield Door(database, log, clock, Accounts(store), SignIn(store))
    database.close()


def far_away(number: int) -> str:
    return f"203.{number // 65536 % 256}.{number // 256 % 256}.{number % 256}"


@pytest.fixture
def ada(door: Door) -> User:
    return door.accounts.create_user("ada", PASSWORD, [Role.USER], by=SYSTEM)


# A stranger as a weapon


def test_a_thousand_failures_of_one_stranger_keep_nobody_out(door: Door, ada: User) -> None:
    door.guesses(1000, lambda _: ELSEWHERE)
    assert door.knock(password=PASSWORD, address=HOME) == ada


def test_hundreds_of_strangers_do_not_keep_a_known_address_out(door: Door, ada: User) -> None:
    assert door.knock(password=PASSWORD, address=HOME) == ada
    door.guesses(200, far_away)
    assert door.knock(password=PASSWORD, address=HOME) == ada


def test_strangers_at_the_own_address_do_not_keep_a_known_browser_out(door: Door, ada: User) -> None:
    door.knock(password=PASSWORD, address=HOME)
    device = door.sign_in.device_cookie(ada)
    door.guesses(PAIR.burst + 5, lambda _: HOME)
    door.guesses(ACCOUNT.burst + 5, far_away)
    assert door.is_refused_unseen(address=HOME)
    assert door.knock(password=PASSWORD, address=HOME, device=device) == ada
    assert door.knock(password=PASSWORD, address="198.51.100.7", device=device) == ada  # wherever it is carried


def test_failures_for_others_do_not_keep_a_known_address_out(door: Door, ada: User) -> None:
    """A neighbour behind the same proxy tries every name."""
    door.knock(password=PASSWORD, address=HOME)
    for number in range(ADDRESS.burst + 5):
        with pytest.raises(SignInError):
            door.knock(f"name{number}", address=HOME)
    assert door.is_refused_unseen("name9999", HOME)
    assert door.knock(password=PASSWORD, address=HOME) == ada


def test_a_new_browser_waits_a_minute_at_most_for_its_turn(door: Door, ada: User) -> None:
    door.guesses(200, far_away)
    with pytest.raises(SignInError) as caught:
        door.knock(password=PASSWORD, address=HOME)
    assert 0 < caught.value.retry_after_s <= ACCOUNT.every_s
    door.clock.wait(caught.value.retry_after_s)
    assert door.knock(password=PASSWORD, address=HOME) == ada


# Guesses stay slow


def test_ever_new_addresses_guess_no_faster_than_one_a_minute(door: Door, ada: User) -> None:
    looked_at = 0
    for number in range(200):
        looked_at += door.guesses(1, lambda _, n=number: far_away(n))  # type: ignore[misc]
        door.clock.wait(3)
    assert looked_at <= ACCOUNT.burst + 600 // ACCOUNT.every_s


def test_a_slash_64_is_one_address(door: Door, ada: User) -> None:
    assert door.guesses(50, lambda n: f"2001:db8:0:1::{n:x}") == PAIR.burst
    assert door.guesses(1, lambda _: "2001:db8:0:2::1") == 1


@pytest.mark.parametrize(
    ("address", "network"),
    [("10.0.0.2", "10.0.0.2"), ("::ffff:10.0.0.2", "10.0.0.2"), ("2001:db8::1", "2001:db8::/64"),
     ("2001:DB8:0:0:FFFF::9", "2001:db8::/64"), ("fe80::1%eth0", "fe80::/64"), ("::1", "::/64"), ("", "(no address)"),
     ("unix:", "(no address)"), ("10.0.0.2:99", "(no address)")],
)  # fmt: skip
def test_what_counts_as_one_address(address: str, network: str) -> None:
    assert network_of(address) == network


def test_one_address_that_tries_all_names_is_slowed(door: Door) -> None:
    looked_at = sum(not door.is_refused_unseen(f"name{number}", ELSEWHERE) for number in range(100))
    assert looked_at == ADDRESS.burst


def test_a_known_browser_is_slowed_too(door: Door, ada: User) -> None:
    """Somebody who steals the cookie gains one more allowance and no more."""
    device = door.sign_in.device_cookie(ada)
    assert sum(not door.is_refused_unseen(address=far_away(n), device=device) for n in range(100)) == DEVICE.burst


def test_many_at_once_do_not_all_pass(door: Door, ada: User) -> None:
    looked_at: list[bool] = []

    def guess() -> None:
        try:
            looked_at.append(not door.is_refused_unseen(address=ELSEWHERE))
        except HashingBusyError:
            looked_at.append(False)

    threads = [threading.Thread(target=guess) for _ in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(HELD_S)
    assert len(looked_at) == 24
    assert sum(looked_at) <= PAIR.burst


def test_the_owners_sign_in_gives_strangers_no_new_guesses(door: Door, ada: User) -> None:
    door.knock(password=PASSWORD, address=HOME)
    door.guesses(ACCOUNT.burst + 5, far_away)
    assert door.knock(password=PASSWORD, address=HOME) == ada
    assert door.guesses(20, lambda n: far_away(5000 + n)) == 0
    door.clock.wait(ACCOUNT.every_s)
    assert door.knock(password=PASSWORD, address="198.51.100.7") == ada  # from a new place, as a stranger
    assert door.guesses(20, lambda n: far_away(6000 + n)) <= 1


@pytest.mark.parametrize("forged", ["", ".", "x", "x.y", "nonce." + "0" * 64, "\0.\0", "\ud800.\ud800", "a" * 100_000])
def test_a_forged_device_is_a_stranger(door: Door, ada: User, forged: str) -> None:
    door.guesses(ACCOUNT.burst + 5, far_away)
    assert door.is_refused_unseen(address=HOME, device=forged)


def test_the_device_of_one_account_is_a_stranger_to_another(door: Door, ada: User) -> None:
    bob = door.accounts.create_user("bob", PASSWORD, [Role.USER], by=SYSTEM)
    door.guesses(ACCOUNT.burst + 5, far_away)
    assert door.is_refused_unseen(address=HOME, device=door.sign_in.device_cookie(bob))


def test_a_device_ends_with_the_password(door: Door, ada: User) -> None:
    device = door.sign_in.device_cookie(ada)
    door.accounts.set_password(ada.id, "another quite long phrase", by=SYSTEM)
    door.guesses(ACCOUNT.burst + 5, far_away)
    assert door.is_refused_unseen(address=HOME, device=device)
    fresh = door.sign_in.device_cookie(ada)
    assert door.knock(password="another quite long phrase", address=HOME, device=fresh).id == ada.id


@pytest.mark.parametrize("name", ["nobody", "no name!", "x" * 5000, ""])
def test_names_that_do_not_exist_behave_the_same(door: Door, ada: User, name: str) -> None:
    def story(whom: str) -> list[tuple[str, float]]:
        told = []
        for _ in range(PAIR.burst + 2):
            with pytest.raises(SignInError) as caught:
                door.knock(whom, address=ELSEWHERE)
            told.append((str(caught.value), caught.value.retry_after_s))
        return told

    of_ada = story("ada")
    door.clock.wait(3600)
    assert story(name) == of_ada


def test_a_name_that_does_not_exist_is_hashed_and_counted_alike(
    door: Door, ada: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything that takes time is the same: as many hashes, transactions and events."""
    work: list[str] = []
    is_right, write = Passwords.is_right, Database.write

    def watched_is_right(self: Passwords, password: str, encoded: str | None) -> bool:
        work.append("hash")
        return is_right(self, password, encoded)

    def watched_write(self: Database, *, serial: bool = False) -> object:
        work.append("write")
        return write(self, serial=serial)

    monkeypatch.setattr(Passwords, "is_right", watched_is_right)
    monkeypatch.setattr(Database, "write", watched_write)
    done = []
    for name in ("ada", "nobody"):
        work.clear()
        door.is_refused_unseen(name, ELSEWHERE)
        done.append(list(work))
    assert done[0] == done[1] == ["write", "hash", "write"]


# Floods


def test_the_table_stays_small(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sign_in_limits, "_MOST_ROWS", 50)
    door.accounts.create_user("ada", PASSWORD, [Role.USER], by=SYSTEM)
    door.guesses(30, far_away)
    for number in range(60):
        door.is_refused_unseen(f"name{number}", far_away(10_000 + number))
    assert door.rows() <= 53
    assert door.is_refused_unseen("ada", far_away(99_999))  # the account under attack was not forgotten


def test_what_is_full_again_is_forgotten(door: Door) -> None:
    for number in range(20):
        door.is_refused_unseen(f"name{number}", far_away(number))
    door.clock.wait(3600)
    door.is_refused_unseen("last", far_away(77))
    assert door.rows() == 3


def test_an_account_remembers_few_addresses(door: Door, ada: User) -> None:
    for number in range(30):
        door.knock(password=PASSWORD, address=far_away(number))
        door.clock.wait(SIGN_INS.every_s)
    with door.database.read() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(known_addresses)) == 20


def test_refusals_of_one_source_are_few_events_a_minute_with_numbers(door: Door, ada: User) -> None:
    door.guesses(PAIR.burst, lambda _: ELSEWHERE)
    before = door.log.size()
    door.guesses(500, lambda _: ELSEWHERE)
    assert door.log.size() == before + 3  # the first refusal, and their number at ten and at a hundred
    door.clock.wait(61)
    door.knock(password=PASSWORD, address=HOME)
    texts = [door.log.get(n).content for n in range(before + 1, door.log.size() + 1)]
    assert [text.text for text in texts if text] == [
        "too many attempts", *(f"{more} more attempts within a minute, refused unseen" for more in (9, 90, 400)),
    ]  # fmt: skip


def test_refusals_of_many_sources_do_not_flood_the_record(door: Door, ada: User) -> None:
    door.guesses(ACCOUNT.burst, far_away)
    before = door.log.size()
    door.guesses(300, lambda n: far_away(1000 + n))
    assert door.log.size() - before <= 63  # sixty, one for all others, and their number at ten and at a hundred


def test_a_password_longer_than_any_is_not_hashed(door: Door, ada: User, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> bool:
        raise AssertionError("it was hashed")

    monkeypatch.setattr(Passwords, "is_right", never)
    for name in ("ada", "nobody"):
        with pytest.raises(PasswordRuleError):
            door.knock(name, "x" * (MAX_CHARS + 1))
    assert door.log.get(door.log.size()).content is not None


def test_the_form_refuses_a_long_password_and_reads_no_long_body(site: Site) -> None:
    site.add_user("ada")
    browser = site.browser()
    assert browser.post("/sign-in", name="ada", password="x" * 2000).status_code == 400
    assert browser.post("/sign-in", name="ada", password="x" * 100_000).status_code == 413


def test_whoever_has_a_password_does_not_keep_hashing_busy_with_it(door: Door, ada: User) -> None:
    def is_let_in(name: str) -> bool:
        try:
            return door.knock(name, PASSWORD).name == name
        except SignInError:
            return False

    assert sum(is_let_in("ada") for _ in range(SIGN_INS.burst + 10)) == SIGN_INS.burst
    door.accounts.create_user("bob", PASSWORD, [Role.USER], by=SYSTEM)
    assert is_let_in("bob")
    door.clock.wait(SIGN_INS.every_s)
    assert is_let_in("ada")


# Hashing, bounded


def hold_all(places: HashingPlaces, *, known: bool, count: int) -> tuple[threading.Event, list[threading.Thread]]:
    """Occupy so many places until the event is set."""
    let_go, inside = threading.Event(), threading.Semaphore(0)

    def hold() -> None:
        with places.take(known=known):
            inside.release()
            let_go.wait(HELD_S)

    threads = [threading.Thread(target=hold) for _ in range(count)]
    for thread in threads:
        thread.start()
        assert inside.acquire(timeout=HELD_S)
    return let_go, threads


def finish(let_go: threading.Event, threads: list[threading.Thread]) -> None:
    let_go.set()
    for thread in threads:
        thread.join(HELD_S)


@pytest.mark.parametrize(("cores", "total", "strangers"), [(1, 2, 1), (2, 2, 1), (4, 4, 2), (64, 8, 4)])
def test_as_many_at_once_as_there_are_cores_and_half_for_strangers(cores: int, total: int, strangers: int) -> None:
    places = HashingPlaces(None, cores=cores)
    assert (places.total, places.of_strangers) == (total, strangers)


@pytest.mark.parametrize("shared", [False, True], ids=["one process", "several processes"])
def test_strangers_cannot_take_the_last_places(tmp_path: Path, shared: bool) -> None:
    def another() -> HashingPlaces:
        """Locks are the file descriptions', so two of these are to each other what two processes are."""
        return HashingPlaces(tmp_path, cores=2, longest_wait_s=0.05) if shared else places

    places = HashingPlaces(tmp_path if shared else None, cores=2, longest_wait_s=0.05)
    held = hold_all(places, known=False, count=1)
    with pytest.raises(HashingBusyError), another().take(known=False):
        pass
    known = hold_all(another(), known=True, count=1)  # room for one who is known
    with pytest.raises(HashingBusyError), another().take(known=True):
        pass
    finish(*held)
    with another().take(known=False):
        pass
    finish(*known)


def test_a_queue_that_is_full_is_said_at_once() -> None:
    places = HashingPlaces(None, cores=2, longest_wait_s=HELD_S)
    held = hold_all(places, known=False, count=1)
    outcome: list[str] = []

    def come() -> None:
        try:
            with places.take(known=False):
                outcome.append("in")
        except HashingBusyError:
            outcome.append("busy")

    threads = [threading.Thread(target=come) for _ in range(40)]
    for thread in threads:
        thread.start()
    wait_for(lambda: outcome.count("busy") >= 36)
    assert outcome == ["busy"] * 36  # the other four wait
    finish(held[0], held[1] + threads)
    assert outcome.count("in") == 4


def test_a_directory_that_is_gone_is_one_error_and_no_place_is_lost(tmp_path: Path) -> None:
    places = HashingPlaces(tmp_path / "gone", cores=2, longest_wait_s=0.05)
    for _ in range(5):
        with pytest.raises(ApplianceError, match="passwords cannot be checked"), places.take(known=False):
            pass


def test_a_place_comes_back_after_an_error() -> None:
    places = HashingPlaces(None, cores=2, longest_wait_s=0.05)
    for _ in range(5):
        with pytest.raises(ZeroDivisionError), places.take(known=False):
            raise ZeroDivisionError


@pytest.fixture
def crowded(make_site: MakeSite) -> Iterator[Site]:
    """A site whose places for strangers are all taken."""
    site = make_site()
    places = HashingPlaces(None, cores=2, longest_wait_s=0.01)
    passwords = Passwords(argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1), places)
    crowd = SignIn(AccountStore(site.services.record, passwords=passwords))
    object.__setattr__(site.services, "sign_in", crowd)
    held = hold_all(places, known=False, count=places.of_strangers)
    yield site
    finish(*held)


def test_a_flood_leaves_pages_chats_and_known_people_alive(crowded: Site) -> None:
    ada = crowded.add_user("ada")
    stranger = crowded.browser()
    response = stranger.post("/sign-in", name="ada", password=PASSWORD)
    assert response.status_code == 503
    assert int(response.headers["Retry-After"]) > 0
    assert "Too many people are signing in just now." in response.text
    assert stranger.get("/healthz").status_code == 200
    browser = crowded.browser()
    cookie = crowded.services.sign_in.device_cookie(ada)
    browser.client.set_cookie(_device_kind("ada"), cookie)
    assert browser.post("/sign-in", name="ada", password=PASSWORD).status_code == 303
    assert browser.get("/chat").status_code == 200


# The browser


def test_a_browser_that_signed_in_keeps_its_cookie_through_signing_out(site: Site) -> None:
    ada = site.add_user("ada")
    browser = site.browser(ada)
    browser.post("/sign-out")
    for number in range(ADDRESS.burst // 2 + 5):
        for name in ("ada", f"x{number}"):
            site.browser().post("/sign-in", name=name, password="wrong")
    assert site.browser().post("/sign-in", name="ada", password=PASSWORD).status_code == 429
    assert browser.post("/sign-in", name="ADA ", password=PASSWORD).status_code == 303


def test_the_device_cookie_is_kept_from_scripts_and_names_nobody(site: Site) -> None:
    site.add_user("ada")
    response = site.browser().post("/sign-in", name="ada", password=PASSWORD)
    (cookie,) = [line for line in response.headers.getlist("Set-Cookie") if line.startswith("device-")]
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(cookie.split("; "))
    assert "ada" not in cookie
    refused = site.browser().post("/sign-in", name="ada", password="wrong")
    assert not [line for line in refused.headers.getlist("Set-Cookie") if line.startswith("device-")]


def test_guesses_elsewhere_do_not_hinder_a_change_of_the_password(site: Site) -> None:
    ada = site.add_user("ada")
    browser = site.browser(ada)
    for _ in range(30):
        site.browser().post("/sign-in", name="ada", password="wrong")
    form = {"current_password": PASSWORD, "new_password": "another quite long phrase"}
    assert browser.post("/account/password", **form).status_code == 303


def test_a_stolen_session_does_not_guess_the_password_quickly(site: Site) -> None:
    browser = site.browser(site.add_user("ada"))
    form = {"new_password": "another quite long phrase"}
    pages = [browser.post("/account/password", current_password=f"guess {n}", **form).text for n in range(8)]
    assert ["Too many failed attempts" in page for page in pages] == [False] * 5 + [True] * 3


def test_changing_the_password_over_and_over_is_slowed(site: Site) -> None:
    browser, now = site.browser(site.add_user("ada")), PASSWORD
    statuses = []
    for number in range(7):
        new = f"another quite long phrase {number}"
        statuses.append(browser.post("/account/password", current_password=now, new_password=new).status_code)
        now = new
    assert statuses == [303] * 5 + [429] * 2


@pytest.mark.parametrize("refused", [1, 2, 9, 10, 11, 99, 100, 101, 5000])
def test_a_killed_worker_takes_few_of_its_refusals_with_it(refused: int) -> None:
    """It has recorded the first one at once, and at least a tenth of all, in few events."""
    notes = RefusalNotes()
    recorded = [due for number in range(refused) if (due := notes.count("10.0.0.9", number)) is not None]
    told = sum(due.more or 1 for due in recorded)
    assert recorded[0] == Due("10.0.0.9")
    assert told > refused / 10
    assert refused - told <= max(8, refused * 9 // 10)
    assert len(recorded) <= len(str(refused))
    assert sum(more for _, more in notes.ended(10**9)) == refused - told  # none is counted twice, none is missing
