"""The pages say what building changed about the model's weights; of an unchanged model they say nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest

from appliance.people.accounts import Role
from installer.formats.release import Converted
from tests.webui.conftest import MODEL, MakeSite

CONVERTED = Converted("our <tune>", "bfloat16", {"0": 0.09, "1": 0.11}, {"0": 0.02, "1": 0.04}, "float16")
SENTENCES = (
    "The LoRA adapter our &lt;tune&gt; was merged into this model here. This model was requantised here: experts from "
    "bfloat16 to MXFP4, mean relative error 10 %. The adapter changes these experts by 3 %, less than rounding does. "
    "Its other weights were rounded from float16 to bfloat16."
)


@pytest.mark.parametrize(("path", "role"), [("/chat", Role.USER), ("/admin/engine", Role.ADMIN)])
def test_a_requantised_model_is_shown_as_such(make_site: MakeSite, path: str, role: Role) -> None:
    site = make_site(model=replace(MODEL, converted=CONVERTED))
    assert SENTENCES in site.browser(site.add_user("ada", role)).get(path).text


@pytest.mark.parametrize(("path", "role"), [("/chat", Role.USER), ("/admin/engine", Role.ADMIN)])
def test_a_model_as_published_is_not(make_site: MakeSite, path: str, role: Role) -> None:
    site = make_site()
    page = site.browser(site.add_user("ada", role)).get(path)
    assert page.status_code == 200
    assert "requantised" not in page.text
    assert "data-converted" not in page.text
