"""What the link of an invitation leads to: joining as who one is, or as somebody new."""

from __future__ import annotations

import logging
import uuid

from flask import Blueprint, flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from flask_limiter.util import get_remote_address
from flask_login import current_user
from sqlalchemy.orm import Session

from webapp.contracts.errors import BadInput, Conflict, NotFound
from webapp.contracts.texts import clean
from webapp.extensions import limiter, reading
from webapp.models import Person
from webapp.services import invitations, organizations, passwords
from webapp.services.invitations import Gone, Offer
from webapp.web import auth

log = logging.getLogger(__name__)

blueprint = Blueprint("join", __name__)


@blueprint.get("/join/<token>")
@limiter.limit("30/minute;300/hour", key_func=get_remote_address)
def show(token: str) -> ResponseReturnValue:
    """Who invites to what. 404 for a link that never led anywhere, 410 for one that does so no more."""
    try:
        offer = invitations.look(token)
    except (NotFound, Gone) as exc:
        return _nowhere(exc)
    return _page(token, offer)


@blueprint.post("/join/<token>")
@limiter.limit("10/minute;50/hour", key_func=get_remote_address)
def accept(token: str) -> ResponseReturnValue:
    """Join. Only what led nowhere counts towards the limits."""
    try:
        offer = invitations.look(token)
        if current_user.is_authenticated:
            invitations.accept(token, auth.me().id)
        else:
            name, password = clean(request.form.get("name", "")), request.form.get("password", "")
            person_id = invitations.accept_as_new(token, name, password)
            _enter(person_id)
    except (NotFound, Gone) as exc:
        return _nowhere(exc)
    except (BadInput, Conflict) as exc:
        field = exc.field if isinstance(exc, BadInput) else "name"
        return _page(token, offer, {field if field in ("name", "password") else "name": exc.message}), auth.FAILED
    auth.uncount()
    flash(f"Welcome to {offer.organization}.")
    return redirect(url_for("organization.here"), 303)


def _page(token: str, offer: Offer, faults: dict[str, str] | None = None) -> str:
    mine = organizations.of_person(auth.me().id) if current_user.is_authenticated else []
    return render_template(
        "organization/join.html",
        token=token,
        offer=offer,
        faults=faults or {},
        name=clean(request.form.get("name", "")).strip()[:255],
        min_chars=passwords.MIN_CHARS,
        working_in=mine[0] if mine else None,
        member_already=next((each for each in mine if each.id == offer.organization_id), None),
    )


def _nowhere(exc: NotFound | Gone) -> ResponseReturnValue:
    status = 410 if isinstance(exc, Gone) else 404
    log.info("an invitation's link led nowhere, for %s", request.remote_addr)
    return render_template("organization/nowhere.html", message=exc.message, status=status), status


def _enter(person_id: uuid.UUID) -> None:
    with reading() as connection, Session(bind=connection, expire_on_commit=False) as own:
        person = own.get_one(Person, person_id)
        own.expunge_all()
    auth.enter(person)
