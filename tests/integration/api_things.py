"""Everything that the REST API has an address for, made by the services: of Olga, and of Otto, who manages her organization.

All texts in it have the canary: whoever finds it in an answer has seen what is theirs.
"""

from __future__ import annotations

import io
import uuid
from typing import Any

from sqlalchemy import insert, select, update

from tests.fakes.receiver import FakeReceiver
from tests.integration.people_api_support import OLGA, OTTO, World
from webapp.extensions import now, reading, writing
from webapp.models import Attachment, Conversation, ErrorLog, Organization, Person, Request, RequestStatus
from webapp.models.columns import new_id
from webapp.pipeline import letters, webhooks
from webapp.pipeline.admit import admit
from webapp.pipeline.intake import Intake
from webapp.services import batches, personal_tokens, ratings, request_lists, template_changes, templates
from webapp.services import webhooks as endpoints
from webapp.services.limits import Typed
from webapp.services.organizations import Actor
from webapp.services.personal_tokens import Maker, NewToken

CANARY = "canaryq7x"
"""Small letters and digits alone: no form of writing changes it."""
SCOPES = frozenset({"chat", "read", "write", "admin", "sms"})


class Things:
    """Olga's and Otto's. `ids` has the value of each path parameter of the API's document, by its name."""

    def __init__(self, world: World, receiver: FakeReceiver) -> None:
        self.world, self.receiver = world, receiver
        self.olga, self.place = world.ids[OLGA], world.other
        person = {"full_name": f"Olga {CANARY}", "preferences": {"note": CANARY}, "plan_code": "enterprise"}
        world.put(Person, Person.id == self.olga, **person)
        world.put(Person, Person.id == world.ids[OTTO], full_name=f"Otto {CANARY}")
        world.put(Organization, Organization.id == self.place, name=f"Other {CANARY}")
        with world.app.app_context():
            self.ids: dict[str, str] = {name: str(value) for name, value in self._made().items()}

    def _made(self) -> dict[str, object]:
        task = self._request(f"{CANARY}: show me a table")
        generation = self._request(f"{CANARY}: a lighthouse", "image.generate")
        failed = self._request(f"{CANARY}: in vain")
        self.world.run_jobs()
        with writing() as connection:
            connection.execute(update(Request).where(Request.id == task).values(answer=f"Here is {CANARY}"))
            connection.execute(update(Request).where(Request.id == failed).values(status=RequestStatus.FAILED))
            connection.execute(update(Conversation).values(title=f"About {CANARY}"))
            letters.write(connection, failed, "provider_unavailable", f"{CANARY} answered 503", 4, now())
        ratings.rate(request_lists.Scope.own(self.olga, self.place), task, 4, f"{CANARY}, well done")
        with reading() as connection:
            conversation = connection.scalars(select(Request.conversation_id).where(Request.id == task)).one()
            picture = connection.scalars(select(Attachment.sha256).where(Attachment.request_id == generation)).one()
        webhook, message = self._webhook()
        return {
            "who": self.olga,
            "task_id": task,
            "generation_id": generation,
            "request_id": failed,
            "sha256": picture,
            "conversation_id": conversation,
            "template_id": self._template(),
            "batch_id": self._batch(),
            "delivery_id": self.world.message(OLGA, f"{CANARY} by message"),
            "token_id": self._token(),
            "error_id": self._error(failed),
            "webhook_id": webhook,
            "message_id": message,
            "person_id": self.olga,
            "organization_id": self.place,
        }

    def _request(self, text: str, operation: str = "chat") -> uuid.UUID:
        intake = Intake("api", text, operation, self.olga, new_conversation=True)
        request_id = admit(intake).request_id
        assert request_id is not None
        return request_id

    def _template(self) -> uuid.UUID:
        draft = template_changes.Draft(f"Mine {CANARY}", f"{CANARY} into {{{{language}}}}", f"{CANARY} all over", CANARY)
        return template_changes.create(templates.Viewer(self.olga, self.place), draft).line.id

    def _batch(self) -> uuid.UUID:
        viewer = batches.Viewer(self.olga, self.place, False, f"person:{self.olga}")
        order = batches.Order(f"Batch {CANARY}", io.BytesIO(f"prompt\n{CANARY} in a row\n".encode()), "rows.csv")
        return batches.create(self.olga, order, viewer)

    def _token(self) -> uuid.UUID:
        limit = Typed("5", "requests", "day", label=f"For {CANARY}")
        new = NewToken(f"Token {CANARY}", ["read"], limits=[limit])
        _, view = personal_tokens.create(Maker(self.olga, self.place, SCOPES), new)
        return view.id

    def _error(self, request_id: uuid.UUID) -> uuid.UUID:
        row = {"id": new_id(), "kind": "provider_timeout", "message": f"No {CANARY}.", "detail": CANARY, "created_at": now()}
        with writing() as connection:
            connection.execute(insert(ErrorLog), row | {"person_id": self.olga, "request_id": request_id})
        return uuid.UUID(str(row["id"]))

    def _webhook(self) -> tuple[uuid.UUID, uuid.UUID]:
        otto = Actor.person(self.world.ids[OTTO])
        made = endpoints.create(otto, self.place, f"{self.receiver.hook}?{CANARY}", f"Hook {CANARY}").endpoint.id
        with writing() as connection:
            sent = webhooks.note(connection, "quota.warning", self.place, lambda: {"words": CANARY}, now())
        return made, sent[0]

    def value(self, parameter: str, path: str) -> str:
        """What stands in a path for a parameter, of these things."""
        # A message to a webhook is a delivery, too.
        known = "message_id" if parameter == "delivery_id" and path.startswith("/api/webhooks/") else parameter
        assert known in self.ids, f"make a thing for the parameter {parameter} of {path}, so that strangers are kept from it"
        return self.ids[known]


def operations(spec: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    """(METHOD, path, operation) of everything in the API's document."""
    methods = ("get", "post", "put", "patch", "delete")
    return [
        (method.upper(), path, operation)
        for path, item in spec["paths"].items()
        for method, operation in item.items()
        if method in methods
    ]


def body_schema(spec: dict[str, Any], operation: dict[str, Any]) -> dict[str, Any] | None:
    """The schema of the JSON body that an operation takes, None if it takes none."""
    medium = operation.get("requestBody", {}).get("content", {}).get("application/json")
    if medium is None:
        return None
    found: dict[str, Any] = spec["components"]["schemas"][medium["schema"]["$ref"].rpartition("/")[2]]
    return found


def example(schema: dict[str, Any]) -> Any:
    """The body that the document shows."""
    return schema["examples"][0]
