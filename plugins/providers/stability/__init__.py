"""Stability AI's image models. Every call is a form, answered whole; the account's credits are told for nothing."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from decimal import Decimal

import httpx

from plugins.providers.stability import wire
from webapp.plugin import (
    ContextTooLong,
    Drawn,
    Finish,
    Health,
    ImageCall,
    ImageProvider,
    MalformedAnswer,
    ModelInfo,
    Progress,
    ProviderError,
    RefusedByPolicy,
    Rejected,
    Usage,
    Variable,
    VariableKind,
    at_most,
    error_for_network,
    error_for_status,
    hookimpl,
    is_usable_url,
    retry_after_s,
    vendor_id,
    vendor_words,
)

BASE_URL = "https://api.stability.ai"
DEFAULT_MODEL = "core"
CONNECT_S = 5.0
CHECK_S = 5.0
_SMALL_BYTES = 65_536
_CALL_ERRORS = (httpx.HTTPError, httpx.StreamError, httpx.InvalidURL)
_PROMPT_TOO_LONG = re.compile(r"prompt.*(at most|longer than|too long|max)", re.I)


class Stability(ImageProvider):
    """Stability AI's `v2beta` API."""

    name = "stability"
    label = "Stability AI"
    price_as = "stability"
    preference = 30
    environment = (
        Variable("STABILITY_API_KEY", "API key for Stability AI.", secret=True),
        Variable("STABILITY_BASE_URL", "Address of Stability AI's API.", default=BASE_URL, kind=VariableKind.URL),
        Variable(
            "STABILITY_MODEL",
            "Model for pictures at Stability AI.",
            default=DEFAULT_MODEL,
            kind=VariableKind.MODEL,
            choices=tuple(wire.MODELS),
        ),
    )

    def __init__(self, settings: Mapping[str, str]) -> None:
        self._key = settings.get("STABILITY_API_KEY", "").strip()
        self.base_url = (settings.get("STABILITY_BASE_URL", "").strip() or BASE_URL).rstrip("/")
        self.default_model = settings.get("STABILITY_MODEL", "").strip() or DEFAULT_MODEL
        self._headers = {"Authorization": f"Bearer {self._key}", "Accept": "application/json"}

    def missing(self) -> str:
        """A variable that is not set or cannot be right; '' if a call may be tried."""
        if not self._key:
            return "STABILITY_API_KEY is not set"
        if not is_usable_url(self.base_url):
            return "STABILITY_BASE_URL is not an http or https address without user and password"
        if not (self._key.isascii() and self._key.isprintable()):
            return "STABILITY_API_KEY holds characters that cannot be sent in a header"
        if self.default_model not in wire.MODELS:
            return f"STABILITY_MODEL is none of {', '.join(wire.MODELS)}"
        return ""

    def model_info(self, model: str) -> ModelInfo:
        """A model's name, and its price in credits."""
        if found := wire.MODELS.get(model):
            return ModelInfo(model, found.label, note=f"{found.credits} credits for a picture, as of {wire.PRICES_AS_OF}.")
        return ModelInfo(model)

    # -- a call ----------------------------------------------------------------------------------------------------
    def draw(self, call: ImageCall, http: httpx.Client) -> Iterator[Progress | Drawn | Usage]:
        """One picture, then its price in credits. A picture that was filtered is not charged."""
        if call.action is not None:
            raise Rejected(f"{self.label} offers nothing to be done with a finished picture.")
        model = wire.MODELS.get(call.model or self.default_model)
        if model is None:
            raise Rejected(f"{self.label} has no such model here: use one of {', '.join(wire.MODELS)}.")
        body, request_id = self._accepted(call, model, http)
        try:
            picture = wire.drawn(body)
        except wire.Filtered as exc:
            raise RefusedByPolicy(
                f"{self.label} filtered the picture because of what it would show.",
                detail=str(exc),
                usage=Usage(finish=Finish.FILTERED, model=model.id, vendor_request_id=request_id),
            ) from exc
        except ValueError as exc:
            raise MalformedAnswer(
                f"What {self.label} sent is not a valid answer.",
                detail=self._words(f"{exc}; it began: {body[:120].decode('utf-8', 'replace')}"),
            ) from exc
        yield picture
        yield Usage(pictures=1, credits=model.credits, finish=Finish.STOP, model=model.id, vendor_request_id=request_id)

    def _accepted(self, call: ImageCall, model: wire.Model, http: httpx.Client) -> tuple[bytes, str]:
        """The body of an answer that is a success, and the call's id at the vendor."""
        fields, source = wire.form(call, model, self.label)
        request = http.build_request(
            "POST",
            f"{self.base_url}/v2beta/stable-image/generate/{model.endpoint}",
            data=fields,
            # A form without a file would be sent in another encoding, which the vendor does not read.
            files={"image": source} if source else {"none": (None, b"")},
            headers=self._headers,
            timeout=httpx.Timeout(call.timeout_s, connect=min(CONNECT_S, call.timeout_s)),
            extensions={"max_bytes": wire.ANSWER_BYTES},
        )
        request.read()  # a body in memory can be sent again where a kept-alive connection turns out to be closed
        with self._answers(request, http) as response:
            if not response.is_success:
                raise self._failure(response)
            return self._whole(response), vendor_id(response.headers.get("x-request-id", ""))

    @contextlib.contextmanager
    def _answers(self, request: httpx.Request, http: httpx.Client) -> Iterator[httpx.Response]:
        try:
            with contextlib.closing(http.send(request, stream=True)) as response:
                yield response
        except _CALL_ERRORS as exc:
            raise error_for_network(self.label, exc) from exc

    def _whole(self, response: httpx.Response) -> bytes:
        pieces, size = [], 0
        for piece in response.iter_bytes():
            pieces.append(piece)
            size += len(piece)
            if size > wire.ANSWER_BYTES:
                raise MalformedAnswer(f"{self.label}'s answer is larger than any picture may be.")
        return b"".join(pieces)

    def _failure(self, response: httpx.Response) -> ProviderError:
        words = wire.complaint(at_most(response, _SMALL_BYTES))
        status, detail = response.status_code, self._words(words)
        if status == 400 and _PROMPT_TOO_LONG.search(words):
            return ContextTooLong(f"This is more text than {self.label} reads.", status=status, detail=detail)
        return error_for_status(self.label, status, words, detail, retry_after_s=retry_after_s(response.headers))

    def _words(self, text: str) -> str:
        return vendor_words(text, (self._key,))

    # -- what the vendor offers ------------------------------------------------------------------------------------
    def models(self, http: httpx.Client) -> list[ModelInfo]:  # noqa: ARG002 - the vendor lists none for this API
        """The models that this plugin knows: the vendor has no list."""
        return [self.model_info(name) for name in wire.MODELS]

    def check(self, http: httpx.Client) -> Health:
        """Ask for the balance, which is free."""
        if missing := self.missing():
            return Health(False, f"{missing}.", cure="Set it in the settings or in the environment.")
        try:
            left = self._balance(http)
        except ProviderError as exc:
            where = "Check STABILITY_API_KEY and STABILITY_BASE_URL."
            return Health(False, f"{exc.message} {exc.detail}".strip(), cure=where)
        told = f"{left.normalize():,f} credits"
        price = wire.MODELS[self.default_model].credits
        if left < price:
            detail = f"{self.label} answers, but a picture by {self.default_model} costs {price} credits."
            return Health(False, detail, cure="Buy credits there.", balance=told)
        return Health(True, f"{self.label} answers; {self.default_model} draws by default.", balance=told)

    def _balance(self, http: httpx.Client) -> Decimal:
        request = http.build_request(
            "GET",
            f"{self.base_url}/v1/user/balance",
            headers=self._headers,
            timeout=CHECK_S,
            extensions={"max_bytes": _SMALL_BYTES},
        )
        with self._answers(request, http) as response:
            if not response.is_success:
                raise self._failure(response)
            return wire.balance(at_most(response, _SMALL_BYTES, strict=True), self.label)


@hookimpl
def register_providers(settings: Mapping[str, str]) -> list[ImageProvider]:
    """The one provider; it says so itself where its key is not set."""
    return [Stability(settings)]
