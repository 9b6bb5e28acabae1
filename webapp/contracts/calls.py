"""Calls to model vendors: what the core asks of a provider, and what a provider yields."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import httpx


class Role(StrEnum):
    """Who speaks in a turn."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"


@dataclass(frozen=True, slots=True)
class Turn:
    """One thing somebody said in a conversation."""

    role: Role
    text: str


class Finish(StrEnum):
    """Why an answer ended, in words that are the same for every vendor."""

    STOP = "stop"
    LENGTH = "length"
    FILTERED = "filtered"
    TOOL = "tool"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class TextCall:
    """A chat completion to be made.

    `turns` are oldest first and end with the person's own. `max_output_tokens` caps visible and reasoning tokens together.
    `timeout_s` is what remains of the request's time; the HTTP client enforces it as a deadline over the whole call.
    `person_ref` is a one-way hash that vendors may be given for abuse reports; never a name, address or id.
    """

    request_id: str
    model: str
    turns: tuple[Turn, ...]
    max_output_tokens: int
    timeout_s: float
    temperature: float | None = None
    stop: tuple[str, ...] = ()
    person_ref: str = ""


@dataclass(frozen=True, slots=True)
class Text:
    """A piece of the answer, to be shown as it comes."""

    text: str


@dataclass(frozen=True, slots=True)
class Usage:
    """The end of an answer: what the vendor counted.

    `input_tokens` includes cached ones and `output_tokens` includes reasoning ones, whatever the vendor's own convention.
    None means that the vendor did not say; the core then counts a labelled estimate.
    """

    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    finish: Finish = Finish.UNKNOWN
    model: str = ""
    vendor_request_id: str = ""


@dataclass(frozen=True, slots=True)
class Variable:
    """An environment variable that a plugin reads: for documentation, `switchhook doctor` and the settings page."""

    name: str
    meaning: str
    default: str = ""
    secret: bool = False


@dataclass(frozen=True, slots=True)
class Health:
    """What a cheap look at a vendor showed. `cure` says what to do when it is not `ok`."""

    ok: bool
    detail: str
    cure: str = ""


class TextProvider:
    """A vendor of text models. Subclass it, set the class attributes, write `stream`.

    A provider does not retry, count, price or log: the core does. It raises the `ProviderError` family only.
    """

    name: str
    """Short and stable, lower case: it is part of model names such as `openai/gpt-4.1-mini`."""

    label: str
    """How people call the vendor."""

    default_model: str = ""
    """The model to use when the operator named none."""

    price_as: str = ""
    """The vendor's id in the price library; empty: look the model up by its name alone."""

    free_of_charge: bool = False
    """True only where the vendor bills nobody (a model on the operator's own machine)."""

    demo: bool = False
    """True for a provider whose answers do not come from a model."""

    preference: int = 100
    """Which provider serves chat when the operator chose none: the lowest number among those that are ready."""

    probe_needed: bool = False
    """True where only `check` can tell whether the provider is there, such as a server that may run on this machine:
    the core asks, with a short time limit, before it chooses the provider by itself. `check` may set `default_model`."""

    environment: tuple[Variable, ...] = ()

    def missing(self) -> str:
        """What keeps this provider from being used ('OPENAI_API_KEY is not set'), or '' if it is ready. No I/O."""
        return ""

    def stream(self, call: TextCall, http: httpx.Client) -> Iterator[Text | Usage]:
        """Yield `Text` pieces, then exactly one `Usage`. Raises `ProviderError`; closing the generator ends the call."""
        raise NotImplementedError

    def check(self, http: httpx.Client) -> Health:
        """Look at the vendor by a call that costs nothing. Raises nothing: a failure is a `Health` that is not ok."""
        raise NotImplementedError
