"""How the installation, or an organization, is doing: figures for managers and administrators, and everybody's own.

Nothing here goes over all requests. Amounts come from the sums by the hour; what these do not say comes from the newest
requests (`recent_requests`), and what is told of people from at most `PEOPLE_MAX` of them. Days are those of UTC.
"""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from typing import Any

from sqlalchemy import Connection, Select, Subquery, case, func, select

from webapp.contracts.errors import NotFound
from webapp.extensions import now, reading, table_of
from webapp.models import ErrorLog, Membership, Organization, Person
from webapp.services import hour_sums, recent_requests, rollups
from webapp.services.hour_sums import Line, Total, day_of
from webapp.services.recent_requests import Recent

DAYS, DAYS_MAX = 30, 90
PEOPLE_MAX = 100_000
LISTED_MAX = 20
"""People, and values of a breakdown, that are listed."""
ERRORS_MAX = 10_000
OTHERS = "(others)"
_person, _membership, _errors = table_of(Person), table_of(Membership), table_of(ErrorLog)


@dataclass(frozen=True, slots=True)
class People:
    """How many people there are, and were active. `complete` is False where there are more than are counted."""

    total: int
    active_24h: int
    active_7d: int
    plans: dict[str, int]
    complete: bool


@dataclass(frozen=True, slots=True)
class Used:
    """What was used under one name: of a day, a provider, a model…"""

    name: str
    requests: int
    input_tokens: int
    output_tokens: int
    cost_microusd: int


@dataclass(frozen=True, slots=True)
class Overview:
    """`total` is what models answered and used since the beginning, `last_24h` since the beginning of the hour 24 hours ago."""

    people: People
    total: Total
    last_24h: Total
    recent: Recent


@dataclass(frozen=True, slots=True)
class TaskFigures:
    """What was used by day and by what, the dearest first. `house_microusd` is what the house paid for itself; None where
    that is not for the viewer."""

    days: tuple[Used, ...]
    providers: tuple[Used, ...]
    models: tuple[Used, ...]
    operations: tuple[Used, ...]
    channels: tuple[Used, ...]
    house_microusd: int | None
    recent: Recent


@dataclass(frozen=True, slots=True)
class PersonFigures:
    """A person, and how their newest requests went."""

    person_id: uuid.UUID
    name: str
    recent: Recent


@dataclass(frozen=True, slots=True)
class UserFigures:
    """Who came, by day, and the people with the most requests. `joined` is empty where somebody sees themselves only."""

    joined: tuple[tuple[str, int], ...]
    people: tuple[PersonFigures, ...]


@dataclass(frozen=True, slots=True)
class ErrorKind:
    """How often something went wrong, and on which days."""

    kind: str
    count: int
    unresolved: int
    days: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class ErrorFigures:
    """The newest errors of the last 30 days. `complete` is False where there were more than are counted; `unresolved` counts
    all that are open, up to `ERRORS_MAX`."""

    kinds: tuple[ErrorKind, ...]
    days: tuple[tuple[str, int], ...]
    unresolved: int
    complete: bool


@dataclass(frozen=True, slots=True)
class Dashboard:
    """Everything at once. `errors` is None for one organization: the log is the installation's."""

    overview: Overview
    tasks: TaskFigures
    users: UserFigures
    errors: ErrorFigures | None


def check(organization_id: uuid.UUID) -> None:
    """`NotFound` if there is no such organization."""
    with reading() as connection:
        if connection.execute(select(Organization.id).where(Organization.id == organization_id)).first() is None:
            raise NotFound("There is no such organization.")


def overview(organization_id: uuid.UUID | None = None) -> Overview:
    """How it stands: people, requests, plans, categories. Of one organization, or of the whole installation."""
    at = now()
    with reading() as connection:
        recent = recent_requests.figures(recent_requests.newest(connection, at, organization_id=organization_id))
        return _overview(connection, at, organization_id, recent)


def task_figures(organization_id: uuid.UUID | None = None, days: int = DAYS) -> TaskFigures:
    """What requests used in the last days, today included, and how the newest went."""
    at = now()
    with reading() as connection:
        recent = recent_requests.figures(recent_requests.newest(connection, at, organization_id=organization_id))
        return _tasks(connection, at, organization_id, days, recent)


def user_figures(organization_id: uuid.UUID | None = None, person_id: uuid.UUID | None = None) -> UserFigures:
    """Who came in the last 30 days, and how the newest requests of those with the most of them went; of one person, how their
    own went. A person who is not there is left out."""
    at = now()
    with reading() as connection:
        rows = recent_requests.newest(connection, at, organization_id=organization_id, person_id=person_id)
        return _users(connection, at, organization_id, person_id, rows)


def dashboard(organization_id: uuid.UUID | None = None) -> Dashboard:
    """Everything at once; the newest requests are read once."""
    at = now()
    with reading() as connection:
        rows = recent_requests.newest(connection, at, organization_id=organization_id)
        recent = recent_requests.figures(rows)
        return Dashboard(
            _overview(connection, at, organization_id, recent),
            _tasks(connection, at, organization_id, DAYS, recent),
            _users(connection, at, organization_id, None, rows),
            _error_figures(connection, at) if organization_id is None else None,
        )


def error_figures() -> ErrorFigures:
    """What went wrong in the last 30 days, by kind and by day. For administrators of the installation."""
    with reading() as connection:
        return _error_figures(connection, now())


# -- parts ---------------------------------------------------------------------------------------------------------------
def _overview(connection: Connection, at: datetime, organization_id: uuid.UUID | None, recent: Recent) -> Overview:
    return Overview(
        _people(connection, at, organization_id),
        hour_sums.total(connection, hour_sums.BEGINNING, at, organization_id),
        hour_sums.total(connection, rollups.whole_hour(at - timedelta(hours=24)), at, organization_id),
        recent,
    )


def _tasks(connection: Connection, at: datetime, organization_id: uuid.UUID | None, days: int, recent: Recent) -> TaskFigures:
    since = _first_day(at, days)
    found = list(hour_sums.lines(connection, since, at, organization_id))
    house = sum(line.cost_microusd for line in found if line.payer == "house")
    paid = [line for line in found if line.payer == "person"]
    by_day = {used.name: used for used in _summed((line.day, line) for line in paid)}
    empty = {day: Used(day, 0, 0, 0, 0) for day in _days(since, days)}
    return TaskFigures(
        days=tuple((empty | by_day)[day] for day in empty),
        providers=_dearest((line.provider, line) for line in paid),
        models=_dearest((f"{line.provider}/{line.model}", line) for line in paid),
        operations=_dearest((line.operation, line) for line in paid),
        channels=_dearest((line.channel, line) for line in paid),
        house_microusd=house if organization_id is None else None,
        recent=recent,
    )


def _users(
    connection: Connection,
    at: datetime,
    organization_id: uuid.UUID | None,
    person_id: uuid.UUID | None,
    rows: Sequence[Any],
) -> UserFigures:
    since, found = _first_day(at, DAYS), recent_requests.by_person(rows, LISTED_MAX)
    if person_id is not None and not found and _is_there(connection, person_id, organization_id):
        found = [recent_requests.OfPerson(person_id, Recent())]
    names = _names(connection, [each.person_id for each in found])
    people = tuple(PersonFigures(each.person_id, names.get(each.person_id, ""), each.recent) for each in found)
    if person_id is not None:
        return UserFigures((), people)
    joined = _joined(connection, since, organization_id)
    return UserFigures(tuple((day, joined.get(day, 0)) for day in _days(since, DAYS)), people)


def _error_figures(connection: Connection, at: datetime) -> ErrorFigures:
    since = _first_day(at, DAYS)
    columns = (_errors.c.kind, _errors.c.created_at, _errors.c.resolved_at)
    newest = select(*columns).where(_errors.c.id >= _id_at(since)).order_by(_errors.c.id.desc()).limit(ERRORS_MAX).subquery()
    still_open = select(_errors.c.id).where(_errors.c.resolved_at.is_(None)).limit(ERRORS_MAX).subquery()
    kinds: dict[str, list[Any]] = defaultdict(list)
    days: dict[str, int] = defaultdict(int)
    day = day_of(connection, newest.c.created_at)
    waiting = func.sum(case((newest.c.resolved_at.is_(None), 1), else_=0))
    query = select(newest.c.kind, day.label("day"), func.count().label("errors"), waiting.label("waiting"))
    for row in connection.execute(query.group_by(newest.c.kind, day)):
        kinds[row.kind].append(row)
        days[row.day] += row.errors
    unresolved = connection.execute(select(func.count()).select_from(still_open)).scalar_one()
    found = [_error_kind(kind, rows) for kind, rows in kinds.items()]
    return ErrorFigures(
        tuple(sorted(found, key=lambda each: (-each.count, each.kind))),
        tuple((each, days.get(each, 0)) for each in _days(since, DAYS)),
        unresolved,
        sum(days.values()) < ERRORS_MAX,
    )


def _error_kind(kind: str, rows: Sequence[Any]) -> ErrorKind:
    days = tuple(sorted((str(row.day), int(row.errors)) for row in rows))
    return ErrorKind(kind, sum(count for _, count in days), sum(int(row.waiting) for row in rows), days)


# -- people --------------------------------------------------------------------------------------------------------------
def _people(connection: Connection, at: datetime, organization_id: uuid.UUID | None) -> People:
    some = _some_people(organization_id)

    def active(span: timedelta) -> Any:
        return func.sum(case((some.c.last_active_at >= at - span, 1), else_=0))

    query = select(some.c.plan_code, func.count(), active(timedelta(hours=24)), active(timedelta(days=7)))
    rows = connection.execute(query.group_by(some.c.plan_code)).all()
    total = sum(row[1] for row in rows)
    return People(
        total,
        sum(int(row[2]) for row in rows),
        sum(int(row[3]) for row in rows),
        {row[0]: row[1] for row in sorted(rows, key=lambda row: (-row[1], row[0]))},
        total < PEOPLE_MAX,
    )


def _some_people(organization_id: uuid.UUID | None) -> Subquery:
    query: Select[Any] = select(_person.c.plan_code, _person.c.last_active_at)
    if organization_id is not None:
        query = query.join(_membership, _membership.c.person_id == _person.c.id)
        query = query.where(_membership.c.organization_id == organization_id)
    return query.limit(PEOPLE_MAX).subquery()


def _joined(connection: Connection, since: datetime, organization_id: uuid.UUID | None) -> dict[str, int]:
    """Day -> how many people came."""
    if organization_id is None:
        some = select(_person.c.created_at).where(_person.c.id >= _id_at(since)).limit(PEOPLE_MAX).subquery()
    else:
        mine = select(_membership.c.created_at).where(_membership.c.organization_id == organization_id)
        some = mine.limit(PEOPLE_MAX).subquery()
    day = day_of(connection, some.c.created_at)
    query = select(day, func.count()).where(some.c.created_at >= since).group_by(day)
    return {row[0]: row[1] for row in connection.execute(query)}


def _is_there(connection: Connection, person_id: uuid.UUID, organization_id: uuid.UUID | None) -> bool:
    if organization_id is None:
        return connection.execute(select(_person.c.id).where(_person.c.id == person_id)).first() is not None
    member = (_membership.c.person_id == person_id) & (_membership.c.organization_id == organization_id)
    works = (_person.c.id == person_id) & (_person.c.organization_id == organization_id)
    query = select(_membership.c.person_id).where(member).union(select(_person.c.id).where(works))
    return connection.execute(query).first() is not None


def _names(connection: Connection, ids: Sequence[uuid.UUID]) -> dict[uuid.UUID, str]:
    query = select(_person.c.id, _person.c.full_name, _person.c.email).where(_person.c.id.in_(ids))
    return {row.id: row.full_name or row.email or "" for row in (connection.execute(query) if ids else ())}


# -- sums ----------------------------------------------------------------------------------------------------------------
def _summed(named: Iterable[tuple[str, Line]]) -> list[Used]:
    found: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    for name, line in named:
        sums = found[name]
        for place, value in enumerate((line.requests, line.input_tokens, line.output_tokens, line.cost_microusd)):
            sums[place] += value
    return [Used(name, *sums) for name, sums in found.items()]


def _dearest(named: Iterable[tuple[str, Line]]) -> tuple[Used, ...]:
    """The dearest names; what is beyond `LISTED_MAX` is one line."""
    found = sorted(_summed(named), key=lambda used: (-used.cost_microusd, -used.requests, used.name))
    rest = found[LISTED_MAX:]
    if not rest:
        return tuple(found)
    columns = ("requests", "input_tokens", "output_tokens", "cost_microusd")
    others = Used(OTHERS, *(sum(getattr(used, name) for used in rest) for name in columns))
    return (*found[:LISTED_MAX], others)


def _first_day(at: datetime, days: int) -> datetime:
    """The beginning of the first of so many days, the present one being the last."""
    return datetime.combine(at.astimezone(UTC).date() - timedelta(days=days - 1), time(), UTC)


def _days(since: datetime, days: int) -> list[str]:
    return [(since.date() + timedelta(days=number)).isoformat() for number in range(days)]


def _id_at(moment: datetime) -> uuid.UUID:
    """The lowest id of that moment: they are UUIDv7, which begin with milliseconds."""
    return uuid.UUID(int=max(0, int(moment.timestamp() * 1000)) << 80)
