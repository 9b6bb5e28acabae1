"""The row of a new request: what it may use, what it waits for, and what came with it. Part of admission's transaction."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, insert

from webapp import queues
from webapp.contracts.limits import Dimension, Limit
from webapp.extensions import current_settings, table_of
from webapp.models import Attachment, AttachmentKind, Request, RequestStatus
from webapp.models.columns import new_id
from webapp.models.inserting import Inserter
from webapp.models.senders import Sender
from webapp.pipeline.brought import PICTURE_TOKENS
from webapp.pipeline.claims import Claimed
from webapp.pipeline.intake import Intake
from webapp.pipeline.pictures import Stored
from webapp.pipeline.warnings import NOTHING, Told
from webapp.quota import asking, credits
from webapp.quota.holds import Need
from webapp.quota.priority import score
from webapp.routing import costs, prices, route, vendors
from webapp.routing.route import IMAGES, Ask, Route, Target

log = logging.getLogger(__name__)

_SHORTEST_TOKENS = 64
"""An answer that has to be shorter than this is not worth asking for."""
DRAWING_TOKENS = 8_192
"""What a picture may use of a vendor that counts tokens for it."""


@dataclass(frozen=True, slots=True)
class Refused:
    """Why a request is stored as rejected. `need` is the limit that is full; without one, a policy failed."""

    code: str
    message: str
    need: Need | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Filed:
    """A request as it was stored: its queue, what it may use at most, and the provider that will probably answer ('': none)."""

    queue: str
    amounts: Mapping[Dimension, int]
    provider: str


class Repeated(Exception):
    """The message or the idempotency key was here before."""


@dataclass(slots=True)
class Entry:
    """One admission under way: what arrived, and what is to be told and sent after the commit."""

    intake: Intake
    text: str
    at: datetime
    ask: Ask
    path: Route
    """The route for anybody, before the person was known."""
    pictures: tuple[Stored, ...] = ()
    full_at: frozenset[str] = frozenset()
    """Providers whose own limits have no room for it."""
    waits: bool = False
    """Whether it was stored to wait for cheaper hours, and must not be enqueued now."""
    events: list[tuple[str, object]] = field(default_factory=list)
    deliveries: list[uuid.UUID] = field(default_factory=list)
    hooks: list[uuid.UUID] = field(default_factory=list)
    """Outgoing webhooks."""
    told: Told = NOTHING
    claimed: Claimed | None = None
    """An attended request, claimed by whoever admits it."""


COLUMNS = (
    "id",
    "person_id",
    "organization_id",
    "conversation_id",
    "channel",
    "operation",
    "prompt",
    "parameters",
    "plan_code",
    "not_before",
    "status",
    "max_input_tokens",
    "max_output_tokens",
    "held_microusd",
    "held_provider",
    "allocation_millicredits",
    "cap_microusd",
    "token_id",
    "batch_id",
    "template_version_id",
    "again_of_id",
    "queue",
    "priority",
    "expires_at",
    "attempts",
    "claim",
    "lease_until",
    "started_at",
    "created_at",
    "idempotency_key",
    "reply_channel",
    "reply_to",
    "reply_from",
    "error_code",
    "error_message",
    "ended_at",
)
_insert = Inserter(table_of(Request), COLUMNS)
_insert_once = Inserter(table_of(Request), COLUMNS, once=("person_id", "idempotency_key"))


def insert_request(
    connection: Connection,
    entry: Entry,
    sender: Sender,
    request_id: uuid.UUID,
    conversation_id: uuid.UUID | None,
    limits: Sequence[Limit],
    refused: Refused | None,
) -> Filed:
    """Store the request; returns what is to be held for it. Raises `Repeated` for a known idempotency key."""
    values, filed = new_row(entry, sender, request_id, conversation_id, asking.cap_microusd(limits), refused)
    if entry.intake.idempotency_key is None:
        _insert(connection, [values])
    elif not _insert_once(connection, [values]):
        raise Repeated
    _insert_pictures(connection, entry, sender, request_id)
    return filed


def new_row(
    entry: Entry,
    sender: Sender,
    request_id: uuid.UUID,
    conversation_id: uuid.UUID | None,
    cap: int | None,
    refused: Refused | None,
) -> tuple[dict[str, Any], Filed]:
    """The row of a request (`COLUMNS`), and what is to be held for it. An attended one is claimed from here on. `cap` is what
    all its calls together may cost, in micro-dollars."""
    intake, message = entry.intake, entry.intake.message
    target, ask = _sized(entry, sender, conversation_id, cap)
    amounts = _amounts(target, ask)
    not_before = _cheaper_hours(entry, target)
    entry.waits = not_before is not None
    priority = score(sender.priority, intake.operation, intake.urgent, batch=intake.batch_id is not None)
    filed = Filed(queues.queue_for(priority), amounts, target.provider.name if target else "")
    values: dict[str, Any] = {
        "id": request_id,
        "person_id": sender.person_id,
        "organization_id": sender.organization_id,
        "conversation_id": conversation_id,
        "channel": intake.medium,
        "operation": intake.operation,
        "prompt": entry.text,
        "parameters": parameters_of(entry),
        "plan_code": sender.plan,
        "not_before": not_before,
        "status": RequestStatus.QUEUED if refused is None else RequestStatus.REJECTED,
        "max_input_tokens": ask.input_tokens,
        "max_output_tokens": ask.output_tokens,
        "held_microusd": amounts[Dimension.COST] if refused is None else 0,
        "held_provider": filed.provider or None,
        "allocation_millicredits": None if intake.allocation is None else intake.allocation * credits.MILLI,
        "cap_microusd": cap,
        "token_id": sender.token_id or intake.token_id,
        "batch_id": intake.batch_id,
        "template_version_id": intake.template_version_id,
        "again_of_id": intake.again_of_id,
        "queue": filed.queue,
        "priority": priority,
        "expires_at": _expires_at(entry, not_before),
        "attempts": 0,
        "claim": None,
        "lease_until": None,
        "started_at": None,
        "created_at": entry.at,
        "idempotency_key": intake.idempotency_key,
        "reply_channel": message.channel if message else None,
        "reply_to": message.sender if message else None,
        "reply_from": message.recipient if message else None,
        "error_code": refused.code if refused else None,
        "error_message": refused.message if refused else None,
        "ended_at": entry.at if refused else None,
    }
    if intake.attended and refused is None:
        entry.claimed = _claimed(values, entry.at)
    return values, filed


def _claimed(values: dict[str, Any], at: datetime) -> Claimed:
    """The request as one that is executed from the moment it is stored."""
    claim = new_id()
    values |= {
        "status": RequestStatus.PROCESSING,
        "queue": queues.NONE,
        "attempts": 1,
        "claim": claim,
        "lease_until": at + timedelta(seconds=current_settings().lease_s),
        "started_at": at,
    }
    return Claimed(
        id=values["id"],
        claim=claim,
        started_at=at,
        person_id=values["person_id"],
        organization_id=values["organization_id"],
        conversation_id=values["conversation_id"],
        operation=values["operation"],
        prompt=values["prompt"],
        parameters=values["parameters"],
        plan_code=values["plan_code"],
        max_input_tokens=values["max_input_tokens"],
        max_output_tokens=values["max_output_tokens"],
        attempt=1,
        reply_channel=values["reply_channel"],
        held_microusd=values["held_microusd"],
        cancel_asked_at=None,
        channel=values["channel"],
        retries=0,
        token_id=values["token_id"],
        held_provider=values["held_provider"],
        cap_microusd=values["cap_microusd"],
        tokens_before=0,
        cost_before_microusd=0,
    )


def _sized(
    entry: Entry, sender: Sender, conversation_id: uuid.UUID | None, cap_microusd: int | None
) -> tuple[Target | None, Ask]:
    """Who will probably answer, and how much that may read and write."""
    brought = entry.intake.brought
    if brought is not None:
        alone = brought.tokens()
    else:
        alone = prices.estimate_tokens(current_settings().system_prompt) + prices.estimate_tokens(entry.text)
        alone += PICTURE_TOKENS * len(entry.pictures) + 3 * prices.TURN_TOKENS
    earlier = sender.context_tokens if conversation_id is not None and sender.conversation_id == conversation_id else 0
    drawing = entry.intake.operation == IMAGES
    wanted = entry.intake.parameters.get("max_output_tokens") or sender.max_output_tokens
    asked = entry.ask
    ask = Ask(
        operation=asked.operation,
        category=asked.category,
        plan=sender.plan,
        organization_id=sender.organization_id,
        needs=asked.needs,
        input_tokens=alone + (0 if drawing else earlier),
        output_tokens=DRAWING_TOKENS if drawing else min(wanted, sender.max_output_tokens),
        pictures=asked.pictures,
        named=asked.named,
    )
    targets = _targets(ask, entry.path)
    # With none left it is the first again, whose limit then refuses the request.
    targets = [each for each in targets if each.provider.name not in entry.full_at] or targets
    return _within(cap_microusd, ask, alone, targets)


def _insert_pictures(connection: Connection, entry: Entry, sender: Sender, request_id: uuid.UUID) -> None:
    given = [
        {
            "id": new_id(),
            "request_id": request_id,
            "person_id": sender.person_id,
            "organization_id": sender.organization_id,
            "kind": AttachmentKind.GIVEN,
            "sha256": stored.sha256,
            "media_type": stored.media_type,
            "size_bytes": stored.size_bytes,
            "width": stored.width,
            "height": stored.height,
            "actions": [],
            "created_at": entry.at,
        }
        for stored in entry.pictures
    ]
    if given:
        connection.execute(insert(Attachment), given)


def parameters_of(entry: Entry) -> dict[str, Any]:
    given = dict(entry.intake.parameters)
    return given | {"pictures": [stored.sha256 for stored in entry.pictures]} if entry.pictures else given


def _cheaper_hours(entry: Entry, target: Target | None) -> datetime | None:
    """When the vendor's dear hours are over, for a request that may wait for it; None to begin at once."""
    if not entry.intake.may_wait or target is None:
        return None
    over_at = vendors.peak_hours(target.provider).over_at(entry.at)
    return over_at if over_at > entry.at else None


def _amounts(target: Target | None, ask: Ask) -> dict[Dimension, int]:
    """What the request may use at most, as far as that can be known before it runs."""
    cost = costs.most(target, ask.input_tokens, ask.output_tokens, ask.pictures).cost_microusd
    return {
        Dimension.REQUESTS: 1,
        Dimension.TOKENS: ask.input_tokens + ask.output_tokens,
        Dimension.COST: cost,
        Dimension.CREDITS: credits.of_cost(cost),
    }


def _within(
    cap_microusd: int | None, ask: Ask, least_input_tokens: int, targets: Sequence[Target]
) -> tuple[Target | None, Ask]:
    """The first target that the request's own bound pays for, and the request as it is then: where the bound does not pay for
    all of the earlier conversation, with less of it, and then for a shorter answer. With no target in reach it is the first
    one, and the bound refuses it. `least_input_tokens` is the prompt without anything earlier."""
    first = targets[0] if targets else None
    if cap_microusd is None:
        return first, ask
    for target in targets or (None,):
        if _most(target, ask) <= cap_microusd:
            return target, ask
    if ask.pictures:
        return first, ask
    bare = replace(ask, input_tokens=least_input_tokens)
    for target in targets or (None,):
        if _most(target, bare) <= cap_microusd:
            share = _share(cap_microusd, _most(target, bare), _most(target, ask), ask.input_tokens - least_input_tokens)
            return target, replace(ask, input_tokens=least_input_tokens + share)
    for target in targets or (None,):
        silent = replace(bare, output_tokens=0)
        shorter = _share(cap_microusd, _most(target, silent), _most(target, bare), ask.output_tokens)
        if shorter >= _SHORTEST_TOKENS:
            return target, replace(bare, output_tokens=shorter)
    return first, ask


def _most(target: Target | None, ask: Ask) -> int:
    return costs.most(target, ask.input_tokens, ask.output_tokens, ask.pictures).cost_microusd


def _share(cap: int, cost_without: int, cost_with: int, tokens: int) -> int:
    """How many of `tokens` fit, if the cost grows evenly with them; one less, for the rounding."""
    return max(0, tokens * (cap - cost_without) // max(cost_with - cost_without, 1) - 1)


def _expires_at(entry: Entry, not_before: datetime | None) -> datetime | None:
    if entry.intake.batch_id is not None:
        return None
    return (not_before or entry.at) + timedelta(hours=current_settings().queue_max_h)


def _targets(ask: Ask, path: Route) -> Sequence[Target]:
    """What will probably answer, to know what it may cost. With none ready the request fails later, on the record: what the
    person wrote must not be lost here."""
    if vendors.depends_on_sender(ask.organization_id):
        path = route.plan(ask, fresh=False)
    if not path.targets:
        log.error("no target for a new request: %s", path.why_none)
    return path.targets
