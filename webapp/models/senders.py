"""The one look-up of admission: who is this, what are they entitled to, which conversation goes on."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, Select, bindparam, func, join, null, or_, select, update
from sqlalchemy.orm import aliased

from webapp.contracts.errors import NotAllowed, UnknownToken
from webapp.extensions import now, table_of
from webapp.models.people import ApiToken, Identity, Membership, Organization, Person, Plan
from webapp.models.requests import Conversation


@dataclass(frozen=True, slots=True)
class Sender:
    """A person as admission needs them, working in one organization, on the plan that holds for them there: their own or the
    organization's, whichever is higher. `conversation_id` is the one to continue, None to start one."""

    person_id: uuid.UUID
    organization_id: uuid.UUID
    time_zone: str
    active: bool
    """Both they and the organization."""
    organization_limits: list[Any]
    person_limits: list[Any]
    token_id: uuid.UUID | None
    token_limits: list[Any]
    conversation_id: uuid.UUID | None
    opted_out_at: datetime | None
    plan: str
    plan_limits: dict[str, int | None]
    more_plan_limits: list[Any]
    priority: int
    max_output_tokens: int
    context_tokens: int
    features: list[str]


USED_EVERY = timedelta(minutes=1)
"""How old the time of a token's last use may be before it is written anew."""

_shared_plan = aliased(Plan)
_PLAN = ("code", "limits", "more_limits", "priority", "max_output_tokens", "context_tokens", "features", "rank")
_WIDTH = len(_PLAN)
_latest = (
    select(Conversation.id)
    .where(Conversation.person_id == Person.id, Conversation.organization_id == Organization.id, Conversation.active)
    .order_by(Conversation.last_activity_at.desc())
    .limit(1)
    .correlate(Person, Organization)
    .scalar_subquery()
)
_named = (
    select(Conversation.id)
    .where(
        Conversation.id == bindparam("conversation"),
        Conversation.person_id == Person.id,
        Conversation.organization_id == Organization.id,
    )
    .correlate(Person, Organization)
    .scalar_subquery()
)


def _query(conversation: Any, *, token: bool = False, address: bool = False, organization: Any = None) -> Select[Any]:
    place = Person.organization_id if organization is None else organization
    query = (
        select(
            Person.id,
            Organization.id,
            Organization.time_zone,
            Person.active,
            Organization.active,
            Organization.limits,
            Membership.limits,
            ApiToken.id if token else null(),
            ApiToken.limits if token else null(),
            conversation.label("conversation_id"),
            Identity.opted_out_at if address else null(),
            *(getattr(Plan, name) for name in _PLAN),
            *(getattr(_shared_plan, name) for name in _PLAN),
        )
        .select_from(join(Person, ApiToken, ApiToken.person_id == Person.id) if token else Person)
        .join(Organization, Organization.id == place)
        .join(Plan, Plan.code == Person.plan_code)
        .outerjoin(_shared_plan, _shared_plan.code == Organization.plan_code)
        .outerjoin(Membership, (Membership.person_id == Person.id) & (Membership.organization_id == Organization.id))
    )
    # Somebody whom an older release has registered has no membership, and is a member where they are.
    return query.where(or_(Membership.person_id.is_not(None), Person.organization_id == Organization.id))


def _of_token(conversation: Any) -> Select[Any]:
    query = _query(conversation, token=True, organization=func.coalesce(ApiToken.organization_id, Person.organization_id))
    return query.where(ApiToken.id == bindparam("token"), Person.id == bindparam("person"))


def _within(*, token: bool) -> Select[Any]:
    query = _query(null(), token=token, organization=bindparam("organization", type_=Organization.id.type))
    return query.where(Person.id == bindparam("person"))


_by_id = _query(_latest).where(Person.id == bindparam("person"))
_by_id_named = _query(_named).where(Person.id == bindparam("person"))
_by_id_within = _within(token=False)
_by_token_within = _within(token=True).where(ApiToken.id == bindparam("token"))
_by_token = _of_token(_latest)
_by_token_named = _of_token(_named)
_token = table_of(ApiToken)
_at_token = _query(null(), token=True, organization=func.coalesce(ApiToken.organization_id, Person.organization_id))
_of_the_token = (ApiToken.scopes, ApiToken.expires_at, ApiToken.revoked_at, ApiToken.last_used_at)
BY_DIGEST = _at_token.where(ApiToken.digest == bindparam("digest")).with_only_columns(
    *_of_the_token, *_at_token.selected_columns, maintain_column_froms=True
)
_note_use = update(_token).where(_token.c.id == bindparam("token")).values(last_used_at=bindparam("at"))
_by_address = (
    _query(_latest, address=True)
    .join(Identity, Identity.person_id == Person.id)
    .where(Identity.medium == bindparam("medium"), Identity.address == bindparam("address"))
)


def by_id(
    connection: Connection,
    person_id: uuid.UUID,
    conversation_id: uuid.UUID | None = None,
    token_id: uuid.UUID | None = None,
) -> Sender | None:
    """The sender with this id, where they work, or where their token does; `conversation_id` of the result is None if the named
    one is not theirs there."""
    values: dict[str, Any] = {"person": person_id}
    if token_id is not None:
        values["token"] = token_id
    if conversation_id is not None:
        values["conversation"] = conversation_id
        query = _by_id_named if token_id is None else _by_token_named
    else:
        query = _by_id if token_id is None else _by_token
    return sender_of(connection.execute(query, values).first())


def within(
    connection: Connection, person_id: uuid.UUID, organization_id: uuid.UUID, token_id: uuid.UUID | None = None
) -> Sender | None:
    """The sender as a member of an organization, wherever they or their token work now, with the limits of the token that they
    came with; without a conversation."""
    values = {"person": person_id, "organization": organization_id}
    if token_id is None:
        return sender_of(connection.execute(_by_id_within, values).first())
    return sender_of(connection.execute(_by_token_within, values | {"token": token_id}).first())


def token_digest(token: str) -> str:
    """What is stored and looked up of a token: its SHA-256. It has 256 bits of its own, so a slow hash would add nothing."""
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()


def opens(scopes: Collection[str], scope: str) -> bool:
    """Whether a token with these scopes opens what asks for `scope`: `admin` opens everything."""
    return scope in scopes or "admin" in scopes


def by_token(connection: Connection, token: str, scope: str) -> Sender:
    """The sender whose valid token this is, as a member of the organization that it works in; without a conversation. Its use
    is noted. `UnknownToken` for one that is not valid, `NotAllowed` for one that lacks the scope."""
    sender, scopes, last_used_at = look_up(connection, token)
    if not opens(scopes, scope):
        raise NotAllowed(f"This API key may not do that: it needs the scope {scope}.")
    if last_used_at is None or now() - last_used_at > USED_EVERY:
        # Nobody waits for whoever writes the same at this moment.
        connection.execute(_note_use, {"token": sender.token_id, "at": now()})
    return sender


def look_up(connection: Connection, token: str) -> tuple[Sender, list[str], datetime | None]:
    """The sender whose valid token this is, its scopes, and when it was last used. `UnknownToken` for one that is not valid, or
    whose person or organization is not active."""
    row = connection.execute(BY_DIGEST, {"digest": token_digest(token)}).first()
    sender = None
    if row is not None:
        scopes, expires_at, revoked_at, last_used_at, *values = tuple(row)
        sender = sender_of(values)
    if sender is None or revoked_at is not None or not sender.active or (expires_at is not None and expires_at <= now()):
        raise UnknownToken("This API key is not valid: it is unknown, expired or revoked. Make another one in your settings.")
    return sender, scopes, last_used_at


def by_address(connection: Connection, medium: str, address: str) -> Sender | None:
    """The sender with this address."""
    return sender_of(connection.execute(_by_address, {"medium": medium, "address": address}).first())


def sender_of(row: Row[Any] | Sequence[Any] | None) -> Sender | None:
    """The sender of a row of one of these queries, None where there is none."""
    if row is None:
        return None
    values = tuple(row)
    head, own, shared = values[: -2 * _WIDTH], values[-2 * _WIDTH : -_WIDTH], values[-_WIDTH:]
    person, organization, zone, person_active, organization_active, limits, personal, token, of_token, talk, opted_out = head
    *plan, _rank = shared if shared[0] is not None and shared[-1] > own[-1] else own
    active = person_active and organization_active
    first = (person, organization, zone, active, limits, personal or [], token, of_token or [], talk, opted_out)
    return Sender(*first, *plan)
