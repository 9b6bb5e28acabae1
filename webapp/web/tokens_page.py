"""A person's own API tokens: what there is, a new one, and its end."""

from __future__ import annotations

import uuid
from collections.abc import Mapping

from flask import Blueprint, flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from webapp.contracts.errors import BadInput, Conflict, NotAllowed
from webapp.contracts.texts import clean
from webapp.extensions import current_settings, limiter
from webapp.models import Person, PersonRole
from webapp.services import limits, organizations, people, personal_tokens
from webapp.services.organizations import RANK, Mine
from webapp.services.personal_tokens import Maker, NewToken
from webapp.web import auth, once

blueprint = Blueprint("personal_tokens", __name__, url_prefix="/settings/tokens")
blueprint.before_request(auth.require_sign_in)

PAGE = 20
SCOPES = {
    "chat": "Ask models, by /v1 and /api, and read what was asked with it",
    "read": "Read what is yours: requests, conversations, templates, usage",
    "write": "Make and change what is yours: requests, batches, templates, tokens",
    "admin": "Act as a manager or administrator, as far as you are one",
    "sms": "Send text messages to any number",
}
ENDS = {"7": "in a week", "30": "in 30 days", "90": "in 90 days", "365": "in a year", "": "never"}
USUAL_END = "90"
_MADE_BEFORE = (
    "This token was made already, and no second one: it is the latest below. It was shown once; if you could not copy it, "
    "revoke it and make another."
)


@blueprint.get("")
def show() -> ResponseReturnValue:
    """The page; with `after`, for the page's own script, the next lines alone."""
    after = _id(request.args.get("after", ""))
    if after is not None and request.headers.get("HX-Request") == "true":
        return render_template("settings/_token_lines.html", **_lines(auth.me(), after))
    return _page({}, {}, after=after)


@blueprint.post("")
@limiter.limit("30/hour", key_func=lambda: str(auth.me().id))
def create() -> ResponseReturnValue:
    """Make a token and show it: this one time, so there is no other page to be led to."""
    me, form = auth.me(), request.form
    days = form.get("days", "")
    scopes = [clean(scope)[:20] for scope in form.getlist("scopes")]
    typed = {"name": clean(form.get("name", ""))[:255], "days": days, "organization": form.get("organization", "")}
    try:
        if days not in ENDS:
            raise BadInput("days", "Choose when it ends.")
        place = _id(typed["organization"])
        if typed["organization"] and place is None:
            raise BadInput("organization_id", "There is no such organization among yours.")
        maker = Maker(me.id, me.organization_id, frozenset(people.SCOPES))
        wanted = NewToken(typed["name"], scopes, int(days) if days else None, place)
        with once.carried_out():
            clear, made = personal_tokens.create(maker, wanted)
    except BadInput as exc:
        return _page({exc.field: exc.message}, typed, scopes), auth.FAILED
    except NotAllowed as exc:
        return _page({"scopes": exc.message}, typed, scopes), auth.FAILED
    except once.SentBefore:
        flash(_MADE_BEFORE)
        return redirect(url_for("personal_tokens.show"), 303)
    except Conflict as exc:
        return _page({"name": exc.message}, typed, scopes), 409
    return _page({}, {}, made=made, clear=clear)


@blueprint.post("/<uuid:token_id>/revoke")
def revoke(token_id: uuid.UUID) -> ResponseReturnValue:
    """End one of one's own tokens at once."""
    name = personal_tokens.show(auth.me().id, token_id).name
    personal_tokens.revoke(auth.me().id, token_id)
    flash(f"The token “{name}” is revoked: nothing that uses it works any more.")
    return redirect(url_for("personal_tokens.show"), 303)


def _page(
    faults: Mapping[str, str],
    typed: Mapping[str, str],
    scopes: list[str] | None = None,
    after: uuid.UUID | None = None,
    **more: object,
) -> str:
    me = auth.me()
    places = organizations.of_person(me.id)
    return render_template(
        "settings/tokens.html",
        faults=faults,
        typed=typed,
        chosen=["chat", "read"] if scopes is None else scopes,
        scopes=_offered(me, places),
        ends=ENDS,
        usual_end=USUAL_END,
        once_key=once.new_key(),
        places=[place for place in places if place.active],
        address=current_settings().public_url.rstrip("/") or request.host_url.rstrip("/"),
        **_lines(me, after),
        **more,
    )


def _lines(me: Person, after: uuid.UUID | None) -> dict[str, object]:
    found, next_id = personal_tokens.rows(me.id, after, PAGE)
    names = {place.id: place.name for place in organizations.of_person(me.id)}
    return {"tokens": found, "next_id": next_id, "names": names, "describe": limits.describe}


def _offered(me: Person, places: list[Mine]) -> dict[str, str]:
    """The scopes that a token of theirs may have somewhere."""
    manages = me.is_admin or any(RANK[place.role] >= RANK[PersonRole.MANAGER] for place in places)
    return {
        scope: words for scope, words in SCOPES.items() if (scope != "admin" or manages) and (scope != "sms" or me.is_admin)
    }


def _id(text: str) -> uuid.UUID | None:
    try:
        return uuid.UUID(text)
    except ValueError:
        return None
