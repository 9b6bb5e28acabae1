"""A person's own settings: the password, and what is used of the plan."""

from __future__ import annotations

from flask import Blueprint, flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from sqlalchemy import select

from webapp.contracts.errors import BadInput
from webapp.extensions import limiter, reading
from webapp.models import Identity, Person
from webapp.services import passwords, people, sessions, usage
from webapp.web import auth

blueprint = Blueprint("settings", __name__)
blueprint.before_request(auth.require_sign_in)


@blueprint.get("/settings")
def show() -> ResponseReturnValue:
    """The page."""
    return _page(auth.me(), {})


@blueprint.post("/settings/password")
@limiter.limit("10/minute;30/hour", key_func=lambda: str(auth.me().id))
def change_password() -> ResponseReturnValue:
    """Change one's own password. All other sessions end, this one goes on."""
    person = auth.me()
    old, new, again = (request.form.get(name, "") for name in ("old", "new", "again"))
    faults: dict[str, str] = {}
    if not passwords.matches(person.password_hash, old):
        faults["old"] = "This is not your present password."
    elif new != again:
        faults["again"] = "The two new passwords differ."
    else:
        try:
            people.set_password(person.id, new, actor=f"person:{person.id}")
        except BadInput as exc:
            faults["new"] = exc.message
    if faults:
        return _page(person, faults), auth.FAILED
    auth.uncount()
    auth.enter(_fresh(person))
    flash("Your password was changed. Every other device was signed out.")
    return redirect(url_for("settings.show"), 303)


@blueprint.post("/settings/sessions/end")
def end_sessions() -> ResponseReturnValue:
    """End one's sessions on all other devices, and whatever was done with a copy of this one's cookie."""
    person = auth.me()
    person.session_key = sessions.end_all(person.id, actor=f"person:{person.id}")
    auth.enter(person)
    flash("You are signed out everywhere else.")
    return redirect(url_for("settings.show"), 303)


def _fresh(person: Person) -> Person:
    """The person with the session key that the new password made."""
    with reading() as connection:
        person.session_key = connection.execute(select(Person.session_key).where(Person.id == person.id)).scalar_one()
    return person


def _page(person: Person, faults: dict[str, str]) -> str:
    with reading() as connection:
        query = select(Identity.address, Identity.opted_out_at).where(Identity.person_id == person.id, Identity.medium == "sms")
        phones = connection.execute(query.order_by(Identity.id)).all()
    return render_template(
        "settings/page.html",
        person=person,
        phones=phones,
        faults=faults,
        usage=usage.usage_of(person.id, organization_id=person.organization_id),
        min_chars=passwords.MIN_CHARS,
    )
