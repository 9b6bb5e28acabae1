"""The examples on the pages for programs are run as they stand, against an installation that is served."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import httpx
import pytest

from tests.fakes.server import FakeReply, FakeRequest
from tests.system.docs_site import DocsSite, Examples, served
from tests.unit.test_docs import TEXTS, blocks
from tests.unit.test_docs_work import table

API, PROGRAMS, WEBHOOKS = (TEXTS[f"docs/{name}.md"] for name in ("api", "openai", "webhooks"))
DATA = {row[0]: row[1] for row in table(WEBHOOKS, "event | `data`")}

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, migrated_sqlite: Path) -> Iterator[DocsSite]:
    with served(tmp_path_factory.mktemp("docs"), migrated_sqlite) as made:
        yield made


@pytest.fixture(scope="module")
def api_page(site: DocsSite, tmp_path_factory: pytest.TempPathFactory) -> Examples:
    examples = Examples(site, "api.md", tmp_path_factory.mktemp("shell"))
    examples.run()
    return examples


def test_the_examples_of_the_api_page_do_what_it_says(api_page: Examples) -> None:
    names = api_page.names
    assert names["answered"].status_code == 201
    assert names["made"]["kind"] == "made"
    assert names["picture"].startswith(b"\x89PNG")
    assert names["problem"]["code"] == "bad_input"
    assert names["ended"] == "completed"
    assert names["text"]
    assert names["task"]["status"] == names["further"]["status"] == names["translated"]["status"] == "completed"
    assert names["further"]["conversation_id"] == names["task"]["conversation_id"]
    assert names["why"]["answered"]
    assert names["once_more"]["again_of_id"] == names["task"]["id"]
    assert names["turns"]
    assert names["preview"].startswith("Translate into Dutch, in a friendly tone:")
    assert [json.loads(line)["status"] for line in names["results"].splitlines()] == ["completed", "completed"]
    assert names["me"]["email"] == "jane@example.com"
    assert names["profile"]["user"]["full_name"] == "Kim Example"
    assert names["usage"]["quotas"]
    assert len(names["days"]) == 7
    assert names["mine"]["total"] > 3
    assert names["done"]["resolved"] == 0
    assert names["tested"]["delivered"]
    [streamed] = [said for said in api_page.said if "event: end" in said]
    assert 'data: "completed"' in streamed


def test_an_error_looks_as_the_api_page_shows_it(api_page: Examples) -> None:
    [shown] = re.findall(r"^```json\n(.*?)^```$", API, re.M | re.S)
    problem = api_page.names["problem"]
    assert json.loads(shown).keys() == problem.keys()
    assert json.loads(shown)["title"] == problem["title"]


# -- existing programs -------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def openai_page(site: DocsSite, tmp_path_factory: pytest.TempPathFactory) -> Examples:
    folder = tmp_path_factory.mktemp("llm")
    commands = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    site.openai.wishes = [("high_tide", {"place": "Kiel"})]
    examples = Examples(site, "openai.md", folder, {"LLM_USER_PATH": str(folder), "PATH": commands})
    examples.run()
    return examples


def test_the_examples_with_existing_libraries_do_what_the_page_says(site: DocsSite, openai_page: Examples) -> None:
    names, answer = openai_page.names, str(site.openai.text)
    assert names["answer"].choices[0].message.content == answer
    assert names["answer"].model.startswith("openai/")
    assert names["message"].content[0].text == answer
    assert names["counted"].input_tokens > 0
    assert names["wish"].tool_calls[0].function.name == "high_tide"
    assert names["told"].content == answer
    assert names["png"].startswith(b"\x89PNG")
    assert sum(answer in said for said in openai_page.said) == 4


def test_the_example_on_the_front_page_is_answered(site: DocsSite, tmp_path: Path) -> None:
    examples = Examples(site, "../README.md", tmp_path)
    examples.run()
    assert examples.said == [f"{site.openai.text}\n"]


@pytest.mark.skipif(shutil.which("node") is None, reason="there is no node")
def test_the_example_in_javascript_can_be_read(tmp_path: Path) -> None:
    """Whether it is JavaScript; OpenAI's library for it is none of our dependencies."""
    [code] = blocks(PROGRAMS, "javascript")
    (tmp_path / "example.mjs").write_text(code)
    done = subprocess.run(["node", "--check", "example.mjs"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# -- outgoing webhooks -------------------------------------------------------------------------------------------------
@dataclass
class Received:
    """What a receiver's examples were shown, and the messages that came, as (headers, body)."""

    names: dict[str, Any]
    messages: list[tuple[dict[str, str], bytes]]
    secret: str

    def payload(self, event: str) -> Any:
        return next(found for _, body in self.messages if (found := json.loads(body))["type"] == event)


@pytest.fixture(scope="module")
def webhooks_page(site: DocsSite, tmp_path_factory: pytest.TempPathFactory) -> Received:
    """The receiver of the page is told of a request that is made meanwhile, and of a test."""
    with httpx.Client(base_url=f"{site.url}/api", headers={"Authorization": f"Bearer {site.token}"}, timeout=60) as api:
        hook = api.post("/webhooks", json={"url": f"{site.receiver.url}/switchhook"}).raise_for_status().json()
        examples = Examples(site, "webhooks.md", tmp_path_factory.mktemp("hook"), {"WEBHOOK_SECRET": hook["secret"]})
        examples.run()
        app, came = examples.names["app"], list[tuple[dict[str, str], bytes]]()

        def handle(request: FakeRequest) -> FakeReply:
            headers = dict(request.headers.items())
            answer = app.test_client().post("/switchhook", data=request.body, headers=headers)
            if answer.status_code == 204:
                came.append((headers, request.body))
            return FakeReply(answer.status_code)

        def is_told() -> bool:
            # The worker knows of a new webhook within two seconds: what ended before is no event for it.
            api.post("/tasks", params={"wait": 30}, json={"prompt": "Hello!"}).raise_for_status()
            return any(b"request.completed" in body for _, body in came)

        with patch.object(site.receiver, "handle", handle):
            assert api.post(f"/webhooks/{hook['id']}/test").raise_for_status().json()["delivered"]
            site.product.wait_until(is_told, "the event came")
            api.delete(f"/webhooks/{hook['id']}").raise_for_status()
    return Received(examples.names, came, hook["secret"])


def test_the_receivers_of_the_webhooks_page_know_what_is_ours_and_what_is_not(webhooks_page: Received) -> None:
    is_ours, secret = webhooks_page.names["is_ours"], webhooks_page.secret
    headers, body = webhooks_page.messages[-1]
    told = {name.lower(): value for name, value in headers.items()}
    assert is_ours(secret, told, body)
    assert is_ours(secret, told | {"webhook-signature": f"v1,other {told['webhook-signature']}"}, body)
    assert not is_ours(secret, told, body + b" ")
    assert not is_ours("whsec_b3RoZXI=", told, body)
    assert not is_ours(secret, told | {"webhook-timestamp": "1"}, body)
    again = webhooks_page.names["app"].test_client().post("/switchhook", data=body + b" ", headers=headers)
    assert again.status_code == 401
    assert len(webhooks_page.names["seen"]) == len({json.loads(body)["timestamp"] for _, body in webhooks_page.messages})


def test_a_message_looks_as_the_webhooks_page_shows_it(webhooks_page: Received) -> None:
    [shown] = [json.loads(text) for text in re.findall(r"^```json\n(.*?)^```$", WEBHOOKS, re.M | re.S)]
    sent = webhooks_page.payload("request.completed")
    assert list(shown) == list(sent)
    assert list(shown["data"]) == list(sent["data"])
    told = {name: re.findall(r"`(\w+)`", members) for name, members in DATA.items()}
    assert told["`request.completed`, `request.failed`"] == list(sent["data"])
    assert told["`ping`"] == list(webhooks_page.payload("ping")["data"])
