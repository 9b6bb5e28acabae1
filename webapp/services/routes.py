"""Routing rules as administrators keep them: which models serve which requests, in which order, and why others do not."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, delete, insert, select, update

from webapp.contracts.errors import BadInput, NotFound
from webapp.contracts.money import MICROUSD
from webapp.contracts.providers import Provider
from webapp.contracts.texts import clean
from webapp.extensions import now, reading, table_of, writing
from webapp.models import Organization, Plan, RouteRule
from webapp.models.columns import new_id
from webapp.registry import current_registry
from webapp.routing import resilience, route, vendors
from webapp.routing.prices import COST_MAX_MICROUSD
from webapp.routing.route import IMAGES, Ask, Passed, Route, Target, most_of
from webapp.services import provider_values
from webapp.services.provider_changes import audit, keep_writers_out

__all__ = [
    "Ask",
    "Explained",
    "ExplainedTarget",
    "RuleValues",
    "RuleView",
    "add",
    "change",
    "explain",
    "move",
    "remove",
    "rules",
]

TARGETS_MAX = 20
"""Models that a rule may list; of those that are usable, the first five are tried."""
NAME_CHARS = 255
_WORD = re.compile(r"[a-z0-9][a-z0-9_.-]{0,39}")
_SPECIAL = (IMAGES, "categorize")
"""Operations that a rule for everything is not about: see `route.fits`."""


@dataclass(frozen=True, slots=True)
class RuleValues:
    """What a rule says. None fits every request; `targets` are `provider/model`, or a provider's name, in order."""

    name: str
    targets: tuple[str, ...]
    operation: str | None = None
    category: str | None = None
    plan: str | None = None
    organization_id: uuid.UUID | None = None
    max_cost_microusd: int | None = None
    enabled: bool = True


@dataclass(frozen=True, slots=True)
class RuleView:
    """A rule and its place in the order, 1 for the first. `faults` are what keeps it from working as it reads."""

    id: uuid.UUID
    position: int
    name: str
    enabled: bool
    operation: str | None
    category: str | None
    plan: str | None
    organization_id: uuid.UUID | None
    targets: tuple[str, ...]
    max_cost_microusd: int | None
    faults: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ExplainedTarget:
    """A model of a route as it is now. `most_microusd`: the most that the asked tokens and pictures may cost there;
    `price_known` is False where the operator's ceiling counts."""

    name: str
    why: str
    most_microusd: int
    price_known: bool
    price_source: str
    circuit_open: bool
    paused_until: datetime | None
    pause_reason: str


@dataclass(frozen=True, slots=True)
class Explained:
    """How a request would be served now: the route, and what is to be known of each of its targets, in the same order."""

    route: Route
    targets: tuple[ExplainedTarget, ...]

    @property
    def by(self) -> str:
        """Who decided."""
        return self.route.by

    @property
    def passed(self) -> tuple[Passed, ...]:
        """The models that were passed over, and why."""
        return self.route.passed


def rules() -> list[RuleView]:
    """All rules in their order, those that are switched off too."""
    vendors.current()
    with reading() as connection:
        found = _read(connection)
    return [replace(rule, faults=_faults(rule, found[:place])) for place, rule in enumerate(found)]


def show(rule_id: uuid.UUID) -> RuleView:
    """One rule. `NotFound`."""
    return next((rule for rule in rules() if rule.id == rule_id), None) or _missing(rule_id)


def add(values: RuleValues, actor: str) -> RuleView:
    """Add a rule behind all others. `BadInput` names the field that is wrong."""
    values = _checked(values)
    made = new_id()
    with writing() as connection:
        keep_writers_out(connection, RouteRule)
        _check_there(connection, values)
        position = len(_renumbered(connection)) + 1
        connection.execute(insert(table_of(RouteRule)), _row(values) | {"id": made, "position": position})
        _told(connection, actor, "route.add", made, _audited(values))
    vendors.look_again()
    return show(made)


def change(rule_id: uuid.UUID, values: RuleValues, actor: str) -> RuleView:
    """Put other values in the place of a rule's; its place in the order stays. `NotFound`, `BadInput`."""
    rule_table = table_of(RouteRule)
    with reading() as connection:
        known = next((rule for rule in _read(connection) if rule.id == rule_id), None) or _missing(rule_id)
    values = _checked(values, known.targets if known.operation == values.operation else ())
    with writing() as connection:
        keep_writers_out(connection, RouteRule)
        _check_there(connection, values)
        done = connection.execute(update(rule_table).where(rule_table.c.id == rule_id).values(_row(values)))
        if not done.rowcount:
            _missing(rule_id)
        _told(connection, actor, "route.change", rule_id, _audited(values))
    vendors.look_again()
    return show(rule_id)


def move(rule_id: uuid.UUID, up: bool, actor: str) -> RuleView:
    """Let a rule change places with the one before it or, with `up` False, the one behind; a first one stays. `NotFound`."""
    table = table_of(RouteRule)
    with writing() as connection:
        keep_writers_out(connection, RouteRule)
        order = _renumbered(connection)
        if rule_id not in order:
            _missing(rule_id)
        place = order.index(rule_id)
        other = place - 1 if up else place + 1
        if 0 <= other < len(order):
            for moved, position in ((rule_id, other + 1), (order[other], place + 1)):
                connection.execute(update(table).where(table.c.id == moved).values(position=position))
            _told(connection, actor, "route.move", rule_id, {"from": place + 1, "to": other + 1})
    vendors.look_again()
    return show(rule_id)


def remove(rule_id: uuid.UUID, actor: str) -> None:
    """Remove a rule. What it said stays in the audit trail. `NotFound`."""
    table = table_of(RouteRule)
    with writing() as connection:
        keep_writers_out(connection, RouteRule)
        rule = next((rule for rule in _read(connection) if rule.id == rule_id), None) or _missing(rule_id)
        connection.execute(delete(table).where(table.c.id == rule_id))
        _renumbered(connection)
        _told(connection, actor, "route.remove", rule_id, _audited(values_of(rule)))
    vendors.look_again()


def explain(ask: Ask) -> Explained:
    """How a request would be served now, and what may keep each model of its route from serving it. Calls no model."""
    found = route.plan(ask)
    return Explained(found, tuple(_explained(target, ask) for target in found.targets))


# -- reading -------------------------------------------------------------------------------------------------------------
def _read(connection: Connection) -> list[RuleView]:
    table = table_of(RouteRule)
    found = connection.execute(select(table).order_by(table.c.position, table.c.id)).all()
    return [
        RuleView(
            row.id,
            place,
            row.name,
            row.enabled,
            row.operation,
            row.category,
            row.plan_code,
            row.organization_id,
            tuple(target for target in row.targets if isinstance(target, str)),
            row.max_cost_microusd,
        )
        for place, row in enumerate(found, 1)
    ]


def _explained(target: Target, ask: Ask) -> ExplainedTarget:
    most, state = most_of(target, ask), resilience.state(target.account)
    return ExplainedTarget(
        target.name,
        target.why,
        most.cost_microusd,
        most.known,
        most.source,
        resilience.is_open(target.circuit),
        *state.pause_of(target.circuit),
    )


def _faults(rule: RuleView, before: list[RuleView]) -> tuple[str, ...]:
    found = [fault for target in rule.targets if (fault := _fault(rule, target))]
    if not rule.targets:
        found.append("it names no model")
    if rule.enabled and (taker := next((other for other in before if other.enabled and _covers(other, rule)), None)):
        found.append(f"it is never used: the rule “{taker.name}” before it takes all of its requests")
    return tuple(found)


def _fault(rule: RuleView, target: str) -> str:
    """Why a target cannot serve, or not as the rule means it; '' if it can."""
    name, _, model = target.strip().partition("/")
    provider = _shelf(rule.operation).get(name)
    if provider is None:
        return f"{target}: {_no_provider(rule.operation, name)}"
    if not vendors.known().vendor(name).enabled:
        return f"{target}: the provider is switched off"
    if lacks := route.missing(provider):
        return f"{target}: {lacks}"
    if provider.probe_needed and not route.answers(provider):
        return f"{target}: it does not answer"
    model = model or vendors.default_model(provider)
    if not model:
        if provider.probe_needed:
            return ""  # it tells its models when it is asked
        return f"{target}: no model is named, and the provider has no default model"
    pictures = 1 if rule.operation == IMAGES else 0
    if not most_of(Target(provider, model, ""), Ask(input_tokens=1000, output_tokens=1000, pictures=pictures)).known:
        return f"{target}: its price is not known, so the ceiling counts"
    return ""


def _covers(earlier: RuleView, later: RuleView) -> bool:
    """Whether every request that the later rule is about goes to the earlier one."""
    if earlier.operation is None and later.operation in _SPECIAL:
        return False
    pairs = (
        (earlier.operation, later.operation),
        (earlier.category, later.category),
        (earlier.plan, later.plan),
        (earlier.organization_id, later.organization_id),
    )
    return all(mine in (None, theirs) for mine, theirs in pairs)


def _shelf(operation: str | None) -> Mapping[str, Provider]:
    registry = current_registry()
    return registry.image_providers if operation == IMAGES else registry.providers


def _no_provider(operation: str | None, name: str) -> str:
    kind = "image provider" if operation == IMAGES else "text provider"
    return f"there is no {kind} {name[:40]!r}; there are {', '.join(sorted(_shelf(operation))) or 'none'}"


# -- writing -------------------------------------------------------------------------------------------------------------
def _checked(values: RuleValues, known: tuple[str, ...] = ()) -> RuleValues:
    """The values as they are kept. Targets in `known` stay even if their plugin is gone: something else may be mended first."""
    name = values.name.strip()
    if not 0 < len(name) <= NAME_CHARS or not name.isprintable() or clean(name) != name:
        raise BadInput("name", f"Give the rule a name of at most {NAME_CHARS} visible characters.")
    targets = tuple(dict.fromkeys(target.strip() for target in values.targets if target.strip()))
    if not 0 < len(targets) <= TARGETS_MAX:
        raise BadInput("targets", f"Name 1 to {TARGETS_MAX} models, as provider/model or by the provider's name alone.")
    for target in targets:
        provider, slash, model = target.partition("/")
        if target not in known and provider not in _shelf(values.operation or None):
            raise BadInput("targets", f"{target[:160]}: {_no_provider(values.operation or None, provider)}.")
        if slash:
            provider_values.model("targets", model)
    limit = values.max_cost_microusd
    if limit is not None and (type(limit) is not int or not 0 < limit <= COST_MAX_MICROUSD):
        raise BadInput("max_cost", f"The most that a request may cost is above 0 and at most ${COST_MAX_MICROUSD // MICROUSD}.")
    return replace(
        values,
        name=name,
        targets=targets,
        operation=_word("operation", values.operation),
        category=_word("category", values.category),
        plan=values.plan or None,
    )


def _word(field: str, text: str | None) -> str | None:
    text = (text or "").strip()
    if text and not _WORD.fullmatch(text):
        example = "coding" if field == "category" else "chat"
        allowed = "lower-case letters, digits, dots, hyphens and underscores"
        raise BadInput(field, f"The {field} is one word of {allowed}, such as {example}.")
    return text or None


def _check_there(connection: Connection, values: RuleValues) -> None:
    if values.plan is not None:
        codes = connection.execute(select(Plan.code).order_by(Plan.rank)).scalars().all()
        if values.plan not in codes:
            raise BadInput("plan", f"There is no plan {values.plan[:40]!r}: {', '.join(codes)}.")
    if values.organization_id is not None:
        query = select(Organization.id).where(Organization.id == values.organization_id)
        if connection.execute(query).first() is None:
            raise BadInput("organization", "There is no organization with this id.")


def _row(values: RuleValues) -> dict[str, Any]:
    found = asdict(values)
    found["plan_code"] = found.pop("plan")
    return found | {"targets": list(values.targets), "updated_at": now()}


def _renumbered(connection: Connection) -> list[uuid.UUID]:
    """The rules' ids in order, with positions from 1 on without gaps."""
    table = table_of(RouteRule)
    found = connection.execute(select(table.c.id, table.c.position).order_by(table.c.position, table.c.id)).all()
    for place, row in enumerate(found, 1):
        if row.position != place:
            connection.execute(update(table).where(table.c.id == row.id).values(position=place))
    return [row.id for row in found]


def values_of(rule: RuleView) -> RuleValues:
    """What a rule says, to be changed in part."""
    return RuleValues(
        rule.name,
        rule.targets,
        rule.operation,
        rule.category,
        rule.plan,
        rule.organization_id,
        rule.max_cost_microusd,
        rule.enabled,
    )


def _audited(values: RuleValues) -> dict[str, Any]:
    told = {name: value for name, value in asdict(values).items() if value is not None}
    told["targets"] = list(values.targets)
    if values.organization_id is not None:
        told["organization_id"] = str(values.organization_id)
    return told


def _told(connection: Connection, actor: str, action: str, rule_id: uuid.UUID, detail: dict[str, Any]) -> None:
    audit(connection, actor, action, f"route:{rule_id}", detail)
    vendors.changed(connection)


def _missing(rule_id: uuid.UUID) -> RuleView:
    raise NotFound(f"There is no rule {rule_id}: `switchhook route list` shows those that there are.")
