"""Messages in and out, and what vendors said about them."""

from __future__ import annotations

import uuid
from dataclasses import replace

from flask import Response

from webapp.api import access
from webapp.api.base import answer, area, make_cursor, page_answer, read_cursor
from webapp.api.deliveries_models import Delivery, DeliveryDetail, DeliveryPage, DeliveryPath, DeliveryQuery
from webapp.api.task_answers import visible
from webapp.services import delivery_lists
from webapp.services.delivery_lists import Wanted

blueprint = area("deliveries", "Deliveries", "Messages to and from people, with their receipts.")


@blueprint.get("/deliveries", summary="List messages", responses={200: DeliveryPage})
@access.opens("read")
def list_deliveries(query: DeliveryQuery) -> Response:
    """One's own messages, the latest first; those of the organization for its managers, all for administrators."""
    after = read_cursor(query.cursor, uuid.UUID)
    names = ("status", "direction", "channel", "kind", "address", "person_id", "request_id", "created_from", "created_to")
    wanted = Wanted(**{name: getattr(query, name) for name in names})
    found = delivery_lists.page(
        visible(access.caller()), wanted, after=after[0] if after else None, size=query.limit, total=query.total
    )
    next_cursor = make_cursor(found.next_id) if found.next_id else None
    return page_answer(map(Delivery.of, found.lines), next_cursor, found.total)


@blueprint.get("/deliveries/<delivery_id>", summary="Read a message", responses={200: DeliveryDetail})
@access.opens("read", "sms")
def read_delivery(path: DeliveryPath) -> Response:
    """One message, with what the vendor said about it. A token with the scope `sms` alone follows what it sent, and reads no
    texts."""
    caller = access.caller()
    reads = bool(caller.scopes & {"read", "admin"})
    scope = visible(caller if reads else replace(caller, scopes=caller.scopes | {"admin"}))
    view, receipts = delivery_lists.one(scope, path.delivery_id)
    if not reads:
        view = replace(view, body=None, subject=None)
    return answer(DeliveryDetail.told(view, receipts))
