"""No message text, secret or whole number is in a log line, whatever goes wrong."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterator

import pytest
from flask import Flask
from sqlalchemy import insert
from sqlalchemy.exc import SQLAlchemyError

from tests.fakes.openai import FakeOpenAI
from tests.fakes.server import Fault
from tests.fakes.twilio import FakeTwilio
from tests.support import run_jobs, text
from webapp.extensions import writing
from webapp.logs import MaskingFormatter
from webapp.models import Delivery

ALICE = "+15005550123"
SECRET_TEXT = "my innermost thoughts about turnips"


@pytest.fixture
def log() -> Iterator[Callable[[], str]]:
    """Everything that is logged at any level, in the form in which the product writes it."""
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(MaskingFormatter())
    root = logging.getLogger()
    before = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield written.getvalue
    root.removeHandler(handler)
    root.setLevel(before)


def test_a_conversation_by_text_leaves_no_trace_of_what_was_said(
    make_app: Callable[..., Flask], openai: FakeOpenAI, twilio: FakeTwilio, log: Callable[[], str]
) -> None:
    openai.text = f"You told me of {SECRET_TEXT}."
    with make_app(log_level="DEBUG").app_context():
        text(SECRET_TEXT, ALICE, channel="twilio")
        run_jobs()
        openai.faults += [Fault(status=500, body=SECRET_TEXT.encode()), Fault(status=401, body=b"sk-for-tests-only is wrong")]
        twilio.faults.append(Fault(path="Messages", status=500, body=b"{}"))
        for _ in range(2):
            text(SECRET_TEXT, ALICE, channel="twilio")
            run_jobs()
    lines = log()
    assert "failed" in lines
    for secret in ("turnips", ALICE, ALICE[1:], "sk-for-tests-only", twilio.auth_token):
        assert secret not in lines


def test_an_error_of_the_database_does_not_quote_what_was_stored(app: Flask) -> None:
    with pytest.raises(SQLAlchemyError) as error, writing() as connection:
        connection.execute(insert(Delivery), {"channel": "twilio", "body": SECRET_TEXT})
    assert "turnips" not in str(error.value)


def test_a_number_is_masked_in_whoevers_line(log: Callable[[], str]) -> None:
    logging.getLogger("some.library").warning("cannot reach %s for %s", "example.com", ALICE)
    assert "+1********23" in log()
