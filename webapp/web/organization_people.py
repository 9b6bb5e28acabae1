"""An organization's members and invitations, for its managers."""

from __future__ import annotations

import uuid
from typing import Any

from flask import Blueprint, Response, flash, make_response, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from webapp.contracts.errors import BadInput, Conflict, NotFound, Refusal
from webapp.contracts.texts import clean
from webapp.extensions import current_settings, limiter
from webapp.models import PersonRole
from webapp.services import invitations as inviting
from webapp.services import limits, member_tokens, memberships
from webapp.services.invitations import Made
from webapp.services.organizations import Place
from webapp.web import auth, dashboard, errors, organization

blueprint = Blueprint("organization_people", __name__, url_prefix="/organization/<uuid:organization_id>")
blueprint.before_request(auth.require_sign_in)


# -- members -------------------------------------------------------------------------------------------------------------
@blueprint.get("/members")
def members(organization_id: uuid.UUID) -> ResponseReturnValue:
    """The people, a page at a time; for the page's own script the lines only."""
    return _members(organization.stand(organization_id, PersonRole.MANAGER))


@blueprint.post("/members")
def add(organization_id: uuid.UUID) -> ResponseReturnValue:
    """Put somebody known into the organization: for administrators of the installation."""
    place = organization.stand(organization_id, PersonRole.MANAGER)
    who = clean(request.form.get("who", "")).strip()
    try:
        member = memberships.add(organization.actor(), organization_id, who, _role())
    except (BadInput, Conflict, NotFound) as exc:
        return _members(place, faults={"who": exc.message}, who=who), _status(exc)
    flash(f"{member.title} is in {place.organization.name} now.")
    return redirect(url_for("organization_people.members", organization_id=organization_id), 303)


@blueprint.post("/members/<uuid:person_id>/role")
def change_role(organization_id: uuid.UUID, person_id: uuid.UUID) -> ResponseReturnValue:
    """Make a member something else."""
    organization.stand(organization_id, PersonRole.ADMIN)
    seen = memberships.role_named(clean(request.form.get("seen", "")))
    member = memberships.change_role(organization.actor(), organization_id, person_id, _role(), seen)
    flash(f"{member.title} is {_as(member.role)} now.")
    return redirect(url_for("organization_people.members", organization_id=organization_id), 303)


@blueprint.post("/members/<uuid:person_id>/remove")
def remove(organization_id: uuid.UUID, person_id: uuid.UUID) -> ResponseReturnValue:
    """End somebody's membership."""
    place = organization.stand(organization_id, PersonRole.MANAGER)
    member = memberships.show(organization.actor(), organization_id, person_id)
    memberships.remove(organization.actor(), organization_id, person_id)
    flash(f"{member.title} is in {place.organization.name} no longer.")
    if person_id == auth.me().id and not place.house:
        return redirect(url_for("organization.here"), 303)
    return redirect(url_for("organization_people.members", organization_id=organization_id), 303)


# -- their tokens --------------------------------------------------------------------------------------------------------
@blueprint.get("/members/<uuid:person_id>/tokens")
def tokens(organization_id: uuid.UUID, person_id: uuid.UUID) -> ResponseReturnValue:
    """A member's tokens that work here and are not revoked, a page at a time."""
    place = organization.stand(organization_id, PersonRole.MANAGER)
    member = memberships.show(organization.actor(), organization_id, person_id)
    after = _uuid(request.args.get("after"))
    found, next_id = member_tokens.rows(organization.actor(), person_id, organization_id, after, active=True)
    may = place.at_least(PersonRole.ADMIN) or member.role is PersonRole.MEMBER or person_id == auth.me().id
    values: dict[str, Any] = {"member": member, "tokens": found, "next_id": next_id, "after": after, "may": may}
    return organization.page("organization/member_tokens.html", place, "members", describe=limits.describe, **values)


@blueprint.post("/members/<uuid:person_id>/tokens/<uuid:token_id>/revoke")
def revoke_token(organization_id: uuid.UUID, person_id: uuid.UUID, token_id: uuid.UUID) -> ResponseReturnValue:
    """End a member's token at once."""
    organization.stand(organization_id, PersonRole.MANAGER)
    token = member_tokens.revoke(organization.actor(), person_id, token_id, organization_id)
    flash(f"The token “{token.name}” is revoked: nothing that uses it works any more.")
    return redirect(url_for("organization_people.tokens", organization_id=organization_id, person_id=person_id), 303)


def _members(place: Place, *, faults: dict[str, str] | None = None, who: str = "") -> Response:
    search = clean(request.args.get("q", "")).strip()[: memberships.SEARCH_CHARS]
    after = _uuid(request.args.get("after"))
    lines = memberships.rows(organization.actor(), place.organization.id, after, search)
    values: dict[str, Any] = {
        "members": lines,
        "more": len(lines) == memberships.PAGE,
        "search": search,
        "me": auth.me().id,
        "roles": list(PersonRole),
    }
    if errors.is_htmx() and request.method == "GET":
        part = "organization/_member_lines.html" if after else "organization/_members.html"
        response = make_response(render_template(part, place=place, organization=place.organization, **values))
    else:
        response = make_response(
            organization.page("organization/members.html", place, "members", faults=faults or {}, who=who, **values)
        )
    response.vary.add("HX-Request")
    return response


# -- invitations ---------------------------------------------------------------------------------------------------------
@blueprint.get("/invitations")
def invitations(organization_id: uuid.UUID) -> ResponseReturnValue:
    """Who was invited, the latest first; for the page's own script the lines only."""
    return _invitations(organization.stand(organization_id, PersonRole.MANAGER))


@blueprint.post("/invitations")
@limiter.limit("30/hour;100/day", key_func=dashboard.of_person)
def invite(organization_id: uuid.UUID) -> ResponseReturnValue:
    """Invite an address; where nothing carries the link, the page shows it, once."""
    place = organization.stand(organization_id, PersonRole.MANAGER)
    address = clean(request.form.get("address", "")).strip()[:254]
    try:
        made = inviting.create(organization.actor(), organization_id, address, _role(), _link)
    except (BadInput, Conflict) as exc:
        field = exc.field if isinstance(exc, BadInput) else "address"
        return _invitations(place, faults={field: exc.message}, address=address), _status(exc)
    return _invitations(place, made=made)


@blueprint.post("/invitations/<uuid:invitation_id>/resend")
@limiter.limit("30/hour;100/day", key_func=dashboard.of_person)
def resend(organization_id: uuid.UUID, invitation_id: uuid.UUID) -> ResponseReturnValue:
    """Give an invitation a new link; where nothing carries it, the page shows it, once."""
    place = organization.stand(organization_id, PersonRole.MANAGER)
    try:
        made = inviting.resend(organization.actor(), organization_id, invitation_id, _link)
    except BadInput as exc:
        return _invitations(place, faults={exc.field: exc.message}), 422
    return _invitations(place, made=made)


@blueprint.post("/invitations/<uuid:invitation_id>/revoke")
def revoke(organization_id: uuid.UUID, invitation_id: uuid.UUID) -> ResponseReturnValue:
    """Take an invitation back."""
    organization.stand(organization_id, PersonRole.MANAGER)
    inviting.revoke(organization.actor(), organization_id, invitation_id)
    flash("The invitation was taken back: its link leads nowhere any more.")
    return redirect(url_for("organization_people.invitations", organization_id=organization_id), 303)


def _invitations(
    place: Place, *, made: Made | None = None, faults: dict[str, str] | None = None, address: str = ""
) -> Response:
    before = _uuid(request.args.get("before"))
    lines = inviting.rows(organization.actor(), place.organization.id, before)
    roles = [role for role in PersonRole if role is PersonRole.MEMBER or place.at_least(PersonRole.ADMIN)]
    values: dict[str, Any] = {"invitations": lines, "more": len(lines) == inviting.PAGE, "roles": roles}
    if errors.is_htmx() and before and request.method == "GET":
        part = render_template("organization/_invitation_lines.html", place=place, organization=place.organization, **values)
        response = make_response(part)
    else:
        more = {"made": made, "faults": faults or {}, "address": address, "chosen": request.form.get("role", "member")}
        response = make_response(organization.page("organization/invitations.html", place, "invitations", **values, **more))
    if made is not None:
        # The link is in it.
        response.headers["Cache-Control"] = "no-store"
    response.vary.add("HX-Request")
    return response


def _link(token: str) -> str:
    path = url_for("join.show", token=token)
    return (current_settings().public_url or request.host_url).rstrip("/") + path


# -- parts ---------------------------------------------------------------------------------------------------------------
def _role() -> PersonRole:
    return memberships.role_named(clean(request.form.get("role", "")))


def _as(role: PersonRole) -> str:
    return f"{'an' if role is PersonRole.ADMIN else 'a'} {organization.ROLE_WORDS[role]}"


def _status(exc: Refusal) -> int:
    return 409 if isinstance(exc, Conflict) else 422


def _uuid(text: str | None) -> uuid.UUID | None:
    try:
        return uuid.UUID(text) if text else None
    except ValueError:
        return None
