"""PRSM: models of a network that is paid in its own unit, FTNS. Its code holds several contracts; a setting says which.

Source: the repository Ryno2390/PRSM, June 2026. The default is the API of a node that the operator runs.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Mapping
from typing import Any

import httpx

from plugins.providers.prsm.answers import WHOLE_BYTES, Reader
from plugins.providers.prsm.asking import encode, to_wire
from plugins.providers.prsm.config import ENVIRONMENT, LABEL, Config, amount
from plugins.providers.prsm.failures import cannot_stream, from_status, malformed, refuses_temperature, words_of
from plugins.providers.prsm.sessions import as_answer, session_id, wait_for
from webapp.plugin import (
    Capability,
    Health,
    MalformedAnswer,
    ModelInfo,
    ProviderError,
    Rejected,
    Text,
    TextCall,
    TextProvider,
    Usage,
    at_most,
    error_for_network,
    hookimpl,
    retry_after_s,
    vendor_id,
    vendor_words,
)

CONNECT_S = 5.0
CHECK_S = 5.0
LOOK_UP_S = 10.0
CANCEL_S = 1.0
"""Seconds kept back for ending a session that takes too long."""
_ERROR_BYTES = 65_536
_SMALL_BYTES = 1024 * 1024
_LEARNED_MODELS = 1000
_MODELS = 1000
_BALANCES = ("balance", "available_balance", "ftns_balance", "total_balance")
_NETWORK = (httpx.HTTPError, httpx.StreamError, httpx.InvalidURL)
_ILL = ("unhealthy", "error", "down", "failed")


class PRSM(TextProvider):
    """A PRSM node or service, as the operator's settings describe it."""

    name = "prsm"
    label = LABEL
    preference = 60
    environment = ENVIRONMENT

    def __init__(self, settings: Mapping[str, str]) -> None:
        self._config = Config.read(settings)
        self.base_url = self._config.base_url
        self.default_model = self._config.model
        self._headers = self._config.headers
        self._refused: set[str] = set()
        self._streams = bool(self._config.dialect.stream_path)

    def missing(self) -> str:
        """A variable that is not set or cannot be right; '' if a call may be tried."""
        return self._config.fault

    def model_info(self, model: str) -> ModelInfo:
        """PRSM takes a text and nothing else; JSON is asked for in words."""
        return ModelInfo(model, capabilities=frozenset({Capability.JSON}))

    # -- a call ----------------------------------------------------------------------------------------------------
    def stream(self, call: TextCall, http: httpx.Client) -> Iterator[Text | Usage]:
        """Streams where the contract and the node can; otherwise the answer comes in one piece."""
        if any(turn.pictures for turn in call.turns):
            raise Rejected(f"{self.label} takes no pictures.")
        if call.tools:
            raise Rejected(f"{self.label} takes no tools.")
        until = time.monotonic() + call.timeout_s
        model = call.model or self.default_model
        reader = Reader(model, self._config.key, self._config.ftns_usd)
        dialect = self._config.dialect
        try:
            if self._streams:
                with contextlib.suppress(_NoStream), self._accepted(call, model, dialect.stream_path, http) as response:
                    yield from reader.stream(response.iter_bytes())
                    return
            with self._accepted(call, model, dialect.path, http) as response:
                document = reader.parse(at_most(response, WHOLE_BYTES + 1, strict=True))
            self._streams = False
            if dialect.session_path:
                document = self._ended_session(document, until, http)
            yield from reader.document(document)
        except _NETWORK as exc:
            raise error_for_network(self.label, exc) from exc

    @contextlib.contextmanager
    def _accepted(self, call: TextCall, model: str, path: str, http: httpx.Client) -> Iterator[httpx.Response]:
        """The response to a call that is accepted. A model that takes no temperature is sent none from then on."""
        timeout = httpx.Timeout(call.timeout_s, connect=min(CONNECT_S, call.timeout_s))
        streams = path == self._config.dialect.stream_path
        while True:
            without = frozenset({"temperature"}) if model in self._refused else frozenset[str]()
            body = to_wire(call, self._config, model, without=without)
            with http.stream(
                "POST",
                f"{self.base_url}{path}",
                content=encode(body),
                headers=self._headers,
                timeout=timeout,
                extensions={} if streams else {"max_bytes": WHOLE_BYTES},
            ) as response:
                if response.is_success:
                    yield response
                    return
                words, failure = self._failure(response)
            if streams and cannot_stream(failure, words):
                raise _NoStream
            if "temperature" not in body or not refuses_temperature(failure, words):
                raise failure
            if len(self._refused) >= _LEARNED_MODELS:
                self._refused.clear()
            self._refused.add(model)

    def _failure(self, response: httpx.Response) -> tuple[str, ProviderError]:
        words = words_of(at_most(response, _ERROR_BYTES))
        detail = vendor_words(words, (self._config.key,))
        wait_s = retry_after_s(response.headers)
        return words, from_status(response.status_code, words, detail, dialect=self._config.dialect.name, retry_after_s=wait_s)

    def _ended_session(self, begun: Mapping[str, Any], until: float, http: httpx.Client) -> Mapping[str, Any]:
        """The session that a call began, when it has ended. One that takes too long is cancelled, or it would be paid for."""
        sessions = f"{self._config.dialect.session_path}/"

        def look_up(found: str, left_s: float) -> Mapping[str, Any]:
            return self._ask(http, sessions + found, min(left_s, LOOK_UP_S), WHOLE_BYTES)

        left_s = until - time.monotonic()
        try:
            return as_answer(wait_for(begun, look_up, max(left_s - CANCEL_S, 0.8 * left_s)))
        except ProviderError:
            with contextlib.suppress(ProviderError):
                self._ask(http, f"{sessions}{session_id(begun)}/cancel", CANCEL_S, _SMALL_BYTES, method="POST")
            raise

    # -- what the server offers ------------------------------------------------------------------------------------
    def models(self, http: httpx.Client) -> list[ModelInfo]:
        """What a node says that it serves; else the configured model, which is all that is known."""
        if missing := self.missing():
            raise Rejected(f"{missing}.")
        try:
            listed = self._listed(http)
        except ProviderError as exc:
            if exc.status is None and not isinstance(exc, MalformedAnswer):
                raise
            listed = []
        return [ModelInfo(name) for name in listed or [self.default_model]]

    def check(self, http: httpx.Client) -> Health:
        """Ask for its health and, where the contract has them, for the models and the balance."""
        if missing := self.missing():
            return Health(False, f"{missing}.", cure="Set it on the Providers page, or in .env and start again.")
        try:
            told = self._ask(http, "/health", CHECK_S).get("status")
        except ProviderError as exc:
            keyed = " and PRSM_API_KEY" if self._config.key else ""
            cure = f"Check PRSM_API_URL ({self.base_url}){keyed}."
            return Health(False, f"{exc.message} {exc.detail}".strip(), cure=cure)
        status = vendor_id(told)[:40] if isinstance(told, str) else ""
        if status.lower() in _ILL:
            return Health(False, f"{self.label} says that it is {status}.", cure="Look at the node or service itself.")
        listed: list[str] = []
        with contextlib.suppress(ProviderError):
            listed = self._listed(http)
        if listed and self.default_model not in listed:
            some = ", ".join(listed[:5])
            return Health(
                False,
                f"{self.label} answers, but does not serve the model {self.default_model}.",
                cure=f"Set PRSM_MODEL to one that it serves, such as {some}.",
            )
        answers = f"{self.label} answers ({status})" if status else f"{self.label} answers"
        return Health(True, f"{answers}; {self.default_model} is used by default.", balance=self._balance(http))

    def _listed(self, http: httpx.Client) -> list[str]:
        """The models that a node lists; none where the contract has no list. Raises `ProviderError`."""
        path = self._config.dialect.models_path
        listed = self._ask(http, path, CHECK_S).get("models") if path else None
        names = listed[:_MODELS] if isinstance(listed, list) else []
        return [name for name in names if isinstance(name, str) and 0 < len(name) <= 200 and name.isprintable()]

    def _balance(self, http: httpx.Client) -> str:
        """What is left, '' where nobody tells: a node tells it to its own machine only, unless its operator says otherwise."""
        path = self._config.dialect.balance_path
        if not path:
            return ""
        try:
            told = self._ask(http, path, CHECK_S)
        except ProviderError:
            return ""
        left = next((found for name in _BALANCES if (found := amount(told.get(name))) is not None), None)
        return "" if left is None else f"{left:,f} FTNS"

    def _ask(
        self, http: httpx.Client, path: str, timeout_s: float, max_bytes: int = _SMALL_BYTES, *, method: str = "GET"
    ) -> Mapping[str, Any]:
        """The JSON object of a call that costs nothing. Raises `ProviderError`."""
        try:
            with http.stream(
                method,
                f"{self.base_url}{path}",
                headers=self._headers,
                timeout=timeout_s,
                extensions={"max_bytes": max_bytes},
            ) as response:
                if not response.is_success:
                    raise self._failure(response)[1]
                told = json.loads(at_most(response, max_bytes, strict=True))
        except _NETWORK as exc:
            raise error_for_network(self.label, exc) from exc
        except (ValueError, RecursionError) as exc:
            raise malformed("the answer is not JSON") from exc
        if not isinstance(told, dict):
            raise malformed("the answer is not a JSON object")
        return told


class _NoStream(Exception):
    """The node has nothing that streams."""


@hookimpl
def register_providers(settings: Mapping[str, str]) -> list[TextProvider]:
    """PRSM, which serves once its address is set."""
    return [PRSM(settings)]
