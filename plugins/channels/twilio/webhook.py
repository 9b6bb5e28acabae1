"""Twilio's two webhooks: verify, read, hand over, answer at once."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from flask import Blueprint, Response, request
from werkzeug.exceptions import RequestEntityTooLarge

from plugins.channels.twilio import signature, wire
from webapp.plugin import BadInput, Inbox

if TYPE_CHECKING:
    from plugins.channels.twilio import TwilioChannel

FORM, JSON = "application/x-www-form-urlencoded", "application/json"
MAX_BODY_BYTES = 64 * 1024
NO_ANSWER = "<Response/>"
"""TwiML that sends nothing: answers go out by the REST API, when they are ready."""

security_log = logging.getLogger("switchhook.security")


def routes(channel: TwilioChannel, inbox: Inbox) -> Blueprint:
    """`POST /sms/receive` for messages and `POST /sms/status` for receipts."""
    blueprint = Blueprint(channel.name, __name__)

    @blueprint.post(wire.RECEIVE_PATH)
    def receive() -> Response:
        def take(form: Mapping[str, str]) -> Response:
            inbox.receive(channel.parse_message(form))
            return Response(NO_ANSWER, 200, content_type="text/xml; charset=utf-8")

        return _answer(channel, take)

    @blueprint.post(wire.STATUS_PATH)
    def status() -> Response:
        def take(form: Mapping[str, str]) -> Response:
            inbox.receipt(channel.parse_receipt(form))
            return Response(status=204)

        return _answer(channel, take)

    return blueprint


def _answer(channel: TwilioChannel, take: Callable[[Mapping[str, str]], Response]) -> Response:
    """Verify the request, read its fields, hand them to `take`; each way in which that can fail has its status."""
    if not channel.keys:
        return _refuse(503, "TWILIO_AUTH_TOKEN is not set: the origin of this message cannot be verified.\n")
    if request.mimetype not in (FORM, JSON):
        return _refuse(415, f"Send a form ({FORM}).\n")
    request.max_content_length = MAX_BODY_BYTES
    try:
        body = request.get_data(cache=False)
    except RequestEntityTooLarge:
        return _refuse(413, f"The body is longer than {MAX_BODY_BYTES} bytes.\n")
    pairs = _verified_pairs(channel, body)
    if pairs is None:
        # Neither number nor text: the line must be safe to keep and to forward.
        why = "wrong" if request.headers.get(signature.HEADER) else "no"
        security_log.warning("twilio webhook %s refused: %s signature, from %s", request.path, why, request.remote_addr)
        return _refuse(403)
    try:
        return take(wire.first_of_each(pairs))
    except BadInput as exc:
        return _refuse(400, f"{exc.field}: {exc.message}\n")


def _refuse(status: int, text: str = "") -> Response:
    return Response(text, status, content_type="text/plain; charset=utf-8")


def _verified_pairs(channel: TwilioChannel, body: bytes) -> signature.Pairs | None:
    """The fields of a request that Twilio signed; None if it did not, or if they cannot be read without guessing."""
    header = request.headers.get(signature.HEADER, "")
    url = channel.webhook_url(
        seen_root=f"{request.scheme}://{request.host}",
        mount=request.root_path,
        # The routes are fixed ASCII paths, so the decoded path is the raw one.
        path=request.path,
        query=request.query_string.decode("latin-1"),
    )
    try:
        if request.mimetype == JSON:
            if not channel.verify_json(url, body, request.args.get("bodySHA256", ""), header):
                return None
            fields = json.loads(body)
            return [(name, value) for name, value in fields.items() if isinstance(value, str)]
        pairs = signature.form_pairs(body)
    except (ValueError, AttributeError, RecursionError):
        return None
    return pairs if channel.verify(url, pairs, header) else None
