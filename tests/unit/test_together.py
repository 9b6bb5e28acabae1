"""Group commit on SQLite, and the connections that it uses: real files, real threads."""

from __future__ import annotations

import fcntl
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, event

from webapp.extensions import one_writer, tune_engine
from webapp.models import connections
from webapp.models.connections import Connections, Unusual
from webapp.models.together import Together


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = create_engine(f"sqlite:///{tmp_path / 'db'}")
    tune_engine(engine)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE thing (name TEXT PRIMARY KEY)")
    yield engine
    engine.dispose()


@pytest.fixture
def together(engine: Engine, tmp_path: Path) -> Iterator[Together]:
    kept = Connections(engine, 4)
    together = Together(kept, tmp_path / "db-queue")
    yield together
    together.close()
    kept.close()


def names(engine: Engine) -> list[str]:
    with engine.connect() as connection:
        return sorted(connection.exec_driver_sql("SELECT name FROM thing").scalars())


def adding(name: str) -> Callable[[Any], str]:
    def work(driver: Any) -> str:
        driver.execute("INSERT INTO thing VALUES (?)", (name,))
        return name

    return work


def all_at_once(together: Together, works: dict[str, Callable[[Any], Any]]) -> dict[str, object]:
    """What each work gave or raised. All of them wait for their turn before the first one has it."""
    found: dict[str, object] = {}

    def run(name: str, work: Callable[[Any], Any]) -> None:
        try:
            found[name] = together.write(work)
        except Exception as exc:
            found[name] = exc

    threads = [threading.Thread(target=run, args=pair) for pair in works.items()]
    with one_writer:
        for thread in threads:
            thread.start()
        until = time.monotonic() + 10
        while len(together._waiting) < len(works) and time.monotonic() < until:
            time.sleep(0.005)
    for thread in threads:
        thread.join(10)
    return found


def test_who_waits_together_is_written_together(engine: Engine, together: Together) -> None:
    commits: list[str] = []

    def note(driver: Any, _record: Any) -> None:
        driver.set_trace_callback(lambda text: commits.append(text) if text == "COMMIT" else None)

    event.listen(engine, "connect", note)
    engine.dispose()
    works = {f"n{number:02}": adding(f"n{number:02}") for number in range(40)}
    assert all_at_once(together, works) == {name: name for name in works}
    assert names(engine) == sorted(works)
    assert len(commits) == 2, "thirty-two of them in the first transaction, the rest in the second"


def test_one_alone_is_written_alone_and_what_it_raises_is_undone(engine: Engine, together: Together) -> None:
    assert together.write(adding("a")) == "a"

    def half_way(driver: Any) -> None:
        driver.execute("INSERT INTO thing VALUES ('b')")
        raise Unusual("no")

    with pytest.raises(Unusual, match="no"):
        together.write(half_way)
    with pytest.raises(sqlite3.IntegrityError):
        together.write(adding("a"))
    assert together.write(adding("c")) == "c"
    assert names(engine) == ["a", "c"]


def test_one_that_fails_takes_back_its_own_and_nothing_else(engine: Engine, together: Together) -> None:
    def half_way(driver: Any) -> None:
        driver.execute("INSERT INTO thing VALUES ('half')")
        raise KeyError("no")

    works = {"a": adding("a"), "half": half_way, "same": adding("a"), "z": adding("z")}
    found = all_at_once(together, works)
    assert isinstance(found["half"], KeyError)
    assert [type(found[name]) for name in ("a", "same")].count(sqlite3.IntegrityError) == 1
    assert found["z"] == "z"
    assert names(engine) == ["a", "z"]


def test_where_the_whole_transaction_is_lost_all_of_it_go_the_general_way(engine: Engine, together: Together) -> None:
    def breaking(driver: Any) -> None:
        driver.execute("ROLLBACK")  # as SQLite does by itself where the disk is full
        raise sqlite3.OperationalError("database or disk is full")

    found = all_at_once(together, {"a": adding("a"), "breaking": breaking, "z": adding("z")})
    assert [type(failure) for failure in found.values()] == [Unusual] * 3
    assert names(engine) == []
    assert together.write(adding("later")) == "later"
    assert names(engine) == ["later"]


def test_processes_queue_up_at_a_file_and_a_dead_one_holds_nobody_up(
    engine: Engine, together: Together, tmp_path: Path
) -> None:
    program = f"""
import fcntl, os, sys
fcntl.flock(os.open({str(tmp_path / "db-queue")!r}, os.O_CREAT | os.O_RDWR), fcntl.LOCK_EX)
print("mine", flush=True)
sys.stdin.read()
"""
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"mine\n"
        writer = threading.Thread(target=together.write, args=(adding("a"),))
        writer.start()
        writer.join(0.2)
        assert (writer.is_alive(), names(engine)) == (True, [])
        other.kill()
        writer.join(10)
    assert names(engine) == ["a"]


def test_who_does_not_give_up_its_turn_is_not_waited_for_without_end(
    engine: Engine, together: Together, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("webapp.models.together._WAIT_S", 0.05)
    with (tmp_path / "db-queue").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(Unusual, match="does not end"):
            together.write(adding("a"))
    assert together.write(adding("b")) == "b"
    assert names(engine) == ["b"]


def test_connections_are_bounded_and_who_finds_none_waits(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "_WAIT_S", 0.05)
    kept = Connections(engine, 2)
    first, second = kept.take(), kept.take()
    with pytest.raises(Unusual, match="no connection is free"):
        kept.take()
    monkeypatch.setattr(connections, "_WAIT_S", 10.0)
    found: list[Any] = []
    waiting = threading.Thread(target=lambda: found.append(kept.take()))
    waiting.start()
    while not kept._waiting:
        time.sleep(0.001)
    kept.give(first)
    waiting.join(10)
    assert found == [first], "the one that was given back, and no third one"
    kept.drop(second)
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        second.execute("SELECT 1")
    third = kept.take()
    assert third is not second
    assert kept.open == 2
    for driver in (first, third):
        kept.give(driver)
    kept.close()
    assert kept.open == 0


def test_a_connection_that_cannot_be_opened_leaves_its_place(tmp_path: Path) -> None:
    kept = Connections(create_engine(f"sqlite:///{tmp_path / 'nowhere' / 'db'}"), 1)
    for _ in range(3):
        with pytest.raises(Exception, match="unable to open"):
            kept.take()
    assert kept.open == 0
