"""docs/api.md says what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from appliance.engine.token_questions import MOST_OF_ONE_PERSON, MOST_WAITING
from appliance.turns.events import FAILURES
from webui.api import body, completion_body, errors, messages, token_bodies, tools, validation
from webui.api.anthropic import body as anthropic_body
from webui.api.responses import body as responses_body
from webui.serving import refusals
from webui.serving.limits import MAX_BODY_BYTES

PAGE = Path(__file__).parents[2] / "docs" / "api.md"


@pytest.fixture(scope="module")
def page() -> str:
    return PAGE.read_text(encoding="utf-8")


def test_the_table_of_fields_is_the_one_the_server_checks(page: str) -> None:
    tables = {
        "chat/completions": body.FIELDS,
        "completions": completion_body.FIELDS,
        "tokenize": token_bodies.FIELDS,
        "detokenize": token_bodies.DETOKENIZE_FIELDS,
    }
    for address, fields in tables.items():
        section = re.split(rf"^## .*POST /v1/{address}$", page, flags=re.MULTILINE)[1]
        table = section.partition("| field | what is taken |\n|---|---|\n")[2].partition("\n\n")[0]
        assert table.splitlines() == [f"| `{name}` | {sentence} |" for name, sentence in fields.items()]


def test_the_table_of_a_response_is_the_one_the_server_checks() -> None:
    page = (PAGE.parent / "responses.md").read_text(encoding="utf-8")
    table = page.partition("| field | what is taken |\n|---|---|\n")[2].partition("\n\n")[0]
    assert table.splitlines() == [f"| `{name}` | {sentence} |" for name, sentence in responses_body.FIELDS.items()]
    assert f"up to {messages.MAX_MESSAGES:,} items" in page


def test_the_table_of_a_message_is_the_one_the_server_checks() -> None:
    page = (PAGE.parent / "messages.md").read_text(encoding="utf-8")
    table = page.partition("| field | what is taken |\n|---|---|\n")[2].partition("\n\n")[0]
    assert table.splitlines() == [f"| `{name}` | {sentence} |" for name, sentence in anthropic_body.FIELDS.items()]
    assert f"count_tokens takes {', '.join(f'`{name}`' for name in anthropic_body.COUNT_FIELDS)}" in page


def test_every_code_the_sources_raise_is_documented(page: str) -> None:
    documented = set(re.findall(r"`([a-z_]+)`", page.partition("## Errors")[2]))
    sources = Path(errors.__file__).parent.rglob("*.py")
    raised = {code for source in sources for code in re.findall(r'ApiError\(\s*\d+,\s*"([a-z_]+)"', source.read_text())}
    raised |= {failure.api_code for failure in FAILURES.values()} | set(validation.CODES.values())
    raised |= {code for _, code in refusals.CODES.values()}
    assert len(raised) > 15
    assert raised <= documented


def test_the_limits_named_are_the_limits_checked(page: str) -> None:
    assert f"At most {messages.MAX_MESSAGES:,}," in page
    assert f"up to {tools.MAX_TOOLS} functions" in page
    assert f"{MOST_OF_ONE_PERSON} of one person may wait and {MOST_WAITING} of all" in page
    assert f"at most {MAX_BODY_BYTES // 2**20} MiB" in page
