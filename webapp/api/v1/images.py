"""`POST /v1/images/generations`: a picture, made while the caller waits."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from typing import Any, Literal

from flask import Response, request
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from webapp.api.base import read_json
from webapp.api.v1 import calls, chat, errors, ground, naming, once, seats
from webapp.api.v1.calls import BadCall
from webapp.api.v1.chat_request import bad_field
from webapp.contracts.calls import Usage
from webapp.contracts.errors import BadInput
from webapp.extensions import current_settings
from webapp.pipeline import pictures
from webapp.pipeline.admit import admit
from webapp.pipeline.attended import Attended
from webapp.pipeline.endings import Ending, Made
from webapp.pipeline.intake import Intake
from webapp.pipeline.parameters import SIDE_MAX, SIDE_MIN
from webapp.routing.route import IMAGES

blueprint = ground.group("images")

_SIZE = re.compile(r"([1-9]\d{1,3})x([1-9]\d{1,3})")


class _Body(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")

    prompt: str = Field(min_length=1)
    model: str | None = Field(None, min_length=1, max_length=160)
    n: int | None = None
    size: str | None = None
    response_format: Literal["url", "b64_json"] | None = None
    stream: bool | None = None
    user: str | None = Field(None, max_length=256)


_body = TypeAdapter(_Body)
_USED = frozenset(_Body.model_fields)


@blueprint.post("/images/generations")
@once.repeatable
def generate() -> Response:
    """Make a picture."""
    token = calls.bearer()
    body = read_json()
    given = _read(body)
    intake = Intake(
        medium="api", text=given.prompt, operation=IMAGES, token=token, parameters=_parameters(given), attended=True
    )
    response = seats.seated(token, lambda: _served(intake, given))
    if unused := calls.ignored(body, _USED):
        response.headers["x-switchhook-ignored"] = unused
    return response


def _served(intake: Intake, given: _Body) -> Response:
    running = _begin(intake)
    for _ in running.pieces():
        pass
    if (failure := chat.failed(running)) is not None:
        return errors.answer(failure)
    ending = running.ending
    assert ending is not None
    response = ground.answer(
        {
            "created": int(running.claimed.started_at.timestamp()),
            "data": [_picture(made, by_address=given.response_format == "url") for made in ending.pictures],
            "usage": _usage(running, ending),
        }
    )
    response.headers.update(chat.headers_of(running))
    return response


def _begin(intake: Intake) -> Attended:
    try:
        admission = admit(intake)
    except BadInput as exc:
        raise BadCall(exc.message, "prompt" if exc.field == "text" else exc.field, "invalid_value") from exc
    assert admission.claimed is not None
    return Attended(admission.claimed, None)


def _read(body: object) -> _Body:
    try:
        given = _body.validate_python(body)
    except ValidationError as exc:
        raise bad_field(exc, "prompt") from None
    if given.n not in (None, 1):
        raise BadCall("n: one picture is made for a call; make several calls.", "n", "unsupported_value")
    if given.stream:
        raise BadCall("stream: pictures are not streamed here.", "stream", "unsupported_parameter")
    return given


def _parameters(given: _Body) -> Mapping[str, Any]:
    found = naming.parameters_of(given.model or naming.AUTO, images=True)
    if found.pop("category", None):
        raise BadCall("model: pictures have no categories: give `auto`.", "model", "model_not_found", 404)
    if given.size not in (None, "auto"):
        sides = _SIZE.fullmatch(given.size or "")
        if sides is None or not all(SIDE_MIN <= int(side) <= SIDE_MAX for side in sides.groups()):
            raise BadCall(
                f"size: it is auto, or WIDTHxHEIGHT in pixels from {SIDE_MIN} to {SIDE_MAX}, such as 1024x1024.",
                "size",
                "invalid_value",
            )
        found |= {"width": int(sides[1]), "height": int(sides[2])}
    return found


def _picture(made: Made, *, by_address: bool) -> Mapping[str, str]:
    """The picture itself, or the address of it: that wants the same token."""
    stored = made.stored
    if by_address:
        place = current_settings().public_url or request.host_url
        return {"url": f"{place.rstrip('/')}/api/pictures/{stored.sha256}"}
    return {"b64_json": base64.b64encode(pictures.path_of(stored.sha256).read_bytes()).decode()}


def _usage(running: Attended, ending: Ending) -> Mapping[str, Any]:
    tried = running.work.calls.tried if running.work.calls else []
    told = tried[-1].usage if tried else None
    of_pictures = told.picture_input_tokens if isinstance(told, Usage) else 0
    used = ending.used
    return {
        "input_tokens": used.input_tokens,
        "input_tokens_details": {"text_tokens": max(0, used.input_tokens - of_pictures), "image_tokens": of_pictures},
        "output_tokens": used.output_tokens,
        "total_tokens": used.input_tokens + used.output_tokens,
    }
