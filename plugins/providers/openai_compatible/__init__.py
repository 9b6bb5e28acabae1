"""Providers that speak OpenAI's chat format: one class, and a row of data for each vendor or server (`rows.py`)."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace

import httpx

from plugins.providers.openai_compatible.addresses import is_local
from plugins.providers.openai_compatible.asking import CAP_FIELDS, SCHEMA_REFUSED, Manner, encode, to_wire
from plugins.providers.openai_compatible.failures import Complaint, final, from_status
from plugins.providers.openai_compatible.listing import balance_in, models_in
from plugins.providers.openai_compatible.models import known_of
from plugins.providers.openai_compatible.rows import ROWS, Row
from plugins.providers.openai_compatible.wire import Answer
from webapp.plugin import (
    BadCredentials,
    Capability,
    Health,
    ModelInfo,
    ProviderError,
    Rejected,
    Text,
    TextCall,
    TextProvider,
    Unavailable,
    Usage,
    at_most,
    error_for_network,
    hookimpl,
    is_usable_url,
    retry_after_s,
    vendor_words,
)

CONNECT_S = 5.0
CHECK_S = 5.0
PROBE_S = 0.5
_ERROR_BYTES = 65_536
_LIST_BYTES = 4 * 1024 * 1024
_LEARNED_MODELS = 1000
_REQUEST_ID_HEADERS = ("x-request-id", "x-deepseek-request-id")
# Fields a model may refuse without the call losing its meaning. A cap that is refused is sent under its other name.
_OPTIONAL = (
    "temperature",
    "stop",
    "response_format",
    "stream_options",
    "store",
    "safety_identifier",
    "user_id",
    "thinking",
    *CAP_FIELDS,
)
_CAPABILITIES = {"vision": Capability.VISION, "json": Capability.JSON}
_NO_MODEL_CURE = "Load a model in the server."


class OpenAICompatible(TextProvider):
    """One vendor or server, as its row and the operator's settings describe it."""

    def __init__(self, row: Row, settings: Mapping[str, str]) -> None:
        self.row = row
        self.name = row.name
        self.label = row.label
        self.price_as = row.price_as
        self.preference = row.preference
        self.environment = row.variables()
        self._key = settings.get(row.key_variable, "").strip()
        given = settings.get(row.base_url_variable, "").strip()
        self.base_url = (given or row.base_url).rstrip("/")
        self.default_model = settings.get(row.model_variable, "").strip() or row.default_model
        self.free_of_charge = row.free_when_local and is_local(self.base_url)
        self.probe_needed = not self.default_model
        self.peak_hours = row.peak_hours
        self._headers = self._build_headers(settings)
        self._learned: dict[str, frozenset[str]] = {}
        able = (
            settings.get(row.capabilities_variable, "").lower().replace(",", " ").split() if row.capabilities_variable else []
        )
        self._valid_words = able == ["none"] or all(word in _CAPABILITIES for word in able)
        self._declared = frozenset(_CAPABILITIES[word] for word in able if word in _CAPABILITIES) if able else None

    def _build_headers(self, settings: Mapping[str, str]) -> dict[str, str]:
        headers = {"Content-Type": "application/json", "Accept": "text/event-stream, application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        for header, variable in self.row.headers:
            if value := settings.get(variable, "").strip():
                headers[header] = value
        return headers

    def missing(self) -> str:
        """A variable that is not set or cannot be right; '' if a call may be tried."""
        if not self._key and self.row.key_required:
            return f"{self.row.key_variable} is not set"
        if not self.base_url:
            return f"{self.row.base_url_variable} is not set"
        if not is_usable_url(self.base_url):
            return f"{self.row.base_url_variable} is not an http or https address without user and password"
        if any(not (value.isascii() and value.isprintable()) for value in self._headers.values()):
            return f"{self.row.key_variable or 'a header'} holds characters that cannot be sent in a header"
        if not self._valid_words:
            return f"{self.row.capabilities_variable} is not made of `vision` and `json`, or `none`"
        return ""

    def model_info(self, model: str) -> ModelInfo:
        """From what is known of the vendor's models, and what the operator says of the server."""
        info = known_of(self.row.catalog, model).info(model)
        return info if self._declared is None else replace(info, capabilities=self._declared)

    # -- a call ----------------------------------------------------------------------------------------------------
    def stream(self, call: TextCall, http: httpx.Client) -> Iterator[Text | Usage]:
        """Always asks for a stream; takes a whole answer from a server that does not stream."""
        try:
            with self._accepted(call, http) as response:
                request_id = next((response.headers[n] for n in _REQUEST_ID_HEADERS if n in response.headers), "")
                answer = Answer(self.label, self._key, request_id, costs_told=self.row.costs_told)
                yield from answer.read(response.iter_bytes())
        except (httpx.HTTPError, httpx.StreamError, httpx.InvalidURL) as exc:
            raise error_for_network(self.label, exc) from exc

    @contextlib.contextmanager
    def _accepted(self, call: TextCall, http: httpx.Client) -> Iterator[httpx.Response]:
        """The response to a call that the vendor accepts. A field that a model refuses is left out from then on."""
        model = call.model or self.default_model or self._first_model(http, call.timeout_s)
        timeout = httpx.Timeout(call.timeout_s, connect=min(CONNECT_S, call.timeout_s))
        able = self.model_info(model).capabilities
        if able is not None and Capability.VISION not in able and any(turn.pictures for turn in call.turns):
            raise Rejected(f"{model} at {self.label} does not take pictures.")
        while True:
            body = self._body(call, model)
            with http.stream(
                "POST",
                f"{self.base_url}/chat/completions",
                content=encode(body),
                headers=self._headers,
                timeout=timeout,
            ) as response:
                if response.is_success:
                    yield response
                    return
                said, failure = self._failure(response)
            refused = said.unsupported_field([n for n in _OPTIONAL if n in body]) if failure.status in (400, 422) else ""
            form = body.get("response_format")
            if refused == "response_format" and isinstance(form, dict) and form["type"] == "json_schema":
                refused = SCHEMA_REFUSED  # plain JSON may still be taken
            if not self._leave_out(model, refused):
                raise failure

    def _body(self, call: TextCall, model: str) -> dict[str, object]:
        row, able = self.row, self.model_info(model).capabilities
        manner = Manner(
            cap_field=row.cap_field,
            person_field=row.person_field,
            extra=row.extra,
            sampling=known_of(row.catalog, model).sampling is not False,
            json_object=able is None or Capability.JSON in able,
            json_schema=row.json_schema,
            without=self._learned.get(model, frozenset()),
        )
        return to_wire(call, model, manner)

    def _leave_out(self, model: str, refused: str) -> bool:
        """Remember that `model` refuses a field. False if that cannot help: a call is never sent without a cap."""
        learned = self._learned.get(model, frozenset()) | {refused}
        if not refused or learned.issuperset(CAP_FIELDS):
            return False
        if len(self._learned) >= _LEARNED_MODELS:
            self._learned.clear()
        self._learned[model] = learned
        return True

    def _failure(self, response: httpx.Response) -> tuple[Complaint, ProviderError]:
        body = at_most(response, _ERROR_BYTES)
        try:
            said = Complaint.read(json.loads(body))
        except (ValueError, RecursionError):
            said = Complaint(message=body.decode("utf-8", "replace"))
        detail = vendor_words(said.words.strip(), (self._key,))
        error = from_status(self.label, response.status_code, said, detail, retry_after_s(response.headers))
        return said, final(self.label, error) if response.headers.get(
            "x-should-retry", ""
        ).strip().lower() == "false" else error

    # -- what the server offers ------------------------------------------------------------------------------------
    def models(self, http: httpx.Client) -> list[ModelInfo]:
        """Those that can chat, in the server's order."""
        return self._models(http, CHECK_S)

    def check(self, http: httpx.Client) -> Health:
        """List the models, and look at the account where the vendor shows it. Where no model is set, the first one that can
        chat becomes the default."""
        if missing := self.missing():
            return Health(False, f"{missing}.", cure="Set it on the Providers page, or in .env and start again.")
        try:
            models = self._models(http, PROBE_S if self.probe_needed else CHECK_S)
            if self.row.key_path:
                self._get(http, self.row.key_path, CHECK_S)
            balance, served = self._balance(http)
        except ProviderError as exc:
            where = f"Check {self.row.base_url_variable} ({self.base_url})"
            keyed = f" and {self.row.key_variable}" if self._key else ""
            return Health(False, f"{exc.message} {exc.detail}".strip(), cure=f"{where}{keyed}.")
        if not self.default_model and models:
            self.default_model = models[0].id
        if not self.default_model:
            return Health(False, f"{self.label} answers, but has no model.", cure=_NO_MODEL_CURE)
        if not served:
            short = f"The account at {self.label} has no credit left."
            return Health(False, short, cure=f"Add money to the account at {self.label}.", balance=balance)
        told = f"{self.label} answers; {len(models)} models; {self.default_model} is used by default."
        return Health(True, told, balance=balance)

    def _balance(self, http: httpx.Client) -> tuple[str, bool]:
        """What is left on the account, and whether calls are served. A vendor that does not tell it to this key is well."""
        if not self.row.balance_path:
            return "", True
        try:
            return balance_in(self._get(http, self.row.balance_path, CHECK_S))
        except BadCredentials as exc:
            if exc.status == 401 and not self.row.key_path:
                raise
            return "", True
        except ProviderError:
            return "", True

    def _first_model(self, http: httpx.Client, timeout_s: float) -> str:
        models = self._models(http, min(CHECK_S, timeout_s))
        if not models:
            raise Rejected(f"{self.label} has no model. {_NO_MODEL_CURE}")
        self.default_model = models[0].id
        return self.default_model

    def _models(self, http: httpx.Client, timeout_s: float) -> list[ModelInfo]:
        """Raises `ProviderError`."""
        listed = self._get(http, "/models", timeout_s)
        try:
            found = models_in(listed, self.row.catalog)
        except ValueError as exc:
            raise Unavailable(f"{self.label} does not list its models.", detail=str(exc)) from exc
        if self._declared is None:
            return found
        return [replace(info, capabilities=self._declared) for info in found]

    def _get(self, http: httpx.Client, path: str, timeout_s: float) -> object:
        """The JSON that the vendor gives for a path below its base URL. Raises `ProviderError`."""
        bounded = {"max_bytes": _LIST_BYTES}
        url = f"{self.base_url}{path}"
        try:
            with http.stream("GET", url, headers=self._headers, timeout=timeout_s, extensions=bounded) as response:
                if not response.is_success:
                    raise self._failure(response)[1]
                return json.loads(at_most(response, _LIST_BYTES, strict=True))
        except (httpx.HTTPError, httpx.StreamError, httpx.InvalidURL) as exc:
            raise error_for_network(self.label, exc) from exc
        except (ValueError, RecursionError) as exc:
            what = "list its models" if path == "/models" else "tell of the account"
            raise Unavailable(f"{self.label} does not {what}.", detail="what it sent is not JSON") from exc


@hookimpl
def register_providers(settings: Mapping[str, str]) -> list[TextProvider]:
    """A provider for each row; those that lack a setting say which."""
    return [OpenAICompatible(row, settings) for row in ROWS]
