"""Lets no child outlive the supervisor, also when the supervisor is killed without warning.

Run as a file it starts any command on a leash, our own or not: `python -I -S leash.py PARENT FD GRACE_S COMMAND…`. It
knows only the standard library and nothing of Switchhook, so that it costs a few milliseconds.

- Linux tells the command itself when its parent ends (`PR_SET_PDEATHSIG` is kept over `exec`): nothing stays resident.
- Elsewhere this file stays as the command's parent. It holds the reading end of a pipe whose writing end only the
  supervisor has, so the pipe ends when the supervisor does; then it ends the command.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable

LEASH_VARIABLE = "SWITCHHOOK_LEASH_FD"
"""Names the pipe's reading end to a child."""

WATCH_VARIABLE = "SWITCHHOOK_LEASH_WATCH"
"""Set to use the portable way on Linux too."""

_PR_SET_PDEATHSIG = 1


def end_with_parent(parent: int) -> bool:
    """Have this process get SIGTERM when the thread that started it ends; False where the system cannot do that.

    `parent` is the process id of the parent; if it is gone already, this process ends here.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        done = bool(ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0) == 0)
    except (OSError, AttributeError):
        return False
    if os.getppid() != parent:
        os._exit(0)
    return done


def hold(grace_s: float) -> None:
    """Bound the life of this command: `grace_s` seconds after its supervisor is gone, its process group is killed.

    Does nothing in a command that no supervisor started. The leash has asked the command to end by then; this is for
    one that does not.
    """
    with contextlib.suppress(KeyError, ValueError, OSError):
        fd = int(os.environ.pop(LEASH_VARIABLE))
        os.fstat(fd)
        after(lambda: _wait_for_end(fd), grace_s, lambda: os.killpg(os.getpgrp(), signal.SIGKILL))


def after(wait: Callable[[], None], grace_s: float, act: Callable[[], None]) -> None:
    """In a thread of its own: `wait()`, then `grace_s` seconds, then `act()`."""

    def run() -> None:
        wait()
        time.sleep(grace_s)
        act()

    threading.Thread(target=run, name="leash", daemon=True).start()


def _wait_for_end(fd: int) -> None:
    """Return when nobody holds the pipe's writing end any more."""
    while os.read(fd, 64):
        pass


def _watch(command: list[str], fd: int, grace_s: float) -> None:
    """Run `command` as a child, hand signals on to it, end it with the supervisor, and end as it ended."""
    # What the supervisor passed on goes further. The command is its own list of arguments; no shell reads it.
    child = subprocess.Popen(command, close_fds=False)  # noqa: S603

    def terminate() -> None:
        child.terminate()
        after(lambda: None, grace_s, child.kill)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda received, _frame: child.send_signal(received))
    after(lambda: _wait_for_end(fd), 0, terminate)
    code = child.wait()
    if code < 0:
        with contextlib.suppress(OSError):  # SIGKILL has no handler to reset
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


def main(parent: int, fd: int, grace_s: float, command: list[str]) -> None:
    """Become `command`, or watch over it."""
    try:
        if WATCH_VARIABLE not in os.environ and end_with_parent(parent):
            for ignored in (signal.SIGPIPE, signal.SIGXFSZ):  # by Python at its start; exec would keep it so
                signal.signal(ignored, signal.SIG_DFL)
            os.execvp(command[0], command)  # noqa: S606 - the supervisor's own list of arguments, no shell
        _watch(command, fd, grace_s)
    except OSError as exc:
        print(f"{command[0]} cannot be started: {exc.strerror}", file=sys.stderr)
        os._exit(127)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), sys.argv[4:])
