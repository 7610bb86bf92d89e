"""The OpenAI-compatible API: its blueprint with all its addresses. docs/api.md is its reference."""

from __future__ import annotations

from webui.api import chat, completions, models, openapi, tokens
from webui.api.anthropic import routes as anthropic
from webui.api.blueprint import blueprint
from webui.api.responses import routes as responses

__all__ = ["anthropic", "blueprint", "chat", "completions", "models", "openapi", "responses", "tokens"]
