"""`POST /sms/receive`: the whole admission of a message, beside a bare Flask application that stores and enqueues it."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

from sqlalchemy import func, select

from benchmarks import usage
from benchmarks.load import drive
from benchmarks.place import Place, Started, free_port, phone, wait_for_http
from benchmarks.report import Report, median, median_ratio, quantile
from tests.fakes.twilio import TwilioSigner
from webapp.extensions import reading
from webapp.models import Request, RequestStatus

CONNECTIONS = 32
PERSONS = 1000
_PER_S_AT_MOST = 4000
_signer = TwilioSigner()
_numbers = itertools.count()


@dataclass(slots=True)
class Side:
    """One of the two servers, and what was measured of it: a figure for each round."""

    name: str
    port: int
    process: Started
    per_s: list[float] = field(default_factory=list)
    p50_ms: list[float] = field(default_factory=list)
    p99_ms: list[float] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)
    answers: int = 0

    def measure(self, seconds: float) -> None:
        """Drive it for so many seconds."""
        messages = _messages(self.port, int(_PER_S_AT_MOST * seconds))
        before = usage.cpu_s(self.process.pid)
        load = drive(self.port, messages, CONNECTIONS, seconds)
        after = usage.cpu_s(self.process.pid)
        self.answers += len(load.latencies_s)
        self.per_s.append(load.per_s)
        self.p50_ms.append(1000 * quantile(load.latencies_s, 0.5))
        self.p99_ms.append(1000 * quantile(load.latencies_s, 0.99))
        if before is not None and after is not None:
            self.cpu_ms.append(1000 * (after - before) / len(load.latencies_s))

    def row(self) -> list[str]:
        cpu = f"{median(self.cpu_ms):.2f}" if self.cpu_ms else "?"
        figures = (f"{median(self.per_s):,.0f}", f"{median(self.p50_ms):.0f}", f"{median(self.p99_ms):.0f}", cpu)
        return [self.name, *figures]


def run(place: Place, report: Report, *, quick: bool) -> None:
    """SQLite decides; PostgreSQL is information."""
    report.heading(f"webhook: POST /sms/receive, {CONNECTIONS} connections, no worker running")
    ours, floor = _compare(place, report, "sqlite", rounds=2 if quick else 5, seconds=2 if quick else 4)
    report.at_least("webhook: requests/s of the floor's", median_ratio(ours.per_s, floor.per_s), 0.5, "%")
    report.below("webhook: p99 of the floor's", median_ratio(ours.p99_ms, floor.p99_ms), 3.0, "x")
    if not place.has_postgres():
        report.note("  PostgreSQL: left out, there is no wheel of it for this platform")
        return
    ours, floor = _compare(place, report, "postgresql", rounds=1 if quick else 3, seconds=2 if quick else 3)
    share = 100 * median_ratio(ours.per_s, floor.per_s)
    report.note(f"  PostgreSQL, for information: {share:.0f} % of the floor's requests/s")


def _compare(place: Place, report: Report, kind: str, *, rounds: int, seconds: float) -> tuple[Side, Side]:
    url = place.database(kind, persons=PERSONS)
    ours, floor = _start_ours(place, url), _start_floor(place, kind)
    for side in (ours, floor):
        drive(side.port, _messages(side.port, 2 * PERSONS), CONNECTIONS, 30)  # Every sender's first message is special.
    for _ in range(rounds):
        ours.measure(seconds)
        floor.measure(seconds)
    _check(place, url, ours)
    report.table([f"{kind}, median of {rounds}", "req/s", "p50 ms", "p99 ms", "CPU ms/req"], [ours.row(), floor.row()])
    for side in (ours, floor):
        place.stop(side.process)
    return ours, floor


def _start_ours(place: Place, url: str) -> Side:
    port = free_port()
    process = place.python("web", "-m", "webapp.cli", "web", "--port", str(port), env=place.environment(url, 1))
    wait_for_http(port, "the web server")
    return Side("Switchhook", port, process)


def _start_floor(place: Place, kind: str) -> Side:
    port = free_port()
    url = f"sqlite:///{place.folder / f'floor-{port}.db'}" if kind == "sqlite" else place.database("postgresql")
    env = place.environment(url, 2, SWITCHHOOK_PORT=str(port), FLOOR_DATABASE_URL=url)
    process = place.python("floor", "-m", "benchmarks.floor_webhook", env=env)
    wait_for_http(port, "the floor")
    return Side("floor", port, process)


def _check(place: Place, url: str, ours: Side) -> None:
    """Every message must have become a request: a refusal is answered 200 as well, and is cheaper."""
    with place.app(url), reading() as connection:
        queued, everything = connection.execute(
            select(func.count().filter(Request.status == RequestStatus.QUEUED), func.count()).select_from(Request)
        ).one()
    if queued != everything or queued < ours.answers:
        raise RuntimeError(f"{ours.answers} messages became {everything} requests, {queued} of them queued")


def _messages(port: int, count: int) -> list[bytes]:
    """Signed webhooks as bytes for the wire, the senders in turn."""
    url = f"http://127.0.0.1:{port}/sms/receive"
    return [_message(url, port, next(_numbers)) for _ in range(count)]


def _message(url: str, port: int, number: int) -> bytes:
    text = f"How do I reverse a list in Python? This is question number {number} of today."
    headers, body = _signer.message(url, phone(number % PERSONS), text)
    lines = [f"{name}: {value}" for name, value in headers.items()]
    lines += [f"Host: 127.0.0.1:{port}", f"Content-Length: {len(body)}", "User-Agent: TwilioProxy/1.1", "Accept: */*"]
    return ("POST /sms/receive HTTP/1.1\r\n" + "\r\n".join(lines) + "\r\n\r\n").encode() + body
