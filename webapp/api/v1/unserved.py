"""Routes of OpenAI's API that are not served here: a clear word instead of a riddle."""

from __future__ import annotations

from flask import Response

from webapp.api.v1 import ground
from webapp.api.v1.calls import BadCall

blueprint = ground.group("unserved")

_INSTEAD = {
    "embeddings": "no provider here makes embeddings: ask the vendor itself",
    "completions": "use POST /v1/chat/completions with the prompt as a message of the user",
    "responses": "use POST /v1/chat/completions, which the same clients speak",
    "moderations": "use POST /v1/chat/completions with your own question about the text",
    "images/edits": "use POST /v1/images/generations, or POST /api/generation-requests with a picture",
    "images/variations": "use POST /v1/images/generations, or POST /api/generation-requests with a picture",
    "messages/batches": "use POST /api/batches",
    "batches": "use POST /api/batches",
    "files": "send pictures in the body of the call itself, as data URLs",
}


def _add(name: str) -> None:
    def unserved(rest: str = "") -> Response:
        raise _refused(f"{name}/{rest}".rstrip("/"), _INSTEAD[name])

    for place in (f"/{name}", f"/{name}/<path:rest>"):
        blueprint.add_url_rule(place, f"unserved_{name.replace('/', '_')}", unserved, methods=["GET", "POST", "DELETE"])


for _name in _INSTEAD:
    _add(_name)


@blueprint.route("/audio/<path:rest>", methods=["POST"])
def audio(rest: str) -> Response:
    """Neither speech nor transcription."""
    raise _refused(f"audio/{rest}", "sound is neither made nor read here: ask the vendor itself")


def _refused(name: str, instead: str) -> BadCall:
    return BadCall(f"/v1/{name[:80]} is not served here: {instead}.", code="unsupported_endpoint", status=404)
