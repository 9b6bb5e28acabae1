"""Usage: one's own limits and this month, and those of the organization for its managers."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from flask import Blueprint, Flask, render_template, request
from flask.typing import ResponseReturnValue

from webapp.models import PersonRole
from webapp.quota.usage import Line
from webapp.services import usage, usage_organization
from webapp.web import auth, organization

blueprint = Blueprint("usage", __name__)
blueprint.before_request(auth.require_sign_in)
of_organization = Blueprint("organization_usage", __name__)
of_organization.before_request(auth.require_sign_in)

_OPERATIONS = {
    "chat": "chats",
    "content.generate": "content",
    "content.optimize": "optimisation",
    "content.suggest": "suggestions",
    "sentiment.analyze": "sentiment",
    "image.generate": "pictures",
    "image.palette": "palettes",
    "prompt.enhance": "better prompts",
}
_WHOSE = {"person": "", "organization": "the whole organization", "token": "this token", "other": "shared"}


def prepare(app: Flask) -> None:
    """Give the templates the words for limits."""
    app.jinja_env.filters.update(operations=operations)
    app.jinja_env.globals.update(whose_words=_WHOSE)


def operations(names: Sequence[str]) -> str:
    """Kinds of work for people: 'chats, pictures'."""
    return ", ".join(_OPERATIONS.get(name, name) for name in names)


def near() -> tuple[Line, ...]:
    """The limits of whoever is signed in that are used up or nearly so."""
    person = auth.me()
    return usage.near_limits(person.id, person.organization_id, person.organization.time_zone)


@blueprint.get("/usage")
def show() -> ResponseReturnValue:
    """One's own limits, and what this month cost."""
    person = auth.me()
    return render_template(
        "usage/page.html",
        usage=usage.usage_of(person.id, organization_id=person.organization_id),
        month=usage.month_of(person.id, person.organization_id, person.organization.time_zone),
        plan=person.plan,
    )


@of_organization.get("/organization/usage")
def show_organization() -> ResponseReturnValue:
    """The limits and the month of the organization that one works in, and its people a page at a time."""
    place = organization.stand(auth.me().organization_id, PersonRole.MANAGER)
    after = _uuid(request.args.get("after"))
    found = usage_organization.usage_of_organization(place.organization.id, after)
    return organization.page(
        "usage/organization.html", place, "usage", found=found, usage=found.usage, month=found.month, after=after
    )


def _uuid(text: str | None) -> uuid.UUID | None:
    try:
        return uuid.UUID(text) if text else None
    except ValueError:
        return None
