"""What programs ask for: REST under `/api`, and the formats of OpenAI and Anthropic under `/v1`. Thin; errors are problem
details (RFC 9457), or what those formats know."""

from __future__ import annotations

from flask import Response
from flask_openapi3 import OpenAPI

from webapp.api import (
    analytics,
    base,
    batches,
    conversations,
    dead_letters,
    deliveries,
    document,
    doors,
    errors,
    generations,
    plugins,
    problems,
    providers,
    queue,
    tasks,
    templates,
    tokens,
    usage,
    users,
    webhooks,
)
from webapp.api.problems import FORMS
from webapp.api.v1 import door
from webapp.api.v1.errors import form as v1_form


def register(app: OpenAPI) -> None:
    """Attach the routes."""
    app.request_class = base.ApiRequest
    doors.prepare(app)
    app.extensions[FORMS] = {"/api": _problem, "/v1": v1_form}
    for module in (
        queue,
        users,
        tokens,
        usage,
        deliveries,
        tasks,
        generations,
        conversations,
        batches,
        analytics,
        dead_letters,
        errors,
        plugins,
        providers,
        templates,
        webhooks,
    ):
        app.register_api(module.blueprint)
    app.register_blueprint(document.blueprint)
    door.register(app)


def _problem(status: int, code: str, message: str, error_id: str) -> Response:
    return problems.problem(status, code, message, error_id=error_id)
