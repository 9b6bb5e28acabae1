"""Anthropic's Claude models, over the Messages API."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Mapping

import httpx

from plugins.providers.anthropic.answer import Answer
from plugins.providers.anthropic.failures import OPTIONAL, Complaint, from_status
from plugins.providers.anthropic.models import known, read_page
from plugins.providers.anthropic.wire import encode, holds_strictly, to_wire
from webapp.plugin import (
    BadCredentials,
    Health,
    ModelInfo,
    OutOfCredit,
    ProviderError,
    Rejected,
    Text,
    TextCall,
    TextProvider,
    ToolPiece,
    Unavailable,
    Usage,
    Variable,
    VariableKind,
    at_most,
    error_for_network,
    hookimpl,
    is_usable_url,
    retry_after_s,
    vendor_words,
)

BASE_URL = "https://api.anthropic.com"
DEFAULT_MODEL = "claude-haiku-5-5"
DEFAULT_VERSION = "2023-06-01"
CONNECT_S = 5.0
CHECK_S = 5.0
LIST_S = 15.0
PAGE_SIZE = 100
PAGES_MAX = 20
_ERROR_BYTES = 65_536
_PAGE_BYTES = 4 * 1024 * 1024
_LEARNED_MODELS = 1000
_NETWORK = (httpx.HTTPError, httpx.StreamError, httpx.InvalidURL)


class Anthropic(TextProvider):
    """Anthropic, or a gateway that speaks its format, as the operator's settings describe it."""

    name = "anthropic"
    label = "Anthropic"
    preference = 11
    price_as = "anthropic"
    environment = (
        Variable("ANTHROPIC_API_KEY", "API key for Anthropic.", secret=True),
        Variable("ANTHROPIC_BASE_URL", "Address of Anthropic's API, without /v1.", BASE_URL, kind=VariableKind.URL),
        Variable("ANTHROPIC_MODEL", "Model to use at Anthropic.", DEFAULT_MODEL, kind=VariableKind.MODEL),
        Variable("ANTHROPIC_VERSION", "Version of Anthropic's API, the day it came out.", DEFAULT_VERSION),
    )

    def __init__(self, settings: Mapping[str, str]) -> None:
        self._key = settings.get("ANTHROPIC_API_KEY", "").strip()
        self._version = settings.get("ANTHROPIC_VERSION", "").strip() or DEFAULT_VERSION
        address = (settings.get("ANTHROPIC_BASE_URL", "").strip() or BASE_URL).rstrip("/")
        # The other vendors' addresses end in /v1, so that many write it here too.
        self.base_url = address.removesuffix("/v1").rstrip("/")
        self.default_model = settings.get("ANTHROPIC_MODEL", "").strip() or DEFAULT_MODEL
        self._headers = {
            "x-api-key": self._key,
            "anthropic-version": self._version,
            "Content-Type": "application/json",
            "Accept": "text/event-stream, application/json",
        }
        self._prepared: tuple[httpx.URL, httpx.Headers] | None = None
        self._learned: dict[str, frozenset[str]] = {}

    def missing(self) -> str:
        """A variable that is not set or cannot be right; '' if a call may be tried."""
        if not self._key:
            return "ANTHROPIC_API_KEY is not set"
        if not is_usable_url(self.base_url):
            return "ANTHROPIC_BASE_URL is not an http or https address without user and password"
        for name, value in (("ANTHROPIC_API_KEY", self._key), ("ANTHROPIC_VERSION", self._version)):
            if not (value.isascii() and value.isprintable()):
                return f"{name} holds characters that cannot be sent in a header"
        return ""

    def model_info(self, model: str) -> ModelInfo:
        """From a table of the models there are; unknown where no row fits."""
        return known(model)

    # -- a call ----------------------------------------------------------------------------------------------------
    def stream(self, call: TextCall, http: httpx.Client) -> Iterator[Text | ToolPiece | Usage]:
        """Asks for a stream, or for a whole message where the call wants that; takes either from any gateway."""
        answer: Answer | None = None
        try:
            with self._accepted(call, http) as response:
                answer = Answer(self.label, self._key, response.headers.get("request-id", ""), tools=bool(call.tools))
                yield from answer.read(response.iter_bytes())
        except _NETWORK as exc:
            error = error_for_network(self.label, exc)
            error.usage = answer.counted if answer else None
            raise error from exc

    @contextlib.contextmanager
    def _accepted(self, call: TextCall, http: httpx.Client) -> Iterator[httpx.Response]:
        """The response to a call that the vendor accepts. A field that it refuses is left out, and the call made again at
        once; where the model never takes the field, it is not sent to it again."""
        self._ready()
        model = call.model or self.default_model
        without = self._learned.get(model, frozenset())
        timeout = httpx.Timeout(call.timeout_s, connect=min(CONNECT_S, call.timeout_s))
        url, headers = self._address()
        while True:
            body = to_wire(call, model, label=self.label, version=self._version, without=without)
            with http.stream("POST", url, content=encode(body), headers=headers, timeout=timeout) as response:
                if response.is_success:
                    yield response
                    return
                said, failure = self._failure(response)
            refused = said.refused_field(
                name for name in OPTIONAL if name in body or (name == "strict" and holds_strictly(body))
            )
            if type(failure) is not Rejected or failure.status not in (400, 422) or not refused:
                raise failure
            without |= {refused}
            if said.is_lasting(refused):
                self._learn(model, refused)

    def _address(self) -> tuple[httpx.URL, httpx.Headers]:
        """Where calls go and their headers, prepared once: httpx takes longer over an address than over the rest of a call."""
        if self._prepared is None:
            self._prepared = (httpx.URL(f"{self.base_url}/v1/messages"), httpx.Headers(self._headers))
        return self._prepared

    def _ready(self) -> None:
        if missing := self.missing():
            raise BadCredentials(f"{self.label} cannot be called: {missing}.")

    def _learn(self, model: str, refused: str) -> None:
        if len(self._learned) >= _LEARNED_MODELS:
            self._learned.clear()
        self._learned[model] = self._learned.get(model, frozenset()) | {refused}

    def _failure(self, response: httpx.Response) -> tuple[Complaint, ProviderError]:
        said = Complaint.read(at_most(response, _ERROR_BYTES))
        request_id = response.headers.get("request-id", "") or said.request_id
        named = f"[{request_id[:100]}] {said.words}" if request_id else said.words
        detail = vendor_words(named, (self._key,))
        return said, from_status(self.label, response.status_code, said, detail, retry_after_s(response.headers))

    # -- what the vendor offers ------------------------------------------------------------------------------------
    def check(self, http: httpx.Client) -> Health:
        """Ask for one model of the list, which is free and needs a key that works."""
        if missing := self.missing():
            return Health(False, f"{missing}.", cure="Set it on the Providers page, or in .env and start again.")
        try:
            self._page(http, {"limit": "1"}, CHECK_S)
        except OutOfCredit as exc:
            return Health(False, f"{exc.message} {exc.detail}".strip(), cure="Add credit in Anthropic's console.")
        except ProviderError as exc:
            cure = f"Check ANTHROPIC_BASE_URL ({self.base_url}) and ANTHROPIC_API_KEY."
            return Health(False, f"{exc.message} {exc.detail}".strip(), cure=cure)
        return Health(True, f"{self.label} answers; {self.default_model} is used by default.")

    def models(self, http: httpx.Client) -> list[ModelInfo]:
        """The vendor's list, in its order, at most 2000 models. Raises `ProviderError`."""
        self._ready()
        deadline = time.monotonic() + LIST_S
        found: dict[str, ModelInfo] = {}
        after = ""
        for _ in range(PAGES_MAX):
            query = {"limit": str(PAGE_SIZE)} | ({"after_id": after} if after else {})
            page, following = self._page(http, query, max(0.1, min(CHECK_S, deadline - time.monotonic())))
            new = [info for info in page if info.id not in found]
            found |= {info.id: info for info in new}
            if not following or not new:  # a page that repeats itself would never end
                break
            after = following
        return list(found.values())

    def _page(self, http: httpx.Client, query: Mapping[str, str], timeout_s: float) -> tuple[list[ModelInfo], str]:
        """A page of the list and the id that the next one begins after. Raises `ProviderError`."""
        try:
            with http.stream(
                "GET",
                f"{self.base_url}/v1/models",
                params=query,
                headers=self._headers,
                timeout=timeout_s,
                extensions={"max_bytes": _PAGE_BYTES},
            ) as response:
                if not response.is_success:
                    raise self._failure(response)[1]
                return read_page(json.loads(at_most(response, _PAGE_BYTES, strict=True)))
        except _NETWORK as exc:
            raise error_for_network(self.label, exc) from exc
        except (ValueError, RecursionError) as exc:
            raise Unavailable(f"{self.label} does not list its models.", detail=vendor_words(str(exc), (self._key,))) from exc


@hookimpl
def register_providers(settings: Mapping[str, str]) -> list[TextProvider]:
    """The one provider; it says which setting it lacks."""
    return [Anthropic(settings)]
