"""Admit: who is it, may they, what do they hold, and the request's row. One transaction; a refusal is raised after it."""

from __future__ import annotations

import logging
import time
import uuid
from dataclasses import replace

from sqlalchemy import Connection, insert, select
from sqlalchemy.exc import IntegrityError, OperationalError

from webapp import queues
from webapp.contracts.errors import BadInput, Conflict, LimitReached, LimitsUnknown, NotAllowed, NotFound
from webapp.contracts.events import RequestEvent
from webapp.contracts.limits import Limit, Window
from webapp.contracts.providers import Capability
from webapp.contracts.texts import clean
from webapp.extensions import current_settings, ended_for_another, now, queue_redis, reading, writing
from webapp.models import (
    Conversation,
    DeliveryKind,
    ErrorLog,
    Person,
    Request,
    RequestStatus,
    senders,
)
from webapp.models.columns import new_id
from webapp.models.connections import Unusual
from webapp.models.senders import Sender
from webapp.pipeline import incoming, parameters, pictures, quick, warnings, webhooks, words
from webapp.pipeline.entering import Entry, Refused, Repeated, insert_request, parameters_of
from webapp.pipeline.intake import Admission, Intake, Outcome
from webapp.pipeline.pictures import Stored
from webapp.pipeline.timing import job_timeout_s
from webapp.pipeline.warnings import NOTHING
from webapp.quota import asking, holds
from webapp.quota.asking import PolicyFailed
from webapp.quota.holds import Need, NoRoom
from webapp.registry import current_registry
from webapp.routing import costs, route
from webapp.routing.route import IMAGES, Ask, Route

log = logging.getLogger(__name__)

_TRIES = 4
_TITLE_CHARS = 80
KEY_CHARS = 128
"""The longest idempotency key."""
PICTURES_MAX = 4
"""How many pictures one message takes."""
ALLOCATION_MIN, ALLOCATION_MAX = 10, 500
"""Credits that one request may be allotted (features RQ7)."""


def admit(intake: Intake) -> Admission:
    """Take something that arrived onto the road and queue it.

    Raises `BadInput`, `NotAllowed`, `NotFound`, `Conflict` (another text under the same idempotency key), `LimitReached` or
    `LimitsUnknown`; the refused request of the last two is stored first, so that nothing the person wrote is lost.
    """
    text = _checked(intake)
    if intake.token:
        _look_at_token(intake.token)
    stored = tuple(pictures.store(data, strip=True) for data in intake.pictures) if intake.pictures else ()
    ask, path = _ask(intake, stored)

    if intake.attended and intake.token and (admission := _quickly(Entry(intake, text, now(), ask, path, stored))):
        return admission
    # The price table is loaded at its first use: not inside the transaction.
    costs.most(path.targets[0] if path.targets else None, 0, 0)
    full_at: frozenset[str] = frozenset()

    def entry() -> Entry:
        return Entry(intake, text, now(), ask, path, stored, full_at=full_at)

    first = entry()
    try:
        while True:
            try:
                admission, queue = _in_transaction(first, None)
                break
            except NoRoom as full:
                provider = full.need.limit.provider
                if not provider or provider in full_at:
                    raise
                # Its own limit is full: another one may answer, and only if there is none is the request refused.
                full_at |= {provider}
                first = entry()
    except NoRoom as full:
        if intake.batch_id is not None:
            raise _limit_reached(full.need, intake) from None
        return _refuse(entry(), Refused(LimitReached.code, words.limit_reached(full.need, intake.operation), full.need))
    except PolicyFailed as exc:
        if intake.batch_id is not None:
            raise LimitsUnknown(words.LIMITS_UNKNOWN) from exc
        return _refuse(entry(), Refused(LimitsUnknown.code, words.LIMITS_UNKNOWN, detail=str(exc)))
    if admission.outcome is Outcome.ACCEPTED and not first.waits and admission.claimed is None:
        queues.put(queue_redis(), queues.EXECUTE, [str(admission.request_id)], queue, job_timeout_s(intake.operation))
    _tell(first)
    return admission


_known_tokens: dict[str, float] = {}
"""Digests of tokens that were valid when this process last looked, and until when that is remembered."""
_KNOWN_S, _KNOWN_MAX = 60.0, 10_000


def _look_at_token(token: str) -> None:
    """Raise `UnknownToken` for one that was never valid, without keeping anybody from writing. What is remembered here opens
    nothing: each admission looks again."""
    digest, moment = senders.token_digest(token), time.monotonic()
    if _known_tokens.get(digest, 0.0) > moment:
        return
    with reading() as connection:
        senders.look_up(connection, token)
    if len(_known_tokens) >= _KNOWN_MAX:
        _known_tokens.clear()
    _known_tokens[digest] = moment + _KNOWN_S


def _quickly(entry: Entry) -> Admission | None:
    """Admit the usual attended request in the fewest statements; None for what has to go the general way."""
    try:
        sender, request_id = quick.admit(entry)
    except Unusual as exc:
        log.debug("admitted in general: %s", exc)
        return None
    if current_registry().hears("request_admitted"):
        # Nothing else is ever to be told here.
        entry.events.append(("request_admitted", _request_event(entry, sender, request_id, None)))
        _tell(entry)
    return Admission(Outcome.ACCEPTED, request_id, None, entry.claimed)


def _refuse(entry: Entry, refused: Refused) -> Admission:
    """Store the refused request and raise why; return only if it was here before."""
    admission, _ = _in_transaction(entry, refused)
    _tell(entry)
    if admission.outcome is Outcome.REPEATED:
        return admission
    if refused.need is None:
        raise LimitsUnknown(refused.message, request_id=str(admission.request_id))
    raise _limit_reached(refused.need, entry.intake, str(admission.request_id))


def _limit_reached(need: Need, intake: Intake, request_id: str = "") -> LimitReached:
    message = words.limit_reached(need, intake.operation)
    alone = need.amount > need.limit.maximum
    return LimitReached(
        message,
        limit=need.limit.label,
        resets_at=need.resets_at,
        request_id=request_id,
        alone=alone,
        closed=need.limit.maximum == 0,
    )


def _checked(intake: Intake) -> str:
    text = clean(intake.text).strip()
    if not text and intake.message is None:
        raise BadInput("text", "Write something first.")
    longest = current_settings().prompt_max_chars
    if intake.brought is not None:
        # What is asked is bounded by what models read and by the limits on tokens; this is only what is kept of it.
        text = text[:longest]
    if len(text) > longest:
        raise BadInput("text", f"This is {len(text):,} characters; at most {longest:,} fit into one message.")
    key = intake.idempotency_key
    if key is not None and (not 0 < len(key) <= KEY_CHARS or clean(key) != key):
        raise BadInput("key", f"An idempotency key has 1 to {KEY_CHARS} characters, none of them a control character.")
    if len(intake.pictures) > PICTURES_MAX:
        raise BadInput("pictures", f"At most {PICTURES_MAX} pictures fit into one message.")
    allocation = intake.allocation
    if allocation is not None and not (type(allocation) is int and ALLOCATION_MIN <= allocation <= ALLOCATION_MAX):
        raise BadInput("allocation", f"An allocation is a whole number of credits from {ALLOCATION_MIN} to {ALLOCATION_MAX}.")
    parameters.check(intake.parameters)
    return text


def _ask(intake: Intake, stored: tuple[Stored, ...]) -> tuple[Ask, Route]:
    """What the route has to serve, and the route, as far as both are known before the person is. Everything that a route may
    have to read or to probe is looked at here: in the transaction, which others wait for, it goes by what is known."""
    needs = {Capability.VISION} if stored and intake.operation != IMAGES else set()
    brought = intake.brought
    if brought is not None:
        for turn in brought.turns:
            if turn.pictures:
                needs.add(Capability.VISION)
                break
        if brought.tools:
            needs.add(Capability.TOOLS)
    if intake.parameters.get("output"):
        needs.add(Capability.JSON)
    ask = Ask(
        intake.operation,
        needs=frozenset(needs),
        pictures=1 if intake.operation == IMAGES else 0,
        named=str(intake.parameters.get("model") or ""),
    )
    return ask, route.plan(ask)


def _in_transaction(entry: Entry, refused: Refused | None) -> tuple[Admission, str]:
    for tries_left in reversed(range(_TRIES)):
        try:
            with writing() as connection:
                return _enter(connection, entry, refused)
        except Repeated:
            return _repeated(entry), ""
        except (IntegrityError, OperationalError) as exc:
            # Somebody else registered the same person at the same moment: on the next try theirs is there. Or PostgreSQL
            # has ended one of two transactions that waited for each other.
            if not tries_left or (isinstance(exc, OperationalError) and not ended_for_another(exc)):
                raise
            entry.events.clear()
            entry.deliveries.clear()
            entry.told = NOTHING
            entry.claimed = None
    raise AssertionError("unreachable")


def _enter(connection: Connection, entry: Entry, refused: Refused | None) -> tuple[Admission, str]:
    """Everything that admission writes."""
    message = entry.intake.message
    if message is None:
        sender = _signed_in(connection, entry.intake)
    else:
        known = incoming.find(connection, message, entry.events, entry.at)
        entry.hooks = known.hooks
        if not incoming.continues(connection, message, entry.text, known, entry.deliveries, entry.at):
            return Admission(known.outcome), ""
        assert known.sender is not None
        sender = known.sender
    conversation_id = _conversation(connection, entry, sender)
    request_id = new_id()
    limits = _limits(entry, sender) if refused is None else []
    filed = insert_request(connection, entry, sender, request_id, conversation_id, limits, refused)
    if message is not None and not incoming.record(connection, message, entry.text, known, request_id, entry.at):
        raise Repeated
    if refused is None:
        limits = asking.held_at(limits, filed.provider)
        standings = holds.take(connection, request_id, holds.needs(limits, filed.amounts, entry.at, sender.time_zone))
        if entry.claimed is not None:
            entry.claimed.standings = standings
    else:
        _note_refusal(connection, entry, sender, request_id, refused)
    entry.events.append(("request_admitted", _request_event(entry, sender, request_id, refused)))
    outcome = Outcome.ACCEPTED if refused is None else Outcome.IGNORED
    return Admission(outcome, request_id, conversation_id, entry.claimed), filed.queue


def _limits(entry: Entry, sender: Sender) -> list[Limit]:
    intake = entry.intake
    return asking.limits_of(sender, intake.operation, intake.medium, intake.allocation)


def _note_refusal(connection: Connection, entry: Entry, sender: Sender, request_id: uuid.UUID, refused: Refused) -> None:
    """Tell somebody who is not looking at a page: of a limit that is used, once in its window; always if it is the message
    that is too large, because another may be accepted. A failed policy is the operator's."""
    message, need = entry.intake.message, refused.need
    if need is not None and need.limit.subject.startswith("person:"):
        # Somebody who wrote for the first time was registered in the transaction that was rolled back, by another id.
        need = replace(need, limit=replace(need.limit, subject=f"person:{sender.person_id}"))
    if need is None:
        connection.execute(
            insert(ErrorLog),
            {
                "id": new_id(),
                "kind": refused.code,
                "message": "A request was refused because a quota policy failed.",
                "detail": clean(refused.detail),
                "person_id": sender.person_id,
                "request_id": request_id,
                "created_at": entry.at,
            },
        )
    elif not need.alone and need.limit.window is not Window.REQUEST:
        counter = holds.refused(connection, need)
        entry.told = warnings.refused(connection, sender.person_id, sender.organization_id, need, counter, entry.at)
        # A page shows each refusal; only a message that is not answered counts on having been told before.
        if message is not None and not holds.notice_once(connection, need, sender.person_id, entry.at):
            return
    if message is None:
        return
    entry.deliveries.append(
        incoming.reply(connection, message, refused.message, DeliveryKind.NOTICE, sender.person_id, request_id, entry.at)
    )


def _signed_in(connection: Connection, intake: Intake) -> Sender:
    if intake.token:
        return senders.by_token(connection, intake.token, "chat")
    assert intake.person_id is not None, "an intake names a person or carries a message"
    if intake.organization_id is not None:
        sender = senders.within(connection, intake.person_id, intake.organization_id, intake.token_id)
    else:
        sender = senders.by_id(connection, intake.person_id, intake.conversation_id, intake.token_id)
    if sender is None or not sender.active:
        raise NotAllowed("Your account, or your organization, is not active. Ask the operator to activate it.")
    if intake.conversation_id is not None and sender.conversation_id is None:
        raise NotFound("There is no such conversation.")
    if intake.urgent and "urgent" not in sender.features:
        raise NotAllowed("Your plan does not include urgent requests.")
    return sender


def _conversation(connection: Connection, entry: Entry, sender: Sender) -> uuid.UUID | None:
    """The conversation to continue, or a new one titled by the message's beginning."""
    intake = entry.intake
    if intake.batch_id is not None or intake.attended:
        return None
    if sender.conversation_id is not None and not intake.new_conversation:
        return sender.conversation_id
    if connection.dialect.name != "sqlite" and not intake.new_conversation:
        # Two first messages at once must not start two conversations: the second waits here and finds the first's.
        # Without the key: whoever writes a message to this person, and holds a counter that this one needs, does not wait.
        connection.execute(select(Person.id).where(Person.id == sender.person_id).with_for_update(key_share=True))
        again = senders.by_id(connection, sender.person_id, None, intake.token_id)
        if again is not None and again.conversation_id is not None:
            return again.conversation_id
    conversation_id = new_id()
    title = " ".join(entry.text.split())
    connection.execute(
        insert(Conversation),
        {
            "id": conversation_id,
            "person_id": sender.person_id,
            "organization_id": sender.organization_id,
            "title": title if len(title) <= _TITLE_CHARS else title[: _TITLE_CHARS - 1].rstrip() + "…",
            "active": True,
            "created_at": entry.at,
            "last_activity_at": entry.at,
        },
    )
    return conversation_id


def _repeated(entry: Entry) -> Admission:
    """What the first submission came to, or `Conflict` if it said something else."""
    intake = entry.intake
    if intake.idempotency_key is None:
        return Admission(Outcome.REPEATED)
    with writing() as connection:
        first = connection.execute(
            select(Request.id, Request.conversation_id, Request.prompt, Request.operation, Request.parameters).where(
                Request.person_id == intake.person_id, Request.idempotency_key == intake.idempotency_key
            )
        ).first()
    named = intake.conversation_id
    if (
        first is None
        or (first.prompt, first.operation, first.parameters) != (entry.text, intake.operation, parameters_of(entry))
        or (named is not None and named != first.conversation_id)
    ):
        raise Conflict("This form was sent before with another text. Reload the page and send it again.")
    return Admission(Outcome.REPEATED, first.id, first.conversation_id)


def _tell(entry: Entry) -> None:
    """After the commit: hand out what is to be sent, and tell the listeners."""
    if entry.deliveries:
        queues.put(queue_redis(), queues.DELIVER, map(str, entry.deliveries), queues.NORMAL)
    webhooks.hand_over(entry.hooks)
    registry = current_registry()
    for hook, event in entry.events:
        registry.emit(hook, event)
    entry.told.after_commit()


def _request_event(entry: Entry, sender: Sender, request_id: uuid.UUID, refused: Refused | None) -> RequestEvent:
    return RequestEvent(
        request_id=str(request_id),
        person_id=str(sender.person_id),
        organization_id=str(sender.organization_id),
        channel=entry.intake.medium,
        operation=entry.intake.operation,
        status=RequestStatus.QUEUED if refused is None else RequestStatus.REJECTED,
        error_code="" if refused is None else refused.code,
    )
