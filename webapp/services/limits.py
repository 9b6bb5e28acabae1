"""Limits as data: of plans, organizations, members and tokens. Seen, added, changed, removed.

Every change is one transaction, in which the right to it is checked and the audit trail is written. It names the state that its
author saw: if somebody else was quicker it is a `Conflict`, and nothing is changed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy.orm import Session

from webapp.contracts.errors import BadInput, Conflict, NotAllowed, NotFound
from webapp.contracts.limits import Dimension, StoredLimit, Window
from webapp.contracts.texts import clean
from webapp.extensions import now, reading, writing_session
from webapp.models import AuditEntry
from webapp.quota import stored
from webapp.registry import current_registry
from webapp.services import amounts, limit_changes, limit_owners
from webapp.services.amounts import describe
from webapp.services.limit_owners import Held, Kind, Owner
from webapp.services.organizations import Actor

__all__ = [
    "Kind",
    "LimitView",
    "Listed",
    "Owner",
    "Typed",
    "add",
    "change",
    "checked",
    "describe",
    "remove",
    "same",
    "set_budget",
    "show",
]

OPERATIONS = (
    "chat",
    "image.generate",
    "image.palette",
    "content.generate",
    "content.optimize",
    "content.suggest",
    "sentiment.analyze",
    "prompt.enhance",
)
"""Kinds of work that a limit may be about."""
CHANGED = "Somebody else changed these limits meanwhile: look at what they are now, and then change them."
_NONE = "There is no such limit any more."


@dataclass(frozen=True, slots=True)
class Typed:
    """A limit as somebody types it. `maximum` is in dollars for cost, in credits for credits. `by_house` asks for a limit that
    only administrators of the installation change."""

    maximum: str
    dimension: str = Dimension.REQUESTS
    window: str = Window.MONTH
    provider: str = ""
    operation: str = ""
    each: bool = False
    by_house: bool = False
    label: str = ""


@dataclass(frozen=True, slots=True)
class LimitView:
    """A limit as it is stored, in words, and whether whoever looks may change it."""

    limit: StoredLimit
    words: str
    typed: str
    """Its number as it stands in a field."""
    may_change: bool

    @property
    def budget(self) -> bool:
        """Whether it is what an organization may spend in a month, all in all."""
        return _is_budget(self.limit)


@dataclass(frozen=True, slots=True)
class Listed:
    """All limits of an owner, as somebody may see them. `may` says that they may add some; `seen` names this state."""

    owner: Owner
    title: str
    limits: tuple[LimitView, ...]
    seen: str
    may: bool
    house: bool

    @property
    def budget(self) -> LimitView | None:
        """The budget that may be changed, else the strictest one."""
        budgets = sorted((view for view in self.limits if view.budget), key=lambda view: view.limit.maximum)
        return next((view for view in budgets if view.may_change), next(iter(budgets), None))


def show(owner: Owner, actor: Actor) -> Listed:
    """The limits of an owner. `NotFound` for those who may not see them."""
    with reading() as connection, Session(bind=connection) as session:
        return _listed(owner, limit_owners.look(session, owner, actor))


def add(owner: Owner, typed: Typed, actor: Actor, seen: str | None = None) -> StoredLimit:
    """Add a limit. It begins with what was used before it in the window that is running, so that a budget that is set in the
    middle of a month counts the whole month; requests under way are not held on it. `seen` None: whatever is there now."""
    limit = checked(owner.kind, typed)
    with reading() as connection, Session(bind=connection) as session:
        _may_add(limit_owners.look(session, owner, actor), owner, limit)
        before = limit_changes.used_before(connection, owner, limit, now())
    with writing_session() as session:
        held = limit_owners.look(session, owner, actor, to_change=True)
        _check_seen(held, seen)
        _may_add(held, owner, limit)
        at = now()
        held.put(stored.write([*held.limits, limit]))
        _audit(session, owner, held, actor, "limit.add", {"after": _told(limit)})
        session.flush()
        limit_changes.begin(session.connection(), owner, limit, before, at, actor.name)
    if owner.kind is Kind.PLAN:
        limit_changes.begin_for_plan(owner.code, limit, at, actor.name)
    return limit


def change(
    owner: Owner, limit_id: str, maximum: str, actor: Actor, seen: str | None = None, *, label: str | None = None
) -> StoredLimit:
    """Give a limit another number, and another name if one is given; what was used stays. `NotFound` if it is gone."""
    with writing_session() as session:
        held, before = _found(session, owner, limit_id, actor, seen)
        after = replace(before, maximum=amounts.limit("maximum", maximum, before.dimension))
        if label is not None:
            after = replace(after, label=" ".join(label.split()))
        stored.checked(after)
        if after != before:
            _put(session, held, [after if each.id == limit_id else each for each in held.limits])
            _audit(session, owner, held, actor, "limit.change", {"before": _told(before), "after": _told(after)})
            limit_changes.retune(session.connection(), owner, after, now())
        return after


def remove(owner: Owner, limit_id: str, actor: Actor, seen: str | None = None) -> StoredLimit:
    """Take a limit away; what was counted stays as a record. `NotFound` if it is gone."""
    with writing_session() as session:
        held, before = _found(session, owner, limit_id, actor, seen)
        _put(session, held, [each for each in held.limits if each.id != limit_id])
        _audit(session, owner, held, actor, "limit.remove", {"before": _told(before)})
        return before


def set_budget(owner: Owner, dollars: str, actor: Actor, seen: str | None = None) -> StoredLimit | None:
    """Say what an organization may spend in a month, '' for no budget. Where there is one that the actor may change, its number
    changes; else one is added. An administrator of the installation sets one that only they change."""
    listed = show(owner, actor)
    known = listed.budget
    if known is not None and not known.may_change:
        known = None
    if not dollars.strip():
        if known is not None:
            remove(owner, known.limit.id, actor, seen)
        return None
    try:
        if known is not None:
            return change(owner, known.limit.id, dollars, actor, seen)
        typed = Typed(dollars, Dimension.COST, Window.MONTH, by_house=listed.house)
        return add(owner, typed, actor, seen)
    except BadInput as exc:
        raise BadInput("budget" if exc.field == "maximum" else exc.field, exc.message) from exc


# -- parts ---------------------------------------------------------------------------------------------------------------
def checked(kind: Kind, typed: Typed) -> StoredLimit:
    """The limit as it may be stored with an owner of this kind. `BadInput` names the field."""
    dimension = _one_of("dimension", "kind", typed.dimension, Dimension)
    window = _one_of("window", "window", typed.window, Window)
    provider, operation = typed.provider.strip(), typed.operation.strip()
    if window is Window.REQUEST and dimension is Dimension.REQUESTS:
        raise BadInput("window", "Requests are counted by the hour, the day or the month: a single one is always one.")
    if window is Window.REQUEST and provider:
        raise BadInput("provider", "What a single request may use is limited at all providers together: leave this empty.")
    if operation and operation not in OPERATIONS:
        raise BadInput("operation", f"There is no kind of work {clean(operation)[:40]!r}: {', '.join(OPERATIONS)}.")
    if typed.each and kind is not Kind.ORGANIZATION:
        raise BadInput("each", "Only an organization's limit can be for each person.")
    limit = StoredLimit(
        id=stored.new_id(),
        dimension=dimension,
        window=window,
        maximum=amounts.limit("maximum", typed.maximum, dimension),
        provider=provider,
        operation=operation,
        each=typed.each,
        by_house=typed.by_house,
        label=" ".join(typed.label.split()),
    )
    return stored.checked(limit, providers())


def _one_of(field: str, word: str, text: str, kinds: Any) -> Any:
    try:
        return kinds(text.strip())
    except ValueError:
        raise BadInput(field, f"The {word} of a limit is one of: {', '.join(kinds)}.") from None


def providers() -> list[str]:
    """The names of all providers that are installed."""
    registry = current_registry()
    return sorted({*registry.providers, *registry.image_providers})


def _may_add(held: Held, owner: Owner, limit: StoredLimit) -> None:
    if not held.may:
        raise NotAllowed(limit_owners.LACKS[owner.kind])
    if limit.by_house and not held.house:
        raise NotAllowed("Only administrators of the installation set limits that nobody else may change.")
    if len(held.limits) >= stored.LIMITS_MAX:
        raise BadInput("limits", f"There are {stored.LIMITS_MAX} limits here already: remove one first.")
    if any(same(each, limit) for each in held.limits):
        raise BadInput("maximum", "There is a limit of this kind already: change its number instead.")


def same(one: StoredLimit, other: StoredLimit) -> bool:
    """Whether two limits differ in their numbers and names alone."""
    return replace(one, id="", maximum=0, label="") == replace(other, id="", maximum=0, label="")


def _found(session: Session, owner: Owner, limit_id: str, actor: Actor, seen: str | None) -> tuple[Held, StoredLimit]:
    held = limit_owners.look(session, owner, actor, to_change=True)
    _check_seen(held, seen)
    limit = next((each for each in held.limits if each.id == limit_id), None)
    if limit is None:
        raise NotFound(_NONE)
    if limit.by_house and not held.house:
        raise NotAllowed("This limit was set by the installation: ask its administrators.")
    return held, limit


def _check_seen(held: Held, seen: str | None) -> None:
    if seen is not None and held.seen != seen:
        raise Conflict(CHANGED)


def _put(session: Session, held: Held, limits: Iterable[StoredLimit]) -> None:
    held.put(stored.write(limits))
    session.flush()


def _told(limit: StoredLimit) -> dict[str, Any]:
    return stored.write([limit])[0] | {"words": describe(limit)}


def _audit(session: Session, owner: Owner, held: Held, actor: Actor, action: str, detail: dict[str, Any]) -> None:
    entry = AuditEntry(
        actor=actor.name[:255],
        actor_id=actor.person_id,
        action=action,
        subject=owner.subject,
        organization_id=held.organization_id,
        detail=detail,
    )
    session.add(entry)


def _listed(owner: Owner, held: Held) -> Listed:
    views = [
        LimitView(
            limit,
            describe(limit),
            amounts.typed(limit.maximum, limit.dimension),
            held.may and (held.house or not limit.by_house),
        )
        for limit in held.limits
    ]
    return Listed(owner, held.title, tuple(views), held.seen, held.may, held.house)


def _is_budget(limit: StoredLimit) -> bool:
    plain = not (limit.provider or limit.operation or limit.each)
    return plain and limit.dimension is Dimension.COST and limit.window is Window.MONTH
