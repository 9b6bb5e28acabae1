"""The organization that one works in: which one that is, switching, leaving, and what its pages have in common."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any

from flask import Blueprint, Flask, current_app, flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from flask_login import current_user

from webapp.contracts.errors import NotFound
from webapp.models import PersonRole
from webapp.services import memberships, organizations
from webapp.services.organizations import Actor, Mine, Place
from webapp.web import auth

blueprint = Blueprint("organization", __name__)
blueprint.before_request(auth.require_sign_in)

ROLE_WORDS = {
    PersonRole.MEMBER: "member",
    PersonRole.MANAGER: "manager",
    PersonRole.ADMIN: "administrator",
}
HEADER_MAX = 9
"""Organizations that the line at the top of every page offers; the page of them has all."""
_ELSEWHERE = (("/organization/usage", "Usage"),)
"""Pages of the organization that one works in, where they are installed."""


@dataclass(frozen=True, slots=True)
class Tab:
    """A page of an organization."""

    area: str
    href: str
    label: str


def prepare(app: Flask) -> None:
    """Give the templates what the line at the top offers."""
    app.jinja_env.globals.update(my_organizations=my_organizations, role_words=ROLE_WORDS)


def my_organizations() -> list[Mine]:
    """The first organizations of whoever is signed in."""
    return organizations.of_person(current_user.id, HEADER_MAX) if current_user.is_authenticated else []


def actor() -> Actor:
    """Whoever is signed in."""
    return Actor.person(auth.me().id)


def stand(organization_id: uuid.UUID, at_least: PersonRole = PersonRole.MEMBER) -> Place:
    """The organization as whoever is signed in stands in it. `NotFound`, `NotAllowed`."""
    return organizations.place(actor(), organization_id, at_least)


def page(template: str, place: Place, area: str, **values: Any) -> str:
    """A page of an organization, with its tabs."""
    return render_template(template, place=place, organization=place.organization, tabs=_tabs(place), area=area, **values)


def _tabs(place: Place) -> list[Tab]:
    key = place.organization.id
    tabs = [Tab("overview", url_for("organization.show", organization_id=key), "Overview")]
    if place.at_least(PersonRole.MANAGER):
        tabs.append(Tab("members", url_for("organization_people.members", organization_id=key), "Members"))
        tabs.append(Tab("invitations", url_for("organization_people.invitations", organization_id=key), "Invitations"))
        if key == auth.me().organization_id:
            there = {rule.rule for rule in current_app.url_map.iter_rules()}
            tabs += [Tab(label.lower(), path, label) for path, label in _ELSEWHERE if path in there]
    tabs.append(Tab("limits", url_for("organization_limits.show", organization_id=key), "Limits"))
    if place.at_least(PersonRole.MANAGER):
        tabs.append(Tab("webhooks", url_for("organization_webhooks.index", organization_id=key), "Webhooks"))
    if place.at_least(PersonRole.ADMIN):
        tabs.append(Tab("providers", url_for("organization_settings.providers", organization_id=key), "Providers"))
        tabs.append(Tab("settings", url_for("organization_settings.show", organization_id=key), "Settings"))
    return tabs


@blueprint.get("/organization")
def here() -> ResponseReturnValue:
    """The organization that one works in."""
    return show(auth.me().organization_id)


@blueprint.get("/organization/<uuid:organization_id>")
def show(organization_id: uuid.UUID) -> ResponseReturnValue:
    """One's place in an organization, and the others that one is in."""
    place = stand(organization_id)
    return page("organization/overview.html", place, "overview", mine=organizations.of_person(auth.me().id))


@blueprint.post("/organization/switch")
def switch() -> ResponseReturnValue:
    """Go on in another organization."""
    try:
        organization_id = uuid.UUID(request.form.get("organization", ""))
    except ValueError:
        raise NotFound("There is no such organization.") from None
    memberships.switch(actor(), auth.me().id, organization_id)
    flash(f"You are working in {stand(organization_id).organization.name} now.")
    return redirect(url_for("organization.here"), 303)


@blueprint.post("/organization/<uuid:organization_id>/leave")
def leave(organization_id: uuid.UUID) -> ResponseReturnValue:
    """Be a member no longer."""
    place = stand(organization_id)
    memberships.remove(actor(), organization_id, auth.me().id)
    flash(f"You left {place.organization.name}.")
    return redirect(url_for("organization.here"), 303)
