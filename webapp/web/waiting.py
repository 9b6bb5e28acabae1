"""What somebody who waits for an answer is told meanwhile: a line of the exchange, renewed until the answer begins."""

from __future__ import annotations

import uuid

from flask import Blueprint, make_response, redirect, render_template, url_for
from flask.typing import ResponseReturnValue

from webapp.contracts.errors import NotFound
from webapp.services import history, waiting
from webapp.web import auth, errors

blueprint = Blueprint("waiting", __name__)
blueprint.before_request(auth.require_sign_in)


@blueprint.get("/requests/<uuid:request_id>/wait")
def show(request_id: uuid.UUID) -> ResponseReturnValue:
    """The line as it is now, empty once nothing is waited for; for anybody but the page's script, the exchange it is in."""
    if not history.owns(*auth.here(), request_id):
        raise NotFound("There is no such request.")
    found = waiting.estimate(request_id)
    if not errors.is_htmx():
        return redirect(url_for("chat.show", request_id=request_id), 303)
    response = make_response(render_template("chat/_wait.html", request_id=request_id, wait=found))
    response.headers["Cache-Control"] = "no-store"
    return response
