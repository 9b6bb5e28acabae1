"""What was set aside, for administrators: why, how often it was tried, and the ways to go on with it."""

from __future__ import annotations

import uuid
from collections.abc import Callable

from flask import Blueprint, abort, flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from webapp.contracts.errors import BadInput, NotFound, Refusal
from webapp.models import LetterState
from webapp.models.jobs import REASONS
from webapp.pipeline import replay
from webapp.services import actors, dead_letters
from webapp.web import auth, dashboard

blueprint = Blueprint("dead_letters", __name__, url_prefix="/dashboard/dead-letters")
blueprint.before_request(dashboard.for_administrators)

_AT_ONCE = 500
"""How many one press of a button puts back: the page has to answer."""
_TROUBLES_SHOWN = 5


@blueprint.get("")
def index() -> ResponseReturnValue:
    """The list, by reason and state."""
    reason, state = request.args.get("reason", ""), request.args.get("state", LetterState.OPEN)
    try:
        found = dead_letters.letters(reason, state, _after())
    except BadInput:
        abort(404)
    return render_template(
        "dashboard/dead_letters.html",
        letters=found,
        reasons=dead_letters.reasons(),
        reason=reason,
        state=state,
        states=list(LetterState),
        more=found[-1].request_id if len(found) == dead_letters.PAGE else None,
    )


@blueprint.get("/<uuid:request_id>")
def show(request_id: uuid.UUID) -> ResponseReturnValue:
    """One of them, with the whole of its last error."""
    try:
        letter = dead_letters.letter(request_id)
    except NotFound:
        abort(404)
    by = actors.names([letter.acted_by])[letter.acted_by]
    return render_template("dashboard/dead_letter.html", letter=letter, acted_by=by, meanings=REASONS)


@blueprint.post("/<uuid:request_id>/replay")
def replay_one(request_id: uuid.UUID) -> ResponseReturnValue:
    """Put one back on the road."""
    return _act(replay.replay, request_id, "The request is on the road again.")


@blueprint.post("/<uuid:request_id>/dismiss")
def dismiss(request_id: uuid.UUID) -> ResponseReturnValue:
    """Close the matter of one."""
    return _act(replay.dismiss, request_id, "The request was dismissed: it is not tried again unless somebody replays it.")


@blueprint.post("/replay")
def replay_all() -> ResponseReturnValue:
    """Put back all of a reason."""
    reason = request.form.get("reason", "")
    if reason not in REASONS:
        abort(404)
    done, troubles = 0, []
    for each in replay.replay_all(reason, dashboard.actor(), auth.me().id):
        if each.trouble:
            troubles.append(each.trouble)
        else:
            done += 1
        if done + len(troubles) >= _AT_ONCE:
            break
    flash(f"{done:,} {'request is' if done == 1 else 'requests are'} on the road again.")
    if troubles:
        why = " ".join(dict.fromkeys(troubles[:_TROUBLES_SHOWN]))
        flash(f"{len(troubles):,} could not be put back: {why}")
    if done + len(troubles) >= _AT_ONCE:
        flash("There may be more: press the button again.")
    return redirect(url_for("dead_letters.index", reason=reason))


def _act(act: Callable[[uuid.UUID, str, uuid.UUID], None], request_id: uuid.UUID, words: str) -> ResponseReturnValue:
    try:
        act(request_id, dashboard.actor(), auth.me().id)
        flash(words)
    except NotFound:
        abort(404)
    except Refusal as exc:
        flash(exc.message)
    return redirect(url_for("dead_letters.show", request_id=request_id))


def _after() -> uuid.UUID | None:
    try:
        return uuid.UUID(request.args["after"]) if "after" in request.args else None
    except ValueError:
        abort(404)
