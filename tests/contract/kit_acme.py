"""A provider as a third party would write it, small and whole: it speaks the chat format that the fake OpenAI speaks."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from typing import Any

import httpx

from webapp.plugin import (
    Capability,
    ContextTooLong,
    Finish,
    Health,
    MalformedAnswer,
    ModelInfo,
    ProviderError,
    Text,
    TextCall,
    TextFlow,
    TextProvider,
    Turn,
    Unavailable,
    Usage,
    Variable,
    VariableKind,
    about_length,
    at_most,
    error_for_network,
    error_for_status,
    hookimpl,
    lines,
    retry_after_s,
    sse_events,
    token_count,
    token_part,
    vendor_id,
    vendor_words,
)

_BODY_BYTES = 4 * 1024 * 1024


class AcmeProvider(TextProvider):
    """Acme's models."""

    name = "acme"
    label = "Acme"
    default_model = "acme-1"
    environment = (
        Variable("ACME_API_KEY", "API key for Acme.", secret=True),
        Variable("ACME_BASE_URL", "Address of Acme's API.", default="https://api.acme.example/v1", kind=VariableKind.URL),
        Variable("ACME_MODEL", "Model to use at Acme.", default="acme-1", kind=VariableKind.MODEL),
    )

    def __init__(self, settings: Mapping[str, str]) -> None:
        self._key = settings.get("ACME_API_KEY", "").strip()
        self.base_url = (settings.get("ACME_BASE_URL", "") or "https://api.acme.example/v1").rstrip("/")
        self.default_model = settings.get("ACME_MODEL", "") or "acme-1"

    def missing(self) -> str:
        """The key, if it is not set."""
        return "" if self._key else "ACME_API_KEY is not set"

    def model_info(self, model: str) -> ModelInfo:
        """All of Acme's models see."""
        return ModelInfo(model, capabilities=frozenset({Capability.VISION, Capability.JSON}))

    def models(self, http: httpx.Client) -> list[ModelInfo]:
        """As the vendor lists them."""
        try:
            with http.stream("GET", f"{self.base_url}/models", headers=self._headers(), timeout=5) as response:
                body = at_most(response, _BODY_BYTES)
                if not response.is_success:
                    raise self._error(response, body)
                return [self.model_info(str(entry["id"])) for entry in json.loads(body)["data"]]
        except httpx.HTTPError as exc:
            raise error_for_network(self.label, exc) from exc
        except (ValueError, KeyError, TypeError, RecursionError) as exc:
            raise Unavailable("Acme does not list its models.") from exc

    def check(self, http: httpx.Client) -> Health:
        """By the list of models."""
        try:
            return Health(True, f"Acme answers; {len(self.models(http))} models.")
        except ProviderError as exc:
            return Health(False, exc.message, cure="Check ACME_BASE_URL and ACME_API_KEY.")

    def stream(self, call: TextCall, http: httpx.Client) -> Iterator[Text | Usage]:
        """One call, always streamed."""
        body: dict[str, Any] = {
            "model": call.model,
            "messages": [{"role": turn.role.value, "content": _content(turn)} for turn in call.turns],
            "max_tokens": call.max_output_tokens,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if call.output is not None:
            words = f"Answer in JSON: {json.dumps(call.output.schema)}"
            body["messages"].insert(0, {"role": "system", "content": words})
        content = json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")
        url = f"{self.base_url}/chat/completions"
        try:
            with http.stream("POST", url, content=content, headers=self._headers(), timeout=call.timeout_s) as response:
                if not response.is_success:
                    raise self._error(response, at_most(response, _BODY_BYTES))
                yield from self._read(response)
        except httpx.HTTPError as exc:
            raise error_for_network(self.label, exc) from exc

    # -- parts -----------------------------------------------------------------------------------------------------
    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._key}", "Content-Type": "application/json"}

    def _error(self, response: httpx.Response, body: bytes) -> ProviderError:
        words = body.decode("utf-8", "replace")
        unpaid = response.status_code == 429 and "insufficient_quota" in words
        return error_for_status(
            self.label,
            response.status_code,
            words,
            vendor_words(words, (self._key,)),
            retry_after_s=retry_after_s(response.headers),
            no_credit=unpaid,
        )

    def _read(self, response: httpx.Response) -> Iterator[Text | Usage]:
        flow, finish, model = TextFlow(), "", ""
        told: Mapping[str, Any] = {}
        try:
            for event in _events(response):
                if event.get("error"):
                    raise self._failure(str(event["error"]))
                told = event.get("usage") if isinstance(event.get("usage"), dict) else told
                model = event["model"] if isinstance(event.get("model"), str) else model
                for choice in event.get("choices") or ():
                    said = choice["delta" if "delta" in choice else "message"].get("content")
                    if isinstance(said, str) and (piece := flow.feed(said)):
                        yield Text(piece)
                    finish = choice.get("finish_reason") or finish
        except (ValueError, AttributeError, KeyError, TypeError, RecursionError):
            raise MalformedAnswer("What Acme sent is not a valid answer.") from None
        if piece := flow.feed("", last=True):
            yield Text(piece)
        if not flow.visible or not finish:
            raise MalformedAnswer("What Acme sent is not a whole answer.")
        yield _usage(told, vendor_id(model), Finish.LENGTH if finish == "length" else Finish.STOP)

    def _failure(self, words: str) -> ProviderError:
        kind = ContextTooLong if about_length(words) else Unavailable
        return kind("Acme broke off its answer.", detail=vendor_words(words, (self._key,)))


def _events(response: httpx.Response) -> Iterator[Any]:
    """The events of a stream, or the one document of a server that does not stream."""
    if response.headers.get("content-type", "").startswith("application/json"):
        yield json.loads(at_most(response, _BODY_BYTES, strict=True))
        return
    for _, data in sse_events(lines(response.iter_bytes())):
        if data == b"[DONE]":
            return
        yield json.loads(data)


def _content(turn: Turn) -> object:
    if not turn.pictures:
        return turn.text
    urls = [f"data:{seen.media_type};base64,{base64.b64encode(seen.data).decode()}" for seen in turn.pictures]
    return [*({"type": "image_url", "image_url": {"url": url}} for url in urls), {"type": "text", "text": turn.text}]


def _usage(told: Mapping[str, Any], model: str, finish: Finish) -> Usage:
    def part(details: str, name: str, whole: str) -> int:
        found = told.get(details)
        return token_part(found.get(name) if isinstance(found, dict) else None, told.get(whole))

    return Usage(
        input_tokens=token_count(told.get("prompt_tokens")),
        output_tokens=token_count(told.get("completion_tokens")),
        cached_tokens=part("prompt_tokens_details", "cached_tokens", "prompt_tokens"),
        reasoning_tokens=part("completion_tokens_details", "reasoning_tokens", "completion_tokens"),
        finish=finish,
        model=model,
    )


@hookimpl
def register_providers(settings: Mapping[str, str]) -> list[TextProvider]:
    """Acme."""
    return [AcmeProvider(settings)]
