"""OpenAI's image models: one JSON call for a new picture, a multipart one for a picture to start from."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping

import httpx

from plugins.providers.openai_images import wire
from plugins.providers.openai_images.failures import Complaint
from webapp.plugin import (
    Drawn,
    Health,
    ImageCall,
    ImageProvider,
    MalformedAnswer,
    ModelInfo,
    Progress,
    ProviderError,
    Rejected,
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

BASE_URL = "https://api.openai.com/v1"
DEFAULT_MODEL = "gpt-image-2"
CONNECT_S = 5.0
CHECK_S = 5.0
_ERROR_BYTES = 65_536
_LIST_BYTES = 4 * 1024 * 1024
_LEARNED_MODELS = 1000
_HEADERS = (("OpenAI-Organization", "OPENAI_ORG_ID"), ("OpenAI-Project", "OPENAI_PROJECT_ID"))
_CALL_ERRORS = (httpx.HTTPError, httpx.StreamError, httpx.InvalidURL)
# When OpenAI switches models off, as announced up to 2026-11-21.
_ENDS = {
    "gpt-image-1": "Switched off on 2026-10-23.",
    "gpt-image-1.5": "Ends on 2026-12-01.",
    "gpt-image-1-mini": "Ends on 2026-12-01.",
    "chatgpt-image-latest": "Ends on 2026-12-01.",
}


class OpenAIImages(ImageProvider):
    """OpenAI's image API, with the key and address of the text provider of the same name."""

    name = "openai"
    label = "OpenAI"
    price_as = "openai"
    preference = 10
    environment = (
        Variable("OPENAI_API_KEY", "API key for OpenAI.", secret=True),
        Variable("OPENAI_BASE_URL", "Address of OpenAI's API.", default=BASE_URL, kind=VariableKind.URL),
        Variable("OPENAI_IMAGE_MODEL", "Model for pictures at OpenAI.", default=DEFAULT_MODEL, kind=VariableKind.MODEL),
        *(
            Variable(name, f"{header.rpartition('-')[2]} at OpenAI, for an account that has several.")
            for header, name in _HEADERS
        ),
    )

    def __init__(self, settings: Mapping[str, str]) -> None:
        self._key = settings.get("OPENAI_API_KEY", "").strip()
        self.base_url = (settings.get("OPENAI_BASE_URL", "").strip() or BASE_URL).rstrip("/")
        self.default_model = settings.get("OPENAI_IMAGE_MODEL", "").strip() or DEFAULT_MODEL
        self._headers = {"Authorization": f"Bearer {self._key}", "Accept": "application/json"}
        for header, variable in _HEADERS:
            if value := settings.get(variable, "").strip():
                self._headers[header] = value
        self._learned: dict[str, frozenset[str]] = {}

    def missing(self) -> str:
        """A variable that is not set or cannot be right; '' if a call may be tried."""
        if not self._key:
            return "OPENAI_API_KEY is not set"
        if not is_usable_url(self.base_url):
            return "OPENAI_BASE_URL is not an http or https address without user and password"
        if any(not (value.isascii() and value.isprintable()) for value in self._headers.values()):
            return "OPENAI_API_KEY, OPENAI_ORG_ID or OPENAI_PROJECT_ID holds characters that cannot be sent in a header"
        return ""

    def model_info(self, model: str) -> ModelInfo:
        """The day a model is switched off, where it is known."""
        return ModelInfo(model, note=_ENDS.get(model, ""))

    # -- a call ----------------------------------------------------------------------------------------------------
    def draw(self, call: ImageCall, http: httpx.Client) -> Iterator[Progress | Drawn | Usage]:
        """One picture and its usage. There is no progress: the answer comes whole, after a minute or two."""
        if call.action is not None:
            raise Rejected(f"{self.label} offers nothing to be done with a finished picture.")
        if call.source is not None and call.source.media_type not in wire.SOURCE_TYPES:
            raise Rejected(f"{self.label} starts from PNG, JPEG or WebP pictures only.")
        model = call.model or self.default_model
        body, request_id = self._accepted(call, model, http)
        answer: dict[str, object] = {}
        try:
            answer = wire.document(body)
            if answer.get("error"):
                raise self._error_in(answer)
            pictures = wire.drawn(answer)
        except ValueError as exc:
            raise MalformedAnswer(
                f"What {self.label} sent is not a valid answer.",
                detail=self._words(f"{exc}; it began: {body[:120].decode('utf-8', 'replace')}"),
                usage=wire.usage(answer, model, 0, request_id) if answer.get("usage") else None,
            ) from exc
        yield from pictures
        yield wire.usage(answer, model, len(pictures), request_id)

    def _accepted(self, call: ImageCall, model: str, http: httpx.Client) -> tuple[bytes, str]:
        """The body of a call that the vendor accepts, and the call's id there. A field that a model refuses is left out from
        then on."""
        while True:
            sent = wire.fields(call, model, self._learned.get(model, frozenset()))
            with self._answers(self._request(call, sent, http), http) as response:
                if response.is_success:
                    return self._whole(response), response.headers.get("x-request-id", "")
                said, failure = self._failure(response)
            refused = said.refused_field() if failure.status in (400, 422) else ""
            if refused not in sent:
                raise failure
            self._leave_out(model, refused)

    def _request(self, call: ImageCall, sent: Mapping[str, object], http: httpx.Client) -> httpx.Request:
        timeout = httpx.Timeout(call.timeout_s, connect=min(CONNECT_S, call.timeout_s))
        extensions = {"max_bytes": wire.ANSWER_BYTES}
        if call.source is None:
            return http.build_request(
                "POST",
                f"{self.base_url}/images/generations",
                content=json.dumps(sent, ensure_ascii=False).encode(),
                headers=self._headers | {"Content-Type": "application/json"},
                timeout=timeout,
                extensions=extensions,
            )
        file = (f"source.{wire.SOURCE_TYPES[call.source.media_type]}", call.source.data, call.source.media_type)
        request = http.build_request(
            "POST",
            f"{self.base_url}/images/edits",
            data={name: str(value) for name, value in sent.items()},
            files={"image": file},
            headers=self._headers,
            timeout=timeout,
            extensions=extensions,
        )
        request.read()  # a body in memory can be sent again where a kept-alive connection turns out to be closed
        return request

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

    def _leave_out(self, model: str, refused: str) -> None:
        if len(self._learned) >= _LEARNED_MODELS:
            self._learned.clear()
        self._learned[model] = self._learned.get(model, frozenset()) | {refused}

    def _failure(self, response: httpx.Response) -> tuple[Complaint, ProviderError]:
        said = Complaint.parse(at_most(response, _ERROR_BYTES))
        wait_s = retry_after_s(response.headers)
        return said, said.error(self.label, response.status_code, self._words(said.words.strip()), wait_s)

    def _error_in(self, answer: Mapping[str, object]) -> ProviderError:
        """For an `error` inside an answer that began as a success, as some servers between us and the vendor send it."""
        said = Complaint.read(answer)
        error = said.error(self.label, 400, self._words(said.words.strip()), None)
        if type(error) is Rejected and "invalid_request" not in said.kind:
            return Unavailable(f"{self.label} has trouble.", detail=error.detail)
        error.status = None
        return error

    def _words(self, text: str) -> str:
        return vendor_words(text, (self._key,))

    # -- what the vendor offers ------------------------------------------------------------------------------------
    def models(self, http: httpx.Client) -> list[ModelInfo]:
        """The listed models that draw."""
        return [self.model_info(name) for name in self._listed(http) if "image" in name or "dall-e" in name]

    def check(self, http: httpx.Client) -> Health:
        """List the models, and look for the one that would be used."""
        if missing := self.missing():
            return Health(False, f"{missing}.", cure="Set it in the settings or in the environment.")
        try:
            names = self._listed(http)
        except ProviderError as exc:
            where = "Check OPENAI_API_KEY and OPENAI_BASE_URL."
            return Health(False, f"{exc.message} {exc.detail}".strip(), cure=where)
        if self.default_model not in names:
            drawing = ", ".join(sorted(name for name in names if "image" in name)[:10])
            cure = f"Set OPENAI_IMAGE_MODEL to one of: {drawing}." if drawing else "Ask for access to an image model there."
            # Who only wants texts of this vendor has nothing to mend.
            return Health(True, f"{self.label} answers, but does not list {self.default_model}: no pictures. {cure}", cure=cure)
        note = self.model_info(self.default_model).note
        return Health(True, f"{self.label} answers; {self.default_model} draws by default. {note}".strip())

    def _listed(self, http: httpx.Client) -> list[str]:
        request = http.build_request(
            "GET", f"{self.base_url}/models", headers=self._headers, timeout=CHECK_S, extensions={"max_bytes": _LIST_BYTES}
        )
        with self._answers(request, http) as response:
            if not response.is_success:
                raise self._failure(response)[1]
            body = at_most(response, _LIST_BYTES, strict=True)
        try:
            entries = wire.document(body).get("data")
        except ValueError as exc:
            raise Unavailable(f"{self.label} does not list its models.", detail="the list is not JSON") from exc
        if not isinstance(entries, list):
            raise Unavailable(f"{self.label} does not list its models.", detail="the list has no `data`")
        return [vendor_id(e["id"]) for e in entries if isinstance(e, dict) and isinstance(e.get("id"), str) and e["id"]]


@hookimpl
def register_providers(settings: Mapping[str, str]) -> list[ImageProvider]:
    """The one provider; it says so itself where its key is not set."""
    return [OpenAIImages(settings)]
