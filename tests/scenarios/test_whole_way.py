"""From a checkpoint to a recorded answer in a browser, through nothing but the real commands, pages and clients."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser import pages
from tests.scenarios.conftest import Installation, Served, command, installed_again, serving

PASSWORD = "correct horse battery staple 7"
QUESTION = "What is this appliance?"


# However fast the model is: at every change of the page, note how long the answer is.
RECORD_GROWTH = """() => {
    window.answerLengths = [];
    new MutationObserver(() => {
        const articles = document.querySelectorAll("article");
        if (articles.length) window.answerLengths.push(articles[articles.length - 1].textContent.length);
    }).observe(document.body, {childList: true, characterData: true, subtree: true});
}"""


@pytest.fixture(scope="module")
def page(browser: Browser, appliance: Served) -> Iterator[Page]:
    """The first administrator, signed in after redeeming the printed link."""
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    pages.redeem(page, appliance.link(), PASSWORD, name="ada")
    page.wait_for_url(lambda url: "/welcome" not in url)
    yield page
    page.close()


@pytest.fixture(scope="module")
def client(page: Page, appliance: Served) -> openai.OpenAI:
    """The official client, with a key made on the account page."""
    page.goto(f"{appliance.url}/account")
    page.get_by_label("What is the new key for?").fill("scenario")
    page.get_by_role("button", name="Make a key").click()
    key = page.locator("[data-new-key]").inner_text()
    return openai.OpenAI(base_url=f"{appliance.url}/v1", api_key=key, max_retries=0, timeout=60)


def test_answer_streams_and_stands_in_the_log_verified(page: Page, appliance: Served) -> None:
    watched = pages.Watched(page, appliance.url)
    page.goto(appliance.url)
    expect(page.get_by_role("heading", name="demo", exact=False)).to_be_visible()
    page.evaluate(RECORD_GROWTH)
    pages.ask(page, QUESTION, effort="High")
    answer = pages.wait_for_answer(page).inner_text()
    lengths = page.evaluate("window.answerLengths")
    assert len(set(lengths)) >= 3, f"the answer did not grow while it was written: {lengths}"
    assert "appliance" in answer.lower()

    rows = pages.open_review(page, appliance.url, text="appliance")
    expect(rows.first).to_be_visible()
    assert QUESTION in "\n".join(rows.all_inner_texts())
    page.goto(f"{appliance.url}/review")
    assert pages.integrity_state(page) == "verified"
    watched.assert_clean()


def test_official_client_gets_models_answers_and_streams(client: openai.OpenAI) -> None:
    model = client.models.list().data[0].id
    whole = client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": "What is MXFP4?"}], temperature=0, seed=7
    )
    text = whole.choices[0].message.content
    assert text is not None
    assert "4" in text
    assert whole.choices[0].finish_reason == "stop"
    pieces = [
        chunk.choices[0].delta.content or ""
        for chunk in client.chat.completions.create(
            model=model, messages=[{"role": "user", "content": "What is MXFP4?"}], temperature=0, seed=7, stream=True
        )
        if chunk.choices
    ]
    assert len([piece for piece in pieces if piece]) > 3
    assert "".join(pieces) == text


def test_an_answer_is_held_to_a_schema_in_the_sealed_engine(client: openai.OpenAI, installation: Installation) -> None:
    """The library that holds it needs no call and no file that the policies refuse."""
    model = client.models.list().data[0].id
    schema = {
        "type": "object", "properties": {"kind": {"enum": ["model", "number format"]}, "bits": {"type": "integer"}},
        "required": ["kind", "bits"], "additionalProperties": False,
    }  # fmt: skip
    answer = client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": "What is MXFP4?"}], temperature=0, seed=7,
        response_format={"type": "json_schema", "json_schema": {"name": "thing", "schema": schema}},
    )  # fmt: skip
    assert answer.choices[0].finish_reason == "stop"
    told = json.loads(answer.choices[0].message.content or "")
    assert (set(told), told["kind"] in ("model", "number format")) == ({"kind", "bits"}, True)
    with sqlite3.connect(installation.site / "state" / "database" / "appliance.sqlite3") as database:
        refused = database.execute("SELECT count(*) FROM audit_events WHERE action = 'attempt_refused'").fetchone()
    assert refused == (0,)


def test_same_seed_gives_the_same_answer(client: openai.OpenAI) -> None:
    model = client.models.list().data[0].id

    def answer(seed: int) -> str | None:
        return client.chat.completions.create(
            model=model, messages=[{"role": "user", "content": "Who are you?"}], seed=seed
        ).choices[0].message.content  # fmt: skip

    assert answer(11) == answer(11)


def test_killed_engine_ends_the_stream_with_an_error_and_comes_back(
    client: openai.OpenAI, appliance: Served, installation: Installation
) -> None:
    model = client.models.list().data[0].id
    stream = client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": "How do I install an archive?"}],
        reasoning_effort="high", stream=True,
    )  # fmt: skip
    next(iter(stream))
    os.kill(appliance.pid_of("appliance.engine.server"), signal.SIGKILL)
    with pytest.raises(openai.APIError):
        for _ in stream:
            pass
    deadline_s = time.monotonic() + 60
    while time.monotonic() < deadline_s:
        try:
            client.chat.completions.create(model=model, messages=[{"role": "user", "content": "Hello"}], max_tokens=4)
            break
        except openai.APIError:
            time.sleep(0.5)
    else:
        pytest.fail("the engine did not come back")
    outcomes = command("appliance", "audit", "verify", "--home", installation.site, "--json")
    assert json.loads(outcomes.stdout)["intact"] is True


def test_audit_commands_prove_and_export_the_log(page: Page, installation: Installation, tmp_path: Path) -> None:
    command("appliance", "audit", "verify", "--home", installation.site)
    evidence = tmp_path / "evidence.json"
    command("appliance", "audit", "export", "--home", installation.site, "--out", evidence)
    assert evidence.stat().st_size > 1000


def test_doctor_finds_a_healthy_site(page: Page, installation: Installation) -> None:
    report = json.loads(command("appliance", "doctor", "--home", installation.site, "--json").stdout)
    assert report["is_well"]
    details = {finding["subject"]: finding["detail"] for finding in report["findings"]}
    assert "attention and head in 8 bits on a CPU" in details["release"]


def test_altered_event_is_named_by_audit_verify(page: Page, installation: Installation, tmp_path: Path) -> None:
    copy = installed_again(installation, tmp_path / "site").site
    with sqlite3.connect(copy / "state" / "database" / "appliance.sqlite3") as database:
        changed = database.execute(
            "UPDATE audit_events SET actor_name = 'somebody else' "
            "WHERE sequence = (SELECT max(sequence) FROM audit_events) - 1"
        )
        assert changed.rowcount == 1
    refused = command("appliance", "audit", "verify", "--home", copy, check=False)
    assert refused.returncode == 1
    assert "event" in (refused.stdout + refused.stderr).lower()


def test_interrupt_ends_every_process(demo: Installation, tmp_path: Path) -> None:
    with serving(installed_again(demo, tmp_path / "site")) as served:
        pids = [served.process.pid, *served.children()]
        assert len(pids) >= 4
        served.process.send_signal(signal.SIGINT)
        assert served.process.wait(timeout=20) == 0
        assert [pid for pid in pids if Path(f"/proc/{pid}").exists()] == []
