"""The web application, made by `create_app` from the services it is given. Importing it does nothing."""

from __future__ import annotations

from flask import Flask

from webui import errors, security
from webui.auth.session import current_user
from webui.services import Services, install_services

MAX_BODY_BYTES = 8 * 1024 * 1024  # half of the engine's line limit, for the JSON around the text


def create_app(services: Services) -> Flask:
    """The WSGI application over `services`."""
    app = Flask("webui")
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY_BYTES
    app.config["MAX_FORM_MEMORY_SIZE"] = MAX_BODY_BYTES
    install_services(app, services)
    security.install(app)
    errors.install(app)
    app.before_request(_check_csrf_of_pages)

    @app.context_processor
    def shared() -> dict[str, object]:
        return {"user": current_user(), "config": services.config, "model": services.model, "release": services.release}

    return app
