"""The same act for many people of the list: asked once, carried out some at a time, and reported."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice

from flask import Blueprint, make_response, render_template, request
from flask.typing import ResponseReturnValue

from webapp.contracts.errors import BadInput
from webapp.contracts.texts import clean
from webapp.services import people_bulk, people_lists, plans
from webapp.services.people_bulk import FAILURES_MAX, WORDS, Act, Order, Report
from webapp.services.people_lists import Filter
from webapp.web import dashboard, errors, organization
from webapp.web.people_page import as_uuid, read_filter

blueprint = Blueprint("people_bulk", __name__, url_prefix="/dashboard/people/bulk")
blueprint.before_request(dashboard.for_administrators)

STEP = 100
"""How many people one request changes: a page answers within seconds, and the next step is a button, or the page's script."""
CHOSEN_MAX = 500
"""How many people may be ticked."""
_REASON_MAX = 600


@dataclass(slots=True)
class Asked:
    """What is to be done to whom: to the chosen, or to all who match."""

    order: Order
    chosen: tuple[uuid.UUID, ...]
    wanted: Filter | None
    text: dict[str, str]
    total: int
    report: Report = field(default_factory=Report)

    @property
    def many(self) -> str:
        """How many people it is about, in words."""
        if self.total > people_lists.COUNTED_MAX:
            return f"more than {people_lists.COUNTED_MAX:,} people"
        return f"{self.total:,} {'person' if self.total == 1 else 'people'}"

    @property
    def left(self) -> bool:
        """Whether somebody has not had their turn yet."""
        return bool(self._rest(1))

    def _rest(self, size: int) -> list[uuid.UUID]:
        last = self.report.last
        if self.wanted is not None:
            return people_lists.ids(self.wanted, last, size)
        return list(islice((each for each in self.chosen if last is None or each > last), size))

    def step(self) -> Iterable[uuid.UUID]:
        """Those whose turn it is."""
        return self._rest(STEP)


@blueprint.post("")
def act() -> ResponseReturnValue:
    """Ask once; then change some, and go on until all have had their turn."""
    asked = _read()
    if not asked.total:
        return _answer(asked, fault="Choose somebody first.", status=422)
    if not request.form.get("confirmed"):
        return _answer(asked, confirm=True)
    try:
        done = people_bulk.run(asked.step(), asked.order, organization.actor())
    except BadInput as exc:
        return _answer(asked, confirm=True, faults={exc.field: exc.message}, status=422)
    _add(asked.report, done)
    return _answer(asked)


def _read() -> Asked:
    form = request.form
    try:
        act = Act(form.get("act", ""))
    except ValueError:
        raise BadInput("act", "Choose what is to be done.") from None
    order = Order(act, clean(form.get("to_plan", "")).strip()[:40], clean(form.get("reason", "")).strip()[:_REASON_MAX])
    wanted, text, faults = read_filter(form)
    everybody = form.get("all") == "1"
    if everybody and faults:
        raise BadInput("place", faults["place"])
    chosen = {found for found in map(as_uuid, form.getlist("person")) if found}
    if len(chosen) > CHOSEN_MAX:
        raise BadInput("person", f"Choose at most {CHOSEN_MAX} people, or all who match what you look for.")
    report = Report(_count("done"), _count("unchanged"), _count("failed"), _failures(), as_uuid(form.get("last")))
    if not everybody:
        return Asked(order, tuple(sorted(chosen)), None, text, len(chosen), report)
    total = _count("total") if form.get("confirmed") else people_lists.count(wanted)
    return Asked(order, (), wanted, text, total, report)


def _count(name: str) -> int:
    text = request.form.get(name, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0


def _failures() -> list[tuple[uuid.UUID, str]]:
    found = []
    for line in request.form.getlist("failure")[:FAILURES_MAX]:
        who, _, why = clean(line).partition(" ")
        if person_id := as_uuid(who):
            found.append((person_id, why[:300]))
    return found


def _add(report: Report, done: Report) -> None:
    report.done += done.done
    report.unchanged += done.unchanged
    report.failed += done.failed
    report.failures = (report.failures + done.failures)[:FAILURES_MAX]
    report.last = done.last or report.last


def _answer(
    asked: Asked, *, confirm: bool = False, fault: str = "", faults: dict[str, str] | None = None, status: int = 200
) -> ResponseReturnValue:
    values = {
        "asked": asked,
        "report": asked.report,
        "what": WORDS[asked.order.act],
        "needs_reason": asked.order.act in (Act.PLAN, Act.MONTH),
        "confirm": confirm,
        "fault": fault,
        "faults": faults or {},
        "plans": plans.names(),
        "left": not confirm and not fault and asked.left,
    }
    part = "dashboard/_people_bulk.html" if errors.is_htmx() else "dashboard/people_bulk.html"
    response = make_response(render_template(part, **values))
    response.vary.add("HX-Request")
    response.status_code = status
    return response
