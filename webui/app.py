"""The web application, made by `create_app` from the services it is given. Importing it does nothing."""

from __future__ import annotations

from flask import Flask, request

import webui.account.routes
import webui.admin.sections
import webui.api.routes
import webui.chat.exchange
import webui.chat.files
import webui.chat.marking
import webui.chat.prompts
import webui.chat.room
import webui.chat.room_routes
import webui.chat.routes
import webui.chat.sharing
import webui.chat.watchers
import webui.frame
import webui.health
import webui.review.routes
from webui import allowances, confirm, cors, denials, errors, hosts, live, request_ids, security, static_files
from webui import services as service_records
from webui.api.errors import is_api
from webui.paths import PlainPaths
from webui.proxies import ThroughProxies, TrustedProxies
from webui.services import Services
from webui.serving.limits import MAX_BODY_BYTES

MAX_SMALL_FORM_BYTES = 32 * 1024
_SMALL_FORMS = frozenset({"auth", "account", "admin"})
_JSON_GROWTH = 6  # "\\u00e9" for one character
_SMALL_BODY_BYTES = 256 * 1024  # forms and settings fit, however short the context is


def create_app(services: Services) -> Flask:
    """The WSGI application over `services`."""
    app = Flask("webui", static_folder=None)  # `webui.static_files` serves them
    app.json.sort_keys = False  # type: ignore[attr-defined]  # the default provider has it; keys keep their order
    service_records.install(app, services)
    limits = allowances.install(app, services).limits
    longest = min(MAX_BODY_BYTES, _SMALL_BODY_BYTES + _JSON_GROWTH * limits.prompt_bytes)
    app.config["MAX_CONTENT_LENGTH"] = longest
    app.config["MAX_FORM_MEMORY_SIZE"] = longest
    app.config["MAX_FORM_PARTS"] = 200
    live.install(app, services)
    security.install(app)
    errors.install(app)
    denials.install(app, services)
    hosts.install(app)
    cors.install(app, frozenset(services.config.cors_origins))
    static_files.install(app)
    request_ids.install(app, is_named=is_api)
    app.before_request(_limit_forms)
    app.before_request(_check_csrf_of_pages)
    app.context_processor(
        lambda: {"config": service_records.services().config, "model": services.model, "release": services.release}
    )
    webui.chat.watchers.install(app)
    webui.chat.room.install(app, services.engine)
    for blueprint in (
        webui.frame.blueprint, confirm.blueprint, webui.account.routes.strangers, webui.account.routes.blueprint,
        webui.chat.routes.blueprint, webui.chat.files.blueprint, webui.review.routes.blueprint,
        webui.admin.sections.blueprint, webui.api.routes.blueprint, webui.health.blueprint,
    ):  # fmt: skip
        app.register_blueprint(blueprint)
    proxies = TrustedProxies.of(services.config)
    app.wsgi_app = PlainPaths(ThroughProxies(app.wsgi_app, proxies))  # type: ignore[method-assign]
    return app


def _limit_forms() -> None:
    """Read no more of a form than a name and a password need: strangers may post it."""
    if request.blueprint in _SMALL_FORMS:
        request.max_content_length = MAX_SMALL_FORM_BYTES


def _check_csrf_of_pages() -> None:
    """Demand that every changing request comes from our own pages. /v1 is exempt, because it reads no cookie. A request
    that no view takes changes nothing and gets 404 or 405."""
    if request.url_rule is not None and request.blueprint != "api":
        security.check_csrf()
