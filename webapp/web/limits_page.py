"""Limits on pages: those of an organization, with its budget first, of a member, and of a token. Plans show theirs by the same
parts."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from flask import Blueprint, flash, redirect, request, url_for
from flask.templating import render_template
from flask.typing import ResponseReturnValue

from webapp.contracts.errors import BadInput, Conflict, NotFound
from webapp.contracts.limits import Dimension, Window
from webapp.contracts.texts import clean
from webapp.models import PersonRole
from webapp.services import limits, memberships, organizations, plan_changes, plans
from webapp.services.limits import Listed, Owner, Typed
from webapp.services.organizations import Place
from webapp.web import auth, organization

blueprint = Blueprint("organization_limits", __name__, url_prefix="/organization")
blueprint.before_request(auth.require_sign_in)
tokens = Blueprint("token_limits", __name__, url_prefix="/settings/tokens")
tokens.before_request(auth.require_sign_in)

DIMENSIONS = {
    Dimension.COST: "dollars",
    Dimension.REQUESTS: "requests",
    Dimension.TOKENS: "tokens",
    Dimension.CREDITS: "credits",
}
WINDOWS = {Window.HOUR: "hour", Window.DAY: "day", Window.MONTH: "month", Window.REQUEST: "single request"}
_TEXT_MAX = 600


@dataclass(slots=True)
class Form:
    """What was typed, and what is wrong with it. `at` is the form: the id of the limit that was edited, 'new', 'budget',
    'alerts' or 'plan'."""

    at: str = ""
    text: Mapping[str, str] = field(default_factory=dict)
    faults: Mapping[str, str] = field(default_factory=dict)
    conflict: str = ""

    def value(self, at: str, name: str, otherwise: str = "") -> str:
        """What a field shows: what was typed there, else what is stored."""
        return self.text.get(name, otherwise) if at == self.at else otherwise

    def faults_at(self, at: str) -> dict[str, str]:
        """Faults of one form of several on the page, by the names of its fields."""
        return {f"{at}-{name}": text for name, text in self.faults.items()} if at == self.at else {}


Render = Callable[[Listed, Form], str]


def answer(owner: Owner, render: Render, back: str) -> ResponseReturnValue:
    """The page of an owner's limits; for a form that was sent, what became of it."""
    if request.method == "GET":
        return render(limits.show(owner, organization.actor()), Form())
    form = Form(_act(), {name: clean(text).strip()[:_TEXT_MAX] for name, text in request.form.items()})
    # To those who may not see them there are none, whatever else is wrong with the form.
    limits.show(owner, organization.actor())
    try:
        said = _do(owner, form)
    except BadInput as exc:
        form.faults = {exc.field: exc.message}
        return render(limits.show(owner, organization.actor()), form), 422
    except (Conflict, NotFound) as exc:
        form.conflict = f"{exc.message} Below is what they are."
        return render(limits.show(owner, organization.actor()), form), 409
    flash(said)
    return redirect(back, 303)


def _act() -> str:
    act = request.form.get("do", "")
    if act in ("add", "budget", "alerts", "plan"):
        return "new" if act == "add" else act
    return clean(request.form.get("id", ""))[:40]


def _do(owner: Owner, form: Form) -> str:
    """Carry out what a form asks for; returns what is said of it."""
    actor, text, seen = organization.actor(), form.text, form.text.get("seen", "")
    act = text.get("do", "")
    if act == "add":
        made = limits.add(owner, _typed(text), actor, seen)
        return f"The limit was added: {limits.describe(made)}. What was used before counts."
    if act == "change":
        made = limits.change(owner, form.at, text.get("maximum", ""), actor, seen, label=text.get("label", ""))
        return f"The limit was saved: {limits.describe(made)}."
    if act == "remove":
        return f"The limit was removed: {limits.describe(limits.remove(owner, form.at, actor, seen))}."
    if act == "budget":
        budget = limits.set_budget(owner, text.get("budget", ""), actor, seen)
        return "There is no budget now." if budget is None else f"The budget is {limits.describe(budget)} now."
    if act == "alerts" and owner.organization_id is not None:
        wanted = organizations.Change(alert_percents=text.get("alert_percents", ""))
        organizations.change(actor, owner.organization_id, _version(seen), wanted)
        return "The alerts were saved."
    if act == "plan" and owner.organization_id is not None:
        changed = plan_changes.change_organization(owner.organization_id, text.get("plan", ""), text.get("reason", ""), actor)
        afresh = (
            f" The month of {changed.restarted:,} {'person' if changed.restarted == 1 else 'people'} starts afresh."
            if changed.restarted
            else ""
        )
        return f"The organization's plan is {changed.plan or 'none'} now.{afresh}"
    raise BadInput("do", "Load the page again, and then change it.")


def _version(seen: str) -> int:
    if not (seen.isascii() and seen.isdigit() and len(seen) < 10):
        raise BadInput("alert_percents", "Load the page again, and then change it.")
    return int(seen)


def _typed(text: Mapping[str, str]) -> Typed:
    return Typed(
        maximum=text.get("maximum", ""),
        dimension=text.get("dimension", ""),
        window=text.get("window", ""),
        provider=text.get("provider", ""),
        operation=text.get("operation", ""),
        each=bool(text.get("each")),
        by_house=bool(text.get("by_house")),
        label=text.get("label", ""),
    )


def choices() -> dict[str, object]:
    """What the parts of a template offer to choose from."""
    return {
        "dimensions": DIMENSIONS,
        "windows": WINDOWS,
        "providers": limits.providers(),
        "operations": limits.OPERATIONS,
    }


# -- an organization's ---------------------------------------------------------------------------------------------------
@blueprint.route("/limits", methods=["GET", "POST"])
def here() -> ResponseReturnValue:
    """Those of the organization that one works in."""
    return _organization(auth.me().organization_id, url_for("organization_limits.here"))


@blueprint.route("/<uuid:organization_id>/limits", methods=["GET", "POST"])
def show(organization_id: uuid.UUID) -> ResponseReturnValue:
    """Budget, alerts and limits; members see them."""
    return _organization(organization_id, url_for("organization_limits.show", organization_id=organization_id))


def _organization(organization_id: uuid.UUID, back: str) -> ResponseReturnValue:
    place = organization.stand(organization_id)

    def render(listed: Listed, form: Form) -> str:
        now = organization.stand(organization_id)
        percents = ", ".join(str(percent) for percent in now.organization.alert_percents or ())
        usual = ", ".join(str(percent) for percent in organizations.usual_percents()) or "never"
        more = {"percents": percents, "usual_percents": usual, "action": back, "plans": plans.names() if now.house else []}
        return _page("organization/limits.html", now, "limits", listed, form, **more)

    return answer(Owner.organization(place.organization.id), render, back)


@blueprint.route("/<uuid:organization_id>/members/<uuid:person_id>/limits", methods=["GET", "POST"])
def member(organization_id: uuid.UUID, person_id: uuid.UUID) -> ResponseReturnValue:
    """Those of one member, for managers; and one's own, to be seen."""
    organization.stand(organization_id)
    action = url_for("organization_limits.member", organization_id=organization_id, person_id=person_id)

    def render(listed: Listed, form: Form) -> str:
        place = organization.stand(organization_id)
        return _page(
            "organization/limits_member.html", place, "limits", listed, form, action=action, title=_name(place, person_id)
        )

    return answer(Owner.member(organization_id, person_id), render, action)


def _name(place: Place, person_id: uuid.UUID) -> str:
    if place.at_least(PersonRole.MANAGER):
        return memberships.show(organization.actor(), place.organization.id, person_id).title
    return "you"


def _page(template: str, place: Place, area: str, listed: Listed, form: Form, **more: object) -> str:
    return organization.page(template, place, area, listed=listed, form=form, **choices(), **more)


# -- a token's -----------------------------------------------------------------------------------------------------------
@tokens.route("/<uuid:token_id>/limits", methods=["GET", "POST"])
def token(token_id: uuid.UUID) -> ResponseReturnValue:
    """Those of one of one's own tokens."""
    action = url_for("token_limits.token", token_id=token_id)

    def render(listed: Listed, form: Form) -> str:
        return render_template("organization/limits_token.html", listed=listed, form=form, action=action, **choices())

    return answer(Owner.token(token_id), render, action)
