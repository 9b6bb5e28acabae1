"""Providers that speak OpenAI's chat format: one class, and a row of data for each vendor or server (`rows.py`)."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import httpx

from plugins.providers.openai_compatible.addresses import is_local
from plugins.providers.openai_compatible.asking import (
    CAP_FIELDS,
    SCHEMA_REFUSED,
    STRICT_REFUSED,
    Manner,
    encode,
    to_wire,
)
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
    ToolPiece,
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
# Fields a model may refuse without the call losing its meaning. A cap that is refused is sent under its other name.
_OPTIONAL = (
    "temperature",
    "top_p",
    "stop",
    "parallel_tool_calls",
    "response_format",
    "stream_options",
    "store",
    "safety_identifier",
    "user_id",
    "thinking",
    *CAP_FIELDS,
)
_CAPABILITIES = {able.value: able for able in Capability}
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
        self._url = f"{self.base_url}/chat/completions"
        self._infos: dict[str, ModelInfo] = {}
        self._manners: dict[str, Manner] = {}
        able = (
            settings.get(row.capabilities_variable, "").lower().replace(",", " ").split() if row.capabilities_variable else []
        )
        self._valid_words = able == ["none"] or all(word in _CAPABILITIES for word in able)
        self._declared = frozenset(_CAPABILITIES[word] for word in able if word in _CAPABILITIES) if able else None
        self._missing = self._find_missing()

    def _build_headers(self, settings: Mapping[str, str]) -> dict[str, str]:
        headers = {"Content-Type": "application/json", "Accept": "text/event-stream, application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        for header, variable in self.row.headers:
            if value := settings.get(variable, "").strip():
                headers[header] = value
        return headers

    def missing(self) -> str:
        """A variable that is not set or cannot be right; '' if a call may be tried. The settings are those of its making."""
        return self._missing

    def _find_missing(self) -> str:
        if not self._key and self.row.key_required:
            return f"{self.row.key_variable} is not set"
        if not self.base_url:
            return f"{self.row.base_url_variable} is not set"
        if not is_usable_url(self.base_url):
            return f"{self.row.base_url_variable} is not an http or https address without user and password"
        if any(not (value.isascii() and value.isprintable()) for value in self._headers.values()):
            return f"{self.row.key_variable or 'a header'} holds characters that cannot be sent in a header"
        if not self._valid_words:
            return f"{self.row.capabilities_variable} is not made of `vision`, `json` and `tools`, or `none`"
        return ""

    def model_info(self, model: str) -> ModelInfo:
        """From what is known of the vendor's models, and what the operator says of the server. Neither changes, so it is
        worked out once for each model."""
        if found := self._infos.get(model):
            return found
        info = known_of(self.row.catalog, model).info(model)
        if self._declared is not None:
            info = replace(info, capabilities=self._declared)
        if len(self._infos) >= _LEARNED_MODELS:
            self._infos.clear()
        self._infos[model] = info
        return info

    # -- a call ----------------------------------------------------------------------------------------------------
    def stream(self, call: TextCall, http: httpx.Client) -> Iterator[Text | ToolPiece | Usage]:
        """Asks for a stream, or for a whole answer where the call wants that; takes either from any server."""
        try:
            response = self._accepted(call, http)
            try:
                told = response.headers
                request_id = told.get("x-request-id") or told.get("x-deepseek-request-id", "")
                answer = Answer(self.label, self._key, request_id, costs_told=self.row.costs_told, tools=bool(call.tools))
                yield from answer.read(response.iter_bytes())
            finally:
                response.close()
        except (httpx.HTTPError, httpx.StreamError, httpx.InvalidURL) as exc:
            raise error_for_network(self.label, exc) from exc

    def _accepted(self, call: TextCall, http: httpx.Client) -> httpx.Response:
        """The response to a call that the vendor accepts, to be closed by the caller. A field that a model refuses is left
        out from then on."""
        model = call.model or self.default_model or self._first_model(http, call.timeout_s)
        self._refuse_unable(call, model)
        limit_s = call.timeout_s
        # What httpx makes of `Timeout(limit_s, connect=…)`.
        times = {"connect": min(CONNECT_S, limit_s), "read": limit_s, "write": limit_s, "pool": limit_s}
        loose = False
        while True:
            manner = self._manner(model)
            body = to_wire(call, model, replace(manner, without=manner.without | {STRICT_REFUSED}) if loose else manner)
            request = http.build_request(
                "POST", self._url, content=encode(body), headers=self._headers, extensions={"timeout": times}
            )
            response = http.send(request, stream=True)
            if 200 <= response.status_code < 300:
                return response
            with contextlib.closing(response):
                said, failure = self._failure(response)
            if failure.status not in (400, 422):
                raise failure
            refused = self._refused(said, body)
            if self._leave_out(model, refused):
                continue
            # What is wrong with one schema says nothing about the next one: only this call does without.
            if loose or not (said.about_strict() and _holds_strictly(body)):
                raise failure
            loose = True

    def _refuse_unable(self, call: TextCall, model: str) -> None:
        """A model that is known to see nothing, or to call no tools, would answer as if nothing of them had been sent."""
        pictures = False
        for turn in call.turns:
            if turn.pictures:
                pictures = True
        if not (call.tools or pictures):
            return
        able = self.model_info(model).capabilities
        if able is None:
            return
        if pictures and Capability.VISION not in able:
            raise Rejected(f"{model} at {self.label} does not take pictures.")
        if call.tools and Capability.TOOLS not in able:
            raise Rejected(f"{model} at {self.label} does not take tools.")

    def _manner(self, model: str) -> Manner:
        """How the model is asked; worked out once, and again after it refused a field."""
        if found := self._manners.get(model):
            return found
        row, able = self.row, self.model_info(model).capabilities
        manner = Manner(
            cap_field=row.cap_field,
            person_field=row.person_field,
            extra=row.extra,
            sampling=known_of(row.catalog, model).sampling is not False,
            json_object=able is None or Capability.JSON in able,
            json_schema=row.json_schema,
            parallel_tools=row.parallel_tools,
            tool_id_chars=row.tool_id_chars,
        )
        self._remember(model, manner)
        return manner

    def _remember(self, model: str, manner: Manner) -> None:
        if len(self._manners) >= _LEARNED_MODELS:
            self._manners.clear()
        self._manners[model] = manner

    def _refused(self, said: Complaint, body: dict[str, Any]) -> str:
        """Which field of `body`, of those that a call can do without, the vendor does not take; '' for none."""
        sent = [name for name in _OPTIONAL if name in body]
        if body.get("tool_choice") == "auto":  # what a vendor does anyway
            sent.append("tool_choice")
        refused = said.unsupported_field(sent)
        if refused == "response_format" and body["response_format"]["type"] == "json_schema":
            return SCHEMA_REFUSED  # plain JSON may still be taken
        if not refused and said.refuses_strict() and _holds_strictly(body):
            return STRICT_REFUSED
        return refused

    def _leave_out(self, model: str, refused: str) -> bool:
        """Remember that `model` refuses a field. False if that cannot help: a call is never sent without a cap."""
        manner = self._manner(model)
        learned = manner.without | {refused}
        if not refused or learned.issuperset(CAP_FIELDS):
            return False
        self._remember(model, replace(manner, without=learned))
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


def _holds_strictly(body: Mapping[str, Any]) -> bool:
    return any("strict" in tool["function"] for tool in body.get("tools", ()))


@hookimpl
def register_providers(settings: Mapping[str, str]) -> list[TextProvider]:
    """A provider for each row; those that lack a setting say which."""
    return [OpenAICompatible(row, settings) for row in ROWS]
