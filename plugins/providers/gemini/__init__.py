"""Google Gemini, the Developer API: text and pictures with one key. Both providers are named `gemini`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import httpx

from plugins.providers.gemini import images, names, wire
from plugins.providers.gemini.answer import Answer
from plugins.providers.gemini.api import Gemini
from webapp.plugin import (
    Drawn,
    ImageCall,
    ImageProvider,
    Progress,
    Provider,
    Text,
    TextCall,
    TextProvider,
    Usage,
    error_for_network,
    hookimpl,
)

_STREAM_BYTES = 64 * 1024 * 1024


class GeminiText(Gemini, TextProvider):
    """Gemini's text models. They read pictures and can be held to a JSON Schema."""

    model_variable = "GEMINI_MODEL"
    first_model = "gemini-3.5-flash-lite"

    def serves(self, model: str) -> bool:
        """Models whose answers are texts."""
        return names.writes(model)

    def stream(self, call: TextCall, http: httpx.Client) -> Iterator[Text | Usage]:
        """Always asks for a stream; takes a whole answer or an array from a server in between that does not stream."""
        model = names.bare(call.model) or self.default_model
        answer = Answer(self.label, self._key)
        try:
            with self._accepted(
                http,
                model,
                "streamGenerateContent?alt=sse",
                lambda without: wire.to_wire(self.label, call, model, without),
                timeout_s=call.timeout_s,
                max_bytes=_STREAM_BYTES,
            ) as response:
                yield from answer.read(response.iter_bytes())
        except (httpx.HTTPError, httpx.StreamError, httpx.InvalidURL) as exc:
            error = error_for_network(self.label, exc)
            error.usage = answer.counted()
            raise error from exc


class GeminiImages(Gemini, ImageProvider):
    """Gemini's image models. They take a picture to start from; shapes and sizes are the nearest that they know."""

    model_variable = "GEMINI_IMAGE_MODEL"
    first_model = "gemini-3.1-flash-image"

    def serves(self, model: str) -> bool:
        """Models that make pictures."""
        return names.draws(model)

    def draw(self, call: ImageCall, http: httpx.Client) -> Iterator[Progress | Drawn | Usage]:
        """Yields no `Progress`: Gemini sends a picture when it is finished."""
        model = names.bare(call.model) or self.default_model
        try:
            with self._accepted(
                http,
                model,
                "generateContent",
                lambda without: images.to_wire(self.label, call, model, without),
                timeout_s=call.timeout_s,
                max_bytes=images.BODY_BYTES,
            ) as response:
                yield from images.ImageAnswer(self.label, self._key).read(response.iter_bytes())
        except (httpx.HTTPError, httpx.StreamError, httpx.InvalidURL) as exc:
            raise error_for_network(self.label, exc) from exc


@hookimpl
def register_providers(settings: Mapping[str, str]) -> list[Provider]:
    """The text provider and the image provider."""
    return [GeminiText(settings), GeminiImages(settings)]
