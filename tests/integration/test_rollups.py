"""The sums by the hour are the ledger's own, whoever sums up, however often, and at the same time."""

from __future__ import annotations

import random
import threading
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import time_machine
from flask import Flask, current_app
from sqlalchemy import delete, func, insert, select, update

from tests.integration.cli_support import Operator, operator
from tests.support import add_person
from webapp.extensions import reading, writing
from webapp.models import HourlyStat, LedgerEntry, Organization, Person
from webapp.models.columns import new_id
from webapp.services import rollups

__all__ = ["operator"]

NOON = datetime(2026, 11, 20, 12, 17, tzinfo=UTC)
HOUR = timedelta(hours=1)
KEYS = ("organization_id", "channel", "operation", "provider", "model", "payer")
SUMS = ("requests", "input_tokens", "output_tokens", "pictures", "cost_microusd", "credits_millicredits")


@pytest.fixture
def clock(app: Flask) -> Iterator[Any]:
    with time_machine.travel(NOON, tick=False) as traveller:
        yield traveller


def people(count: int = 2) -> list[tuple[uuid.UUID, uuid.UUID]]:
    """(person, organization) of people in several organizations."""
    found = []
    for number in range(count):
        person = add_person(email=f"p{number}@example.com")
        organization = new_id()
        with writing() as connection:
            at = {"id": organization, "name": f"O{number}", "time_zone": "Asia/Kathmandu", "created_at": NOON}
            connection.execute(insert(Organization), at)
            connection.execute(update(Person).where(Person.id == person).values(organization_id=organization))
        found.append((person, organization))
    return found


def entries(somebody: list[tuple[uuid.UUID, uuid.UUID]], count: int, seed: int, start: datetime, end: datetime) -> None:
    """Random entries of these people between two moments."""
    dice = random.Random(seed)
    made = []
    for _ in range(count):
        person, organization = dice.choice(somebody)
        at = start + (end - start) * dice.random()
        if dice.random() < 0.2:
            at = dice.choice(
                (at.replace(minute=0, second=0, microsecond=0), at.replace(minute=59, second=59, microsecond=999_999))
            )
            at = min(max(at, start), end - timedelta(microseconds=1))
        values = {name: dice.choice((0, 1, dice.randrange(10**9))) for name in SUMS}
        made.append(
            values
            | {
                "id": new_id(),
                "payer": dice.choice(("person", "house")),
                "person_id": person,
                "organization_id": organization,
                "channel": dice.choice(("sms", "web", "api")),
                "operation": dice.choice(("chat", "image.generate")),
                "provider": dice.choice(("openai", "anthropic", "zürich", "")),
                "model": dice.choice(("a", "b")),
                "estimated": False,
                "price_source": "",
                "created_at": at,
            }
        )
    with writing() as connection:
        connection.execute(insert(LedgerEntry), made)


def by_hand(before: datetime) -> dict[tuple[Any, ...], list[int]]:
    """What the sums have to be, one entry after the other."""
    found: dict[tuple[Any, ...], list[int]] = {}
    with reading() as connection:
        for row in connection.execute(select(LedgerEntry.__table__).where(LedgerEntry.created_at < before)):
            hour = row.created_at.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
            sums = found.setdefault((hour, *(getattr(row, key) for key in KEYS)), [0] * (1 + len(SUMS)))
            for number, value in enumerate((1, *(getattr(row, name) for name in SUMS))):
                sums[number] += value
    return found


def stored() -> dict[tuple[Any, ...], list[int]]:
    with reading() as connection:
        return {
            (row.hour, *(getattr(row, key) for key in KEYS)): [row.calls, *(getattr(row, name) for name in SUMS)]
            for row in connection.execute(select(HourlyStat.__table__))
        }


def test_the_sums_are_those_of_the_ledger_hour_by_hour(clock: Any) -> None:
    entries(people(), 700, 1, NOON - 70 * HOUR, NOON)
    rolled = rollups.run()
    wanted = by_hand(NOON.replace(minute=0))
    assert len(wanted) > 300
    assert stored() == wanted
    assert (rolled.sums, rolled.more) == (len(wanted), False)
    # Once more, and a rebuild, change nothing.
    rollups.run()
    assert stored() == wanted
    rollups.rebuild()
    assert stored() == wanted


def test_each_run_adds_what_came_since_and_what_came_late(clock: Any) -> None:
    somebody = people()
    end = NOON.replace(minute=0)
    for step in range(6):
        entries(somebody, 60, step, end - HOUR, end)
        clock.move_to(end + timedelta(minutes=3))
        rollups.run()
        assert stored() == by_hand(end)
        # A transaction that was slow to commit: its moment is in an hour that was summed up already.
        entries(somebody, 5, 100 + step, end - timedelta(seconds=20), end)
        clock.move_to(end + timedelta(minutes=8))
        rollups.run()
        assert stored() == by_hand(end)
        # Hours in which nobody ran it.
        end += HOUR * random.Random(step).choice((1, 1, 5, 30))


def test_a_rebuild_corrects_everything_from_an_hour_on(clock: Any) -> None:
    entries(people(), 300, 3, NOON - 50 * HOUR, NOON)
    rollups.run()
    wanted = by_hand(NOON.replace(minute=0))
    middle = NOON - 20 * HOUR
    with writing() as connection:
        connection.execute(update(HourlyStat).values(cost_microusd=HourlyStat.cost_microusd + 1))
        # Nothing in the ledger says this any more.
        row = dict(connection.execute(select(HourlyStat.__table__).limit(1)).mappings().one())
        connection.execute(insert(HourlyStat), row | {"hour": rollups.whole_hour(NOON - 2 * HOUR), "model": "never used"})
    rollups.rebuild(middle)
    found, from_hour = stored(), rollups.whole_hour(middle)
    assert {key: sums for key, sums in found.items() if key[0] >= from_hour} == {
        key: sums for key, sums in wanted.items() if key[0] >= from_hour
    }
    assert all(found[key] != wanted[key] for key in wanted if key[0] < from_hour)
    rollups.rebuild()
    assert stored() == wanted


def test_two_at_once_and_entries_meanwhile_come_out_right(app: Flask) -> None:
    somebody, here = people(), current_app._get_current_object()  # type: ignore[attr-defined]
    at = datetime.now(UTC)
    end = rollups.whole_hour(at)
    entries(somebody, 100, 0, end - 30 * HOUR, end)
    errors: list[BaseException] = []

    def repeat(what: Callable[[int], object]) -> None:
        try:
            with here.app_context():
                for number in range(12):
                    what(number)
        except BaseException as exc:
            errors.append(exc)

    work: list[Callable[[int], object]] = [
        lambda _: rollups.run(),
        lambda _: rollups.run(),
        lambda _: rollups.rebuild(end - 30 * HOUR),
        lambda number: entries(somebody, 10, number + 1, end - HOUR, end),
    ]
    threads = [threading.Thread(target=repeat, args=(each,)) for each in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []
    rollups.run()
    assert stored() == by_hand(end)


def test_a_run_whose_time_is_over_goes_on_where_it_stopped(clock: Any) -> None:
    entries(people(), 200, 5, NOON - 240 * HOUR, NOON)
    runs = 1
    while rollups.run(begin_for_s=-1.0).more:
        runs += 1
        assert runs < 60
    assert 4 <= runs <= 11
    assert stored() == by_hand(NOON.replace(minute=0))


def test_a_long_time_without_use_holds_up_no_run(clock: Any) -> None:
    somebody = people()
    entries(somebody, 20, 6, NOON - 20_000 * HOUR, NOON - 19_990 * HOUR)
    entries(somebody, 20, 8, NOON - 5 * HOUR, NOON)
    runs = 1
    while rollups.run(begin_for_s=-1.0).more:
        runs += 1
        assert runs < 5
    assert stored() == by_hand(NOON.replace(minute=0))


def test_an_empty_ledger_has_no_sums(clock: Any) -> None:
    assert rollups.run().sums == rollups.rebuild().sums == 0
    with writing() as connection:
        connection.execute(delete(HourlyStat))
    assert rollups.rebuild(NOON - HOUR).sums == 0


def test_the_ledger_is_read_by_its_index(clock: Any) -> None:
    entries(people(), 3000, 7, NOON - 2000 * HOUR, NOON)
    with writing() as connection:
        connection.exec_driver_sql("ANALYZE")
        query = rollups._sums(connection, rollups.providers_in(connection), NOON - 3 * HOUR, NOON)
        sql = str(query.compile(connection, compile_kwargs={"literal_binds": True}))
        explain = "EXPLAIN QUERY PLAN " if connection.dialect.name == "sqlite" else "EXPLAIN "
        plan = str(connection.exec_driver_sql(explain + sql.replace("%", "%%")).all())
    assert "ix_ledger_entry" in plan, plan
    assert "SCAN ledger_entry" not in plan
    assert "Seq Scan" not in plan


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_the_command_sums_up_and_rebuilds(operator: Operator, app: Flask) -> None:
    end = rollups.whole_hour(datetime.now(UTC))
    entries(people(), 50, 9, end - 9 * HOUR, end)
    assert operator.json("rollup") == {"sums": len(by_hand(end)), "rebuilt": False}
    assert stored() == by_hand(end)
    assert "sums written" in operator.ok("rollup", "--rebuild")
    assert operator.json("rollup", "--rebuild", "--from", f"{end - HOUR:%Y-%m-%dT%H:%M}")["rebuilt"] is True
    assert stored() == by_hand(end)
    assert operator("rollup", "--from", "2026-01-01").exit_code == 2
    with reading() as connection:
        assert connection.execute(select(func.count()).select_from(HourlyStat)).scalar_one() == len(by_hand(end))
    assert operator.rows("SELECT count(*) FROM audit_entry WHERE action = 'rollup.rebuild'") == [(2,)]
