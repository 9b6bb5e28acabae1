"""The floor under our webhook: the least that a Flask application can do and still not lose or believe a wrong message.

It checks the signature, stores the message under its unique id, enqueues a job, and answers. No person, no plan, no
limits, no conversation. Server, database settings and the one-writer lock are the product's, so that only the work differs.
"""

from __future__ import annotations

import base64
import hmac
import os
from contextlib import nullcontext
from datetime import UTC, datetime
from threading import Lock

import sqlalchemy as sa
from flask import Flask, Response, abort, request
from rq import Queue
from rq.serializers import JSONSerializer

from webapp.cli import processes
from webapp.extensions import connect_redis, engine_options, tune_engine
from webapp.settings import read_settings

message = sa.Table(
    "message",
    sa.MetaData(),
    sa.Column("sid", sa.String(40), primary_key=True),
    sa.Column("sender", sa.String(20), nullable=False),
    sa.Column("recipient", sa.String(20), nullable=False),
    sa.Column("body", sa.Text, nullable=False),
    sa.Column("created_at", sa.DateTime, nullable=False),
)


def create() -> Flask:
    """The application; its database is the file, or the PostgreSQL database, named in FLOOR_DATABASE_URL."""
    settings = read_settings(database_url=os.environ["FLOOR_DATABASE_URL"])
    url = settings.effective_database_url
    engine = sa.create_engine(url, **engine_options(settings))
    tune_engine(engine)
    message.metadata.create_all(engine)
    # Without it SQLite's polling makes the floor's p99 ten times as long, and we would look good for the wrong reason.
    writer = Lock() if engine.dialect.name == "sqlite" else nullcontext()
    writing = engine.execution_options(switchhook_writing=True)
    insert = message.insert()
    queue = Queue("floor", connection=connect_redis(settings.effective_redis_url), serializer=JSONSerializer)
    token = os.environ["TWILIO_AUTH_TOKEN"].encode()
    app = Flask(__name__)

    @app.post("/sms/receive")
    def receive() -> Response:
        form = request.form
        signed = request.url + "".join(name + form[name] for name in sorted(form))
        expected = base64.b64encode(hmac.digest(token, signed.encode(), "sha1")).decode()
        if not hmac.compare_digest(expected, request.headers.get("X-Twilio-Signature", "")):
            abort(403)
        sid = form["MessageSid"]
        row = {"sid": sid, "sender": form["From"], "recipient": form["To"], "body": form["Body"]}
        with writer, writing.begin() as connection:
            connection.execute(insert, row | {"created_at": datetime.now(UTC).replace(tzinfo=None)})
        queue.enqueue("benchmarks.tasks.nothing", sid, job_id=sid, result_ttl=0)
        return Response("<Response/>", content_type="text/xml; charset=utf-8")

    return app


if __name__ == "__main__":
    given = read_settings()
    processes.serve(given, processes.free_address(given), "benchmarks.floor_webhook:create")
