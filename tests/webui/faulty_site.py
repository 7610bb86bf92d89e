"""The site with planted faults, for the test that schemathesis finds them."""

from __future__ import annotations

from itertools import cycle

from flask import Flask, Response, jsonify, request


def break_shape(response: Response) -> Response:
    """An answer whose token counts are text."""
    body = response.get_json()
    return jsonify({**body, "usage": str(body["usage"])})


def break_status(response: Response) -> Response:
    """A status that no address has."""
    response.status_code = 202
    return response


def break_refusal(response: Response) -> Response:
    """What the schema allows is refused."""
    return _refused(400)


def _refused(status: int) -> Response:
    refusal = jsonify(error={"message": "No.", "type": "invalid_request_error", "param": None, "code": "invalid_value"})
    refusal.status_code = status
    return refusal


def break_server(response: Response) -> Response:
    """A server error."""
    response.status_code = 500
    return response


FAULTS = (break_shape, break_status, break_refusal, break_server)


def forgetful_site() -> Flask:
    """The site that keeps no response that it says it keeps; gunicorn calls this."""
    from webui.wsgi import app

    @app.after_request
    def forgotten(response: Response) -> Response:
        is_read = request.method == "GET" and request.path.startswith("/v1/responses/") and response.status_code == 200
        return _refused(404) if is_read else response

    return app


def site() -> Flask:
    """The site whose whole answers to chats are broken, each in another way; gunicorn calls this."""
    from webui.wsgi import app  # makes the site when it is imported

    faults = cycle(FAULTS)

    @app.after_request
    def broken(response: Response) -> Response:
        is_chat = request.path == "/v1/chat/completions" and response.status_code == 200
        return next(faults)(response) if is_chat and response.is_json else response

    return app
