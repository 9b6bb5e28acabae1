"""What the API's document promises, held against what the API does: schemathesis makes the calls, in order and at random.

Many more examples, other ones at each run:

    TEST_API_EXAMPLES=300 .venv/bin/python -m pytest tests/integration/test_web_api_properties.py

A failure says how to make its call again.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import schemathesis
from flask import Flask
from schemathesis.config import SchemathesisConfig
from schemathesis.core.failures import Failure
from schemathesis.engine import events, from_schema
from schemathesis.transport.wsgi import WSGITransport
from sqlalchemy import delete, select, update

from tests.fakes.receiver import FakeReceiver
from tests.fakes.stability import FakeStability
from tests.integration.api_things import Things, operations
from tests.integration.people_api_support import OLGA, OTTO, World
from tests.integration.web_support import ADMIN
from webapp.extensions import reading, writing
from webapp.models import ApiToken, Person, ProviderSetting, Request
from webapp.pipeline import execute
from webapp.routing import vendors

pytestmark = [
    pytest.mark.parametrize("database_url", ["sqlite"], indirect=True),
    # schemathesis leaves files that are sent, and streams, to the garbage collector.
    pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:Exception ignored in. <_io:pytest.PytestUnraisableExceptionWarning"),
]

_MORE = int(os.environ.get("TEST_API_EXAMPLES", "0"))
_KEY = re.compile(r"[\x21-\x7e]{1,255}")
_OF_SESSIONS = ("max_redirects", "verify", "cert", "proxies")
_OWN_GROUND = frozenset(
    {
        "PATCH /api/users/{who}",
        "POST /api/users/{who}/deactivate",
        "POST /api/users/{who}/update_tier",
        "PATCH /api/providers/{name}",
        "DELETE /api/tokens/{token_id}",
    }
)
"""What may take the ground from under the test itself: its person, its token, its provider."""

CHECKS = {
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "positive_data_acceptance",
    "unsupported_method",
    "allow_header_conformance",
    "ignored_auth",
    "use_after_free",
    "ensure_resource_availability",
}
"""Not `missing_required_header`: no header is required. Not `object_level_authorization`: `test_web_api_strangers` goes
further. Not `max_response_time`: what waits for the end of a task takes its time."""

BEYOND = {
    "cursor": "opaque: one is only ever taken from the page before",
    "created_from": "a range has to begin before it ends, and not be too long",
    "created_to": "likewise",
    "body": "one of several members has to be there",
    "prompt": "a prompt or a template",
    "prompts": "likewise",
    "new_conversation": "not beside conversation_id",
    "variables": "which there are the template says",
    "parameters": "which there are the operation says",
    "model": "which there are the providers say",
    "operation": "which there are the plugins say",
    "pictures": "base64 of a picture",
    "picture": "likewise",
    "rows": "what a batch's rows have to have its template says",
    "csv": "likewise",
    "jsonl": "likewise",
    "file": "likewise",
    "template": "likewise",
    "values": "which there are the provider's plugin says",
    "prices": "amounts, and one at least",
    "limits": "each kind once; which providers and operations there are the plugins say",
    "peak_hours": "hours in words",
    "default_model": "a model's name has no blanks",
    "kind": "which there are the provider says",
    "url": "a whole address that is not internal",
    "events": "which there are the description says",
    "email": "an address, and not that of somebody else",
    "phone": "a number with its country code; or an e-mail address instead",
    "time_zone": "a name of the time zone database",
    "password": "needs an e-mail address, and strength",
    "preferences": "at most so many bytes",
    "plan": "which there are the operator says",
    "channel": "which there are the plugins say",
    "organization_id": "which there are, and which of them are one's own",
    "scopes": "at most what the caller's token opens",
    "name": "more than blanks",
    "title": "likewise",
    "text": "likewise",
    "category": "a word",
    "reason": "likewise, or one of the reasons that there are",
    "notes": "more than blanks",
    "full_name": "likewise",
    "who": "an id or a phone number",
}
"""Members of which a schema cannot say all: what is well-formed may be refused for these, by their names (422)."""


class Inspection:
    """What came of a run: what failed, what was looked at, and with which statuses each operation answered."""

    def __init__(self, world: World, who: str, phases: dict[str, int]) -> None:
        self.world, self.who = world, who
        self.failures: dict[tuple[str, str, str], str] = {}
        self.checks: Counter[str] = Counter()
        self.statuses: dict[str, Counter[int]] = {}
        self._numbers = itertools.count()
        headers = {"Authorization": f"Bearer {world.token(who)}"} if who else {}
        self.schema = schemathesis.openapi.from_wsgi("/api/openapi.json", world.app, config=_config(headers, phases))
        self.schema.hooks.register_hook_with_name(self.filter_failure, "filter_failure")

    # -- calls -------------------------------------------------------------------------------------------------------------
    def _sender(self, send: Callable[..., Any]) -> Callable[..., Any]:
        def through(transport: Any, case: Any, **options: Any) -> Any:
            # The calls of `ignored_auth` hand these to werkzeug, which does not know them.
            known = {name: value for name, value in options.items() if name not in _OF_SESSIONS}
            self._give_key(case)
            answer = send(transport, case, **known)
            self._note_answer(case.operation.label, answer.status_code)
            return answer

        return through

    def _give_key(self, case: Any) -> None:
        """Each call has a key of its own, as long as the one that was drawn: all but the first would be refused."""
        key = (case.headers or {}).get("Idempotency-Key")
        if isinstance(key, str) and _KEY.fullmatch(key):
            number = str(next(self._numbers))
            case.headers["Idempotency-Key"] = key + number if len(key) + len(number) < 256 else key[: -len(number)] + number

    def _note_answer(self, label: str, status: int) -> None:
        """Note what was answered, and put back what the call took from the test itself."""
        self.statuses.setdefault(label, Counter())[status] += 1
        if label in _OWN_GROUND and status < 300:
            with self.world.app.app_context():
                with writing() as connection:
                    connection.execute(update(Person).values(active=True, plan_code="enterprise"))
                    connection.execute(update(ApiToken).values(revoked_at=None))
                    connection.execute(delete(ProviderSetting))
                vendors.look_again()

    def filter_failure(self, _context: Any, failure: Failure, case: Any, response: Any) -> bool:
        """Leave out what is no fault."""
        label, kind = case.operation.label, type(failure).__name__
        if kind == "RejectedPositiveData" and "/None" in response.request.url:
            # A link leads on from a member that was null.
            return False
        if kind == "RejectedPositiveData" and response.status_code == 422:
            problem = json.loads(response.content)
            # For JSON Schema 2.0 is a whole number; a program that writes one into such a place has miscounted.
            number = "should be a valid integer" in problem["detail"]
            return not number and problem.get("field", "").partition(".")[0] not in BEYOND
        if kind == "AllowHeaderMismatch":
            # Where `me` stands another id may stand: `PATCH /api/users/me` is described as `/api/users/{who}`.
            return bool(label != "GET /api/users/me")
        # An event stream is described as a whole, and looked at event by event.
        return not (kind == "JsonSchemaError" and label.endswith("/events"))

    # -- the run -----------------------------------------------------------------------------------------------------------
    def run(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Make all calls."""
        errors = []
        monkeypatch.setattr(WSGITransport, "send", self._sender(WSGITransport.send))
        for event in from_schema(self.schema).execute():
            if isinstance(event, events.ScenarioFinished):
                self._note(event.recorder)
            elif isinstance(event, events.NonFatalError):
                errors.append(f"{event.label}: {event.value!r}")
            elif isinstance(event, events.FatalError):
                raise event.exception
        assert errors == []
        told = [f"{label}: {words}" for (label, _, _), words in self.failures.items()]
        assert not told, f"as {self.who or 'nobody'}:\n\n" + "\n\n".join(told[:10])

    def _note(self, recorder: Any) -> None:
        for case_id, nodes in recorder.checks.items():
            for node in nodes:
                self.checks[node.name] += 1
                if node.failure_info is None:
                    continue
                failure = node.failure_info.failure
                label = recorder.cases[case_id].value.operation.label
                key = (label, type(failure).__name__, failure.message.partition("\n")[0][:60])
                answer = recorder.interactions[case_id].response
                got = f"{answer.status_code} {answer.content[:500]!r}" if answer else "no answer"
                again = node.failure_info.code_sample or ""
                self.failures.setdefault(key, f"{failure.title}: {failure.message[:700]}\n{again[:1000]}\n{got}")


def _config(headers: dict[str, str], phases: dict[str, int]) -> SchemathesisConfig:
    given: dict[str, dict[str, Any]] = {}
    for name in ("examples", "coverage", "fuzzing", "stateful"):
        most = phases.get(name)
        given[name] = {"enabled": most is not None}
        if most:
            given[name]["generation"] = {"max-examples": _MORE or most}
    return SchemathesisConfig.from_dict(
        {
            "headers": headers,
            "continue-on-failure": True,
            "request-timeout": 2,
            "generation": {"deterministic": not _MORE, "no-shrink": True, "database": "none"},
            "checks": {"enabled": False} | {name: {"enabled": True} for name in CHECKS},
            "phases": given,
        }
    )


@pytest.fixture
def world(make_app: Callable[..., Flask], monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """The things of Olga and Otto, with somebody who answers what is asked, and no network beyond this machine."""
    look_up = socket.getaddrinfo

    def look_up_here(host: Any, *args: Any, **options: Any) -> Any:
        if host in ("127.0.0.1", "localhost", None):
            return look_up(host, *args, **options)
        raise socket.gaierror(socket.EAI_NONAME, "there is no network in this test")

    monkeypatch.setattr(socket, "getaddrinfo", look_up_here)
    with FakeStability() as stability, FakeReceiver() as receiver:
        for name, value in stability.settings.items():
            monkeypatch.setenv(name, value)
        app = make_app(throttle_signed_in_per_h=0, throttle_anonymous_per_h=0, allow_outbound="127.0.0.1", log_level="ERROR")
        # A fault is an answer with the status 500, as it is for a program.
        app.config["TESTING"] = False
        made = World(app)
        Things(made, receiver)
        made.put(Person, plan_code="enterprise")
        stop = threading.Event()
        worker = threading.Thread(target=_answer, args=(app, stop))
        worker.start()
        yield made
        stop.set()
        worker.join()


def _answer(app: Flask, stop: threading.Event) -> None:
    """Answer what is queued until it is time to stop."""
    with app.app_context():
        while not stop.wait(0.05):
            with reading() as connection:
                queued = connection.scalars(select(Request.id).where(Request.status == "queued")).all()
            for request_id in queued:
                execute.execute(request_id)


ALL = {"examples": 0, "coverage": 0, "fuzzing": 1, "stateful": 1}


def test_the_api_keeps_what_its_document_promises_to_an_administrator(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    inspection = Inspection(world, ADMIN, ALL if _MORE else {"examples": 0, "coverage": 0, "stateful": 3})
    inspection.run(monkeypatch)
    assert set(inspection.checks) == CHECKS, "each check looked at something"
    served = {label for label, found in inspection.statuses.items() if min(found) < 300}
    assert len(served) > 60, "most operations did what they are for"


@pytest.mark.parametrize(
    ("who", "closed", "phases"),
    [
        (OLGA, ("manager", "admin"), {"examples": 0, "fuzzing": 4}),
        (OTTO, ("admin",), {"examples": 0, "stateful": 2}),
    ],
)
def test_the_api_keeps_what_its_document_promises_to_people(
    world: World, monkeypatch: pytest.MonkeyPatch, who: str, closed: tuple[str, ...], phases: dict[str, int]
) -> None:
    inspection = Inspection(world, who, ALL if _MORE else phases)
    inspection.run(monkeypatch)
    for method, path, operation in operations(inspection.schema.raw_schema):
        if operation["x-role"] in closed:
            assert min(inspection.statuses.get(f"{method} {path}", {403})) >= 400, path


def test_the_api_does_nothing_for_nobody(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    inspection = Inspection(world, "", ALL if _MORE else {"examples": 0, "fuzzing": 1})
    inspection.run(monkeypatch)
    assert len(inspection.statuses) == len(operations(inspection.schema.raw_schema))
    for label, found in inspection.statuses.items():
        assert set(found) <= {401, 405}, label
