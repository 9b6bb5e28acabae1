"""Programs of people of two organizations, for tests of the API."""

from __future__ import annotations

import uuid
from typing import Any

from werkzeug.test import TestResponse

from tests.integration.api_support import bearer, token_for
from tests.integration.web_support import ADMIN, ALICE, BOB, Site
from webapp.extensions import writing_session
from webapp.models import PersonRole
from webapp.services import organizations, people
from webapp.services.organizations import Actor

CAROL, DAVE, ERIN = "carol@example.com", "dave@example.com", "erin@example.com"


class Caller:
    """A program with a token of its person."""

    def __init__(self, site: Site, email: str, *scopes: str, **values: Any) -> None:
        self.client = site.app.test_client()
        self.headers = bearer(token_for(site.app, email, *scopes, **values))

    def get(self, path: str, **query: Any) -> TestResponse:
        return self.client.get(path, headers=self.headers, query_string=query)

    def post(self, path: str, body: Any = None, **headers: str) -> TestResponse:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.client.post(path, json={} if body is None else body, headers=self.headers | named)

    def patch(self, path: str, body: Any) -> TestResponse:
        return self.client.patch(path, json=body, headers=self.headers)

    def delete(self, path: str) -> TestResponse:
        return self.client.delete(path, headers=self.headers)


class Town:
    """Here Alice is a member and Bob the manager; elsewhere Carol is a member and Dave the manager; and the administrator."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.ids = {ALICE: site.add(ALICE), BOB: site.add(BOB, role=PersonRole.MANAGER)}
        with site.app.app_context():
            self.elsewhere: uuid.UUID = organizations.create(Actor.operator("test"), "Elsewhere").id
            with writing_session() as session:
                for email, role in ((CAROL, PersonRole.MEMBER), (DAVE, PersonRole.MANAGER)):
                    person = people.add(session, email=email, role=role, organization_id=self.elsewhere)
                    self.ids[email] = person.id
        self.alice = Caller(site, ALICE, "read", "write", "chat")
        self.bob = Caller(site, BOB, "read", "write", "admin")
        self.carol = Caller(site, CAROL, "read", "write", "chat")
        self.dave = Caller(site, DAVE, "read", "write", "admin")
        self.admin = Caller(site, ADMIN, "read", "write", "admin")
