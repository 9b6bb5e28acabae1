"""Kinds of columns, as annotated types: the same thing is stored the same way in every table."""

from __future__ import annotations

import json
import uuid
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any

from sqlalchemy import JSON, BigInteger, Dialect, ForeignKey, String, Text, Uuid
from sqlalchemy.orm import mapped_column
from sqlalchemy.types import TypeDecorator
from uuid_utils.compat import uuid7

from webapp.contracts.texts import hide_tokens
from webapp.extensions import UTCDateTime, now


def new_id() -> uuid.UUID:
    """A UUIDv7 (RFC 9562): unique, and in order of creation, so that the primary key is also the order of lists."""
    return uuid7()


def one_of(column: str, states: type[StrEnum]) -> str:
    """The SQL of a check that `column` holds one of `states`: `status IN ('queued', 'completed')`."""
    return f"{column} IN ({', '.join(repr(str(state)) for state in states)})"


class WithoutTokens(TypeDecorator[dict[str, Any]]):
    """A JSON object in which API tokens are hidden before it is stored."""

    impl = JSON
    cache_ok = True

    def process_bind_param(self, value: dict[str, Any] | None, dialect: Dialect) -> dict[str, Any] | None:  # noqa: ARG002
        text = json.dumps(value, ensure_ascii=False)
        hidden = hide_tokens(text)
        return value if hidden == text else json.loads(hidden)


uuid_key = Annotated[uuid.UUID, mapped_column(Uuid, primary_key=True, default=new_id)]
person_ref = Annotated[uuid.UUID, mapped_column(Uuid, ForeignKey("person.id"))]
organization_ref = Annotated[uuid.UUID, mapped_column(Uuid, ForeignKey("organization.id"))]
request_ref = Annotated[uuid.UUID, mapped_column(Uuid, ForeignKey("request.id"))]
plan_ref = Annotated[str, mapped_column(String(40), ForeignKey("plan.code"))]
microusd = Annotated[int, mapped_column(BigInteger)]
count = Annotated[int, mapped_column(BigInteger)]
moment = Annotated[datetime, mapped_column(UTCDateTime)]
created = Annotated[datetime, mapped_column(UTCDateTime, default=now)]
word = Annotated[str, mapped_column(String(40))]
line = Annotated[str, mapped_column(String(255))]
long_text = Annotated[str, mapped_column(Text)]
json_object = Annotated[dict[str, Any], mapped_column(JSON)]
stored_limits = Annotated[list[Any], mapped_column(JSON, default=list, server_default="[]")]
