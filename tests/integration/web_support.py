"""What the tests of the pages share: signing in, reading forms, running what was queued in this very process.

No application context is open while a test's client is at work: Flask would lend its `g`, and so the signed-in person, to
every request made meanwhile.
"""

from __future__ import annotations

import re
import uuid
from functools import cache
from typing import Any

from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import select, update
from werkzeug.test import TestResponse

from webapp.extensions import reading, writing, writing_session
from webapp.models import Delivery, Identity, Person, PersonRole, Plan, Request
from webapp.pipeline import deliver, execute
from webapp.services import passwords, people

ADMIN = "admin@example.com"
ALICE, BOB = "alice@example.com", "bob@example.com"
PASSWORD = "four plain words here"
HTMX = {"HX-Request": "true"}


def token(response: TestResponse) -> str:
    """The CSRF token of a page."""
    found = re.search(r'name="csrf-token" content="([^"]+)"', response.text)
    assert found, "the page has no CSRF token"
    return found[1]


def hidden(response: TestResponse, field_id: str) -> str:
    """The value of the hidden field with this id."""
    found = re.search(rf'<input type="hidden" id="{field_id}"[^>]* value="([^"]*)"', response.text)
    assert found, f"the page has no field {field_id}"
    return found[1]


@cache
def _hash() -> str:
    # Hashing is slow on purpose: one password for all, hashed once.
    return passwords.hash_password(PASSWORD)


class Browser:
    """A client that keeps its cookies and sends the CSRF token, as a page does."""

    def __init__(self, client: FlaskClient) -> None:
        self.client = client

    def get(self, path: str, **options: Any) -> TestResponse:
        return self.client.get(path, **options)

    def post(self, path: str, data: dict[str, str] | None = None, **options: Any) -> TestResponse:
        csrf = token(self.client.get("/settings", follow_redirects=True))
        return self.client.post(path, data={"csrf_token": csrf} | (data or {}), **options)

    def sign_in(self, email: str, password: str = PASSWORD) -> TestResponse:
        return self.post("/login", {"email": email, "password": password})

    def ask(self, text: str, conversation: str = "", key: str = "", htmx: bool = False) -> TestResponse:
        data = {"text": text, "conversation": conversation, "key": key or uuid.uuid4().hex}
        return self.post("/chat", data, headers=HTMX if htmx else {})


class Site:
    """An application, its people, and its database."""

    def __init__(self, app: Flask) -> None:
        self.app = app

    def add(
        self, email: str, role: PersonRole = PersonRole.MEMBER, plan: str | None = None, phone: str | None = None
    ) -> uuid.UUID:
        """A person who can sign in with PASSWORD."""
        with self.app.app_context(), writing_session() as session:
            person = people.add(session, email=email, phone=phone, role=role, plan=plan)
            person.password_hash = _hash()
            return person.id

    def browser(self, email: str = "") -> Browser:
        """A browser of its own, with the session of the person with this e-mail, if one is given."""
        made = Browser(self.app.test_client())
        if email:
            with self.app.app_context(), reading() as connection:
                query = select(Person.id, Person.session_key).where(Person.email == email)
                person_id, key = connection.execute(query).one()
            with made.client.session_transaction() as session:
                session["_user_id"] = f"{person_id}:{key}"
        return made

    def admin(self) -> Browser:
        """The administrator's browser."""
        return self.browser(ADMIN)

    def run_jobs(self) -> None:
        """Answer what is queued and send what is pending, until nothing is."""
        with self.app.app_context():
            while run_once():
                pass

    def newest_request(self) -> Any:
        """The row of the request that was made last."""
        with self.app.app_context(), reading() as connection:
            return connection.execute(select(Request.__table__).order_by(Request.id.desc()).limit(1)).one()

    def count(self, model: type[Any]) -> int:
        """How many rows a table has."""
        with self.app.app_context(), reading() as connection:
            return len(connection.execute(select(model.id)).all())

    def give_limits(self, plan: str, **limits: int | None) -> None:
        """Change what a plan allows."""
        with self.app.app_context(), writing() as connection:
            connection.execute(update(Plan).where(Plan.code == plan).values(limits=limits))

    def change(self, request_id: uuid.UUID, **values: Any) -> None:
        """Put values into a request's row."""
        with self.app.app_context(), writing() as connection:
            connection.execute(update(Request).where(Request.id == request_id).values(**values))

    def change_person(self, email: str, **values: Any) -> None:
        """Put values into a person's row."""
        with self.app.app_context(), writing() as connection:
            connection.execute(update(Person).where(Person.email == email).values(**values))

    def opted_out(self, address: str) -> bool:
        """Whether a number has opted out."""
        with self.app.app_context(), reading() as connection:
            query = select(Identity.opted_out_at).where(Identity.address == address)
            return connection.execute(query).scalar_one() is not None


def run_once() -> bool:
    """Answer what is queued now and send what is pending; whether there was anything. Needs an application context."""
    with reading() as connection:
        requests = connection.execute(select(Request.id).where(Request.status == "queued")).scalars().all()
        deliveries = connection.execute(select(Delivery.id).where(Delivery.status == "pending")).scalars().all()
    for request_id in requests:
        execute.execute(request_id)
    for delivery_id in deliveries:
        deliver.deliver(delivery_id)
    return bool(requests or deliveries)
