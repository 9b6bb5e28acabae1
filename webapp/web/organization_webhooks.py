"""An organization's outgoing webhooks, for its managers: where events go, test messages, and the log of what was sent."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

from flask import Blueprint, flash, make_response, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from webapp.contracts.errors import BadInput, Conflict, NotFound
from webapp.contracts.webhooks import EVENTS, REVIEW_WAITING
from webapp.extensions import limiter
from webapp.models import PersonRole
from webapp.pipeline import webhook_send
from webapp.services import webhook_log, webhook_values, webhooks
from webapp.services.organizations import Place
from webapp.services.webhooks import Change, EndpointView
from webapp.web import auth, dashboard, errors, once, organization

blueprint = Blueprint("organization_webhooks", __name__, url_prefix="/organization/<uuid:organization_id>/webhooks")
blueprint.before_request(auth.require_sign_in)

_OFFERED = {name: words for name, words in EVENTS.items() if name != REVIEW_WAITING}
_TEXT_MAX = 3000
_ADDED_BEFORE = (
    "This webhook was added already, and no second one. Its secret was shown once; if you could not copy it, renew it on the "
    "webhook's page."
)
_RENEWED_BEFORE = (
    "Nothing was renewed: the webhook was changed after this page was loaded, and its secret was renewed less than a day ago."
)
_DROPS = "A message is signed by two secrets at most: say below that the former one may go, or wait until it is void."


@blueprint.get("")
def index(organization_id: uuid.UUID) -> ResponseReturnValue:
    """The endpoints, and the form for another one."""
    place = organization.stand(organization_id, PersonRole.MANAGER)
    return _index(place, {"url": "", "description": "", "events": []}, {})


@blueprint.post("")
@limiter.limit("60/hour", key_func=dashboard.of_person)
def add(organization_id: uuid.UUID) -> ResponseReturnValue:
    """Add one; the page that follows shows its secret, once."""
    place = organization.stand(organization_id, PersonRole.MANAGER)
    typed = _typed()
    try:
        with once.carried_out():
            made = webhooks.create(
                organization.actor(), organization_id, typed["url"], typed["description"], _chosen(typed["events"])
            )
    except BadInput as exc:
        return _index(place, typed, {exc.field: exc.message}), 422
    except once.SentBefore:
        flash(_ADDED_BEFORE)
        return redirect(url_for("organization_webhooks.index", organization_id=organization_id), 303)
    except Conflict as exc:
        return _index(place, typed, {"url": exc.message}), 409
    return _page(place, made.endpoint, _stored(made.endpoint), {}, secret=made.secret, fresh=True)


@blueprint.get("/<uuid:webhook_id>")
def show(organization_id: uuid.UUID, webhook_id: uuid.UUID) -> ResponseReturnValue:
    """One of them, with what was sent to it; for the page's own script the lines of that only."""
    place = organization.stand(organization_id, PersonRole.MANAGER)
    endpoint = webhooks.show(organization.actor(), organization_id, webhook_id)
    before = _uuid(request.args.get("before"))
    if errors.is_htmx() and before is not None:
        part = render_template("organization/_webhook_lines.html", organization=place.organization, **_log(endpoint, before))
        response = make_response(part)
    else:
        response = make_response(_page(place, endpoint, _stored(endpoint), {}, before=before))
    response.vary.add("HX-Request")
    return response


@blueprint.post("/<uuid:webhook_id>")
@limiter.limit("60/hour", key_func=dashboard.of_person)
def change(organization_id: uuid.UUID, webhook_id: uuid.UUID) -> ResponseReturnValue:
    """Save what was typed."""
    place = organization.stand(organization_id, PersonRole.MANAGER)
    typed = _typed()
    wanted = Change(typed["url"], typed["description"], _chosen(typed["events"]))
    try:
        webhooks.change(organization.actor(), organization_id, webhook_id, wanted, _seen())
    except (BadInput, Conflict) as exc:
        endpoint = webhooks.show(organization.actor(), organization_id, webhook_id)
        if isinstance(exc, BadInput):
            return _page(place, endpoint, typed, {exc.field: exc.message}), 422
        return _page(place, endpoint, typed, {}, conflict=exc.message), 409
    flash("The webhook was saved.")
    return _back(organization_id, webhook_id)


@blueprint.post("/<uuid:webhook_id>/state")
def set_active(organization_id: uuid.UUID, webhook_id: uuid.UUID) -> ResponseReturnValue:
    """Switch one on or off."""
    place = organization.stand(organization_id, PersonRole.MANAGER)
    active = request.form.get("to") == "on"
    try:
        webhooks.change(organization.actor(), organization_id, webhook_id, Change(active=active), _seen())
    except Conflict as exc:
        return _conflict(place, webhook_id, exc)
    flash("The webhook is on: it gets events from now on." if active else "The webhook is off: nothing is sent to it.")
    return _back(organization_id, webhook_id)


@blueprint.post("/<uuid:webhook_id>/test")
@limiter.limit("30/minute;300/hour", key_func=dashboard.of_person)
def test(organization_id: uuid.UUID, webhook_id: uuid.UUID) -> ResponseReturnValue:
    """Send a test message, and say what the receiver answered."""
    place = organization.stand(organization_id, PersonRole.MANAGER)
    endpoint = webhooks.show(organization.actor(), organization_id, webhook_id)
    found = webhook_send.ping(webhook_id)
    if found is None:
        raise NotFound("There is no such webhook.")
    if errors.is_htmx():
        parts = [render_template("organization/_webhook_tested.html", tested=found)]
        log = {"organization": place.organization, "oob": True, **_log(endpoint, None)}
        return "".join([*parts, render_template("organization/_webhook_log.html", **log)])
    return _page(place, endpoint, _stored(endpoint), {}, tested=found)


@blueprint.post("/<uuid:webhook_id>/rotate")
@limiter.limit("30/hour", key_func=dashboard.of_person)
def rotate(organization_id: uuid.UUID, webhook_id: uuid.UUID) -> ResponseReturnValue:
    """Renew the secret; the page that follows shows it, once."""
    place = organization.stand(organization_id, PersonRole.MANAGER)
    seen = _seen()
    endpoint = webhooks.show(organization.actor(), organization_id, webhook_id)
    if endpoint.both_until is not None and endpoint.version == seen and request.form.get("drop") != "yes":
        return _page(place, endpoint, _stored(endpoint), {"drop": _DROPS}), 422
    try:
        made = webhooks.rotate(organization.actor(), organization_id, webhook_id, seen)
    except Conflict as exc:
        if endpoint.both_until is not None:
            return _conflict(place, webhook_id, Conflict(_RENEWED_BEFORE))
        return _conflict(place, webhook_id, exc)
    return _page(place, made.endpoint, _stored(made.endpoint), {}, secret=made.secret)


@blueprint.post("/<uuid:webhook_id>/remove")
def remove(organization_id: uuid.UUID, webhook_id: uuid.UUID) -> ResponseReturnValue:
    """Remove one for good."""
    place = organization.stand(organization_id, PersonRole.MANAGER)
    try:
        webhooks.remove(organization.actor(), organization_id, webhook_id, _seen())
    except Conflict as exc:
        return _conflict(place, webhook_id, exc)
    flash("The webhook was removed.")
    return redirect(url_for("organization_webhooks.index", organization_id=organization_id), 303)


@blueprint.post("/<uuid:webhook_id>/deliveries/<uuid:delivery_id>/resend")
@limiter.limit("60/minute", key_func=dashboard.of_person)
def resend(organization_id: uuid.UUID, webhook_id: uuid.UUID, delivery_id: uuid.UUID) -> ResponseReturnValue:
    """Send a message that has ended again."""
    place = organization.stand(organization_id, PersonRole.MANAGER)
    try:
        webhook_log.resend(organization.actor(), organization_id, webhook_id, delivery_id)
    except Conflict as exc:
        return _conflict(place, webhook_id, exc)
    flash("The message is on its way again.")
    return _back(organization_id, webhook_id)


# -- parts ---------------------------------------------------------------------------------------------------------------
def _typed() -> dict[str, Any]:
    """What the form says, cut to a length that is refused if it is too long."""
    form = request.form
    text = {name: form.get(name, "").strip()[:_TEXT_MAX] for name in ("url", "description")}
    return {**text, "events": [name for name in form.getlist("events") if name in _OFFERED]}


def _chosen(names: list[str]) -> list[str]:
    """All that is offered means all that there will be, too."""
    return [] if set(names) == set(_OFFERED) else names


def _stored(endpoint: EndpointView) -> dict[str, Any]:
    return {"url": endpoint.url, "description": endpoint.description, "events": list(endpoint.events)}


def _seen() -> int:
    text = request.form.get("seen", "")
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise BadInput("seen", "Load the page again, and then change it.")
    return int(text)


def _uuid(text: str | None) -> uuid.UUID | None:
    try:
        return uuid.UUID(text) if text else None
    except ValueError:
        return None


def _back(organization_id: uuid.UUID, webhook_id: uuid.UUID) -> ResponseReturnValue:
    return redirect(url_for("organization_webhooks.show", organization_id=organization_id, webhook_id=webhook_id), 303)


def _conflict(place: Place, webhook_id: uuid.UUID, exc: Conflict) -> ResponseReturnValue:
    endpoint = webhooks.show(organization.actor(), place.organization.id, webhook_id)
    return _page(place, endpoint, _stored(endpoint), {}, conflict=exc.message), 409


def _log(endpoint: EndpointView, before: uuid.UUID | None) -> dict[str, Any]:
    found = webhook_log.rows(organization.actor(), endpoint.organization_id, endpoint.id, before, webhook_log.PAGE + 1)
    return {"view": endpoint, "deliveries": found[: webhook_log.PAGE], "more": len(found) > webhook_log.PAGE}


def _shared() -> dict[str, Any]:
    limits = {"url_chars": webhook_values.URL_CHARS, "description_chars": webhook_values.DESCRIPTION_CHARS}
    return {"offered": _OFFERED, **limits}


def _index(place: Place, text: Mapping[str, Any], faults: Mapping[str, str]) -> str:
    views = webhooks.rows(organization.actor(), place.organization.id)
    return organization.page(
        "organization/webhooks.html",
        place,
        "webhooks",
        views=views,
        text=text,
        faults=faults,
        once_key=once.new_key(),
        **_shared(),
    )


def _page(
    place: Place,
    endpoint: EndpointView,
    text: Mapping[str, Any],
    faults: Mapping[str, str],
    *,
    before: uuid.UUID | None = None,
    **more: Any,
) -> str:
    return organization.page(
        "organization/webhook.html", place, "webhooks", text=text, faults=faults, **_shared(), **_log(endpoint, before), **more
    )
