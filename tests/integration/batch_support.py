"""What the tests of batches share: a person who may make them, a file, the feeder and the workers in this very process."""

from __future__ import annotations

import io
import uuid
from typing import Any

from sqlalchemy import select, update

from tests.support import add_person, run_jobs
from webapp.extensions import reading, writing
from webapp.models import Batch, BatchRow, Person, Request
from webapp.pipeline import batch_feed
from webapp.services import batch_results, batch_views, batches
from webapp.services.batch_views import BatchView
from webapp.services.batches import Order, Viewer

OPERATOR = Viewer(None, None, True, "test")


def person(email: str = "ada@example.com", plan: str = "professional", **values: Any) -> uuid.UUID:
    """Somebody who may make batches."""
    return add_person(email=email, plan=plan, **values)


def viewer_of(person_id: uuid.UUID, *, admin: bool = False) -> Viewer:
    """How this person looks at things."""
    with reading() as connection:
        place = connection.execute(select(Person.organization_id).where(Person.id == person_id)).scalar_one()
    return Viewer(person_id, place, admin, f"person:{person_id}")


def order(text: str | bytes, template: str = "", file_name: str = "words.csv", model: str = "") -> Order:
    """What somebody uploads."""
    data = text.encode() if isinstance(text, str) else text
    return Order("", io.BytesIO(data), file_name, template, model)


def table(count: int) -> str:
    """A CSV with so many prompts."""
    return "prompt,n\n" + "".join(f"say {n},{n}\n" for n in range(1, count + 1))


def make(person_id: uuid.UUID, text: str, *, start: bool = True, **more: Any) -> uuid.UUID:
    """A batch of this person's, started."""
    viewer = viewer_of(person_id)
    batch_id = batches.create(person_id, order(text, **more), viewer)
    if start:
        batches.confirm(viewer, batch_id)
    return batch_id


def feed() -> int:
    """One look of the feeder."""
    return batch_feed.feed(0)


def run_to_the_end(batch_id: uuid.UUID, most: int = 50) -> BatchView:
    """Feed and work until the batch does not run any more."""
    for _ in range(most):
        feed()
        run_jobs()
        if view(batch_id).status != "running":
            return view(batch_id)
    raise AssertionError(f"it still runs: {view(batch_id)}")


def view(batch_id: uuid.UUID) -> BatchView:
    return batch_views.view(OPERATOR, batch_id)


def results(batch_id: uuid.UUID, form: str = "csv") -> str:
    """The whole result file."""
    return "".join(batch_results.result(OPERATOR, batch_id, form).pieces)


def row_states(batch_id: uuid.UUID) -> list[str]:
    """The states of its rows, in order."""
    with reading() as connection:
        query = select(BatchRow.state).where(BatchRow.batch_id == batch_id).order_by(BatchRow.number)
        return list(connection.execute(query).scalars())


def requests_of(batch_id: uuid.UUID) -> list[Any]:
    """Its requests, oldest first."""
    with reading() as connection:
        return list(connection.execute(select(Request.__table__).where(Request.batch_id == batch_id).order_by(Request.id)))


def change(batch_id: uuid.UUID, **values: Any) -> None:
    """Put values into the batch's row."""
    with writing() as connection:
        connection.execute(update(Batch).where(Batch.id == batch_id).values(**values))


def change_person(person_id: uuid.UUID, **values: Any) -> None:
    """Put values into a person's row."""
    with writing() as connection:
        connection.execute(update(Person).where(Person.id == person_id).values(**values))
