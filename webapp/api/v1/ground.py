"""What every group of routes of `/v1` stands on."""

from __future__ import annotations

from flask import Blueprint, Response, request

from webapp.api.v1 import calls, errors
from webapp.contracts.errors import SwitchhookError
from webapp.extensions import csrf, current_settings


def group(name: str) -> Blueprint:
    """A group of routes whose errors are OpenAI's."""
    blueprint = Blueprint(f"v1_{name}", __name__, url_prefix="/v1")
    csrf.exempt(blueprint)  # sessions open nothing here
    blueprint.before_request(_limit_body)
    blueprint.register_error_handler(SwitchhookError, _failed)
    return blueprint


def _limit_body() -> None:
    request.max_content_length = current_settings().api_body_max_mb * 1024 * 1024


def _failed(exc: SwitchhookError) -> Response:
    return errors.answer(calls.failure_of(exc))
