"""Which scope each address under /v1 needs. An address that is not in the table is closed to every key.

A new route gets a line here: ``"METHOD /v1/rule": Scope``, with the rule as the route's decorator has it. A route that
does more for some requests than its scope says asks for the other scope itself, with `webui.api.auth.demand_scope`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from appliance.people.key_rights import Scope

SCOPES: Final[Mapping[str, Scope]] = {
    "GET /v1/models": Scope.MODELS,
    "GET /v1/models/<path:model_id>": Scope.MODELS,
    "GET /v1/openapi.json": Scope.MODELS,
    "POST /v1/chat/completions": Scope.GENERATE,
    "POST /v1/completions": Scope.GENERATE,
    "POST /v1/responses": Scope.GENERATE,  # and RESPONSES, in the background or from a kept one
    "GET /v1/responses/<response_id>": Scope.RESPONSES,
    "GET /v1/responses/<response_id>/input_items": Scope.RESPONSES,
    "DELETE /v1/responses/<response_id>": Scope.RESPONSES,
    "POST /v1/responses/<response_id>/cancel": Scope.RESPONSES,
    "POST /v1/messages": Scope.GENERATE,
    "POST /v1/messages/count_tokens": Scope.TOKENIZE,
    "POST /v1/tokenize": Scope.TOKENIZE,
    "POST /v1/detokenize": Scope.TOKENIZE,
}


def named(method: str, rule: str) -> str:
    """A method and a rule as the table has them."""
    return f"{'GET' if method == 'HEAD' else method} {rule}"
