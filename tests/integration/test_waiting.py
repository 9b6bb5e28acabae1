"""Where somebody stands in the queue, and what they are told of their wait."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator

import pytest
import redis
from flask import Flask
from sqlalchemy import insert

from tests.integration import queue_support
from tests.integration.queue_support import ask, change, later, sign
from tests.integration.test_counts import counting
from tests.support import add_person, run_jobs
from webapp import queues
from webapp.contracts.errors import NotFound
from webapp.extensions import now, queue_redis, table_of, writing
from webapp.jobs.worker_take import Taker
from webapp.models import Request, RequestStatus
from webapp.models.columns import new_id
from webapp.pipeline.cancel import cancel
from webapp.services import waiting
from webapp.services.waiting import Estimate, Reason, duration

sqlite_only = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture(autouse=True)
def always_fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "FRESH_S", 0.0)


@pytest.fixture
def people(app: Flask) -> dict[str, uuid.UUID]:
    """A person for each queue."""
    plans = {"high": "enterprise", "normal": "premium", "low": "free"}
    return {queue: add_person(email=f"{queue}@example.com", plan=plan) for queue, plan in plans.items()}


# -- position --------------------------------------------------------------------------------------------------------
def test_positions_are_the_order_in_which_a_worker_takes_them(people: dict[str, uuid.UUID]) -> None:
    for queue, count in (("low", 3), ("normal", 5), ("high", 20), ("low", 1), ("high", 3)):
        for _ in range(count):
            ask(people[queue])
    client = queue_redis()
    taker = Taker([queues.queue(name, client) for name in queues.QUEUES], client, "w", 64)
    first = [one.job.id.partition("-")[2] for one in taker.take(7)[0]]
    waiting_ids = [uuid.UUID(job.partition("-")[2]) for name in queues.QUEUES for job in queues.waiting(client, name)]
    said = {request_id: waiting.position(request_id) for request_id in waiting_ids}
    taken = [uuid.UUID(one.job.id.partition("-")[2]) for one in taker.take(64)[0]]
    assert len(first) == 7
    assert [said[request_id] for request_id in taken] == list(range(25))


@sqlite_only
def test_sends_are_no_requests_and_are_not_counted_as_people_ahead(people: dict[str, uuid.UUID]) -> None:
    queues.put(queue_redis(), queues.DELIVER, [str(uuid.uuid4()) for _ in range(30)], queues.NORMAL)
    first, second = ask(people["normal"]), ask(people["normal"])
    assert waiting.position(first) == 0
    assert waiting.position(second) == 1


@sqlite_only
def test_one_that_redis_has_lost_stands_at_the_end_where_the_sweep_will_put_it(people: dict[str, uuid.UUID]) -> None:
    lost = ask(people["low"])
    for _ in range(4):
        ask(people["low"])
    queue_redis().lrem("rq:queue:low", 0, f"execute-{lost}")
    assert waiting.position(lost) == 4


@sqlite_only
def test_one_that_is_on_its_way_into_a_worker_waits_no_more(people: dict[str, uuid.UUID]) -> None:
    request_id = ask(people["low"])
    client = queue_redis()
    Taker([queues.queue(name, client) for name in queues.QUEUES], client, "w", 1).take(1)
    assert waiting.estimate(request_id) == Estimate(0, 0.0)


# -- seconds ---------------------------------------------------------------------------------------------------------
@sqlite_only
def test_with_a_free_slot_the_wait_is_a_moment(people: dict[str, uuid.UUID]) -> None:
    request_id = ask(people["low"])
    sign(slots=4, in_flight=3)
    assert waiting.estimate(request_id) == Estimate(0, 0.0)
    assert waiting.estimate(request_id).words == "You are next, a moment"


def test_with_full_slots_it_follows_from_the_pace_of_the_last_minutes(people: dict[str, uuid.UUID]) -> None:
    ids = [ask(people["normal"]) for _ in range(12)]
    sign("w1", slots=2, in_flight=2)
    sign("w2", slots=2, in_flight=2)
    queue_support.pace(ended=40, busy_s=240)  # Six seconds each, four at once: one and a half seconds for each ahead.
    found = [waiting.estimate(request_id) for request_id in ids]
    assert [one.position for one in found] == list(range(12))
    assert [one.seconds for one in found] == pytest.approx([1.5 * (place + 1) for place in range(12)])
    assert found[11].words == "11 ahead of you, about 20 seconds"


@sqlite_only
def test_a_full_queue_is_never_said_to_take_no_time(people: dict[str, uuid.UUID]) -> None:
    request_id = ask(people["high"])
    sign(slots=128, in_flight=128)
    queue_support.pace(ended=100_000, busy_s=10)
    found = waiting.estimate(request_id)
    assert found.seconds is not None
    assert found.seconds > 0
    assert "0 seconds" not in found.words


@sqlite_only
def test_sends_before_it_take_their_time(people: dict[str, uuid.UUID]) -> None:
    queues.put(queue_redis(), queues.DELIVER, [str(uuid.uuid4()) for _ in range(30)], queues.NORMAL)
    request_id = ask(people["normal"])
    sign()
    queue_support.pace(ended=40, busy_s=40)
    found = waiting.estimate(request_id)
    assert found.position == 0
    assert found.seconds == pytest.approx(31 / 4)


@sqlite_only
def test_what_comes_in_higher_queues_makes_a_low_one_wait_longer(people: dict[str, uuid.UUID]) -> None:
    for _ in range(8):
        ask(people["low"])
    request_id = ask(people["low"])
    sign(slots=1, in_flight=1)
    queue_support.pace(ended=60, busy_s=60)
    calm = waiting.estimate(request_id).seconds
    queue_support.pace(ended=60, busy_s=60, high=40)
    busy = waiting.estimate(request_id).seconds
    assert calm == pytest.approx(9)
    assert busy is not None
    assert busy > 2 * calm


@sqlite_only
@pytest.mark.parametrize("seen_s_ago", [None, 3600.0])
def test_without_a_living_worker_nobody_knows(people: dict[str, uuid.UUID], seen_s_ago: float | None) -> None:
    ask(people["low"])
    request_id = ask(people["low"])
    queue_support.pace(ended=40, busy_s=240)
    if seen_s_ago:
        sign(seen_s_ago=seen_s_ago)
    found = waiting.estimate(request_id)
    assert found == Estimate(1, None, Reason.NO_WORKER)
    assert found.words == "1 ahead of you, nobody is at work just now"


@sqlite_only
def test_a_worker_of_other_queues_is_no_worker_of_this_one(people: dict[str, uuid.UUID]) -> None:
    request_id = ask(people["low"])
    sign("w", in_flight=0, queues=("high",))
    assert waiting.estimate(request_id).reason is Reason.NO_WORKER
    sign("x", in_flight=0, queues=("low",))
    assert waiting.estimate(request_id) == Estimate(0, 0.0)


@sqlite_only
def test_before_a_job_has_ended_nobody_knows(people: dict[str, uuid.UUID]) -> None:
    request_id = ask(people["low"])
    sign()
    queue_support.pace(ended=0, busy_s=240)
    assert waiting.estimate(request_id) == Estimate(0, None, Reason.NO_PACE)


@sqlite_only
def test_suspended_workers_are_said_to_be(people: dict[str, uuid.UUID]) -> None:
    request_id = ask(people["low"])
    sign(in_flight=0)
    queue_redis().set("rq:suspended", 1)
    assert waiting.estimate(request_id).reason is Reason.SUSPENDED


@sqlite_only
def test_what_a_worker_tells_may_be_anything(people: dict[str, uuid.UUID]) -> None:
    request_id = ask(people["low"])
    for name, told in (("a", "{"), ("b", "[]"), ("c", '{"seen": "x"}'), ("d", "null")):
        queue_redis().hset("switchhook:workers", name, told)
    assert waiting.estimate(request_id).reason is Reason.NO_WORKER


@sqlite_only
def test_one_that_is_for_later_and_one_that_runs_have_no_wait(people: dict[str, uuid.UUID]) -> None:
    request_id = ask(people["low"])
    change(request_id, not_before=later(600))
    assert waiting.estimate(request_id) == Estimate(None, None, Reason.SCHEDULED)
    change(request_id, not_before=None, status=RequestStatus.PROCESSING)
    assert waiting.estimate(request_id) == Estimate(None, None, Reason.STARTED)
    assert waiting.estimate(request_id).words == ""


@sqlite_only
def test_a_cancelled_one_waits_no_more(people: dict[str, uuid.UUID]) -> None:
    request_id = ask(people["low"])
    cancel(request_id, people["low"])
    assert waiting.estimate(request_id).reason is Reason.STARTED


@sqlite_only
def test_one_that_is_not_there_or_not_theirs_is_not_found(people: dict[str, uuid.UUID]) -> None:
    request_id = ask(people["low"])
    with pytest.raises(NotFound):
        waiting.estimate(uuid.uuid4())
    with pytest.raises(NotFound):
        waiting.estimate(request_id, people["high"])
    assert waiting.estimate(request_id, people["low"]).position == 0


@pytest.fixture
def without_redis(make_app: Callable[..., Flask]) -> Iterator[None]:
    with make_app(redis_url="unix:///nowhere").app_context():
        yield


@sqlite_only
def test_while_redis_is_away_nobody_knows(without_redis: None) -> None:
    request_id = ask(add_person(email="alice@example.com"))
    assert waiting.estimate(request_id) == Estimate(None, None, Reason.QUEUE_AWAY)


# -- what it costs ---------------------------------------------------------------------------------------------------
def test_it_costs_a_statement_and_a_round_trip_and_the_next_one_reads_the_queues_no_more(
    people: dict[str, uuid.UUID], monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [ask(people["low"]) for _ in range(3)]
    sign()
    waiting.estimate(ids[0])
    with counting(monkeypatch) as counted:
        waiting.estimate(ids[0])
    assert (counted.database, counted.trips) == (1, 1)
    with counting(monkeypatch) as counted:
        assert len(waiting.estimates(ids)) == 3
    assert (counted.database, counted.trips) == (1, 1)
    monkeypatch.setattr(waiting, "FRESH_S", 60.0)
    commands = queue_redis().info("commandstats")["cmdstat_hgetall"]["calls"]
    with counting(monkeypatch) as counted:
        waiting.estimate(ids[1])
    assert (counted.database, counted.trips) == (1, 1)
    assert queue_redis().info("commandstats")["cmdstat_hgetall"]["calls"] == commands


@sqlite_only
def test_among_ten_thousand_the_place_is_found_without_reading_them(people: dict[str, uuid.UUID]) -> None:
    template = ask(people["low"])
    with writing() as connection:
        table = table_of(Request)
        row = dict(connection.execute(table.select().where(table.c.id == template)).mappings().one())
        rows = [row | {"id": new_id(), "created_at": now()} for _ in range(10_000)]
        connection.execute(insert(table), rows)
    queues.put(queue_redis(), queues.EXECUTE, [str(one["id"]) for one in rows], queues.LOW)
    sign()
    queue_support.pace(ended=40, busy_s=240)
    assert waiting.position(rows[-1]["id"]) == 10_000
    assert waiting.estimate(rows[-1]["id"]).words.startswith("10,000 ahead of you, about 4 hours")


# -- a real worker ---------------------------------------------------------------------------------------------------
@sqlite_only
def test_a_real_workers_sign_load_and_pace_make_an_estimate(
    app: Flask, people: dict[str, uuid.UUID], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SWITCHHOOK_DEMO_DELAY_MS", "0")
    for _ in range(6):
        ask(people["low"])
    run_jobs()
    request_id = ask(people["low"])
    found = waiting.estimate(request_id)
    assert found.reason is Reason.NO_WORKER, "the worker has signed off"
    sign(slots=1, in_flight=1)
    found = waiting.estimate(request_id)
    assert found.reason is Reason.NONE
    assert found.seconds is not None
    assert 0 < found.seconds < 30


# -- words -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "a moment"),
        (4, "a few seconds"),
        (12, "about 10 seconds"),
        (47, "about 50 seconds"),
        (55, "about a minute"),
        (89, "about a minute"),
        (130, "about 2 minutes"),
        (3200, "about 53 minutes"),
        (3400, "about an hour"),
        (9000, "about 2 hours"),
        (100_000, "more than a day"),
    ],
)
def test_durations_promise_no_more_than_they_can(seconds: float, words: str) -> None:
    assert duration(seconds) == words


@sqlite_only
def test_many_threads_may_ask_at_once(app: Flask, people: dict[str, uuid.UUID]) -> None:
    ids = [ask(people["low"]) for _ in range(8)]
    sign()
    queue_support.pace(ended=40, busy_s=240)
    found: dict[uuid.UUID, int | None] = {}

    def look(request_id: uuid.UUID) -> None:
        with app.app_context():
            found[request_id] = waiting.position(request_id)

    threads = [threading.Thread(target=look, args=(request_id,)) for request_id in ids]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert [found[request_id] for request_id in ids] == list(range(8))


@sqlite_only
def test_redis_that_forgets_everything_meanwhile_is_no_fault(people: dict[str, uuid.UUID]) -> None:
    request_id = ask(people["low"])
    client: redis.Redis = queue_redis()
    client.flushall()
    assert waiting.estimate(request_id) == Estimate(0, None, Reason.NO_WORKER)
