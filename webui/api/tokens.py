"""POST /v1/tokenize and /v1/detokenize: which tokens a prompt has, and what tokens spell.

The engine answers, because it alone has the vocabulary. Nothing reaches the model, so nothing is recorded as a prompt;
the limits of a prompt hold.
"""

from __future__ import annotations

from dataclasses import replace

from flask import Response, jsonify

from appliance.turns.engine import Answered, Question, TextRequest, Tokens, TokensRequest, TokenText
from appliance.turns.events import Failed
from webui.allowances import allowance
from webui.api import errors, shapes
from webui.api.auth import api_user
from webui.api.blueprint import blueprint
from webui.api.chat import new_turn
from webui.api.described import described
from webui.api.models import check_model
from webui.api.running import json_body, note_ignored, wants_strictness
from webui.api.token_bodies import (
    DETOKENIZE_FIELDS,
    FIELDS,
    TOGETHER,
    DetokenizeBody,
    TokenizeBody,
    parse_detokenize_request,
    parse_tokenize_request,
)
from webui.services import services


@blueprint.post("/tokenize")
@described(body=TokenizeBody, fields=FIELDS, together=TOGETHER, answer=shapes.Tokens, errors=(400, 404, 413, 415))
def tokenize() -> Response:
    """The tokens of a bare text or of a conversation, as the model would read them."""
    asked, ignored = parse_tokenize_request(json_body(), strict=wants_strictness())
    note_ignored(ignored)
    _check_model(asked.chat.model)
    if asked.is_text:
        errors.name_fields(messages="prompt")
    request = new_turn(asked.chat, id_prefix="tokenize-")
    if asked.is_text:
        request = replace(request, form="text")
    allowance().check(api_user().id, request)
    found = _answer_to(TokensRequest(request, asked.with_texts))
    if not isinstance(found, Tokens):
        raise RuntimeError("internal error: the engine answered another question")
    body = {"count": len(found.ids), "max_model_len": found.context_tokens, "tokens": found.ids}
    return jsonify({**body, "token_strs": found.texts if asked.with_texts else None})


@blueprint.post("/detokenize")
@described(body=DetokenizeBody, fields=DETOKENIZE_FIELDS, answer=shapes.TokenText, errors=(400, 404, 413, 415))
def detokenize() -> Response:
    """What tokens spell; special ones spell their names."""
    errors.name_fields(messages="tokens")
    asked, ignored = parse_detokenize_request(json_body(), strict=wants_strictness())
    note_ignored(ignored)
    _check_model(asked.model)
    found = _answer_to(TextRequest(api_user().id, asked.tokens))
    if not isinstance(found, TokenText):
        raise RuntimeError("internal error: the engine answered another question")
    return jsonify(prompt=found.text)


def _check_model(name: str) -> None:
    if name:
        check_model(name)


def _answer_to(question: Question) -> Answered:
    """Raises: ApiError: the engine refused. EngineUnavailableError: it did not answer."""
    found = services().engine.ask(question)
    if isinstance(found, Failed):
        raise errors.from_failed(found)
    return found
