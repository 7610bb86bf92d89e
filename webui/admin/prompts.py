"""The prompts that administrators share with everybody."""

from __future__ import annotations

from flask import Response

from webui.admin.routes import blueprint
from webui.prompt_pages import PromptPages

PAGES = PromptPages("admin_prompts.html", "admin.prompts", lambda: None)


@blueprint.get("/prompts")
def prompts() -> Response:
    return PAGES.show()


@blueprint.post("/prompts")
def add_prompt() -> Response:
    return PAGES.keep()


@blueprint.post("/prompts/<prompt_id>")
def change_prompt(prompt_id: str) -> Response:
    return PAGES.keep(prompt_id)


@blueprint.post("/prompts/<prompt_id>/remove")
def remove_prompt(prompt_id: str) -> Response:
    return PAGES.remove(prompt_id)
