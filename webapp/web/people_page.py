"""Everybody: looked for, listed, and one in detail. For administrators."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from flask import Blueprint, flash, make_response, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from webapp.contracts.errors import BadInput, Conflict, NotFound
from webapp.contracts.texts import clean
from webapp.services import actors, member_tokens, organizations, people_bulk, people_lists, plan_changes, plans, usage
from webapp.services.people_bulk import Act, Order
from webapp.services.people_lists import Filter
from webapp.web import dashboard, errors, organization

blueprint = Blueprint("people", __name__, url_prefix="/dashboard/people")
blueprint.before_request(dashboard.for_administrators)

ACTIVE = {"": None, "yes": True, "no": False}
_TEXT_MAX = 600


# -- the list ------------------------------------------------------------------------------------------------------------
@blueprint.get("")
def index() -> ResponseReturnValue:
    """The people who match, a page at a time; for the page's own script the lines only."""
    wanted, text, faults = read_filter(request.args)
    after = as_uuid(request.args.get("after"))
    newest = request.args.get("order") == "newest"
    lines = people_lists.rows(wanted, organization.actor(), after, newest=newest) if not faults else []
    values: dict[str, Any] = {
        "lines": lines,
        "more": len(lines) == people_lists.PAGE,
        "text": text,
        "given": {name: value for name, value in text.items() if value},
        "order": "newest" if newest else None,
        "acts": people_bulk.WORDS,
    }
    if errors.is_htmx():
        response = make_response(
            render_template("dashboard/_people_lines.html" if after else "dashboard/_people.html", **values)
        )
    else:
        response = make_response(render_template("dashboard/people.html", plans=plans.names(), faults=faults, **values))
    response.vary.add("HX-Request")
    if faults:
        response.status_code = 422
    return response


def read_filter(given: Mapping[str, str]) -> tuple[Filter, dict[str, str], dict[str, str]]:
    """Which people are meant, as it was typed, and what is wrong with it."""
    text = {name: clean(given.get(name, "")).strip()[: people_lists.SEARCH_CHARS] for name in ("q", "plan", "place", "active")}
    faults: dict[str, str] = {}
    wanted = Filter(text["q"], text["plan"], active=ACTIVE.get(text["active"]))
    if text["place"]:
        try:
            wanted = replace(wanted, organization_id=organizations.find(text["place"]).id)
        except (NotFound, Conflict):
            faults["place"] = "There is no organization, or more than one, of this name. Write the whole name, or the id."
    return wanted, text, faults


def as_uuid(text: str | None) -> uuid.UUID | None:
    """An id as it was typed; None for none."""
    try:
        return uuid.UUID(text) if text else None
    except ValueError:
        return None


# -- one person ----------------------------------------------------------------------------------------------------------
@blueprint.get("/<uuid:person_id>")
def show(person_id: uuid.UUID) -> ResponseReturnValue:
    """What is known of a person, and what may be done."""
    return _page(person_id)


@blueprint.post("/<uuid:person_id>/plan")
def change_plan(person_id: uuid.UUID) -> ResponseReturnValue:
    """Put them on another plan."""
    text = {name: clean(request.form.get(name, "")).strip()[:_TEXT_MAX] for name in ("plan", "reason")}
    try:
        changed = plan_changes.change_person(person_id, text["plan"], text["reason"], organization.actor())
    except BadInput as exc:
        return _page(person_id, text, {exc.field: exc.message}), 422
    said = " The month starts afresh." if changed.restarted else " What was used so far still counts."
    flash(f"They are on the plan {changed.plan} now.{said}")
    return redirect(url_for("people.show", person_id=person_id), 303)


@blueprint.post("/<uuid:person_id>/month")
def start_afresh(person_id: uuid.UUID) -> ResponseReturnValue:
    """Let their month start afresh."""
    text = {"month_reason": clean(request.form.get("month_reason", "")).strip()[:_TEXT_MAX]}
    try:
        count = plan_changes.start_afresh(person_id, text["month_reason"], organization.actor())
    except BadInput as exc:
        return _page(person_id, text, {"month_reason": exc.message}), 422
    flash("Their month starts afresh." if count else "Nothing was used yet: nothing was changed.")
    return redirect(url_for("people.show", person_id=person_id), 303)


@blueprint.post("/<uuid:person_id>/tokens/<uuid:token_id>/revoke")
def revoke_token(person_id: uuid.UUID, token_id: uuid.UUID) -> ResponseReturnValue:
    """End one of their tokens at once."""
    token = member_tokens.revoke(organization.actor(), person_id, token_id)
    flash(f"The token “{token.name}” is revoked: nothing that uses it works any more.")
    return redirect(url_for("people.show", person_id=person_id, _anchor="tokens"), 303)


@blueprint.post("/<uuid:person_id>/state")
def set_active(person_id: uuid.UUID) -> ResponseReturnValue:
    """Shut them out, or let them in again."""
    act = Act.ACTIVATE if request.form.get("to") == "active" else Act.DEACTIVATE
    report = people_bulk.run([person_id], Order(act), organization.actor())
    if report.failures:
        raise Conflict(report.failures[0][1])
    flash("They are let in again." if act is Act.ACTIVATE else "They are shut out: neither answered nor signed in.")
    return redirect(url_for("people.show", person_id=person_id), 303)


def _page(person_id: uuid.UUID, text: Mapping[str, str] | None = None, faults: Mapping[str, str] | None = None) -> str:
    before = as_uuid(request.args.get("before"))
    detail = people_lists.show(person_id, organization.actor(), before)
    return render_template(
        "dashboard/person.html",
        detail=detail,
        usage=usage.usage_of(person_id, organization_id=detail.organization_id),
        actors=actors.names(change.actor for change in detail.history),
        plans=plans.names(),
        text=text or {},
        faults=faults or {},
        before=before,
    )
