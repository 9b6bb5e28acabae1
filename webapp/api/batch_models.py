"""Bodies, queries and answers about batches."""

from __future__ import annotations

import uuid
from dataclasses import asdict
from datetime import datetime
from typing import Any, Literal

from pydantic import ConfigDict, Field

from webapp.api.base import ApiModel, PageQuery, Text
from webapp.models import BatchStatus
from webapp.services.batch_files import COLUMNS_MAX, FILE_MAX_BYTES
from webapp.services.batch_views import BatchLine, BatchView, Counts
from webapp.services.batches import NAME_CHARS

_ROWS_MAX = 1_000_000


class BatchPath(ApiModel):
    """The address of a batch."""

    batch_id: uuid.UUID


class BatchQuery(PageQuery):
    """Which batches are listed."""

    whose: Literal["own", "organization", "all"] | None = Field(
        None, description="`own`, `organization` (managers) or `all` (administrators); without it, all that you may see."
    )


class BatchResultsQuery(ApiModel):
    """The form of the result file."""

    format: Literal["csv", "jsonl"] = Field("csv", description="CSV, or JSON Lines.")


class BatchCreate(ApiModel):
    """The prompts: as rows, or as the text of a file. One of `rows`, `csv` and `jsonl`."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "name": "Product texts",
                    "rows": [{"product": "tea pot"}, {"product": "umbrella"}],
                    "template": "Describe a {{product}} in one sentence.",
                }
            ]
        }
    )

    name: Text = Field("", max_length=NAME_CHARS, description="Without it, `Batch`.")
    rows: list[dict[str, Any]] | None = Field(
        None,
        max_length=_ROWS_MAX,
        description=f"A row each: `prompt`, and up to {COLUMNS_MAX} columns of texts, numbers and such in all.",
    )
    csv: Text | None = Field(None, max_length=FILE_MAX_BYTES, description="CSV with a header.")
    jsonl: Text | None = Field(None, max_length=FILE_MAX_BYTES, description="An object a line.")
    template: Text = Field("", max_length=2_000_000, description="A prompt with {{columns}}, if the rows have none.")
    model: Text | None = Field(None, max_length=200, description="provider/model, by administrators; else the routing decides.")


class BatchCounts(ApiModel):
    """Rows by what became of them; together they are `total`."""

    total: int
    waiting: int
    running: int
    completed: int
    failed: int
    refused: int
    cancelled: int
    in_review: int
    percent: int = Field(description="How much has ended, rounded down.")

    @classmethod
    def of(cls, counts: Counts) -> BatchCounts:
        """The answer about counts."""
        return cls(**{name: getattr(counts, name) for name in cls.model_fields})


class BatchItem(ApiModel):
    """A line of the list."""

    id: uuid.UUID
    name: str
    owner: str
    readable: bool = Field(description="Whether you may read what is in it.")
    status: BatchStatus
    total: int
    created_at: datetime
    counts: BatchCounts | None = Field(description="Null for one that does not run, or not any more.")

    @classmethod
    def of(cls, line: BatchLine) -> BatchItem:
        """The answer about a line."""
        return cls(
            id=line.id,
            name=line.name,
            owner=line.owner,
            readable=line.mine,
            status=BatchStatus(line.status),
            total=line.total,
            created_at=line.created_at,
            counts=None if line.counts is None else BatchCounts.of(line.counts),
        )


class Batch(ApiModel):
    """A batch as it is at this moment."""

    id: uuid.UUID
    name: str
    owner: str
    readable: bool = Field(description="Whether you may read what is in it.")
    status: BatchStatus
    template: str | None
    model: str | None
    columns: list[str]
    likely_microusd: int = Field(description="What it will probably cost.")
    most_microusd: int = Field(description="What it costs at most.")
    cost_microusd: int = Field(description="What it has cost so far.")
    pause_reason: str | None
    resume_at: datetime | None = Field(description="When it goes on by itself.")
    created_at: datetime
    confirmed_at: datetime | None
    ended_at: datetime | None
    ends_at: datetime | None = Field(description="When it will have ended at the present pace.")
    rows_per_minute: float | None
    counts: BatchCounts

    @classmethod
    def of(cls, view: BatchView) -> Batch:
        """The answer about a batch."""
        copied = ("id", "name", "owner", "template", "likely_microusd", "most_microusd", "pause_reason", "resume_at")
        moments = ("created_at", "confirmed_at", "ended_at", "ends_at")
        return cls(
            **{name: getattr(view, name) for name in (*copied, *moments)},
            readable=view.mine,
            status=BatchStatus(view.status),
            model=view.model or None,
            columns=list(view.columns),
            cost_microusd=view.counts.cost_microusd,
            rows_per_minute=None if view.per_minute is None else round(view.per_minute, 2),
            counts=BatchCounts.of(view.counts),
        )


class BatchFault(ApiModel):
    """What is wrong with a file, and how to mend it."""

    row: int | None = Field(description="Counted from 1, without header and empty lines; null for the whole file.")
    line: int | None
    field: str = Field(description="The column; empty for the whole row.")
    message: str

    @classmethod
    def of(cls, fault: Any) -> BatchFault:
        """The answer about a fault."""
        return cls(**asdict(fault))
