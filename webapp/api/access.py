"""Who calls: by a bearer token, or by the session of a browser; and what that opens."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from flask import Blueprint, Response, after_this_request, current_app, g, request
from flask_login import current_user
from flask_wtf.csrf import CSRFError

from webapp.api.problems import Unauthorized
from webapp.contracts.errors import BadInput, NotAllowed
from webapp.extensions import csrf, db
from webapp.models import Person, PersonRole
from webapp.services import tokens
from webapp.services.organizations import RANK, Actor

F = TypeVar("F", bound=Callable[..., Any])

EVERYTHING = frozenset({"chat", "read", "write", "admin", "sms"})
"""What a session opens: whatever its person may do."""
_HOW = "Sign in, or send `Authorization: Bearer TOKEN` with a valid token."
_SAFE = ("GET", "HEAD", "OPTIONS")


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls, and where they work: in the token's organization, or in the one they chose. `role` is theirs there, and ADMIN
    everywhere for an administrator of the installation; whether they are one says `house` alone, for organizations have
    administrators of their own."""

    id: uuid.UUID
    organization_id: uuid.UUID
    role: PersonRole
    house: bool
    scopes: frozenset[str]
    token_id: uuid.UUID | None = None

    @property
    def person(self) -> Person:
        """The person's row, looked up when it is asked for."""
        return db.session.get_one(Person, self.id)

    @property
    def is_admin(self) -> bool:
        """Whether they act as an administrator of the installation: the person is one, and the token may."""
        return self.house and "admin" in self.scopes

    @property
    def is_manager(self) -> bool:
        """Whether they act as a manager of the organization that they work in."""
        return self.is_admin or ("admin" in self.scopes and RANK[self.role] >= RANK[PersonRole.MANAGER])

    @property
    def actor(self) -> Actor:
        """Who they are for the audit trail."""
        return Actor.person(self.id)


@dataclass(frozen=True, slots=True)
class Opening:
    """What a route asks for: one of these scopes, and at least this role."""

    scopes: frozenset[str]
    role: PersonRole


def opens(*scopes: str, role: PersonRole = PersonRole.MEMBER) -> Callable[[F], F]:
    """Mark a route, below its decorator, as open to tokens with one of `scopes` (`admin` always opens) of people with at least
    this role: MANAGER of the organization they work in, ADMIN of the installation. Managers and administrators need the scope
    `admin` to act as such."""

    def mark(view: F) -> F:
        view.opening = Opening(frozenset(scopes) | {"admin"}, role)  # type: ignore[attr-defined]
        return view

    return mark


def caller() -> Caller:
    """Whoever made the call that is being answered."""
    return cast(Caller, g.caller)


def guard(blueprint: Blueprint) -> None:
    """Let nobody into the routes of a blueprint whom their `opens` does not."""
    csrf.exempt(blueprint)
    blueprint.before_request(_enter)


def _enter() -> None:
    view = current_app.view_functions[request.endpoint or ""]
    opening = cast(Opening, getattr(view, "opening"))  # noqa: B009
    found = identify()
    if found is None:
        raise Unauthorized(_HOW)
    check(found, opening)
    if "%00" in request.full_path or "\x00" in request.path:
        raise BadInput("query", "query: a NUL cannot be looked for: leave it out.")


def identify() -> Caller | None:
    """Whose token came along, else whose session; None for nobody. A token that is not valid is not made good by a session:
    `Unauthorized`. A session that changes something needs a CSRF token (`X-CSRFToken`). Looked up once in a call."""
    if "caller" not in g:
        try:
            g.caller = _identified()
        except (Unauthorized, CSRFError) as exc:
            g.caller = exc
    if isinstance(g.caller, Exception):
        raise g.caller
    return cast("Caller | None", g.caller)


def _identified() -> Caller | None:
    token = token_of_call()
    if token is not None:
        known = tokens.find(token)
        if known is None:
            raise Unauthorized(_HOW)
        if known.use_due:
            _note_use(known.token_id)
        return Caller(known.person_id, known.organization_id, known.role, known.house, known.scopes, known.token_id)
    if not current_user.is_authenticated:
        return None
    if request.method not in _SAFE:
        csrf.protect()
    person = cast(Person, current_user._get_current_object())
    role = tokens.role_in(person, person.organization_id)
    return Caller(person.id, person.organization_id, role, person.is_admin, EVERYTHING)


def token_of_call() -> str | None:
    """The token that came along, '' for what cannot be one, None for none. Programs that speak Anthropic's format send it as
    `x-api-key`."""
    header = request.headers.get("Authorization", "").strip()
    if header:
        kind, _, token = header.partition(" ")
        return token.strip() if kind.lower() == "bearer" else ""
    key = request.headers.get("X-Api-Key", "").strip() if request.path.startswith("/v1/") else ""
    return key or None


def _note_use(token_id: uuid.UUID) -> None:
    """Write down that the token was used when the answer is on its way: the caller does not wait for it."""
    app = current_app._get_current_object()  # type: ignore[attr-defined]

    def note() -> None:
        with app.app_context():
            tokens.note_use(token_id)

    @after_this_request
    def _then(response: Response) -> Response:
        response.call_on_close(note)
        return response


def check(found: Caller, opening: Opening) -> None:
    """Raise `NotAllowed` where the token's scopes, or the person's role, do not open a route."""
    if not opening.scopes & found.scopes:
        needed = ", ".join(sorted(opening.scopes - {"admin"} or opening.scopes))
        raise NotAllowed(f"The token does not open this: it needs the scope {needed}.")
    if opening.role == PersonRole.ADMIN and not found.is_admin:
        raise NotAllowed("This is for administrators of the installation, with a token that has the scope admin.")
    if opening.role == PersonRole.MANAGER and not found.is_manager:
        raise NotAllowed("This is for managers of the organization, with a token that has the scope admin.")
