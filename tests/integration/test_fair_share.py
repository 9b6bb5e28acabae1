"""The share of the lower queues, by the very parts that give it: Redis, the worker's script, and workers."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator

import pytest
import redis
from rq import Queue
from rq.serializers import JSONSerializer

from tests.integration.test_worker import JOBS, SOON_S
from tests.integration.worker_jobs import meeting
from webapp.jobs.worker import ThreadWorker
from webapp.jobs.worker_take import Taker
from webapp.queues import EXECUTE, HIGH, LOW, NORMAL, QUEUES, Task, put
from webapp.services import pace
from webapp.turns import HOURS, LOADS, MINUTES

NOTE = Task("note", JOBS + "note_queue", 30)


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    meeting.reset()
    with redis.Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def queues(client: redis.Redis) -> list[Queue]:
    return [Queue(name, connection=client, serializer=JSONSerializer) for name in QUEUES]


class Flood:
    """Keeps the high queue full, whatever is taken from it."""

    def __init__(self, client: redis.Redis, task: Task) -> None:
        self.client, self.task, self.made = client, task, 0

    def rise(self, to: int = 60) -> None:
        if (missing := to - self.client.llen("rq:queue:high")) > 0:
            put(self.client, self.task, [f"high-{self.made + number}" for number in range(missing)], HIGH)
            self.made += missing


def start(takers: list[Taker], flood: Flood, starts: int, at_once: int = 1) -> Counter[str]:
    """Who was started, while the takers come in turns."""
    found: list[str] = []
    while len(found) < starts:
        for taker in takers:
            flood.rise()
            taken, _ = taker.take(at_once)
            taker._in_flight = 0  # All of them ended at once.
            found += [one.queue.name for one in taken]
    return Counter(found[:starts])


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("at_once", [1, 7])
def test_with_the_high_queue_always_full_the_lowest_has_five_percent_of_the_starts(
    client: redis.Redis, queues: list[Queue], workers: int, at_once: int
) -> None:
    put(client, NOTE, [f"normal-{n}" for n in range(400)], NORMAL)
    put(client, NOTE, [f"low-{n}" for n in range(100)], LOW)
    takers = [Taker(queues, client, f"w{n}", at_once) for n in range(workers)]
    share = start(takers, Flood(client, NOTE), 640, at_once)
    assert share[LOW] >= 0.05 * 640
    assert share == {HIGH: 480, NORMAL: 120, LOW: 40}


def test_workers_that_live_for_one_job_only_do_not_starve_the_low_queue(client: redis.Redis, queues: list[Queue]) -> None:
    put(client, NOTE, [f"low-{n}" for n in range(30)], LOW)
    flood, found = Flood(client, NOTE), []
    for number in range(160):
        flood.rise()
        taken, _ = Taker(queues, client, f"w{number}", 1).take(1)
        found += [one.queue.name for one in taken]
    assert found.count(LOW) >= 8


def test_the_last_one_in_the_low_queue_is_started_too(client: redis.Redis, queues: list[Queue]) -> None:
    put(client, NOTE, ["only"], LOW)
    share = start([Taker(queues, client, "w", 1)], Flood(client, NOTE), 16)
    assert share[LOW] == 1


@pytest.mark.parametrize("workers", [1, 2])
def test_real_workers_keep_the_share_with_a_high_queue_that_never_empties(
    client: redis.Redis, queues: list[Queue], redis_url: str, workers: int
) -> None:
    put(client, NOTE, [f"normal-{n}" for n in range(200)], NORMAL)
    put(client, NOTE, [f"low-{n}" for n in range(60)], LOW)
    flood, over = Flood(client, NOTE), threading.Event()
    flood.rise(200)

    def keep_full() -> None:
        with redis.Redis.from_url(redis_url) as own:
            flood.client = own
            while not over.wait(0.005):
                flood.rise(200)

    filling = threading.Thread(target=keep_full)
    team = [ThreadWorker(queues, client, slots=4) for _ in range(workers)]
    threads = [filling, *(threading.Thread(target=worker.work) for worker in team)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(480):
            assert meeting.done.acquire(timeout=SOON_S)
        notes = list(meeting.notes[:480])
    finally:
        for worker in team:
            worker.request_stop()
        over.set()
        for thread in threads:
            thread.join(SOON_S)
    share = Counter(notes)
    assert share[LOW] >= 0.05 * 480
    assert share[HIGH] > share[NORMAL] > share[LOW]


# -- what is counted by the way --------------------------------------------------------------------------------------
def minutes(client: redis.Redis, prefix: str = MINUTES) -> list[pace.Spell]:
    found = [(int(key.rpartition(b":")[2]), client.hgetall(key)) for key in client.scan_iter(f"{prefix}*")]
    return pace.read_all([(number, "") for number, _ in found], [fields for _, fields in found])


def total(client: redis.Redis, queue: str, task: str, prefix: str = MINUTES) -> int:
    return sum(spell.started_in(queue, task) for spell in minutes(client, prefix))


def test_starts_are_counted_by_queue_and_task_over_all_workers(client: redis.Redis, queues: list[Queue]) -> None:
    deliver = Task("deliver", JOBS + "note_queue", 30)
    execute = Task(EXECUTE.name, JOBS + "note_queue", 30)
    put(client, execute, ["a", "b", "c"], HIGH)
    put(client, deliver, ["d", "e"], NORMAL)
    put(client, NOTE, ["f"], NORMAL)
    put(client, execute, ["g"], LOW)
    for number in range(2):
        Taker(queues, client, f"w{number}", 4).take(4)
    for prefix in (MINUTES, HOURS):
        assert total(client, HIGH, "execute", prefix) == 3
        assert total(client, NORMAL, "deliver", prefix) == 2
        assert total(client, NORMAL, "execute", prefix) == 0
        assert total(client, NORMAL, "other", prefix) == 1
        assert total(client, LOW, "execute", prefix) == 1
    first = min(minutes(client), key=lambda spell: spell.number)
    assert first.waited == {HIGH: 3, NORMAL: 3, LOW: 1}
    assert all(0 < client.ttl(key) <= 2 * 3600 for key in client.scan_iter(f"{MINUTES}*"))


def test_a_real_worker_enters_its_load_its_ends_and_its_work(client: redis.Redis, queues: list[Queue]) -> None:
    put(client, Task("execute", JOBS + "wait_at_gate", 30), ["one", "two"], NORMAL)
    worker = ThreadWorker(queues, client, slots=2, name="w")
    thread = threading.Thread(target=worker.work)
    thread.start()
    try:
        for _ in range(2):
            assert meeting.started.acquire(timeout=SOON_S)
        assert client.hget(LOADS, "w") == b"2"
        threading.Event().wait(0.1)  # So that there is work to be counted.
        meeting.gate.set()
        for _ in range(2):
            assert meeting.done.acquire(timeout=SOON_S)
        ends = threading.Event()
        for _ in range(200):
            if client.hget(LOADS, "w") == b"0":
                break
            ends.wait(0.05)
    finally:
        meeting.gate.set()
        worker.request_stop()
        thread.join(SOON_S)
    assert sum(spell.ended for spell in minutes(client)) == 2
    assert 0.2 <= sum(spell.busy_s for spell in minutes(client)) < 2 * SOON_S


def test_taking_costs_one_round_trip_with_all_that_is_counted(
    client: redis.Redis, queues: list[Queue], monkeypatch: pytest.MonkeyPatch
) -> None:
    taker = Taker(queues, client, "w", 8)
    taker.take(8)
    put(client, NOTE, [str(n) for n in range(5)], HIGH)
    trips = []
    send = redis.connection.AbstractConnection.send_packed_command

    def count(self: redis.Connection, command: object, check_health: bool = True) -> None:
        trips.append(1)
        send(self, command, check_health)

    monkeypatch.setattr(redis.connection.AbstractConnection, "send_packed_command", count)
    taken, _ = taker.take(8)
    assert len(taken) == 5
    assert len(trips) == 1


def test_an_idle_worker_writes_nothing_when_it_looks(client: redis.Redis, queues: list[Queue]) -> None:
    taker = Taker(queues, client, "w", 8)
    taker.take(8)
    before = client.info("commandstats").get("cmdstat_hincrby", {"calls": 0})["calls"]
    for _ in range(5):
        taker.take(8)
    after = client.info("commandstats").get("cmdstat_hincrby", {"calls": 0})["calls"]
    assert after == before
    assert list(client.scan_iter(f"{MINUTES}*")) == []
