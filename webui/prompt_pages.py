"""What the two pages of the library have in common: a person's own prompts, and the site's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from flask import Response, make_response, redirect, render_template, request, url_for

from appliance.people.prompts import MAX_TEXT_CHARS, MAX_TITLE_CHARS, PromptError, PromptNotFoundError
from webui import confirm
from webui.confirm import Question
from webui.errors import NotFoundError
from webui.handover import answer, hand_over, take
from webui.services import services
from webui.session import current_actor

_NOTICES: Final = {
    "made": "The prompt is kept.", "changed": "The prompt is changed.", "removed": "The prompt is removed.",
}  # fmt: skip


@dataclass(frozen=True)
class PromptPages:
    """The pages of one library. ``owner`` says whose it is, None for the site's; ``endpoint`` names its list."""

    template: str
    endpoint: str
    owner: Callable[[], str | None]
    allow: Callable[[str], None] = lambda text: None  # called before a text is kept

    def show(self, **more: Any) -> Response:
        """The list, and the form of the prompt that the address names, or of a new one."""
        left, owner = take(), self.owner()
        listed = services().prompts.of(owner)
        edited = next((one for one in listed if one.id == request.args.get("edit")), None)
        title, text = left.get("title", edited.title if edited else ""), left.get("text", edited.text if edited else "")
        page = render_template(
            self.template, prompts=listed, edited=edited, title=title, text=text, error=left.get("error"),
            notice=_NOTICES.get(request.args.get("notice", "")), most_title=MAX_TITLE_CHARS, most_text=MAX_TEXT_CHARS,
            list_endpoint=self.endpoint, **more,
        )  # fmt: skip
        return answer(page, left)

    def keep(self, prompt_id: str = "") -> Response:
        """Keep the form: a new prompt, or another text of this one."""
        title, text = request.form.get("title", ""), request.form.get("text", "")
        library, owner, by = services().prompts, self.owner(), current_actor()
        self.allow(text)
        try:
            if prompt_id:
                library.change(owner, prompt_id, title, text, by=by)
            else:
                library.add(owner, title, text, by=by)
        except PromptNotFoundError:
            raise NotFoundError from None
        except PromptError as exc:
            left = {"status": 400, "error": str(exc), "title": title[:1_000], "text": text[: 2 * MAX_TEXT_CHARS]}
            return hand_over(url_for(self.endpoint, edit=prompt_id or None), left)
        return self._back("changed" if prompt_id else "made")

    def remove(self, prompt_id: str) -> Response:
        """Remove a prompt, after asking."""
        library, owner = services().prompts, self.owner()
        try:
            found = library.get(owner, prompt_id)
            if not confirm.is_confirmed():
                whose = "for everybody" if owner is None else "from your library"
                gone = f"It is gone {whose}. Conversations in which it was used stay as they are."
                question = Question(f"Remove the prompt “{found.title}”?", (gone,), "Remove it", url_for(self.endpoint))
                return confirm.ask(question)
            library.remove(owner, prompt_id, by=current_actor())
        except PromptNotFoundError:
            raise NotFoundError from None
        return self._back("removed")

    def _back(self, notice: str) -> Response:
        return make_response(redirect(url_for(self.endpoint, notice=notice), 303))
