"""The receipt of one request: for the person who made it, their organization's managers, and administrators."""

from __future__ import annotations

import uuid

from flask import Blueprint, render_template
from flask.typing import ResponseReturnValue

from webapp.pipeline import words
from webapp.services import receipts
from webapp.web import auth

blueprint = Blueprint("requests", __name__, url_prefix="/dashboard/requests")
blueprint.before_request(auth.require_sign_in)


@blueprint.get("/<uuid:request_id>")
def show(request_id: uuid.UUID) -> ResponseReturnValue:
    """The page. Managers read no texts of others."""
    me = auth.me()
    found = receipts.receipt_for(me.id, request_id)
    return render_template(
        "dashboard/request.html",
        r=found,
        texts=me.is_admin or found.person_id == me.id,
        truth=me.is_admin,
        label=words.counter_label,
    )
