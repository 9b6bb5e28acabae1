"""What answers `/v1/chat/completions` in these benchmarks: ours, the two floors, LiteLLM's proxy, and the vendor itself."""

from __future__ import annotations

import contextlib
import itertools
import json
import secrets
import sqlite3
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import LiteralString

import psycopg
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from benchmarks import floor_gateway, usage
from benchmarks.load import Load, drive
from benchmarks.place import MODEL, ROOT, Place, Started, free_port, phone, wait_for_http, wait_until
from benchmarks.vendor_at_once import WORDS
from webapp.cli import embedded_queue
from webapp.extensions import writing_session
from webapp.models import Identity, Person, Plan
from webapp.services import people

PERSONS = 100
PROCESSES = 2
PLAN = "business"
LIMITS = 3
_MAXIMUM = 10**12
_PROMPT = (
    "You read questions about Python and answer in one short paragraph, without headings, lists or code blocks. Say what works "
    "in every supported release, name the cost where it is not linear, and mention the built-in before the library. "
) * 2
_MASTER_KEY = f"sk-{secrets.token_hex(32)}"
_numbers = itertools.count()


@dataclass(frozen=True, slots=True)
class House:
    """Where the people are whose tokens are used: one database of each kind, and files of its own for each floor."""

    kind: str
    url: str
    tokens: tuple[str, ...]
    tokens_file: Path


@dataclass(slots=True)
class Side:
    """A server that is measured. What it answered is counted, and at the end compared with what it wrote down."""

    name: str
    port: int
    process: Started | None
    tokens: tuple[str, ...]
    written: Callable[[], int] | None = None
    """How many ledger rows there are; None where there is no ledger."""
    model: str = MODEL
    answered: int = 0
    figures: dict[str, list[float]] = field(default_factory=dict)

    def drive(self, connections: int, seconds: float) -> Load:
        """Plain calls for so many seconds."""
        try:
            load = drive(self.port, self.calls(), connections, seconds, WORDS.encode())
        except RuntimeError as exc:
            raise RuntimeError(f"{self.name}: {exc}\n{self.said()}") from None
        self.answered += len(load.latencies_s)
        return load

    def calls(self, *, streamed: bool = False) -> Iterator[bytes]:
        """Requests as bytes for the wire: the people in turn, no question twice."""
        while True:
            number = next(_numbers)
            body = _BODY % (self.model.encode(), b"true" if streamed else b"false", number)
            token = self.tokens[number % len(self.tokens)].encode()
            yield _HEAD % (self.port, token, len(body)) + body

    def note(self, name: str, value: float | None) -> None:
        """Keep one figure of a round."""
        if value is not None:
            self.figures.setdefault(name, []).append(value)

    def check(self) -> None:
        """RuntimeError unless there is exactly one ledger row for each answer."""
        if self.written is None:
            return
        written = self.written
        try:
            wait_until(lambda: written() == self.answered, "the ledger", 10)
        except RuntimeError:
            raise RuntimeError(f"{self.name}: {self.answered} answers, {written()} rows in the ledger: {self.said()}") from None

    def said(self) -> str:
        """The end of what the server wrote."""
        return self.process.log.read_text(errors="replace")[-1500:] if self.process else ""

    @property
    def pid(self) -> int | None:
        """The process whose use of the machine is its own and its children's."""
        return self.process.pid if self.process else None

    def pss_mb(self) -> float | None:
        return usage.pss_mb(self.process.pid) if self.process else None


_HEAD = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nAuthorization: Bearer %b\r\n"
    b"Content-Type: application/json\r\nAccept: application/json\r\nUser-Agent: OpenAI/Python\r\nContent-Length: %d\r\n\r\n"
)
_BODY = (
    b'{"model": "%b", "stream": %b, "temperature": 0.2, "max_tokens": 400, "messages": [{"role": "system", "content": "'
    + _PROMPT.encode()
    + b'"}, {"role": "user", "content": "How do I reverse a list? This is question number %d of today."}]}'
)


def house(place: Place, kind: str) -> House:
    """A migrated database with people, a token for each, and a plan whose three limits are never reached."""
    url = place.database(kind, persons=PERSONS, plan=PLAN)
    with place.app(url), writing_session() as session:
        session.execute(update(Plan).where(Plan.code == PLAN).values(limits=_enough(session)))
        made = {phone(number): "" for number in range(PERSONS)}
        found = session.execute(select(Person, Identity.address).join(Identity).where(Identity.address.in_(made)))
        for person, address in found.all():
            made[address] = people.make_token(session, person, "benchmark", ["chat"], None, "benchmark")
    file = place.folder / f"tokens-{next(_numbers)}.json"
    file.write_text(json.dumps({people.token_digest(token): address for address, token in made.items()}))
    return House(kind, url, tuple(made.values()), file)


def _enough(session: Session) -> dict[str, int]:
    return dict.fromkeys(session.execute(select(Plan.limits).where(Plan.code == PLAN)).scalar_one(), _MAXIMUM)


# -- ours ----------------------------------------------------------------------------------------------------------
def ours(place: Place, house: House, vendor: int, *, threads: int | None = None, gunicorn: Path | None = None) -> Side:
    """The product's web process as `switchhook web` runs it, or the same application under gunicorn."""
    port = free_port()
    more = {"SWITCHHOOK_WEB_PROCESSES": str(PROCESSES), "OPENAI_BASE_URL": f"http://127.0.0.1:{vendor}/v1"}
    if threads:
        more["SWITCHHOOK_WEB_THREADS"] = str(threads)
    env = place.environment(house.url, 1, **more)
    if gunicorn is None:
        process = place.python("web", "-m", "webapp.cli", "web", "--port", str(port), env=env)
    else:
        env["PYTHONPATH"] = f"{ROOT}:{next(gunicorn.glob('lib/python*/site-packages'))}"
        command = ["-m", "gunicorn", "-k", "gthread", "-w", str(PROCESSES), "--threads", str(threads or 128)]
        command += ["-b", f"127.0.0.1:{port}", "--backlog", "2048", "--keep-alive", "60", "--log-level", "warning"]
        process = place.python("gunicorn", *command, "webapp:create_app()", env=env)
    wait_for_http(port, "the web server")
    name = "Switchhook" if gunicorn is None else "… under gunicorn"
    start = _settled(house)
    return Side(name, port, process, house.tokens, lambda: _settled(house) - start)


def _settled(house: House) -> int:
    """Ledger rows of answered requests, all of whose limits are settled; -1 while any is still held."""
    entries = _number(house.url, "SELECT coalesce(sum(requests), 0) FROM ledger_entry")
    open_holds = _number(house.url, "SELECT count(*) FROM hold WHERE settled_at IS NULL")
    held = _number(house.url, "SELECT coalesce(sum(held), 0) FROM limit_counter")
    holds = _number(house.url, "SELECT count(*) FROM hold")
    return entries if not held and not open_holds and holds >= LIMITS * entries else -1


# -- floors and peers ----------------------------------------------------------------------------------------------
def floor(place: Place, house: House, vendor: int, which: str = "full", *, threads: int | None = None) -> Side:
    """`full` or `bare` of `benchmarks.floor_gateway`."""
    port = free_port()
    url, written = _ledger(place, house.kind)
    more = {"FLOOR": which, "FLOOR_TOKENS": str(house.tokens_file), "FLOOR_DATABASE_URL": url}
    more |= {"FLOOR_VENDOR": f"http://127.0.0.1:{vendor}/v1/chat/completions"}
    more |= {"SWITCHHOOK_PORT": str(port), "SWITCHHOOK_WEB_PROCESSES": str(PROCESSES)}
    if threads:
        more["SWITCHHOOK_WEB_THREADS"] = str(threads)
    process = place.python(f"floor-{which}", "-m", "benchmarks.floor_gateway", env=place.environment(house.url, 2, **more))
    wait_for_http(port, "the floor")
    if which == "bare":
        return Side("pass-through", port, process, house.tokens)
    return Side("floor", port, process, house.tokens, written)


def vendor_itself(port: int) -> Side:
    """The vendor, called directly."""
    return Side("the vendor alone", port, None, ("sk-for-benchmarks-only",))


def litellm(place: Place, house: House, vendor: int, environment: Path) -> Side:
    """LiteLLM's proxy with two workers: `keyed` with a stand-in for its database where PostgreSQL is, else `nodb`."""
    port, keyed = free_port(), house.kind == "postgresql"
    folder = place.folder / f"litellm-{port}"
    folder.mkdir()
    (folder / "gateway_standin.py").write_text(Path(__file__).with_name("gateway_standin.py").read_text())
    (folder / "config.yaml").write_text(_litellm_config(vendor, keyed=keyed))
    env = {"LITELLM_MODE": "PRODUCTION", "LITELLM_LOG": "ERROR", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    written, tokens = None, house.tokens if keyed else (_MASTER_KEY,)
    if keyed:
        url, written = _ledger(place, house.kind)
        redis_port = _tcp_redis(place)
        env |= {"FLOOR_TOKENS": str(house.tokens_file), "FLOOR_DATABASE_URL": url}
        env |= {"REDIS_HOST": "127.0.0.1", "REDIS_PORT": str(redis_port)}
    command = [str(environment / "bin" / "litellm"), "--config", str(folder / "config.yaml"), "--host", "127.0.0.1"]
    command += ["--port", str(port), "--num_workers", str(PROCESSES), "--telemetry", "False"]
    process = place.start("litellm", *command, env=env | {"PYTHONPATH": ""})
    wait_for_http(port, "LiteLLM", 90)
    return Side(f"LiteLLM, {'keyed' if keyed else 'nodb'}", port, process, tokens, written, "bench")


def _litellm_config(vendor: int, *, keyed: bool) -> str:
    own = {"master_key": _MASTER_KEY} | ({"custom_auth": "gateway_standin.authenticate"} if keyed else {})
    parameters = {"model": MODEL, "api_base": f"http://127.0.0.1:{vendor}/v1", "api_key": "sk-for-benchmarks-only"}
    config = {
        "model_list": [{"model_name": "bench", "litellm_params": parameters}],
        "general_settings": own,
        "litellm_settings": {"callbacks": ["gateway_standin.ledger"]} if keyed else {},
    }
    return json.dumps(config)  # JSON is YAML.


def _tcp_redis(place: Place) -> int:
    """A Redis that is reached by a port, as LiteLLM wants it."""
    port = free_port()
    options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(place.folder)]
    place.start("redis", str(embedded_queue.server_binary()), *options)
    return port


def _ledger(place: Place, kind: str) -> tuple[str, Callable[[], int]]:
    """A database with the floors' ledger, and what counts its rows."""
    if kind == "sqlite":
        url = f"sqlite:///{place.folder / f'floor-{next(_numbers)}.db'}"
        with contextlib.closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as file:
            file.execute(floor_gateway.TABLE.format("INTEGER"))
    else:
        url = place.empty_postgres_database()
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(floor_gateway.TABLE.format("BIGINT GENERATED ALWAYS AS IDENTITY"))
    return url, lambda: _number(url, "SELECT count(*) FROM ledger")


def _number(url: str, question: LiteralString) -> int:
    """What a database answers to a question with one number."""
    if url.startswith("sqlite"):
        with contextlib.closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as file:
            return int(file.execute(question).fetchone()[0])
    with psycopg.connect(url) as connection:
        found = connection.execute(question).fetchone()
    return int(found[0]) if found else 0


def up(place: Place) -> Started:
    """`switchhook up` in a directory of its own, waited for until its web server and its worker answer."""
    port = free_port()
    env = place.environment("", 0, SWITCHHOOK_DATA_DIR=str(place.folder / "up"), SWITCHHOOK_PORT=str(port))
    del env["DATABASE_URL"], env["REDIS_URL"]
    process = place.start("up", sys.executable, "-m", "webapp.cli", "up", env=env)
    wait_until(lambda: b"Ctrl-C stops it" in process.log.read_bytes(), "switchhook up", 60)
    return process
