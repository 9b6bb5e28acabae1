"""`extensions.within`: a call's context of the application, of which nothing is left afterwards."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from flask import Flask, current_app, g, has_app_context
from sqlalchemy import text

from webapp.extensions import current_settings, db, of_application, within


def test_the_application_is_the_running_one_and_only_meanwhile(make_app: Callable[..., Flask]) -> None:
    app = make_app()

    def look(more: int, *, less: int) -> int:
        assert current_app._get_current_object() is app  # type: ignore[attr-defined]
        assert current_settings() is of_application("switchhook.settings") is app.extensions["switchhook.settings"]
        g.left = "something"
        return more - less

    assert within(app, look, 5, less=2) == 3
    assert not has_app_context()
    assert within(app, lambda: "left" in g) is False
    with pytest.raises(RuntimeError, match="application context"):
        current_settings()
    other = make_app()
    with other.app_context():
        assert within(app, look, 1, less=1) == 0
        assert current_app._get_current_object() is other  # type: ignore[attr-defined]


def test_a_session_of_the_call_ends_with_it(make_app: Callable[..., Flask]) -> None:
    app = make_app()
    sessions = db.session.registry.registry

    def ask(*, fail: bool) -> int:
        assert db.session.execute(text("SELECT 1")).scalar_one() == 1
        if fail:
            raise LookupError("on the way")
        return len(sessions)

    before = len(sessions)
    assert within(app, ask, fail=False) == before + 1
    assert len(sessions) == before
    with pytest.raises(LookupError):
        within(app, ask, fail=True)
    assert len(sessions) == before
    assert not has_app_context()


def test_whoever_waits_for_the_end_of_a_context_is_told(make_app: Callable[..., Flask]) -> None:
    app = make_app()
    ended: list[BaseException | None] = []
    app.teardown_appcontext(ended.append)
    within(app, lambda: None)
    fault = LookupError("on the way")

    def fail() -> None:
        raise fault

    with pytest.raises(LookupError):
        within(app, fail)
    assert ended == [None, fault]
