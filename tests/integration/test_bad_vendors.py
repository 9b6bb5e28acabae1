"""Vendors that send rubbish, on the whole road: no crash, no leak of a key, no wrong charge, no hung thread."""

from __future__ import annotations

import json
import logging
import re
import resource
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import MetaData, select

from tests.fakes.anthropic import FakeAnthropic
from tests.fakes.gemini import FakeGemini
from tests.fakes.ollama import FakeOllama
from tests.fakes.openai import FakeOpenAI
from tests.fakes.server import FakeReply, FakeRequest, FakeServer, Fault
from tests.fakes.vendor import FakeTextVendor, Trouble
from tests.integration.vendor_support import key_of, lead, until
from tests.support import add_person, assert_books_balance, requests, rows, run_jobs
from webapp.extensions import db, reading
from webapp.models import LedgerEntry, Request, RequestStatus
from webapp.pipeline.admit import admit
from webapp.pipeline.intake import Intake

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

FORMATS: dict[str, Callable[[], FakeTextVendor]] = {
    "openai": FakeOpenAI,
    "anthropic": FakeAnthropic,
    "gemini": FakeGemini,
    "ollama": FakeOllama,
}
TEXT = "Grüße aus München 👋🏽 and good-bye, said the vendor."
ENDED = (RequestStatus.COMPLETED, RequestStatus.FAILED)
_asked = 0


@dataclass
class Site:
    """An application with one vendor, and a person who may ask a lot."""

    fake: FakeTextVendor
    person: Any

    def ask(self, times: int = 1) -> list[Request]:
        """So many questions, worked on together; the requests as they ended."""
        global _asked
        before = len(requests())
        for _ in range(times):
            _asked += 1
            admit(Intake(medium="web", text=f"question {_asked}", person_id=self.person))
        run_jobs()
        return requests()[before:]


@pytest.fixture(params=FORMATS)
def site(
    request: pytest.FixtureRequest,
    make_app: Callable[..., Flask],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> Iterator[Site]:
    """Whatever a test does with it: afterwards no key is to be found, the books balance, and no thread hangs."""
    name: str = request.param
    with FORMATS[name]() as fake:
        fake.text = TEXT
        lead(monkeypatch, name, fake)
        settings = {"request_timeout_s": 3.0, "silence_timeout_s": 1.0, "retries": 0, "breaker_failures": 1000}
        app = make_app(chat_model=f"{name}/{fake.model}", log_level="DEBUG", **settings)
        with app.app_context(), caplog.at_level(logging.DEBUG):
            made = Site(fake, add_person(email="alice@example.com", plan="business"))
            assert made.ask()[0].answer == TEXT
            before = threads()
            yield made
            assert {r.status for r in requests()} <= set(ENDED)
            assert {r.error_code for r in requests()} - {None} <= {
                "provider_malformed",
                "provider_unavailable",
                "provider_timeout",
                "provider_rejected",
                "provider_rate_limited",
                "provider_credentials",
                "provider_out_of_credit",
                "content_refused",
            }
            assert_books_balance()
            assert key_of(name) not in everything_stored()
            assert key_of(name) not in caplog.text
            assert "Traceback" not in caplog.text
            until(lambda: threads() <= before, f"no thread hangs: {threads() - before}")


def threads() -> set[str]:
    """Our threads that are alive; a fake's threads live as long as its connections."""
    ours = (thread for thread in threading.enumerate() if "process_request" not in thread.name)
    return {re.sub(r"\d+", "", thread.name) for thread in ours}


def everything_stored() -> str:
    """Every value of every table."""
    tables = MetaData()
    tables.reflect(db.engine)
    with reading() as connection:
        return "\n".join(str(row) for table in tables.sorted_tables for row in connection.execute(select(table)))


def entries() -> list[LedgerEntry]:
    """What was charged, but for the fixture's first question."""
    return rows(select(LedgerEntry).order_by(LedgerEntry.id))[1:]


def sane(entry: LedgerEntry) -> bool:
    """Whether a charge can be that of one short question."""
    return 0 <= entry.input_tokens < 500 and 0 <= entry.output_tokens < 500 and entry.cost_microusd < 100_000


def spoil(stream: bytes, change: Callable[[Any], Any]) -> bytes:
    """A good stream with each of its JSON documents changed."""
    made = []
    for line in stream.split(b"\n"):
        start, brace, rest = line.partition(b"{")
        made.append(start + json.dumps(change(json.loads(brace + rest))).encode() if brace else line)
    return b"\n".join(made)


def counts_as(value: Any) -> Callable[[Any], Any]:
    """Changes every count of a document."""

    def change(found: Any, name: str = "") -> Any:
        if isinstance(found, dict):
            return {key: change(each, key) for key, each in found.items()}
        if isinstance(found, list):
            return [change(each, name) for each in found]
        counted = type(found) is int and re.search(r"token|_count", name, re.I)
        return value if counted else found

    return change


def with_unknown_fields(found: Any) -> Any:
    if isinstance(found, dict):
        return {"new_in_2027": [1, {"a": None}], **{key: with_unknown_fields(each) for key, each in found.items()}}
    return [with_unknown_fields(each) for each in found] if isinstance(found, list) else found


def test_a_stream_that_is_cut_anywhere_is_no_whole_answer_and_no_wrong_charge(site: Site) -> None:
    size = len(site.fake.good_stream(TEXT))
    step = max(1, size // 45)
    cuts = sorted({*range(0, size, step), *range(max(0, size - 6), size)})
    site.fake.faults += [Fault(cut_after_bytes=position) for position in cuts]
    made = site.ask(len(cuts))
    assert len(made) == len(cuts)
    # What stops short of its end may only be called whole where all of the text had come.
    assert all(r.answer == TEXT for r in made if r.status == RequestStatus.COMPLETED)
    assert sum(r.status == RequestStatus.FAILED for r in made) > len(cuts) // 2
    assert all(sane(entry) for entry in entries())
    # Also where a vendor counts as it goes: what it had counted before the cut need not be what it bills.
    assert all(entry.estimated for entry in entries() if entry.requests == 0)


@pytest.mark.parametrize("site", ["openai"], indirect=True)
def test_a_stream_that_is_cut_inside_its_end_marker_is_a_whole_answer(site: Site) -> None:
    stream = spoil(site.fake.good_stream(TEXT), counts_as(9))
    end = stream.rfind(b"[DONE]")
    site.fake.script = lambda: iter([stream[: end + 3]])
    (request,) = site.ask()
    assert (request.status, request.answer) == (RequestStatus.COMPLETED, TEXT)
    (entry,) = entries()
    assert (entry.input_tokens, entry.output_tokens, entry.estimated) == (9, 9, False)


def test_characters_that_arrive_in_halves_are_put_together(site: Site) -> None:
    stream = site.fake.good_stream(TEXT)
    site.fake.script = lambda: (stream[i : i + 1] for i in range(len(stream)))
    (request,) = site.ask()
    assert (request.status, request.answer) == (RequestStatus.COMPLETED, TEXT)


def test_what_is_not_known_is_read_past(site: Site) -> None:
    stream = spoil(site.fake.good_stream(TEXT), with_unknown_fields)
    if b"data: " in stream:
        stream = b": a comment\n\nid: 7\nretry: 10\n\nevent: new_in_2027\ndata: {}\n\n" + stream
    site.fake.script = lambda: iter([stream])
    (request,) = site.ask()
    assert (request.status, request.answer) == (RequestStatus.COMPLETED, TEXT)


def test_without_a_count_an_estimate_is_charged_and_labelled(site: Site) -> None:
    site.fake.with_usage = False
    (request,) = site.ask()
    assert (request.status, request.answer) == (RequestStatus.COMPLETED, TEXT)
    (entry,) = entries()
    assert entry.estimated
    assert sane(entry)
    assert min(entry.input_tokens, entry.output_tokens) > 0


@pytest.mark.parametrize("count", [-5, 10**15, 1e308, "many", None, True, [], {"a": 1}, 1.5], ids=repr)
def test_counts_that_cannot_be_are_not_charged(site: Site, count: object) -> None:
    stream = spoil(site.fake.good_stream(TEXT), counts_as(count))
    site.fake.script = lambda: iter([stream])
    (request,) = site.ask()
    assert (request.status, request.answer) == (RequestStatus.COMPLETED, TEXT)
    (entry,) = entries()
    assert entry.estimated
    assert sane(entry)


@pytest.mark.parametrize("kind", [Trouble.DOWN, Trouble.BAD_KEY, Trouble.BAD_REQUEST])
def test_an_error_inside_a_success_is_a_failure(site: Site, kind: Trouble) -> None:
    trouble = site.fake.trouble(kind)
    assert trouble is not None
    body = (trouble.body or b"").replace(b'"message": "', b'"message": "' + site.fake.key.encode() + b" ")
    site.fake.faults.append(Fault(status=200, headers={"Content-Type": "application/json"}, body=body))
    framed = b"data: " + body + b"\n\n" if b"data: " in site.fake.good_stream("x") else body + b"\n"
    site.fake.script = lambda: iter([framed])
    made = [*site.ask(), *site.ask()]
    assert [request.status for request in made] == [RequestStatus.FAILED] * 2
    assert entries() == []


@pytest.mark.parametrize("status", [400, 401, 403, 404, 418, 429, 500, 599])
def test_a_vendor_that_repeats_our_key_in_its_errors_does_not_spread_it(site: Site, status: int) -> None:
    key = site.fake.key
    bodies = [
        json.dumps({"error": {"message": f"Incorrect key {key}", "type": key, "code": key, "param": key}}),
        json.dumps({"error": f"the key {key} is wrong", "type": "error"}),
        f"<html>{key}</html>" + key * 50,
    ]
    # Three different vendors' ways of saying it; a pause by the first must not hide the others.
    for body in bodies:
        headers = {"Content-Type": "application/json", "Retry-After": "0", "x-request-id": "r1"}
        site.fake.faults.append(Fault(status=status, headers=headers, body=body.encode()))
    assert {request.status for request in site.ask(3)} == {RequestStatus.FAILED}


def test_an_answer_without_end_is_cut_off_in_time_and_in_memory(site: Site) -> None:
    # The first piece of an answer, without the end that would make it one.
    one_event = re.split(rb"(?<=\n)\r?\n|(?<=})\n(?={)", site.fake.good_stream("word " * 3))[0] + b"\n\n"
    shapes = (b"\n" * 65_536, b" " * 65_536, b"x" * 65_536, one_event * 500, b": keep-alive\n\n" * 5000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for shape in shapes:

        def endless(shape: bytes = shape) -> Iterator[bytes]:
            while not site.fake.stopping.is_set():
                yield shape

        site.fake.script = endless
        (request,) = site.ask()
        assert request.status == RequestStatus.FAILED
        assert request.started_at is not None
        assert request.ended_at is not None
        assert (request.ended_at - request.started_at).total_seconds() < 4.5
    grown_mb = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown_mb < 300
    assert all(entry.estimated for entry in entries())


class Bait(FakeServer):
    """Where nobody may go."""

    def handle(self, request: FakeRequest) -> FakeReply:
        return FakeReply.json({"secret": "of the machine"})


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirection_is_never_followed(site: Site, status: int) -> None:
    with Bait() as bait:
        for place in ("http://169.254.169.254/latest/meta-data/", bait.url):
            site.fake.faults.append(Fault(status=status, headers={"Location": place}, body=b""))
        made = site.ask(2)
        assert [request.status for request in made] == [RequestStatus.FAILED] * 2
        assert bait.requests == []
    assert entries() == []


def test_no_characters_are_no_answer(site: Site) -> None:
    nothing: list[Callable[[], Iterator[bytes]]] = [
        lambda: iter([b""]),
        lambda: iter([site.fake.good_stream("")]),
        lambda: iter([site.fake.good_stream(" \n ")]),
        lambda: iter([b"\x00\xff" * 100]),
        lambda: iter([b"null\n\n"]),
        lambda: iter([b"[]" * 30]),
        lambda: iter([b"[" * 100_000]),
        lambda: iter([b"data: " + b"[" * 100_000 + b"\n\n"]),
        lambda: iter([b"data: {}\n\n" * 50 + b"{}\n" * 50]),
    ]
    for script in nothing:
        site.fake.script = script
        (request,) = site.ask()
        assert request.status == RequestStatus.FAILED
    assert all(sane(entry) for entry in entries())
