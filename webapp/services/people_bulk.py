"""The same act for many people: each in a short transaction of their own, so that nobody waits for all, and one who cannot be
changed does not keep the others from it."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum

from sqlalchemy.orm import Session

from webapp.contracts.errors import BadInput, Conflict, SwitchhookError
from webapp.extensions import reading
from webapp.services import accounts, organizations, people_lists, plan_changes
from webapp.services.organizations import Actor
from webapp.services.people_lists import Filter

FAILURES_MAX = 100
"""How many failures a report names; the others it counts."""


class Act(StrEnum):
    """What may be done to many people at once."""

    PLAN = "plan"
    MONTH = "month"
    DEACTIVATE = "deactivate"
    ACTIVATE = "activate"


WORDS = {
    Act.PLAN: "change the plan",
    Act.MONTH: "start the month afresh",
    Act.DEACTIVATE: "deactivate",
    Act.ACTIVATE: "activate",
}


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be done. `plan` and `reason` are for those acts that need them."""

    act: Act
    plan: str = ""
    reason: str = ""


@dataclass(slots=True)
class Report:
    """What became of it. `unchanged` were so already; `failures` are pairs of a person and why."""

    done: int = 0
    unchanged: int = 0
    failed: int = 0
    failures: list[tuple[uuid.UUID, str]] = field(default_factory=list)
    last: uuid.UUID | None = None
    """The last person who was looked at."""

    @property
    def seen(self) -> int:
        """How many people were looked at."""
        return self.done + self.unchanged + self.failed


def check(order: Order, actor: Actor) -> None:
    """`BadInput` for an order that nobody could carry out, `NotAllowed` for an actor who may not give it."""
    with reading() as connection, Session(bind=connection) as session:
        organizations.for_house(session, actor)
        if order.act is Act.PLAN:
            plan_changes.named(session, order.plan)
    if order.act in (Act.PLAN, Act.MONTH):
        plan_changes.checked_reason(order.reason)


def run(persons: Iterable[uuid.UUID], order: Order, actor: Actor, progress: Callable[[Report], None] | None = None) -> Report:
    """Carry an order out for each of these people. Failures are reported, not raised; those of the order itself are."""
    check(order, actor)
    report = Report()
    for person_id in persons:
        report.last = person_id
        try:
            changed = _one(person_id, order, actor)
        except SwitchhookError as exc:
            report.failed += 1
            if len(report.failures) < FAILURES_MAX:
                report.failures.append((person_id, exc.message))
        else:
            report.done += changed
            report.unchanged += not changed
        if progress is not None:
            progress(report)
    return report


def matching(wanted: Filter) -> Iterator[uuid.UUID]:
    """The ids of all who are meant, read a page at a time while they are gone through."""
    last: uuid.UUID | None = None
    while found := people_lists.ids(wanted, last):
        yield from found
        last = found[-1]


def _one(person_id: uuid.UUID, order: Order, actor: Actor) -> bool:
    """Whether anything was changed."""
    if order.act is Act.PLAN:
        try:
            plan_changes.change_person(person_id, order.plan, order.reason, actor)
        except plan_changes.SamePlan:
            return False
        return True
    if order.act is Act.MONTH:
        return plan_changes.start_afresh(person_id, order.reason, actor) > 0
    if order.act is Act.DEACTIVATE and person_id == actor.person_id:
        raise BadInput("person", "You cannot deactivate yourself: ask another administrator.")
    try:
        accounts.set_active(str(person_id), order.act is Act.ACTIVATE, actor.name)
    except Conflict:
        return False
    return True
