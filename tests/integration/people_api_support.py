"""A small world for the REST API: two organizations, their people, and tokens to call with.

Alice and Ann are members of the default organization, Mary manages it; Otto manages another one, in which Olga is a member.
"""

from __future__ import annotations

import uuid
from typing import Any

from flask import Flask
from sqlalchemy import select, update
from werkzeug.test import TestResponse

from tests.integration.web_support import ADMIN, Site
from webapp.extensions import now, reading, writing, writing_session
from webapp.models import ApiToken, Delivery, Direction, Identity, Membership, Organization, Person, PersonRole
from webapp.models.columns import new_id
from webapp.services import people

ALICE, ANN, MARY, OTTO, OLGA = (f"{name}@example.com" for name in ("alice", "ann", "mary", "otto", "olga"))
ALICE_PHONE, OLGA_PHONE = "+15005550006", "+15005550009"
EVERYTHING = ("chat", "read", "write", "admin", "sms")


class World(Site):
    """The application with its people."""

    def __init__(self, app: Flask) -> None:
        super().__init__(app)
        with app.app_context(), writing_session() as session:
            other = Organization(name="Other", time_zone="UTC")
            session.add(other)
            session.flush()
            self.other = other.id
            self.home = people.default_organization(session)
            self.ids: dict[str, uuid.UUID] = {}
            for email, role, place, phone in (
                (ALICE, PersonRole.MEMBER, self.home, ALICE_PHONE),
                (ANN, PersonRole.MEMBER, self.home, None),
                (MARY, PersonRole.MANAGER, self.home, None),
                (OTTO, PersonRole.MANAGER, self.other, None),
                (OLGA, PersonRole.MEMBER, self.other, OLGA_PHONE),
            ):
                person = people.add(session, email=email, phone=phone, role=role, organization_id=place)
                person.full_name = email.partition("@")[0].capitalize()
                self.ids[email] = person.id
            self.ids[ADMIN] = session.execute(select(Person.id).where(Person.email == ADMIN)).scalar_one()

    def token(self, email: str, *scopes: str, **values: Any) -> str:
        """A token of somebody, with all scopes unless some are named; `values` are put into its row."""
        with self.app.app_context(), writing_session() as session:
            person = session.get_one(Person, self.ids[email])
            made = people.make_token(session, person, "test", scopes or EVERYTHING, None, "test")
            if values:
                digest = people.token_digest(made)
                session.flush()
                session.execute(update(ApiToken).where(ApiToken.digest == digest).values(**values))
        return made

    def api(self, email: str = "", *scopes: str) -> Api:
        """A program that calls as somebody, or as nobody."""
        return Api(self, self.token(email, *scopes) if email else "")

    def join(self, email: str, organization_id: uuid.UUID, role: str = "member") -> None:
        """Make somebody a member of a further organization."""
        with self.app.app_context(), writing_session() as session:
            session.add(Membership(person_id=self.ids[email], organization_id=organization_id, role=role))

    def put(self, model: Any, *where: Any, **values: Any) -> None:
        """Put values into rows."""
        with self.app.app_context(), writing() as connection:
            connection.execute(update(model).where(*where).values(**values))

    def opt_out(self, phone: str) -> None:
        """Let a number opt out."""
        self.put(Identity, Identity.address == phone, opted_out_at=now())

    def all(self, model: Any) -> list[Any]:
        """All rows of a table, oldest first."""
        with self.app.app_context(), reading() as connection:
            return list(connection.execute(select(model.__table__).order_by(model.id)).all())

    def message(self, person: str | None, body: str = "hello", **values: Any) -> uuid.UUID:
        """A message on record."""
        given: dict[str, Any] = {
            "id": new_id(),
            "channel": "simulator",
            "medium": "sms",
            "direction": Direction.OUT,
            "kind": "manual",
            "person_id": self.ids[person] if person else None,
            "address": "+15005550099",
            "body": body,
            "status": "sent",
        }
        with self.app.app_context(), writing_session() as session:
            session.add(Delivery(**(given | values)))
        return uuid.UUID(str((given | values)["id"]))


class Api:
    """A program with a token, or without one."""

    def __init__(self, world: Site, token: str) -> None:
        self.client = world.app.test_client()
        self.headers = {"Authorization": f"Bearer {token}"} if token else {}

    def call(self, method: str, path: str, json: Any = None, **options: Any) -> TestResponse:
        headers = self.headers | options.pop("headers", {})
        return self.client.open(f"/api{path}", method=method, json=json, headers=headers, **options)

    def get(self, path: str, **query: Any) -> TestResponse:
        return self.call("GET", path, query_string=query)

    def post(self, path: str, json: Any = None, **options: Any) -> TestResponse:
        return self.call("POST", path, {} if json is None else json, **options)

    def patch(self, path: str, json: Any) -> TestResponse:
        return self.call("PATCH", path, json)

    def delete(self, path: str) -> TestResponse:
        return self.call("DELETE", path)

    def pages(self, path: str, **query: Any) -> list[Any]:
        """All items of a list, page by page; none twice."""
        found: list[Any] = []
        cursor: dict[str, str] = {}
        for _ in range(200):
            page = self.get(path, **(query | cursor))
            assert page.status_code == 200, page.text
            body = page.get_json()
            found += body["items"]
            if body["next_cursor"] is None:
                ids = [item["id"] for item in found]
                assert len(ids) == len(set(ids)), "an item came twice"
                return found
            cursor = {"cursor": body["next_cursor"]}
        raise AssertionError("the list has no end")


def ok(response: TestResponse, status: int = 200) -> Any:
    """The JSON of an answer with this status."""
    assert response.status_code == status, response.text
    return response.get_json()


def refused(response: TestResponse, status: int, field: str = "") -> Any:
    """The problem of an answer with this status, about this field."""
    assert response.status_code == status, response.text
    assert response.mimetype == "application/problem+json"
    problem = response.get_json()
    assert problem["status"] == status
    if field:
        assert problem.get("field") == field, problem
    return problem
