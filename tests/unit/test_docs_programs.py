"""What the pages for programs say in tables is what the code has."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path

import pytest
from flask import Flask
from pydantic import BaseModel

from tests.conftest import make_settings
from tests.unit.test_docs import CORE, ROOT, TEXTS
from tests.unit.test_docs_work import table
from webapp import create_app
from webapp.api import (
    batch_models,
    conversations,
    cors,
    dead_letters,
    deliveries_models,
    errors,
    guide,
    problems,
    task_models,
    templates_models,
    users_models,
    watching,
)
from webapp.api.base import PAGE, PAGE_MAX, PageQuery
from webapp.api.v1 import calls, chat, chat_request, images, messages_request, unserved
from webapp.contracts.events import QuotaEvent
from webapp.contracts.webhooks import EVENTS
from webapp.models import ENDED, RequestStatus
from webapp.pipeline import admit, pictures, webhook_send, webhooks
from webapp.services import (
    batch_files,
    delivery_lists,
    error_log,
    kept_answers,
    people,
    person_views,
    request_lists,
    webhook_log,
)
from webapp.services import conversations as conversation_lists
from webapp.services import webhooks as endpoints
from webapp.settings import read_settings
from webapp.web import streams

API, PROGRAMS, WEBHOOKS = (TEXTS[f"docs/{name}.md"] for name in ("api", "openai", "webhooks"))
API_WORDS, PROGRAMS_WORDS, WEBHOOKS_WORDS = (" ".join(page.split()) for page in (API, PROGRAMS, WEBHOOKS))


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Flask:
    return create_app(make_settings(tmp_path_factory.mktemp("app"), "unix:///nowhere"))


def code_in(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


# -- the API -----------------------------------------------------------------------------------------------------------
def test_every_scope_is_in_the_table() -> None:
    assert [row[0] for row in table(API, "scope | opens")] == [f"`{scope}`" for scope in people.SCOPES]


def test_every_code_of_a_problem_is_in_the_table_with_its_meaning() -> None:
    rows = table(API, "code | status")
    assert [(row[0], row[2]) for row in rows] == [(f"`{code}`", meaning) for code, meaning in guide.ERRORS.items()]
    told = {row[0].strip("`"): int(row[1]) for row in rows}
    refusals = {kind.code: status for kind, status in problems._STATUS.items()}
    assert {code: told[code] for code in refusals} == refusals
    assert told[problems.BadJson.code] == problems.status_of(problems.BadJson("body", "words"))
    for kind in (kept_answers.KeyReused, kept_answers.KeyInUse, kept_answers.NotKept, problems.Unauthorized):
        assert told[kind.code] == problems.status_of(kind("words"))


LISTS: dict[str, tuple[type[BaseModel], Iterable[int]]] = {
    "/api/tasks": (task_models.TaskQuery, (request_lists.LOOKED_MAX, request_lists.SEARCHED_MAX)),
    "/api/conversations": (conversations.ConversationQuery, (conversation_lists.LOOKED_MAX,)),
    "/api/templates": (templates_models.TemplatesQuery, ()),
    "/api/batches": (batch_models.BatchQuery, ()),
    "/api/users": (users_models.UserQuery, (person_views.LOOKED_MAX,)),
    "/api/deliveries": (deliveries_models.DeliveryQuery, (delivery_lists.LOOKED_MAX,)),
    "/api/errors": (errors.ErrorsQuery, (error_log.LOOKED_MAX,)),
    "/api/dead-letters": (dead_letters.DeadLettersQuery, ()),
}


def test_every_list_is_in_the_table_with_its_filters_and_bounds() -> None:
    rows = {code_in(row[0])[0]: row for row in table(API, "list | filters")}
    assert rows.keys() == LISTS.keys()
    for path, (query, bounds) in LISTS.items():
        _, filters, searched, looked = rows[path]
        own = query.model_fields.keys() - PageQuery.model_fields.keys()
        assert set(code_in(filters)) == own - {"q", "order"}, path
        assert bool(searched) == ("q" in own), path
        assert re.findall(r"\d+,\d+", looked) == [f"{bound:,}" for bound in bounds], path
    assert f"`limit` is {PAGE} unless you say otherwise, at most {PAGE_MAX}." in API_WORDS


def test_the_sizes_seats_and_states_are_those_that_count() -> None:
    rows = dict(table(API, "what | at most"))
    mb = 1024 * 1024
    assert rows["pictures of a task"].startswith(f"{admit.PICTURES_MAX}, of {pictures.MAX_BYTES // mb} MB each")
    batch = f"{batch_files.FILE_MAX_BYTES // mb} MB, {batch_files.COLUMNS_MAX} columns"
    assert rows["a batch"].endswith(batch)
    assert rows["an answer that is kept for repetitions"] == f"{kept_answers.BODY_MAX // mb} MB"
    assert f"1 to {kept_answers.KEY_CHARS} visible characters" in API_WORDS
    assert f"up to {watching.WAIT_MAX_S} seconds" in API_WORDS
    assert streams.PER_PERSON == 8
    assert "so a person has eight at once in a process" in API_WORDS
    states = code_in(API_WORDS.partition("look at `status`: ")[2].partition(". `GET")[0])
    assert states == [*(state for state in RequestStatus if state not in ENDED), *(s for s in RequestStatus if s in ENDED)]


def test_the_throttles_in_the_table_are_the_settings_own() -> None:
    for _, often, setting in table(API, "who | calls"):
        told = re.match(r"[\d,]+", often)
        assert CORE[setting.strip("`")].default == (int(told[0].replace(",", "")) if told else 0)


def test_an_area_that_the_document_knows_is_on_the_page(app: Flask) -> None:
    with app.test_client() as client:
        paths = client.get("/api/openapi.json").get_json()["paths"]
    known = {path.split("/")[2] for path in paths} - {"requests", "users"}
    told = {path.partition("?")[0].split("/")[2] for path in re.findall(r"/api/[\w/?=%-]+", API)}
    told |= set(re.findall(r'(?:api|admin)\.(?:get|post|patch|delete)\(\s*f?"/([\w-]+)', API))
    assert known - told == set()


def test_the_headers_that_pages_of_other_sites_may_read_are_on_the_page() -> None:
    assert code_in(API_WORDS.partition("Its script reads ")[2].partition(".")[0]) == list(cors.EXPOSED)


# -- existing programs -------------------------------------------------------------------------------------------------
def test_every_address_under_v1_is_in_the_table_and_no_other_is(app: Flask) -> None:
    served = {
        f"{method} {rule.rule.replace('path:', '')}"
        for rule in app.url_map.iter_rules()
        if rule.rule.startswith("/v1/") and not rule.endpoint.startswith("v1_unserved.")
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    assert {name for row in table(PROGRAMS, "address | format") for name in code_in(row[0])} == served


def test_what_is_not_served_is_named() -> None:
    named = code_in(PROGRAMS_WORDS.partition("What is not served")[2].partition(".")[0])
    assert named == [*unserved._INSTEAD, "audio"]


def test_the_parameters_in_the_table_are_those_that_are_read() -> None:
    rows = {row[0].strip("`"): row[1:] for row in table(PROGRAMS, "format | used")}
    read: dict[str, type[BaseModel]] = {
        "/v1/chat/completions": chat_request._Body,
        "/v1/messages": messages_request._Body,
        "/v1/images/generations": images._Body,
    }
    assert rows.keys() == read.keys()
    for path, body in read.items():
        used, ignored, _ = rows[path]
        assert set(code_in(used)) == body.model_fields.keys(), path
        assert not set(code_in(ignored)) & body.model_fields.keys(), path
    most = (chat_request.MESSAGES_MAX, chat_request.TOOLS_MAX, chat_request.PICTURES_MAX)
    assert "{:,} messages, {} tools, {} pictures".format(*most) in PROGRAMS_WORDS


def test_every_way_in_which_a_request_may_end_is_in_the_table_with_its_status() -> None:
    told = {code: row[0] for row in table(PROGRAMS, "status | `code`") for code in code_in(row[1])}
    for status, _, code in calls._OF_ENDING.values():
        assert str(status) in told[code].split(", ") or code == "insufficient_quota", code


def test_every_code_that_a_call_may_be_refused_with_is_in_the_table() -> None:
    refused = [
        call
        for module in (ROOT / "webapp" / "api" / "v1").glob("*.py")
        for call in ast.walk(ast.parse(module.read_text("utf-8")))
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "BadCall"
    ]
    given = [[*call.args[2:3], *(each.value for each in call.keywords if each.arg == "code")] for call in refused]
    codes = {code.value for values in given for code in values if isinstance(code, ast.Constant) and code.value}
    told = {code for row in table(PROGRAMS, "status | `code`") for code in code_in(row[1])}
    assert len(codes) > 8
    assert codes - told == set()


def test_a_streamed_answer_waits_for_its_first_piece_as_long_as_the_page_says() -> None:
    assert f"when its first piece is there, or after {chat.FIRST_PIECE_S:g} seconds" in PROGRAMS_WORDS


# -- webhooks ----------------------------------------------------------------------------------------------------------
def test_every_event_is_in_the_table_with_its_meaning() -> None:
    assert [tuple(row) for row in table(WEBHOOKS, "event | when")] == [(f"`{name}`", words) for name, words in EVENTS.items()]


def test_what_a_message_holds_is_in_the_table() -> None:
    rows = {name: code_in(row[1]) for row in table(WEBHOOKS, "event | `data`") for name in code_in(row[0])}
    assert rows["quota.warning"] == [field.name for field in fields(QuotaEvent)]
    received, updated = (
        re.findall(r'^            "(\w+)":', inspect.getsource(told), re.M)
        for told in (webhooks.message_received, webhooks.message_updated)
    )
    assert rows["message.received"] == received
    assert sorted(updated) == sorted([*received, *rows["message.updated"]])
    assert rows.keys() == {*EVENTS, "ping"} - {"review.waiting"}


def test_the_waits_and_times_of_webhooks_are_those_that_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    units = {"second": 1, "minute": 60, "hour": 3600}
    told = re.findall(r"(\d+) (second|minute|hour)s?", WEBHOOKS_WORDS.partition("is tried again after")[2].partition("(`")[0])
    waits = [int(wait) for wait in read_settings().webhook_waits_s.split(",")]
    assert [int(number) * units[unit] for number, unit in told] == waits
    assert len(waits) == 7
    assert "eight tries" in WEBHOOKS_WORDS
    assert sum(waits) < 86_400
    assert (webhook_send.LANES, webhook_log.KEPT.days, endpoints.OVERLAP.total_seconds()) == (4, 30, 24 * 3600)
    assert "four messages on their way at once" in WEBHOOKS_WORDS
    assert "last 30 days" in WEBHOOKS_WORDS
    assert "For 24 hours messages carry" in WEBHOOKS_WORDS
