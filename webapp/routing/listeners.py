"""Which organizations want to be told of which events by outgoing webhooks, kept in memory, so that asking costs a look-up.

Whatever changes an endpoint raises a number in the table `revision`, in the same transaction. A process learns that number from
the very statement by which it looks for changed settings (`webapp.routing.vendors`), so it notices within about two seconds.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from flask import current_app
from sqlalchemy import Connection, select, text

from webapp.contracts.webhooks import EVENTS
from webapp.models import WebhookEndpoint

SUBJECT = "webhooks"
_KEY = "switchhook.listeners"
_NOTHING: frozenset[str] = frozenset()
# One statement, the same for both databases: of two first changes at the same moment neither may fail.
_RAISE = text(
    "INSERT INTO revision (subject, number) VALUES (:subject, 1) "
    "ON CONFLICT (subject) DO UPDATE SET number = revision.number + 1"
)


@dataclass(frozen=True, slots=True)
class _Wishes:
    """Who wants what, at one revision."""

    revision: int
    by_organization: Mapping[uuid.UUID, frozenset[str]]
    by_anybody: frozenset[str]


_UNKNOWN = _Wishes(-1, MappingProxyType({}), _NOTHING)


def wanted(organization_id: uuid.UUID | None, event: str) -> bool:
    """Whether an organization has an active endpoint for an event, as this process knows it. Reads nothing."""
    found = _known()
    return event in found.by_anybody and event in found.by_organization.get(organization_id, _NOTHING)  # type: ignore[arg-type]


def wanted_by_anybody(event: str) -> bool:
    """Whether any organization has an active endpoint for an event: where it costs something to find out whose an event is."""
    return event in _known().by_anybody


def wants(chosen: object, event: str) -> bool:
    """Whether an endpoint's list of events, as it is stored, holds this one. An empty list is all of them."""
    return isinstance(chosen, list) and (not chosen or event in chosen)


def changed(connection: Connection) -> None:
    """Tell all processes that an endpoint was changed: in the transaction that changes it."""
    connection.execute(_RAISE, {"subject": SUBJECT})


def take(connection: Connection, revision: int) -> None:
    """Learn the revision that the database has now; the endpoints are read anew if it is another one."""
    if revision == _known().revision:
        return
    found: dict[uuid.UUID, frozenset[str]] = {}
    # A database in which nothing was ever changed has none.
    if revision:
        query = select(WebhookEndpoint.organization_id, WebhookEndpoint.events).where(WebhookEndpoint.active)
        for organization_id, chosen in connection.execute(query):
            events = frozenset(event for event in EVENTS if wants(chosen, event))
            found[organization_id] = found.get(organization_id, _NOTHING) | events
    wishes = _Wishes(revision, MappingProxyType(found), frozenset().union(*found.values()))
    current_app.extensions[_KEY] = wishes


def _known() -> _Wishes:
    found = current_app.extensions.get(_KEY, _UNKNOWN)
    assert isinstance(found, _Wishes)
    return found
