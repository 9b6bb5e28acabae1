"""Generation requests: pictures that programs have made, and who gets to see them."""

from __future__ import annotations

import base64
import uuid
from collections.abc import Callable, Iterator

import pytest
from flask import Flask

from tests.fakes.stability import FakeStability
from tests.fakes.vendor import tiny_png
from tests.integration.test_web_api_tasks import TASKS, Program
from tests.integration.web_support import ALICE, BOB, Site
from webapp.models import PersonRole, Request

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
PLACE = "/api/generation-requests"


@pytest.fixture
def stability(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeStability]:
    with FakeStability() as fake:
        for name, value in fake.settings.items():
            monkeypatch.setenv(name, value)
        yield fake


@pytest.fixture
def site(stability: FakeStability, make_app: Callable[..., Flask]) -> Site:
    site = Site(make_app(throttle_signed_in_per_h=0))
    site.add(ALICE, plan="enterprise")
    site.add(BOB, role=PersonRole.MANAGER, plan="enterprise")
    return site


def test_a_picture_is_made_seen_rated_and_made_again(site: Site) -> None:
    alice, bob = Program(site, ALICE), Program(site, BOB, "read", "write", "admin")
    made = alice.post(PLACE, {"prompt": "a lighthouse", "width": 512, "height": 512, "seed": 7, "style": "anime"})
    assert made.status_code == 202, made.text
    place = made.headers["Location"]
    assert (place, made.json["operation"]) == (f"{PLACE}/{made.json['id']}", "image.generate")
    assert made.json["parameters"] == {"width": 512, "height": 512, "seed": 7, "style": "anime"}
    alice.make("words alone")
    site.run_jobs()

    done = alice.get(f"{place}?wait=5").json
    assert (done["status"], done["provider"], len(done["calls"])) == ("completed", "stability", 1)
    (picture,) = done["pictures"]
    assert picture["kind"] == "made"
    with alice.get(picture["url"]) as got:
        assert (got.status_code, got.mimetype, len(got.data)) == (200, picture["media_type"], picture["size_bytes"])
    with alice.get(picture["url"], headers={"If-None-Match": f'"{picture["sha256"]}"'}) as known:
        assert (known.status_code, known.data) == (304, b"")

    assert [each["id"] for each in alice.get(PLACE).json["items"]] == [done["id"]]
    assert len(alice.get(TASKS).json["items"]) == 2
    assert alice.get(f"{TASKS}/{done['id']}").json["pictures"] == done["pictures"]
    assert alice.post(f"{place}/rate", {"rating": 5}).json["rating"] == 5
    again = alice.post(f"{place}/regenerate", {}).json
    assert (again["again_of_id"], again["parameters"]["seed"], again["prompt"]) == (done["id"], 7, "a lighthouse")

    # A manager sees that it was made, and not what.
    seen = bob.get(place).json
    assert (seen["readable"], seen["pictures"], seen["prompt"]) == (False, [], "")
    assert bob.get(picture["url"]).status_code == bob.post(f"{place}/regenerate", {}).status_code == 404


def test_what_cannot_be_made_is_refused(site: Site) -> None:
    alice = Program(site, ALICE)
    task = alice.make("words alone").rpartition("/")[2]
    refused = alice.post(PLACE, {"prompt": "x", "operation": "image.palette"})
    assert (refused.status_code, refused.json["field"]) == (422, "operation")
    assert "there are: image.generate" in refused.json["detail"]
    for body, field in (
        ({}, "prompt"),
        ({"prompt": "x", "operation": "chat"}, "operation"),
        ({"prompt": "x", "width": 63}, "width"),
        ({"prompt": "x", "height": 4097}, "height"),
        ({"prompt": "x", "seed": -1}, "seed"),
        ({"prompt": "x", "style": "x" * 81}, "style"),
        ({"prompt": "x", "picture": "no base64"}, "pictures.0"),
        ({"prompt": "x", "model": "anthropic/claude"}, "model"),
    ):
        answer = alice.post(PLACE, body)
        assert (answer.status_code, answer.json["field"]) == (422, field), answer.text
    assert site.count(Request) == 1
    for way in (task, str(uuid.uuid4())):
        assert alice.get(f"{PLACE}/{way}").status_code == 404
        assert alice.post(f"{PLACE}/{way}/regenerate", {}).status_code == 404
        assert alice.post(f"{PLACE}/{way}/rate", {"rating": 1}).status_code == 404


def test_a_picture_to_start_from_travels_along(site: Site, stability: FakeStability) -> None:
    alice = Program(site, ALICE)
    source = base64.b64encode(tiny_png(16, 16)).decode()
    made = alice.post(
        PLACE, {"prompt": "warmer", "picture": source, "model": "stability/sd3.5-large"}, Idempotency_Key="p"
    ).json
    assert [each["kind"] for each in made["pictures"]] == ["given"]
    assert (
        alice.post(PLACE, {"prompt": "warmer", "picture": source, "model": "stability/sd3.5-large"}, Idempotency_Key="p").json[
            "id"
        ]
        == made["id"]
    )
    site.run_jobs()
    assert alice.get(f"{PLACE}/{made['id']}").json["status"] == "completed"
