"""What people do with prompt templates: make, change, archive them.

Every change makes a version and names the version that its author saw: if somebody else was quicker it is a `Conflict`, and
nothing is changed. Who may do what stands in `webapp.services.templates`.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import ColumnElement, Connection, func, insert, select, update

from webapp.contracts.errors import BadInput, Conflict, NotAllowed
from webapp.contracts.texts import bare, clean
from webapp.extensions import now, table_of, writing
from webapp.models import AuditEntry, Template, TemplateScope, TemplateVersion
from webapp.models.columns import new_id
from webapp.quota.usage import OPERATIONS
from webapp.services import template_texts
from webapp.services.organizations import CHANGED
from webapp.services.template_texts import Variable
from webapp.services.templates import TemplateView, Viewer, current, seen, show

TEMPLATES_MAX = 1_000
"""Templates in use of one person, of one organization, and of everybody: a list looks through no more than these."""
NAME_CHARS = 120
DESCRIPTION_CHARS = 2_000
_CATEGORY = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}\Z")
_template, _version = table_of(Template), table_of(TemplateVersion)


@dataclass(frozen=True, slots=True)
class Draft:
    """A template as somebody wants it. `variables` describes those of the text that need it."""

    name: str
    text: str
    description: str = ""
    category: str = "general"
    operation: str = "chat"
    scope: str = TemplateScope.PERSONAL
    variables: Sequence[Variable] = ()
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Change:
    """What is to be different. None stays as it is; `variables` and `parameters` replace what was there."""

    name: str | None = None
    text: str | None = None
    description: str | None = None
    category: str | None = None
    operation: str | None = None
    scope: str | None = None
    variables: Sequence[Variable] | None = None
    parameters: Mapping[str, Any] | None = None


def create(viewer: Viewer, draft: Draft) -> TemplateView:
    """Make a template. Its parameters have been checked by the caller. `BadInput`; `NotAllowed` for a scope that is not theirs
    to fill; `Conflict` where there are too many."""
    values = _checked(draft)
    text, variables = template_texts.read(draft.text, draft.variables)
    owner = {"person_id": viewer.person_id, "organization_id": viewer.organization_id}
    key, at = new_id(), now()
    row = {"id": key, **owner, **values, "version": 1, "used": 0, "created_at": at, "updated_at": at, "archived_at": None}
    with writing() as connection:
        _may_hold(viewer, str(values["scope"]))
        _has_room(connection, viewer.person_id, viewer.organization_id, str(values["scope"]))
        connection.execute(insert(_template), row)
        _add_version(connection, viewer, key, 1, text, variables, draft.parameters)
        _audit(connection, viewer, "template.create", key, viewer.organization_id, {"scope": values["scope"]}, values["scope"])
    return show(viewer, key)


def change(viewer: Viewer, template_id: uuid.UUID, version: int, wanted: Change) -> TemplateView:
    """Change a template that is at this version: it has another one then. Its parameters have been checked by the caller.
    `NotFound`, `NotAllowed`, `BadInput`; `Conflict` if somebody else was quicker, or if it is archived."""
    with writing() as connection:
        row = _changeable(connection, viewer, template_id)
        if row.archived_at is not None:
            raise Conflict("The template is archived: make another one.")
        if row.version != version:
            raise Conflict(f"{CHANGED} It is at version {row.version}.")
        before = current(connection, row)
        draft = _merged(row, before, wanted)
        values = _checked(draft)
        text, variables = template_texts.read(draft.text, draft.variables)
        told = [name for name, value in values.items() if getattr(row, name) != value]
        told += [name for name, same in _sameness(before, text, variables, draft.parameters).items() if not same]
        if told:
            if values["scope"] != row.scope:
                _moved(connection, viewer, row, str(values["scope"]))
            written = values | {"version": row.version + 1, "updated_at": now()}
            connection.execute(update(_template).where(_template.c.id == template_id).values(written))
            _add_version(connection, viewer, template_id, row.version + 1, text, variables, draft.parameters)
            detail = {"version": row.version + 1, "changed": told}
            _audit(connection, viewer, "template.change", template_id, row.organization_id, detail, row.scope, values["scope"])
    return show(viewer, template_id)


def archive(viewer: Viewer, template_id: uuid.UUID) -> None:
    """Take a template out of all lists: nobody uses it any more. Nothing happens to one that is archived already. `NotFound`,
    `NotAllowed`."""
    with writing() as connection:
        row = _changeable(connection, viewer, template_id)
        if row.archived_at is None:
            connection.execute(update(_template).where(_template.c.id == template_id).values(archived_at=now()))
            _audit(connection, viewer, "template.archive", template_id, row.organization_id, {}, row.scope)


def _changeable(connection: Connection, viewer: Viewer, template_id: uuid.UUID) -> Any:
    row = seen(connection, viewer, template_id, lock=True)
    if not viewer.changes(row):
        whom = "managers of the organization" if row.scope == TemplateScope.ORGANIZATION else "administrators"
        raise NotAllowed(f"This template is changed by {whom}.")
    return row


def _merged(row: Any, before: Any, wanted: Change) -> Draft:
    def choose(name: str, stored: Any) -> Any:
        value = getattr(wanted, name)
        return stored if value is None else value

    kept = [Variable.stored(each) for each in before.variables]
    if wanted.text is not None and wanted.variables is None:
        # What was said of a variable that the text no longer has goes with it.
        _, there = template_texts.read(wanted.text, ())
        names = {variable.name for variable in there}
        kept = [variable for variable in kept if variable.name in names]
    own = {name: choose(name, getattr(row, name)) for name in ("name", "description", "category", "operation", "scope")}
    return Draft(
        **own,
        text=choose("text", before.text),
        variables=choose("variables", kept),
        parameters=choose("parameters", before.parameters),
    )


def _sameness(before: Any, text: str, variables: Sequence[Variable], parameters: Mapping[str, Any]) -> dict[str, bool]:
    return {
        "text": text == before.text,
        "variables": [variable.as_json() for variable in variables] == before.variables,
        "parameters": dict(parameters) == before.parameters,
    }


def _moved(connection: Connection, viewer: Viewer, row: Any, scope: str) -> None:
    if not viewer.changes(row, scope):
        _may_hold(viewer, scope)
        raise NotAllowed("Only whoever made a template makes it personal again.")
    _has_room(connection, row.person_id, row.organization_id, scope)


def _may_hold(viewer: Viewer, scope: str) -> None:
    if scope == TemplateScope.ORGANIZATION and not (viewer.manager or viewer.admin):
        raise NotAllowed("Templates of an organization are made by its managers: make a personal one.")
    if scope == TemplateScope.PUBLIC and not viewer.admin:
        raise NotAllowed("Public templates are made by administrators of the installation: make a personal one.")


def _has_room(connection: Connection, person_id: uuid.UUID, organization_id: uuid.UUID, scope: str) -> None:
    own: dict[str, list[ColumnElement[bool]]] = {
        TemplateScope.PERSONAL: [_template.c.person_id == person_id],
        TemplateScope.ORGANIZATION: [_template.c.organization_id == organization_id],
        TemplateScope.PUBLIC: [],
    }
    alike = select(_template.c.id).where(*own[scope], _template.c.scope == scope, _template.c.archived_at.is_(None))
    some = alike.limit(TEMPLATES_MAX).subquery()
    if connection.execute(select(func.count()).select_from(some)).scalar_one() >= TEMPLATES_MAX:
        raise Conflict(f"There are {TEMPLATES_MAX:,} {scope} templates, which is the most: archive one first.")


def _checked(draft: Draft) -> dict[str, Any]:
    """The columns of a template, checked. `BadInput` names the field."""
    name, description = " ".join(bare(draft.name).split()), bare(draft.description).strip()
    if not 0 < len(name) <= NAME_CHARS:
        raise BadInput("name", f"A name has 1 to {NAME_CHARS} characters.")
    if len(description) > DESCRIPTION_CHARS:
        raise BadInput("description", f"A description has at most {DESCRIPTION_CHARS:,} characters.")
    if not _CATEGORY.match(draft.category):
        raise BadInput("category", "A category has 1 to 40 small letters (a to z), digits, - and _.")
    if draft.operation not in OPERATIONS:
        raise BadInput("operation", f"There is no operation {clean(draft.operation)[:40]!r}: {', '.join(OPERATIONS)}.")
    if draft.scope not in set(TemplateScope):
        raise BadInput("scope", f"There is no scope {clean(draft.scope)[:40]!r}: {', '.join(TemplateScope)}.")
    return {
        "name": name,
        "description": description,
        "category": draft.category,
        "operation": draft.operation,
        "scope": str(draft.scope),
    }


def _add_version(
    connection: Connection,
    viewer: Viewer,
    template_id: uuid.UUID,
    number: int,
    text: str,
    variables: Sequence[Variable],
    parameters: Mapping[str, Any],
) -> None:
    values = {
        "id": new_id(),
        "template_id": template_id,
        "number": number,
        "text": text,
        "variables": [variable.as_json() for variable in variables],
        "parameters": dict(parameters),
        "person_id": viewer.person_id,
        "created_at": now(),
    }
    connection.execute(insert(_version), values)


def _audit(
    connection: Connection,
    viewer: Viewer,
    action: str,
    template_id: uuid.UUID,
    organization_id: uuid.UUID,
    detail: dict[str, Any],
    *scopes: str,
) -> None:
    """An entry in the audit trail, for what is not somebody's own alone: `scopes` are those it was and is in."""
    if set(scopes) == {TemplateScope.PERSONAL}:
        return
    entry = {
        "id": new_id(),
        "actor": f"person:{viewer.person_id}",
        "actor_id": viewer.person_id,
        "action": action,
        "subject": f"template:{template_id}",
        "organization_id": organization_id if TemplateScope.ORGANIZATION in scopes else None,
        "detail": detail,
        "created_at": now(),
    }
    connection.execute(insert(AuditEntry), entry)
