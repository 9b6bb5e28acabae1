"""What programs ask for: REST under `/api`, and the formats of OpenAI and Anthropic under `/v1`. Thin; errors are problem
details (RFC 9457), or what those formats know."""

from __future__ import annotations

from flask import Response
from flask_openapi3 import OpenAPI

from webapp.api import problems, queue

FORMS = "switchhook.error_forms"
"""The application's extension in which `webapp.web.errors` finds the forms of errors by their path."""


def register(app: OpenAPI) -> None:
    """Attach the routes."""
    app.extensions[FORMS] = {"/api": _problem}
    for module in (queue,):
        app.register_api(module.blueprint)


def _problem(status: int, code: str, message: str, error_id: str) -> Response:
    return problems.problem(status, code, message, error_id=error_id)
