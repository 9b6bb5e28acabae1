"""The pages of batches: upload, faults beside what was typed, the price, the progress, the results."""

from __future__ import annotations

import io
import re
import uuid
from collections.abc import Callable

import pytest
from flask import Flask
from sqlalchemy import select
from werkzeug.test import TestResponse

from tests.fakes.openai import FakeOpenAI
from tests.integration.batch_support import feed, table
from tests.integration.web_support import ALICE, BOB, HTMX, Browser, Site, token
from webapp.extensions import reading
from webapp.models import Batch, BatchRow
from webapp.web.batches import FORM_MAX_BYTES

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
NEW = "/batches/new"


@pytest.fixture
def site(openai: FakeOpenAI, make_app: Callable[..., Flask]) -> Site:
    made = Site(make_app(batch_in_flight=4))
    made.add(ALICE, plan="professional")
    return made


def upload(browser: Browser, data: str | bytes, file_name: str = "words.csv", **fields: str) -> TestResponse:
    content = data.encode() if isinstance(data, str) else data
    given = {"template": "", "name": "", "file": (io.BytesIO(content), file_name)} | fields
    return browser.post(NEW, given)  # type: ignore[arg-type]


def stored(site: Site) -> list[uuid.UUID]:
    with site.app.app_context(), reading() as connection:
        return list(connection.execute(select(Batch.id).order_by(Batch.id)).scalars())


def made(site: Site, browser: Browser, rows: int = 3, **fields: str) -> str:
    """The address of a batch that waits for its confirmation."""
    answer = upload(browser, table(rows), **fields)
    assert answer.status_code == 303, answer.text
    return str(answer.location)


def run(site: Site) -> None:
    for _ in range(10):
        with site.app.app_context():
            feed()
        site.run_jobs()


def test_the_empty_list_says_what_to_do_next(site: Site) -> None:
    page = site.browser(ALICE).get("/batches").text
    assert "There is no batch yet" in page
    assert f'href="{NEW}"' in page
    assert 'href="/batches" aria-current="page"' in page


def test_without_the_feature_the_menu_has_no_entry_and_the_pages_say_why(site: Site) -> None:
    site.add(BOB, plan="free")
    bob = site.browser(BOB)
    assert 'href="/batches"' not in bob.get("/").text
    assert "does not include batches" in bob.get("/batches").text
    form = bob.get(NEW)
    assert (form.status_code, 'type="file"' in form.text) == (403, False)
    assert upload(bob, table(1)).status_code == 403
    assert stored(site) == []


def test_who_is_not_signed_in_is_asked_to(site: Site) -> None:
    for path in ("/batches", NEW, f"/batches/{uuid.uuid4()}", f"/batches/{uuid.uuid4()}/results.csv"):
        assert site.browser().get(path).location == f"/login?next={path}"


def test_from_the_file_to_the_results_without_any_script(site: Site) -> None:
    alice = site.browser(ALICE)
    place = made(site, alice, 6, template="Say hello number {{n}}")
    ready = alice.get(place).text
    assert "The file is fine" in ready
    assert re.search(r"Likely price</dt><dd>about \$0\.0", ready)
    assert "hx-get" not in ready.split("<section")[1]
    assert "Say hello number {{n}}" in ready
    started = alice.post(f"{place}/confirm", follow_redirects=True).text
    assert 'hx-trigger="every 2s"' in started
    assert "0 of 6 rows" in started
    with site.app.app_context():
        feed()
    part = alice.get(place, headers=HTMX)
    assert (part.headers["Vary"], part.text.lstrip().startswith("<section")) == ("HX-Request, Cookie", True)
    run(site)
    ended = alice.get(place).text
    assert "6 of 6 rows" in ended
    assert "hx-trigger" not in ended
    results = alice.get(f"{place}/results.csv")
    assert results.headers["Content-Disposition"] == 'attachment; filename="words-results.csv"'
    assert (results.mimetype, results.headers["Cache-Control"]) == ("text/csv", "no-store")
    assert results.text.count("completed") == 6
    assert len(alice.get(f"{place}/results.jsonl").text.splitlines()) == 6
    assert alice.get(f"{place}/results.xml").status_code == 404


def test_faults_are_shown_with_row_and_column_and_what_was_typed_stays(site: Site) -> None:
    alice = site.browser(ALICE)
    text = "city,<b>\n" + ",x\n" * 150
    answer = upload(alice, text, template="About {{city}} & more", name="My “cities”")
    page = answer.text
    assert answer.status_code == 422
    assert "150 things to mend in the file" in page
    assert "The first 100 of them" in page
    assert "Row 1 (line 2), column “city”: It is empty" in page
    assert page.count("the template wants it") == 100
    assert "About {{city}} &amp; more</textarea>" in page
    assert 'value="My “cities”"' in page
    assert "choose the file again" in page
    assert stored(site) == []


def test_what_a_file_says_is_shown_as_text(site: Site) -> None:
    page = upload(site.browser(ALICE), '{"prompt": "x", "<script>": [1]}', "a.jsonl").text
    assert "&lt;script&gt;" in page
    assert "column “<script>" not in page


def test_faults_of_the_form_name_the_field(site: Site) -> None:
    alice = site.browser(ALICE)
    page = upload(alice, table(1), template="no names", name="x").text
    assert 'id="fault-template"' in page
    assert "no names</textarea>" in page
    assert 'id="fault-name"' in upload(alice, table(1), name="x" * 121).text
    nothing = alice.post(NEW, {"template": "{{a}}", "name": "Mine"})
    assert (nothing.status_code, 'id="fault-file"' in nothing.text, 'value="Mine"' in nothing.text) == (422, True, True)


def test_only_administrators_choose_the_model(site: Site) -> None:
    alice, admin = site.browser(ALICE), site.admin()
    assert 'name="model"' not in alice.get(NEW).text
    made(site, alice, model="demo/demo")
    made(site, admin, model="openai/gpt-4.1-mini")
    with site.app.app_context(), reading() as connection:
        chosen = connection.execute(select(Batch.parameters).order_by(Batch.id)).scalars().all()
    assert [parameters.get("model") for parameters in chosen] == [None, "openai/gpt-4.1-mini"]
    refused = upload(admin, table(1), model="nobody/nothing")
    assert (refused.status_code, 'value="nobody/nothing"' in refused.text) == (422, True)


def test_a_file_may_be_larger_than_other_forms_and_not_larger_than_a_batch(site: Site) -> None:
    alice = site.browser(ALICE)
    csrf = token(alice.get(NEW))
    wide = "prompt,x\n" + "".join(f"say {n}," + "y" * 9000 + "\n" for n in range(300))
    head = f'--b\r\nContent-Disposition: form-data; name="csrf_token"\r\n\r\n{csrf}\r\n--b\r\n'
    head += 'Content-Disposition: form-data; name="file"; filename="wide.csv"\r\n\r\n'
    body = (head + wide + "\r\n--b--\r\n").encode()
    kind = "multipart/form-data; boundary=b"
    assert len(body) > 2 * 1024 * 1024
    assert alice.client.post(NEW, data=body, content_type=kind).status_code == 303
    # Refused by its length alone, before anything of it is read.
    long = {"CONTENT_LENGTH": str(FORM_MAX_BYTES + 1)}
    refused = alice.client.post(NEW, data=body, content_type=kind, environ_overrides=long)
    assert (refused.status_code, "at most 20 MB" in refused.text) == (413, True)
    # Who is not signed in gets no such room.
    assert site.browser().client.post(NEW, data=body, content_type=kind).status_code in (303, 400, 413)
    assert len(stored(site)) == 1


def test_pause_go_on_and_cancel_which_asks_once(site: Site) -> None:
    alice = site.browser(ALICE)
    place = made(site, alice, 9)
    alice.post(f"{place}/confirm")
    with site.app.app_context():
        feed()
    paused = alice.post(f"{place}/pause", follow_redirects=True).text
    assert "Go on" in paused
    twice = alice.post(f"{place}/pause", follow_redirects=True).text
    assert "Go on" in twice
    assert "Nothing was changed" not in twice
    alice.post(f"{place}/resume")
    asked = alice.get(f"{place}?cancel=1").text
    assert "Cancel this batch?" in asked
    assert "charged for what was" in asked
    cancelled = alice.post(f"{place}/cancel", follow_redirects=True).text
    assert "Nothing was changed" not in alice.post(f"{place}/cancel", follow_redirects=True).text
    assert "was cancelled. Nothing was changed" in alice.post(f"{place}/resume", follow_redirects=True).text
    assert re.search(r"Cancelled</dt><dd>4<", cancelled)
    assert re.search(r"Not begun</dt><dd>5<", cancelled)
    assert site.newest_request().status == "cancelled"


def test_a_batch_that_was_not_started_can_be_thrown_away(site: Site) -> None:
    alice = site.browser(ALICE)
    place = made(site, alice)
    assert "Nothing was asked" in alice.post(f"{place}/delete", follow_redirects=True).text
    assert stored(site) == []
    with site.app.app_context(), reading() as connection:
        assert connection.execute(select(BatchRow.number)).all() == []


def test_a_full_limit_is_told_with_the_time_when_it_goes_on(site: Site) -> None:
    site.give_limits("professional", messages=2)
    alice = site.browser(ALICE)
    place = made(site, alice, 5)
    alice.post(f"{place}/confirm")
    run(site)
    page = alice.get(place).text
    assert "2 messages of this month" in page
    assert "It goes on by itself, <time" in page
    assert "Stay paused" in page
    stays = alice.post(f"{place}/pause", follow_redirects=True).text
    assert "goes on by itself" not in stays


def test_other_people_s_batches_are_not_found_at_any_address(site: Site) -> None:
    site.add(BOB, plan="professional")
    place = made(site, site.browser(ALICE))
    bob = site.browser(BOB)
    for path in (place, f"{place}/results.csv", f"{place}/results.jsonl"):
        assert bob.get(path).status_code == 404
    for action in ("confirm", "pause", "resume", "cancel", "delete"):
        assert bob.post(f"{place}/{action}").status_code == 404
    assert place not in bob.get("/batches?whose=all").text
    assert place in site.admin().get("/batches?whose=all").text
    assert len(stored(site)) == 1


def test_every_form_needs_its_token(site: Site) -> None:
    alice = site.browser(ALICE)
    place = made(site, alice)
    for path in (NEW, *(f"{place}/{action}" for action in ("confirm", "delete"))):
        assert alice.client.post(path, data={}).status_code == 400
    assert len(stored(site)) == 1


def test_the_list_shows_how_far_each_is(site: Site) -> None:
    alice = site.browser(ALICE)
    place = made(site, alice, 8, name="Eight")
    alice.post(f"{place}/confirm")
    with site.app.app_context():
        feed()
    site.run_jobs()
    page = alice.get("/batches").text
    assert "Eight" in page
    assert "8 rows, 50 % done" in page
    assert alice.get("/batches?before=nonsense").status_code == 404
