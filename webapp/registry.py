"""Finds plugins, checks and calls each by itself, keeps what they gave, and says why one is missing."""

from __future__ import annotations

import difflib
import importlib
import importlib.metadata
import importlib.util
import logging
import re
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import pluggy

from webapp import hookspecs
from webapp.contracts.channels import Channel
from webapp.contracts.hours import Hours
from webapp.contracts.limits import QuotaPolicy
from webapp.contracts.providers import ImageProvider, Provider, TextProvider
from webapp.contracts.sorting import Categorizer
from webapp.contracts.texts import frames
from webapp.extensions import of_application
from webapp.plugin import CONTRACT_VERSION

log = logging.getLogger(__name__)

ENTRY_POINTS = "switchhook.plugins"
BUILT_IN = (
    "plugins.providers.demo",
    "plugins.providers.openai_compatible",
    "plugins.providers.anthropic",
    "plugins.providers.gemini",
    "plugins.providers.ollama",
    "plugins.providers.prsm",
    "plugins.providers.openai_images",
    "plugins.providers.stability",
    "plugins.providers.midjourney",
    "plugins.categorizers.keywords",
    "plugins.categorizers.model",
    "plugins.quotas.plan_limits",
    "plugins.quotas.stored_limits",
    "plugins.quotas.allocation",
    "plugins.channels.simulator",
    "plugins.channels.twilio",
    "plugins.channels.email",
)

_KINDS: dict[str, type] = {
    "register_providers": Provider,
    "register_categorizers": Categorizer,
    "register_quota_policies": QuotaPolicy,
    "register_channels": Channel,
}
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,38}\Z")


def _lacks(channel: Channel) -> str:
    """What keeps a channel from sending; a plugin that fails in saying it is not ready."""
    try:
        return channel.missing()
    except Exception as exc:
        return f"its plugin failed ({type(exc).__name__})"


class PluginFault(Exception):
    """Why a plugin is left out, in words for its author or the operator."""


@dataclass(slots=True)
class PluginRecord:
    """What is known of a plugin, loaded or not."""

    name: str
    source: str
    """built-in, entry point, or folder."""
    version: str = ""
    hooks: list[str] = field(default_factory=list)
    gives: list[str] = field(default_factory=list)
    error: str = ""


def each(hook: pluggy.HookCaller, **values: Any) -> Iterator[tuple[str, Any]]:
    """Call every implementation by itself, last registered first: yields (plugin name, its answer or the exception)."""
    for impl in reversed(hook.get_hookimpls()):
        try:
            yield impl.plugin_name, impl.function(*(values[name] for name in impl.argnames))
        except (Exception, SystemExit) as exc:
            yield impl.plugin_name, exc


class Registry:
    """The plugins of one application and what they registered, by name."""

    def __init__(self) -> None:
        self.records: list[PluginRecord] = []
        self.providers: dict[str, TextProvider] = {}
        self.image_providers: dict[str, ImageProvider] = {}
        self.categorizers: dict[str, Categorizer] = {}
        self.policies: dict[str, QuotaPolicy] = {}
        self.channels: dict[str, Channel] = {}
        self._manager = pluggy.PluginManager(hookspecs.NAMESPACE)
        self._manager.add_hookspecs(hookspecs)

    def load(self, settings: Mapping[str, str], folder: Path | None = None) -> None:
        """Load the built-in plugins, those installed beside us, and those in `folder`. Never raises for a plugin's fault."""
        for name in BUILT_IN:
            self._load(PluginRecord(name.removeprefix("plugins."), "built-in"), settings, lambda n=name: import_module(n))
        for entry in importlib.metadata.entry_points(group=ENTRY_POINTS):
            version = entry.dist.version if entry.dist else ""
            self._load(PluginRecord(entry.name, "entry point", version), settings, entry.load)
        if folder is not None:
            self._load_folder(folder, settings)

    def add(self, plugin: object, name: str, settings: Mapping[str, str], source: str = "folder") -> PluginRecord:
        """Load one plugin that is already imported."""
        record = PluginRecord(name, source)
        self._load(record, settings, lambda: plugin)
        return record

    def hears(self, event_hook: str) -> bool:
        """Whether any plugin wants to be told of such events."""
        return bool(getattr(self._manager.hook, event_hook).get_hookimpls())

    def emit(self, event_hook: str, event: object) -> None:
        """Tell every listener; one that fails is logged and harms nothing."""
        for name, answer in each(getattr(self._manager.hook, event_hook), event=event):
            if isinstance(answer, BaseException):
                log.error("plugin %s failed in %s: %s\n%s", name, event_hook, type(answer).__name__, frames(answer))

    def fault(self, given_name: str, error: str) -> None:
        """Note that something a plugin gave does not work, on that plugin's record."""
        for record in self.records:
            if any(entry.endswith(f": {given_name}") for entry in record.gives):
                record.error = error

    # -- loading ---------------------------------------------------------------------------------------------------
    def _load_folder(self, folder: Path, settings: Mapping[str, str]) -> None:
        if not folder.is_dir():
            self.records.append(
                PluginRecord(str(folder), "folder", error="SWITCHHOOK_PLUGINS_DIR is not a directory: make it or unset it.")
            )
            return
        for path in sorted(folder.iterdir()):
            package = path / "__init__.py"
            if path.name.startswith((".", "_")) or not (path.suffix == ".py" or package.is_file()):
                continue
            target = package if package.is_file() else path
            self._load(PluginRecord(path.stem, "folder"), settings, lambda t=target, n=path.stem: _import_file(t, n))

    def _load(self, record: PluginRecord, settings: Mapping[str, str], get: Any) -> None:
        self.records.append(record)
        plugin, new = None, False
        try:
            plugin = get()
            new = not self._manager.is_registered(plugin)
            record.version = record.version or str(getattr(plugin, "__version__", ""))
            _check_contract(plugin)
            self._register(record, plugin)
            given = self._collect(record, plugin, settings)
        except (Exception, SystemExit) as exc:
            record.error = str(exc) if isinstance(exc, PluginFault) else f"{type(exc).__name__}: {exc}"
            if plugin is not None and new and self._manager.is_registered(plugin):
                self._manager.unregister(plugin)
            log.error("plugin %s is left out: %s", record.name, record.error)
            return
        for kind, item in given:
            self._shelf(kind, item)[item.name] = item
            record.gives.append(f"{_word(kind, item)}: {item.name}")

    def _register(self, record: PluginRecord, plugin: object) -> None:
        if self._manager.has_plugin(record.name):
            raise PluginFault(f"another plugin is called {record.name!r} already: rename this one")
        if self._manager.is_registered(plugin):
            raise PluginFault(f"it is loaded already, as {self._manager.get_name(plugin)!r}: name it once")
        self._manager.register(plugin, name=record.name)
        known = {name for name in vars(hookspecs) if hasattr(getattr(hookspecs, name), "switchhook_spec")}
        for caller in self._manager.get_hookcallers(plugin) or []:
            if not caller.has_spec():
                near = difflib.get_close_matches(caller.name, known, 1)
                raise PluginFault(
                    f"there is no hook {caller.name!r}" + (f": did you mean {near[0]!r}?" if near else "; see the hook list")
                )
            record.hooks.append(caller.name)
        if not record.hooks:
            raise PluginFault("it implements no hook: mark its functions with @hookimpl from webapp.plugin")

    def _collect(
        self,
        record: PluginRecord,
        plugin: object,
        settings: Mapping[str, str],
        *,
        kinds: Iterable[str] = tuple(_KINDS),
        again: bool = False,
    ) -> list[tuple[str, Any]]:
        """What the plugin registers, checked whole before any of it counts. `again`: its names may be taken, by itself."""
        given: list[tuple[str, Any]] = []
        for kind in kinds:
            base = _KINDS[kind]
            if kind not in record.hooks:
                continue
            impl = next(i for i in getattr(self._manager.hook, kind).get_hookimpls() if i.plugin is plugin)
            arguments = {"settings": settings}
            answer = impl.function(*(arguments[name] for name in impl.argnames))
            if not isinstance(answer, Iterable):
                raise PluginFault(f"{kind} returned {type(answer).__name__} instead of a list")
            for item in answer:
                if not isinstance(item, base):
                    raise PluginFault(f"{kind} returned a {type(item).__name__}, which is no {base.__name__}")
                name = getattr(item, "name", None)
                if not isinstance(name, str) or not _NAME.match(name):
                    raise PluginFault(f"{kind}: the name {name!r} must be lower-case letters, digits, - and _")
                if isinstance(item, Provider) and (fault := _provider_fault(item)):
                    raise PluginFault(f"{kind}: the provider {name} {fault}")
                shelf = self._shelf(kind, item)
                mine = any(self._shelf(k, i) is shelf and i.name == name for k, i in given)
                if mine or (name in shelf and not again):
                    raise PluginFault(f"{kind}: the name {name!r} is taken already")
                given.append((kind, item))
        return given

    def configure(self, settings: Mapping[str, str]) -> None:
        """Have every plugin make its providers anew, with changed settings. One that fails keeps those it had, and says why.

        The dictionaries are replaced, not changed: whoever looks into the old ones goes on undisturbed.
        """
        text, images = dict(self.providers), dict(self.image_providers)
        for record in self.records:
            plugin = self._manager.get_plugin(record.name)
            if plugin is None or "register_providers" not in record.hooks:
                continue
            try:
                given = self._collect(record, plugin, settings, kinds=("register_providers",), again=True)
            except (Exception, SystemExit) as exc:
                record.error = f"with its new settings: {type(exc).__name__}: {exc}"
                log.error("plugin %s keeps its old settings: %s", record.name, record.error)
                continue
            record.error = ""
            for _, item in given:
                if isinstance(item, ImageProvider):
                    images[item.name] = item
                else:
                    text[item.name] = item
        self.providers, self.image_providers = text, images

    def make(self, settings: Mapping[str, str], names: Collection[str]) -> list[Provider]:
        """The providers with these names as their plugins make them with other settings, which changes nothing here; those of a
        plugin that fails are left out."""
        found: list[Provider] = []
        for record in self.records:
            plugin = self._manager.get_plugin(record.name)
            gives = {given.partition(": ")[2] for given in record.gives if given.partition(": ")[0].endswith("providers")}
            if plugin is None or gives.isdisjoint(names):
                continue
            try:
                given = self._collect(record, plugin, settings, kinds=("register_providers",), again=True)
            except (Exception, SystemExit) as exc:
                log.error("plugin %s cannot be used with other settings: %s", record.name, type(exc).__name__)
                continue
            found += [item for _, item in given if item.name in names]
        return found

    def channel_for(self, medium: str) -> Channel | None:
        """The first channel by name that carries a medium and is ready to send."""
        for _, channel in sorted(self.channels.items()):
            if channel.medium == medium and not _lacks(channel):
                return channel
        return None

    def any_provider(self, name: str) -> list[Provider]:
        """The text and the image provider of that name: none, one or both."""
        found = (self.providers.get(name), self.image_providers.get(name))
        return [provider for provider in found if provider is not None]

    def addresses(self) -> list[str]:
        """Where the APIs of all providers are, as they are configured now."""
        given: list[Provider] = [*self.providers.values(), *self.image_providers.values()]
        return [provider.base_url for provider in given if provider.base_url]

    def _shelf(self, kind: str, item: object = None) -> dict[str, Any]:
        if isinstance(item, ImageProvider):
            return cast(dict[str, Any], self.image_providers)
        shelves: dict[str, dict[str, Any]] = {
            "register_providers": cast(dict[str, Any], self.providers),
            "register_categorizers": cast(dict[str, Any], self.categorizers),
            "register_quota_policies": cast(dict[str, Any], self.policies),
            "register_channels": cast(dict[str, Any], self.channels),
        }
        return shelves[kind]


def import_module(name: str) -> ModuleType:
    """Import a built-in plugin."""
    return importlib.import_module(name)


def _import_file(path: Path, stem: str) -> ModuleType:
    name = f"switchhook_plugins_{stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise PluginFault(f"{path.name} cannot be imported as Python")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(name, None)
        raise
    return module


def _check_contract(plugin: object) -> None:
    wanted = getattr(plugin, "SWITCHHOOK_CONTRACT", CONTRACT_VERSION)
    if wanted != CONTRACT_VERSION:
        raise PluginFault(
            f"it is written for contract version {wanted}, this is version {CONTRACT_VERSION}: install a fitting release"
        )


def _word(kind: str, item: object) -> str:
    """How a record names what a plugin gives."""
    return "image providers" if isinstance(item, ImageProvider) else kind.removeprefix("register_")


_PROVIDER_ATTRIBUTES = (
    ("preference", int),
    ("default_model", str),
    ("base_url", str),
    ("price_as", str),
    ("label", str),
    ("peak_hours", Hours),
)


def _provider_fault(provider: Provider) -> str:
    """What is wrong with a provider's attributes, '' if nothing is."""
    if not isinstance(provider, TextProvider | ImageProvider):
        return "is neither a TextProvider nor an ImageProvider"
    for attribute, kind in _PROVIDER_ATTRIBUTES:
        value = getattr(provider, attribute, None)
        if not isinstance(value, kind):
            return f"has {attribute} {value!r}, which is no {kind.__name__}"
    return ""


def current_registry() -> Registry:
    """The registry of the running application."""
    return cast(Registry, of_application("switchhook.registry"))
