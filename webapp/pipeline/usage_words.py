"""USAGE by text message: what is used of the sender's limits, in two segments at most."""

from __future__ import annotations

import uuid
from datetime import datetime, timedelta
from itertools import groupby, islice
from zoneinfo import ZoneInfo

from sqlalchemy import Connection, func, select

from webapp.contracts.consent import is_command
from webapp.contracts.limits import Dimension, Window
from webapp.contracts.rounding import rounded_microusd
from webapp.contracts.segments import economical, segments
from webapp.extensions import table_of
from webapp.models import Delivery, Direction, Person
from webapp.models.senders import Sender
from webapp.pipeline import words
from webapp.quota import usage
from webapp.quota.usage import Line, Usage

SEGMENTS_MAX = 2
ANSWERS_MAX = 5
"""How many answers one address gets in an hour: two machines must not talk for ever."""
_WITHIN = timedelta(hours=1)
_WORD = "usage"
_LONGEST = 40
UNKNOWN = "What is left of your plan cannot be told just now. Please try again in a few minutes."
NO_LIMITS = "Nothing limits what you use."
_delivery = table_of(Delivery)


def asked_for(text: str) -> bool:
    """Whether a message is the command, alone."""
    return is_command(text, _WORD)


def answer(connection: Connection, sender: Sender, address: str, medium: str, at: datetime) -> str:
    """What to answer to a command that is recorded already; '' for an address that asked often enough in this hour."""
    if connection.dialect.name != "sqlite":
        # Two at once would each count without the other. A lock that lets messages refer to the person: both have done so.
        connection.execute(select(Person.id).where(Person.id == sender.person_id).with_for_update(key_share=True))
    if _asked_lately(connection, address, at) > ANSWERS_MAX:
        return ""
    return told(usage.usage(connection, sender, medium, at))


def _asked_lately(connection: Connection, address: str, at: datetime) -> int:
    """How many commands this address sent within the hour before, this one included; counted no further than is needed. Ids are
    in order of time, so the index of addresses leads to that hour alone."""
    query = select(_delivery.c.body).where(
        _delivery.c.address == address,
        _delivery.c.id >= _first_id(at - _WITHIN),
        _delivery.c.direction == Direction.IN,
        _delivery.c.request_id.is_(None),
        func.length(_delivery.c.body) <= _LONGEST,
    )
    commands = (body for body in connection.execute(query).scalars() if asked_for(body))
    return sum(1 for _ in islice(commands, ANSWERS_MAX + 1))


def _first_id(moment: datetime) -> uuid.UUID:
    """The lowest UUIDv7 of a moment (RFC 9562: milliseconds in the first 48 bits, then version and variant)."""
    return uuid.UUID(int=int(moment.timestamp() * 1000) << 80 | 7 << 76 | 2 << 62)


def told(found: Usage) -> str:
    """The lines in words, the person's own first, as many as fit into the segments."""
    lines = [line for line in found.lines if line.window is not Window.REQUEST]
    if not lines:
        return UNKNOWN if found.troubles else NO_LIMITS
    at = found.at
    assert at is not None
    groups = []
    for (resets_at, limited), group in groupby(
        sorted(lines, key=lambda line: (line.limit is None, line.resets_at or at)),
        key=lambda line: (line.resets_at, line.limit is not None),
    ):
        parts = [_part(line) for line in group]
        ending = f"New {_when(resets_at, at, found.time_zone)}." if limited and resets_at else ""
        groups.append((parts, ending))
    return _fitting(groups, found)


def _part(line: Line) -> str:
    label = line.what[:1].upper() + line.what[1:]
    used = _amount(line.dimension, line.used)
    return f"{label}: {used}." if line.limit is None else f"{label}: {used} of {_amount(line.dimension, line.limit)}."


def _amount(dimension: Dimension, number: int) -> str:
    return rounded_microusd(number) if dimension is Dimension.COST else words.amount(dimension, number)


def _when(moment: datetime, at: datetime, time_zone: str) -> str:
    zone = ZoneInfo(time_zone)
    local, here = moment.astimezone(zone), at.astimezone(zone)
    if local.hour or local.minute or local.date() == here.date():
        return f"at {local:%H:%M}"
    return f"on {local:%B} {local.day}"


def _fitting(groups: list[tuple[list[str], str]], found: Usage) -> str:
    """Everything, or without the last lines that do not fit."""
    trouble = "Some limits cannot be told now." if found.troubles else ""
    most = sum(len(parts) for parts, _ in groups)
    for size in range(most, 0, -1):
        left, sentences = size, []
        for parts, ending in groups:
            shown = parts[:left]
            left -= len(shown)
            if shown:
                sentences += [*shown, ending]
        text = economical(" ".join(sentence for sentence in (*sentences, trouble) if sentence))
        if segments(text) <= SEGMENTS_MAX:
            return text
    return UNKNOWN
