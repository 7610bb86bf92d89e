"""A person's library of prompts: its page, and what the composer's menu lists."""

from __future__ import annotations

from flask import Response, jsonify

from webui.allowances import allowance
from webui.chat.routes import blueprint, demand_room
from webui.prompt_pages import PromptPages
from webui.services import services
from webui.session import demand_user


def _allow(text: str) -> None:
    demand_room()
    allowance().spend_bytes(demand_user().id, len(text.encode(errors="surrogatepass")))


PAGES = PromptPages("prompts.html", "chat.prompts", lambda: demand_user().id, _allow)


@blueprint.get("/chat/prompts")
def prompts() -> Response:
    return PAGES.show(shared=services().prompts.of(None))


@blueprint.get("/chat/prompts/list")
def prompt_list() -> Response:
    """The person's own and the site's, for the menu of the composer."""
    listed = [*services().prompts.of(demand_user().id), *services().prompts.of(None)]
    return jsonify(prompts=[{"title": one.title, "text": one.text, "shared": one.is_shared} for one in listed])


@blueprint.post("/chat/prompts")
def add_prompt() -> Response:
    return PAGES.keep()


@blueprint.post("/chat/prompts/<prompt_id>")
def change_prompt(prompt_id: str) -> Response:
    return PAGES.keep(prompt_id)


@blueprint.post("/chat/prompts/<prompt_id>/remove")
def remove_prompt(prompt_id: str) -> Response:
    return PAGES.remove(prompt_id)
