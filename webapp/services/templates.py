"""Prompt templates: who sees them, their versions, and a prompt made of one. `template_changes` has what changes them.

A personal template is its maker's. One of an organization is used by its people and changed by its managers, a public one is
used by everybody and changed by administrators of the installation. To those who do not see a template there is none.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, func, or_, select, update

from webapp.contracts.errors import BadInput, Conflict, NotFound
from webapp.contracts.texts import clean
from webapp.extensions import reading, table_of, writing
from webapp.models import Template, TemplateScope, TemplateVersion
from webapp.services import template_texts
from webapp.services.template_texts import Variable

__all__ = [
    "Filters",
    "Page",
    "Rendered",
    "TemplateLine",
    "TemplateView",
    "Variable",
    "VersionView",
    "Viewer",
    "current",
    "note_use",
    "page",
    "render",
    "seen",
    "show",
    "versions",
]

SEARCH_CHARS = 100
COUNTED_MAX = 10_000
_NONE = "There is no such template."
_template, _version = table_of(Template), table_of(TemplateVersion)


@dataclass(frozen=True, slots=True)
class Viewer:
    """Who looks or acts: a person, the organization that they work in, and whether they act as a manager of it or as an
    administrator of the installation."""

    person_id: uuid.UUID
    organization_id: uuid.UUID
    manager: bool = False
    admin: bool = False

    def sees(self, row: Any) -> bool:
        """Whether a template is there for them."""
        if self.admin or row.scope == TemplateScope.PUBLIC:
            return True
        if row.scope == TemplateScope.ORGANIZATION:
            return bool(row.organization_id == self.organization_id)
        return bool(row.person_id == self.person_id)

    def changes(self, row: Any, scope: str | None = None) -> bool:
        """Whether a template that they see, in its scope or in another one, is theirs to change."""
        scope = scope or row.scope
        if self.admin:
            return True
        if scope == TemplateScope.ORGANIZATION:
            return bool(self.manager and row.organization_id == self.organization_id)
        return bool(scope == TemplateScope.PERSONAL and row.person_id == self.person_id)


@dataclass(frozen=True, slots=True)
class Filters:
    """What is wanted; '' and None mean anything. `q` is a part of the name or the description."""

    q: str = ""
    scope: str = ""
    category: str = ""
    operation: str = ""
    person_id: uuid.UUID | None = None
    organization_id: uuid.UUID | None = None


@dataclass(frozen=True, slots=True)
class TemplateLine:
    """A template without its text. Its maker and organization are None where they are nothing to the viewer. `changeable`:
    the viewer may change it."""

    id: uuid.UUID
    name: str
    description: str
    category: str
    operation: str
    scope: str
    version: int
    used: int
    person_id: uuid.UUID | None
    organization_id: uuid.UUID | None
    changeable: bool
    created_at: datetime
    updated_at: datetime
    archived_at: datetime | None


@dataclass(frozen=True, slots=True)
class VersionView:
    """What a template said from one change to the next."""

    id: uuid.UUID
    number: int
    text: str
    variables: tuple[Variable, ...]
    parameters: Mapping[str, Any]
    person_id: uuid.UUID | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class TemplateView:
    """A template and its current version."""

    line: TemplateLine
    current: VersionView


@dataclass(frozen=True, slots=True)
class Page:
    """A page of templates, the newest first. `total` is None where it was not asked for."""

    lines: tuple[TemplateLine, ...]
    more: bool
    total: int | None = None


@dataclass(frozen=True, slots=True)
class Rendered:
    """A prompt made of a template: what `Intake` takes. `note_use` is called with the version's id once a request was made."""

    template_id: uuid.UUID
    version_id: uuid.UUID
    version: int
    operation: str
    text: str
    parameters: Mapping[str, Any]


# -- reading -------------------------------------------------------------------------------------------------------------
def page(
    viewer: Viewer, wanted: Filters | None = None, *, after: uuid.UUID | None = None, size: int = 20, total: bool = False
) -> Page:
    """The templates that somebody may use, the newest first; `after` is the last id of the page before. An administrator who
    names a person or an organization sees all of theirs."""
    conditions = _conditions(viewer, wanted or Filters())
    query = select(_template).where(*conditions).order_by(_template.c.id.desc()).limit(size + 1)
    if after is not None:
        query = query.where(_template.c.id < after)
    with reading() as connection:
        rows = connection.execute(query).all()
        count = None
        if total:
            some = select(_template.c.id).where(*conditions).limit(COUNTED_MAX).subquery()
            count = connection.execute(select(func.count()).select_from(some)).scalar_one()
    return Page(tuple(_line(viewer, row) for row in rows[:size]), len(rows) > size, count)


def show(viewer: Viewer, template_id: uuid.UUID) -> TemplateView:
    """One template, archived or not, with its current version. `NotFound`."""
    with reading() as connection:
        row = seen(connection, viewer, template_id)
        return TemplateView(_line(viewer, row), _view(viewer, row, current(connection, row)))


def versions(
    viewer: Viewer, template_id: uuid.UUID, *, below: int | None = None, size: int = 20, total: bool = False
) -> tuple[list[VersionView], bool, int | None]:
    """The versions of a template, the newest first, whether there are more, and how many there are in all where that was asked
    for; `below` is the last number of the page before. `NotFound`."""
    query = select(_version).where(_version.c.template_id == template_id).order_by(_version.c.number.desc()).limit(size + 1)
    if below is not None:
        query = query.where(_version.c.number < below)
    with reading() as connection:
        row = seen(connection, viewer, template_id)
        found = connection.execute(query).all()
    return [_view(viewer, row, each) for each in found[:size]], len(found) > size, row.version if total else None


def render(template_id: uuid.UUID, variables: Mapping[str, str], viewer: Viewer, version: int | None = None) -> Rendered:
    """A prompt made of a template, of its current version or an older one. `NotFound`; `Conflict` if it is archived;
    `BadInput` names a variable that is missing or unknown, or says that the prompt is too long."""
    with reading() as connection:
        row = seen(connection, viewer, template_id)
        if row.archived_at is not None:
            raise Conflict("The template is archived: use another one.")
        found = current(connection, row, version)
    known = [Variable.stored(each) for each in found.variables]
    text = template_texts.render(found.text, known, variables)
    if not text.strip():
        raise BadInput("variables", "With these values nothing is left of the text: give at least one.")
    return Rendered(row.id, found.id, found.number, row.operation, text, dict(found.parameters or {}))


def note_use(version_id: uuid.UUID) -> None:
    """Count a request that was made with a version of a template."""
    mine = select(_version.c.template_id).where(_version.c.id == version_id).scalar_subquery()
    with writing() as connection:
        connection.execute(update(_template).where(_template.c.id == mine).values(used=_template.c.used + 1))


# -- rows ----------------------------------------------------------------------------------------------------------------
def _conditions(viewer: Viewer, wanted: Filters) -> list[ColumnElement[bool]]:
    found: list[ColumnElement[bool]] = [_template.c.archived_at.is_(None)]
    if not (viewer.admin and (wanted.person_id or wanted.organization_id)):
        # Not "is personal": SQLite would go over the personal templates of everybody.
        shared = (TemplateScope.ORGANIZATION, TemplateScope.PUBLIC)
        found.append(
            or_(
                and_(_template.c.person_id == viewer.person_id, _template.c.scope.not_in(shared)),
                and_(_template.c.organization_id == viewer.organization_id, _template.c.scope == TemplateScope.ORGANIZATION),
                _template.c.scope == TemplateScope.PUBLIC,
            )
        )
    same = ("scope", "category", "operation", "person_id", "organization_id")
    found += [_template.c[name] == getattr(wanted, name) for name in same if getattr(wanted, name)]
    if not viewer.admin and (wanted.person_id not in (None, viewer.person_id) or wanted.organization_id is not None):
        # Whose a public template is, is nobody's business who does not see its maker.
        found.append(_template.c.organization_id == viewer.organization_id)
    if text := clean(wanted.q).strip()[:SEARCH_CHARS]:
        found.append(or_(*(_template.c[name].icontains(text, autoescape=True) for name in ("name", "description"))))
    return found


def seen(connection: Connection, viewer: Viewer, template_id: uuid.UUID, *, lock: bool = False) -> Any:
    """The row of a template that the viewer sees; with `lock` nobody else changes it before the end of the transaction.
    `NotFound`."""
    query = select(_template).where(_template.c.id == template_id)
    row = connection.execute(query.with_for_update() if lock else query).first()
    if row is None or not viewer.sees(row):
        raise NotFound(_NONE)
    return row


def current(connection: Connection, row: Any, number: int | None = None) -> Any:
    """The row of a template's version, the current one unless another is named. `NotFound`."""
    wanted = row.version if number is None else number
    found = connection.execute(select(_version).where(_version.c.template_id == row.id, _version.c.number == wanted)).first()
    if found is None:
        raise NotFound(f"The template has no version {wanted}.")
    return found


def _line(viewer: Viewer, row: Any) -> TemplateLine:
    known = viewer.admin or row.organization_id == viewer.organization_id or row.person_id == viewer.person_id
    names = ("id", "name", "description", "category", "operation", "scope", "version", "used", "created_at", "updated_at")
    return TemplateLine(
        **{name: getattr(row, name) for name in names},
        person_id=row.person_id if known else None,
        organization_id=row.organization_id if known else None,
        changeable=viewer.changes(row),
        archived_at=row.archived_at,
    )


def _view(viewer: Viewer, row: Any, version: Any) -> VersionView:
    known = viewer.admin or row.organization_id == viewer.organization_id or row.person_id == viewer.person_id
    return VersionView(
        version.id,
        version.number,
        version.text,
        tuple(Variable.stored(each) for each in version.variables),
        dict(version.parameters or {}),
        version.person_id if known else None,
        version.created_at,
    )
