"""Endpoints of outgoing webhooks: where an organization's events go. For its managers.

The signing secret is sealed before it is kept and handed out once, when it is made. After a change messages carry the
signatures of both secrets for a day. Every change is an act in the audit trail; one that names a version which is not the
present one is a `Conflict`. To those who may not see an endpoint there is none.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

from sqlalchemy import and_, case, delete, func, select
from sqlalchemy.orm import Session

from webapp.contracts.errors import Conflict, NotFound
from webapp.extensions import current_settings, now, reading, retries, writing, writing_session
from webapp.models import Organization, PersonRole, WebhookDelivery, WebhookEndpoint
from webapp.models.columns import new_id
from webapp.routing import listeners, vendors
from webapp.services import webhook_secrets, webhook_values
from webapp.services.organizations import CHANGED, Actor, acting, audit, lock

OVERLAP = timedelta(hours=24)
"""How long messages carry the signature of the secret before, too."""
_NONE = "There is no such webhook."
_AT_ONCE = 1000


@dataclass(frozen=True, slots=True)
class EndpointView:
    """An endpoint as people see it. `events` is empty for all. `both_until`: when the secret before is void, None if it is."""

    id: uuid.UUID
    organization_id: uuid.UUID
    url: str
    description: str
    events: tuple[str, ...]
    active: bool
    disabled_reason: str | None
    failing_since: datetime | None
    both_until: datetime | None
    version: int
    created_at: datetime
    updated_at: datetime

    @property
    def host(self) -> str:
        """Where it leads, without what may be secret in the address."""
        return urlsplit(self.url).hostname or self.url


@dataclass(frozen=True, slots=True)
class Made:
    """An endpoint with its new secret, which nobody is shown again."""

    endpoint: EndpointView
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Change:
    """What is to be different. None stays as it is."""

    url: str | None = None
    description: str | None = None
    events: Sequence[str] | None = None
    active: bool | None = None


# -- reading -------------------------------------------------------------------------------------------------------------
def rows(actor: Actor, organization_id: uuid.UUID, after: uuid.UUID | None = None, size: int = 1000) -> list[EndpointView]:
    """An organization's endpoints in the order in which they were made; `after` is the last id of the page before."""
    query = select(WebhookEndpoint).where(WebhookEndpoint.organization_id == organization_id)
    if after is not None:
        query = query.where(WebhookEndpoint.id > after)
    with reading() as connection, Session(bind=connection) as session:
        acting(session, actor, organization_id, PersonRole.MANAGER)
        return [_view(found) for found in session.scalars(query.order_by(WebhookEndpoint.id).limit(size))]


def everywhere(size: int = 1000) -> list[tuple[str, EndpointView]]:
    """The endpoints of all organizations, with the names of those, for the operator: first what fails, then what we switched
    off for failing."""
    failing = and_(WebhookEndpoint.active, WebhookEndpoint.failing_since.is_not(None))
    stopped = and_(~WebhookEndpoint.active, WebhookEndpoint.disabled_reason.is_not(None))
    place = case((failing, 0), (stopped, 1), else_=2)
    with reading() as connection, Session(bind=connection) as session:
        query = select(Organization.name, WebhookEndpoint).join(Organization)
        query = query.order_by(place, Organization.name, WebhookEndpoint.id).limit(size)
        return [(name, _view(found)) for name, found in session.execute(query)]


def count(actor: Actor, organization_id: uuid.UUID) -> int:
    """How many endpoints an organization has."""
    query = select(func.count()).where(WebhookEndpoint.organization_id == organization_id)
    with reading() as connection, Session(bind=connection) as session:
        acting(session, actor, organization_id, PersonRole.MANAGER)
        return session.execute(query).scalar_one()


def show(actor: Actor, organization_id: uuid.UUID, endpoint_id: uuid.UUID) -> EndpointView:
    """One of them. `NotFound`."""
    with reading() as connection, Session(bind=connection) as session:
        acting(session, actor, organization_id, PersonRole.MANAGER)
        return _view(_found(session, organization_id, endpoint_id))


def find(endpoint_id: uuid.UUID) -> EndpointView:
    """An endpoint of whatever organization, for the operator. `NotFound`."""
    with reading() as connection, Session(bind=connection) as session:
        found = session.get(WebhookEndpoint, endpoint_id)
        if found is None:
            raise NotFound(_NONE)
        return _view(found)


# -- writing -------------------------------------------------------------------------------------------------------------
@retries
def _create(
    actor: Actor, organization_id: uuid.UUID, url: str, description: str, events: list[str], sealed: str
) -> EndpointView:
    most = current_settings().webhook_endpoints_max
    with writing_session() as session:
        acting(session, actor, organization_id, PersonRole.MANAGER)
        lock(session, organization_id)
        there = select(func.count()).where(WebhookEndpoint.organization_id == organization_id)
        if session.execute(there).scalar_one() >= most:
            raise Conflict(f"An organization has at most {most} webhooks: remove one first.")
        at = now()
        endpoint = WebhookEndpoint(
            id=new_id(),
            organization_id=organization_id,
            url=url,
            description=description,
            events=events,
            secret=sealed,
            active=True,
            version=0,
            created_at=at,
            updated_at=at,
        )
        session.add(endpoint)
        detail = {"host": urlsplit(url).hostname, "events": events}
        audit(session, actor, "webhook.create", _subject(endpoint), organization_id, detail)
        session.flush()
        listeners.changed(session.connection())
        return _view(endpoint)


def create(actor: Actor, organization_id: uuid.UUID, url: str, description: str = "", events: Sequence[str] = ()) -> Made:
    """Add an endpoint; with its secret. `BadInput` names the field, `Conflict` says that there are too many."""
    _may(actor, organization_id)
    checked = (webhook_values.url(url), webhook_values.description(description), webhook_values.events(events))
    secret, sealed = webhook_secrets.make()
    made = _create(actor, organization_id, *checked, sealed)
    vendors.look_again()
    return Made(made, secret)


def change(
    actor: Actor, organization_id: uuid.UUID, endpoint_id: uuid.UUID, wanted: Change, seen: int | None = None
) -> EndpointView:
    """Set what `wanted` names. `seen` is the version that the author saw. `BadInput`, `NotFound`, `Conflict`."""
    show(actor, organization_id, endpoint_id)
    values: dict[str, Any] = {}
    if wanted.url is not None:
        values["url"] = webhook_values.url(wanted.url)
    if wanted.description is not None:
        values["description"] = webhook_values.description(wanted.description)
    if wanted.events is not None:
        values["events"] = webhook_values.events(wanted.events)
    if wanted.active is not None:
        values["active"] = wanted.active
    return _changed(actor, organization_id, endpoint_id, seen, "webhook.change", values)


def rotate(actor: Actor, organization_id: uuid.UUID, endpoint_id: uuid.UUID, seen: int | None = None) -> Made:
    """Give an endpoint a new secret. For a day messages carry the signature of the one before, too."""
    show(actor, organization_id, endpoint_id)
    secret, sealed = webhook_secrets.make()
    return Made(_changed(actor, organization_id, endpoint_id, seen, "webhook.rotate", {"secret": sealed}), secret)


def remove(actor: Actor, organization_id: uuid.UUID, endpoint_id: uuid.UUID, seen: int | None = None) -> None:
    """Remove an endpoint for good, with what waits for it and its log of deliveries."""
    # First nothing more comes in; then the log goes in small transactions, for which no request has to wait.
    _changed(actor, organization_id, endpoint_id, seen, "webhook.remove", {"active": False}, always=True)
    some = select(WebhookDelivery.id).where(WebhookDelivery.endpoint_id == endpoint_id).limit(_AT_ONCE)
    while True:
        with writing() as connection:
            # The endpoint's row before those of its messages, as everywhere.
            connection.execute(select(WebhookEndpoint.id).where(WebhookEndpoint.id == endpoint_id).with_for_update())
            gone = connection.execute(delete(WebhookDelivery).where(WebhookDelivery.id.in_(some))).rowcount
            if gone < _AT_ONCE:
                connection.execute(delete(WebhookEndpoint).where(WebhookEndpoint.id == endpoint_id))
                break


@retries
def _write(
    actor: Actor,
    organization_id: uuid.UUID,
    endpoint_id: uuid.UUID,
    seen: int | None,
    action: str,
    values: dict[str, Any],
    always: bool,
) -> EndpointView:
    with writing_session() as session:
        acting(session, actor, organization_id, PersonRole.MANAGER)
        endpoint = _found(session, organization_id, endpoint_id, locked=True)
        if seen is not None and endpoint.version != seen:
            raise Conflict(CHANGED)
        told = _apply(endpoint, values)
        if told or always:
            endpoint.version += 1
            endpoint.updated_at = now()
            audit(session, actor, action, _subject(endpoint), organization_id, told)
            session.flush()
            listeners.changed(session.connection())
        return _view(endpoint)


def _changed(
    actor: Actor,
    organization_id: uuid.UUID,
    endpoint_id: uuid.UUID,
    seen: int | None,
    action: str,
    values: dict[str, Any],
    *,
    always: bool = False,
) -> EndpointView:
    view = _write(actor, organization_id, endpoint_id, seen, action, values, always)
    vendors.look_again()
    return view


def _apply(endpoint: WebhookEndpoint, values: dict[str, Any]) -> dict[str, Any]:
    """Put what differs into the row; what the audit trail says of it."""
    told: dict[str, Any] = {}
    for name in ("url", "description", "events", "active"):
        if name in values and values[name] != getattr(endpoint, name):
            setattr(endpoint, name, values[name])
            # Of an address only the host: receivers keep secrets in the rest.
            told["host" if name == "url" else name] = urlsplit(values[name]).hostname if name == "url" else values[name]
    if "active" in told:
        endpoint.disabled_reason = None
        endpoint.failing_since = None
    if "secret" in values:
        endpoint.secret_before, endpoint.secret_before_until = endpoint.secret, now() + OVERLAP
        endpoint.secret = values["secret"]
        told["renewed"] = "secret"
    return told


def _may(actor: Actor, organization_id: uuid.UUID) -> None:
    """Who may not do this learns nothing of what is wrong with it."""
    with reading() as connection, Session(bind=connection) as session:
        acting(session, actor, organization_id, PersonRole.MANAGER)


def _found(session: Session, organization_id: uuid.UUID, endpoint_id: uuid.UUID, *, locked: bool = False) -> WebhookEndpoint:
    query = select(WebhookEndpoint).where(WebhookEndpoint.id == endpoint_id, WebhookEndpoint.organization_id == organization_id)
    # Without the key: events that are noted for it do not wait for this.
    found = session.scalar(query.with_for_update(key_share=True) if locked else query)
    if found is None:
        raise NotFound(_NONE)
    return found


def _subject(endpoint: WebhookEndpoint) -> str:
    return f"webhook:{endpoint.id}"


def _view(endpoint: WebhookEndpoint) -> EndpointView:
    until = endpoint.secret_before_until
    return EndpointView(
        id=endpoint.id,
        organization_id=endpoint.organization_id,
        url=endpoint.url,
        description=endpoint.description,
        events=tuple(endpoint.events),
        active=endpoint.active,
        disabled_reason=endpoint.disabled_reason,
        failing_since=endpoint.failing_since,
        both_until=until if until is not None and until > now() else None,
        version=endpoint.version,
        created_at=endpoint.created_at,
        updated_at=endpoint.updated_at,
    )
