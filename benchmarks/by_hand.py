"""The floors of the quota benchmark: the same SQL, written out in one function, or taken down once and sent again as it is."""

from __future__ import annotations

import re
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, event, select

from webapp.contracts.limits import Dimension
from webapp.extensions import db, now, reading, writing
from webapp.models import Conversation, Organization, Person
from webapp.models.columns import new_id
from webapp.quota.holds import Need

_KEY = "subject, name, period, starts_at"
_HEX = re.compile(r"[0-9a-f]{32}\Z")


def take_and_settle(connection: Connection, request_id: uuid.UUID, needs: list[Need], used: dict[Dimension, int]) -> None:
    """What holds do for three limits, with nothing around it: counters, holds, receipts, counters."""
    sqlite = connection.dialect.name == "sqlite"
    mark = "?" if sqlite else "%s"
    owner: Any = request_id.hex if sqlite else request_id
    keys = [
        (
            need.limit.subject,
            need.limit.name,
            need.limit.window.value,
            need.starts_at.strftime("%Y-%m-%d %H:%M:%S.%f") if sqlite else need.starts_at,
            need.limit.dimension.value,
        )
        for need in needs
    ]
    seven = ", ".join([f"({', '.join([mark] * 6)}, 0, {mark})"] * len(needs))
    taken = connection.exec_driver_sql(
        f"INSERT INTO limit_counter ({_KEY}, dimension, maximum, used, held) VALUES {seven} ON CONFLICT ({_KEY}) DO UPDATE "
        "SET held = limit_counter.held + excluded.held, maximum = excluded.maximum "
        "WHERE limit_counter.used + limit_counter.held + excluded.held <= excluded.maximum RETURNING name",
        tuple(value for key, need in zip(keys, needs, strict=True) for value in (*key, need.limit.maximum, need.amount)),
    ).all()
    if len(taken) != len(needs):
        raise RuntimeError("the floor found no room")
    rows = ", ".join([f"({', '.join([mark] * 7)})"] * len(needs))
    connection.exec_driver_sql(
        f"INSERT INTO hold (request_id, {_KEY}, dimension, amount) VALUES {rows}",
        tuple(value for key, need in zip(keys, needs, strict=True) for value in (owner, *key, need.amount)),
    )
    at: Any = now().strftime("%Y-%m-%d %H:%M:%S.%f") if sqlite else now()
    ended = connection.exec_driver_sql(
        f"UPDATE hold SET settled_at = {mark}, settled_by = {mark}, why = {mark}, used = CASE dimension "
        f"WHEN 'requests' THEN {mark} WHEN 'tokens' THEN {mark} ELSE {mark} END "
        f"WHERE request_id = {mark} AND settled_at IS NULL RETURNING {_KEY}, dimension, used, amount",
        (at, "bench", "ended", used[Dimension.REQUESTS], used[Dimension.TOKENS], used[Dimension.COST], owner),
    ).all()
    eight = ", ".join([f"({', '.join([mark] * 5)}, 0, {mark}, {mark})"] * len(ended))
    connection.exec_driver_sql(
        f"INSERT INTO limit_counter ({_KEY}, dimension, maximum, used, held) VALUES {eight} ON CONFLICT ({_KEY}) DO UPDATE "
        "SET held = limit_counter.held - excluded.held, used = limit_counter.used + excluded.used "
        "RETURNING used, held, maximum",
        tuple(value for row in sorted(ended, key=lambda row: tuple(row)[:3]) for value in row),
    ).all()


@dataclass(frozen=True, slots=True)
class Sent:
    """A statement as the driver got it."""

    statement: str
    parameters: Any
    many: bool


@dataclass(slots=True)
class Transcript:
    """What one request sends to the database on its way along the road, transaction by transaction."""

    known: frozenset[str]
    """Ids that stay what they are; any other is made for the request and is another one each time."""
    transactions: list[tuple[bool, list[Sent]]] = field(default_factory=list)
    """Whether it was committed, and what was sent in it."""

    @contextmanager
    def taken_down(self) -> Iterator[None]:
        """Take down what this thread sends meanwhile."""
        thread, engine, current = threading.get_ident(), db.engine, list[Sent]()

        def sent(_conn: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, many: bool) -> None:
            if threading.get_ident() == thread:
                current.append(Sent(statement, parameters, many))

        def end(committed: bool) -> Callable[[Any], None]:
            def ended(_conn: Any) -> None:
                if threading.get_ident() == thread and current:
                    self.transactions.append((committed, list(current)))
                    current.clear()

            return ended

        listeners: tuple[tuple[str, Callable[..., None]], ...]
        listeners = (("before_cursor_execute", sent), ("commit", end(True)), ("rollback", end(False)))
        for name, listener in listeners:
            event.listen(engine, name, listener)
        try:
            yield
        finally:
            for name, listener in listeners:
                event.remove(engine, name, listener)

    def send_again(self) -> None:
        """The same statements in the same transactions, about a request of its own."""
        fresh: dict[str, uuid.UUID] = {}
        for committed, statements in self.transactions:
            with writing() if committed else reading() as connection:
                for each in statements:
                    if each.statement.startswith("BEGIN"):
                        continue
                    result = connection.exec_driver_sql(each.statement, self._with(each.parameters, fresh))
                    found = result.all() if result.returns_rows else [None]
                    if not found and not each.statement.startswith("SELECT"):
                        raise RuntimeError(f"the floor found nothing: {each.statement[:120]}")

    def _with(self, parameters: Any, fresh: dict[str, uuid.UUID]) -> Any:
        if isinstance(parameters, dict):
            return {name: self._value(value, fresh) for name, value in parameters.items()}
        if isinstance(parameters, list):
            return [self._with(each, fresh) for each in parameters]
        return tuple(self._value(value, fresh) for value in parameters)

    def _value(self, value: Any, fresh: dict[str, uuid.UUID]) -> Any:
        if isinstance(value, uuid.UUID):
            return value if value.hex in self.known else fresh.setdefault(value.hex, new_id())
        if isinstance(value, str) and len(value) == 32 and value not in self.known and _HEX.match(value):
            if value not in fresh:
                fresh[value] = new_id()
            return fresh[value].hex
        return value


def known_ids() -> frozenset[str]:
    """The ids that are there before a request: of people, organizations and conversations."""
    with reading() as connection:
        return frozenset(
            found.hex
            for table in (Person, Organization, Conversation)
            for found in connection.execute(select(table.id)).scalars()
        )
