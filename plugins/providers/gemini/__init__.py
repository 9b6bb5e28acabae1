"""Google Gemini, the Developer API: text and pictures with one key. Both providers are named `gemini`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import httpx

from plugins.providers.gemini import images, names, wire
from plugins.providers.gemini.answer import Answer
from plugins.providers.gemini.api import Gemini
from webapp.plugin import (
    Capability,
    Drawn,
    ImageCall,
    ImageProvider,
    Progress,
    Provider,
    Rejected,
    Text,
    TextCall,
    TextProvider,
    ToolPiece,
    Usage,
    error_for_network,
    hookimpl,
)

_STREAM_BYTES = 64 * 1024 * 1024


class GeminiText(Gemini, TextProvider):
    """Gemini's text models. They read pictures, ask for tools and can be held to a JSON Schema."""

    model_variable = "GEMINI_MODEL"
    first_model = "gemini-3.5-flash-lite"

    def serves(self, model: str) -> bool:
        """Models whose answers are texts."""
        return names.writes(model)

    def stream(self, call: TextCall, http: httpx.Client) -> Iterator[Text | ToolPiece | Usage]:
        """Asks for a stream, or for a whole answer where the call wants that; takes either, or an array, from any server."""
        model = names.bare(call.model) or self.default_model
        if call.tools:
            self._refuse_unable(model)
        answer = Answer(self.label, self._key, tools=bool(call.tools))
        try:
            with self._accepted(
                http,
                model,
                "generateContent" if call.whole else "streamGenerateContent?alt=sse",
                lambda without: wire.to_wire(self.label, call, model, without),
                timeout_s=call.timeout_s,
                max_bytes=_STREAM_BYTES,
            ) as response:
                yield from answer.read(response.iter_bytes())
        except (httpx.HTTPError, httpx.StreamError, httpx.InvalidURL) as exc:
            error = error_for_network(self.label, exc)
            error.usage = answer.counted()
            raise error from exc

    def _refuse_unable(self, model: str) -> None:
        able = self.model_info(model).capabilities
        if able is not None and Capability.TOOLS not in able:
            raise Rejected(f"{model} at {self.label} does not take tools.")


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
