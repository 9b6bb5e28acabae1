"""The administrators' area: who may come in, what is in its menu, and what its pages share."""

from __future__ import annotations

from dataclasses import dataclass

from flask import Flask, abort, make_response, render_template, request
from flask.typing import ResponseReturnValue
from flask_limiter.util import get_remote_address
from flask_login import current_user

from webapp.web import auth


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of the menu. `area` is the blueprint whose pages it stands for."""

    area: str
    endpoint: str
    label: str


MENU = (
    Entry("queue", "queue.index", "Queue"),
    Entry("dead_letters", "dead_letters.index", "Dead letters"),
    Entry("schedule", "schedule.index", "Schedule"),
    Entry("people", "people.index", "People"),
    Entry("organizations", "organizations.index", "Organizations"),
    Entry("plans", "plans.index", "Plans"),
    Entry("providers", "providers.index", "Providers"),
    Entry("routing", "routing.index", "Routing"),
    Entry("simulator", "simulator.show", "Simulator"),
)


def prepare(app: Flask) -> None:
    """Give the templates the menu and the words for figures."""
    app.jinja_env.globals.update(dashboard_menu=MENU)
    app.jinja_env.filters.update(milliseconds=milliseconds, share=share)


def for_administrators() -> ResponseReturnValue | None:
    """For `before_request` of a blueprint: others are asked to sign in, or told that it is not for them."""
    if refused := auth.require_sign_in():
        return refused
    if not auth.me().is_admin:
        abort(403)
    return None


def actor() -> str:
    """How the audit log calls whoever is signed in."""
    return f"person:{auth.me().id}"


def of_person() -> str:
    """What a limit counts by. It may be asked before the guard was: then it is the address."""
    return str(auth.me().id) if current_user.is_authenticated else get_remote_address()


def part_or_page(part: str, page: str, **values: object) -> ResponseReturnValue:
    """The part that the page's own script replaces, or the whole page that includes that very part."""
    name = part if request.headers.get("HX-Request") == "true" else page
    response = make_response(render_template(name, **values))
    response.vary.add("HX-Request")
    return response


def milliseconds(value: float | None) -> str:
    """A latency for people: '380 ms', '1.4 s', '25 s'; 'none yet' for None."""
    if value is None:
        return "none yet"
    if value < 1000:
        return f"{value:.0f} ms"
    return f"{value / 1000:.1f} s" if value < 10_000 else f"{value / 1000:.0f} s"


def share(value: float | None) -> str:
    """A part of a whole (0-1) for people: '0 %', '0.4 %', '12 %'; what is not nothing is never shown as nothing."""
    if not value:
        return "0 %"
    percent = min(100.0, 100 * value)
    if percent < 0.1:
        return "under 0.1 %"
    return f"{percent:.1f} %" if percent < 1 else f"{percent:.0f} %"
