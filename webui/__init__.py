"""Everything that speaks HTTP: pages, chat, review, administration and the OpenAI-compatible API."""
