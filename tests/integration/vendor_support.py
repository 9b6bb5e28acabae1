"""What tests about several vendors do: lead providers to fakes, write rules, look at the calls that were made."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import ModuleType
from typing import Any

import pytest
from sqlalchemy import delete, insert, select

from plugins.providers.openai_compatible.rows import ROWS
from tests.fakes.openai import FakeOpenAI
from tests.fakes.vendor import FakeTextVendor
from tests.support import requests, rows, run_jobs, text
from webapp.extensions import now, writing
from webapp.models import Attempt, ProviderSetting, Request, RouteRule
from webapp.models.columns import new_id
from webapp.plugin import TextProvider, hookimpl
from webapp.registry import current_registry
from webapp.routing import route, vendors

ALICE = "+15005550006"
MODEL = "fake-model"


def key_of(name: str) -> str:
    """The key of a vendor in these tests, found nowhere else."""
    return f"sk-{name}-0123456789abcdef"


def lead(monkeypatch: pytest.MonkeyPatch, name: str, fake: FakeTextVendor) -> None:
    """Applications made from now on find the provider `name` at this fake."""
    fake.key = key_of(name)
    settings = dict(fake.settings)
    row = next((row for row in ROWS if row.name == name), None)
    if row is not None:
        settings = {row.key_variable: fake.key, row.base_url_variable: f"{fake.url}/v1", row.model_variable: MODEL}
    for variable, value in settings.items():
        monkeypatch.setenv(variable, value)


@contextmanager
def openai_like(monkeypatch: pytest.MonkeyPatch, *names: str) -> Iterator[dict[str, FakeOpenAI]]:
    """A fake for each of these providers of OpenAI's format."""
    with ExitStack() as stack:
        fakes = {name: stack.enter_context(FakeOpenAI()) for name in names}
        for name, fake in fakes.items():
            fake.text = f"An answer from {name}."
            lead(monkeypatch, name, fake)
        yield fakes


def models(*names: str) -> str:
    """SWITCHHOOK_CHAT_MODEL for these providers, in this order."""
    return ",".join(f"{name}/{MODEL}" for name in names)


def install(*providers: TextProvider) -> None:
    """Load a plugin with these providers."""

    def register_providers(settings: Any) -> list[TextProvider]:
        return list(providers)

    module = ModuleType("installed")
    module.register_providers = hookimpl(register_providers)  # type: ignore[attr-defined]
    record = current_registry().add(module, f"installed-{new_id().hex[:12]}", {})
    assert not record.error, record.error
    route._probes.clear()


def add_rule(position: int, *targets: str, **values: Any) -> uuid.UUID:
    """Write a routing rule as another process would; this one is not told."""
    rule = {"id": new_id(), "position": position, "name": f"rule {position}", "enabled": True, "targets": list(targets)}
    with writing() as connection:
        connection.execute(insert(RouteRule), rule | {"updated_at": now()} | values)
        vendors.changed(connection)
    return rule["id"]  # type: ignore[return-value]


def set_provider(provider: str, **values: Any) -> None:
    """Write settings of a provider as another process would; this one is not told."""
    given = {"provider": provider, "enabled": True, "values": {}, "limits": {}, "prices": {}, "updated_at": now()}
    with writing() as connection:
        connection.execute(delete(ProviderSetting).where(ProviderSetting.provider == provider))
        connection.execute(insert(ProviderSetting), given | values)
        vendors.changed(connection)


def ask(body: str = "hello") -> Request:
    """A message arrives and is worked on; the request as it ended."""
    text(body, ALICE)
    run_jobs()
    return requests()[-1]


def attempts() -> list[Attempt]:
    """All calls that were made, in their order."""
    return rows(select(Attempt).order_by(Attempt.request_id, Attempt.execution, Attempt.number))


def tried() -> list[tuple[str | None, str, str | None]]:
    """Of all calls the provider, the outcome and the error's code."""
    return [(made.provider, made.outcome, made.error_code) for made in attempts()]


def until(condition: Callable[[], object], what: str, timeout_s: float = 10.0) -> None:
    """Wait for something that another thread or process does."""
    ends = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < ends, f"not within {timeout_s:g} s: {what}"
        time.sleep(0.01)
