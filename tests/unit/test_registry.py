"""Plugins that are fine, plugins that are broken in every way, and listeners that fail."""

from __future__ import annotations

import logging
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

from webapp.contracts.events import PersonEvent
from webapp.plugin import (
    Health,
    Limit,
    QuotaPolicy,
    QuotaQuestion,
    Text,
    TextCall,
    TextProvider,
    Usage,
    hookimpl,
)
from webapp.registry import BUILT_IN, PluginRecord, Registry

EVENT = PersonEvent("p", "o", "sms", "free")

GOOD = """
from webapp.plugin import Health, Text, TextProvider, Usage, hookimpl

class Good(TextProvider):
    name, label, default_model = "{name}", "Good", "g"
    def stream(self, call, http):
        yield Text("hello")
        yield Usage(1, 1)
    def check(self, http):
        return Health(True, "fine")

@hookimpl
def register_providers(settings):
    return [Good()]
"""

BROKEN = {
    "raises at import": ("import nothing_of_that_name", "ModuleNotFoundError"),
    "ends the process at import": ("raise SystemExit(3)", "SystemExit"),
    "is no Python": ("def broken(:\n", "SyntaxError"),
    "is no text": ("\x00", "null bytes"),
    "is empty": ("", "@hookimpl"),
    "forgets to mark its functions": ("def register_providers(settings): return []", "@hookimpl"),
    "returns nothing": (
        "from webapp.plugin import hookimpl\n@hookimpl\ndef register_providers(settings): pass",
        "returned NoneType instead of a list",
    ),
    "returns another class": (
        "from webapp.plugin import hookimpl\n@hookimpl\ndef register_providers(settings): return [object()]",
        "which is no Provider",
    ),
    "returns the class itself": (
        "from webapp.plugin import *\n@hookimpl\ndef register_channels(settings): return [Channel]",
        "which is no Channel",
    ),
    "gives no name": (
        "from webapp.plugin import *\n@hookimpl\ndef register_providers(): return [TextProvider()]",
        "the name None must be",
    ),
    "gives a name that is none": (
        GOOD.format(name="Not a name!"),
        "the name 'Not a name!' must be lower-case",
    ),
    "takes a name that is taken": (GOOD.format(name="demo"), "the name 'demo' is taken"),
    "takes a name twice": (GOOD.format(name="twice").replace("[Good()]", "[Good(), Good()]"), "'twice' is taken"),
    "misspells a hook": (
        "from webapp.plugin import hookimpl\n@hookimpl\ndef register_provider(settings): return []",
        "did you mean 'register_providers'?",
    ),
    "invents a hook": ("from webapp.plugin import hookimpl\n@hookimpl\ndef xyzzy(): pass", "there is no hook 'xyzzy'"),
    "wants another argument": (
        "from webapp.plugin import hookimpl\n@hookimpl\ndef register_providers(app): return []",
        "app",
    ),
    "is written for another contract": (
        "SWITCHHOOK_CONTRACT = 99\n" + GOOD.format(name="future"),
        "contract version 99, this is version 1",
    ),
    "raises when it registers": (
        GOOD.format(name="late").replace("return [Good()]", "raise RuntimeError('not today')"),
        "RuntimeError: not today",
    ),
    "raises halfway": (
        GOOD.format(name="half").replace("return [Good()]", "yield Good(); raise RuntimeError('not today')"),
        "RuntimeError: not today",
    ),
    "gives a good thing and a bad one": (
        GOOD.format(name="mixed").replace("[Good()]", "[Good(), 7]"),
        "which is no Provider",
    ),
}


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("switchhook_plugins_")]:
        del sys.modules[name]


def loaded(folder: Path | None = None, **settings: str) -> Registry:
    registry = Registry()
    registry.load(settings, folder)
    return registry


def record(registry: Registry, name: str) -> PluginRecord:
    [found] = [record for record in registry.records if record.name == name]
    return found


def test_every_built_in_plugin_loads_without_any_setting() -> None:
    registry = loaded()
    assert {r.name: r.error for r in registry.records if r.error} == {}
    assert [r.name for r in registry.records if r.source == "built-in"] == [name.removeprefix("plugins.") for name in BUILT_IN]
    assert {"demo", "openai"} <= registry.providers.keys()
    assert {"simulator", "twilio"} <= registry.channels.keys()
    assert registry.policies
    assert registry.categorizers


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_plugin_is_left_out_with_the_reason_and_the_others_load(kind: str, folder: Path) -> None:
    code, reason = BROKEN[kind]
    (folder / "broken.py").write_text(code)
    (folder / "after.py").write_text(GOOD.format(name="after"))
    (folder / "zz_last.py").write_text(GOOD.format(name="last"))
    registry = loaded(folder)
    assert reason in record(registry, "broken").error
    assert record(registry, "broken").gives == []
    assert {"after", "last"} <= registry.providers.keys()
    assert not {"future", "late", "half", "mixed", "twice"} & registry.providers.keys()
    assert type(registry.providers["demo"]).__module__ == "plugins.providers.demo"
    registry.emit("person_created", EVENT)


def test_what_is_left_out_hears_no_events(folder: Path) -> None:
    heard = folder / "heard"
    (folder / "broken.py").write_text(
        "from pathlib import Path\nfrom webapp.plugin import hookimpl\n"
        f"@hookimpl\ndef person_created(event): Path({str(heard)!r}).touch()\n"
        "@hookimpl\ndef register_providers(): return 7\n"
    )
    registry = loaded(folder)
    assert "returned int" in record(registry, "broken").error
    registry.emit("person_created", EVENT)
    assert not heard.exists()


def test_a_folder_holds_modules_and_packages_and_what_is_hidden_is_not_looked_at(folder: Path) -> None:
    (folder / "one.py").write_text("__version__ = '2.3'\n" + GOOD.format(name="one"))
    (folder / "two").mkdir()
    (folder / "two" / "__init__.py").write_text(GOOD.format(name="two"))
    for name in ("_private.py", ".hidden.py"):
        (folder / name).write_text("raise SystemExit")
    (folder / "notes.txt").write_text("not a plugin")
    (folder / "data").mkdir()
    registry = loaded(folder)
    found = [r for r in registry.records if r.source == "folder"]
    assert [(r.name, r.version, r.error) for r in found] == [("one", "2.3", ""), ("two", "", "")]
    assert {"one", "two"} <= registry.providers.keys()


def test_a_folder_that_is_not_there_is_reported(tmp_path: Path) -> None:
    registry = loaded(tmp_path / "nowhere")
    [found] = [r for r in registry.records if r.source == "folder"]
    assert "SWITCHHOOK_PLUGINS_DIR is not a directory" in found.error
    assert "demo" in registry.providers


@pytest.fixture
def distribution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed distribution whose entry points name two modules, one of them broken."""
    site = tmp_path / "site"
    info = site / "acme_switchhook-1.4.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-switchhook\nVersion: 1.4\n")
    (info / "entry_points.txt").write_text(
        "[switchhook.plugins]\nacme = acme_good\nacme_bad = acme_bad\nacme_lost = acme_good:nothing_there\n"
    )
    (site / "acme_good.py").write_text(GOOD.format(name="acme"))
    (site / "acme_bad.py").write_text("raise RuntimeError('no licence')")
    monkeypatch.syspath_prepend(str(site))
    for name in ("acme_good", "acme_bad"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return site


def test_an_installed_plugin_is_found_by_its_entry_point(distribution: Path) -> None:
    registry = loaded()
    good = record(registry, "acme")
    assert (good.source, good.version, good.error) == ("entry point", "1.4", "")
    assert good.gives == ["providers: acme"]
    assert "no licence" in record(registry, "acme_bad").error
    assert "nothing_there" in record(registry, "acme_lost").error
    assert "acme" in registry.providers


def test_a_plugin_whose_own_name_is_taken_is_left_out(distribution: Path) -> None:
    folder = distribution.parent / "folder"
    folder.mkdir()
    (folder / "acme.py").write_text(GOOD.format(name="other"))
    registry = loaded(folder)
    first, second = (r for r in registry.records if r.name == "acme")
    assert first.error == ""
    assert "another plugin is called 'acme' already" in second.error
    assert "other" not in registry.providers
    assert "acme" in registry.providers


def listener(name: str, heard: list[str], fails: bool = False) -> types.ModuleType:
    module = types.ModuleType(name)

    @hookimpl
    def person_created(event: PersonEvent) -> None:
        heard.append(f"{name} {event.person_id}")
        if fails:
            raise ZeroDivisionError("listener")

    module.person_created = person_created  # type: ignore[attr-defined]
    return module


def test_a_listener_that_fails_is_logged_and_the_others_hear_the_event(caplog: pytest.LogCaptureFixture) -> None:
    registry, heard = Registry(), []
    for name, fails in (("first", False), ("second", True), ("third", False)):
        registry.add(listener(name, heard, fails), name, {})
    with caplog.at_level(logging.ERROR):
        registry.emit("person_created", EVENT)
    assert sorted(heard) == ["first p", "second p", "third p"]
    assert "plugin second failed in person_created" in caplog.text


def test_the_same_plugin_under_two_names_keeps_working_under_the_first() -> None:
    registry, heard = Registry(), []
    module = listener("only", heard)
    assert registry.add(module, "only", {}).error == ""
    assert "loaded already, as 'only'" in registry.add(module, "again", {}).error
    assert registry.add(module, "only", {}).error != ""
    registry.emit("person_created", EVENT)
    assert heard == ["only p"]


def test_a_plugin_gets_its_settings_and_may_leave_the_argument_out() -> None:
    class Named(TextProvider):
        label = "Named"

        def __init__(self, name: str) -> None:
            self.name = name

        def stream(self, call: TextCall, http: object) -> Iterator[Text | Usage]:
            yield Usage()

        def check(self, http: object) -> Health:
            return Health(True, "")

    class Everything(QuotaPolicy):
        name = "everything"

        def limits(self, question: QuotaQuestion) -> list[Limit]:
            return []

    class Plugin:
        @hookimpl
        def register_providers(self, settings: dict[str, str]) -> list[TextProvider]:
            return [Named(settings["MY_NAME"])]

        @hookimpl
        def register_quota_policies(self) -> list[QuotaPolicy]:
            return [Everything()]

    registry = Registry()
    found = registry.add(Plugin(), "mine", {"MY_NAME": "given"})
    assert found.error == ""
    assert found.gives == ["providers: given", "quota_policies: everything"]
    assert list(registry.providers) == ["given"]


def test_a_fault_found_later_is_kept_with_the_plugin_that_gave_the_thing() -> None:
    registry = loaded()
    registry.fault("twilio", "its routes cannot be attached")
    assert record(registry, "channels.twilio").error == "its routes cannot be attached"
    assert record(registry, "channels.simulator").error == ""
