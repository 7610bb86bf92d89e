"""A page between a click and a change that cannot be taken back. It says what will happen and asks once.

The browser posts a form as usual. Without the field ``confirmed`` the view answers with a redirect to this page, which
posts the same form again with that field. The page needs no script, and the keyboard begins on the way back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from flask import Blueprint, Response, make_response, render_template, request, url_for

from webui.errors import NotFoundError
from webui.handover import hand_over, look
from webui.session import demand_user

_NOT_REPEATED = ("csrf_token", "confirmed")

blueprint = Blueprint("confirm", __name__)


@dataclass(frozen=True)
class Option:
    """A box on the page. It is ticked at first."""

    name: str
    words: str


@dataclass(frozen=True)
class Question:
    """What the page asks: a title, sentences that say what will happen, the button's words, and the way back."""

    title: str
    consequences: Sequence[str]
    button: str
    back: str  # the address that the way back leads to
    options: Sequence[Option] = ()


def is_confirmed() -> bool:
    """Whether this request comes from the page."""
    return request.form.get("confirmed") == "yes"


def is_chosen(name: str) -> bool:
    """Whether an option was left ticked."""
    return request.form.get(name) == "yes"


def ask(question: Question) -> Response:
    """Lead to the page. It posts the fields of this form to the address of this request."""
    offered = {option.name for option in question.options}
    fields = [
        (name, value)
        for name, value in request.form.items(multi=True)
        if name not in _NOT_REPEATED and name not in offered
    ]
    left = {"question": asdict(question), "fields": fields, "action": request.path}
    return hand_over(url_for("confirm.show"), left)


@blueprint.get("/confirm")
def show() -> Response:
    """The page, as often as the browser loads it within some minutes."""
    demand_user()
    left = look()
    if "question" not in left:
        raise NotFoundError(
            "no_question", "This question has ended, and nothing was changed by looking at it.",
            "Go back to where you came from, and choose it again.",
        )  # fmt: skip
    page = render_template("confirm.html", question=left["question"], fields=left["fields"], action=left["action"])
    return make_response(page)
