"""What the product promises, with two web and two worker processes, on both databases, under load and under fire."""

from __future__ import annotations

import collections
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from sqlalchemy import func, select

from tests.conftest import ADMIN_PASSWORD
from tests.fakes.openai import FakeOpenAI
from tests.fakes.twilio import FakeTwilio
from tests.support import add_person, assert_books_balance, books, rows, sent
from tests.system.product import Product
from webapp.models import Delivery, Direction, Request, RequestStatus
from webapp.models.requests import ENDED

pytestmark = pytest.mark.system


@pytest.fixture
def openai() -> Iterator[FakeOpenAI]:
    with FakeOpenAI() as fake:
        yield fake


@pytest.fixture
def twilio() -> Iterator[FakeTwilio]:
    with FakeTwilio() as fake:
        yield fake


@pytest.fixture
def lease_s() -> int:
    """Seconds after which a silent process is taken for dead. Where none dies, none may be: on a busy machine a living one is
    silent for seconds, and a request that is taken over is asked of the vendor again."""
    return 60


@pytest.fixture
def product(tmp_path: Path, database_url: str, openai: FakeOpenAI, twilio: FakeTwilio, lease_s: int) -> Iterator[Product]:
    env = {
        "SWITCHHOOK_LEASE_S": str(lease_s),
        "OPENAI_API_KEY": "sk-for-tests-only",
        "OPENAI_BASE_URL": f"{openai.url}/v1",
        "SWITCHHOOK_WEB_PROCESSES": "2",
        "SWITCHHOOK_WEB_THREADS": "32",
        **twilio.settings,
    }
    with Product(tmp_path, database_url, env) as product:
        product.start("web", "worker-1", "worker-2", "cron")
        yield product


class Phones:
    """Posts signed webhooks, many at once."""

    def __init__(self, product: Product, twilio: FakeTwilio) -> None:
        self.url = f"{product.url}/sms/receive"
        self.twilio = twilio
        self.client = httpx.Client(timeout=30)

    def message(self, sender: str, body: str) -> tuple[dict[str, str], bytes]:
        return self.twilio.message(self.url, sender, body)

    def post(self, signed: tuple[dict[str, str], bytes]) -> int:
        for _ in range(60):
            try:
                return self.client.post(self.url, headers=signed[0], content=signed[1]).status_code
            except httpx.TransportError:
                time.sleep(0.25)  # the web server was just killed; Twilio can be set to try again, too
        raise AssertionError("the web server did not come back")

    def post_all(self, messages: list[tuple[dict[str, str], bytes]]) -> list[int]:
        with ThreadPoolExecutor(24) as pool:
            return list(pool.map(self.post, messages))


@pytest.fixture
def phones(product: Product, twilio: FakeTwilio) -> Iterator[Phones]:
    phones = Phones(product, twilio)
    yield phones
    phones.client.close()


def number(i: int) -> str:
    """A sender that is none of the numbers with a meaning in Twilio's test mode."""
    return f"+1500555{1000 + i}"


def count(status: str | None = None) -> int:
    query = select(func.count()).select_from(Request)
    return rows(query.where(Request.status == status) if status else query)[0]


def all_ended(expected: int) -> Callable[[], bool]:
    return lambda: (
        rows(select(func.count()).select_from(Request).where(Request.status.in_([s.value for s in ENDED])))[0] == expected
    )


def nothing_on_its_way() -> bool:
    open_states = ("pending", "sending", "unknown")
    query = select(func.count()).select_from(Delivery).where(Delivery.direction == Direction.OUT)
    return rows(query.where(Delivery.status.in_(open_states)))[0] == 0


def test_each_of_200_messages_is_answered_once_and_forged_ones_not_at_all(
    product: Product, twilio: FakeTwilio, openai: FakeOpenAI, phones: Phones
) -> None:
    quiet = number(0)
    messages = [phones.message(number(100 + i % 50), f"question {i}") for i in range(200)]
    twice = messages + messages[::4]
    forged = [(headers | {"X-Twilio-Signature": "AAAAAAAAAAAAAAAAAAAAAAAAAAA="}, body) for headers, body in messages[:20]]
    assert phones.post(phones.message(quiet, "before STOP")) == 200
    product.wait_until(lambda: [m for m in twilio.sent if m["to"] == quiet], "the first answer")

    statuses = phones.post_all(twice[:125])
    assert phones.post(phones.message(quiet, "STOP")) == 200
    statuses += phones.post_all(twice[125:] + [phones.message(quiet, "after STOP") for _ in range(3)])
    assert collections.Counter(statuses) == {200: 253}
    assert collections.Counter(phones.post_all(forged)) == {403: 20}

    product.wait_until(all_ended(201), "all requests ended")
    product.wait_until(nothing_on_its_way, "all messages are out")
    per_number = collections.Counter(m["to"] for m in twilio.sent)
    assert per_number == {number(100 + i): 4 for i in range(50)} | {quiet: 1}
    assert len(openai.calls) == 201
    assert_books_balance()


def test_of_100_messages_at_once_a_free_person_gets_10_answers_and_one_notice(
    product: Product, twilio: FakeTwilio, openai: FakeOpenAI, phones: Phones
) -> None:
    sender = number(7)
    assert set(phones.post_all([phones.message(sender, f"question {i}") for i in range(100)])) == {200}
    product.wait_until(all_ended(100), "all requests ended")
    product.wait_until(nothing_on_its_way, "all messages are out")
    assert count(RequestStatus.COMPLETED) == 10
    assert count(RequestStatus.REJECTED) == 90
    assert len(openai.calls) == 10
    notices = [m["body"] for m in twilio.sent if "10 messages of this month" in m["body"]]
    assert len(notices) == 1
    assert "You get new ones on" in notices[0]
    assert len(twilio.sent) == 11
    assert_books_balance()
    assert books().counters["requests"] == 10


def test_of_30_chat_messages_at_once_each_that_is_refused_says_so(product: Product, openai: FakeOpenAI) -> None:
    add_person(email="alice@example.com", password=ADMIN_PASSWORD)
    with httpx.Client(base_url=product.url, timeout=30, follow_redirects=False) as client:
        sign_in(client, "alice@example.com")
        token = csrf(client.get("/").text)

        def say(i: int) -> httpx.Response:
            form = {"csrf_token": token, "text": f"question {i}", "key": f"key-{i}"}
            return client.post("/chat", data=form, headers={"HX-Request": "true", "X-CSRFToken": token})

        with ThreadPoolExecutor(15) as pool:
            answers = list(pool.map(say, range(30)))
    refused = [a for a in answers if "10 messages of this month" in a.text]
    assert len(refused) == 20
    assert all("You get new ones on" in a.text for a in refused)
    product.wait_until(all_ended(30), "all requests ended")
    assert len(openai.calls) == 10
    assert_books_balance()


def csrf(page: str) -> str:
    found = re.search(r'name="csrf_token"[^>]*value="([^"]+)"', page) or re.search(
        r'value="([^"]+)"[^>]*name="csrf_token"', page
    )
    assert found, page[:2000]
    return found[1]


def sign_in(client: httpx.Client, email: str) -> None:
    page = client.get("/login").text
    answer = client.post("/login", data={"csrf_token": csrf(page), "email": email, "password": ADMIN_PASSWORD})
    assert answer.status_code in (302, 303), answer.text[:2000]


@pytest.mark.parametrize("lease_s", [2])
def test_100_requests_outlive_the_death_of_a_worker_the_web_server_and_redis(
    product: Product, twilio: FakeTwilio, openai: FakeOpenAI, phones: Phones
) -> None:
    openai.text = "a word and another one " * 5
    openai.piece_delay_s = 0.05
    with ThreadPoolExecutor(1) as pool:
        posting = pool.submit(phones.post_all, [phones.message(number(i), f"question {i}") for i in range(100)])
        product.wait_until(lambda: count(RequestStatus.PROCESSING) >= 10, "ten are running")
        product.kill("worker-1")
        product.start("worker-1")
        product.kill("web")
        product.start("web")
        product.kill_redis()
        product.start_redis()
        assert set(posting.result()) == {200}
    product.wait_until(all_ended(100), "all requests ended", 90)
    product.wait_until(nothing_on_its_way, "all messages are out", 90)
    assert count(RequestStatus.COMPLETED) == 100
    assert collections.Counter(m["to"] for m in twilio.sent) == {number(i): 1 for i in range(100)}
    assert len({d.request_id for d in sent()}) == 100
    assert_books_balance()
