"""Ollama, by its own API: models on the operator's machines, or in Ollama's cloud.

The API in OpenAI's shape cannot set how much text a model reads and cuts what is too long in silence; this one can.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace

import httpx

from plugins.providers.ollama.addresses import base_url, is_local
from plugins.providers.ollama.failures import LABEL, from_status, refused_field, words_of
from plugins.providers.ollama.installed import Installed, read_show, read_tags, runs_elsewhere, same_name
from plugins.providers.ollama.wire import Answer, encode, to_wire
from webapp.plugin import (
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
    Variable,
    VariableKind,
    at_most,
    error_for_network,
    hookimpl,
    is_usable_url,
    retry_after_s,
    vendor_id,
    vendor_words,
)

DEFAULT_HOST = "http://127.0.0.1:11434"
"""Where it is looked for if nobody named a server."""
CONNECT_S = 5.0
CHECK_S = 5.0
PROBE_S = 0.5
SHOW_CALLS = 24
"""How many models are asked for one by one, at most, where the list does not tell what they can do."""
SHOW_S = 8.0
"""Seconds that this may take in all."""
_ERROR_BYTES = 65_536
_LIST_BYTES = 4 * 1024 * 1024
_LEARNED_MODELS = 1000
_NO_MODEL_CURE = "Install one, for example: ollama pull llama3.2"
_NETWORK = (httpx.HTTPError, httpx.StreamError, httpx.InvalidURL)


class Ollama(TextProvider):
    """A server of the operator's, looked for on this machine if no variable names one; or ollama.com with a key."""

    name = "ollama"
    label = LABEL
    preference = 50
    environment = (
        Variable(
            "OLLAMA_HOST",
            "Address of the Ollama server. It may lack the scheme and the port.",
            default=DEFAULT_HOST,
            kind=VariableKind.URL,
        ),
        Variable("OLLAMA_API_KEY", "API key for ollama.com or a server that wants one.", secret=True),
        Variable(
            "OLLAMA_MODEL",
            "Model to use at Ollama. Left empty, it is the first one there that can chat.",
            kind=VariableKind.MODEL,
        ),
    )

    def __init__(self, settings: Mapping[str, str]) -> None:
        given = settings.get("OLLAMA_HOST", "").strip()
        self._key = settings.get("OLLAMA_API_KEY", "").strip()
        self.base_url = base_url(given or DEFAULT_HOST)
        self.default_model = settings.get("OLLAMA_MODEL", "").strip()
        self._named = bool(self.default_model)
        self.free_of_charge = is_local(self.base_url)
        self.probe_needed = not (given and self.default_model)
        self._headers = {"Content-Type": "application/json", "Accept": "application/x-ndjson, application/json"}
        if self._key:
            self._headers["Authorization"] = f"Bearer {self._key}"
        self._prepared: tuple[httpx.URL, httpx.Headers] | None = None
        self._refused: dict[str, frozenset[str]] = {}
        self._known: dict[str, Installed] = {}
        self._shown: dict[tuple[str, str], Installed] = {}

    def missing(self) -> str:
        """A variable that cannot be right; '' if a call may be tried: none has to be set."""
        if not is_usable_url(self.base_url):
            return "OLLAMA_HOST is not an http or https address without user and password"
        if not (self._key.isascii() and self._key.isprintable()):
            return "OLLAMA_API_KEY holds characters that cannot be sent in a header"
        return ""

    # -- a call ----------------------------------------------------------------------------------------------------
    def stream(self, call: TextCall, http: httpx.Client) -> Iterator[Text | ToolPiece | Usage]:
        """Asks for a stream, or for a whole answer where the call wants that; takes either."""
        model = call.model or self.default_model or self._first_model(http, call.timeout_s)
        self._refuse_unable(call, model)
        try:
            with self._accepted(call, model, http) as response:
                request_id = response.headers.get("x-request-id", "")
                answer = Answer(model, self._key, request_id, tools=bool(call.tools))
                yield from answer.read(response.iter_bytes())
        except _NETWORK as exc:
            raise error_for_network(self.label, exc) from exc

    def _refuse_unable(self, call: TextCall, model: str) -> None:
        """A model that is known to see nothing, or to call no tools, would answer as if nothing of them had been sent."""
        can = self.model_info(model).capabilities
        if can is None:
            return
        if Capability.VISION not in can and any(turn.pictures for turn in call.turns):
            raise Rejected(f"{vendor_id(model)} at {self.label} cannot see pictures: choose a model with vision.")
        if Capability.TOOLS not in can and call.tools:
            raise Rejected(f"{vendor_id(model)} at {self.label} does not take tools: choose a model with tools.")

    @contextlib.contextmanager
    def _accepted(self, call: TextCall, model: str, http: httpx.Client) -> Iterator[httpx.Response]:
        """The response to a call that the server accepts. An optional field that the model refuses is left out."""
        timeout = httpx.Timeout(call.timeout_s, connect=min(CONNECT_S, call.timeout_s))
        without = self._refused.get(model, frozenset())
        url, headers = self._address()
        while True:
            body = to_wire(call, model, context=self.model_info(model).context_tokens, without=without)
            with http.stream("POST", url, content=encode(body), headers=headers, timeout=timeout) as response:
                if response.is_success:
                    yield response
                    return
                words, failure = self._failure(response, model)
            refused = refused_field(words, body) if failure.status == 400 and type(failure) is Rejected else ""
            if not refused:
                raise failure
            without |= {refused}
            if refused == "think":  # a schema that is refused says nothing about the next one
                self._remember_refusal(model, refused)

    def _address(self) -> tuple[httpx.URL, httpx.Headers]:
        """Where calls go and their headers, prepared once: httpx takes longer over an address than over the rest of a call."""
        if self._prepared is None:
            self._prepared = (httpx.URL(f"{self.base_url}/api/chat"), httpx.Headers(self._headers))
        return self._prepared

    def _remember_refusal(self, model: str, field: str) -> None:
        if len(self._refused) >= _LEARNED_MODELS:
            self._refused.clear()
        self._refused[model] = self._refused.get(model, frozenset()) | {field}

    def _failure(self, response: httpx.Response, model: str) -> tuple[str, ProviderError]:
        words = words_of(at_most(response, _ERROR_BYTES))
        detail = vendor_words(words, (self._key,))
        wait_s = retry_after_s(response.headers)
        return words, from_status(response.status_code, words, detail, model=model, retry_after_s=wait_s)

    # -- what the server offers ------------------------------------------------------------------------------------
    def model_info(self, model: str) -> ModelInfo:
        """What the last list of this process told of a model."""
        known = self._known.get(same_name(model))
        return replace(known.info, id=model) if known else ModelInfo(model)

    def models(self, http: httpx.Client) -> list[ModelInfo]:
        """The installed models that can chat, in the server's order. Those that the list tells too little of are asked for
        one by one, within bounds; what they answer is kept for as long as the model does not change."""
        listed = self._list(http, CHECK_S)
        until = time.monotonic() + SHOW_S
        calls = SHOW_CALLS
        found = []
        for entry in listed:
            if entry.abilities is None:
                shown = self._shown.get((entry.name, entry.digest))
                if shown is None and calls > 0 and (left_s := until - time.monotonic()) > 0:
                    calls -= 1
                    shown = self._show(http, entry, min(left_s, CHECK_S))
                entry = shown or entry
            found.append(entry)
        self._learn(found)
        return [entry.info for entry in found if entry.can_chat]

    def check(self, http: httpx.Client) -> Health:
        """Ask for the version and list the models. Where no model is set, the first one that can chat becomes the default."""
        if missing := self.missing():
            return Health(False, f"{missing}.", cure="Set it on the Providers page, or in .env and start again.")
        try:
            timeout_s = PROBE_S if self.probe_needed else CHECK_S
            version = self._version(http, timeout_s)
            listed = self._list(http, timeout_s)
        except ProviderError as exc:
            keyed = " and OLLAMA_API_KEY" if self._key else ""
            cure = f"Start Ollama there, or check OLLAMA_HOST ({self.base_url}){keyed}."
            return Health(False, f"{exc.message} {exc.detail}".strip(), cure=cure)
        self._learn(listed)
        there = {same_name(entry.name) for entry in listed}
        if not self._named and same_name(self.default_model) not in there:
            self.default_model = next((entry.name for entry in listed if entry.can_chat), "")
        model = self.default_model
        if not model:
            return Health(False, f"{self.label} answers, but has no model.", cure=_NO_MODEL_CURE)
        if not runs_elsewhere(model) and same_name(model) not in there:
            return Health(
                False,
                f"{self.label} answers, but does not have the model {model}.",
                cure=f"Install it there: ollama pull {model}. Or set OLLAMA_MODEL to one that it has.",
            )
        count = sum(entry.can_chat for entry in listed)
        return Health(True, f"{self.label} answers (version {version}); {count} models; {model} is used by default.")

    def _first_model(self, http: httpx.Client, timeout_s: float) -> str:
        listed = self._list(http, min(CHECK_S, timeout_s))
        self._learn(listed)
        model = next((entry.name for entry in listed if entry.can_chat), "")
        if not model:
            raise Rejected(f"{self.label} has no model. {_NO_MODEL_CURE}")
        self.default_model = model
        return model

    def _learn(self, listed: list[Installed]) -> None:
        """Replaces what is known: a model that was removed is not remembered. What was asked for before is kept."""
        full = [self._shown.get((e.name, e.digest), e) if e.abilities is None else e for e in listed]
        self._known = {same_name(entry.name): entry for entry in full}

    def _version(self, http: httpx.Client, timeout_s: float) -> str:
        told = self._ask(http, "GET", "/api/version", timeout_s, "does not tell its version")
        version = told.get("version") if isinstance(told, dict) else None
        if not isinstance(version, str) or not version:
            raise Unavailable(f"What answers there is not {self.label}.", detail="/api/version tells no version")
        return vendor_id(version)[:40]

    def _list(self, http: httpx.Client, timeout_s: float) -> list[Installed]:
        listed = read_tags(self._ask(http, "GET", "/api/tags", timeout_s, "does not list its models"))
        if listed is None:
            raise Unavailable(f"{self.label} does not list its models.", detail="the list has no `models`")
        return listed

    def _show(self, http: httpx.Client, entry: Installed, timeout_s: float) -> Installed | None:
        """What the server tells of one model; None if it does not: a list with a gap is better than none."""
        try:
            told = self._ask(http, "POST", "/api/show", timeout_s, "does not describe its models", {"model": entry.name})
        except ProviderError:
            return None
        abilities, context = read_show(told)
        shown = replace(entry, abilities=abilities, context=context or entry.context)
        if len(self._shown) >= _LEARNED_MODELS:
            self._shown.clear()
        self._shown[entry.name, entry.digest] = shown
        return shown

    def _ask(
        self, http: httpx.Client, method: str, path: str, timeout_s: float, fault: str, body: dict[str, object] | None = None
    ) -> object:
        """The JSON of a small call that costs nothing. Raises `ProviderError`; `fault` words what it is if it is no JSON."""
        try:
            with http.stream(
                method,
                f"{self.base_url}{path}",
                content=encode(body) if body else None,
                headers=self._headers,
                timeout=timeout_s,
                extensions={"max_bytes": _LIST_BYTES},
            ) as response:
                if not response.is_success:
                    raise self._failure(response, str(body["model"]) if body else "")[1]
                return json.loads(at_most(response, _LIST_BYTES, strict=True))
        except _NETWORK as exc:
            raise error_for_network(self.label, exc) from exc
        except (ValueError, RecursionError) as exc:
            raise Unavailable(f"{self.label} {fault}.", detail="what it sent is not JSON") from exc


@hookimpl
def register_providers(settings: Mapping[str, str]) -> list[TextProvider]:
    """Ollama, which needs no setting if it runs on this machine."""
    return [Ollama(settings)]
