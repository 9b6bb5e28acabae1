"""The demo provider answers at once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _demo_without_delay() -> Iterator[None]:
    """Of a text on its way through the application, the pauses between the words of a demo answer would take nine tenths.
    Tests about what happens meanwhile set SWITCHHOOK_DEMO_DELAY_MS, or stop a provider of their own by an event.
    """
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("SWITCHHOOK_DEMO_DELAY_MS", "0")
        yield
