"""A text message that nobody's phone sent: it takes the same road as a real one, and this waits for what comes back."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import redis
from sqlalchemy import select

from webapp.contracts.channels import RANK, DeliveryStatus, InboundMessage
from webapp.contracts.errors import SetupError
from webapp.contracts.limits import Window
from webapp.extensions import current_settings, now, queue_redis, reading
from webapp.models import (
    Delivery,
    Direction,
    Identity,
    LedgerEntry,
    LimitCounter,
    Organization,
    Person,
    Request,
    RequestStatus,
)
from webapp.models.requests import ENDED
from webapp.pipeline.inbox import CoreInbox
from webapp.quota.windows import bounds
from webapp.registry import current_registry
from webapp.services import workers
from webapp.services.messages import SIMULATOR

POLL_S = 0.1
NOT_RUNNING = "Switchhook is not running: start it with `make run` (or `switchhook up`), then try again."

_FINAL = [status for status, rank in RANK.items() if rank == RANK[DeliveryStatus.DELIVERED]] + [DeliveryStatus.UNKNOWN]


@dataclass(slots=True)
class Simulated:
    """What became of a simulated message.

    `status` is the request's, or 'consent' or 'ignored' for a message that became none. `note` says in words why there is
    no reply, or what else there is to know. `used` and `maximum` are messages in this month; None where nothing is counted.
    """

    external_id: str
    status: str = ""
    request_id: uuid.UUID | None = None
    replies: list[str] = field(default_factory=list)
    note: str = ""
    provider: str = ""
    model: str = ""
    demo: bool = False
    input_tokens: int = 0
    output_tokens: int = 0
    estimated: bool = False
    cost_microusd: int = 0
    time_s: float = 0.0
    used: int | None = None
    maximum: int | None = None
    ended: bool = True

    @property
    def failed(self) -> bool:
        """Whether something went wrong; a refusal by a limit or a consent word is as it should be."""
        return not self.ended or self.status == RequestStatus.FAILED


def check_running() -> None:
    """`SetupError` unless a worker would answer."""
    try:
        count = workers.alive(queue_redis())
    except redis.RedisError as exc:
        raise SetupError(NOT_RUNNING) from exc
    if not count:
        raise SetupError(NOT_RUNNING)


def simulate(sender: str, text: str, timeout_s: float) -> Simulated:
    """Hand in a message from `sender` (E.164) and wait for what comes back, at most `timeout_s` seconds.

    Raises `BadInput` if the message cannot be taken.
    """
    if SIMULATOR not in current_registry().channels:
        raise SetupError("The simulator is left out: `switchhook plugin list` says why.")
    began, arrived = time.monotonic(), now()
    message = InboundMessage(SIMULATOR, f"sim-{uuid.uuid4().hex}", sender, SIMULATOR, text)
    CoreInbox().receive(message)
    result = Simulated(message.external_id)
    while True:
        incoming, request, outgoing = _look(message, arrived)
        result.ended = (request is None or request.status in ENDED) and all(d.status in _FINAL for d in outgoing)
        if result.ended or _put_off(request) or time.monotonic() - began > timeout_s:
            break
        time.sleep(POLL_S)
    result.time_s = round(time.monotonic() - began, 3)
    result.replies = [row.body for row in outgoing if row.status != DeliveryStatus.SUPPRESSED]
    if request is None:
        _explain_no_request(result, message)
    else:
        _explain(result, request, outgoing)
    if incoming.person_id is not None:
        _usage(result, incoming.person_id)
    return result


def _put_off(request: Any) -> bool:
    """Whether a request has failed and waits to be tried again."""
    return request is not None and request.status == RequestStatus.QUEUED and request.retries > 0


def _look(message: InboundMessage, arrived: datetime) -> tuple[Any, Any, list[Any]]:
    """The message as it was stored, its request if it became one, and what goes back."""
    with reading() as connection:
        incoming = connection.execute(
            select(Delivery.request_id, Delivery.person_id).where(
                Delivery.channel == SIMULATOR, Delivery.external_id == message.external_id
            )
        ).one()
        back = select(Delivery.body, Delivery.status, Delivery.error_message).where(
            Delivery.direction == Direction.OUT, Delivery.channel == SIMULATOR
        )
        if incoming.request_id is None:
            # A consent word, or nothing to be answered: what goes back was stored together with it.
            back = back.where(Delivery.address == message.sender, Delivery.request_id.is_(None), Delivery.created_at >= arrived)
            return incoming, None, list(connection.execute(back.order_by(Delivery.id)))
        request = connection.execute(select(Request.__table__).where(Request.id == incoming.request_id)).one()
        back = back.where(Delivery.request_id == incoming.request_id)
        return incoming, request, list(connection.execute(back.order_by(Delivery.id)))


def _explain(result: Simulated, request: Any, outgoing: list[Any]) -> None:
    result.request_id, result.status = request.id, request.status
    result.provider, result.model = request.provider or "", request.model or ""
    provider = current_registry().providers.get(result.provider)
    result.demo = provider is not None and provider.demo
    result.input_tokens, result.output_tokens = request.input_tokens, request.output_tokens
    result.cost_microusd = request.cost_microusd
    with reading() as connection:
        mine = (LedgerEntry.request_id == request.id, LedgerEntry.payer == "person", LedgerEntry.estimated)
        result.estimated = connection.execute(select(LedgerEntry.id).where(*mine).limit(1)).first() is not None
    if not result.ended and _put_off(request):
        when = f"{request.not_before:%H:%M:%S} UTC"
        result.note = (
            f"It failed ({request.error_code}) and is tried again at {when}: `switchhook doctor` looks for the reason."
        )
    elif not result.ended:
        result.note = "It is stored and will be answered later."
    elif request.status == RequestStatus.FAILED:
        result.note = f"The request failed ({request.error_code}): `switchhook doctor` looks for the reason."
    elif request.status == RequestStatus.REJECTED:
        told = "" if outgoing else " They were told once already, so no message goes out."
        result.note = f"Over the limit: {request.error_message}{told}"
    elif request.status == RequestStatus.CANCELLED:
        result.note = request.error_message or "The request was cancelled."
    elif any(row.status == DeliveryStatus.SUPPRESSED for row in outgoing):
        result.note = "The answer was not sent: this number opted out meanwhile."
    else:
        result.note = next((row.error_message for row in outgoing if row.error_message), "")


def _explain_no_request(result: Simulated, message: InboundMessage) -> None:
    """Why a message became no request. The road says no more than that it did not; the reason is in what it left."""
    with reading() as connection:
        known = connection.execute(
            select(Identity.opted_out_at, Person.active)
            .join(Person, Person.id == Identity.person_id)
            .where(Identity.medium == "sms", Identity.address == message.sender)
        ).first()
    result.status = "notice" if result.replies else "ignored"
    if not result.ended:
        result.note = "It is stored and will be answered later."
    elif result.replies:
        return
    elif known is not None and known.opted_out_at is not None:
        result.note = "No reply: this number has opted out. Text START to get answers again."
    elif known is None:
        open_to = current_settings().sms_registration
        result.note = f"No reply: this number is not known, and SWITCHHOOK_SMS_REGISTRATION is {open_to}."
    elif not known.active:
        result.note = "No reply: this person is not active."
    else:
        result.note = "No reply is due."


def _usage(result: Simulated, person_id: uuid.UUID) -> None:
    """Messages that the person has used in this month, where their plan counts them."""
    with reading() as connection:
        zone = connection.execute(
            select(Organization.time_zone).join(Person, Person.organization_id == Organization.id).where(Person.id == person_id)
        ).scalar_one()
        counter = connection.execute(
            select(LimitCounter.used, LimitCounter.maximum).where(
                LimitCounter.subject == f"person:{person_id}",
                LimitCounter.name == "messages",
                LimitCounter.period == Window.MONTH,
                LimitCounter.starts_at == bounds(Window.MONTH, now(), zone)[0],
            )
        ).first()
    if counter is not None:
        result.used, result.maximum = counter.used, counter.maximum
