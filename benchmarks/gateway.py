"""`POST /v1/chat/completions`: tokens, three limits and the ledger on, beside hand-written floors and a bare pass-through.

Parts: throughput, latency, waiting, streams, memory (`--parts`). Peers where they are installed: `--litellm`, `--servers`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from benchmarks import gateway_sides as sides
from benchmarks import usage
from benchmarks.__main__ import GATEWAY_PARTS
from benchmarks.gateway_sides import House, Side
from benchmarks.gateway_streams import drive as drive_streams
from benchmarks.place import Place
from benchmarks.report import Report, median, median_ratio, quantile
from benchmarks.worker import MemoryWatch

CONNECTIONS = 16
IN_FLIGHT = 400
WAIT_S = 0.5
PIECES, GAP_S = 20, 0.05
THREADS = 256
"""Threads of each web process where 400 calls wait at once; elsewhere it has its default."""

_BARS_PER_S = {"sqlite": 800, "postgresql": 650}
_IDLE_S = 4.0


def run(place: Place, report: Report, *, quick: bool) -> None:
    """The parts that were asked for, on SQLite and on PostgreSQL."""
    parts = place.options.parts or frozenset(GATEWAY_PARTS)
    kinds = ["sqlite", "postgresql"] if place.has_postgres() else ["sqlite"]
    if len(kinds) == 1:
        report.note("  PostgreSQL: left out, there is no wheel of it for this platform")
    houses = {kind: sides.house(place, kind) for kind in kinds} if parts - {"memory"} else {}
    if parts & {"throughput", "latency"}:
        _ceiling(place, report, quick=quick)
    for house in houses.values():
        if parts & {"throughput", "latency"}:
            _plain(place, report, house, parts, quick=quick)
    # Quickly, what waits is looked at on one database: it takes its time whatever the machine can do.
    for house in list(houses.values())[: 1 if quick else None]:
        if "waiting" in parts:
            _waiting(place, report, house, quick=quick)
        if "streams" in parts:
            _streams(place, report, house, quick=quick)
    if "memory" in parts:
        _memory(place, report)


# -- plain calls to a vendor that answers at once ------------------------------------------------------------------------
def _ceiling(place: Place, report: Report, *, quick: bool) -> None:
    """What load generator and vendor can do without anybody between them."""
    vendor = sides.vendor_itself(place.start_lean_vendor())
    load = vendor.drive(CONNECTIONS, 0.5 if quick else 2)
    report.note(f"\ngateway: generator and vendor alone, {CONNECTIONS} connections: {load.per_s:,.0f} requests/s")


def _plain(place: Place, report: Report, house: House, parts: frozenset[str], *, quick: bool) -> None:
    port = place.start_lean_vendor()
    options = place.options
    found = [sides.ours(place, house, port), sides.floor(place, house, port), sides.floor(place, house, port, "bare")]
    if options.gunicorn:
        found.append(sides.ours(place, sides.house(place, house.kind), port, gunicorn=options.gunicorn))
    for side in found:
        side.drive(CONNECTIONS, 0.5 if quick else 1.5)
    if "throughput" in parts:
        if options.litellm:
            found.append(sides.litellm(place, house, port, options.litellm))
            found[-1].drive(CONNECTIONS, 2 if quick else 4)
        _throughput(place, report, house.kind, found, rounds=1 if quick else 4, seconds=1 if quick else 2.5)
        if not options.litellm:
            report.note("  LiteLLM's proxy: left out; name an environment with litellm[proxy] by --litellm")
    if "latency" in parts:
        direct = sides.vendor_itself(port)
        _latency(report, house.kind, [direct, *found], rounds=2 if quick else 5, seconds=0.3 if quick else 0.8)
    _end(place, found)


def _throughput(place: Place, report: Report, kind: str, found: list[Side], *, rounds: int, seconds: float) -> None:
    report.heading(f"gateway: /v1/chat/completions, {CONNECTIONS} connections, {sides.PROCESSES} processes, {kind}")
    for _ in range(rounds):
        for side in found:
            _round(place, side, seconds)
    names = ("per_s", "p50", "p99", "cpu", "database", "queue")
    head = [f"median of {rounds}", "req/s", "p50 ms", "p99 ms", "CPU ms/req", "database", "queue"]
    report.table(head, [[side.name, *_shown(side, names, ",.0f .1f .1f .2f .2f .2f")] for side in found])
    ours, floor, bare, *others = found
    report.at_least(f"gateway: requests/s of the floor's, {kind}", median_ratio(_of(ours), _of(floor)), 0.6, "%")
    report.at_least(f"gateway: requests/s, {kind}", median(_of(ours)), _BARS_PER_S[kind])
    report.note(f"  requests/s of the pass-through's: {100 * median_ratio(_of(ours), _of(bare)):.0f} %")
    for other in others:
        report.note(f"  requests/s beside {other.name}: {median_ratio(_of(ours), _of(other)):.2f} x")


def _round(place: Place, side: Side, seconds: float) -> None:
    watched = {"cpu": side.pid, "database": place.postgres_pid(), "queue": place.queue.pid}
    with _spent(watched) as spent:
        load = side.drive(CONNECTIONS, seconds)
    side.note("per_s", load.per_s)
    side.note("p50", 1000 * quantile(load.latencies_s, 0.5))
    side.note("p99", 1000 * quantile(load.latencies_s, 0.99))
    for name, seconds_spent in spent.items():
        side.note(name, 1000 * seconds_spent / len(load.latencies_s))


def _latency(report: Report, kind: str, found: list[Side], *, rounds: int, seconds: float) -> None:
    report.heading(f"gateway: added to the vendor's own answer, one connection, {kind}")
    for _ in range(rounds):
        for side in found:
            latencies = side.drive(1, seconds).latencies_s
            side.note("one p50", 1000 * quantile(latencies, 0.5))
            side.note("one p99", 1000 * quantile(latencies, 0.99))
    direct, *others = found
    for side in others:
        for name in ("one p50", "one p99"):
            for own, vendors in zip(side.figures[name], direct.figures[name], strict=True):
                side.note(f"added {name}", own - vendors)
    names = ("one p50", "one p99", "added one p50", "added one p99")
    head = [f"median of {rounds}, ms", "p50", "p99", "added p50", "added p99"]
    report.table(head, [[side.name, *_shown(side, names, ".2f .2f .2f .2f")] for side in found])
    report.below(f"gateway: added p50, {kind}", median(others[0].figures["added one p50"]), 3.0, "ms")


# -- calls and streams that wait -------------------------------------------------------------------------------------
def _waiting(place: Place, report: Report, house: House, *, quick: bool) -> None:
    """The rate is N / mean time of N callers that always have one call in flight: no edges of the spell are in it."""
    report.heading(f"gateway: {IN_FLIGHT} calls in flight to a vendor that waits {1000 * WAIT_S:.0f} ms, {house.kind}")
    found = _waiting_sides(place, house, place.start_lean_vendor(delay_s=WAIT_S))
    for side in found:
        side.drive(CONNECTIONS, 1)
        side.note("idle", side.pss_mb())
        with _memory_of(side) as watch:
            side.drive(IN_FLIGHT, 1.5)
        side.note("peak", watch.peak_mb)
    for _ in range(1 if quick else 2):
        for side in found:
            with _spent({"cpu": side.pid}) as spent:
                load = side.drive(IN_FLIGHT, 2 if quick else 4)
            mean_s = sum(load.latencies_s) / len(load.latencies_s)
            side.note("per_s", IN_FLIGHT / mean_s)
            side.note("share", 100 * WAIT_S / mean_s)
            side.note("p99", 1000 * quantile(load.latencies_s, 0.99))
            side.note("cpu", 1000 * spent["cpu"] / len(load.latencies_s) if spent else None)
    for side in found:
        _note_memory(side)
    names = ("per_s", "share", "p99", "cpu", "idle", "peak", "each")
    head = ["median", "req/s", "% of ideal", "p99 ms", "CPU ms/req", "idle MB", "full MB", "MB each"]
    report.table(head, [[side.name, *_shown(side, names, ",.0f .0f ,.0f .2f .0f .0f .3f")] for side in found])
    report.at_least(f"gateway: {IN_FLIGHT} in flight, share of the ideal, {house.kind}", _share(found[0]), 0.8, "%")
    _end(place, found)


def _share(side: Side) -> float:
    return median(side.figures["share"]) / 100


def _streams(place: Place, report: Report, house: House, *, quick: bool) -> None:
    """All are opened at once, and another for each that ends."""
    report.heading(
        f"gateway: {IN_FLIGHT} streams of {PIECES} pieces, one every {1000 * GAP_S:.0f} ms, {THREADS} threads, {house.kind}"
    )
    vendor = place.start_lean_vendor(pieces=PIECES, gap_s=GAP_S)
    report.note(f"  generator and vendor alone: {_stream_ceiling(place, 1 if quick else 2):,.0f} pieces/s")
    found = [sides.vendor_itself(vendor), *_waiting_sides(place, house, vendor)]
    for side in found[1:]:
        _stream(report, side, CONNECTIONS, 0.2)
        side.note("idle", side.pss_mb())
        with _memory_of(side) as watch:
            _stream(report, side, IN_FLIGHT, 1.5)
        side.note("peak", watch.peak_mb)
        side.figures = {name: side.figures[name] for name in ("idle", "peak") if name in side.figures}
    for _ in range(1 if quick else 2):
        for side in found:
            _stream(report, side, IN_FLIGHT, 2 if quick else 5)
    for side in found[1:]:
        _note_memory(side)
    names = ("per_s", "first p50", "first p99", "late p99", "cpu", "idle", "peak", "each")
    head = ["median", "streams/s", "first p50 ms", "p99 ms", "late p99 ms", "CPU us/piece", "idle MB", "full MB", "MB each"]
    report.table(head, [[side.name, *_shown(side, names, ".0f .1f ,.0f .1f .0f .0f .0f .3f")] for side in found])
    ours, what = found[1].figures, f"gateway: {IN_FLIGHT} streams, {house.kind}"
    report.exactly(f"{what}, failures", sum(ours["failed"]), 0)
    report.below(f"{what}, first piece, p50", median(ours["first p50"]), 30, "ms")
    report.below(f"{what}, first piece, p99", median(ours["first p99"]), 600, "ms")
    report.below(f"{what}, lateness of a piece, p99", median(ours["late p99"]), 60, "ms")
    if "each" in ours:
        report.below(f"{what}, memory of a stream", median(ours["each"]), 0.3, "MB")
    _end(place, found)


def _stream(report: Report, side: Side, streams: int, seconds: float) -> None:
    with _spent({"cpu": side.pid}) as spent:
        found = drive_streams(side.port, side.calls(streamed=True), streams, seconds, PIECES)
    side.answered += found.answered
    side.note("failed", found.failures.total())
    if found.failures:
        report.note(f"  {side.name}: {found.failures.total()} streams failed: {found.failures.most_common(3)}")
    if not found.first_s:
        raise RuntimeError(f"{side.name} streams nothing: {side.said()}")
    side.note("per_s", found.whole / found.elapsed_s)
    side.note("first p50", 1000 * quantile(found.first_s, 0.5))
    side.note("first p99", 1000 * quantile(found.first_s, 0.99))
    side.note("late p99", 1000 * quantile(found.late_s, 0.99))
    side.note("cpu", 1e6 * spent["cpu"] / found.pieces if spent else None)


def _stream_ceiling(place: Place, seconds: float) -> float:
    """Pieces/s of as many streams whose pieces come without a pause between them, from the vendor itself."""
    hurried = sides.vendor_itself(place.start_lean_vendor(pieces=200, gap_s=0.001))
    began = time.monotonic()
    found = drive_streams(hurried.port, hurried.calls(streamed=True), IN_FLIGHT, seconds, 200)
    return found.pieces / (time.monotonic() - began)


def _waiting_sides(place: Place, house: House, vendor: int) -> list[Side]:
    found = [sides.ours(place, house, vendor, threads=THREADS), sides.floor(place, house, vendor, threads=THREADS)]
    if gunicorn := place.options.gunicorn:
        found.append(sides.ours(place, sides.house(place, house.kind), vendor, threads=THREADS, gunicorn=gunicorn))
    return found


# -- memory --------------------------------------------------------------------------------------------------------
def _memory(place: Place, report: Report) -> None:
    report.heading("gateway: the whole product, idle: switchhook up with its web server, worker, scheduler and queue")
    process = sides.up(place)
    time.sleep(_IDLE_S)
    found = usage.pss_by_process_mb(process.pid)
    place.stop(process)
    if not found:
        report.note("  memory: left out, there is no /proc")
        return
    report.table(["process", "PSS MB"], [[_named(command), f"{value:.1f}"] for command, value in found])
    report.below("gateway: memory of the idle product", sum(value for _, value in found), 350, "MB")


def _named(command: str) -> str:
    """What a process of the product is, from its command line."""
    words = [word.rpartition("/")[2] for word in command.split()]
    return next((word for word in reversed(words) if word in ("up", "web", "worker", "cron")), words[0] if words else "?")


# -- figures -------------------------------------------------------------------------------------------------------
@contextmanager
def _spent(pids: Mapping[str, int | None]) -> Iterator[dict[str, float]]:
    """Processor seconds that processes and their children spend in the block, by name; without those that are not known."""
    before = {name: usage.cpu_s(pid) for name, pid in pids.items() if pid is not None}
    spent: dict[str, float] = {}
    yield spent
    for name, earlier in before.items():
        pid = pids[name]
        later = usage.cpu_s(pid) if pid is not None else None
        if earlier is not None and later is not None:
            spent[name] = later - earlier


def _memory_of(side: Side) -> MemoryWatch:
    assert side.process is not None
    return MemoryWatch(side.process.pid, children_only=False)


def _note_memory(side: Side) -> None:
    """What each of the calls in flight added to the memory of an idle server."""
    if "idle" in side.figures and "peak" in side.figures:
        side.note("each", (side.figures["peak"][0] - side.figures["idle"][0]) / IN_FLIGHT)


def _of(side: Side) -> list[float]:
    return side.figures["per_s"]


def _shown(side: Side, names: Sequence[str], formats: str) -> list[str]:
    """Medians as cells of a table, '?' for what is not known."""
    cells = zip(names, formats.split(), strict=True)
    return [format(median(side.figures[name]), wanted) if name in side.figures else "?" for name, wanted in cells]


def _end(place: Place, found: Sequence[Side]) -> None:
    """Compare answers and ledgers, and stop the servers."""
    for side in found:
        side.check()
        if side.process is not None:
            place.stop(side.process)
