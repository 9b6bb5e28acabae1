"""The answer while it is being written, as a browser gets it."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from flask import Flask

from tests.integration.web_support import ALICE, BOB, Browser, Site
from webapp.extensions import db, queue_redis


@pytest.fixture
def site(make_app: Callable[..., Flask], monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setenv("SWITCHHOOK_DEMO_DELAY_MS", "0")
    site = Site(make_app())
    site.add(ALICE)
    return site


def parse(body: str) -> list[tuple[str, str, str]]:
    """(id, event, text) of each event, by the rules of the standard as far as we use them."""
    found = []
    for block in body.split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if "event" in lines:
            found.append((lines.get("id", ""), lines["event"], json.loads(lines["data"])))
    return found


def text_of(events: list[tuple[str, str, str]]) -> str:
    """What a reader has in the end."""
    text = ""
    for _, kind, piece in events:
        text = piece if kind == "reset" else text + (piece if kind == "piece" else "")
    return text


def ask(site: Site, text: str = "show me a table") -> tuple[Browser, str]:
    alice = site.browser(ALICE)
    alice.ask(text)
    return alice, f"/requests/{site.newest_request().id}/events"


def test_the_stream_is_the_stored_answer_wherever_the_reader_takes_it_up(site: Site) -> None:
    alice, address = ask(site)
    site.run_jobs()
    answer = site.newest_request().answer
    whole = alice.get(address)
    assert whole.mimetype == "text/event-stream"
    assert whole.headers["Cache-Control"] == "no-store"
    assert whole.headers["X-Accel-Buffering"] == "no"
    events = parse(whole.text)
    assert events[-1][1:] == ("end", "completed")
    assert text_of(events) == answer
    for place in (1, len(events) // 2, len(events) - 2):
        rest = parse(alice.get(address, headers={"Last-Event-ID": events[place][0]}).text)
        assert text_of(events[: place + 1]) + text_of(rest) == answer


def test_a_reader_who_is_there_from_the_start_sees_it_grow_and_holds_no_connection(site: Site) -> None:
    alice, address = ask(site)
    response = alice.get(address, buffered=False)
    chunks = iter(response.response)
    assert next(chunks) == b"retry: 1000\n\n"
    with site.app.app_context():
        assert db.engine.pool.checkedout() == 0  # type: ignore[attr-defined]
    site.run_jobs()
    rest = "".join(chunk.decode() if isinstance(chunk, bytes) else chunk for chunk in chunks)
    assert text_of(parse(rest)) == site.newest_request().answer
    response.close()


def test_a_request_that_ended_long_ago_ends_at_once(site: Site) -> None:
    alice, address = ask(site)
    site.run_jobs()
    with site.app.app_context():
        queue_redis().flushall()
    assert [event[1:] for event in parse(alice.get(address).text)] == [("end", "completed")]


def test_stopping_a_waiting_request_ends_its_stream(site: Site) -> None:
    alice, address = ask(site)
    response = alice.get(address, buffered=False)
    chunks = iter(response.response)
    next(chunks)
    alice.post(address.replace("events", "cancel"))
    rest = "".join(chunk.decode() if isinstance(chunk, bytes) else chunk for chunk in chunks)
    assert parse(rest)[-1][1:] == ("end", "cancelled")
    response.close()


def test_one_person_s_open_answers_leave_room_for_everybody_else(site: Site) -> None:
    site.add(BOB)
    alice, address = ask(site)
    open_ones = [alice.get(address, buffered=False) for _ in range(8)]
    assert [response.status_code for response in open_ones] == [200] * 8
    refused = alice.get(address)
    assert refused.status_code == 503
    assert int(refused.headers["Retry-After"]) > 0
    bob = site.browser(BOB)
    bob.ask("my own")
    bobs = bob.get(f"/requests/{site.newest_request().id}/events", buffered=False)
    assert bobs.status_code == 200
    # One reader goes in the middle, another before the first byte: both places are free again, once each.
    assert next(iter(open_ones[0].response)) == b"retry: 1000\n\n"
    for gone in open_ones[:2]:
        gone.close()
        gone.close()
    again = [alice.get(address, buffered=False) for _ in range(3)]
    assert [response.status_code for response in again] == [200, 200, 503]
    for response in (*open_ones, *again, bobs):
        response.close()


def test_open_answers_of_all_leave_threads_for_pages(make_app: Callable[..., Flask]) -> None:
    site = Site(make_app(web_threads=3))
    site.add(ALICE)
    alice, address = ask(site)
    first, second = (alice.get(address, buffered=False) for _ in range(2))
    assert alice.get(address).status_code == 503
    assert alice.get("/").status_code == 200
    first.close()
    third = alice.get(address, buffered=False)
    assert third.status_code == 200
    for response in (second, third):
        response.close()


def test_a_small_server_streams_to_one_reader_at_least(make_app: Callable[..., Flask]) -> None:
    site = Site(make_app(web_threads=2))
    site.add(ALICE)
    alice, address = ask(site)
    only = alice.get(address, buffered=False)
    assert (only.status_code, alice.get(address).status_code) == (200, 503)
    only.close()
