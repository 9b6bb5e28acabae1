"""The routing rules: which models serve which requests, in what order, and why others do not. For administrators."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal, InvalidOperation
from typing import Any

from flask import Blueprint, flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from sqlalchemy import select

from webapp.contracts.errors import BadInput, NotFound
from webapp.contracts.money import MICROUSD, format_microusd, to_microusd
from webapp.contracts.providers import Capability
from webapp.contracts.sorting import CATEGORIES
from webapp.contracts.texts import clean
from webapp.extensions import reading
from webapp.models import Plan
from webapp.registry import current_registry
from webapp.routing import vendors
from webapp.routing.route import IMAGES
from webapp.services import routes
from webapp.services.routes import Ask, Explained, RuleValues, RuleView
from webapp.web import dashboard, errors

blueprint = Blueprint("routing", __name__, url_prefix="/dashboard/routing")
blueprint.before_request(dashboard.for_administrators)

OPERATIONS = {"chat": "questions and answers", IMAGES: "pictures", "categorize": "sorting of requests, for the house itself"}
NEEDS = {Capability.VISION: "sees pictures", Capability.JSON: "answers in JSON", Capability.TOOLS: "calls tools"}
_FIELDS = ("name", "operation", "category", "plan", "targets", "max_cost")
_TEXT_MAX = 8000
_USUAL_TOKENS = 1000
_TOKENS_MAX = 100_000_000
_USD_MAX = 1_000_000


@dataclass(slots=True)
class RuleForm:
    """A rule as text in fields. The names of `faults` begin with `at`, which tells several forms of a page apart."""

    at: str
    text: dict[str, str]
    faults: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, rule: RuleView) -> RuleForm:
        """As it is stored."""
        text = {name: getattr(rule, name) or "" for name in ("name", "operation", "category", "plan")}
        most = rule.max_cost_microusd
        dollars = "" if most is None else format_microusd(most).lstrip("$").replace(",", "")
        return cls(f"{rule.id}-", text | {"targets": "\n".join(rule.targets), "max_cost": dollars})

    @classmethod
    def read(cls, at: str, given: Mapping[str, str]) -> RuleForm:
        """As it was typed. What was chosen from the list of models stands behind the others."""
        form = cls(at, {name: clean(given.get(name, "")).strip()[:_TEXT_MAX] for name in _FIELDS})
        targets = [line.strip() for line in form.text["targets"].splitlines() if line.strip()]
        if another := clean(given.get("another", "")).strip()[:200]:
            targets.append(another)
        form.text["targets"] = "\n".join(targets)
        return form

    def values(self) -> RuleValues:
        """What the service is asked for. `BadInput` for an amount that is none."""
        return RuleValues(
            name=self.text["name"],
            targets=tuple(self.text["targets"].splitlines()),
            operation=self.text["operation"] or None,
            category=self.text["category"] or None,
            plan=self.text["plan"] or None,
            max_cost_microusd=_microusd(self.text["max_cost"]),
        )

    def blame(self, exc: BadInput) -> None:
        """Put a fault beside its field."""
        name = exc.field if exc.field in _FIELDS else "name"
        # Beside its field a fault need not repeat what the field is called.
        self.faults[self.at + name] = exc.message.replace(f"The {exc.field} is ", "It is ", 1).replace("`", "")


@dataclass(slots=True)
class Question:
    """The form that asks which model would serve a request."""

    text: dict[str, str]
    needs: frozenset[Capability]
    asked: bool
    faults: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, given: Mapping[str, str]) -> Question:
        """As it was typed, or as it is before anything was."""
        asked = bool(given.get("which"))
        names = {"operation": "chat", "category": "", "plan": "", "input_tokens": str(_USUAL_TOKENS)}
        names["output_tokens"] = names["input_tokens"]
        text = {name: clean(given.get(name, "")).strip()[:60] if asked else usual for name, usual in names.items()}
        return cls(text, frozenset(need for need in NEEDS if given.get(f"need-{need}")), asked)

    @property
    def counted(self) -> bool:
        """Whether anything is asked that has a price."""
        return self.text["operation"] == IMAGES or any(self.text[f"{way}_tokens"].strip("0,") for way in ("input", "output"))

    def ask(self) -> Ask | None:
        """The question; None if it was not asked, or with faults in it."""
        counts: dict[str, int] = {}
        for name in ("input_tokens", "output_tokens"):
            typed = self.text[name].replace(",", "") or "0"
            if not (typed.isascii() and typed.isdecimal() and len(typed) <= 12 and int(typed) <= _TOKENS_MAX):
                self.faults[f"ask-{name}"] = f"Write a whole number, at most {_TOKENS_MAX:,}."
                continue
            counts[name] = int(typed)
        if self.faults or not self.asked:
            return None
        operation = self.text["operation"] or "chat"
        return Ask(
            operation=operation,
            category=self.text["category"] or None,
            plan=self.text["plan"] or None,
            needs=self.needs,
            pictures=1 if operation == IMAGES else 0,
            input_tokens=counts["input_tokens"],
            output_tokens=counts["output_tokens"],
        )


@blueprint.get("")
def index() -> ResponseReturnValue:
    """The rules; with a question in the address also its answer."""
    question = Question.read(request.args)
    ask = question.ask()
    page = _page(question=question, explained=routes.explain(ask) if ask else None)
    return (page, 422) if question.faults else page


@blueprint.post("")
def add() -> ResponseReturnValue:
    """Add a rule behind all others."""
    form = RuleForm.read("new-", request.form)
    try:
        made = routes.add(form.values(), dashboard.actor())
    except BadInput as exc:
        form.blame(exc)
        return _page(new=form), 422
    flash(f"The rule “{made.name}” was added behind the others.")
    return _back(made.id)


@blueprint.post("/<uuid:rule_id>")
def change(rule_id: uuid.UUID) -> ResponseReturnValue:
    """Put what was typed in the place of a rule."""
    rule = _rule(rule_id)
    form = RuleForm.read(f"{rule_id}-", request.form)
    try:
        kept = replace(form.values(), organization_id=rule.organization_id, enabled=rule.enabled)
        routes.change(rule_id, kept, dashboard.actor())
    except BadInput as exc:
        form.blame(exc)
        return _page(edited=form), 422
    flash(f"The rule “{kept.name}” was saved.")
    return _back(rule_id)


@blueprint.post("/<uuid:rule_id>/move")
def move(rule_id: uuid.UUID) -> ResponseReturnValue:
    """Let a rule go before its neighbour, or behind it."""
    up = request.form.get("to") == "up"
    moved = routes.move(rule_id, up, dashboard.actor())
    return _rules_or_back(rule_id, f"“{moved.name}” is number {moved.position} now.")


@blueprint.post("/<uuid:rule_id>/switch")
def switch(rule_id: uuid.UUID) -> ResponseReturnValue:
    """Switch a rule on or off."""
    rule, on = _rule(rule_id), request.form.get("to") == "on"
    values = RuleForm.of(rule).values()
    kept = replace(
        values, organization_id=rule.organization_id, max_cost_microusd=rule.max_cost_microusd, targets=rule.targets, enabled=on
    )
    routes.change(rule_id, kept, dashboard.actor())
    return _rules_or_back(rule_id, f"“{rule.name}” is switched {'on' if on else 'off'} now.")


@blueprint.post("/<uuid:rule_id>/remove")
def remove(rule_id: uuid.UUID) -> ResponseReturnValue:
    """Delete a rule; the page asked before."""
    rule = _rule(rule_id)
    routes.remove(rule_id, dashboard.actor())
    flash(f"The rule “{rule.name}” was deleted.")
    return redirect(url_for("routing.index"), 303)


def _rule(rule_id: uuid.UUID) -> RuleView:
    found = next((rule for rule in routes.rules() if rule.id == rule_id), None)
    if found is None:
        raise NotFound("There is no such rule any more.")
    return found


def _back(rule_id: uuid.UUID) -> ResponseReturnValue:
    return redirect(url_for("routing.index", _anchor=f"rule-{rule_id}"), 303)


def _rules_or_back(rule_id: uuid.UUID, words: str) -> ResponseReturnValue:
    """The list as it is now for the page's own script, which keeps the focus where it is; else the way back to the page."""
    if errors.is_htmx():
        return render_template("dashboard/_rules.html", said=words, **_listed(None), **_choices())
    flash(words)
    return _back(rule_id)


def _listed(edited: RuleForm | None) -> dict[str, Any]:
    rules = routes.rules()
    forms = {rule.id: RuleForm.of(rule) for rule in rules}
    if edited is not None:
        forms |= {rule.id: edited for rule in rules if edited.at == f"{rule.id}-"}
    return {"rules": rules, "forms": forms}


def _choices() -> dict[str, Any]:
    with reading() as connection:
        plans = connection.execute(select(Plan.code, Plan.name).order_by(Plan.rank)).all()
    return {"plans": [(row.code, row.name) for row in plans], "operations": OPERATIONS, "categories": CATEGORIES}


def _known_targets() -> list[str]:
    """What a rule may name, as far as it is known without asking anybody: providers, and their default models."""
    registry = current_registry()
    found: dict[str, None] = {}
    for provider in (*registry.providers.values(), *registry.image_providers.values()):
        found[provider.name] = None
        if model := vendors.default_model(provider):
            found[f"{provider.name}/{model}"] = None
        found |= {f"{provider.name}/{name}": None for name in vendors.known().vendor(provider.name).prices if name != "*"}
    return sorted(found)


def _without_rules() -> dict[str, Explained]:
    """Who serves while there is no rule: answers, and pictures where somebody can draw."""
    found = {"Answers": routes.explain(Ask(input_tokens=_USUAL_TOKENS, output_tokens=_USUAL_TOKENS))}
    if current_registry().image_providers:
        found["Pictures"] = routes.explain(Ask(IMAGES, pictures=1))
    return found


def _page(
    *,
    new: RuleForm | None = None,
    edited: RuleForm | None = None,
    question: Question | None = None,
    explained: Explained | None = None,
) -> str:
    listed = _listed(edited)
    return render_template(
        "dashboard/routing.html",
        **listed,
        **_choices(),
        new=new or RuleForm("new-", dict.fromkeys(_FIELDS, "")),
        edited=edited,
        defaults=_without_rules() if not any(rule.enabled for rule in listed["rules"]) else {},
        known=_known_targets(),
        question=question or Question.read({}),
        explained=explained,
        needs=NEEDS,
    )


def _microusd(text: str) -> int | None:
    if not text:
        return None
    try:
        amount = Decimal(text.removeprefix("$").replace(",", ""))
    except InvalidOperation:
        amount = Decimal("NaN")
    if not amount.is_finite() or not 0 < amount <= _USD_MAX:
        raise BadInput("max_cost", f"Write an amount of dollars above 0 and at most {_USD_MAX:,}, such as 0.05.")
    if amount * MICROUSD < 1:
        raise BadInput("max_cost", "The smallest amount is a millionth of a dollar.")
    return to_microusd(amount)
