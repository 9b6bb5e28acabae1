"""What runs by the clock, how its last runs went, and who runs it: by what the schedulers leave in Redis.

To add a task, add a line to `TASKS`. `webapp.jobs.schedule` runs them.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from datetime import UTC, datetime
from typing import Any

import redis

from webapp.contracts.errors import NotFound
from webapp.extensions import current_settings, queue_redis
from webapp.settings import Settings

LAST = "switchhook:cron:last"
"""A hash in Redis: a task's name -> its last run, as JSON (`Run`)."""
LEADER = "switchhook:cron:leader"
"""Which scheduler acts, as JSON (`Leader`). It stays when that process is gone."""
LONG_S = 600.0
"""From this pace on a task keeps its time when another process takes over."""
FAILURES_TOLD = 3
"""After so many failures in a row the doctor and `/health` speak of it."""
_SWEEPS_MISSED = 4
_MARGIN_S = 10.0


@dataclass(frozen=True, slots=True)
class Task:
    """Something that runs by the clock. It may run twice, and on two machines at once.

    `function` is its dotted name. What it returns is told in figures: the whole numbers of a dataclass by their names, or one
    number (or length) as `counted`. With a true `more` it has not come to its end and goes on soon.
    """

    name: str
    meaning: str
    function: str
    every_s: Callable[[Settings], float]
    counted: str = "done"
    on: Callable[[Settings], bool] = lambda _: True
    off_because: str = ""


TASKS = (
    Task(
        "off-peak release",
        "Begins what waited for a vendor's cheaper hours.",
        "webapp.pipeline.off_peak.release",
        lambda settings: settings.sweep_s,
    ),
    Task(
        "sweep",
        "Finds what a crash lost and puts it back on the road.",
        "webapp.pipeline.sweep.sweep",
        lambda settings: settings.sweep_s,
    ),
    Task(
        "batches",
        "Begins the next rows of running batches.",
        "webapp.pipeline.batch_feed.feed",
        lambda _: 1,
        counted="rows begun",
    ),
    Task(
        "provider health",
        "Looks whether vendors and channels answer.",
        "webapp.services.health.check_vendors",
        lambda _: 60,
        counted="looked at",
    ),
    Task(
        "idle conversations",
        "Closes conversations in which nothing was written for long.",
        "webapp.pipeline.sweep.close_idle_conversations",
        lambda _: 3600,
        counted="closed",
    ),
    Task(
        "kept answers",
        "Asks anew the questions of the warm-up file whose answers are not kept any more.",
        "webapp.pipeline.warm.look",
        lambda _: 300,
        on=lambda settings: settings.cache_warm_file is not None,
        off_because="SWITCHHOOK_CACHE_WARM_FILE is not set",
    ),
    Task(
        "retention",
        "Erases the content of old requests; their figures stay.",
        "webapp.jobs.schedule.erase_old_content",
        lambda _: 3600,
        on=lambda settings: settings.retention_days > 0,
        off_because="SWITCHHOOK_RETENTION_DAYS is 0",
    ),
    Task(
        "api answers",
        "Removes kept answers of API calls whose time is over.",
        "webapp.services.kept_answers.remove_expired",
        lambda _: 600,
    ),
    Task(
        "webhook log",
        "Removes what is known of outgoing webhooks after 30 days.",
        "webapp.services.webhook_log.remove_old",
        lambda _: 3600,
    ),
    Task(
        "rollups",
        "Sums the ledger up by the hour, for charts.",
        "webapp.services.rollups.run",
        lambda _: 300,
    ),
)


@dataclass(frozen=True, slots=True)
class Run:
    """How a task's last run went. Times are seconds since 1970 by the wall clock.

    `figures` are those of the last run that did something, at `did_at`. `error` is the class of what went wrong, '' for
    nothing; `failures` is how many runs in a row have failed.
    """

    at: float
    took_s: float = 0.0
    error: str = ""
    failures: int = 0
    well_at: float | None = None
    next_at: float | None = None
    figures: Mapping[str, int] = field(default_factory=dict)
    did_at: float | None = None

    @classmethod
    def read(cls, text: bytes) -> Run:
        """From Redis. What an earlier release left is two numbers: when, and how long it took. `ValueError`, `TypeError` or
        `KeyError` for what is neither."""
        if not text.startswith(b"{"):
            at, _, took_s = text.decode().partition(" ")
            return cls(float(at), float(took_s or 0), well_at=float(at))
        given = json.loads(text)
        moments = {name: float(given[name]) for name in ("well_at", "next_at", "did_at") if given.get(name) is not None}
        return cls(
            at=float(given["at"]),
            took_s=float(given.get("took_s") or 0),
            error=str(given.get("error") or ""),
            failures=int(given.get("failures") or 0),
            figures={str(name): int(value) for name, value in dict(given.get("figures") or {}).items()},
            **moments,
        )


@dataclass(frozen=True, slots=True)
class Leader:
    """The scheduler that acts, or acted last: `seen_at` is its last sign of life. Seconds since 1970."""

    id: str
    host: str
    pid: int
    since: float
    seen_at: float


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the view. Times are aware UTC; `off` says why a task does not run, '' for one that does."""

    name: str
    meaning: str
    every_s: float
    off: str
    last_at: datetime | None
    took_s: float | None
    error: str
    failures: int
    well_at: datetime | None
    next_at: datetime | None
    figures: Mapping[str, int]
    did_at: datetime | None

    @property
    def did(self) -> str:
        """What it did when it last did something: 'released: 3, moved: 1'."""
        return told(self.figures)


@dataclass(frozen=True, slots=True)
class View:
    """Everything. `known` is False while Redis is away; `fault` says what is wrong with the scheduler, '' for nothing."""

    known: bool
    leader_host: str
    leader_pid: int | None
    leading_since: datetime | None
    leader_seen_at: datetime | None
    fault: str
    rows: tuple[Row, ...]

    @property
    def failing(self) -> list[Row]:
        """Tasks that have failed several times in a row."""
        return [row for row in self.rows if row.failures >= FAILURES_TOLD and not row.off]


def view() -> View:
    """What runs by the clock, and how it goes."""
    client, settings = queue_redis(), current_settings()
    try:
        runs, found = last_runs(client), leader(client)
    except redis.RedisError:
        return View(False, "", None, None, None, "Redis does not answer, so nobody can say", _rows({}, settings))
    return View(
        True,
        found.host if found else "",
        found.pid if found else None,
        _moment(found.since if found else None),
        _moment(found.seen_at if found else None),
        _fault(found, settings),
        _rows(runs, settings),
    )


def _rows(runs: Mapping[str, Run], settings: Settings) -> tuple[Row, ...]:
    rows = []
    for task in TASKS:
        run, on = runs.get(task.name), task.on(settings)
        rows.append(
            Row(
                name=task.name,
                meaning=task.meaning,
                every_s=task.every_s(settings),
                off="" if on else task.off_because,
                last_at=_moment(run.at if run else None),
                took_s=run.took_s if run else None,
                error=run.error if run else "",
                failures=run.failures if run else 0,
                well_at=_moment(run.well_at if run else None),
                next_at=_moment(run.next_at if run and on else None),
                figures=run.figures if run else {},
                did_at=_moment(run.did_at if run else None),
            )
        )
    return tuple(rows)


def _fault(found: Leader | None, settings: Settings) -> str:
    if found is None:
        return "no scheduler has run yet"
    # A round of looks at vendors takes some twenty seconds, in which there is no sign of life.
    age_s = time.time() - found.seen_at
    if age_s <= _SWEEPS_MISSED * settings.sweep_s + _MARGIN_S + 20:
        return ""
    return f"no scheduler has run for {age_s:.0f} s"


def last_runs(client: redis.Redis) -> dict[str, Run]:
    """The last run of each task. What cannot be read was never written by us and counts as absent. Raises `RedisError`."""
    kept: dict[bytes, bytes] = client.hgetall(LAST)  # type: ignore[assignment]
    found = {}
    for name, text in kept.items():
        try:
            found[name.decode()] = Run.read(text)
        except (ValueError, TypeError, KeyError):
            continue
    return found


def leader(client: redis.Redis) -> Leader | None:
    """Which process acts, or did last. Raises `RedisError`."""
    text: bytes | None = client.get(LEADER)  # type: ignore[assignment]
    try:
        given = json.loads(text or b"{}")
        return Leader(str(given["id"]), str(given["host"]), int(given["pid"]), float(given["since"]), float(given["seen_at"]))
    except (ValueError, TypeError, KeyError):
        return None


def keep_leader(client: redis.Redis, found: Leader) -> None:
    """Say who acts. Raises `RedisError`."""
    client.set(LEADER, json.dumps(asdict(found)))


def keep_run(client: redis.Redis, name: str, run: Run) -> None:
    """Add a run to what is known of a task: failures in a row, and when it last went well. Raises `RedisError`."""
    text: bytes | None = client.hget(LAST, name)  # type: ignore[assignment]
    try:
        before = Run.read(text) if text else None
    except (ValueError, TypeError, KeyError):
        before = None
    given = asdict(run)
    given["failures"] = (before.failures if before else 0) + 1 if run.error else 0
    given["well_at"] = run.at if not run.error else before.well_at if before else None
    if not run.figures and before is not None:
        given |= {"figures": dict(before.figures), "did_at": before.did_at}
    client.hset(LAST, name, json.dumps(given))


def figures(result: object, counted: str) -> dict[str, int]:
    """What a task says that it did, without what it did not: {'released': 3}."""
    if is_dataclass(result) and not isinstance(result, type):
        values: dict[str, Any] = {each.name.replace("_", " "): getattr(result, each.name) for each in fields(result)}
    elif isinstance(result, list | tuple):
        values = {counted: len(result)}
    else:
        values = {counted: int(result) if isinstance(result, bool) else result}
    return {name: value for name, value in values.items() if type(value) is int and value}


def told(given: Mapping[str, int]) -> str:
    """Figures in words: 'released: 3, moved: 1'; '' for none."""
    return ", ".join(f"{name}: {value:,}" for name, value in given.items())


def task(name: str) -> Task:
    """A task by its name, with spaces or dashes. `NotFound` names those that there are."""
    wanted = " ".join(name.lower().replace("-", " ").split())
    for each in TASKS:
        if each.name.replace("-", " ") == wanted:
            return each
    names = ", ".join(each.name.replace(" ", "-") for each in TASKS)
    raise NotFound(f"There is no task {name[:40]!r}: choose from {names}.")


def _moment(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def pace(every_s: float) -> str:
    """How often, in words: 'every 5 s', 'every 5 min', 'every hour'."""
    for size, one, many in ((86_400, "day", "days"), (3600, "hour", "hours"), (60, "minute", "min")):
        if every_s >= size and every_s % size == 0:
            count = int(every_s // size)
            return f"every {one}" if count == 1 else f"every {count} {many}"
    return f"every {every_s:g} s"
