"""Plans: what people are entitled to, as data. For administrators of the installation.

A change names the version that its author saw: if somebody else was quicker it is a `Conflict`, and nothing is changed.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from webapp.contracts.errors import BadInput, Conflict, NotFound, SwitchhookError
from webapp.contracts.limits import Dimension, StoredLimit
from webapp.contracts.texts import clean
from webapp.extensions import current_settings, reading, writing_session
from webapp.models import PLAN_FEATURES, AuditEntry, Organization, Person, Plan, RouteRule
from webapp.quota import stored
from webapp.services import amounts, organizations, people, plan_changes
from webapp.services.organizations import CHANGED, Actor

NUMBERS = {
    "messages": ("messages", Dimension.REQUESTS),
    "content": ("content generations", Dimension.REQUESTS),
    "sentiment": ("sentiment analyses", Dimension.REQUESTS),
    "optimisation": ("optimisations", Dimension.REQUESTS),
    "tokens": ("tokens", Dimension.TOKENS),
    "cost_microusd": ("dollars to spend", Dimension.COST),
}
"""A plan's numbers a month: what people are told that each counts, and its dimension."""
UNLIMITED = ""
"""A number that is typed as this is no limit."""
NAME_CHARS = 80
PRIORITY_MAX = 200
RANK_MAX = 10_000
OUTPUT_MAX = 1_000_000
CONTEXT_MAX = 10_000_000
_CODE = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")
_NONE = "There is no such plan."
_CHUNK = 200
_ROUNDS = 3


@dataclass(frozen=True, slots=True)
class PlanView:
    """A plan as it is stored. A number of None is unlimited; about what is absent the plan says nothing."""

    code: str
    name: str
    rank: int
    priority: int
    limits: Mapping[str, int | None]
    more_limits: tuple[StoredLimit, ...]
    features: tuple[str, ...]
    max_output_tokens: int
    context_tokens: int
    version: int
    persons: int = 0
    organizations: int = 0

    @property
    def default(self) -> bool:
        """Whether somebody new begins with it."""
        return self.code == current_settings().default_plan


@dataclass(frozen=True, slots=True)
class Typed:
    """A plan as somebody types it. `limits` has a text for each number that the plan says something about, '' for unlimited;
    the cost is in dollars."""

    name: str
    rank: str
    priority: str
    max_output_tokens: str
    context_tokens: str
    limits: Mapping[str, str]
    features: Sequence[str] = ()


@dataclass(slots=True)
class Moved:
    """What became of the people and organizations of a plan that was deleted."""

    persons: int = 0
    organizations: int = 0
    restarted: int = 0
    failures: list[str] = field(default_factory=list)


# -- reading -------------------------------------------------------------------------------------------------------------
def rows() -> list[PlanView]:
    """All plans, lowest first, with how many people and organizations have each."""
    with reading() as connection, Session(bind=connection) as session:
        persons, places = _counts(connection, Person.plan_code), _counts(connection, Organization.plan_code)
        found = session.scalars(select(Plan).order_by(Plan.rank, Plan.code)).all()
        return [_view(plan, persons.get(plan.code, 0), places.get(plan.code, 0)) for plan in found]


def known() -> list[PlanView]:
    """All plans, lowest first; how many have each is not counted."""
    with reading() as connection, Session(bind=connection) as session:
        return [_view(plan) for plan in session.scalars(select(Plan).order_by(Plan.rank, Plan.code))]


def names() -> list[tuple[str, str]]:
    """Code and name of all plans, lowest first."""
    with reading() as connection:
        return [(row[0], row[1]) for row in connection.execute(select(Plan.code, Plan.name).order_by(Plan.rank, Plan.code))]


def show(code: str) -> PlanView:
    """One plan. `NotFound`."""
    with reading() as connection, Session(bind=connection) as session:
        plan = session.get(Plan, code)
        if plan is None:
            raise NotFound(_NONE)
        return _view(plan, *_using(session, code))


def as_typed(view: PlanView) -> Typed:
    """A plan as its fields show it: what `change` reads as the same plan."""
    return Typed(
        view.name,
        str(view.rank),
        str(view.priority),
        str(view.max_output_tokens),
        str(view.context_tokens),
        {
            key: UNLIMITED if view.limits[key] is None else amounts.typed(view.limits[key] or 0, dimension)
            for key, (_, dimension) in NUMBERS.items()
            if key in view.limits
        },
        view.features,
    )


def _counts(connection: Connection, column: Any) -> dict[str, int]:
    query = select(column, func.count()).where(column.is_not(None)).group_by(column)
    return {row[0]: row[1] for row in connection.execute(query)}


def _using(session: Session, code: str) -> tuple[int, int]:
    persons = session.scalar(select(func.count()).select_from(Person).where(Person.plan_code == code)) or 0
    places = session.scalar(select(func.count()).select_from(Organization).where(Organization.plan_code == code)) or 0
    return persons, places


# -- writing -------------------------------------------------------------------------------------------------------------
def create(code: str, typed: Typed, actor: Actor) -> PlanView:
    """Make a plan. `BadInput` names the field, `Conflict` says that there is one with this code."""
    code = code.strip()
    if not _CODE.fullmatch(code):
        raise BadInput("code", "A code has 1 to 40 small letters, digits, - and _, and begins with a letter or a digit.")
    values = checked(typed)
    try:
        with writing_session() as session:
            organizations.for_house(session, actor)
            if session.get(Plan, code) is not None:
                raise Conflict(f"There is a plan {code} already.")
            plan = Plan(code=code, version=0, more_limits=[], **values)
            session.add(plan)
            _audit(session, actor, "plan.create", code, {"after": _told(values)})
            session.flush()
            return _view(plan)
    except IntegrityError as exc:
        raise Conflict(f"There is a plan {code} already.") from exc


def change(code: str, typed: Typed, seen: int, actor: Actor) -> PlanView:
    """Put what was typed in the place of a plan's values; it counts from the next request on. `seen` is the version that was
    seen. Numbers that are not in `NUMBERS`, of other policies, stay as they are."""
    values = checked(typed)
    with writing_session() as session:
        organizations.for_house(session, actor)
        plan = locked(session, code)
        if plan.version != seen:
            raise Conflict(CHANGED)
        others = {key: number for key, number in plan.limits.items() if key not in NUMBERS}
        values["limits"] = others | values["limits"]
        before = {name: getattr(plan, name) for name in values}
        changed = {name: {"from": before[name], "to": value} for name, value in values.items() if before[name] != value}
        if changed:
            for name, value in values.items():
                setattr(plan, name, value)
            plan.version += 1
            _audit(session, actor, "plan.change", code, changed)
            session.flush()
        return _view(plan, *_using(session, code))


def delete(
    code: str,
    actor: Actor,
    *,
    replacement: str = "",
    reason: str = "",
    progress: Callable[[int], None] | None = None,
) -> Moved:
    """Delete a plan. While somebody is on it this is a `Conflict` that says how many, unless `replacement` is named: then they
    are put on that plan first, each as `plan_changes` does it, for a `reason` that is kept.

    Moving thousands of people takes many short transactions, and `progress` hears how many were moved so far. Whoever cannot be
    moved is among the failures, and the plan stays; so it does if the process dies, with those who were not moved yet.
    """
    _check_deletable(code, actor)
    if replacement:
        reason = plan_changes.checked_reason(reason)
        _check_replacement(code, replacement)
    moved = Moved()
    for _ in range(_ROUNDS):
        if replacement:
            _move_all(code, replacement, reason, actor, moved, progress)
            if moved.failures:
                return moved
        try:
            if _delete_unused(code, actor, replacement, more=bool(replacement)):
                return moved
        except IntegrityError:
            # Somebody was put on it at this very moment.
            if not replacement:
                break
    raise Conflict("Somebody was put on this plan meanwhile: try again.")


def _check_deletable(code: str, actor: Actor) -> None:
    with reading() as connection, Session(bind=connection) as session:
        organizations.for_house(session, actor)
        if session.get(Plan, code) is None:
            raise NotFound(_NONE)
        if code == current_settings().default_plan:
            raise Conflict(f"New people begin with the plan {code}: set SWITCHHOOK_DEFAULT_PLAN to another one first.")
        if code == people.ADMIN_PLAN:
            raise Conflict(f"Administrators are made on the plan {code}: it stays.")
        rule = session.scalar(select(RouteRule.name).where(RouteRule.plan_code == code).limit(1))
        if rule is not None:
            raise Conflict(f"The routing rule “{rule}” is for this plan: change or delete that first.")


def _check_replacement(code: str, replacement: str) -> None:
    with reading() as connection, Session(bind=connection) as session:
        if replacement == code:
            raise BadInput("replacement", "Choose another plan than the one that is deleted.")
        try:
            plan_changes.named(session, replacement)
        except BadInput as exc:
            raise BadInput("replacement", exc.message) from exc


def _move_all(
    code: str, replacement: str, reason: str, actor: Actor, moved: Moved, progress: Callable[[int], None] | None
) -> None:
    tried: uuid.UUID | None = None
    while True:
        query = select(Person.id).where(Person.plan_code == code).order_by(Person.id).limit(_CHUNK)
        with reading() as connection:
            ids = connection.scalars(query if tried is None else query.where(Person.id > tried)).all()
        for person_id in ids:
            tried = person_id
            try:
                changed = plan_changes.change_person(person_id, replacement, reason, actor)
            except SwitchhookError as exc:
                moved.failures.append(f"person:{person_id}: {exc.message}")
                continue
            moved.persons += 1
            moved.restarted += changed.restarted
        if progress is not None and ids:
            progress(moved.persons)
        if not ids:
            break
    with reading() as connection:
        places = connection.scalars(
            select(Organization.id).where(Organization.plan_code == code).order_by(Organization.id)
        ).all()
    for organization_id in places:
        try:
            moved.restarted += plan_changes.change_organization(organization_id, replacement, reason, actor).restarted
            moved.organizations += 1
        except SwitchhookError as exc:
            moved.failures.append(f"organization:{organization_id}: {exc.message}")


def _delete_unused(code: str, actor: Actor, replacement: str, *, more: bool) -> bool:
    """Delete the plan if nobody is on it. With `more`, False says that there is somebody to be moved; else it is `Conflict`."""
    with writing_session() as session:
        organizations.for_house(session, actor)
        plan = locked(session, code)
        persons, places = _using(session, code)
        if persons or places:
            if more:
                return False
            raise Conflict(f"{_who(persons, places)} on this plan: name the plan that they get instead.")
        detail: dict[str, Any] = {"before": _told({name: getattr(plan, name) for name in _FIELDS})}
        detail["before"]["more_limits"] = plan.more_limits
        _audit(session, actor, "plan.delete", code, detail | ({"replacement": replacement} if replacement else {}))
        session.delete(plan)
        session.flush()
    return True


def _who(persons: int, places: int) -> str:
    parts = [f"{persons:,} {'person' if persons == 1 else 'people'}"] if persons else []
    parts += [f"{places:,} organization{'' if places == 1 else 's'}"] if places else []
    return f"{' and '.join(parts)} {'is' if persons + places == 1 else 'are'}"


def locked(session: Session, code: str) -> Plan:
    """The plan's row, which nobody else changes before the end of the transaction. `NotFound`."""
    query = select(Plan).where(Plan.code == code).with_for_update(key_share=True)
    found = session.scalar(query.execution_options(populate_existing=True))
    if found is None:
        raise NotFound(_NONE)
    return found


# -- what is typed -------------------------------------------------------------------------------------------------------
_FIELDS = ("name", "rank", "priority", "limits", "features", "max_output_tokens", "context_tokens")


def checked(typed: Typed) -> dict[str, Any]:
    """The values of a plan's columns. `BadInput` names the field: one of `Typed`, or a name out of `NUMBERS`."""
    name = " ".join(clean(typed.name).split())
    if not 0 < len(name) <= NAME_CHARS or not name.isprintable():
        raise BadInput("name", f"A plan's name has 1 to {NAME_CHARS} visible characters.")
    if unknown := [key for key in typed.limits if key not in NUMBERS]:
        raise BadInput("limits", f"There is no number {clean(unknown[0])[:40]!r}: {', '.join(NUMBERS)}.")
    if strange := [feature for feature in typed.features if feature not in PLAN_FEATURES]:
        raise BadInput("features", f"There is no feature {clean(strange[0])[:40]!r}: {', '.join(PLAN_FEATURES)}.")
    return {
        "name": name,
        "rank": amounts.whole("rank", typed.rank, 0, RANK_MAX),
        "priority": amounts.whole("priority", typed.priority, 0, PRIORITY_MAX),
        "limits": {
            key: None if not text.strip() else amounts.limit(key, text, NUMBERS[key][1]) for key, text in typed.limits.items()
        },
        "features": [feature for feature in PLAN_FEATURES if feature in typed.features],
        "max_output_tokens": amounts.whole("max_output_tokens", typed.max_output_tokens, 1, OUTPUT_MAX),
        "context_tokens": amounts.whole("context_tokens", typed.context_tokens, 0, CONTEXT_MAX),
    }


def _told(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: values[name] for name in _FIELDS}


def _audit(session: Session, actor: Actor, action: str, code: str, detail: dict[str, Any]) -> None:
    entry = AuditEntry(actor=actor.name[:255], actor_id=actor.person_id, action=action, subject=f"plan:{code}", detail=detail)
    session.add(entry)


def _view(plan: Plan, persons: int = 0, places: int = 0) -> PlanView:
    return PlanView(
        plan.code,
        plan.name,
        plan.rank,
        plan.priority,
        dict(plan.limits),
        stored.read(plan.more_limits),
        tuple(plan.features),
        plan.max_output_tokens,
        plan.context_tokens,
        plan.version,
        persons,
        places,
    )
