"""However an execution ends, its request ends settled, once, and nothing that it held stays held."""

from __future__ import annotations

import contextlib
import itertools
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from decimal import Decimal
from types import FrameType, ModuleType
from typing import Any, cast

import pytest
from flask import Flask, current_app
from rq.timeouts import JobTimeoutException
from sqlalchemy import event, select, update

from tests.support import assert_books_balance, one, requests, rows, sent, text
from webapp import extensions, interrupts
from webapp.extensions import db, reading, writing
from webapp.jobs.deadlines import Deadlines, JobStopped
from webapp.models import Attempt, ErrorLog, LedgerEntry, Person, RequestStatus
from webapp.pipeline import lease
from webapp.pipeline.claims import claim
from webapp.pipeline.execute import execute, run
from webapp.plugin import Finish, ProviderError, Text, TextCall, TextProvider, Unavailable, Usage, hookimpl
from webapp.registry import current_registry

ALICE = "+15005550006"


class Odd(TextProvider):
    """A provider that does what `act` does, and may fail to tell what it is."""

    name = "odd"
    label = "Odd"
    default_model = "m"
    preference = 0
    price_as = ""

    def __init__(self, act: Callable[[TextCall], Iterator[Any]]) -> None:
        self._act = act
        self.mute = False

    @property
    def free_of_charge(self) -> bool:  # type: ignore[override]
        if self.mute:
            raise RuntimeError("this plugin cannot say what it charges any more")
        return False

    def stream(self, call: TextCall, http: object) -> Iterator[Any]:  # type: ignore[override]
        return self._act(call)


def use(act: Callable[[TextCall], Iterator[Any]]) -> Odd:
    """Load a plugin with this provider, which is asked before the demo."""
    odd = Odd(act)
    module = ModuleType("odd")

    def register_providers(settings: object) -> list[TextProvider]:
        return [odd]

    module.register_providers = hookimpl(register_providers)  # type: ignore[attr-defined]
    record = current_registry().add(module, "odd", {})
    assert not record.error, record.error
    return odd


def answer(call: TextCall) -> Iterator[Any]:
    yield Text("Paid for.")
    yield Usage(10, 5, finish=Finish.STOP)


class Unreadable(str):
    def __str__(self) -> str:
        raise RuntimeError("a name that cannot be told")


@pytest.mark.parametrize(
    "usage",
    [
        Usage(10, 5, quality=10**400),
        Usage(10, 5, model=Unreadable("x")),
        Usage(10, 5, cost_usd=Decimal("sNaN")),
        Usage(10, 5, vendor_request_id=Unreadable("x"), quality=10**400),
    ],
    ids=["quality", "model", "price", "all at once"],
)
def test_a_count_that_cannot_be_read_does_not_keep_a_request_from_ending(app: Flask, usage: Usage) -> None:
    def act(call: TextCall) -> Iterator[Any]:
        yield Text("hello")
        yield usage

    use(act)
    text("question", ALICE)
    with_or_without_a_failure(requests()[0].id)
    (request,) = requests()
    assert request.status in (RequestStatus.COMPLETED, RequestStatus.FAILED)
    assert request.output_tokens > 0
    assert lease.held() == []
    assert one(select(Attempt)).provider == "odd"
    assert_books_balance()


def with_or_without_a_failure(request_id: Any) -> None:
    """Execute; what a plugin raised may or may not come out, as it does to a worker."""
    with suppress(RuntimeError, OverflowError):
        execute(request_id)


def test_an_end_that_cannot_be_recorded_is_a_failure_with_its_calls(app: Flask) -> None:
    def act(call: TextCall) -> Iterator[Any]:
        yield Text("hello")
        odd.mute = True
        yield Usage(10, 5, finish=Finish.STOP)

    odd = use(act)
    text("question", ALICE)
    execute(requests()[0].id)
    (request,) = requests()
    assert (request.status, request.error_code) == (RequestStatus.FAILED, "internal")
    assert lease.held() == []
    attempt = one(select(Attempt))
    assert (attempt.provider, attempt.outcome) == ("odd", "completed")
    assert "cannot say what it charges" in (one(select(ErrorLog)).detail or "")
    assert [delivery.kind for delivery in sent()] == ["notice"]
    assert_books_balance()


def test_an_answer_that_cannot_be_made_shorter_is_sent_as_it_is(app: Flask) -> None:
    use(answer)
    text("question", ALICE)
    current_registry().channels["simulator"].max_chars = None  # type: ignore[assignment]
    execute(requests()[0].id)
    assert requests()[0].status == RequestStatus.COMPLETED
    assert [delivery.body for delivery in sent()] == ["Paid for."]
    assert lease.held() == []


def test_an_error_without_its_words_ends_the_request_too(app: Flask) -> None:
    class Bare(Unavailable):
        def __init__(self) -> None:
            Exception.__init__(self)

        @property
        def detail(self) -> str:  # type: ignore[override]
            raise RuntimeError("no words")

    def act(call: TextCall) -> Iterator[Any]:
        yield Text("hello")
        raise Bare

    use(act)
    text("question", ALICE)
    with_or_without_a_failure(requests()[0].id)
    assert requests()[0].status == RequestStatus.FAILED
    assert lease.held() == []
    assert_books_balance()


def test_an_execution_that_is_never_begun_keeps_no_lease(app: Flask) -> None:
    text("question", ALICE)
    taken = claim(requests()[0].id)
    assert taken is not None
    assert taken.claim not in lease.held()
    pieces = run(taken)
    del pieces
    assert lease.held() == []
    pieces = run(taken)
    next(pieces)
    assert lease.held() == [taken.claim]
    pieces.close()  # type: ignore[attr-defined]
    assert lease.held() == []


# -- interrupted ---------------------------------------------------------------------------------------------------------
@pytest.fixture
def deadlines() -> Iterator[Deadlines]:
    deadlines = Deadlines()
    yield deadlines
    deadlines.close()


@contextmanager
def each_statement(act: Callable[[str], None]) -> Iterator[None]:
    """Do something in the thread that runs a statement, just before the driver gets it."""

    def before(_c: object, _cursor: object, sql: str, *_: object) -> None:
        act(" ".join(sql.split()))

    engine = db.engine
    event.listen(engine, "before_cursor_execute", before)
    try:
        yield
    finally:
        event.remove(engine, "before_cursor_execute", before)


def execute_in_a_thread(app: Flask, deadlines: Deadlines, kind: type[BaseException], strikes: Callable[[str], bool]) -> str:
    """Execute the only request as a worker does, under a limit that passes at the first statement for which `strikes` is
    true. What was raised in the thread; 'stuck' if the thread did not end."""
    raised: list[str] = []
    request_id = requests()[0].id

    def work() -> None:
        watch = deadlines.limit(60, kind)
        struck = []

        def strike(sql: str) -> None:
            if threading.current_thread() is thread and not struck and strikes(sql):
                struck.append(sql)
                deadlines.interrupt(watch, kind)

        with app.app_context(), each_statement(strike):
            try:
                with watch:
                    execute(request_id)
                raised.append("")
            except BaseException as exc:
                raised.append(type(exc).__name__)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(20)
    return raised[0] if raised else "stuck"


def assert_nobody_is_kept_from_writing() -> None:
    """Another thread, and another connection, can write at once."""
    done = threading.Event()
    app = cast(Flask, current_app._get_current_object())  # type: ignore[attr-defined]

    def write() -> None:
        with app.app_context(), writing() as connection:
            connection.execute(update(Person).values(requests_total=Person.requests_total))
        done.set()

    threading.Thread(target=write, daemon=True).start()
    assert done.wait(10)


@pytest.mark.parametrize("kind", [JobTimeoutException, JobStopped])
def test_an_answer_that_is_being_settled_outlasts_the_jobs_limit(
    app: Flask, deadlines: Deadlines, kind: type[BaseException]
) -> None:
    use(answer)
    text("question", ALICE)

    def settles(sql: str) -> bool:
        return sql.startswith("UPDATE request SET") and "ended_at=" in sql

    raised = execute_in_a_thread(app, deadlines, kind, settles)
    assert raised == kind.__name__
    assert_nobody_is_kept_from_writing()
    (request,) = requests()
    assert (request.status, request.answer) == (RequestStatus.COMPLETED, "Paid for.")
    assert len(sent()) == 1
    assert lease.held() == []
    assert_books_balance()


@pytest.mark.parametrize("kind", [JobTimeoutException, JobStopped])
@pytest.mark.parametrize("number", range(1, 15))
def test_a_limit_that_passes_at_any_statement_leaves_nothing_locked(
    app: Flask, deadlines: Deadlines, kind: type[BaseException], number: int
) -> None:
    use(answer)
    text("question", ALICE)
    seen: list[str] = []

    def strikes(sql: str) -> bool:
        seen.append(sql)
        return len(seen) == number

    raised = execute_in_a_thread(app, deadlines, kind, strikes)
    assert raised == (kind.__name__ if len(seen) >= number else "")
    assert_nobody_is_kept_from_writing()
    (request,) = requests()
    # What was claimed when the limit passed, and did not begin, comes back when its lease runs out.
    assert request.status in (RequestStatus.PROCESSING, RequestStatus.FAILED, RequestStatus.COMPLETED)
    assert request.status != RequestStatus.PROCESSING or rows(select(LedgerEntry)) == []
    assert lease.held() == []
    if request.status != RequestStatus.PROCESSING:
        assert_books_balance()


def interrupted_at_step(app: Flask, deadlines: Deadlines, number: int) -> tuple[bool, str]:
    """One short transaction, interrupted by another thread before step `number` of the code that begins and ends it, a step
    being an instruction of Python or a return. Whether there was such a step, and what was raised; 'left open' if it left the
    lock or a connection open, 'stuck' if the thread did not end."""
    watch = deadlines.limit(60)
    reached, interrupted, raised = threading.Event(), threading.Event(), []
    left = [number]

    def trace(frame: FrameType, what: str, _: object) -> Any:
        if frame.f_code.co_filename not in STEPS_OF:
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        if what in ("opcode", "return"):
            left[0] -= 1
            if left[0] == 0:
                reached.set()
                interrupted.wait(10)
        return trace

    def work() -> None:
        with app.app_context():
            try:
                with watch:
                    sys.settrace(trace)
                    with writing() as connection:
                        connection.execute(update(Person).values(requests_total=Person.requests_total))
                    sys.settrace(None)
                raised.append("")
            except BaseException as exc:
                sys.settrace(None)
                # While the exception is at hand, because its traceback may keep things from being closed.
                still_open = extensions.one_writer.locked() or db.engine.pool.checkedout()  # type: ignore[attr-defined]
                raised.append("left open" if still_open else type(exc).__name__)

    def interrupt() -> None:
        reached.wait(10)
        if left[0] == 0:
            deadlines.interrupt(watch, JobStopped)
        interrupted.set()

    threads = [threading.Thread(target=target, daemon=True) for target in (work, interrupt)]
    for thread in threads:
        thread.start()
    threads[0].join(10)
    reached.set()
    threads[1].join(10)
    return left[0] <= 0, raised[0] if raised else "stuck"


STEPS_OF = {extensions.__file__, interrupts.__file__, contextlib.__file__}


@pytest.mark.skipif(sys.gettrace() is not None, reason="the coverage of these lines is being measured by the same means")
def test_there_is_no_step_in_a_transaction_at_which_an_interruption_leaves_something_open(
    app: Flask, deadlines: Deadlines
) -> None:
    invalidated: list[object] = []
    event.listen(db.engine, "invalidate", lambda *given: invalidated.append(given))
    db.session.remove()
    assert db.engine.pool.checkedout() == 0  # type: ignore[attr-defined]
    outcomes: Counter[str] = Counter()
    for number in itertools.count(1):
        there, raised = interrupted_at_step(app, deadlines, number)
        assert raised in ("JobStopped", ""), number
        assert invalidated == [], number
        if not there:
            break
        outcomes[raised] += 1
    assert_nobody_is_kept_from_writing()
    assert outcomes["JobStopped"] > 100


def test_a_reader_that_is_stopped_gives_its_connection_back(app: Flask, deadlines: Deadlines) -> None:
    watch = deadlines.limit(60)

    def strike(sql: str) -> None:
        if "FROM person" in sql:
            deadlines.interrupt(watch, JobStopped)

    def read() -> None:
        with reading() as connection:
            connection.execute(select(Person.id)).all()

    before = db.engine.pool.checkedout()  # type: ignore[attr-defined]
    invalidated: list[object] = []
    event.listen(db.engine, "invalidate", lambda *given: invalidated.append(given))
    with each_statement(strike), pytest.raises(JobStopped), watch:
        read()
    assert invalidated == []
    assert db.engine.pool.checkedout() == before  # type: ignore[attr-defined]


def test_an_interruption_just_before_the_end_does_not_take_the_settlement_away(app: Flask, deadlines: Deadlines) -> None:
    """The limit passes when the answer is complete and nothing of its end is written: in the plugin's own last step."""

    def act(call: TextCall) -> Iterator[Any]:
        try:
            yield Text("Paid for.")
            yield Usage(10, 5, finish=Finish.STOP)
        finally:
            deadlines.interrupt(watch, JobStopped)

    use(act)
    text("question", ALICE)
    watch = deadlines.limit(60)
    with pytest.raises(JobStopped), watch:
        execute(requests()[0].id)
    (request,) = requests()
    assert request.status == RequestStatus.FAILED
    assert one(select(LedgerEntry)).output_tokens > 0
    assert lease.held() == []
    assert_books_balance()


def test_a_provider_error_while_nobody_wants_the_answer_is_a_cancel(app: Flask) -> None:
    def act(call: TextCall) -> Iterator[Any]:
        lease._asked.add(taken.claim)
        raise ProviderError("gone")
        yield

    use(act)
    text("question", ALICE)
    taken = claim(requests()[0].id)
    assert taken is not None
    for _ in run(taken):
        pass
    assert requests()[0].status == RequestStatus.CANCELLED
    assert lease.held() == []
    assert_books_balance()
