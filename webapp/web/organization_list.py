"""All organizations of the installation, for its administrators."""

from __future__ import annotations

import uuid
from typing import Any

from flask import Blueprint, Response, flash, make_response, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from webapp.contracts.errors import BadInput
from webapp.contracts.texts import clean
from webapp.services import organizations
from webapp.web import dashboard, errors, organization

blueprint = Blueprint("organizations", __name__, url_prefix="/dashboard/organizations")
blueprint.before_request(dashboard.for_administrators)

_SEARCH_CHARS = 100
_TEXT_MAX = 300


@blueprint.get("")
def index() -> ResponseReturnValue:
    """The list, a page at a time; for the page's own script the lines only."""
    return _page({"name": "", "time_zone": "UTC"}, {})


@blueprint.post("")
def create() -> ResponseReturnValue:
    """Make one."""
    text = {name: clean(request.form.get(name, "")).strip()[:_TEXT_MAX] for name in ("name", "time_zone")}
    try:
        made = organizations.create(organization.actor(), text["name"], text["time_zone"])
    except BadInput as exc:
        return _page(text, {exc.field: exc.message}), 422
    flash(f"{made.name} was made. Invite somebody who administers it.")
    return redirect(url_for("organization_people.invitations", organization_id=made.id), 303)


@blueprint.get("/<uuid:organization_id>")
def show(organization_id: uuid.UUID) -> ResponseReturnValue:
    """The organization's own page."""
    return redirect(url_for("organization.show", organization_id=organization_id), 303)


def _page(text: dict[str, str], faults: dict[str, str]) -> Response:
    search = clean(request.args.get("q", "")).strip()[:_SEARCH_CHARS]
    try:
        after = uuid.UUID(request.args["after"]) if request.args.get("after") else None
    except ValueError:
        after = None
    rows = organizations.rows(organization.actor(), after, search)
    values: dict[str, Any] = {"rows": rows, "more": len(rows) == organizations.PAGE, "search": search}
    if errors.is_htmx() and request.method == "GET":
        part = "organization/_rows.html" if after else "organization/_list.html"
        response = make_response(render_template(part, **values))
    else:
        more = {"text": text, "faults": faults, "zones": organizations.time_zones()}
        response = make_response(render_template("organization/list.html", **values, **more))
    response.vary.add("HX-Request")
    return response
