"""`POST /sms/send`: a message by hand, from a program with a token or an administrator's page."""

from __future__ import annotations

from collections.abc import Mapping

from flask import Blueprint, jsonify, request
from flask.typing import ResponseReturnValue
from flask_login import current_user

from webapp.contracts.channels import Channel
from webapp.contracts.errors import BadInput, Refusal
from webapp.extensions import csrf
from webapp.pipeline import deliver
from webapp.services import messages, tokens

blueprint = Blueprint("sms", __name__)
csrf.exempt(blueprint)


@blueprint.before_request
def session_needs_csrf() -> None:
    """The exemption is for tokens only: a call that rides on a session cookie must carry the CSRF token."""
    if not request.headers.get("Authorization", "").strip() and current_user.is_authenticated:
        csrf.protect()


@blueprint.post("/sms/send")
def send() -> ResponseReturnValue:
    """Send `body` to `to` (JSON or form). 202 with the delivery's id; what became of it is on its page and by receipts."""
    if not _may_send():
        return _error("unauthorized", "Sign in as an administrator, or send a token with the scope sms.", 401)
    try:
        given = request.get_json(silent=True) if request.is_json else request.form.to_dict()
    except RecursionError:
        given = None
    if not isinstance(given, dict):
        return _error("bad_input", "Send a JSON object with the fields to and body.", 400)
    try:
        address, text, channel = _checked(given)
        delivery_id = deliver.send_by_hand(address, text, channel, None)
    except BadInput as exc:
        return _error(exc.code, exc.message, 400, exc.field)
    except Refusal as exc:
        return _error(exc.code, exc.message, 409)
    return jsonify({"id": str(delivery_id), "status": "pending", "channel": channel.name}), 202


def _may_send() -> bool:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme:
        return scheme.lower() == "bearer" and _sends(token.strip())
    return bool(current_user.is_authenticated and current_user.is_admin)


def _sends(token: str) -> bool:
    known = tokens.find(token)
    if known is None or "sms" not in known.scopes:
        return False
    if known.use_due:
        tokens.note_use(known.token_id)
    return True


def _checked(given: Mapping[str, object]) -> tuple[str, str, Channel]:
    to, body = given.get("to"), given.get("body")
    if not isinstance(to, str):
        raise BadInput("to", "Name the recipient in `to`, such as +15005550006.")
    return messages.checked(to, body if isinstance(body, str) else "", str(given.get("channel") or ""))


def _error(code: str, message: str, status: int, field: str = "") -> ResponseReturnValue:
    body = {"code": code, "message": message} | ({"field": field} if field else {})
    return jsonify({"error": body}), status
