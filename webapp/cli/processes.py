"""`switchhook web`, `worker` and `cron`: one each, as `switchhook up` and every other process manager runs them."""

from __future__ import annotations

import contextlib
import errno
import importlib
import ipaddress
import logging
import multiprocessing
import os
import resource
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from ctypes import c_int
from typing import TYPE_CHECKING, Any

import click

from webapp.cli import leash
from webapp.cli.typed import as_typed
from webapp.contracts.errors import SetupError

if TYPE_CHECKING:
    from flask import Flask

    from webapp.settings import Settings

log = logging.getLogger(__name__)

BACKLOG = 2048
"""Connections that wait in the kernel until the web server takes them."""

CONNECTIONS = 16_384
"""The most that one process of the web server holds."""

CRON_GRACE_S = 5
_MARGIN_S = 5
"""How much longer than its own grace a process may live after its parent."""


@click.command()
@click.option("--host", help="Address to listen on; default: SWITCHHOOK_HOST.")
@click.option("--port", type=click.IntRange(1, 65535), help="Port to listen on; default: SWITCHHOOK_PORT.")
def web(host: str | None, port: int | None) -> None:
    """Run the web server alone: pages, API and webhooks."""
    settings = settings_with(host=host, port=port)
    leash.hold(settings.worker_grace_s + _MARGIN_S)
    address = free_address(settings)
    # The server's own processes read the settings again, from the environment.
    os.environ |= {"SWITCHHOOK_HOST": settings.host, "SWITCHHOOK_PORT": str(settings.port)}
    serve(settings, address)


@click.command()
@click.option("--queues", metavar="A,B,…", help="Queues to work on, the most urgent first; default: all of them.")
@click.option("--burst", is_flag=True, help="End when nothing is left to do.")
@click.option("--clock", is_flag=True, help="Be the scheduler as well: one process less, as `switchhook up` has it.")
def worker(queues: str | None, burst: bool, clock: bool) -> None:
    """Run one worker alone. Start as many as you like, on any machine that reaches the database and Redis."""
    settings = settings_with()
    leash.hold(settings.worker_grace_s + _MARGIN_S)
    from webapp import create_app
    from webapp import queues as known
    from webapp.extensions import connect_redis
    from webapp.jobs.worker import ThreadWorker
    from webapp.pipeline import sweep

    names = [name.strip() for name in queues.split(",")] if queues else list(known.QUEUES)
    if unknown := [name for name in names if name not in known.QUEUES]:
        raise SetupError(f"There is no queue {unknown[0]!r}: choose from {', '.join(known.QUEUES)}.")
    app = create_app(doors=False)
    connection = connect_redis(settings.effective_redis_url, socket_timeout=5.0)
    thread_worker = ThreadWorker(
        [known.queue(name, connection) for name in names],
        connection,
        slots=settings.worker_jobs,
        grace_s=settings.worker_grace_s,
        job_context=app.app_context,
        preload=("webapp.jobs.tasks",),
    )
    with _ticking(app) if clock else contextlib.nullcontext():
        thread_worker.work(burst=burst)
    if thread_worker.left_running:
        with app.app_context():
            sweep.hand_back()
        thread_worker.end_process()


@contextlib.contextmanager
def _ticking(app: Flask) -> Iterator[None]:
    """The scheduler in a thread of its own, while this process does something else."""
    from webapp.jobs.schedule import run

    def tick() -> None:
        # What fails in a task is caught there. Without this thread nothing would find lost work: then this process must not
        # seem well, and whoever started it starts it again.
        try:
            run(app, stop)
        except BaseException:
            log.exception("the scheduler has failed; this process ends")
            os.kill(os.getpid(), signal.SIGTERM)

    stop = threading.Event()
    thread = threading.Thread(target=tick, name="clock", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(CRON_GRACE_S)


@click.command()
def cron() -> None:
    """Run the scheduler alone. A second one on another machine does no harm: it waits to take over."""
    settings_with()
    leash.hold(CRON_GRACE_S + _MARGIN_S)
    from webapp import create_app
    from webapp.jobs.schedule import run

    run(create_app(doors=False))


def settings_with(**given: object) -> Settings:
    """The settings, with what was given on the command line in place of what the environment says."""
    from webapp.settings import read_settings

    return read_settings(**{name: value for name, value in given.items() if value is not None})


def free_address(settings: Settings) -> str:
    """The IP address of the host to listen on. SetupError if it is not ours or the port is taken.

    Asked beforehand because the web server's sockets share their port with whoever else wants to (SO_REUSEPORT): two
    servers of one user would not notice each other and answer in turns.
    """
    host, port = settings.host, settings.port
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            probe.bind(where)
    except OSError as exc:
        raise SetupError(_cannot_listen(host, port, exc)) from exc
    return str(where[0])


def _cannot_listen(host: str, port: int, exc: OSError) -> str:
    other = "choose another one with --port, or in SWITCHHOOK_PORT"
    if exc.errno == errno.EADDRINUSE:
        return f"Port {port} on {host} is in use by another program: stop that one, or {other}."
    if exc.errno == errno.EACCES:
        return f"Port {port} may not be opened by this user: {other}."
    return f"{host} is not an address of this machine ({exc.strerror}): set --host, or SWITCHHOOK_HOST."


def local_address(settings: Settings) -> tuple[str, int]:
    """Host and port under which this machine reaches its own web server."""
    with contextlib.suppress(ValueError):
        address = ipaddress.ip_address(settings.host)
        if address.is_unspecified:
            return ("127.0.0.1" if address.version == 4 else "::1"), settings.port
    return settings.host, settings.port


# -- the web server ------------------------------------------------------------------------------------------------
def serve(settings: Settings, address: str, factory: str = "webapp:create_app") -> None:
    """Run granian until SIGTERM or SIGINT: running answers get the grace to end, new connections are refused.

    `factory` is the module:function that makes the WSGI application, once in each of the server's processes.
    """
    from granian import Granian
    from granian.constants import HTTPModes, Interfaces
    from granian.log import LogLevels

    fault: Any = multiprocessing.RawValue(c_int, 0)
    grace_s = max(1, settings.worker_grace_s)
    server = Granian(
        factory,
        address=address,
        port=settings.port,
        interface=Interfaces.WSGI,
        workers=settings.web_processes,
        blocking_threads=settings.web_threads,
        backpressure=_connections(),
        backlog=BACKLOG,
        http=HTTPModes.http1,
        websockets=False,
        log_level=LogLevels.info if settings.log_level == "DEBUG" else LogLevels.warning,
        log_access=False,
        respawn_failed_workers=True,
        workers_kill_timeout=grace_s,
    )
    logging.getLogger("_granian").addFilter(_knows_better)
    try:
        server.serve(target_loader=_Loader(factory, fault, grace_s), wrap_loader=False)
    finally:
        if fault.value:
            os._exit(2)  # not the code 1 that the server ends with: this one says that trying again is useless


def _connections() -> int:
    """How many connections each process of the server holds. Idle ones count, too: with few, a crowd that only keeps its
    connections open would keep everybody else out. Half of the files that a process may open, of which it may have more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * CONNECTIONS if hard == resource.RLIM_INFINITY else min(hard, 2 * CONNECTIONS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
    return CONNECTIONS if soft == resource.RLIM_INFINITY else max(256, min(CONNECTIONS, soft // 2))


def _knows_better(record: logging.LogRecord) -> bool:
    """False for granian's advice against more threads than cores: ours wait for vendors, nearly all of the time."""
    return "Python threads, which seems quite high" not in record.getMessage()


class _Loader:
    """What every process of the web server does first: bind its life to its parent's, then load the application."""

    def __init__(self, factory: str, fault: Any, grace_s: int) -> None:
        self._factory = factory
        self._fault = fault
        self._grace_s = grace_s

    def __call__(self) -> Callable[..., Iterable[bytes]]:
        # Until the server sets its own handlers a signal has to end this process: after a fork it would have those of
        # the parent, which only note that *they* were asked, and so survive its parent.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        self._follow_parent()
        module, _, name = self._factory.partition(":")
        try:
            application: Callable[..., Iterable[bytes]] = getattr(importlib.import_module(module), name)()
            return application
        except SetupError as exc:
            self._fault.value = 1
            print(f"switchhook: {as_typed(exc.message)}", file=sys.stderr, flush=True)
            os.kill(os.getppid(), signal.SIGTERM)
            os._exit(2)

    def _follow_parent(self) -> None:
        """End with the web server's main process: an orphan would go on answering, beside the next server."""
        parent = multiprocessing.parent_process()
        if parent is None or parent.pid is None:
            return

        def end() -> None:
            os.kill(os.getpid(), signal.SIGTERM)

        if not leash.end_with_parent(parent.pid):
            leash.after(parent.join, 0, end)
        leash.after(parent.join, self._grace_s + _MARGIN_S, lambda: os._exit(1))
