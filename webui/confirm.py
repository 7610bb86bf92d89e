"""A page between a click and what cannot be taken back: it names what will happen and asks once.

A form is posted as usual. Without the field ``confirmed`` the view answers with this page, which posts the same form
again with it. It needs no script, and the way back is the first thing the keyboard reaches after the button.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flask import Response, make_response, render_template, request

_NOT_REPEATED = ("csrf_token", "confirmed")


@dataclass(frozen=True)
class Option:
    """A choice on the page, ticked at first."""

    name: str
    words: str


@dataclass(frozen=True)
class Question:
    """What is asked: a title, sentences that say what will happen, the button's words, and the way back."""

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
    """The page; it posts to the address of this request, with what this form held."""
    offered = {option.name for option in question.options}
    fields = [
        (name, value)
        for name, value in request.form.items(multi=True)
        if name not in _NOT_REPEATED and name not in offered
    ]
    return make_response(render_template("confirm.html", question=question, fields=fields, action=request.path))
