"""Providers that speak OpenAI's chat format: one class, and a row of data for each vendor or server (`rows.py`)."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping

import httpx

from plugins.providers.openai_compatible.addresses import is_local, is_usable, ollama_base_url
from plugins.providers.openai_compatible.failures import (
    Complaint,
    from_network,
    from_status,
    retry_after_s,
    vendor_words,
)
from plugins.providers.openai_compatible.rows import ROWS, Row
from plugins.providers.openai_compatible.wire import CAP_FIELDS, Answer, encode, to_wire
from webapp.plugin import (
    Health,
    ProviderError,
    Rejected,
    Text,
    TextCall,
    TextProvider,
    Unavailable,
    Usage,
    hookimpl,
)

CONNECT_S = 5.0
CHECK_S = 5.0
PROBE_S = 0.5
_ERROR_BYTES = 65_536
_LIST_BYTES = 4 * 1024 * 1024
_LEARNED_MODELS = 1000
_REQUEST_ID_HEADERS = ("x-request-id", "x-deepseek-request-id")
# Fields a model may refuse without the call losing its meaning. A cap that is refused is sent under its other name.
_OPTIONAL = ("temperature", "stop", "stream_options", "store", "safety_identifier", "user_id", "thinking", *CAP_FIELDS)
# What a server lists beside chat models; the first that is none of these is taken where the operator named no model.
_NOT_FOR_CHAT = ("embed", "rerank", "whisper", "tts", "moderation", "dall-e", "image", "bge-", "minilm")


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
        address = given or row.base_url
        self.base_url = (ollama_base_url(address) if row.name == "ollama" else address).rstrip("/")
        self.default_model = settings.get(row.model_variable, "").strip() or row.default_model
        self.free_of_charge = row.free_when_local and is_local(self.base_url)
        self.probe_needed = not self.default_model or (row.detect and not given)
        self._headers = self._build_headers(settings)
        self._learned: dict[str, frozenset[str]] = {}

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
        if not is_usable(self.base_url):
            return f"{self.row.base_url_variable} is not an http or https address"
        if any(not (value.isascii() and value.isprintable()) for value in self._headers.values()):
            return f"{self.row.key_variable or 'a header'} holds characters that cannot be sent in a header"
        return ""

    # -- a call ----------------------------------------------------------------------------------------------------
    def stream(self, call: TextCall, http: httpx.Client) -> Iterator[Text | Usage]:
        """Always asks for a stream; takes a whole answer from a server that does not stream."""
        try:
            with self._accepted(call, http) as response:
                request_id = next((response.headers[n] for n in _REQUEST_ID_HEADERS if n in response.headers), "")
                yield from Answer(self.label, self._key, request_id).read(response.iter_bytes())
        except (httpx.HTTPError, httpx.StreamError, httpx.InvalidURL) as exc:
            raise from_network(self.label, exc) from exc

    @contextlib.contextmanager
    def _accepted(self, call: TextCall, http: httpx.Client) -> Iterator[httpx.Response]:
        """The response to a call that the vendor accepts. A field that a model refuses is left out from then on."""
        model = call.model or self.default_model or self._first_model(http, call.timeout_s)
        timeout = httpx.Timeout(call.timeout_s, connect=min(CONNECT_S, call.timeout_s))
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
            if not self._leave_out(model, refused):
                raise failure

    def _body(self, call: TextCall, model: str) -> dict[str, object]:
        row = self.row
        return to_wire(
            call,
            model,
            cap_field=row.cap_field,
            person_field=row.person_field,
            extra=row.extra,
            without=self._learned.get(model, frozenset()),
        )

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
        body = _at_most(response, _ERROR_BYTES)
        try:
            said = Complaint.read(json.loads(body))
        except (ValueError, RecursionError):
            said = Complaint(message=body.decode("utf-8", "replace"))
        detail = vendor_words(said.words.strip(), (self._key,))
        return said, from_status(self.label, response.status_code, said, detail, retry_after_s(response.headers))

    # -- what the server offers ------------------------------------------------------------------------------------
    def check(self, http: httpx.Client) -> Health:
        """List the models. Where no model is set, the first one that can chat becomes the default."""
        if missing := self.missing():
            return Health(False, f"{missing}.", cure="Set it in the environment or in .env, then restart.")
        try:
            models = self._models(http, PROBE_S if self.probe_needed else CHECK_S)
        except ProviderError as exc:
            where = f"Check {self.row.base_url_variable} ({self.base_url})"
            keyed = f" and {self.row.key_variable}" if self._key else ""
            return Health(False, f"{exc.message} {exc.detail}".strip(), cure=f"{where}{keyed}.")
        if not self.default_model:
            self.default_model = next(iter(models), "")
        if not self.default_model:
            return Health(False, f"{self.label} answers, but has no model.", cure=self.row.no_model_cure)
        return Health(True, f"{self.label} answers; {len(models)} models; {self.default_model} is used by default.")

    def _first_model(self, http: httpx.Client, timeout_s: float) -> str:
        models = self._models(http, min(CHECK_S, timeout_s))
        if not models:
            raise Rejected(f"{self.label} has no model. {self.row.no_model_cure}")
        self.default_model = models[0]
        return models[0]

    def _models(self, http: httpx.Client, timeout_s: float) -> list[str]:
        """The ids of the models that can chat, in the server's order. Raises `ProviderError`."""
        try:
            with http.stream("GET", f"{self.base_url}/models", headers=self._headers, timeout=timeout_s) as response:
                if not response.is_success:
                    raise self._failure(response)[1]
                listed = json.loads(_at_most(response, _LIST_BYTES, strict=True))
        except (httpx.HTTPError, httpx.StreamError, httpx.InvalidURL) as exc:
            raise from_network(self.label, exc) from exc
        except (ValueError, RecursionError) as exc:
            raise Unavailable(f"{self.label} does not list its models.", detail="the list is not JSON") from exc
        entries = listed.get("data") if isinstance(listed, dict) else None
        if not isinstance(entries, list):
            raise Unavailable(f"{self.label} does not list its models.", detail="the list has no `data`")
        names = [e["id"] for e in entries if isinstance(e, dict) and isinstance(e.get("id"), str) and e["id"]]
        return [name for name in names if not any(word in name.lower() for word in _NOT_FOR_CHAT)]


def _at_most(response: httpx.Response, size: int, *, strict: bool = False) -> bytes:
    """The beginning of a body. An error's body may break off: what came of it still tells something."""
    found = b""
    try:
        for piece in response.iter_bytes():
            found += piece
            if len(found) > size:
                break
    except httpx.HTTPError:
        if strict:
            raise
    return found[:size]


@hookimpl
def register_providers(settings: Mapping[str, str]) -> list[TextProvider]:
    """A provider for each row; those that lack a setting say which."""
    return [OpenAICompatible(row, settings) for row in ROWS]
