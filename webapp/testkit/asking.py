"""Calls as the core makes them, and what is asserted of every answer and of every failure."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import httpx
import pytest

from webapp.plugin import (
    Drawn,
    Finish,
    ImageCall,
    ImageProvider,
    Progress,
    ProviderError,
    Role,
    Text,
    TextCall,
    TextProvider,
    ToolCall,
    ToolPiece,
    Turn,
    Usage,
)
from webapp.routing.http import build_client, call_limits

UNICODE = "Grüße, 世界! 👩‍🚀 naïve — ok"
"""One to four bytes a character, and characters of several code points."""

PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c49444154789c63606060000000040001f61738550000"
    "000049454e44ae426082"
)
"""A PNG of one black pixel."""

_CALL_S = 20.0


def call(text: str = "Say hello to me", **changes: Any) -> TextCall:
    """A call with a system turn of two words and a turn of the person's; `changes` are fields of `TextCall`."""
    values: dict[str, Any] = {
        "request_id": "r1",
        "model": "fake-model",
        "turns": (Turn(Role.SYSTEM, "Be brief."), Turn(Role.USER, text)),
        "max_output_tokens": 200,
        "timeout_s": _CALL_S,
    }
    return TextCall(**(values | changes))


def image_call(prompt: str = "A lighthouse at dusk", **changes: Any) -> ImageCall:
    """A call for a picture; `changes` are fields of `ImageCall`."""
    values: dict[str, Any] = {"request_id": "r1", "model": "", "prompt": prompt, "timeout_s": _CALL_S}
    return ImageCall(**(values | changes))


@dataclass(slots=True)
class Outcome:
    """What became of a call: its pieces of text, tool calls or pictures as far as they came, then its usage or its error."""

    pieces: list[str] = field(default_factory=list)
    wishes: list[ToolCall] = field(default_factory=list)
    """The tools that were asked for, as far as they came."""
    pictures: list[Drawn] = field(default_factory=list)
    progress: list[int] = field(default_factory=list)
    usage: Usage | None = None
    error: ProviderError | None = None

    @property
    def text(self) -> str:
        """The whole text that came."""
        return "".join(self.pieces)


def run(
    provider: TextProvider | ImageProvider,
    http: httpx.Client,
    made: TextCall | ImageCall | None = None,
    *,
    timeout_s: float = _CALL_S,
    silence_s: float = 10.0,
) -> Outcome:
    """Make a call under the core's time limits. Whatever is raised but a `ProviderError` goes on to the test.

    Asserts what holds of every answer: texts that are not empty or pictures, then one usage and nothing behind it, or an
    error.
    """
    outcome = Outcome()
    stream = _started(provider, http, made)
    try:
        with call_limits(timeout_s, silence_s), closing(stream):
            for piece in stream:
                assert outcome.usage is None, "something came after the usage record"
                _note(outcome, piece, draws=isinstance(provider, ImageProvider))
    except ProviderError as exc:
        assert outcome.usage is None, "it failed after the usage record"
        outcome.error = exc
    if outcome.error is None:
        assert outcome.usage is not None, "it ended without a usage record"
        assert outcome.text.strip() or outcome.pictures or outcome.wishes, "no answer: raise MalformedAnswer or RefusedByPolicy"
        check_usage(outcome.usage)
    elif outcome.error.usage is not None:
        check_usage(outcome.error.usage)
    return outcome


def _started(provider: TextProvider | ImageProvider, http: httpx.Client, made: TextCall | ImageCall | None) -> Any:
    if isinstance(provider, ImageProvider):
        return provider.draw(cast("ImageCall", made or image_call()), http)
    return provider.stream(cast("TextCall", made or call()), http)


def _note(outcome: Outcome, piece: object, *, draws: bool) -> None:
    if isinstance(piece, Usage):
        outcome.usage = piece
    elif draws and isinstance(piece, Progress):
        assert 0 <= piece.percent <= 100
        outcome.progress.append(piece.percent)
    elif draws:
        assert isinstance(piece, Drawn), f"an image provider yields Progress, Drawn and Usage, not {piece!r}"
        assert piece.picture.data
        assert piece.picture.media_type in ("image/png", "image/jpeg", "image/gif", "image/webp")
        outcome.pictures.append(piece)
    elif isinstance(piece, ToolPiece):
        _note_wish(outcome.wishes, piece)
    else:
        assert isinstance(piece, Text), f"a text provider yields Text, ToolPiece and Usage, not {piece!r}"
        assert piece.text, "an empty piece of text"
        outcome.pieces.append(piece.text)


def _note_wish(wishes: list[ToolCall], piece: ToolPiece) -> None:
    if piece.index == len(wishes):
        assert piece.id, "the first piece of a tool call has its id"
        assert piece.name, "the first piece of a tool call has its name"
        assert piece.id not in [wish.id for wish in wishes], "two tool calls of one id"
        assert piece.id.isprintable()
        assert len(piece.id) <= 200
        assert len(piece.name) <= 200
        wishes.append(ToolCall(piece.id, piece.name, piece.arguments))
        return
    assert piece.index == len(wishes) - 1, f"a piece of tool call {piece.index} after one of {len(wishes) - 1}"
    assert not piece.id, "only the first piece of a tool call has its id"
    assert not piece.name, "only the first piece of a tool call has its name"
    assert piece.arguments, "an empty piece of arguments"
    last = wishes[-1]
    wishes[-1] = ToolCall(last.id, last.name, last.arguments + piece.arguments)


def answer(provider: TextProvider, http: httpx.Client, made: TextCall | None = None) -> tuple[str, Usage]:
    """The text and the usage of a call that succeeds."""
    outcome = run(provider, http, made)
    if outcome.error is not None:
        raise outcome.error
    assert outcome.usage is not None
    return outcome.text, outcome.usage


def failure(
    provider: TextProvider | ImageProvider,
    http: httpx.Client,
    made: TextCall | ImageCall | None = None,
    *,
    secrets: tuple[str, ...] = (),
    silence_s: float = 5.0,
) -> ProviderError:
    """The typed error that a call ends in, within 8 seconds and without a secret in it."""
    started = time.monotonic()
    outcome = run(provider, http, made, timeout_s=8, silence_s=silence_s)
    assert time.monotonic() - started < 8, "the call hung"
    if outcome.error is None:
        pytest.fail(f"the call should have failed; it gave {outcome.text[:80]!r} and {outcome.usage}")
    error = outcome.error
    assert error.message, "an error says to people what happened"
    assert len(error.detail) <= 500, "the detail is for a log line: use vendor_words"
    told = f"{error.message} {error.detail} {error!r} {error.__cause__!r}"
    assert not any(secret in told for secret in secrets), "the key reached an error"
    assert error.retry_after_s is None or error.retry_after_s >= 0
    return error


def check_usage(usage: Usage) -> None:
    """Assert that the counts of a usage record can be, and that parts are within their wholes."""
    for count in (usage.input_tokens, usage.output_tokens):
        assert count is None or (type(count) is int and count >= 0)
    for parts, whole in (
        ((usage.cached_tokens, usage.cache_write_tokens, usage.picture_input_tokens), usage.input_tokens),
        ((usage.reasoning_tokens, usage.picture_output_tokens), usage.output_tokens),
    ):
        assert all(type(part) is int and 0 <= part <= (whole or 0) for part in parts), f"a part larger than its whole: {usage}"
    assert isinstance(usage.finish, Finish)
    assert usage.cost_usd is None or usage.cost_usd >= 0
    assert usage.quality is None or 0 <= usage.quality <= 1
    for name in (usage.model, usage.vendor_request_id):
        assert name == "" or (name.isprintable() and len(name) <= 200), f"not fit for a log line: {name!r}"


@contextmanager
def client() -> Iterator[httpx.Client]:
    """The product's own HTTP client."""
    with build_client() as http:
        yield http
