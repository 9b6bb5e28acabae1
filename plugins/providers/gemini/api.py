"""What both Gemini providers share: settings, the call that leaves out what a model refuses, the list of models."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import httpx

from plugins.providers.gemini import names
from plugins.providers.gemini.failures import Complaint, from_status, optional_fields
from plugins.providers.gemini.wire import encode
from webapp.plugin import (
    Health,
    ModelInfo,
    Provider,
    ProviderError,
    Unavailable,
    Variable,
    VariableKind,
    at_most,
    error_for_network,
    is_usable_url,
    retry_after_s,
    token_count,
    vendor_id,
    vendor_words,
)

BASE_URL = "https://generativelanguage.googleapis.com/v1beta"
CONNECT_S = 5.0
CHECK_S = 5.0
PAGE_MODELS = 1000
PAGES_MAX = 10
_ERROR_BYTES = 65_536
_LIST_BYTES = 4 * 1024 * 1024
_TOKEN_CHARS = 4000
_LEARNED_MODELS = 1000
_COMMON = (
    Variable("GEMINI_API_KEY", "API key for Google Gemini.", secret=True),
    Variable("GOOGLE_API_KEY", "The same under Google's other name; where both are set, this one is used.", secret=True),
    Variable("GEMINI_BASE_URL", "Address of Google Gemini's API.", default=BASE_URL, kind=VariableKind.URL),
)


class Gemini(Provider):
    """The account at Google and its address, as the operator's settings name them."""

    name = "gemini"
    label = "Google Gemini"
    price_as = "google"
    preference = 12
    model_variable = ""
    first_model = ""
    """The model to use where `model_variable` names none."""

    def __init__(self, settings: Mapping[str, str]) -> None:
        # Google's own libraries prefer GOOGLE_API_KEY too.
        google, gemini = (settings.get(name, "").strip() for name in ("GOOGLE_API_KEY", "GEMINI_API_KEY"))
        self._key = google or gemini
        self._key_variable = "GOOGLE_API_KEY" if google else "GEMINI_API_KEY"
        self.base_url = (settings.get("GEMINI_BASE_URL", "").strip() or BASE_URL).rstrip("/")
        self.default_model = names.bare(settings.get(self.model_variable, "")) or self.first_model
        what = "Model to use at Google Gemini" + (" for pictures." if self.model_variable == "GEMINI_IMAGE_MODEL" else ".")
        model = Variable(self.model_variable, what, default=self.first_model, kind=VariableKind.MODEL)
        self.environment = (*_COMMON, model)
        # The key goes into a header, never into the address: addresses end up in logs.
        self._headers = {"Content-Type": "application/json", "x-goog-api-key": self._key}
        self._prepared: dict[tuple[str, str], tuple[httpx.URL, httpx.Headers]] = {}
        self._learned: dict[str, frozenset[str]] = {}

    def missing(self) -> str:
        """A variable that is not set or cannot be right; '' if a call may be tried."""
        if not self._key:
            return f"{self._key_variable} is not set"
        if not (self._key.isascii() and self._key.isprintable()):
            return f"{self._key_variable} holds characters that cannot be sent in a header"
        if not is_usable_url(self.base_url):
            return "GEMINI_BASE_URL is not an http or https address without user and password"
        return ""

    def model_info(self, model: str) -> ModelInfo:
        """What Google's documentation says of a model of this name."""
        return names.known(model)

    def serves(self, model: str) -> bool:
        """Whether a model of this name is for this provider."""
        raise NotImplementedError

    # -- a call ----------------------------------------------------------------------------------------------------
    @contextlib.contextmanager
    def _accepted(
        self,
        http: httpx.Client,
        model: str,
        method: str,
        build: Callable[[frozenset[str]], dict[str, Any]],
        *,
        timeout_s: float,
        max_bytes: int,
    ) -> Iterator[httpx.Response]:
        """The response to a call that Gemini accepts. `build` makes the body without the fields it is given; a field that
        the model refuses is left out at once, and from then on."""
        url, headers = self._address(model, method)
        timeout = httpx.Timeout(timeout_s, connect=min(CONNECT_S, timeout_s))
        without = self._learned.get(model, frozenset())
        while True:
            body = build(without)
            with http.stream(
                "POST",
                url,
                content=encode(body),
                headers=headers,
                timeout=timeout,
                extensions={"max_bytes": max_bytes},
            ) as response:
                if response.is_success:
                    yield response
                    return
                said, failure = self._failure(response)
            refused = said.refused_field(optional_fields(body)) if response.status_code == 400 else ""
            if not refused or refused in without:
                raise failure
            without |= {refused}
            if refused != "responseJsonSchema" or said.unsupported:
                self._learn(model, refused)

    def _address(self, model: str, method: str) -> tuple[httpx.URL, httpx.Headers]:
        """Where calls go and their headers, prepared once: httpx takes longer over an address than over the rest of a call."""
        if (found := self._prepared.get((model, method))) is None:
            url = httpx.URL(f"{self.base_url}{names.path_of(self.label, model)}:{method}")
            if len(self._prepared) >= _LEARNED_MODELS:
                self._prepared.clear()
            found = self._prepared[model, method] = (url, httpx.Headers(self._headers))
        return found

    def _learn(self, model: str, refused: str) -> None:
        if len(self._learned) >= _LEARNED_MODELS:
            self._learned.clear()
        self._learned[model] = self._learned.get(model, frozenset()) | {refused}

    def _failure(self, response: httpx.Response) -> tuple[Complaint, ProviderError]:
        body = at_most(response, _ERROR_BYTES)
        try:
            said = Complaint.read(json.loads(body))
        except (ValueError, RecursionError):
            said = Complaint(message=body.decode("utf-8", "replace"))
        detail = vendor_words(said.words, (self._key,))
        return said, from_status(self.label, response.status_code, said, detail, retry_after_s(response.headers))

    # -- what the vendor offers ------------------------------------------------------------------------------------
    def models(self, http: httpx.Client) -> list[ModelInfo]:
        """The models of this provider's kind, in Google's order. Raises `ProviderError`."""
        found: dict[str, ModelInfo] = {}
        token, seen = "", {""}
        for _ in range(PAGES_MAX):
            page, token = self._page(http, token)
            found |= {info.id: info for info in page if info.id not in found}
            if token in seen:
                break
            seen.add(token)
        return list(found.values())

    def check(self, http: httpx.Client) -> Health:
        """Look at one page of models, which costs nothing. That generating is allowed shows only on a real call."""
        if missing := self.missing():
            return Health(False, f"{missing}.", cure="Set it on the Providers page, or in .env and start again.")
        try:
            page, token = self._page(http, "")
        except ProviderError as exc:
            cure = f"Check GEMINI_BASE_URL ({self.base_url}) and {self._key_variable}."
            return Health(False, f"{exc.message} {exc.detail}".strip(), cure=cure)
        said = f"{self.label} answers; {len(page)} models; {self.default_model} is used by default"
        listed = token or any(info.id == self.default_model for info in page)
        return Health(True, f"{said}." if listed else f"{said}, which is not among them.")

    def _page(self, http: httpx.Client, token: str) -> tuple[list[ModelInfo], str]:
        """One page of the list and what leads to the next, '' for the last."""
        params = {"pageSize": str(PAGE_MODELS)} | ({"pageToken": token} if token else {})
        try:
            with http.stream(
                "GET",
                f"{self.base_url}/models",
                params=params,
                headers=self._headers,
                timeout=CHECK_S,
                extensions={"max_bytes": _LIST_BYTES},
            ) as response:
                if not response.is_success:
                    raise self._failure(response)[1]
                listed = json.loads(at_most(response, _LIST_BYTES, strict=True))
        except (httpx.HTTPError, httpx.StreamError, httpx.InvalidURL) as exc:
            raise error_for_network(self.label, exc) from exc
        except (ValueError, RecursionError) as exc:
            raise Unavailable(f"{self.label} does not list its models.", detail="the list is not JSON") from exc
        # Google leaves out what is empty: a page, or a whole list, may lack `models`.
        entries = listed.get("models", []) if isinstance(listed, dict) else None
        if not isinstance(entries, list):
            raise Unavailable(f"{self.label} does not list its models.", detail="the list has no `models`")
        infos = [info for entry in entries if isinstance(entry, dict) and (info := self._info(entry))]
        following = listed.get("nextPageToken")
        return infos, following if isinstance(following, str) and len(following) <= _TOKEN_CHARS else ""

    def _info(self, entry: Mapping[str, Any]) -> ModelInfo | None:
        """A model of the list, None if it is not for this provider."""
        name, methods = entry.get("name"), entry.get("supportedGenerationMethods")
        if not isinstance(name, str) or not isinstance(methods, list) or "generateContent" not in methods:
            return None
        model = vendor_id(names.bare(name))
        if not model or not self.serves(model):
            return None
        known = names.known(model)
        label = entry.get("displayName")
        return ModelInfo(
            model,
            label=vendor_id(label) if isinstance(label, str) else "",
            context_tokens=token_count(entry.get("inputTokenLimit")) or known.context_tokens,
            output_tokens=token_count(entry.get("outputTokenLimit")) or known.output_tokens,
            capabilities=known.capabilities,
            note=known.note,
        )
