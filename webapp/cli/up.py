"""`switchhook up`: everything on this machine, with one command."""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import json
import os
import shlex
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from webapp.cli import embedded_queue, processes
from webapp.cli.console import Console
from webapp.cli.supervisor import SETUP_FAULT, Child, Supervisor
from webapp.cli.typed import own_command
from webapp.contracts.errors import SetupError

if TYPE_CHECKING:
    from webapp.settings import Settings

READY_TIMEOUT_S = 30.0
WORKER_TIMEOUT_S = 15.0
OWN_LOCK, CHILDRENS_LOCK = "up.lock", "processes.lock"

WEB_FIRST, THEN_WORKERS, QUEUE_LAST = range(3)
"""The order of stopping: nobody comes in, what runs ends, and only then the queue goes."""

_MARGIN_S = 5.0
_PROBE_TIMEOUT_S = 0.5


@click.command()
@click.option("--host", help="Address to listen on; default: SWITCHHOOK_HOST, or 127.0.0.1.")
@click.option("--port", type=click.IntRange(1, 65535), help="Port to listen on; default: SWITCHHOOK_PORT, or 8000.")
def up(host: str | None, port: int | None) -> None:
    """Run everything on this machine: queue, database migrations, web server, workers, scheduler.

    Ctrl-C stops it in good order; a second Ctrl-C hurries.
    """
    settings = processes.settings_with(host=host, port=port)
    with _only_one(settings) as lock_fd:
        settings.load_secret_key()
        processes.free_address(settings)
        sys.exit(run(settings, lock_fd))


def run(settings: Settings, lock_fd: int) -> int:
    """Start, serve until a signal asks to stop, stop. The exit code; SetupError says what kept it from starting."""
    # Children read the settings again, from the environment and the same `.env`: what is decided here is handed on.
    env = {
        "SWITCHHOOK_HOST": settings.host,
        "SWITCHHOOK_PORT": str(settings.port),
        "REDIS_URL": settings.effective_redis_url,
        "PYTHONUNBUFFERED": "1",
    }
    children = _children(settings)
    console = Console(width=max(len(child.name) for child in children))
    # Every child keeps the lock open: it is free when the last process of this run is gone, not only this one.
    with Supervisor(console, env=env, keep_fds=(lock_fd,)) as supervisor:
        if not settings.redis_url and not _start_queue(settings, supervisor):
            return 0
        first_run = _prepare(supervisor)
        if first_run is None:
            return 0
        if _became_ready(settings, supervisor, *children):
            console.show(_greeting(settings, first_run))
            supervisor.run()
        elif first_run.get("password"):  # it is told once, and this is the time
            console.show("\n".join(_first_sign_in(first_run)))
        if supervisor.setup_fault() and not supervisor.signals:
            return SETUP_FAULT
        console.report("stopping; what is running gets a moment to end (Ctrl-C again to hurry)")
        return 0


def _became_ready(settings: Settings, supervisor: Supervisor, web: Child, *others: Child) -> bool:
    """Start everything and wait until the web server answers.

    False if asked to stop, or if a child cannot run as it is set up. The web server starts alone, because it is what
    somebody is waiting for: beside three others that import the same libraries it would take twice as long.
    """
    supervisor.start(web)
    if not supervisor.until(lambda: _web_answers(settings), READY_TIMEOUT_S):
        if supervisor.signals or supervisor.setup_fault():
            return False
        supervisor.console.report(f"no answer yet after {READY_TIMEOUT_S:g} s; see the lines above. Still trying.")
    for child in others:
        supervisor.start(child)
    if not supervisor.until(lambda: _web_answers(settings)):
        return False
    # Whoever does at once what the greeting proposes shall be answered. It is not worth more than a moment's wait.
    supervisor.until(lambda: _worker_is_there(settings), WORKER_TIMEOUT_S)
    return not (supervisor.signals or supervisor.setup_fault())


def _worker_is_there(settings: Settings) -> bool:
    """Whether the web server knows of a worker."""
    connection = http.client.HTTPConnection(*processes.local_address(settings), timeout=_PROBE_TIMEOUT_S)
    try:
        connection.request("GET", "/health")
        checks = json.load(connection.getresponse())["checks"]
        return any(check["name"] == "queue" and check["ok"] for check in checks)
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
        return False
    finally:
        connection.close()


def _children(settings: Settings) -> list[Child]:
    python = _python()
    workers = settings.worker_processes
    names = ["worker"] if workers == 1 else [f"worker-{number}" for number in range(1, workers + 1)]
    grace_s = settings.worker_grace_s + _MARGIN_S
    return [
        Child("web", (*python, "webapp.cli", "web"), WEB_FIRST, grace_s=grace_s),
        # The clock runs in the first worker: a process of its own would take as much memory again.
        *(
            Child(name, (*python, "webapp.cli", "worker", *(("--clock",) if name == names[0] else ())), THEN_WORKERS, grace_s)
            for name in names
        ),
    ]


def _python() -> tuple[str, ...]:
    """How to run one of our modules. A foreign `webapp` in the working directory must not come before ours."""
    safe = () if {"", str(Path.cwd())} & set(sys.path) else ("-P",)
    return (sys.executable, *safe, "-m")


# -- the steps -----------------------------------------------------------------------------------------------------
def _start_queue(settings: Settings, supervisor: Supervisor) -> bool:
    """Start the embedded queue and wait for it; False if asked to stop meanwhile."""
    supervisor.start(embedded_queue.child(settings, stop_order=QUEUE_LAST))
    if supervisor.until(lambda: embedded_queue.answers(settings.queue_socket), embedded_queue.START_TIMEOUT_S):
        return True
    if supervisor.signals:
        return False
    raise SetupError(
        f"The queue in {settings.data_dir / 'queue'} does not start; its lines above say why. If its files are "
        "damaged, move them away: what was waiting is in the database."
    )


def _prepare(supervisor: Supervisor) -> dict[str, str | None] | None:
    """Run `webapp.cli.prepare`; what it says about the first administrator, or None if asked to stop meanwhile."""
    reading, writing = os.pipe()
    with os.fdopen(reading) as result:
        try:
            command = (*_python(), "webapp.cli.prepare", str(writing))
            supervisor.start(Child("setup", command, WEB_FIRST, grace_s=30.0, restart=False, pass_fds=(writing,)))
        finally:
            os.close(writing)
        supervisor.until(lambda: supervisor.exit_code("setup") is not None)
        code = supervisor.exit_code("setup")
        if code is None or (supervisor.signals and code != 0):
            return None
        said = result.read()
    outcome: dict[str, str | None] = json.loads(said) if said else {}
    if fault := outcome.get("fault"):
        raise SetupError(fault)
    if code != 0:
        raise SetupError("The start could not be prepared; the lines above say why.")
    return outcome


def _web_answers(settings: Settings) -> bool:
    """Whether the web server says that it lives."""
    address = processes.local_address(settings)
    host = f"[{address[0]}]" if ":" in address[0] else address[0]
    request = f"GET /health/live HTTP/1.1\r\nHost: {host}:{address[1]}\r\nConnection: close\r\n\r\n"
    try:
        with socket.create_connection(address, timeout=_PROBE_TIMEOUT_S) as connection:
            connection.sendall(request.encode())
            status = connection.recv(64).split(b" ", 2)[1:2]
    except OSError:
        return False
    # Where people come by HTTPS alone, plain HTTP is answered by a redirection; that is an answer too.
    return bool(status) and status[0][:1] in (b"2", b"3")


# -- one at a time -------------------------------------------------------------------------------------------------
@contextlib.contextmanager
def _only_one(settings: Settings) -> Iterator[int]:
    """Hold the data directory for this run; SetupError if another run has it.

    There are two locks: one that this process alone holds, and one that its children are to keep open too, whose file
    descriptor this gives. So the processes of a run that was killed get the time that they need to end.
    """
    settings.make_data_dir()
    try:
        own = (settings.data_dir / OWN_LOCK).open("a+")
        shared = (settings.data_dir / CHILDRENS_LOCK).open("a+")
    except OSError as exc:
        raise SetupError(
            f"The data directory {settings.data_dir} cannot be used ({exc.strerror}): make it writable, or name "
            "another one in SWITCHHOOK_DATA_DIR."
        ) from exc
    with own, shared:
        if not _locked(own.fileno()):
            own.seek(0)
            raise SetupError(
                f"Another Switchhook (process {own.read().strip()}) is running on {settings.data_dir}: stop that "
                "one, or name another directory in SWITCHHOOK_DATA_DIR."
            )
        own.truncate(0)
        own.write(f"{os.getpid()}\n")
        own.flush()
        end = time.monotonic() + settings.worker_grace_s + 2 * _MARGIN_S
        while not _locked(shared.fileno()):
            if time.monotonic() > end:
                raise SetupError(f"Processes of an earlier Switchhook still use {settings.data_dir}: end them, or wait.")
            time.sleep(0.1)
        yield shared.fileno()


def _locked(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


# -- what the operator reads ---------------------------------------------------------------------------------------
def _greeting(settings: Settings, first_run: dict[str, str | None]) -> str:
    """Where it is, how to sign in, and what to try first."""
    host, port = processes.local_address(settings)
    address = settings.public_url or f"http://{f'[{host}]' if ':' in host else host}:{port}"
    command = own_command()
    how = _first_sign_in(first_run) or [
        "  Sign in with your e-mail and your password. To set a new password:",
        f"    {command} admin create --email {shlex.quote(settings.admin_email)}",
    ]
    return "\n".join(
        [
            "",
            f"Switchhook is at {address}",
            "",
            *how,
            "",
            "  Try first",
            f"    Open {address} in a browser, or pretend to be a phone:",
            f'    {command} sms simulate --from +15005550006 "How do I reverse a list in Python?"',
            "",
            "  Ctrl-C stops it.",
            "",
        ]
    )


def _first_sign_in(first_run: dict[str, str | None]) -> list[str]:
    """How the administrator that was made just now signs in; empty if there was one before."""
    if not first_run:
        return []
    password = first_run.get("password")
    told = f"{password}   (made just now and not shown again)" if password else "the one in SWITCHHOOK_ADMIN_PASSWORD"
    return ["  Sign in", f"    e-mail    {first_run['email']}", f"    password  {told}"]
