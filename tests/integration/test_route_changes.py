"""Rules and settings that one process changes and others see, on both databases."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from flask import Flask

from tests.integration.test_route import Shop
from tests.integration.vendor_support import install, set_provider, until
from webapp.routing import vendors
from webapp.routing.route import Ask, plan


def test_what_another_process_changes_is_seen_soon(make_app: Callable[..., Flask]) -> None:
    here, there = make_app(), make_app()
    for app in (here, there):
        with app.app_context():
            install(Shop("alpha", preference=1), Shop("beta", preference=2))
            assert [target.name for target in plan(Ask()).targets] == ["alpha/m", "beta/m"]
    with there.app_context():
        set_provider("alpha", enabled=False)
    with here.app_context():
        began = time.monotonic()
        until(lambda: [target.name for target in plan(Ask()).targets] == ["beta/m"], "the change is seen")
        assert time.monotonic() - began < vendors.LOOK_S + 1


def test_first_changes_at_the_same_moment_both_succeed(app: Flask) -> None:
    failures: list[BaseException] = []

    def change(name: str) -> None:
        try:
            with app.app_context():
                set_provider(name, default_model="x")
        except BaseException as exc:
            failures.append(exc)

    threads = [threading.Thread(target=change, args=(f"p{number}",)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert failures == []
    vendors.look_again()
    assert vendors.known().revision == 6
