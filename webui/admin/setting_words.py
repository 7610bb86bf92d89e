"""What each setting does now, as a sentence, and why most of them cannot be changed while the appliance serves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from appliance.config import Config


def _listed(values: Any, none: str) -> str:
    return ", ".join(str(getattr(value, "url", value)) for value in values) or none


SENTENCES: Final[dict[str, Callable[[Any], str]]] = {
    "site.name": lambda v: f"Every page carries the name “{v}”.",
    "site.address": lambda v: f"People reach the site at: {_listed(v, 'any address, because none is set')}.",
    "site.banner_text": lambda v: (
        f"Every page has the banner “{v}” at top and bottom, unless the site has markings."
        if v
        else "No page has a banner, unless the site has markings."
    ),
    "site.banner_colour": lambda v: f"The banner has the colour {v}." if v else "The banner has the pages' own colour.",
    "listen.host": lambda v: f"The appliance listens on the address {v}.",
    "listen.port": lambda v: f"It listens on the port {v}." if v else "It listens on any free port.",
    "tls.certificate": lambda v: (
        "The organisation's certificate is used." if v else "The site makes its own certificate."
    ),
    "tls.key": lambda v: "The key of the organisation's certificate is used." if v else "The site makes its own key.",
    "tls.names": lambda v: f"The site's own certificate also has the names: {_listed(v, 'none')}.",
    "tls.plain_http": lambda v: "A network is served WITHOUT TLS." if v else "A network is served over TLS alone.",
    "proxy.trusted": lambda v: f"Reverse proxies that may name the client: {_listed(v, 'none')}.",
    "proxy.headers": lambda v: f"They name it in the headers of the kind “{v}”.",
    "engine.accelerator": lambda v: f"The model computes on: {v}.",
    "engine.slots": lambda v: (
        f"Memory holds {v} conversations of full length." if v else "Memory decides how many fit."
    ),
    "engine.context_tokens": lambda v: (
        f"A conversation has up to {v:,} tokens." if v else "Memory decides how long one is."
    ),
    "engine.cache": lambda v: f"The KV cache of a CPU holds {v} numbers.",
    "engine.streams": lambda v: (
        f"{v} answers are worked on at a time." if v else "As many answers as time allows run at once."
    ),
    "engine.queue_limit": lambda v: f"{v} questions may wait to begin.",
    "engine.queue_limit_per_user": lambda v: f"{v} questions of one person may wait.",
    "engine.longest_pause_s": lambda v: f"A streaming answer pauses for at most {v:g} s while a prompt is read.",
    "engine.drafts": lambda v: "Repeated text is computed ahead." if v else "Nothing is computed ahead.",
    "engine.harmony_grammar": lambda v: (
        "The model can write well-formed headers alone." if v else "Headers are not held."
    ),
    "web.workers": lambda v: f"{v} web worker{'s' if v > 1 else ''} answer{'' if v > 1 else 's'} requests.",
    "web.threads": lambda v: f"Each worker handles {v} requests at once.",
    "web.session_hours": lambda v: f"A sign-in lasts {v:g} hours without use.",
    "web.attachment_mib": lambda v: f"A file may have up to {v:,} MiB." if v else "No files are taken.",
    "web.cors_origins": lambda v: f"Pages of these origins may call the API: {_listed(v, 'none')}.",
    "api.model_aliases": lambda v: f"Programs may also ask for the model as: {_listed(v, 'no other name')}.",
    "api.response_days": lambda v: f"Programs can read their responses for {v} days." if v else "No response is kept.",
    "accounts.endless_api_keys": lambda v: "API keys may be without an end." if v else "Every API key has an end.",
    "record.database_url": lambda v: f"The record lies in a database of the kind {v.partition(':')[0]}.",
    "record.checkpoint_interval_s": lambda v: f"The record is signed every {v:g} s.",
    "record.daily_mib_per_user": lambda v: f"The record takes {v:,} MiB a day from one person.",
}
_WHY_NOT: Final = {
    "site": "One-time links and the check of host names are made with it from the start on.",
    "listen": "The listening socket is bound once, before every way out is closed.",
    "tls": "The socket and its certificate are opened before every way out is closed.",
    "proxy": "Whose headers are believed must not change under a request.",
    "engine": "The engine takes it when it loads the model; loading it again would end every answer.",
    "web": "The web workers take it at their start; a restart would end every stream.",
    "api": "The web workers take it at their start.",
    "accounts": "It is taken at the start.",
    "record": "The recorder and every worker must agree on it from the first event on.",
}


def why_not(name: str) -> str:
    """Why a setting cannot be changed here."""
    return _WHY_NOT.get(name.partition(".")[0], "It is taken at the start.")


def sentence_of(name: str, config: Config, field: str) -> str:
    """What a setting does now. One without words of its own shows its value."""
    value = getattr(config, field)
    said = SENTENCES.get(name)
    return f"{name} is {value}." if said is None else said(value)
