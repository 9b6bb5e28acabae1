"""The providers: how each is doing, what is set for it, and a test by a real call. For administrators."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from flask import Blueprint, flash, make_response, redirect, render_template, request, session, url_for
from flask.typing import ResponseReturnValue

from webapp.contracts.errors import BadInput, Conflict, ProviderError
from webapp.contracts.providers import ModelInfo, VariableKind
from webapp.contracts.texts import clean
from webapp.contracts.wire import vendor_words
from webapp.extensions import limiter, now
from webapp.services import providers
from webapp.services.provider_views import secrets_of
from webapp.services.providers import ProviderView, Tested
from webapp.web import dashboard, errors
from webapp.web.provider_form import PRICE_UNITS, PRICES, Form
from webapp.web.provider_standing import KIND_WORDS, Card, card

blueprint = Blueprint("providers", __name__, url_prefix="/dashboard/providers")
blueprint.before_request(dashboard.for_administrators)

TEST_S = 45
"""Seconds that the page waits for a test's outcome: twice what a test may take."""
_TESTED = "tested"
_SAID_MAX = 800
"""Characters of an outcome that go into the cookie, where there is no script to show it at once."""


@blueprint.get("")
def index() -> ResponseReturnValue:
    """All of them; for the page's own script the part that moves."""
    at = now()
    cards = [card(view, at) for view in providers.overview()]
    used = [each for each in cards if each.in_use]
    return dashboard.part_or_page(
        "dashboard/_providers.html",
        "dashboard/providers.html",
        cards=used,
        others=[each for each in cards if not each.in_use],
        served=any(not each.view.demo for each in used),
        demo=any(each.view.demo for each in used),
        shared=all(each.view.state.shared for each in cards),
        at=at,
    )


@blueprint.get("/<name>")
def show(name: str) -> ResponseReturnValue:
    """One of them with its settings; `models` asks the vendor for its models."""
    view = providers.show(name)
    listed: dict[str, Any] = {}
    if request.args.get("models"):
        listed = _listed(view)
    tested = session.get(_TESTED)
    if tested and tested.get("name") == name:
        session.pop(_TESTED)
        listed["tested"] = Tested(**tested["outcome"])
    return _page(view, Form.of(view), **listed)


@blueprint.get("/<name>/state")
def state(name: str) -> ResponseReturnValue:
    """How it is doing now, for the page's own script."""
    if not errors.is_htmx():
        return redirect(url_for("providers.show", name=name), 303)
    view = providers.show(name)
    response = make_response(render_template("dashboard/_provider_state.html", view=view, card=card(view, now())))
    response.vary.add("HX-Request")
    return response


@blueprint.post("/<name>")
def change(name: str) -> ResponseReturnValue:
    """Save what was typed. Asks once before a key or another value is removed."""
    view = providers.show(name)
    form = Form.read(view, request.form)
    if form.faults:
        return _page(view, form), 422
    if form.removed and clean(request.form.get("confirmed", "")) != " ".join(form.removed):
        return _page(view, form, confirm=form.removed)
    try:
        providers.change(name, form.change(), dashboard.actor())
    except BadInput as exc:
        form.blame(exc)
        return _page(view, form), 422
    flash(f"{view.label} was saved.")
    return redirect(url_for("providers.show", name=name), 303)


@blueprint.post("/<name>/test")
@limiter.limit("10/minute;120/hour", key_func=dashboard.of_person)
def test(name: str) -> ResponseReturnValue:
    """One real, small call with what is saved."""
    view = providers.show(name)
    kind = clean(request.form.get("kind", "")) or view.kinds[0]
    model = clean(request.form.get("model", "")).strip()[:120]
    try:
        outcome = providers.test(name, kind, model, dashboard.actor())
    except (BadInput, Conflict) as exc:
        outcome = Tested(ok=False, said=exc.message, code=exc.code, model=model)
    if errors.is_htmx():
        return render_template("dashboard/_tested.html", tested=outcome, view=view)
    kept = asdict(outcome) | {"said": outcome.said[:_SAID_MAX]}
    session[_TESTED] = {"name": name, "outcome": kept}
    return redirect(url_for("providers.show", name=name, _anchor="test-title"), 303)


@blueprint.get("/<name>/models")
@limiter.limit("20/minute", key_func=dashboard.of_person)
def models(name: str) -> ResponseReturnValue:
    """The models that the vendor lists, for the page's own script."""
    if not errors.is_htmx():
        return redirect(url_for("providers.show", name=name, models=1), 303)
    view = providers.show(name)
    return render_template("dashboard/_models.html", view=view, htmx=True, **_listed(view))


@blueprint.post("/<name>/reset")
def reset(name: str) -> ResponseReturnValue:
    """Let it be tried again although it failed."""
    view = providers.show(name)
    providers.reset(name, dashboard.actor())
    flash(f"{view.label} is tried again from now on.")
    return redirect(url_for("providers.show", name=name), 303)


def _listed(view: ProviderView) -> dict[str, Any]:
    """What the vendor lists, every kind in one list, or why it does not."""
    found: dict[str, ModelInfo] = {}
    trouble = ""
    for kind in view.kinds:
        try:
            found |= {model.id: model for model in providers.models(view.name, kind)}
        except ProviderError as exc:
            trouble = vendor_words(f"{exc.message} {exc.detail}".strip(), secrets_of(view.name))
    return {"models": list(found.values()), "trouble": "" if found else trouble, "asked": True}


def _page(view: ProviderView, form: Form, **more: Any) -> str:
    shown: Mapping[str, Any] = {"models": [], "asked": False, "trouble": "", "tested": None, "confirm": [], "htmx": False}
    standing: Card = card(view, now())
    return render_template(
        "dashboard/provider.html",
        **{
            **shown,
            "view": view,
            "card": standing,
            "draft": form,
            "fields": form.fields,
            "faults": form.faults,
            "secrets_lost": form.secrets_lost,
            "limit_fields": form.limit_fields,
            "price_columns": PRICES,
            "price_units": PRICE_UNITS,
            "model_variable": next((v.variable.name for v in view.variables if v.variable.kind is VariableKind.MODEL), ""),
            "kind_words": KIND_WORDS,
            "test_s": TEST_S,
            **more,
        },
    )
