"""Processes whose lines can be waited for, and which are gone when the test is over."""

from __future__ import annotations

import contextlib
import os
import queue
import re
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 20.0

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN and threading.current_thread() is threading.main_thread():
    # A shell that runs us in the background makes us ignore Ctrl-C, and so would every process we start.
    signal.signal(signal.SIGINT, signal.default_int_handler)


class Process:
    """A process, the lines it says, and a pipe that ends when it and all its descendants are gone."""

    def __init__(self, command: list[str], cwd: Path, env: dict[str, str]) -> None:
        self._alive, self.keep_fd = os.pipe()
        self.popen = subprocess.Popen(
            [part.replace("KEEP_FD", str(self.keep_fd)) for part in command],
            cwd=cwd,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            process_group=0,
            pass_fds=(self.keep_fd,),
        )
        os.close(self.keep_fd)
        self.said: list[str] = []
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.popen.stdout is not None
        for line in self.popen.stdout:
            self._lines.put(line.rstrip("\n"))
        self._lines.put(None)

    def expect(self, pattern: str, timeout_s: float = TIMEOUT_S) -> re.Match[str]:
        """The next line that matches; fails the test if there is none in time."""
        while True:
            try:
                line = self._lines.get(timeout=timeout_s)
            except queue.Empty:
                line = None
            assert line is not None, f"no line matches {pattern!r} in:\n" + "\n".join(self.said)
            self.said.append(line)
            if found := re.search(pattern, line):
                return found

    def expect_each(self, *patterns: str) -> None:
        """A line for each of the patterns, in any order."""
        missing = set(patterns)
        while missing:
            found = self.expect("|".join(missing))
            missing -= {pattern for pattern in missing if re.search(pattern, found.string)}

    def everything(self) -> str:
        """All that it has said; waits for its end, and for that of whoever has its output."""
        self._reader.join(TIMEOUT_S)
        assert not self._reader.is_alive(), "somebody still has its output"
        while (line := self._lines.get()) is not None:
            self.said.append(line)
        return "\n".join(self.said)

    def signal(self, number: signal.Signals) -> None:
        self.popen.send_signal(number)

    def exit_code(self) -> int:
        return self.popen.wait(TIMEOUT_S)

    def all_gone(self, timeout_s: float = TIMEOUT_S) -> bool:
        """Wait until nobody holds the pipe that the first process was given; False if somebody still does."""
        return bool(select.select([self._alive], [], [], timeout_s)[0])

    def close(self) -> None:
        if self.popen.poll() is None:
            self.popen.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.popen.wait(5)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.popen.pid, signal.SIGKILL)
        self.popen.wait()
        os.close(self._alive)
        self._reader.join(TIMEOUT_S)
        if self.popen.stdout is not None and not self._reader.is_alive():
            self.popen.stdout.close()


class Launcher:
    """Starts processes with a data directory and a port of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data_dir = folder / "data"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self._started: list[Process] = []

    def __call__(self, *command: str, **env: str) -> Process:
        """Run `python COMMAND` in an empty directory; of the caller's settings it sees none."""
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
        kept |= {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "SWITCHHOOK_DATA_DIR": str(self.data_dir)}
        kept |= {"SWITCHHOOK_PORT": str(self.port), "SWITCHHOOK_WORKER_GRACE_S": "5"}
        process = Process([sys.executable, "-W", "error::ResourceWarning", *command], self.folder, kept | env)
        self._started.append(process)
        return process

    def close(self) -> None:
        for process in self._started:
            process.close()


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Launcher]:
    launcher = Launcher(tmp_path)
    yield launcher
    launcher.close()
