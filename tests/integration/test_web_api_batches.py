"""Batches by programs: sent as rows or a file, their faults by row and column, confirmed, run, and taken home."""

from __future__ import annotations

import io
import json
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask
from werkzeug.test import TestResponse

from tests.fakes.openai import FakeOpenAI
from tests.integration.batch_support import feed, requests_of, table
from tests.integration.test_web_api_tasks import TASKS, Program
from tests.integration.web_support import ADMIN, ALICE, BOB, Site
from webapp.models import Batch, PersonRole

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
PLACE = "/api/batches"
CAROL = "carol@example.com"


@pytest.fixture
def site(openai: FakeOpenAI, make_app: Callable[..., Flask]) -> Site:
    site = Site(make_app(batch_in_flight=4, throttle_signed_in_per_h=0))
    site.add(ALICE, plan="professional")
    return site


def run(site: Site) -> None:
    for _ in range(10):
        with site.app.app_context():
            feed()
        site.run_jobs()


def upload(program: Program, data: bytes, file_name: str = "words.csv", **fields: str) -> TestResponse:
    form: dict[str, Any] = {"file": (io.BytesIO(data), file_name)} | fields
    return program.client.post(f"{PLACE}/file", data=form, headers=program.headers)


def test_rows_become_a_batch_that_is_confirmed_run_and_taken_home(site: Site) -> None:
    alice = Program(site, ALICE)
    rows = [{"thing": f"thing {n}", "n": n} for n in range(3)]
    made = alice.post(PLACE, {"name": "Things", "rows": rows, "template": "Describe a {{thing}}."}, Idempotency_Key="b")
    assert made.status_code == 201, made.text
    assert (
        alice.post(PLACE, {"name": "Things", "rows": rows, "template": "Describe a {{thing}}."}, Idempotency_Key="b").json
        == made.json
    )
    batch = made.json
    place = made.headers["Location"]
    assert place == f"{PLACE}/{batch['id']}"
    assert (batch["status"], batch["counts"]["total"], batch["columns"]) == ("ready", 3, ["n", "thing"])
    assert batch["most_microusd"] >= batch["likely_microusd"] > 0
    assert alice.post(f"{place}/pause").status_code == 409

    assert alice.post(f"{place}/confirm").json["status"] == "running"
    assert alice.post(f"{place}/confirm").status_code == 409
    assert alice.post(f"{place}/pause").json["status"] == "paused"
    run(site)
    assert alice.get(place).json["counts"]["waiting"] == 3
    assert alice.post(f"{place}/resume").json["status"] == "running"
    run(site)
    done = alice.get(place).json
    assert (done["status"], done["counts"]["completed"], done["counts"]["percent"]) == ("completed", 3, 100)
    assert done["cost_microusd"] > 0
    found = [json.loads(line) for line in alice.get(f"{place}/results?format=jsonl").text.splitlines()]
    assert [(row["thing"], row["status"]) for row in found] == [(f"thing {n}", "completed") for n in range(3)]
    sheet = alice.get(f"{place}/results")
    assert (sheet.mimetype, len(sheet.text.splitlines())) == ("text/csv", 4)
    assert alice.get(f"{place}/results?format=xls").status_code == 422
    listed = alice.get(f"{TASKS}?batch={batch['id']}&total=true").json
    assert (listed["total"], {task["batch_id"] for task in listed["items"]}) == (3, {batch["id"]})
    # The limits of the token are those of every row.
    with site.app.app_context():
        assert {bool(row.token_id) for row in requests_of(uuid.UUID(batch["id"]))} == {True}
    assert alice.client.delete(place, headers=alice.headers).status_code == 409


def test_faults_say_in_which_row_and_column_and_nothing_is_stored(site: Site) -> None:
    alice = Program(site, ALICE)
    rows = [{"prompt": "fine"}, {"prompt": " "}, {"prompt": 7}, {"prompt": "x", "deep": {"a": 1}}]
    refused = alice.post(PLACE, {"rows": rows})
    assert (refused.status_code, refused.mimetype) == (422, "application/problem+json")
    assert [error["field"] for error in refused.json["errors"]] == ["rows.1.prompt", "rows.2.prompt", "rows.3.deep"]
    assert [(fault["row"], fault["field"]) for fault in refused.json["faults"]] == [(2, "prompt"), (3, "prompt"), (4, "deep")]
    assert refused.json["faults_total"] == 3
    for source, sent in (
        ("csv", alice.post(PLACE, {"csv": "prompt,n\nfine,1\n,2\n"})),
        ("jsonl", alice.post(PLACE, {"jsonl": '{"prompt": "fine"}\n{"prompt": ""}\n'})),
        ("file", upload(alice, b"prompt,n\nfine,1\n,2\n")),
    ):
        assert (sent.status_code, sent.json["field"]) == (422, source), sent.text
        assert (sent.json["faults"][0]["row"], sent.json["faults"][0]["field"]) == (2, "prompt")
    for body, field in (
        ({}, "rows"),
        ({"rows": [], "csv": ""}, "rows"),
        ({"rows": []}, "rows"),
        ({"rows": "prompt"}, "rows"),
        ({"rows": [{"a": "b"}], "template": "{{unclosed"}, "template"),
        ({"rows": [{"prompt": "x"}], "name": "x" * 121}, "name"),
        ({"rows": [{"prompt": "x"}], "model": "openai/gpt-4.1-mini"}, "model"),
        ({"file": "x"}, "file"),
    ):
        sent = alice.post(PLACE, body)
        assert (sent.status_code, sent.json["field"]) == (422, field), sent.text
    assert upload(alice, b"prompt\nx\n", colour="red").json["field"] == "colour"
    assert alice.post(f"{PLACE}/file", {}).status_code == 415
    assert site.count(Batch) == 0


def test_a_file_is_uploaded_and_thrown_away_or_cancelled(site: Site) -> None:
    alice = Program(site, ALICE)
    first = upload(alice, table(2).encode(), file_name="some words.csv")
    assert (first.status_code, first.json["name"]) == (201, "some words")
    place = first.headers["Location"]
    gone = alice.client.delete(place, headers=alice.headers)
    assert (gone.status_code, gone.data) == (204, b"")
    assert alice.get(place).status_code == 404
    second = upload(alice, table(6).encode(), name="2024").headers["Location"]
    alice.post(f"{second}/confirm")
    with site.app.app_context():
        feed()
    assert alice.post(f"{second}/cancel").json["status"] == "cancelled"
    counts = alice.get(second).json["counts"]
    assert (counts["cancelled"], counts["waiting"]) == (4, 2)
    assert alice.post(f"{second}/cancel").status_code == 409


def test_everybody_sees_the_batches_that_are_theirs_to_see(site: Site) -> None:
    site.add(BOB, role=PersonRole.MANAGER, plan="professional")
    site.add(CAROL)
    alice, carol = Program(site, ALICE), Program(site, CAROL)
    bob, bob_plain = Program(site, BOB, "read", "write", "admin"), Program(site, BOB)
    admin = Program(site, ADMIN, "admin")
    places = [alice.post(PLACE, {"csv": table(1)}).headers["Location"] for _ in range(3)]
    ids = [place.rpartition("/")[2] for place in places]
    one = alice.get(f"{PLACE}?limit=2&total=true").json
    two = alice.get(f"{PLACE}?limit=2&cursor={one['next_cursor']}").json
    assert [each["id"] for each in (*one["items"], *two["items"])] == ids[::-1]
    assert (one["total"], two["next_cursor"]) == (3, None)
    for program, query, count in (
        (bob, "", 3),
        (bob, "?whose=own", 0),
        (bob, "?whose=organization", 3),
        (bob_plain, "", 0),
        (carol, "", 0),
        (admin, "?whose=all", 3),
        (admin, "?whose=organization", 3),
        (admin, "?whose=own", 0),
    ):
        assert len(program.get(PLACE + query).json["items"]) == count, query
    assert carol.get(f"{PLACE}?whose=organization").status_code == bob.get(f"{PLACE}?whose=all").status_code == 403
    seen = bob.get(places[0]).json
    assert (seen["readable"], seen["columns"], seen["template"]) == (False, [], None)
    assert bob.get(f"{places[0]}/results").status_code == 404
    assert bob.post(f"{places[0]}/confirm").status_code == 403
    for program in (carol, bob_plain):
        assert program.get(places[0]).status_code == program.get(f"{places[0]}/results").status_code == 404
        assert program.post(f"{places[0]}/cancel").status_code == program.post(f"{places[0]}/confirm").status_code == 404
    assert carol.post(PLACE, {"csv": table(1)}).status_code == 403
