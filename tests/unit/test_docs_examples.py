"""The plugins on the page for authors of plugins work, and keep the contract that the page tells of."""

from __future__ import annotations

import base64
import importlib
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import httpx
import pytest

from tests.fakes.server import FakeReply, FakeRequest, Fault
from tests.fakes.vendor import FakeImageVendor, FakeTextVendor, Reported, Trouble, tiny_png
from tests.unit.test_docs import PLUGINS, ROOT, blocks
from webapp.plugin import (
    BadCredentials,
    ImageProvider,
    Limit,
    MalformedAnswer,
    PlanEvent,
    ProviderError,
    QuotaQuestion,
    RateLimited,
    Rejected,
    Role,
    Text,
    TextCall,
    TimedOut,
    Turn,
    Unavailable,
    Usage,
    Window,
)
from webapp.quota.asking import cap_microusd, limits_for
from webapp.registry import Registry
from webapp.routing.http import call_limits
from webapp.testkit import asking
from webapp.testkit.contract import ImageProviderContract


def examples() -> dict[str, str]:
    """The modules on the page for authors of plugins: a provider of texts, one of pictures, a quota policy, a test."""
    return dict(zip(("parrot", "easel", "trial", "test_parrot"), blocks(PLUGINS, "python"), strict=True))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the plugins, and the test beside it."""
    plugins = tmp_path / "my-plugins"
    plugins.mkdir()
    for name in ("parrot", "easel", "trial"):
        (plugins / f"{name}.py").write_text(examples()[name])
    (tmp_path / "test_parrot.py").write_text(examples()["test_parrot"])
    return plugins


@pytest.fixture
def parrot(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeTextVendor]:
    """The fake that the page's own test brings."""
    for place in (folder, folder.parent):
        monkeypatch.syspath_prepend(str(place))
    with importlib.import_module("test_parrot").FakeParrot() as fake:
        yield fake
    for name in ("test_parrot", "parrot", "switchhook_plugins_parrot", "switchhook_plugins_easel", "switchhook_plugins_trial"):
        sys.modules.pop(name, None)


def registry_with_examples(folder: Path, **settings: str) -> Registry:
    registry = Registry()
    registry.load(settings, folder)
    records = {record.name: record for record in registry.records if record.source == "folder"}
    assert {name: record.error for name, record in records.items()} == {"parrot": "", "easel": "", "trial": ""}
    assert records["parrot"].version == "1.0"
    return registry


@pytest.fixture
def http() -> Iterator[httpx.Client]:
    with asking.client() as client:
        yield client


def ask(registry: Registry, http: httpx.Client) -> list[Text | Usage]:
    call = TextCall("r1", "green-2", (Turn(Role.SYSTEM, "Be brief."), Turn(Role.USER, "Hello?")), 100, 5.0)
    with call_limits(timeout_s=5, silence_s=1):
        return list(registry.providers["parrot"].stream(call, http))


def test_the_example_plugins_load_from_a_folder_and_the_provider_answers(
    parrot: FakeTextVendor, folder: Path, http: httpx.Client
) -> None:
    registry = registry_with_examples(folder, **parrot.settings)
    provider = registry.providers["parrot"]
    assert provider.missing() == ""
    parrot.text = "pretty polly"
    *pieces, usage = ask(registry, http)
    assert pieces == [Text("pretty"), Text(" polly")]
    assert isinstance(usage, Usage)
    assert (usage.input_tokens, usage.output_tokens) == (2, 2)
    assert provider.check(http).ok
    question = QuotaQuestion("p", "o", "free", {}, "chat", "sms")
    [limit] = registry.policies["parrot-day"].limits(question)
    assert limit.maximum == 1000


def test_the_example_policy_limits_the_free_plan_and_no_other(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    registry = registry_with_examples(folder)

    def asked(plan: str, operation: str) -> list[Limit]:
        question = QuotaQuestion("p", "o", plan, {}, operation, "sms")
        return limits_for(question, [registry.policies["trial"]])

    [request] = asked("free", "chat")
    assert cap_microusd([request]) == 100_000
    [same, pictures] = asked("free", "image.generate")
    assert same == request
    assert (pictures.subject, pictures.window, pictures.provider) == ("organization:o", Window.DAY, "openai")
    assert asked("starter", "image.generate") == []
    with caplog.at_level("INFO"):
        registry.emit("plan_changed", PlanEvent("p", "o", "free", "starter", "why"))
    assert "p is on the plan starter now" in caplog.messages


def test_the_example_plugin_says_what_is_missing_and_what_is_wrong(
    parrot: FakeTextVendor, folder: Path, http: httpx.Client
) -> None:
    registry = registry_with_examples(folder)
    assert registry.providers["parrot"].missing() == "PARROT_API_KEY is not set"
    assert registry.image_providers["easel"].missing() == "EASEL_API_KEY is not set"
    wrong = registry_with_examples(folder, **dict(parrot.settings) | {"PARROT_API_KEY": "wrong"})
    assert "PARROT_API_KEY" in wrong.providers["parrot"].check(http).cure
    with pytest.raises(BadCredentials):
        ask(wrong, http)


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Fault(status=429, headers={"Retry-After": "7"}), RateLimited),
        (Fault(status=503), Unavailable),
        (Fault(status=400), Rejected),
        (Fault(drop=True), Unavailable),
        (Fault(hang=True), TimedOut),
        (Fault(status=200, body=b"<html>"), MalformedAnswer),
        (Fault(status=200, body=b'{"text": "half"}\n'), MalformedAnswer),
        (Fault(status=200, body=b"7\n"), MalformedAnswer),
    ],
)
def test_the_example_plugin_names_every_failure_as_the_contract_wants(
    parrot: FakeTextVendor, folder: Path, http: httpx.Client, fault: Fault, error: type[ProviderError]
) -> None:
    registry = registry_with_examples(folder, **parrot.settings)
    parrot.faults.append(fault)
    with pytest.raises(error) as caught:
        ask(registry, http)
    if isinstance(caught.value, RateLimited):
        assert caught.value.retry_after_s == 7


def test_the_example_plugin_does_not_raise_in_its_check(folder: Path, http: httpx.Client) -> None:
    registry = registry_with_examples(folder, PARROT_API_KEY="right", PARROT_BASE_URL="http://127.0.0.1:9")
    assert not registry.providers["parrot"].check(http).ok


def test_the_example_passes_the_test_kit_when_it_is_run_as_the_page_says(folder: Path) -> None:
    [line] = [line for block in blocks(PLUGINS, "shell") for line in block.splitlines() if "pytest" in line]
    setting, python, *arguments, test = shlex.split(line)
    assert (setting, python) == (f"PYTHONPATH={folder.name}", ".venv/bin/python")
    done = subprocess.run(
        [sys.executable, *arguments, "-p", "no:cacheprovider", str(folder.parent / test)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None
    assert int(passed[1]) > 60


class FakeEasel(FakeImageVendor):
    """The vendor that the example of pictures is written for."""

    name = "easel"

    @property
    def settings(self) -> dict[str, str]:
        return {"EASEL_API_KEY": self.key, "EASEL_BASE_URL": self.url}

    def trouble(self, kind: Trouble) -> Fault:
        if kind is Trouble.RATE_LIMITED:
            return Fault(status=429, headers={"Retry-After": "7"})
        statuses = {
            Trouble.OVERLOADED: 503,
            Trouble.DOWN: 500,
            Trouble.BAD_KEY: 401,
            Trouble.NO_CREDIT: 402,
            Trouble.NO_MODEL: 404,
            Trouble.TOO_LONG: 413,
            Trouble.POLICY: 451,
            Trouble.BAD_REQUEST: 400,
        }
        return Fault(status=statuses[kind], body=b'{"why": "Easel is sorry"}')

    def handle(self, request: FakeRequest) -> FakeReply:
        if request.header("Authorization") != f"Bearer {self.key}":
            return FakeReply.json({"why": "wrong key"}, status=401)
        if request.path == "/v1/me":
            return FakeReply.json({"tubes": 7})
        self.report(Reported(request.json()["model"], 0, 0, pictures=1))
        return FakeReply.json({"picture": base64.b64encode(tiny_png()).decode()})


class TestTheExampleOfPictures(ImageProviderContract):
    @pytest.fixture
    def fake(self) -> Iterator[FakeEasel]:
        with FakeEasel() as fake:
            yield fake

    @pytest.fixture
    def provider(self, fake: FakeEasel) -> ImageProvider:
        module = ModuleType("easel")
        exec(examples()["easel"], vars(module))
        [provider] = module.register_providers(fake.settings)
        assert isinstance(provider, ImageProvider)
        return provider
