"""GET /v1/models: the names of the model, how long a conversation may be, and since when it exists."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.fakes import FAKE_STATUS, FakeEngine
from tests.webui.conftest import INSTALLED_S, MODEL, MakeSite, Site
from tests.webui.test_api import Caller, error_of


def caller_of(site: Site) -> Caller:
    return Caller(site, site.add_key(site.add_user("ada")))


def listed(caller: Caller) -> list[dict[str, Any]]:
    body = caller.get("/v1/models").json
    assert body is not None
    assert body["object"] == "list"
    models: list[dict[str, Any]] = body["data"]
    return models


def test_the_longest_conversation_is_the_running_engines(make_site: MakeSite) -> None:
    """The release's limit is another: memory may allow less."""
    assert MODEL.context_tokens != 1234
    site = make_site(FakeEngine(status=replace(FAKE_STATUS, context_tokens=1234)))
    (model,) = listed(caller_of(site))
    lengths = {model[name] for name in ("max_model_len", "context_length", "context_window")}
    assert lengths == {1234}
    assert (model["root"], model["created"]) == (MODEL.id, INSTALLED_S)


def test_without_an_engine_the_model_is_listed_and_nothing_is_guessed(make_site: MakeSite) -> None:
    (model,) = listed(caller_of(make_site(FakeEngine(status=None))))
    assert model["id"] == MODEL.id
    assert not {"max_model_len", "context_length", "context_window"} & set(model)


ALIASES = ("gpt-4o-mini", "openai/gpt-4o", "Qwen2.5:7b@local+x")


def test_each_alias_is_listed_and_answers_as_the_model(make_site: MakeSite) -> None:
    site = make_site(model_aliases=ALIASES)
    caller = caller_of(site)
    assert [(model["id"], model["root"]) for model in listed(caller)] == [
        (name, MODEL.id) for name in (MODEL.id, *ALIASES)
    ]
    for alias in ALIASES:
        assert caller.get(f"/v1/models/{alias}").json == {**listed(caller)[0], "id": alias}
        assert caller.ask(model=alias).json["model"] == MODEL.id  # type: ignore[index]
        streamed = caller.ask(model=alias, stream=True).text
        assert f'"model":"{MODEL.id}"' in streamed
        assert alias not in streamed


def test_an_alias_that_is_the_models_own_id_is_listed_once(make_site: MakeSite) -> None:
    caller = caller_of(make_site(model_aliases=(MODEL.id, "other")))
    assert [model["id"] for model in listed(caller)] == [MODEL.id, "other"]


@pytest.mark.parametrize("name", ["GPT-4o-mini", "gpt-4o-mini ", "gpt-4o", ""])
def test_what_is_no_name_of_the_model_is_not_found(make_site: MakeSite, name: str) -> None:
    caller = caller_of(make_site(model_aliases=("gpt-4o-mini",)))
    assert error_of(caller.ask(model=name)) == (404, "model_not_found", "model")
