"""Whatever is taken, settled, topped up, given back and left to expire, by whichever processes, in whichever order: no limit is
passed at any moment, and every counter is the sum of its receipts."""

from __future__ import annotations

import multiprocessing
import os
import queue
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from flask import Flask
from sqlalchemy import func, select

from tests.balance import counters_off, counters_passed
from tests.integration import holds_traffic
from tests.integration.holds_traffic import OVERDRAWN, WANTED, Account
from webapp.extensions import now, reading, writing
from webapp.models import Hold, LimitCounter
from webapp.quota import holds

PROCESSES = 4
SECONDS = 5.0


@pytest.fixture
def seed() -> int:
    """`HOLDS_SEED` repeats what another run has done, as far as the order of processes allows."""
    return int(os.environ.get("HOLDS_SEED") or random.SystemRandom().randrange(10**6))


class Watcher:
    """Looks at the counters over and over while others change them."""

    def __init__(self, app: Flask) -> None:
        self.looks = 0
        self.found: set[str] = set()
        self._app = app
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def _watch(self) -> None:
        with self._app.app_context():
            while not self._done.wait(0.05):
                with reading() as connection:
                    self.found.update(f"passed: {one}" for one in counters_passed(connection) if not one.startswith(OVERDRAWN))
                with reading() as connection:
                    self.found.update(f"off: {one}" for one in counters_off(connection))
                with reading() as connection:
                    least = select(func.min(LimitCounter.used), func.min(LimitCounter.held))
                    if any((figure or 0) < 0 for figure in connection.execute(least).one()):
                        self.found.add("negative")
                self.looks += 1

    def __enter__(self) -> Watcher:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()


@pytest.fixture
def traffic(database_url: str, tmp_path: Path, seed: int) -> Iterator[Callable[[], list[Account]]]:
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    together = context.Barrier(PROCESSES)
    arguments = [(database_url, str(tmp_path), seed + number, SECONDS, together, answers) for number in range(PROCESSES)]
    processes = [context.Process(target=holds_traffic.run, args=each) for each in arguments]

    def run() -> list[Account]:
        for process in processes:
            process.start()
        try:
            found = [answers.get(timeout=SECONDS + 150) for _ in processes]
        except queue.Empty:
            raise AssertionError(f"a process did not end: {[process.exitcode for process in processes]}") from None
        for process in processes:
            process.join(30)
        return found

    yield run
    for process in processes:
        if process.is_alive():
            process.kill()
            process.join(10)
    answers.close()
    answers.join_thread()


def open_requests() -> list[object]:
    query = select(Hold.request_id).where(Hold.settled_at.is_(None), Hold.request_id.is_not(None)).distinct()
    with reading() as connection:
        return list(connection.execute(query).scalars())


def test_no_interleaving_passes_a_limit_or_loses_a_receipt(
    app: Flask, traffic: Callable[[], list[Account]], seed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with Watcher(app) as watcher:
        accounts = traffic()
    did, used = Counter[str](), Counter[tuple[str, str]]()
    for account in accounts:
        did.update(account.did)
        used.update(account.used)
    told = f"seed {seed}; seen {watcher.looks} times; {dict(did.most_common())}"
    with capsys.disabled():
        print(f"\n{told}")  # noqa: T201
    assert [fault for account in accounts for fault in account.faults] == [], told
    assert sorted(watcher.found) == [], told

    # It is worth something only if all of it took place.
    assert {what for what in WANTED if did[what] < 3} == set(), told
    assert did["settled for nothing"] > 3, told
    assert watcher.looks > 10, told

    for request_id in open_requests():
        with writing() as connection:
            holds.give_back(connection, request_id, now(), by="test", why="at the end")
            assert holds.settle(connection, request_id, {}, now(), by="test", why="again") == []
    with writing() as connection:
        holds.expire(connection, now() + timedelta(minutes=5))
    with reading() as connection:
        counters = connection.execute(
            select(LimitCounter.subject, LimitCounter.name, LimitCounter.used, LimitCounter.held)
        ).all()
        assert counters_off(connection) == [], told
    assert {row.held for row in counters} == {0}, told
    # Apart from the receipts, whoever settled has kept books of their own.
    assert {(row.subject, row.name): row.used for row in counters if row.used} == {k: n for k, n in used.items() if n}, told
