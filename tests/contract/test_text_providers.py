"""What every text provider promises, held against every built-in one; vendors are fakes that fail in every way listed."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from plugins.providers import demo
from plugins.providers.openai_compatible.rows import ROWS, Row
from tests import fakes
from tests.contract import kit_acme
from tests.fakes.anthropic import FakeAnthropic
from tests.fakes.gemini import FakeGemini
from tests.fakes.ollama import FakeOllama
from tests.fakes.openai import FakeOpenAI
from tests.fakes.prsm import FakePRSM
from tests.fakes.vendor import KEY, FakeTextVendor
from webapp.plugin import TextProvider
from webapp.registry import BUILT_IN
from webapp.testkit.contract import LocalProviderContract, TextProviderContract


@dataclass(frozen=True)
class Kind:
    """A provider and the fake of its vendor."""

    plugin: str
    fake: Callable[[], FakeTextVendor]
    settings: Callable[[FakeTextVendor], Mapping[str, str]]


def kind_of_row(row: Row) -> Kind:
    def settings(fake: FakeTextVendor) -> Mapping[str, str]:
        named = {row.key_variable: KEY, row.base_url_variable: f"{fake.url}/v1", row.model_variable: fake.model}
        return {name: value for name, value in named.items() if name}

    return Kind("plugins.providers.openai_compatible", FakeOpenAI, settings)


def kind_of(name: str, fake: Callable[[], FakeTextVendor]) -> Kind:
    return Kind(f"plugins.providers.{name}", fake, lambda made: made.settings)


KINDS: dict[str, Kind] = {row.name: kind_of_row(row) for row in ROWS} | {
    "anthropic": kind_of("anthropic", FakeAnthropic),
    "gemini": kind_of("gemini", FakeGemini),
    "ollama": kind_of("ollama", FakeOllama),
    "prsm": kind_of("prsm", FakePRSM),
}


def provider_of(name: str, settings: Mapping[str, str]) -> TextProvider:
    plugin = importlib.import_module(KINDS[name].plugin)
    [found] = [p for p in plugin.register_providers(settings) if p.name == name and isinstance(p, TextProvider)]
    return found


@pytest.fixture(params=KINDS)
def vendor(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


class TestEveryVendor(TextProviderContract):
    @pytest.fixture
    def fake(self, vendor: str) -> Iterator[FakeTextVendor]:
        with KINDS[vendor].fake() as fake:
            fake.key = KEY
            yield fake

    @pytest.fixture
    def provider(self, vendor: str, fake: FakeTextVendor) -> TextProvider:
        return provider_of(vendor, KINDS[vendor].settings(fake))


class TestTheDemo(LocalProviderContract):
    @pytest.fixture
    def provider(self) -> TextProvider:
        [provider] = demo.register_providers({"SWITCHHOOK_DEMO_DELAY_MS": "0"})
        return provider


class TestAThirdPartysProvider(TextProviderContract):
    """The kit as its users meet it: by the names that an installed Switchhook has."""

    @pytest.fixture
    def fake(self) -> Iterator[FakeOpenAI]:
        from webapp.testkit.fakes.openai import FakeOpenAI

        with FakeOpenAI() as fake:
            fake.key = "the-secret-of-acme"
            yield fake

    @pytest.fixture
    def provider(self, fake: FakeOpenAI) -> TextProvider:
        [provider] = kit_acme.register_providers({"ACME_API_KEY": fake.key, "ACME_BASE_URL": f"{fake.url}/v1"})
        return provider


def test_the_kits_fakes_are_the_tests_fakes_under_another_name() -> None:
    for path in sorted(Path(fakes.__file__ or "").parent.glob("*.py")):
        name = "" if path.stem == "__init__" else f".{path.stem}"
        assert importlib.import_module(f"webapp.testkit.fakes{name}") is importlib.import_module(f"tests.fakes{name}")
        imported = {node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Import | ast.ImportFrom)}
        modules = {getattr(node, "module", None) or "" for node in imported if not getattr(node, "level", 0)}
        assert not any(module.split(".")[0] in ("tests", "webapp", "plugins") for module in modules), (
            f"{path.name} is shipped in webapp/testkit: it may import the fakes beside it (from .server) and nothing of ours"
        )


def test_a_module_that_no_fake_has_is_missing_under_both_names() -> None:
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("webapp.testkit.fakes.nobody")


def test_the_product_imports_nothing_of_the_kit() -> None:
    program = (
        "import sys, webapp, webapp.cli, webapp.registry; print([n for n in sys.modules if n.startswith('webapp.testkit')])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


def test_one_provider_of_every_kind_is_held_to_the_contract() -> None:
    built_in = [name for name in BUILT_IN if name.startswith("plugins.providers.")]
    given = {
        provider.name
        for name in built_in
        for provider in importlib.import_module(name).register_providers({})
        if isinstance(provider, TextProvider)
    }
    assert given == {*KINDS, "demo"}
