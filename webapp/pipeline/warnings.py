"""Warnings: who is told that a limit is nearly used, or used. Once for each percentage, limit and window.

Part of the transaction that counts: whoever raises a counter over a mark holds its row, so nobody else can have told of it.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from functools import partial
from typing import Any

from sqlalchemy import Connection, insert, select, update

from webapp import queues
from webapp.contracts.channels import Channel, DeliveryStatus
from webapp.contracts.events import QuotaEvent
from webapp.contracts.segments import fit
from webapp.extensions import current_settings, queue_redis, table_of
from webapp.models import Delivery, DeliveryKind, Direction, LimitCounter, Organization, Person
from webapp.models.columns import new_id
from webapp.pipeline import manager_notices, webhooks, words
from webapp.quota.holds import Counter, Need
from webapp.quota.windows import bounds
from webapp.registry import current_registry

_LOWEST_PERCENT = 1
_FULL = 100
_counter = table_of(LimitCounter)


@dataclass(frozen=True, slots=True)
class Told:
    """What there is to do after the commit. `notes` go along with the answer to somebody who is not looking at a page."""

    notes: tuple[str, ...] = ()
    deliveries: tuple[uuid.UUID, ...] = ()
    events: tuple[QuotaEvent, ...] = ()
    hooks: tuple[uuid.UUID, ...] = ()
    """Outgoing webhooks."""

    def after_commit(self) -> None:
        """Send what is to be sent, and tell the listeners."""
        if self.deliveries:
            queues.put(queue_redis(), queues.DELIVER, map(str, self.deliveries), queues.NORMAL)
        webhooks.hand_over(self.hooks)
        for event in self.events:
            current_registry().emit("quota_warning", event)


NOTHING = Told()


@dataclass(frozen=True, slots=True)
class _Place:
    """The organization in which something is counted."""

    id: uuid.UUID
    name: str
    time_zone: str
    percents: tuple[int, ...]
    """At how many percent its managers are told of its own limits."""


def tell(connection: Connection, row: Any, counters: Sequence[Counter], at: datetime) -> Told:
    """Tell of the counters that the end of a request (its row) has raised over a mark, in windows that still run."""
    marks = current_settings().warned_percents
    raised = [counter for counter in counters if _may_tell(counter, marks)]
    if not raised:
        return NOTHING
    place = _place(connection, row.organization_id)
    notes: list[str] = []
    deliveries: list[uuid.UUID] = []
    events: list[QuotaEvent] = []
    for counter in raised:
        resets_at = bounds(counter.window, counter.starts_at, place.time_zone)[1]
        if resets_at <= at:
            continue
        percent = _reached(connection, counter, place.percents if _shared(counter.subject) else marks)
        if not percent:
            continue
        text = words.limit_warning(counter, place.time_zone)
        if _of_person(counter.subject):
            notes.append(text)
        deliveries += _tell_managers(connection, place, counter.subject, percent, text, row.person_id, at)
        label = words.counter_label(counter.name, counter.dimension)
        events.append(_event(counter.subject, label, counter.maximum, resets_at, percent, row.person_id, place.id))
    return Told(tuple(notes), tuple(deliveries), tuple(events), _hooks(connection, place.id, events, at))


def beside(body: str, notes: tuple[str, ...], channel: Channel | None) -> tuple[str, tuple[str, ...]]:
    """A message with the notes that its channel has room for, and the others."""
    left = []
    for note in notes:
        longer = f"{body}\n\n{note}"
        if channel is not None and fit(longer, channel.max_chars) == longer:
            body = longer
        else:
            left.append(note)
    return body, tuple(left)


def by_themselves(
    connection: Connection, request_id: uuid.UUID, row: Any, told: Told, notes: tuple[str, ...], at: datetime
) -> Told:
    """Let the notes that no answer carries go to whoever sent the request (its row) in messages of their own, if it came as
    one."""
    if not notes or row.reply_channel is None:
        return told
    channel = current_registry().channels.get(row.reply_channel)
    messages: list[dict[str, Any]] = []
    while notes:
        body, notes = beside(notes[0], notes[1:], channel)
        messages.append(
            {
                "id": new_id(),
                "channel": row.reply_channel,
                "medium": channel.medium if channel else row.channel,
                "direction": Direction.OUT,
                "kind": DeliveryKind.NOTICE,
                "request_id": request_id,
                "person_id": row.person_id,
                "address": row.reply_to,
                "our_address": row.reply_from or "",
                "body": fit(body, channel.max_chars) if channel else body,
                "status": DeliveryStatus.PENDING,
                "created_at": at,
                "updated_at": at,
            }
        )
    connection.execute(insert(Delivery), messages)
    return replace(told, deliveries=(*told.deliveries, *(message["id"] for message in messages)))


def refused(
    connection: Connection, person_id: uuid.UUID, organization_id: uuid.UUID, need: Need, counter: Counter, at: datetime
) -> Told:
    """Tell of a limit that had no room for a request, if all of it is used or held and nobody was told so. While something of
    it is left, a smaller request may be accepted: who is refused is told, but no manager."""
    if counter.maximum <= 0 or counter.used + counter.held < counter.maximum or counter.warned_percent >= _FULL:
        return NOTHING
    _mark(connection, counter, _FULL)
    limit = need.limit
    place = _place(connection, organization_id)
    text = words.limit_full(need)
    deliveries = _tell_managers(connection, place, limit.subject, _FULL, text, person_id, at)
    event = _event(limit.subject, limit.label, limit.maximum, need.resets_at, _FULL, person_id, organization_id)
    return Told((), tuple(deliveries), (event,), _hooks(connection, organization_id, (event,), at))


def _hooks(
    connection: Connection, organization_id: uuid.UUID, events: Iterable[QuotaEvent], at: datetime
) -> tuple[uuid.UUID, ...]:
    """What the organization's endpoints are told."""
    found: list[uuid.UUID] = []
    for event in events:
        found += webhooks.limit_reached(connection, organization_id, partial(asdict, event), at)
    return tuple(found)


def _event(
    subject: str,
    label: str,
    maximum: int,
    resets_at: datetime,
    percent: int,
    person_id: uuid.UUID,
    organization_id: uuid.UUID,
) -> QuotaEvent:
    return QuotaEvent(
        person_id=str(person_id),
        limit=label,
        maximum=maximum,
        resets_at=resets_at.isoformat(),
        subject=subject,
        percent=percent,
        organization_id=str(organization_id),
    )


def _shared(subject: str) -> bool:
    return subject.startswith("organization:")


def _of_person(subject: str) -> bool:
    return subject.startswith("person:")


def _percent(counter: Counter) -> int:
    return min(_FULL, counter.used * _FULL // counter.maximum)


def _may_tell(counter: Counter, marks: Sequence[int]) -> bool:
    """Whether a mark may lie between what was looked at before and what is used. An organization has marks of its own."""
    if counter.maximum <= 0 or (percent := _percent(counter)) <= counter.warned_percent:
        return False
    lowest = _LOWEST_PERCENT if _shared(counter.subject) else min(marks, default=_FULL + 1)
    return percent >= lowest


def _reached(connection: Connection, counter: Counter, marks: Sequence[int]) -> int:
    """The highest mark that was reached just now, 0 for none."""
    percent = _percent(counter)
    mark = max((mark for mark in marks if counter.warned_percent < mark <= percent), default=0)
    if not mark and not _shared(counter.subject):
        return 0
    # Also without a mark, for an organization: the next request need not ask for its marks again.
    _mark(connection, counter, percent)
    return mark


def _mark(connection: Connection, counter: Counter, percent: int) -> None:
    key = (
        _counter.c.subject == counter.subject,
        _counter.c.name == counter.name,
        _counter.c.period == counter.window.value,
        _counter.c.starts_at == counter.starts_at,
    )
    connection.execute(update(_counter).where(*key).values(warned_percent=percent))


def _place(connection: Connection, organization_id: uuid.UUID) -> _Place:
    row = connection.execute(
        select(Organization.name, Organization.time_zone, Organization.preferences).where(Organization.id == organization_id)
    ).one()
    given: object = row.preferences.get("alert_percents") if isinstance(row.preferences, dict) else None
    percents = tuple(p for p in given if type(p) is int) if isinstance(given, list) else current_settings().warned_percents
    return _Place(organization_id, row.name, row.time_zone, percents)


def _tell_managers(
    connection: Connection, place: _Place, subject: str, percent: int, text: str, person_id: uuid.UUID, at: datetime
) -> list[uuid.UUID]:
    """A message to each manager of the organization who has an e-mail address, if there is a channel that carries it."""
    wanted = current_settings().warn_managers
    if wanted == "none" or (wanted == "organization" and not _shared(subject)):
        return []
    if current_registry().channel_for("email") is None:
        return []
    who = "" if _shared(subject) else _name(connection, person_id)
    title, body = words.manager_warning(place.name, who, percent, text, current_settings().public_url)
    return manager_notices.write(connection, place.id, title, body, at)


def _name(connection: Connection, person_id: uuid.UUID) -> str:
    row = connection.execute(select(Person.full_name, Person.email).where(Person.id == person_id)).first()
    return (row.full_name or row.email or "Somebody") if row else "Somebody"
