"""The SMS simulator: a phone without a carrier, beside the log of what happens to its messages. For administrators."""

from __future__ import annotations

import uuid

from flask import Blueprint, abort, make_response, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from webapp.contracts.channels import InboundMessage
from webapp.contracts.errors import BadInput
from webapp.contracts.texts import clean
from webapp.extensions import current_settings
from webapp.pipeline.inbox import CoreInbox
from webapp.services import people, simulator
from webapp.web import auth, errors

blueprint = Blueprint("simulator", __name__, url_prefix="/dashboard/simulator")

DEFAULT_NUMBER = "+15005550006"
OURS = "simulator"
"""The address that the phone writes to, and the channel that answers it."""


@blueprint.before_request
def for_administrators() -> ResponseReturnValue | None:
    """What it shows is other people's messages."""
    if refused := auth.require_sign_in():
        return refused
    if not auth.me().is_admin:
        abort(403)
    return None


@blueprint.get("")
def show() -> ResponseReturnValue:
    """The page."""
    given = clean(request.args.get("number", "")).strip()
    try:
        number = people.normal_phone(given) if given else DEFAULT_NUMBER
    except BadInput as exc:
        return _page(DEFAULT_NUMBER, message=exc.message, typed=given), 422
    return _page(number)


@blueprint.get("/panel")
def panel() -> ResponseReturnValue:
    """The phone and its log as they are now; the page's own script asks while something runs."""
    number = people.normal_phone(clean(request.args.get("number", DEFAULT_NUMBER)))
    if not errors.is_htmx():
        return redirect(url_for("simulator.show", number=number), 303)
    return _panel(number)


@blueprint.post("/send")
def send() -> ResponseReturnValue:
    """Send a text as the phone would: from here on it takes the road of every text message."""
    number = people.normal_phone(clean(request.form.get("number", "")))
    text = clean(request.form.get("text", "")).strip()
    longest = current_settings().prompt_max_chars
    if not text:
        return _refused(number, "Write a message first.", text)
    message = InboundMessage(
        channel=OURS, external_id=f"sim-{uuid.uuid4()}", sender=number, recipient=OURS, text=text[: longest + 1]
    )
    try:
        CoreInbox().receive(message)
    except BadInput as exc:
        return _refused(number, exc.message, text)
    if errors.is_htmx():
        return _panel(number)
    return redirect(url_for("simulator.show", number=number), 303)


def _panel(number: str) -> ResponseReturnValue:
    response = make_response(render_template("simulator/_panel.html", phone=simulator.look(number)))
    response.vary.add("HX-Request")
    return response


def _refused(number: str, message: str, text: str) -> ResponseReturnValue:
    if errors.is_htmx():
        return errors.answer(422, message)
    return _page(number, message=message, text=text), 422


def _page(number: str, *, message: str = "", typed: str = "", text: str = "") -> str:
    return render_template(
        "simulator/page.html",
        phone=simulator.look(number),
        numbers=simulator.known_numbers(),
        message=message,
        typed=typed or number,
        text=text,
    )
