"""Pictures on the whole road: drawn by vendors, sent by people, shown to those whose they are."""

from __future__ import annotations

import hashlib
import io
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import time_machine
from flask import Flask
from sqlalchemy import select, update
from werkzeug.datastructures import FileStorage
from werkzeug.test import encode_multipart

from tests.fakes.openai import FakeOpenAI
from tests.fakes.openai_images import FakeOpenAIImages
from tests.fakes.server import Fault
from tests.fakes.stability import FakeStability
from tests.fakes.vendor import Trouble, tiny_png
from tests.integration.web_support import ALICE, BOB, HTMX, Site, token
from tests.support import add_person, assert_books_balance, one, requests, rows, run_jobs, sent
from webapp.contracts.channels import InboundMessage
from webapp.extensions import current_settings, now, writing
from webapp.models import Attachment, AttachmentKind, Attempt, ErrorLog, LedgerEntry, Request, RequestStatus
from webapp.pipeline import cancel, pictures, words
from webapp.pipeline.admit import admit
from webapp.pipeline.intake import Intake
from webapp.pipeline.sweep import sweep
from webapp.routing.route import IMAGES

TEAL = tiny_png(16, 16)
TEAL_HASH = hashlib.sha256(TEAL).hexdigest()
SEEING = "openai/gpt-4.1-mini"


def trouble(fake: FakeStability | FakeOpenAIImages, kind: Trouble) -> Fault:
    found = fake.trouble(kind)
    assert found is not None
    return found


def files() -> list[Path]:
    return [path for path in (current_settings().data_dir / "pictures").rglob("*") if path.is_file()]


# -- drawing -------------------------------------------------------------------------------------------------------------
@pytest.fixture
def stability(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeStability]:
    with FakeStability() as fake:
        for name, value in fake.settings.items():
            monkeypatch.setenv(name, value)
        yield fake


@pytest.fixture
def drawing(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeOpenAIImages]:
    with FakeOpenAIImages() as fake:
        for name, value in fake.settings.items():
            monkeypatch.setenv(name, value)
        yield fake


@pytest.fixture
def road(make_app: Callable[..., Flask], stability: FakeStability) -> Iterator[Flask]:
    app = make_app(retry_wait_s=0.1, image_timeout_s=30)
    with app.app_context():
        yield app


def draw(person: Any, **values: Any) -> Any:
    return admit(Intake(medium="web", text="a boat", operation=IMAGES, person_id=person, new_conversation=True, **values))


def test_a_picture_is_stored_once_however_often_it_is_made_and_its_price_is_in_the_books(
    road: Flask, stability: FakeStability
) -> None:
    person = add_person(email=ALICE, plan="enterprise")
    for _ in range(2):
        draw(person, parameters={"width": 1600, "height": 900, "seed": 7})
    run_jobs()
    assert [request.status for request in requests()] == ["completed", "completed"]
    assert [path.name for path in files()] == [TEAL_HASH]
    assert files()[0].read_bytes() == TEAL
    made = rows(select(Attachment))
    assert {(each.kind, each.sha256, each.media_type, each.width, each.seed) for each in made} == {
        (AttachmentKind.MADE, TEAL_HASH, "image/png", 16, 7)
    }
    assert len(made) == 2
    first = requests()[0]
    assert first.result is not None
    [shown] = first.result["pictures"]
    assert (shown["sha256"], shown["width"], shown["seed"], shown["actions"]) == (TEAL_HASH, 16, 7, [])
    assert first.answer is None
    entries = rows(select(LedgerEntry))
    assert [(entry.pictures, entry.requests, entry.cost_microusd, entry.estimated) for entry in entries] == [
        (1, 1, 30_000, False)
    ] * 2
    assert all(entry.price_source for entry in entries)
    assert_books_balance()


def test_the_next_vendor_draws_where_the_first_one_fails(
    make_app: Callable[..., Flask], stability: FakeStability, drawing: FakeOpenAIImages
) -> None:
    with make_app(image_model="openai/gpt-image-2,stability/core").app_context():
        drawing.faults.append(trouble(drawing, Trouble.DOWN))
        draw(add_person(email=ALICE, plan="enterprise"))
        run_jobs()
        [request] = requests()
        assert (request.status, request.provider, request.model) == ("completed", "stability", "core")
        assert request.route is not None
        assert [(each["model"], each["what"]) for each in request.route["models"]] == [
            ("openai/gpt-image-2", "failed"),
            ("stability/core", "completed"),
        ]
        assert len(files()) == 1
        assert_books_balance()


def test_a_filtered_picture_is_refused_politely_free_and_never_shown(road: Flask, stability: FakeStability) -> None:
    stability.filtered = True
    draw(add_person(email=ALICE, plan="enterprise"))
    run_jobs()
    [request] = requests()
    assert (request.status, request.error_code) == ("failed", "content_refused")
    assert request.error_message == words.failed("content_refused")
    assert request.cost_microusd == 0
    assert files() == []
    assert rows(select(Attachment)) == []
    assert one(select(ErrorLog)).kind == "content_refused"
    assert_books_balance()


@pytest.mark.parametrize("sent_instead", [b"", b"<html>no picture</html>", TEAL[:30]])
def test_what_is_no_picture_fails_and_leaves_no_file(road: Flask, stability: FakeStability, sent_instead: bytes) -> None:
    stability.picture = sent_instead
    draw(add_person(email=ALICE, plan="enterprise"))
    run_jobs()
    assert requests()[0].status == "failed"
    assert files() == []
    assert rows(select(Attachment)) == []
    assert_books_balance()


def test_a_picture_that_waits_is_cancelled_free(road: Flask, stability: FakeStability) -> None:
    person = add_person(email=ALICE, plan="enterprise")
    admission = draw(person)
    assert cancel.cancel(admission.request_id, person) == RequestStatus.CANCELLED
    run_jobs()
    assert stability.calls == []
    assert requests()[0].status == "cancelled"
    assert_books_balance()


def test_one_that_comes_although_it_was_cancelled_meanwhile_is_kept_and_charged(road: Flask, stability: FakeStability) -> None:
    person = add_person(email=ALICE, plan="enterprise")
    admission = draw(person)
    stability.first_delay_s = 3.0

    def stop() -> None:
        waited = threading.Event()
        while not stability.calls:
            waited.wait(0.01)
        with road.app_context():
            cancel.cancel(admission.request_id, person)

    thread = threading.Thread(target=stop)
    thread.start()
    run_jobs()
    thread.join()
    [request] = requests()
    assert request.cancel_asked_at is not None
    assert (request.status, request.cost_microusd) == ("completed", 30_000)
    assert one(select(Attachment)).sha256 == TEAL_HASH
    assert_books_balance()


def test_what_a_lost_worker_had_begun_is_drawn_again_and_no_half_file_is_left(road: Flask, stability: FakeStability) -> None:
    admission = draw(add_person(email=ALICE, plan="enterprise"))
    with writing() as connection:
        # As a process leaves it that was killed in the middle.
        connection.execute(
            update(Request)
            .where(Request.id == admission.request_id)
            .values(status="processing", claim=admission.request_id, attempts=1, started_at=now(), lease_until=now())
        )
    half = current_settings().data_dir / "pictures" / "arriving" / f"{TEAL_HASH}.dead"
    half.parent.mkdir(parents=True)
    half.write_bytes(TEAL[:9])
    with time_machine.travel(now().timestamp() + 7200, tick=True):
        assert sweep().taken_over == 1
        run_jobs()
    [request] = requests()
    assert (request.status, request.attempts) == ("completed", 2)
    assert [path.read_bytes() for path in files()] == [TEAL]
    assert_books_balance()


def test_a_channel_without_pictures_says_that_it_is_ready(road: Flask) -> None:
    admit(
        Intake(
            medium="sms",
            text="a boat",
            operation=IMAGES,
            message=InboundMessage("simulator", "M1", "+15005550006", "+15005550001", "a boat"),
        )
    )
    run_jobs()
    [delivery] = sent()
    assert delivery.kind == "answer"
    assert "Your picture is ready" in delivery.body


def test_what_no_image_provider_can_draw_fails_on_the_record(road: Flask, stability: FakeStability) -> None:
    draw(add_person(email=ALICE, plan="enterprise"), parameters={"model": "nobody/at-all"})
    run_jobs()
    [request] = requests()
    assert request.status == "failed"
    assert "there is no image provider 'nobody'" in (one(select(ErrorLog)).detail or "")
    assert rows(select(Attempt)) == []
    assert stability.calls == []
    assert_books_balance()


# -- the address of a picture --------------------------------------------------------------------------------------------
@pytest.fixture
def site(make_app: Callable[..., Flask], openai: FakeOpenAI, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setenv("OPENAI_MODEL", "gpt-4.1-mini")
    site = Site(make_app())
    site.add(ALICE, plan="enterprise")
    site.add(BOB)
    return site


def send(browser: Any, *given: tuple[bytes, str], text: str = "What is this?", htmx: bool = False) -> Any:
    """Send a message with pictures, as the form of the page does."""
    files = [FileStorage(io.BytesIO(data), name) for data, name in given]
    fields = {"csrf_token": token(browser.get("/settings", follow_redirects=True)), "text": text, "pictures": files}
    boundary, body = encode_multipart(fields)
    kind = f"multipart/form-data; boundary={boundary}"
    return browser.client.post("/chat", data=body, content_type=kind, headers=HTMX if htmx else {})


def fetch(browser: Any, name: str, **headers: str) -> Any:
    """A picture's address, read to its end."""
    response = browser.get(f"/pictures/{name}", headers=headers)
    response.get_data()
    response.close()
    return response


def test_a_picture_is_for_its_owner_and_for_administrators(site: Site) -> None:
    send(site.browser(ALICE), (TEAL, "teal.png"))
    shown = fetch(site.browser(ALICE), TEAL_HASH)
    assert (shown.status_code, shown.data, shown.mimetype) == (200, TEAL, "image/png")
    assert shown.headers["X-Content-Type-Options"] == "nosniff"
    assert shown.headers["Content-Security-Policy"] == "default-src 'none'"
    assert shown.headers["Cache-Control"] == "private, no-cache"
    assert shown.headers["ETag"] == f'"{TEAL_HASH}"'
    assert shown.headers["Content-Disposition"] == f'inline; filename="picture-{TEAL_HASH[:8]}.png"'
    assert "Cookie" in shown.headers["Vary"]
    again = fetch(site.browser(ALICE), TEAL_HASH, **{"If-None-Match": shown.headers["ETag"]})
    assert (again.status_code, again.data) == (304, b"")
    assert again.headers["Cache-Control"] == "private, no-cache"
    assert fetch(site.admin(), TEAL_HASH).data == TEAL
    hidden = fetch(site.browser(BOB), TEAL_HASH, **{"If-None-Match": shown.headers["ETag"]})
    assert (hidden.status_code, hidden.text) == (404, "There is no such picture.\n")
    signed_out = fetch(site.browser(), TEAL_HASH)
    assert signed_out.status_code == 303
    assert "/login" in signed_out.location


@pytest.mark.parametrize(
    "name",
    [
        "0" * 64,
        "x",
        TEAL_HASH.upper(),
        TEAL_HASH + "0",
        TEAL_HASH[:-1],
        "..%2f..%2fswitchhook.db",
        "%00" * 64,
        TEAL_HASH + "%0a",
    ],
)
def test_there_is_no_picture_at_other_addresses(site: Site, name: str) -> None:
    send(site.browser(ALICE), (TEAL, "teal.png"))
    for browser in (site.browser(ALICE), site.admin()):
        found = fetch(browser, name)
        assert found.status_code == 404
        assert b"SQLite" not in found.data


def test_a_picture_whose_file_is_gone_is_not_there(site: Site) -> None:
    send(site.browser(ALICE), (TEAL, "teal.png"))
    with site.app.app_context():
        pictures.path_of(TEAL_HASH).unlink()
    assert fetch(site.browser(ALICE), TEAL_HASH).status_code == 404


# -- pictures in the chat ------------------------------------------------------------------------------------------------
def test_a_picture_goes_to_a_model_that_sees_and_is_shown_in_the_persons_turn(site: Site, openai: FakeOpenAI) -> None:
    alice = site.browser(ALICE)
    assert 'enctype="multipart/form-data"' in alice.get("/").text
    response = send(alice, (TEAL, "teal.png"), (tiny_png(9, 9, "red"), "red.png"))
    assert response.status_code == 303
    request = site.newest_request()
    assert request.parameters["pictures"] == [TEAL_HASH, hashlib.sha256(tiny_png(9, 9, "red")).hexdigest()]
    site.run_jobs()
    [call] = openai.calls
    assert json.dumps(call["messages"][-1]).count("image_url") >= 2
    page = alice.get(f"/c/{request.conversation_id}").text
    assert page.count('src="/pictures/') == 2
    assert f'src="/pictures/{TEAL_HASH}"' in page
    assert 'alt="Picture 1 of 2"' in page
    part = send(alice, (TEAL, "teal.png"), htmx=True)
    assert part.status_code == 200
    assert part.text.count('src="/pictures/') == 1


def test_the_lines_of_a_message_end_as_they_do_without_pictures(site: Site) -> None:
    send(site.browser(ALICE), text="one\r\ntwo")
    assert site.newest_request().prompt == "one\ntwo"


@pytest.mark.parametrize("htmx", [False, True])
def test_what_cannot_be_taken_is_said_by_name_and_the_text_is_kept(site: Site, htmx: bool) -> None:
    alice = site.browser(ALICE)
    for given, fault in (
        ([(b"no picture", "note<b>.png")], "note&lt;b&gt;.png: This is not a picture: PNG, JPEG, GIF and WebP are taken."),
        ([(TEAL, "a.png"), (b"", "empty.png")], "empty.png: This is not a picture"),
        ([(b"x" * (pictures.MAX_BYTES + 1), "big.png")], "big.png: The picture is too large: at most 20 MB are taken."),
        ([(TEAL, f"{number}.png") for number in range(5)], "At most 4 pictures fit into one message; these are 5."),
    ):
        refused = send(alice, *given, text="look at this", htmx=htmx)
        assert refused.status_code == 422
        assert fault in refused.text
        if not htmx:
            assert "look at this</textarea>" in refused.text
            assert "Choose the pictures again." in refused.text
    assert site.count(Request) == 0
    with site.app.app_context():
        assert files() == []


def test_only_messages_of_people_who_are_signed_in_may_be_large(site: Site) -> None:
    alice, stranger = site.browser(ALICE), site.browser()
    large = b"\0" * (2 * 1024 * 1024)
    assert send(alice, (large, "zeros.png")).status_code == 422
    assert send(stranger, (large, "zeros.png")).status_code == 413
    elsewhere = alice.post("/login", {"email": "x" * len(large)})
    assert elsewhere.status_code == 413
    giant = send(alice, *[(b"\0" * pictures.MAX_BYTES, "zeros.png")] * 5, htmx=True)
    assert giant.status_code == 413
    assert "4 pictures of at most 20 MB each" in giant.text
    assert site.count(Request) == 0


def test_where_no_model_sees_pictures_the_person_is_told_so(
    make_app: Callable[..., Flask], openai: FakeOpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_MODEL", "gpt-3.5-turbo")
    site = Site(make_app(chat_model="openai/gpt-3.5-turbo"))
    site.add(ALICE)
    alice = site.browser(ALICE)
    send(alice, (TEAL, "teal.png"))
    site.run_jobs()
    request = site.newest_request()
    assert (request.status, request.error_code) == ("failed", "no_vision")
    assert openai.calls == []
    page = alice.get(f"/c/{request.conversation_id}").text
    assert "No model here can look at pictures." in page
    assert "Try again" in page
    with site.app.app_context():
        assert "it is not known to see pictures" in (one(select(ErrorLog)).detail or "")
        assert_books_balance()


def test_trying_again_sends_the_same_pictures(site: Site, openai: FakeOpenAI) -> None:
    alice = site.browser(ALICE)
    openai.faults.append(Fault(status=400, headers={"Content-Type": "application/json"}, body=b'{"error": {"message": "no"}}'))
    send(alice, (TEAL, "teal.png"))
    site.run_jobs()
    first = site.newest_request()
    assert first.status == "failed"
    alice.post(f"/requests/{first.id}/again")
    site.run_jobs()
    again = site.newest_request()
    assert (again.status, again.parameters) == ("completed", first.parameters)
    with site.app.app_context():
        pictures.path_of(TEAL_HASH).unlink()
    site.change(again.id, status="failed")
    gone = alice.post(f"/requests/{again.id}/again")
    assert gone.status_code == 409
    assert "not there any more" in gone.text


def test_a_picture_that_was_made_is_shown_as_the_answer(make_app: Callable[..., Flask], stability: FakeStability) -> None:
    site = Site(make_app())
    alice = site.add(ALICE)
    with site.app.app_context():
        draw(alice)
    site.run_jobs()
    request = site.newest_request()
    page = site.browser(ALICE).get(f"/c/{request.conversation_id}").text
    assert f'src="/pictures/{TEAL_HASH}"' in page
    assert fetch(site.browser(ALICE), TEAL_HASH).data == TEAL
