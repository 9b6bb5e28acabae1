"""OpenAI's chat format byte by byte: any packets, any bytes and any JSON give an answer or a typed error."""

from __future__ import annotations

import json
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from plugins.providers.openai_compatible.wire import Answer
from tests.fakes.openai import event, text_chunk
from webapp.plugin import ProviderError, Text, Usage, lines

WHOLE = (
    event(text_chunk("Grüße, "))
    + b": comment\r\n\r\n"
    + event(text_chunk("世界! 👩‍🚀\r\nbye")).replace(b"\n", b"\r\n")
    + event(text_chunk(None, delta={}, finish_reason="stop"))
    + event(text_chunk(None) | {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 4}})
    + event("[DONE]")
)


@settings(deadline=None, max_examples=150)
@given(st.lists(st.integers(0, len(WHOLE)), max_size=12))
def test_a_stream_reads_the_same_however_it_is_cut_into_packets(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(WHOLE)]
    packets = [WHOLE[a:b] for a, b in pairwise(edges)]
    *pieces, usage = Answer("Fake").read(packets)
    assert "".join(p.text for p in pieces if isinstance(p, Text)) == "Grüße, 世界! 👩‍🚀\r\nbye"
    assert isinstance(usage, Usage)
    assert (usage.input_tokens, usage.output_tokens) == (3, 4)


@settings(deadline=None, max_examples=200)
@given(st.lists(st.binary(max_size=60) | st.sampled_from([WHOLE[:150], b"data: ", b"\n\n", b"{", b"data: [DONE]\n\n"])))
def test_any_bytes_are_an_answer_or_a_typed_error(packets: list[bytes]) -> None:
    try:
        *pieces, usage = Answer("Fake").read(packets)
    except ProviderError:
        return
    assert isinstance(usage, Usage)
    assert any(isinstance(piece, Text) and piece.text.strip() for piece in pieces)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["choices", "delta", "message", "content", "finish_reason", "usage", "error", "index", "code", "type"]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=20,
)


@settings(deadline=None, max_examples=200)
@given(st.lists(json_values, max_size=4), st.booleans())
def test_any_json_is_an_answer_or_a_typed_error(values: list[object], streamed: bool) -> None:
    packets = [event(json.dumps(value)) for value in values] if streamed else [json.dumps(values[:1]).encode()[1:-1]]
    try:
        *_, usage = Answer("Fake").read([*packets, event("[DONE]")] if streamed else packets)
    except ProviderError:
        return
    assert isinstance(usage, Usage)


def test_lines_of_any_ending_are_told_apart() -> None:
    assert list(lines([b"a\r", b"\nb\n\nc", b"", b"d\n", b"last"])) == [b"a", b"b", b"", b"cd", b"last"]


def test_a_byte_order_mark_and_empty_lines_may_come_before_an_answer_in_any_packets() -> None:
    start = b"\xef\xbb\xbf\r\n\n"
    for whole in (start + WHOLE, start + json.dumps({"choices": [{"message": {"content": "hi"}}]}).encode()):
        expected = [piece for piece in Answer("Fake").read([whole]) if isinstance(piece, Text)]
        for position in range(len(start) + 3):
            *pieces, _ = Answer("Fake").read([whole[:position], whole[position:]])
            assert pieces == expected
        *pieces, _ = Answer("Fake").read(whole[i : i + 1] for i in range(len(whole)))
        assert "".join(p.text for p in pieces if isinstance(p, Text)) == "".join(p.text for p in expected)
