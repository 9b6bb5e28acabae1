"""The floors under `/v1/chat/completions`: two Flask applications on our server, our client and nothing else of ours.

The full one does what nobody can leave out who sells a model's answers: it knows the key, reserves three limits in Redis by
one script, calls the vendor, settles by another, and writes one ledger row by the bare driver. The bare one passes bytes
through. Neither has a route, a price table, a fallback, a conversation, a record of what was promised, or a way back from a
crash. Which of the two it is, FLOOR says; what it needs comes by FLOOR_TOKENS, FLOOR_VENDOR and FLOOR_DATABASE_URL.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
import time
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from threading import Lock
from typing import Any

import httpx
from flask import Flask, Response, abort, request

from webapp.cli import processes
from webapp.extensions import connect_redis
from webapp.routing import guard, http
from webapp.settings import read_settings

RESERVE = """
local c = redis.call('HMGET', KEYS[1], 'requests', 'tokens', 'cost')
for i = 1, 3 do
  if tonumber(c[i] or 0) + tonumber(ARGV[i]) > tonumber(ARGV[i + 3]) then return 0 end
end
redis.call('HINCRBY', KEYS[1], 'requests', ARGV[1])
redis.call('HINCRBY', KEYS[1], 'tokens', ARGV[2])
redis.call('HINCRBY', KEYS[1], 'cost', ARGV[3])
return 1
"""
SETTLE = """
redis.call('HINCRBY', KEYS[1], 'tokens', ARGV[1])
redis.call('HINCRBY', KEYS[1], 'cost', ARGV[2])
"""
TABLE = (
    "CREATE TABLE IF NOT EXISTS ledger (id {} PRIMARY KEY, person TEXT NOT NULL, model TEXT NOT NULL, "
    "input_tokens BIGINT NOT NULL, output_tokens BIGINT NOT NULL, cost_microusd BIGINT NOT NULL, created_at FLOAT NOT NULL)"
)
_INSERT = "INSERT INTO ledger (person, model, input_tokens, output_tokens, cost_microusd, created_at) VALUES ({})"
_MAXIMUM, _HELD_TOKENS, _HELD_COST = 10**12, 4_200, 6_800
_COUNTED = re.compile(rb'"prompt_tokens": (\d+), "completion_tokens": (\d+)')


def bare() -> Flask:
    """The pass-through: the bytes of a call to the vendor, the bytes of its answer back."""
    app, send = Flask(__name__), _sender()

    @app.post("/v1/chat/completions")
    def complete() -> Response:
        answer = send(request.get_data())
        if answer.headers["content-type"].startswith("text/event-stream"):
            return Response(_relay(answer), content_type="text/event-stream")
        return Response(answer.read(), content_type="application/json")

    return app


def full() -> Flask:
    """Key, reservation, call, settlement, ledger row."""
    app, send, write = Flask(__name__), _sender(), _ledger(os.environ["FLOOR_DATABASE_URL"])
    persons: dict[str, str] = json.loads(Path(os.environ["FLOOR_TOKENS"]).read_text())
    client = connect_redis(os.environ["REDIS_URL"])
    reserve, settle = client.register_script(RESERVE), client.register_script(SETTLE)

    def end(person: str, model: str, used: Any) -> None:
        tokens, cost = used[0] + used[1], (4 * used[0] + 16 * used[1]) // 10
        settle(keys=[f"floor:{person}"], args=[tokens - _HELD_TOKENS, cost - _HELD_COST])
        write((person, model, *used, cost, time.time()))

    def stream(answer: httpx.Response, person: str, model: str) -> Iterator[bytes]:
        last = b""
        for piece in _relay(answer):
            last = (last + piece)[-1000:]
            yield piece
        end(person, model, [int(count) for count in _COUNTED.findall(last)[-1]])

    @app.post("/v1/chat/completions")
    def complete() -> Response:
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        person = persons.get(sha256(token.encode()).hexdigest())
        if person is None:
            abort(401)
        call = json.loads(request.get_data())
        if not reserve(keys=[f"floor:{person}"], args=[1, _HELD_TOKENS, _HELD_COST, _MAXIMUM, _MAXIMUM, _MAXIMUM]):
            abort(429)
        if call.get("stream"):
            call["stream_options"] = {"include_usage": True}
        answer = send(json.dumps(call).encode())
        if call.get("stream"):
            return Response(stream(answer, person, call["model"]), content_type="text/event-stream")
        document = json.loads(answer.read())
        end(person, call["model"], (document["usage"]["prompt_tokens"], document["usage"]["completion_tokens"]))
        return Response(json.dumps(document), content_type="application/json")

    return app


def _sender() -> Callable[[bytes], httpx.Response]:
    """How to send a call to the vendor; the answer's body is not read."""
    vendor = os.environ["FLOOR_VENDOR"]
    guard.install("", [vendor])
    headers = {"Content-Type": "application/json", "Authorization": "Bearer sk-for-benchmarks-only"}

    def send(body: bytes) -> httpx.Response:
        client = http.client()
        with http.call_limits(60.0):
            answer = client.send(client.build_request("POST", vendor, content=body, headers=headers), stream=True)
        if answer.status_code != 200:
            answer.close()
            abort(502)
        return answer

    return send


def _relay(answer: httpx.Response) -> Iterator[bytes]:
    try:
        yield from answer.iter_raw()
    finally:
        answer.close()


def _ledger(url: str) -> Callable[[tuple[Any, ...]], None]:
    """What writes one row and commits it."""
    if url.startswith("postgresql"):
        from psycopg_pool import ConnectionPool

        pool = ConnectionPool(url, min_size=8, max_size=8, kwargs={"autocommit": True}, open=True)
        marked = _INSERT.format(", ".join(["%s"] * 6))

        def insert(row: tuple[Any, ...]) -> None:
            with pool.connection() as connection:
                connection.execute(marked, row)

        return insert
    connection = sqlite3.connect(url.removeprefix("sqlite:///"), check_same_thread=False, isolation_level=None)
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "busy_timeout=15000"):
        connection.execute(f"PRAGMA {pragma}")
    statement, writer = _INSERT.format(", ".join("?" * 6)), Lock()

    def append(row: tuple[Any, ...]) -> None:
        with writer:
            connection.execute(statement, row)

    return append


def application() -> Flask:
    """The one that FLOOR names."""
    return {"bare": bare, "full": full}[os.environ["FLOOR"]]()


if __name__ == "__main__":
    given = read_settings()
    processes.serve(given, processes.free_address(given), "benchmarks.floor_gateway:application")
