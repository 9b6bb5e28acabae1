"""What the tests of the API's doors share: tokens, and an area with a route of each kind."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from flask import Flask, Response, abort
from pydantic import Field
from sqlalchemy import select

from webapp.api import access, once
from webapp.api.base import ApiModel, Text, Whole, answer, area
from webapp.contracts.errors import Conflict
from webapp.extensions import writing_session
from webapp.models import ApiToken, Person
from webapp.services import people


class ProbeBody(ApiModel):
    """What is sent."""

    text: Text = Field(max_length=10_000_000)
    number: Whole = Field(0, ge=0, le=10)
    more: dict[str, Any] = Field(default_factory=dict)


class ProbeAnswer(ApiModel):
    """What comes back."""

    made: int


class Probe:
    """An area of routes that count their calls."""

    def __init__(self, app: Flask) -> None:
        self.calls = 0
        self.ids: list[uuid.UUID | None] = []
        self.how = "made"
        blueprint = area("probe", "Probe", "For tests.")

        @blueprint.post("/probe", summary="Make something", responses={201: ProbeAnswer})
        @once.repeatable
        @access.opens("write")
        def make_probe(body: ProbeBody) -> Response:
            """Make it."""
            return self._made(body.text)

        app.register_api(blueprint)  # type: ignore[attr-defined]

    def _made(self, text: str) -> Response:
        self.calls += 1
        self.ids.append(once.call_id())
        if self.how == "conflict":
            raise Conflict("It is there already.")
        if self.how in ("429", "503", "404"):
            abort(int(self.how))
        if self.how == "crash":
            raise RuntimeError("a fault")
        if self.how == "stream":
            return Response(self._pieces(text), mimetype="text/event-stream")
        return answer({"made": self.calls}, 201, {"Location": f"/api/probe/{self.calls}"})

    def _pieces(self, text: str) -> Iterator[str]:
        yield f"data: {self.calls}\n\n"
        yield text


def token_for(app: Flask, email: str, *scopes: str, days: int | None = None, **values: Any) -> str:
    """A token of the person with this e-mail; `values` go into its row."""
    with app.app_context(), writing_session() as session:
        person = session.execute(select(Person).where(Person.email == email)).scalar_one()
        made = people.make_token(session, person, "a test", scopes or ("read", "write"), days, "test")
        row = session.scalars(select(ApiToken).where(ApiToken.digest == people.token_digest(made))).one()
        for name, value in values.items():
            setattr(row, name, value)
        return made


def bearer(token: str, **headers: str) -> dict[str, str]:
    """Headers of a call with a token; others by names with underscores."""
    return {"Authorization": f"Bearer {token}"} | {name.replace("_", "-"): value for name, value in headers.items()}


def last_use(app: Flask, token: str) -> datetime | None:
    """When a token was used, as its row says."""
    with app.app_context(), writing_session() as session:
        return session.execute(select(ApiToken.last_used_at).where(ApiToken.digest == people.token_digest(token))).scalar_one()
