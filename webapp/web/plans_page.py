"""Plans: what people are entitled to. For administrators."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from flask import Blueprint, flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from webapp.contracts.errors import BadInput, Conflict
from webapp.contracts.texts import clean
from webapp.models import PLAN_FEATURES
from webapp.services import plans
from webapp.services.limits import Listed, Owner
from webapp.services.plans import NUMBERS, PlanView, Typed
from webapp.web import dashboard, limits_page, organization

blueprint = Blueprint("plans", __name__, url_prefix="/dashboard/plans")
blueprint.before_request(dashboard.for_administrators)

_FIELDS = ("name", "rank", "priority", "max_output_tokens", "context_tokens")
_TEXT_MAX = 600
_MOVED_MAX = 500
"""How many people are put on another plan while a page waits."""


@dataclass(slots=True)
class PlanForm:
    """A plan as text in fields. `numbers` are the texts of its limits; about those in `silent` it says nothing."""

    text: dict[str, str]
    numbers: dict[str, str]
    silent: frozenset[str]
    features: tuple[str, ...]
    faults: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, view: PlanView) -> PlanForm:
        """As it is stored."""
        typed = plans.as_typed(view)
        return cls(
            {name: getattr(typed, name) for name in _FIELDS},
            dict(typed.limits),
            frozenset(NUMBERS) - typed.limits.keys(),
            tuple(typed.features),
        )

    @classmethod
    def empty(cls) -> PlanForm:
        """For a plan that is to be made."""
        text = {"name": "", "rank": "", "priority": "50", "max_output_tokens": "1000", "context_tokens": "2000"}
        return cls(text | {"code": ""}, {}, frozenset(), ())

    @classmethod
    def read(cls, given: Mapping[str, str]) -> PlanForm:
        """As it was typed."""
        text = {name: _typed(given, name) for name in (*_FIELDS, "code")}
        numbers = {key: _typed(given, f"limit-{key}") for key in NUMBERS}
        silent = frozenset(key for key in NUMBERS if given.get(f"silent-{key}"))
        return cls(text, numbers, silent, tuple(name for name in PLAN_FEATURES if given.get(f"feature-{name}")))

    def typed(self) -> Typed:
        """What the service is asked for. `BadInput` for a number that is both given and left out."""
        for key in self.silent:
            if self.numbers.get(key):
                raise BadInput(key, "Clear the number, or take away the tick beside it.")
        limits = {key: text for key, text in self.numbers.items() if key not in self.silent}
        return Typed(**{name: self.text[name] for name in _FIELDS}, limits=limits, features=self.features)

    def blame(self, exc: BadInput) -> None:
        """Put a fault beside its field."""
        self.faults[exc.field] = exc.message


def _typed(given: Mapping[str, str], name: str) -> str:
    return clean(given.get(name, "")).strip()[:_TEXT_MAX]


@blueprint.get("")
def index() -> ResponseReturnValue:
    """The list, and the form for another one."""
    return _list(PlanForm.empty())


@blueprint.post("")
def create() -> ResponseReturnValue:
    """Make a plan."""
    form = PlanForm.read(request.form)
    try:
        made = plans.create(form.text["code"], form.typed(), organization.actor())
    except BadInput as exc:
        form.blame(exc)
        return _list(form), 422
    except Conflict as exc:
        form.faults["code"] = exc.message
        return _list(form), 409
    flash(f"The plan {made.name} was made. Put people on it, or add limits of other kinds below.")
    return redirect(url_for("plans.show", code=made.code), 303)


@blueprint.get("/<code>")
def show(code: str) -> ResponseReturnValue:
    """One plan with its forms."""
    view = plans.show(code)
    return _page(view, PlanForm.of(view))


@blueprint.post("/<code>")
def change(code: str) -> ResponseReturnValue:
    """Put what was typed in the place of what is stored."""
    form = PlanForm.read(request.form)
    try:
        saved = plans.change(code, form.typed(), _seen(), organization.actor())
    except BadInput as exc:
        form.blame(exc)
        return _page(plans.show(code), form, seen=request.form.get("seen", "")), 422
    except Conflict as exc:
        return _page(plans.show(code), form, conflict=exc.message), 409
    flash(f"The plan {saved.name} was saved. It counts from the next request on.")
    return redirect(url_for("plans.show", code=code), 303)


@blueprint.post("/<code>/delete")
def delete(code: str) -> ResponseReturnValue:
    """Delete a plan; its people get another one first, where one is chosen. The page asked before."""
    view = plans.show(code)
    replacement, reason = (clean(request.form.get(name, "")).strip()[:_TEXT_MAX] for name in ("replacement", "reason"))
    typed = {"replacement": replacement, "reason": reason}
    try:
        if replacement and view.persons > _MOVED_MAX:
            raise Conflict(
                f"{view.persons:,} people have this plan: change theirs on the page of people first, which shows how far it "
                "is, or use `switchhook plan delete`."
            )
        moved = plans.delete(code, organization.actor(), replacement=replacement, reason=reason)
    except BadInput as exc:
        return _page(view, PlanForm.of(view), deleting=typed, faults={exc.field: exc.message}), 422
    except Conflict as exc:
        return _page(plans.show(code), PlanForm.of(view), deleting=typed, faults={"delete": exc.message}), 409
    if moved.failures:
        told = f"The plan stays: {len(moved.failures)} could not be moved. {moved.failures[0]}"
        return _page(plans.show(code), PlanForm.of(view), deleting=typed, faults={"delete": told}), 409
    said = f" {moved.persons + moved.organizations} were put on {replacement}." if replacement else ""
    flash(f"The plan {view.name} was deleted.{said}")
    return redirect(url_for("plans.index"), 303)


@blueprint.route("/<code>/limits", methods=["GET", "POST"])
def limits(code: str) -> ResponseReturnValue:
    """The plan's limits beyond the numbers a month."""
    view = plans.show(code)
    action = url_for("plans.limits", code=code)

    def render(listed: Listed, form: limits_page.Form) -> str:
        return render_template(
            "dashboard/plan_limits.html", plan=view, listed=listed, form=form, action=action, **limits_page.choices()
        )

    return limits_page.answer(Owner.plan(code), render, action)


def _seen() -> int:
    text = request.form.get("seen", "")
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise BadInput("name", "Load the page again, and then change it.")
    return int(text)


def _list(form: PlanForm) -> str:
    return render_template("dashboard/plans.html", plans=plans.rows(), form=form, **_choices())


def _page(
    view: PlanView,
    form: PlanForm,
    *,
    seen: str = "",
    conflict: str = "",
    deleting: Mapping[str, str] | None = None,
    faults: Mapping[str, str] | None = None,
) -> str:
    values: dict[str, Any] = {"seen": seen or view.version, "conflict": conflict, "deleting": deleting, "faults": faults or {}}
    others = [plan for plan in plans.names() if plan[0] != view.code]
    return render_template("dashboard/plan.html", plan=view, form=form, others=others, **values, **_choices())


def _choices() -> dict[str, Any]:
    return {"numbers": NUMBERS, "features": PLAN_FEATURES}
