"""A stream read in any number of pieces, with whatever happens in between, is the stored answer."""

from __future__ import annotations

import uuid
from collections.abc import Callable

import pytest
from flask import Flask

from tests.support import requests, text
from webapp.extensions import queue_redis
from webapp.pipeline import stream
from webapp.pipeline.claims import claim
from webapp.pipeline.execute import execute, run
from webapp.pipeline.stream import Kind, Publisher

ALICE = "+15005550006"


def replay(request_id: uuid.UUID, after: str = "", limit: int = 10**6, so_far: str = "") -> tuple[str, str, bool]:
    """(text, position, whether it ended) after reading at most `limit` events, as a page does it."""
    for count, event in enumerate(stream.read(request_id, after)):
        if event.kind is Kind.END:
            return so_far, event.id, True
        if event.kind is Kind.WAITING:
            continue
        so_far = event.text if event.kind is Kind.RESET else so_far + event.text
        after = event.id
        if count + 1 >= limit:
            break
    return so_far, after, False


@pytest.fixture
def answered(app: Flask) -> uuid.UUID:
    text("How do I reverse a list in Python?", ALICE)
    request_id = requests()[0].id
    execute(request_id)
    return request_id


@pytest.mark.parametrize("step", [1, 2, 3, 7, 1000])
def test_reconnecting_after_any_number_of_pieces_gives_the_same_text(answered: uuid.UUID, step: int) -> None:
    so_far, after, ended = "", "", False
    while not ended:
        so_far, after, ended = replay(answered, after, step, so_far)
    assert so_far == requests()[0].answer


def test_a_stream_that_has_expired_ends_at_once(answered: uuid.UUID) -> None:
    queue_redis().flushall()
    assert [event.kind for event in stream.read(answered)] == [Kind.END]


def test_a_position_that_is_none_is_the_beginning(answered: uuid.UUID) -> None:
    for nonsense in ("x", "1-1", "$", "9" * 400, "0-0.-1", "👻"):
        assert replay(answered, nonsense)[0] == requests()[0].answer


def test_a_second_execution_replaces_what_the_first_wrote(app: Flask) -> None:
    request_id = uuid.uuid4()
    first, second = Publisher(request_id, 1), Publisher(request_id, 2)
    first.piece("half of ")
    second.piece("the whole ")
    first.piece("an answer that nobody wants")
    second.piece("answer")
    second.end("completed")
    assert replay(request_id)[0] == "the whole answer"


def test_pieces_lost_while_redis_was_away_come_with_the_next(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "_OUTAGE_POLL_S", 0.0)
    request_id = uuid.uuid4()
    publisher = Publisher(request_id, 1)
    publisher.piece("one ")
    port = publisher._client.connection_pool.connection_kwargs
    path = port["path"]
    publisher._client.connection_pool.disconnect()
    port["path"] = "/nowhere.sock"
    publisher.piece("two ")
    port["path"] = path
    publisher.piece("three")
    publisher.end("completed")
    assert replay(request_id)[0] == "one two three"


def test_a_reader_who_was_there_from_the_start_gets_each_piece_as_it_comes(app: Flask) -> None:
    text("hello", ALICE)
    taken = claim(requests()[0].id)
    assert taken is not None
    events = stream.read(taken.id)
    for piece in run(taken):
        event = next(events)
        assert (event.kind, event.text) == (Kind.PIECE, piece)
    assert next(events).kind is Kind.END


def test_without_redis_the_end_comes_from_the_database(make_app: Callable[..., Flask]) -> None:
    with make_app(redis_url="unix:///nowhere/at/all.sock").app_context():
        text("hello", ALICE)
        request_id = requests()[0].id
        execute(request_id)
        assert [event.kind for event in stream.read(request_id)] == [Kind.END]
