"""Ollama's chat format: pure functions from a call to a body, and from an answer's bytes to text, tool calls and usage.

Source: Ollama's API documentation and server code, August 2026. An answer is a JSON object a line; the last one has
`done: true` and the counts. A failure in the middle is a line with `error`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from plugins.providers.ollama.failures import LABEL, from_line, malformed, plain_words
from plugins.providers.ollama.turns import messages, offered
from webapp.plugin import (
    ANSWER_CHARS,
    Finish,
    JsonOutput,
    MalformedAnswer,
    Role,
    Text,
    TextCall,
    TextFlow,
    ToolFlow,
    ToolPiece,
    Turn,
    Usage,
    lines,
    token_count,
    vendor_id,
    vendor_words,
)

CONTEXT_MIN = 4096
CONTEXT_MAX = 1024 * 1024
_BYTES_PER_TOKEN = 3
_PICTURE_TOKENS = 2048
_WHOLE_BYTES = 4 * ANSWER_CHARS
_FINISH = {"stop": Finish.STOP, "length": Finish.LENGTH}


def to_wire(call: TextCall, model: str, *, context: int | None, without: frozenset[str]) -> dict[str, object]:
    """The body of a call. `context` is how many tokens the model reads, None if unknown; `without` names optional fields
    that it refused before."""
    turns = _asking_for_json(call.turns, call.output) if call.output else call.turns
    tools, wish = offered(call)
    options: dict[str, object] = {"num_predict": call.max_output_tokens, "num_ctx": context_needed(call, context)}
    if call.temperature is not None:
        options["temperature"] = call.temperature
    if call.top_p is not None:
        options["top_p"] = call.top_p
    if call.stop:
        options["stop"] = list(call.stop)
    body: dict[str, object] = {
        "model": model,
        "messages": [*messages(turns), *wish],
        "stream": not call.whole,
        # Without it the oldest turns are left out in silence where the text is longer than the context.
        "truncate": False,
        # Models that can think do so unless told otherwise, and would use up the cap of a short answer.
        "think": False,
        "options": options,
    }
    if tools:
        body["tools"] = tools
    if call.output:
        body["format"] = "json" if call.output.schema is None else dict(call.output.schema)
    return {name: value for name, value in body.items() if name not in without} if without else body


def _asking_for_json(turns: tuple[Turn, ...], output: JsonOutput) -> tuple[Turn, ...]:
    """The turns with a request for JSON behind the last of the person's own. Ollama's documentation asks for one: `format`
    only forbids other tokens, and a model that does not know what is wanted writes blanks without end."""
    wanted = "Answer with one JSON object and nothing else."
    if output.schema is not None:
        schema = json.dumps(output.schema, ensure_ascii=False, separators=(",", ":"))
        wanted = f"Answer with one JSON object and nothing else. It has to fit this JSON Schema: {schema}"
    at = max((place for place, turn in enumerate(turns) if turn.role is Role.USER), default=None)
    if at is None:
        return (*turns, Turn(Role.USER, wanted))
    asked = Turn(Role.USER, f"{turns[at].text}\n\n{wanted}", turns[at].pictures)
    return (*turns[:at], asked, *turns[at + 1 :])


def context_needed(call: TextCall, known: int | None) -> int:
    """`num_ctx` for a call: room for what is sent, estimated high, and for the whole answer.

    A power of two of at least 4096, because the server loads the model anew for every other size; at most what the model
    reads. Bytes are counted, not characters: outside ASCII a character is often a token of its own.
    """
    sent = sum(len(turn.text.encode("utf-8", "replace")) for turn in call.turns)
    for said in (f"{wish.name}{wish.arguments}" for turn in call.turns for wish in turn.tool_calls):
        sent += len(said.encode("utf-8", "replace"))
    for tool in call.tools:
        sent += len(json.dumps([tool.name, tool.description, dict(tool.parameters or {})]))
    if call.output is not None and call.output.schema is not None:
        sent += len(json.dumps(call.output.schema))
    pictures = sum(len(turn.pictures) for turn in call.turns)
    needed = math.ceil(sent / _BYTES_PER_TOKEN) + pictures * _PICTURE_TOKENS + max(call.max_output_tokens, 0)
    size = min(max(CONTEXT_MIN, 1 << max(needed - 1, 0).bit_length()), CONTEXT_MAX)
    return min(size, known) if known else size


_encoder = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


def encode(body: Mapping[str, object]) -> bytes:
    """JSON as UTF-8; what cannot be encoded becomes a question mark."""
    return _encoder.encode(body).encode("utf-8", "replace")


class Answer:
    """Reads one answer: feed its bytes to `read`, which yields `Text` and `ToolPiece`s and then one `Usage`."""

    def __init__(self, model: str, secret: str = "", request_id: str = "", *, tools: bool = False) -> None:
        """`tools`: whether any were offered."""
        self._asked_model = self._model = model
        self._secret = secret
        self._request_id = request_id
        self._flow = TextFlow()
        self._end: Mapping[str, Any] | None = None
        self._thought = False
        self._called_tool = False
        self._tools = ToolFlow() if tools else None

    def read(self, pieces: Iterable[bytes]) -> Iterator[Text | ToolPiece | Usage]:
        """Raises the `ProviderError` family; what the network raises passes through."""
        try:
            for chunk in self._chunks(lines(pieces)):
                yield from self._chunk(chunk)
                if self._end is not None:
                    break
            if ready := self._flow.feed("", last=True):
                yield Text(ready)
        except ValueError as exc:
            raise malformed(vendor_words(str(exc), (self._secret,))) from exc
        yield self._usage_or_reason()

    def _chunks(self, source: Iterable[bytes]) -> Iterator[Mapping[str, Any]]:
        """The objects of the stream; or the one object of a server that does not stream and lays it out over lines."""
        laid_out: list[bytes] = []
        size = 0
        first = True
        for line in source:
            if first:
                line = line.removeprefix(b"\xef\xbb\xbf")  # a byte order mark
            if not line.strip():
                continue
            if not laid_out:
                try:
                    chunk = json.loads(line)
                except (ValueError, RecursionError) as exc:
                    if not (first and line.lstrip().startswith(b"{")):
                        raise self._not_json(line, exc) from exc
                else:
                    first = False
                    yield self._object(chunk, line)
                    continue
            laid_out.append(line)
            size += len(line)
            if size > _WHOLE_BYTES:
                raise ValueError("the answer is too large")
        if laid_out:
            whole = b"\n".join(laid_out)
            try:
                yield self._object(json.loads(whole), whole)
            except RecursionError as exc:
                raise ValueError("the answer is nested too deeply") from exc

    def _object(self, value: object, line: bytes) -> Mapping[str, Any]:
        if not isinstance(value, dict):
            raise self._not_json(line)
        return value

    def _not_json(self, line: bytes, exc: Exception | None = None) -> ValueError:
        # Once the answer is under way, a line may hold what the person reads: it is not for a log. The key is taken out
        # before the line is cut: a cut through it would leave a part.
        words = vendor_words(line[:2000].decode("utf-8", "replace"), (self._secret,))[:200]
        seen = "" if self._flow.visible else f"; it begins: {words}"
        return ValueError(f"a line of the answer is not a JSON object{f' ({type(exc).__name__})' if exc else ''}{seen}")

    def _chunk(self, chunk: Mapping[str, Any]) -> Iterator[Text | ToolPiece]:
        if error := chunk.get("error"):
            words = plain_words(error)
            raise from_line(words, vendor_words(words, (self._secret,)), model=self._asked_model)
        if isinstance(chunk.get("model"), str):
            self._model = chunk["model"]
        message = chunk.get("message")
        if isinstance(message, dict):
            self._thought = self._thought or bool(message.get("thinking"))
            content = message.get("content")
            if isinstance(content, str) and (ready := self._flow.feed(content)):
                yield Text(ready)
            if wishes := message.get("tool_calls"):
                self._called_tool = True
                yield from self._wishes(wishes)
        if chunk.get("done") is True:
            self._end = chunk

    def _wishes(self, wishes: object) -> Iterator[ToolPiece]:
        """Each comes complete, with its arguments as an object."""
        if self._tools is None:
            return
        if not isinstance(wishes, list):
            raise ValueError("the tool calls are not a list")
        for wish in wishes:
            function = wish.get("function") if isinstance(wish, dict) else None
            if not isinstance(function, dict):
                raise ValueError("a tool call is not one of a function")
            yield from self._tools.call(function.get("name"), wish.get("id"), function.get("arguments"))

    def _usage_or_reason(self) -> Usage:
        """The usage record; raises where what came is no answer."""
        if self._end is None:
            raise malformed("the answer ended before its end marker")
        reason = self._end.get("done_reason")
        finish = _FINISH.get(reason, Finish.UNKNOWN) if isinstance(reason, str) else Finish.UNKNOWN
        if self._called_tool and finish is not Finish.LENGTH:
            finish = Finish.TOOL
        usage = Usage(
            # Left out where the whole prompt was still in memory: unknown, not nothing.
            input_tokens=token_count(self._end.get("prompt_eval_count")),
            output_tokens=token_count(self._end.get("eval_count")),
            finish=finish,
            model=vendor_id(self._model),
            vendor_request_id=vendor_id(self._request_id),
        )
        if not self._flow.visible and not (self._tools is not None and self._tools.count):
            raise self._nothing_said(usage, vendor_words(str(reason), (self._secret,)))
        return usage

    def _nothing_said(self, usage: Usage, reason: str) -> MalformedAnswer:
        if usage.finish is Finish.LENGTH:
            message = f"{LABEL}'s model used up the cap on output tokens before it said anything: allow more tokens."
        elif self._called_tool:
            message = f"{LABEL}'s model asked for a tool that it was not offered."
        else:
            message = f"{LABEL} sent an empty answer."
        thought = "; it thought instead" if self._thought else ""
        return MalformedAnswer(message, detail=f"done_reason: {reason}{thought}", usage=usage)
