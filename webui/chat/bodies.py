"""The bodies of the chat's requests: the fields that its script sends, and what is said of wrong ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final, TypeVar

from flask import request

from appliance.audit.event import check_storable
from appliance.people.attachments import MOST_WITH_ONE_QUESTION
from appliance.people.sampling import MAX_TOKENS, MIN_P, SEED, TEMPERATURE, TOP_K, TOP_P, Sampling
from appliance.turns.request import Effort
from installer.formats.checks import FaultError, Must, Rule, check, words_of
from webui.errors import BadRequestError

T = TypeVar("T")

MAX_TEXT_CHARS: Final = 400_000
_WITHOUT: Final = "Whether your instructions are left out must be true or false."
NOTHING_TO_SEND: Final = "There is nothing to send: the text is empty."


def _bounded(text: str) -> str:
    if len(text) > MAX_TEXT_CHARS:
        raise FaultError(f"The text is longer than {MAX_TEXT_CHARS:,} characters.")
    return text


def _written(text: str) -> str:
    """A text that a person has written.

    Raises:
        FaultError: it is blank or too long, or cannot be kept exactly.
    """
    if not text.strip():
        raise FaultError(NOTHING_TO_SEND)
    _bounded(text)
    return _storable(text)


def _storable(text: str) -> str:
    """Raises: FaultError: the text cannot be kept exactly."""
    try:
        check_storable(text)
    except ValueError as exc:
        raise FaultError("The text contains characters that cannot be kept.") from exc
    return text


Label = Annotated[str, Must("A folder or a tag is a text."), Rule(_storable)]
Written = Annotated[str, Must(NOTHING_TO_SEND), Rule(_written)]


def _said(what: str, bounds: tuple[int, int]) -> str:
    return f"{what} is a number from {bounds[0]:,} to {bounds[1]:,}."


def _between(what: str, bounds: tuple[int, int]) -> Must:
    return Must(_said(what, bounds), ge=bounds[0], le=bounds[1])


@dataclass(frozen=True)
class Chosen:
    """How the answer is drawn; what is absent or null is left to the model."""

    temperature: Annotated[float, _between("The temperature", TEMPERATURE)] | None = None
    top_p: Annotated[float, Must("Top p is a number above 0 and up to 1.", gt=TOP_P[0], le=TOP_P[1])] | None = None
    top_k: Annotated[int, _between("Top k", TOP_K)] | None = None
    min_p: Annotated[float, _between("Min p", MIN_P)] | None = None
    max_tokens: Annotated[int, _between("The longest answer", MAX_TOKENS)] | None = None
    seed: Annotated[int, _between("The seed", SEED)] | None = None

    def as_sampling(self) -> Sampling:
        return Sampling(self.temperature, self.top_p, self.top_k, self.min_p, self.max_tokens, self.seed)


@dataclass(frozen=True)
class Beginning:
    """A new conversation, which gets its title from the text."""

    text: Written


@dataclass(frozen=True)
class Question:
    """A new turn: a text, or with ``regenerate`` the last question again. ``instead_of`` is the message of an earlier
    question, in whose place the text is asked. With ``go_on`` the last answer, which was cut off, is continued.

    ``reads_from``: see `QuestionFacts`. ``last``: the last message that the page shows, "" for none; a conversation
    that has gone on since is not asked. ``files``: ids of attached files; None: with ``instead_of`` those of the
    earlier question. ``sampling`` and ``without_instructions`` are kept for the conversation; None: as they are kept.
    """

    effort: Annotated[Effort, Must("The effort must be low, medium or high.")]
    text: Written | None = None
    regenerate: Annotated[bool, Must("Whether to ask again must be true or false.")] = False
    instead_of: Annotated[str, Must("Which question is asked anew is missing.")] | None = None
    go_on: Annotated[bool, Must("Whether to go on must be true or false.")] = False
    reads_from: Annotated[str, Must("From which message the model is to read is missing.")] | None = None
    last: Annotated[str, Must("Which message the page shows last is missing.")] | None = None
    files: Annotated[tuple[str, ...], Must(f"A question takes up to {MOST_WITH_ONE_QUESTION} files.")] | None = None
    sampling: Chosen | None = None
    without_instructions: Annotated[bool, Must(_WITHOUT)] | None = None

    def __post_init__(self) -> None:
        if self.text is None and not self.regenerate and not self.go_on:
            raise FaultError(NOTHING_TO_SEND)
        if self.regenerate + self.go_on + (self.instead_of is not None) > 1:
            raise FaultError("A question is asked again, asked anew or continued: one of them.")
        if self.files is not None and len(self.files) > MOST_WITH_ONE_QUESTION:
            raise FaultError(f"A question takes up to {MOST_WITH_ONE_QUESTION} files.")


@dataclass(frozen=True)
class Draft:
    """A question that is being written, whose room is asked for; it may be empty."""

    effort: Annotated[Effort, Must("The effort must be low, medium or high.")]
    text: Annotated[str, Must("The text is missing."), Rule(_bounded)] = ""
    reads_from: Annotated[str, Must("From which message the model is to read is missing.")] | None = None
    files: Annotated[tuple[str, ...], Must(f"A question takes up to {MOST_WITH_ONE_QUESTION} files.")] = ()
    without_instructions: Annotated[bool, Must(_WITHOUT)] | None = None


@dataclass(frozen=True)
class SummaryWish:
    """A summary that is to be written."""

    effort: Annotated[Effort, Must("The effort must be low, medium or high.")]


@dataclass(frozen=True)
class Change:
    """A change of a conversation in the list; a field that is absent or null stays as it is."""

    title: Written | None = None
    pinned: Annotated[bool, Must("Whether it is pinned must be true or false.")] | None = None
    archived: Annotated[bool, Must("Whether it is archived must be true or false.")] | None = None
    folder: Label | None = None
    tags: Annotated[tuple[Label, ...], Must("The tags are a list of texts.")] | None = None


@dataclass(frozen=True)
class Branch:
    """The message, a question or an answer, through which a branch is to be shown."""

    message: Annotated[str, Must("Which answer to show is missing.")]


def read_body(kind: type[T]) -> T:
    """The body of the present request.

    Raises:
        BadRequestError: it is no JSON object, or a field is wrong; the message says which.
    """
    given = request.get_json(silent=True)
    if not isinstance(given, dict):
        raise BadRequestError
    try:
        return check(kind, given)
    except FaultError as fault:
        said = words_of(kind, str(fault.at[0])) if fault.kind == "missing" else fault.said
        raise BadRequestError(message=said) from fault
