"""What is set for an organization: name, time zone, alerts, and its providers. For its administrators."""

from __future__ import annotations

import uuid
from collections.abc import Mapping

from flask import Blueprint, flash, redirect, request, url_for
from flask.typing import ResponseReturnValue

from webapp.contracts.errors import BadInput, Conflict, NotAllowed
from webapp.contracts.texts import clean
from webapp.extensions import limiter
from webapp.models import PersonRole
from webapp.services import organization_providers, organizations
from webapp.services.organization_providers import OrganizationProviderView
from webapp.services.organizations import Place
from webapp.web import auth, dashboard, organization

blueprint = Blueprint("organization_settings", __name__, url_prefix="/organization/<uuid:organization_id>")
blueprint.before_request(auth.require_sign_in)

_FIELDS = ("name", "time_zone", "alert_percents")
_TEXT_MAX = 300


@blueprint.get("/settings")
def show(organization_id: uuid.UUID) -> ResponseReturnValue:
    """The form."""
    place = organization.stand(organization_id, PersonRole.ADMIN)
    return _page(place, _as_stored(place), {})


@blueprint.post("/settings")
def change(organization_id: uuid.UUID) -> ResponseReturnValue:
    """Save what was typed."""
    place = organization.stand(organization_id, PersonRole.ADMIN)
    text = {name: clean(request.form.get(name, "")).strip()[:_TEXT_MAX] for name in _FIELDS}
    try:
        wanted = organizations.Change(**text)
        organizations.change(organization.actor(), organization_id, _version(), wanted)
    except BadInput as exc:
        return _page(place, text, {exc.field: exc.message}), 422
    except Conflict as exc:
        return _page(place, text, {}, conflict=exc.message), 409
    flash("The settings were saved.")
    return redirect(url_for("organization_settings.show", organization_id=organization_id), 303)


@blueprint.post("/state")
def set_active(organization_id: uuid.UUID) -> ResponseReturnValue:
    """Close the organization, or open it again: for administrators of the installation."""
    place = organization.stand(organization_id, PersonRole.ADMIN)
    if not place.house:
        raise NotAllowed("This is for administrators of the installation.")
    active = request.form.get("to") == "open"
    try:
        organizations.set_active(organization.actor(), organization_id, active, _version())
    except Conflict as exc:
        return _page(place, _as_stored(place), {}, conflict=exc.message), 409
    flash(f"{place.organization.name} is {'open' if active else 'closed: nobody is served in it'} now.")
    return redirect(url_for("organization_settings.show", organization_id=organization_id), 303)


def _version() -> int:
    text = request.form.get("seen", "")
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise BadInput("seen", "Load the page again, and then change it.")
    return int(text)


def _as_stored(place: Place) -> dict[str, str]:
    found = place.organization
    percents = ", ".join(str(percent) for percent in found.alert_percents or ())
    return {"name": found.name, "time_zone": found.time_zone, "alert_percents": percents}


def _page(place: Place, text: Mapping[str, str], faults: Mapping[str, str], conflict: str = "") -> str:
    usual = ", ".join(str(percent) for percent in organizations.usual_percents()) or "never"
    return organization.page(
        "organization/settings.html",
        place,
        "settings",
        text=text,
        faults=faults,
        conflict=conflict,
        zones=organizations.time_zones(),
        usual_percents=usual,
        name_chars=organizations.NAME_CHARS,
    )


# -- providers -----------------------------------------------------------------------------------------------------------
@blueprint.get("/providers")
def providers(organization_id: uuid.UUID) -> ResponseReturnValue:
    """Which providers the organization's people are served by."""
    place = organization.stand(organization_id, PersonRole.ADMIN)
    views = organization_providers.overview(organization.actor(), organization_id)
    return organization.page("organization/providers.html", place, "providers", views=views)


@blueprint.get("/providers/<name>")
def provider(organization_id: uuid.UUID, name: str) -> ResponseReturnValue:
    """One of them."""
    place = organization.stand(organization_id, PersonRole.ADMIN)
    view = organization_providers.show(organization.actor(), organization_id, name)
    return _provider(place, view, view.enabled, view.default_model, {})


@blueprint.post("/providers/<name>")
@limiter.limit("30/minute;300/hour", key_func=dashboard.of_person)
def change_provider(organization_id: uuid.UUID, name: str) -> ResponseReturnValue:
    """Save what was typed. Asks once before a key is removed."""
    place = organization.stand(organization_id, PersonRole.ADMIN)
    view = organization_providers.show(organization.actor(), organization_id, name)
    form = request.form
    enabled, model = bool(form.get("enabled")), clean(form.get("default_model", "")).strip()[:200]
    typed = {key.variable.name: form.get(f"key-{key.variable.name}", "").strip() for key in view.keys}
    removed = [key.variable.name for key in view.keys if key.hint and form.get(f"remove-{key.variable.name}")]
    removed = [variable for variable in removed if not typed[variable]]
    lost = any(typed.values())
    if removed and form.get("confirmed", "") != " ".join(removed):
        return _provider(place, view, enabled, model, {}, confirm=removed, lost=lost)
    keys = {variable: text for variable, text in typed.items() if text} | dict.fromkeys(removed, "")
    wanted = organization_providers.Change(enabled, model, keys)
    try:
        organization_providers.change(organization.actor(), organization_id, name, form.get("seen", ""), wanted)
    except BadInput as exc:
        return _provider(place, view, enabled, model, {exc.field: exc.message}, lost=lost), 422
    except Conflict as exc:
        return _provider(place, view, enabled, model, {}, conflict=exc.message, lost=lost), 409
    flash(f"{view.label} was saved.")
    return redirect(url_for("organization_settings.provider", organization_id=organization_id, name=name), 303)


def _provider(
    place: Place,
    view: OrganizationProviderView,
    enabled: bool,
    model: str,
    faults: Mapping[str, str],
    *,
    conflict: str = "",
    confirm: list[str] | None = None,
    lost: bool = False,
) -> str:
    return organization.page(
        "organization/provider.html",
        place,
        "providers",
        view=view,
        enabled=enabled,
        model=model,
        faults=faults,
        conflict=conflict,
        confirm=confirm or [],
        lost=lost,
    )
