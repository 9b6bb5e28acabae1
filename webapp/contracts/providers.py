"""Model vendors as plugins: what the core wants to know of one, and the two kinds there are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from webapp.contracts.calls import Text, TextCall, ToolPiece, Usage
from webapp.contracts.hours import Hours
from webapp.contracts.pictures import Drawn, ImageCall, Progress

if TYPE_CHECKING:
    import httpx


class VariableKind(StrEnum):
    """What a variable holds, so that a page can ask for it and check it."""

    TEXT = "text"
    URL = "url"
    MODEL = "model"
    NUMBER = "number"
    FLAG = "flag"
    """On or off: `1` or nothing."""


@dataclass(frozen=True, slots=True)
class Variable:
    """An environment variable that a plugin reads: for documentation, `switchhook doctor` and the settings page.

    An administrator can set a provider's variables in the pages too; the plugin then finds them in its `settings` as if they
    came from the environment.
    """

    name: str
    meaning: str
    default: str = ""
    secret: bool = False
    kind: VariableKind = VariableKind.TEXT
    choices: tuple[str, ...] = ()
    """The values there are, where they are few."""


@dataclass(frozen=True, slots=True)
class Health:
    """What a cheap look at a vendor showed. `cure` says what to do when it is not `ok`; `balance` is what is left on the
    account, in the vendor's words (`$12.30`, `1,234.5 credits`), '' where it does not tell."""

    ok: bool
    detail: str
    cure: str = ""
    balance: str = ""


class Capability(StrEnum):
    """What a model can do beyond text in, text out."""

    VISION = "vision"
    JSON = "json"
    TOOLS = "tools"


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What is known of a model. None means unknown, which is not the same as nothing."""

    id: str
    label: str = ""
    context_tokens: int | None = None
    output_tokens: int | None = None
    capabilities: frozenset[Capability] | None = None
    note: str = ""
    """What an operator should know before choosing it, such as the day it is switched off."""


class Provider:
    """A model vendor. Plugins subclass `TextProvider` or `ImageProvider`; one of each may share a name and its settings.

    A provider does not retry, count, price or log: the core does. It raises the `ProviderError` family only.
    """

    name: str
    """Short and stable, lower case: it is part of model names such as `openai/gpt-4.1-mini`."""

    label: str
    """How people call the vendor."""

    default_model: str = ""
    """The model to use when the operator named none."""

    base_url: str = ""
    """Where its API is. The core lets calls reach a private address only if the operator named it or it is the default."""

    price_as: str = ""
    """The vendor's id in the price library; empty: look the model up by its name alone."""

    free_of_charge: bool = False
    """True only where the vendor bills nobody (a model on the operator's own machine)."""

    demo: bool = False
    """True for a provider whose answers do not come from a model."""

    preference: int = 100
    """Which provider serves when the operator chose none: the lowest number among those that are ready."""

    probe_needed: bool = False
    """True where only `check` can tell whether the provider is there, such as a server that may run on this machine:
    the core asks, with a short time limit, before it chooses the provider by itself. `check` may set `default_model`."""

    by_name_only: bool = False
    """True for a provider that serves only where the operator named it, never because it happens to be ready."""

    warning: str = ""
    """What an operator must know before switching it on; shown with its settings."""

    environment: tuple[Variable, ...] = ()

    peak_hours: Hours = Hours()
    """When the vendor charges more: work that may wait is held until they are over."""

    def missing(self) -> str:
        """What keeps this provider from being used ('OPENAI_API_KEY is not set'), or '' if it is ready. No I/O."""
        return ""

    def model_info(self, model: str) -> ModelInfo:
        """What is known of a model without asking anybody. No I/O; called for every request."""
        return ModelInfo(model)

    def models(self, http: httpx.Client) -> list[ModelInfo]:
        """The models that the vendor lists for this key. Raises `ProviderError`."""
        raise NotImplementedError

    def check(self, http: httpx.Client) -> Health:
        """Look at the vendor by a call that costs nothing. Raises nothing: a failure is a `Health` that is not ok."""
        raise NotImplementedError


class TextProvider(Provider):
    """A vendor of text models. Subclass it, set the class attributes, write `stream`, `models` and `check`."""

    def stream(self, call: TextCall, http: httpx.Client) -> Iterator[Text | ToolPiece | Usage]:
        """Yield `Text` pieces (and `ToolPiece`s, where the call has tools), then exactly one `Usage`. Raises `ProviderError`;
        closing the generator ends the call."""
        raise NotImplementedError


class ImageProvider(Provider):
    """A vendor of image models. Subclass it, set the class attributes, write `draw`, `models` and `check`."""

    def draw(self, call: ImageCall, http: httpx.Client) -> Iterator[Progress | Drawn | Usage]:
        """Yield `Progress` where the vendor tells it, each picture as `Drawn`, then exactly one `Usage`.

        Raises `ProviderError`; closing the generator ends the call, at the vendor too where it can be ended.
        """
        raise NotImplementedError
