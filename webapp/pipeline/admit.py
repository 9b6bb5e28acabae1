"""Admit: who is it, may they, what do they hold, and the request's row. One transaction; a refusal is raised after it."""

from __future__ import annotations

import logging
import uuid
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, insert, select
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.exc import IntegrityError, OperationalError

from webapp import queues
from webapp.contracts.errors import BadInput, Conflict, LimitReached, LimitsUnknown, NotAllowed, NotFound, ProviderError
from webapp.contracts.events import QuotaEvent, RequestEvent
from webapp.contracts.limits import Dimension, Limit, QuotaQuestion, Window
from webapp.contracts.texts import clean, frames
from webapp.extensions import current_settings, now, queue_redis, table_of, writing
from webapp.models import Conversation, DeliveryKind, ErrorLog, Person, Request, RequestStatus, senders
from webapp.models.columns import new_id
from webapp.models.senders import Sender
from webapp.pipeline import incoming, words
from webapp.pipeline.intake import Admission, Intake, Outcome
from webapp.quota import holds
from webapp.quota.holds import Need, NoRoom
from webapp.registry import current_registry
from webapp.routing import costs, prices, route
from webapp.routing.route import Target

log = logging.getLogger(__name__)

_TRIES = 4
_TITLE_CHARS = 80
KEY_CHARS = 128
"""The longest idempotency key."""


_requests = table_of(Request)
_insert = insert(_requests)
_insert_once = {
    dialect: insert_into(_requests)
    .on_conflict_do_nothing(index_elements=["person_id", "idempotency_key"])
    .returning(_requests.c.id)
    for dialect, insert_into in (("sqlite", sqlite_insert), ("postgresql", postgresql_insert))
}


@dataclass(frozen=True, slots=True)
class Refused:
    """Why a request is stored as rejected. `need` is the limit that is full; without one, a policy failed."""

    code: str
    message: str
    need: Need | None = None
    detail: str = ""


class _PolicyFailed(Exception):
    """A quota policy raised, or returned what is no limit."""


class _Repeated(Exception):
    """The message or the idempotency key was here before."""


@dataclass(slots=True)
class Work:
    """One admission under way: what arrived, and what is to be told and sent after the commit."""

    intake: Intake
    text: str
    at: datetime
    target: Target | None
    events: list[tuple[str, object]] = field(default_factory=list)
    deliveries: list[uuid.UUID] = field(default_factory=list)


def admit(intake: Intake) -> Admission:
    """Take something that arrived onto the road and queue it.

    Raises `BadInput`, `NotAllowed`, `NotFound`, `Conflict` (another text under the same idempotency key), `LimitReached` or
    `LimitsUnknown`; the refused request of the last two is stored first, so that nothing the person wrote is lost.
    """
    text = _checked(intake)
    target = _target()
    work = Work(intake, text, now(), target)
    try:
        admission, queue = _in_transaction(work, None)
    except NoRoom as full:
        refused = Refused(LimitReached.code, words.limit_reached(full.need), full.need)
        return _refuse(Work(intake, text, now(), target), refused)
    except _PolicyFailed as exc:
        refused = Refused(LimitsUnknown.code, words.LIMITS_UNKNOWN, detail=str(exc))
        return _refuse(Work(intake, text, now(), target), refused)
    if admission.outcome is Outcome.ACCEPTED:
        queues.put(queue_redis(), queues.EXECUTE, [str(admission.request_id)], queue, job_timeout_s())
    _tell(work)
    return admission


def _refuse(work: Work, refused: Refused) -> Admission:
    """Store the refused request and raise why; return only if it was here before."""
    admission, _ = _in_transaction(work, refused)
    _tell(work)
    if admission.outcome is Outcome.REPEATED:
        return admission
    if refused.need is None:
        raise LimitsUnknown(refused.message, request_id=str(admission.request_id))
    raise LimitReached(
        refused.message,
        limit=refused.need.limit.label,
        resets_at=refused.need.resets_at,
        request_id=str(admission.request_id),
    )


def job_timeout_s() -> int:
    """The job's time limit. The pipeline ends a call by its own deadline; this is the backstop behind it."""
    return int(current_settings().request_timeout_s) + 30


def _checked(intake: Intake) -> str:
    text = clean(intake.text).strip()
    if not text and intake.message is None:
        raise BadInput("text", "Write something first.")
    longest = current_settings().prompt_max_chars
    if len(text) > longest:
        raise BadInput("text", f"This is {len(text):,} characters; at most {longest:,} fit into one message.")
    key = intake.idempotency_key
    if key is not None and (not 0 < len(key) <= KEY_CHARS or clean(key) != key):
        raise BadInput("key", f"An idempotency key has 1 to {KEY_CHARS} characters, none of them a control character.")
    return text


def _target() -> Target | None:
    """What will probably answer, to know what it may cost. With none ready the request fails later, on the record: what the
    person wrote must not be lost here."""
    try:
        target = route.choose()
    except ProviderError as exc:
        log.error("no target for a new request: %s", exc.detail or exc.message)
        return None
    # The price table is loaded at its first use: not inside the transaction, which others wait for.
    costs.most(target, 0, 0)
    return target


def _in_transaction(work: Work, refused: Refused | None) -> tuple[Admission, str]:
    for tries_left in reversed(range(_TRIES)):
        try:
            with writing() as connection:
                return _enter(connection, work, refused)
        except _Repeated:
            return _repeated(work), ""
        except (IntegrityError, OperationalError) as exc:
            # Somebody else registered the same person at the same moment: on the next try theirs is there. Or PostgreSQL
            # has ended one of two transactions that waited for each other.
            if not tries_left or (isinstance(exc, OperationalError) and not _try_again(exc)):
                raise
            work.events.clear()
            work.deliveries.clear()
    raise AssertionError("unreachable")


def _try_again(exc: OperationalError) -> bool:
    """Whether a transaction was ended for another's sake: a deadlock or a serialization failure."""
    return getattr(exc.orig, "sqlstate", None) in ("40P01", "40001")


def _enter(connection: Connection, work: Work, refused: Refused | None) -> tuple[Admission, str]:
    """Everything that admission writes."""
    message = work.intake.message
    if message is None:
        sender = _signed_in(connection, work.intake)
    else:
        known = incoming.find(connection, message, work.events, work.at)
        if not incoming.continues(connection, message, work.text, known, work.deliveries, work.at):
            return Admission(known.outcome), ""
        assert known.sender is not None
        sender = known.sender
    conversation_id = _conversation(connection, work, sender)
    request_id = new_id()
    queue = queues.queue_for(sender.priority)
    amounts = _insert_request(connection, work, sender, request_id, conversation_id, queue, refused)
    if message is not None and not incoming.record(connection, message, work.text, sender.person_id, request_id, work.at):
        raise _Repeated
    if refused is None:
        holds.take(connection, request_id, holds.needs(_limits(work, sender), amounts, work.at, sender.time_zone))
    else:
        _note_refusal(connection, work, sender, request_id, refused)
    work.events.append(("request_admitted", _request_event(work, sender, request_id, refused)))
    outcome = Outcome.ACCEPTED if refused is None else Outcome.IGNORED
    return Admission(outcome, request_id, conversation_id), queue


def _limits(work: Work, sender: Sender) -> list[Limit]:
    """What every policy says. An unknown limit is not an absent one: a policy that fails refuses the request."""
    question = QuotaQuestion(
        person_id=str(sender.person_id),
        organization_id=str(sender.organization_id),
        plan=sender.plan,
        plan_limits=sender.plan_limits,
        operation=work.intake.operation,
        channel=work.intake.medium,
    )
    found: dict[tuple[str, str, Window], Limit] = {}
    for policy in current_registry().policies.values():
        try:
            for limit in policy.limits(question):
                if not isinstance(limit, Limit):
                    raise TypeError(f"a {type(limit).__name__} is no limit")
                same = found.setdefault((limit.subject, limit.name, limit.window), limit)
                if same.dimension is not limit.dimension:
                    raise ValueError(f"the limit {limit.name} is there already, of another dimension")
                # Two policies with the same limit: the stricter one holds.
                if limit.maximum < same.maximum:
                    found[limit.subject, limit.name, limit.window] = limit
        except (Exception, SystemExit) as exc:
            log.error("the quota policy %s failed: %s\n%s", policy.name, type(exc).__name__, frames(exc))
            raise _PolicyFailed(f"The quota policy {policy.name} failed: {type(exc).__name__}: {exc}") from exc
    return list(found.values())


def _note_refusal(connection: Connection, work: Work, sender: Sender, request_id: uuid.UUID, refused: Refused) -> None:
    """Tell somebody who is not looking at a page; of a full limit, once in its window. A failed policy is the operator's."""
    message, need = work.intake.message, refused.need
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
                "created_at": work.at,
            },
        )
    if message is None or (need is not None and not holds.notice_once(connection, need, work.at)):
        return
    work.deliveries.append(
        incoming.reply(connection, message, refused.message, DeliveryKind.NOTICE, sender.person_id, request_id, work.at)
    )
    if need is not None:
        work.events.append(("quota_warning", _quota_event(sender, need)))


def _signed_in(connection: Connection, intake: Intake) -> Sender:
    assert intake.person_id is not None, "an intake names a person or carries a message"
    sender = senders.by_id(connection, intake.person_id, intake.conversation_id)
    if sender is None or not sender.active:
        raise NotAllowed("Your account is not active. Ask the operator to activate it.")
    if intake.conversation_id is not None and sender.conversation_id is None:
        raise NotFound("There is no such conversation.")
    return sender


def _conversation(connection: Connection, work: Work, sender: Sender) -> uuid.UUID:
    """The conversation to continue, or a new one titled by the message's beginning."""
    intake = work.intake
    if sender.conversation_id is not None and not intake.new_conversation:
        return sender.conversation_id
    if connection.dialect.name != "sqlite" and not intake.new_conversation:
        # Two first messages at once must not start two conversations: the second waits here and finds the first's.
        connection.execute(select(Person.id).where(Person.id == sender.person_id).with_for_update())
        again = senders.by_id(connection, sender.person_id, None)
        if again is not None and again.conversation_id is not None:
            return again.conversation_id
    conversation_id = new_id()
    title = " ".join(work.text.split())
    connection.execute(
        insert(Conversation),
        {
            "id": conversation_id,
            "person_id": sender.person_id,
            "organization_id": sender.organization_id,
            "title": title if len(title) <= _TITLE_CHARS else title[: _TITLE_CHARS - 1].rstrip() + "…",
            "active": True,
            "created_at": work.at,
            "last_activity_at": work.at,
        },
    )
    return conversation_id


def _insert_request(
    connection: Connection,
    work: Work,
    sender: Sender,
    request_id: uuid.UUID,
    conversation_id: uuid.UUID,
    queue: str,
    refused: Refused | None,
) -> dict[Dimension, int]:
    """Store the request; returns what is to be held for it. Raises `_Repeated` for a known idempotency key."""
    intake, message = work.intake, work.intake.message
    prompt_tokens = prices.estimate_tokens(current_settings().system_prompt) + prices.estimate_tokens(work.text)
    earlier = sender.context_tokens if sender.conversation_id == conversation_id else 0
    max_input_tokens = prompt_tokens + earlier + 3 * prices.TURN_TOKENS
    amounts = _amounts(work.target, max_input_tokens, sender.max_output_tokens)
    values: dict[str, Any] = {
        "id": request_id,
        "person_id": sender.person_id,
        "organization_id": sender.organization_id,
        "conversation_id": conversation_id,
        "channel": intake.medium,
        "operation": intake.operation,
        "prompt": work.text,
        "status": RequestStatus.QUEUED if refused is None else RequestStatus.REJECTED,
        "max_input_tokens": max_input_tokens,
        "max_output_tokens": sender.max_output_tokens,
        "held_microusd": amounts[Dimension.COST] if refused is None else 0,
        "queue": queue,
        "priority": sender.priority,
        "created_at": work.at,
        "idempotency_key": intake.idempotency_key,
        "reply_channel": message.channel if message else None,
        "reply_to": message.sender if message else None,
        "reply_from": message.recipient if message else None,
        "error_code": refused.code if refused else None,
        "error_message": refused.message if refused else None,
        "ended_at": work.at if refused else None,
    }
    if intake.idempotency_key is None:
        connection.execute(_insert, values)
    elif connection.execute(_insert_once[connection.dialect.name], values).first() is None:
        raise _Repeated
    return amounts


def _amounts(target: Target | None, input_tokens: int, output_tokens: int) -> dict[Dimension, int]:
    """What the request may use at most, as far as that can be known before it runs."""
    cost = costs.most(target, input_tokens, output_tokens).cost_microusd
    return {Dimension.REQUESTS: 1, Dimension.TOKENS: input_tokens + output_tokens, Dimension.COST: cost}


def _repeated(work: Work) -> Admission:
    """What the first submission came to, or `Conflict` if it said something else."""
    intake = work.intake
    if intake.idempotency_key is None:
        return Admission(Outcome.REPEATED)
    with writing() as connection:
        first = connection.execute(
            select(Request.id, Request.conversation_id, Request.prompt, Request.operation).where(
                Request.person_id == intake.person_id, Request.idempotency_key == intake.idempotency_key
            )
        ).first()
    named = intake.conversation_id
    if (
        first is None
        or (first.prompt, first.operation) != (work.text, intake.operation)
        or (named is not None and named != first.conversation_id)
    ):
        raise Conflict("This form was sent before with another text. Reload the page and send it again.")
    return Admission(Outcome.REPEATED, first.id, first.conversation_id)


def _tell(work: Work) -> None:
    """After the commit: hand out what is to be sent, and tell the listeners."""
    if work.deliveries:
        queues.put(queue_redis(), queues.DELIVER, map(str, work.deliveries), queues.NORMAL)
    registry = current_registry()
    for hook, event in work.events:
        registry.emit(hook, event)


def _request_event(work: Work, sender: Sender, request_id: uuid.UUID, refused: Refused | None) -> RequestEvent:
    return RequestEvent(
        request_id=str(request_id),
        person_id=str(sender.person_id),
        organization_id=str(sender.organization_id),
        channel=work.intake.medium,
        operation=work.intake.operation,
        status=RequestStatus.QUEUED if refused is None else RequestStatus.REJECTED,
        error_code="" if refused is None else refused.code,
    )


def _quota_event(sender: Sender, need: Need) -> QuotaEvent:
    return QuotaEvent(
        person_id=str(sender.person_id),
        limit=need.limit.label,
        maximum=need.limit.maximum,
        resets_at=need.resets_at.isoformat(),
    )
