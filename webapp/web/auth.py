"""Signing in and out, and who is signed in."""

from __future__ import annotations

import logging
import uuid
from contextlib import suppress
from datetime import timedelta
from typing import cast

import redis
from flask import Blueprint, Flask, make_response, redirect, render_template, request, session, url_for
from flask.typing import ResponseReturnValue
from flask_limiter.util import get_remote_address
from flask_login import current_user, login_user, logout_user
from sqlalchemy import select
from sqlalchemy.orm import Session, joinedload

from webapp.contracts.texts import clean
from webapp.extensions import limiter, login, reading
from webapp.models import Person
from webapp.services import people
from webapp.settings import Settings
from webapp.web import errors

log = logging.getLogger(__name__)

blueprint = Blueprint("auth", __name__)

WRONG = "This e-mail and password do not fit together. Check both, or ask the operator for a new password."
FAILED = 422


def prepare(app: Flask, settings: Settings) -> None:
    """Say how long a sign-in lasts, and what happens without one."""
    app.permanent_session_lifetime = timedelta(days=settings.session_days)
    # Or an answer that was under way while somebody signed out would bring their cookie back.
    app.config["SESSION_REFRESH_EACH_REQUEST"] = False
    # Phones change their address all day; the cookie is signed and holds the person's session key.
    login.session_protection = None
    login.user_loader(person_of_session)
    login.unauthorized_handler(_ask_to_sign_in)


def person_of_session(value: str) -> Person | None:
    """The active person of a sign-in cookie (`id:session_key`), by one statement; None if it is void."""
    person_id, _, key = value.partition(":")
    try:
        known_id = uuid.UUID(person_id)
    except ValueError:
        return None
    query = (
        select(Person)
        .options(joinedload(Person.plan), joinedload(Person.organization))
        .where(Person.id == known_id, Person.session_key == key, Person.active)
    )
    # A session of its own, closed at once: a page that waits or streams holds no connection for knowing its reader.
    with reading() as connection, Session(bind=connection, expire_on_commit=False) as own:
        person = own.scalar(query)
        own.expunge_all()
    return person


def me() -> Person:
    """Who is signed in; only behind `require_sign_in`."""
    return cast(Person, current_user._get_current_object())


def here() -> tuple[uuid.UUID, uuid.UUID]:
    """Who is signed in, and the organization that they are working in: whose things a page shows."""
    person = me()
    return person.id, person.organization_id


def require_sign_in() -> ResponseReturnValue | None:
    """For `before_request` of a blueprint whose pages are for people who are signed in."""
    return None if current_user.is_authenticated else _ask_to_sign_in()


def _ask_to_sign_in() -> ResponseReturnValue:
    if errors.wants_json() or request.accept_mimetypes.best == "text/event-stream":
        return errors.answer(401)
    if errors.is_htmx() and not request.form.get("text"):
        response = make_response("", 401)
        response.headers["HX-Redirect"] = url_for("auth.sign_in")
        return response
    if request.form.get("text"):
        return errors.signed_out()
    here = request.full_path.rstrip("?") if request.method == "GET" else None
    return redirect(url_for("auth.sign_in", next=None if here == "/" else here), 303)


def local(target: str) -> str:
    """`target` if it is a path on this very site, else the home page: a link must not lead people elsewhere by our name."""
    harmless = target.startswith("/") and not target.startswith("//")
    if not harmless or "\\" in target or any(ord(char) <= 32 or ord(char) == 127 for char in target):
        return url_for("chat.home")
    return target


def _address_and_account() -> str:
    return f"{get_remote_address()} {clean(request.form.get('email', '')).strip().lower()[:254]}"


def uncount() -> None:
    """Take back what the limits of this view counted for this request: it was no guess.

    They count before the view and not after it: checking a password takes a while, and a burst of guesses would all be under
    way before the first was counted.
    """
    for counted in limiter.current_limits:
        with suppress(redis.RedisError):
            limiter.limiter.storage.incr(counted.key, counted.limit.get_expiry(), amount=-1)


@blueprint.get("/login")
def sign_in() -> ResponseReturnValue:
    """The form."""
    target = request.args.get("next", "")
    if current_user.is_authenticated:
        return redirect(local(target), 303)
    return render_template("auth/login.html", next=target, email="", message="")


@blueprint.post("/login")
@limiter.limit("10/minute;50/hour", key_func=_address_and_account)
@limiter.limit("60/minute;400/hour", key_func=get_remote_address)
def try_to_sign_in() -> ResponseReturnValue:
    """Let somebody in who knows their password. Only failures count towards the limits."""
    email, target = clean(request.form.get("email", "")), request.form.get("next", "")
    person = people.sign_in(email, request.form.get("password", ""))
    if person is None:
        log.warning("a sign-in from %s failed", request.remote_addr)
        return render_template("auth/login.html", next=target, email=email, message=WRONG), FAILED
    uncount()
    enter(person)
    return redirect(local(target), 303)


def enter(person: Person) -> None:
    """Begin a session; nothing of an earlier one is kept."""
    session.clear()
    login_user(person)
    session.permanent = True


@blueprint.post("/logout")
def sign_out() -> ResponseReturnValue:
    """End the session in this browser.

    The cookie is all there is of a session: whoever copied it before could go on with the copy until it expires. Ending that
    too takes a new session key, which ends the sessions on all devices, so it is a button of its own in the settings.
    """
    logout_user()
    session.clear()
    return redirect(url_for("auth.sign_in"), 303)
