"""Runs a handful of processes: starts them, shows what they say, starts them again when they die, stops them in order.

One thread does it all, in one loop over pipes, signals and the clock. That is not only simpler: on Linux a child is
told when the *thread* that started it ends (see `leash`), so the one that starts children has to live to the end.

Each child leads a process group of its own. The terminal's Ctrl-C therefore reaches the supervisor alone, which decides
the order, and whatever a child has started can be ended with it.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

from webapp.cli import leash
from webapp.cli.console import Console, Output

SETUP_FAULT = 2
"""The exit code that says: starting me again changes nothing, the operator has to."""

_POLL_S = 0.05
_ABANDON_S = 5.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True, slots=True)
class Child:
    """One command to keep running."""

    name: str
    """In front of each of its lines; unique."""
    command: tuple[str, ...]
    stop_order: int = 0
    """Children of a lower number are stopped, and gone, before those of a higher one are asked to stop."""
    grace_s: float = 10.0
    """Seconds from SIGTERM to SIGKILL."""
    hurry_s: float = 2.0
    """The same after a second signal."""
    restart: bool = True
    pass_fds: tuple[int, ...] = ()
    mute: tuple[bytes, ...] = ()
    """Lines that contain one of these are not shown."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long to wait before a child that died is started again: doubling, until it has lived for a while."""

    first_s: float = 1.0
    longest_s: float = 30.0
    steady_s: float = 60.0


@dataclass(slots=True)
class _Running:
    """A child, its process if it has one now, and what is planned for it."""

    child: Child
    popen: subprocess.Popen[bytes] | None = None
    exit_code: int | None = None
    started_at: float = 0.0
    backoff_s: float = 0.0
    restart_at: float | None = None
    kill_at: float | None = None
    killed: bool = False
    outputs: list[Output] = field(default_factory=list)


class Supervisor:
    """Use it in a `with` block, in the main thread; leaving the block stops every child.

    `env` is added to the children's environment, `keep_fds` stay open in all of them.
    """

    def __init__(
        self,
        console: Console,
        *,
        env: Mapping[str, str] | None = None,
        keep_fds: Sequence[int] = (),
        backoff: Backoff | None = None,
    ) -> None:
        self.console = console
        self.signals = 0
        self._env = dict(env or {})
        self._keep_fds = tuple(keep_fds)
        self._backoff = backoff or Backoff()
        self._all: dict[str, _Running] = {}
        self._starting = False
        self._stopping = False
        self._selector = selectors.DefaultSelector()

    def __enter__(self) -> Self:
        self._leash_fd, self._leash_end = os.pipe()
        self._wake_fd, self._wake_end = os.pipe()
        os.set_blocking(self._wake_fd, False)
        os.set_blocking(self._wake_end, False)
        self._selector.register(self._wake_fd, selectors.EVENT_READ, self._woken)
        self._before: dict[signal.Signals, Any] = {signal.SIGCHLD: signal.signal(signal.SIGCHLD, lambda *_: None)}
        for number in _SIGNALS:
            # Who starts us with the others ignored, as nohup and a shell's background do, has a reason.
            if number is signal.SIGTERM or signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._asked_to_stop)
        self._wakeup_before = signal.set_wakeup_fd(self._wake_end, warn_on_full_buffer=False)
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        try:
            self.stop()
        finally:
            signal.set_wakeup_fd(self._wakeup_before)
            for number, handler in self._before.items():
                signal.signal(number, handler)
            self._selector.close()
            for fd in (self._leash_fd, self._leash_end, self._wake_fd, self._wake_end):
                os.close(fd)

    # -- what the caller does --------------------------------------------------------------------------------------
    def start(self, child: Child) -> None:
        """Start a child and keep it running from now on."""
        running = self._all[child.name] = _Running(child, backoff_s=self._backoff.first_s)
        self._spawn(running)

    def exit_code(self, name: str) -> int | None:
        """How that child's last process ended: exit code, or minus a signal's number; None if it runs or never ran."""
        return self._all[name].exit_code

    def setup_fault(self) -> bool:
        """Whether a child has ended with the exit code that makes starting it again pointless."""
        return any(running.exit_code == SETUP_FAULT for running in self._all.values())

    def until(self, done: Callable[[], bool], timeout_s: float | None = None) -> bool:
        """Keep everything running until `done()`, which is asked many times a second.

        False if before that a signal asked to stop, a child found its set-up wrong, or `timeout_s` seconds passed.
        """
        end = None if timeout_s is None else time.monotonic() + timeout_s
        self._starting = True
        try:
            while not done():
                if self.signals or self.setup_fault() or (end is not None and time.monotonic() >= end):
                    return False
                self._step(_POLL_S)
            return True
        finally:
            self._starting = False

    def run(self) -> None:
        """Keep everything running until a signal asks to stop."""
        while not self.signals:
            self._step(None)

    def stop(self) -> None:
        """Stop every child, stage by stage. A signal now hurries: all but the last stage at once, with little grace."""
        self._stopping = True
        asked = self.signals
        for running in self._all.values():
            running.restart_at = None
        last = max((running.child.stop_order for running in self._alive()), default=0)
        for order in sorted({running.child.stop_order for running in self._alive()}):
            self._stop_stage(order, last, asked)
        for running in self._all.values():
            for output in list(running.outputs):
                output.drain()
                self._close(running, output)

    def _stop_stage(self, order: int, last: int, asked: int) -> None:
        """Stop the children of one stage; hurry as soon as there are more signals than `asked`."""

        def stage() -> list[_Running]:
            return [running for running in self._alive() if running.child.stop_order == order]

        hurried = self.signals > asked
        for running in stage():
            self._terminate(running, hurried=hurried)
        while stage():
            if self.signals > asked and not hurried:
                hurried = True
                for running in self._alive():
                    if running.child.stop_order < last or order == last:
                        self._terminate(running, hurried=True)
            self._step(None)

    # -- the loop --------------------------------------------------------------------------------------------------
    def _step(self, timeout_s: float | None) -> None:
        """Wait for the next thing to do, at most `timeout_s` seconds, and do it."""
        plans = [at for running in self._all.values() for at in (running.restart_at, running.kill_at) if at is not None]
        if plans:
            until_plan_s = max(0.0, min(plans) - time.monotonic())
            timeout_s = until_plan_s if timeout_s is None else min(timeout_s, until_plan_s)
        for key, _ in self._selector.select(timeout_s):
            key.data()
        for running in list(self._all.values()):
            self._reap(running)
            self._kill_if_overdue(running)
            if running.restart_at is not None and time.monotonic() >= running.restart_at:
                self._spawn(running)

    def _woken(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._wake_fd, 4096)

    def _asked_to_stop(self, _number: int, _frame: FrameType | None) -> None:
        self.signals += 1

    def _alive(self) -> list[_Running]:
        return [running for running in self._all.values() if running.popen is not None]

    def _spawn(self, running: _Running) -> None:
        child = running.child
        running.restart_at = running.kill_at = running.exit_code = None
        running.killed = False
        running.started_at = time.monotonic()
        command = [sys.executable, "-I", "-S", str(Path(leash.__file__)), str(os.getpid()), str(self._leash_fd)]
        try:
            running.popen = subprocess.Popen(  # noqa: S603 - our own lists of arguments; no shell reads them
                [*command, str(child.grace_s), *child.command],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                bufsize=0,
                env={**os.environ, **self._env, leash.LEASH_VARIABLE: str(self._leash_fd)},
                pass_fds=(self._leash_fd, *self._keep_fds, *child.pass_fds),
                process_group=0,
            )
        except OSError as exc:
            self.console.report(f"{child.name} cannot be started: {exc.strerror}")
            self._plan_restart(running)
            return
        assert running.popen.stdout is not None
        output = Output(running.popen.stdout, child.name, self.console, mute=child.mute)
        running.outputs.append(output)
        self._selector.register(output, selectors.EVENT_READ, lambda: self._read(running, output))

    def _read(self, running: _Running, output: Output) -> None:
        if not output.read():
            self._close(running, output)

    def _close(self, running: _Running, output: Output) -> None:
        running.outputs.remove(output)
        self._selector.unregister(output)
        output.close()

    def _reap(self, running: _Running) -> None:
        """Notice that a child has ended, end what it has left behind, and plan its next start."""
        if running.popen is None or not _has_ended(running.popen):
            return
        # As long as the dead leader is not waited for, nobody else can get its number, nor its group's.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(running.popen.pid, signal.SIGTERM)
        running.exit_code = running.popen.wait()
        running.popen = running.kill_at = None
        if not self._stopping:
            self._plan_restart(running)

    def _plan_restart(self, running: _Running) -> None:
        child, code = running.child, running.exit_code
        if code == SETUP_FAULT and self._starting:
            return
        how = "could not be started" if code is None else _ending(code)
        if not child.restart:  # whoever started it asks for its exit code
            return
        now = time.monotonic()
        if now - running.started_at >= self._backoff.steady_s:
            running.backoff_s = self._backoff.first_s
        running.restart_at = now + running.backoff_s
        self.console.report(f"{child.name} {how}; starting it again in {running.backoff_s:g} s")
        running.backoff_s = min(2 * running.backoff_s, self._backoff.longest_s)

    def _terminate(self, running: _Running, *, hurried: bool) -> None:
        """Ask a child to end, and set the time when it is made to."""
        if running.popen is None or running.killed:
            return
        kill_at = time.monotonic() + (running.child.hurry_s if hurried else running.child.grace_s)
        running.kill_at = kill_at if running.kill_at is None else min(kill_at, running.kill_at)
        os.kill(running.popen.pid, signal.SIGTERM)

    def _kill_if_overdue(self, running: _Running) -> None:
        if running.popen is None or running.kill_at is None or time.monotonic() < running.kill_at:
            return
        if running.killed:
            self.console.report(f"{running.child.name} (process {running.popen.pid}) cannot be ended and is left behind")
            running.popen = running.kill_at = None
            return
        self.console.report(f"{running.child.name} did not stop in time and is killed")
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(running.popen.pid, signal.SIGKILL)
        running.killed = True
        running.kill_at = time.monotonic() + _ABANDON_S


def _has_ended(popen: subprocess.Popen[bytes]) -> bool:
    """Whether the process has ended; where the system can say so without it, the process is not waited for."""
    if hasattr(os, "waitid"):
        return os.waitid(os.P_PID, popen.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    return popen.poll() is not None


def _ending(code: int) -> str:
    """`code` in words: an exit code, or minus the number of a signal."""
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"
