"""Whether counters say what their receipts say: the invariants of limits, for tests that try to break them."""

from __future__ import annotations

from sqlalchemy import Connection, Select, case, func, literal, or_, select, union_all

from webapp.models import CounterChange, Hold, LimitCounter


def counters_passed(connection: Connection) -> list[str]:
    """Counters that promise more than their maximum. One statement, so that it sees one moment."""
    counter = LimitCounter
    query = select(counter.subject, counter.name, counter.used, counter.held, counter.maximum)
    found = connection.execute(query.where(counter.used + counter.held > counter.maximum)).all()
    return [f"{row.subject} {row.name}: {row.used} used + {row.held} held of {row.maximum}" for row in found]


def counters_off(connection: Connection) -> list[str]:
    """Counters that differ from the sum of their receipts, and receipts without a counter. One statement."""
    nothing = literal(0)
    settled = case((Hold.settled_at.is_not(None), Hold.used), else_=0)
    still_held = case((Hold.settled_at.is_(None), Hold.amount), else_=0)
    lines = union_all(
        _lines(LimitCounter, LimitCounter.used, LimitCounter.held, nothing, nothing),
        _lines(Hold, nothing, nothing, settled, still_held),
        _lines(CounterChange, nothing, nothing, CounterChange.amount, nothing),
    ).subquery()
    key = (lines.c.subject, lines.c.name, lines.c.period, lines.c.starts_at)
    used, held, said_used, said_held = (func.sum(lines.c[name]) for name in _FIGURES)
    query = select(lines.c.subject, lines.c.name, used, held, said_used, said_held).group_by(*key)
    return [
        f"{subject} {name}: {used} used, {held} held; its receipts say {said_used}, {said_held}"
        for subject, name, used, held, said_used, said_held in connection.execute(
            query.having(or_(used != said_used, held != said_held))
        )
    ]


_FIGURES = ("used", "held", "said_used", "said_held")


def _lines(table: type[LimitCounter] | type[Hold] | type[CounterChange], *figures: object) -> Select[tuple[object, ...]]:
    named = [figure.label(name) for name, figure in zip(_FIGURES, figures, strict=True)]  # type: ignore[attr-defined]
    return select(table.subject, table.name, table.period, table.starts_at, *named)
