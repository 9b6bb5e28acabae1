"""Prompt templates for programs."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from flask import Response

from webapp.api import access, once
from webapp.api.base import PageQuery, answer, area, make_cursor, nothing, page_answer, read_cursor
from webapp.api.templates_models import (
    TemplateChange,
    TemplateDetail,
    TemplateDraft,
    TemplateFilling,
    TemplateItem,
    TemplatePage,
    TemplatePath,
    TemplateRendered,
    TemplateRequest,
    TemplateResults,
    TemplatesQuery,
    TemplateUse,
    TemplateVariable,
    TemplateVersionItem,
    TemplateVersionPage,
)
from webapp.contracts.errors import BadInput
from webapp.pipeline import parameters
from webapp.pipeline.admit import admit
from webapp.pipeline.intake import Intake, Outcome
from webapp.services import template_changes, template_figures, templates
from webapp.services.templates import Filters, TemplateView, Variable, VersionView, Viewer

blueprint = area("templates", "Templates", "Prompts with named variables, and requests made with them.")


@blueprint.get("/templates", summary="List templates", responses={200: TemplatePage})
@access.opens("read", "chat")
def list_templates(query: TemplatesQuery) -> Response:
    """Your own, those of the organization that you work in, and public ones; the newest first. Archived ones are left out."""
    wanted = Filters(query.q, query.scope or "", query.category, query.operation, query.person_id, query.organization_id)
    after = read_cursor(query.cursor, uuid.UUID)
    found = templates.page(viewer(), wanted, after=after[0] if after else None, size=query.limit, total=query.total)
    cursor = make_cursor(found.lines[-1].id) if found.more else None
    return page_answer([TemplateItem(**asdict(line)) for line in found.lines], cursor, found.total)


@blueprint.post("/templates", summary="Make a template", responses={201: TemplateDetail})
@once.repeatable
@access.opens("write")
def create_template(body: TemplateDraft) -> Response:
    """Make a template, at version 1."""
    _check(body.parameters)
    values = body.model_dump() | {"variables": _variables(body.variables)}
    made = template_changes.create(viewer(), template_changes.Draft(**values))
    return _detail(made, 201, {"Location": f"/api/templates/{made.line.id}"})


@blueprint.get("/templates/<template_id>", summary="Read a template", responses={200: TemplateDetail})
@access.opens("read", "chat")
def read_template(path: TemplatePath) -> Response:
    """A template with its current version, and what became of the requests that were made with it."""
    return _detail(templates.show(viewer(), path.template_id))


@blueprint.patch("/templates/<template_id>", summary="Change a template", responses={200: TemplateDetail})
@access.opens("write")
def change_template(path: TemplatePath, body: TemplateChange) -> Response:
    """Each change makes a version; requests made with an older one keep it. 409 if somebody else changed it meanwhile."""
    _check(body.parameters or {})
    values = body.model_dump(exclude={"version", "variables"})
    variables = None if body.variables is None else _variables(body.variables)
    wanted = template_changes.Change(**values, variables=variables)
    return _detail(template_changes.change(viewer(), path.template_id, body.version, wanted))


@blueprint.delete("/templates/<template_id>", summary="Archive a template", responses={204: None})
@access.opens("write")
def archive_template(path: TemplatePath) -> Response:
    """It is in no list any more and cannot be used. Its versions stay, for the requests that were made with them."""
    template_changes.archive(viewer(), path.template_id)
    return nothing()


@blueprint.get("/templates/<template_id>/versions", summary="List a template's versions", responses={200: TemplateVersionPage})
@access.opens("read", "chat")
def list_template_versions(path: TemplatePath, query: PageQuery) -> Response:
    """What it said from one change to the next, the newest first."""
    below = read_cursor(query.cursor, _number)
    found, more, total = templates.versions(
        viewer(), path.template_id, below=below[0] if below else None, size=query.limit, total=query.total
    )
    cursor = make_cursor(found[-1].number) if more else None
    return page_answer([_version(each) for each in found], cursor, total)


@blueprint.post("/templates/<template_id>/render", summary="Fill in a template", responses={200: TemplateRendered})
@access.opens("read", "chat")
def render_template(path: TemplatePath, body: TemplateFilling) -> Response:
    """The prompt that a request would have. Nothing is asked, and nothing is counted."""
    return answer(TemplateRendered(**asdict(templates.render(path.template_id, body.variables, viewer(), body.version))))


@blueprint.post("/templates/<template_id>/use", summary="Make a request with a template", responses={202: TemplateRequest})
@once.repeatable
@access.opens("chat", "write")
def use_template(path: TemplatePath, body: TemplateUse) -> Response:
    """Fill it in and ask. The request waits in the queue: `Location` is where to look for its answer."""
    filled, caller, key = (
        templates.render(path.template_id, body.variables, viewer(), body.version),
        access.caller(),
        once.call_id(),
    )
    admission = admit(
        Intake(
            medium="api",
            text=filled.text,
            operation=filled.operation,
            person_id=caller.id,
            conversation_id=body.conversation_id,
            new_conversation=body.conversation_id is None,
            idempotency_key=str(key) if key else None,
            parameters=dict(filled.parameters) | ({"model": body.model} if body.model else {}),
            may_wait=body.may_wait,
            urgent=body.urgent,
            allocation=body.allocation,
            token_id=caller.token_id,
            template_version_id=filled.version_id,
        )
    )
    assert admission.request_id is not None
    if admission.outcome is Outcome.ACCEPTED:
        templates.note_use(filled.version_id)
    made = TemplateRequest(
        id=admission.request_id,
        conversation_id=admission.conversation_id,
        template_id=filled.template_id,
        template_version_id=filled.version_id,
        outcome=admission.outcome,
    )
    return answer(made, 202, {"Location": f"/api/tasks/{admission.request_id}", "Retry-After": "1"})


def _number(text: str) -> int:
    """A version's number in a cursor."""
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise ValueError(text)
    return int(text)


def _check(given: Mapping[str, Any]) -> None:
    try:
        parameters.check(given)
    except BadInput as exc:
        raise BadInput(f"parameters.{exc.field}", exc.message) from exc


def viewer() -> Viewer:
    """Whoever calls, as templates know them."""
    caller = access.caller()
    return Viewer(caller.id, caller.organization_id, caller.is_manager, caller.is_admin)


def _variables(given: list[TemplateVariable]) -> tuple[Variable, ...]:
    return tuple(Variable(each.name, each.description, each.default) for each in given)


def _version(found: VersionView) -> TemplateVersionItem:
    return TemplateVersionItem(**asdict(found))


def _detail(found: TemplateView, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    results: dict[str, Any] = asdict(template_figures.figures(found.line.id))
    detail = TemplateDetail(**asdict(found.line), current=_version(found.current), results=TemplateResults(**results))
    return answer(detail, status, headers)
