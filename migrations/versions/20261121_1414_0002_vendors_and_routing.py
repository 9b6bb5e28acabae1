"""Several calls a request, each with its price; routing rules; what administrators set for providers; pictures.

Runs beside the previous release: what it does not know has a default in the database.

Revision: 0002
Follows: 0001
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        # All at once, in the order in which requests are settled: nobody then waits for us while we wait for them.
        op.execute("LOCK TABLE request, person, ledger_entry, attempt IN ACCESS EXCLUSIVE MODE")
    _new_tables()
    with op.batch_alter_table("attempt") as batch:
        batch.add_column(sa.Column("execution", sa.Integer(), nullable=False, server_default="1"))
        batch.add_column(sa.Column("detail", sa.Text(), nullable=True))
        for name in ("input_tokens", "output_tokens", "cost_microusd"):
            batch.add_column(sa.Column(name, sa.BigInteger(), nullable=False, server_default="0"))
        batch.add_column(sa.Column("first_piece_ms", sa.Integer(), nullable=True))
        batch.drop_constraint("attempt_number", type_="unique")
        batch.create_unique_constraint("attempt_number", ["request_id", "execution", "number"])
        batch.create_index("ix_attempt_provider_ended_at", ["provider", "ended_at"])
    # So far an execution made one call, and its number was the execution's.
    op.execute("UPDATE attempt SET execution = number, number = 1")
    with op.batch_alter_table("ledger_entry") as batch:
        batch.alter_column("request_id", existing_type=sa.Uuid(), nullable=True)
        batch.add_column(sa.Column("attempt_id", sa.Uuid(), nullable=True))
        batch.add_column(sa.Column("payer", sa.String(40), nullable=False, server_default="person"))
        batch.add_column(sa.Column("cache_write_tokens", sa.BigInteger(), nullable=False, server_default="0"))
        batch.add_column(sa.Column("pictures", sa.BigInteger(), nullable=False, server_default="0"))
        batch.add_column(sa.Column("price_date", sa.String(10), nullable=True))
        batch.drop_constraint("ledger_once_per_request", type_="unique")
        batch.create_unique_constraint("ledger_once_per_attempt", ["attempt_id"])
        batch.create_check_constraint(batch.f("ck_ledger_entry_payer"), "payer IN ('person', 'house')")
        batch.create_foreign_key(batch.f("fk_ledger_entry_attempt_id"), "attempt", ["attempt_id"], ["id"])
        batch.create_index("ix_ledger_entry_request_id", ["request_id"])
        batch.create_index("ix_ledger_entry_provider_created_at", ["provider", "created_at"])
    with op.batch_alter_table("provider_setting") as batch:
        batch.add_column(sa.Column("limits", sa.JSON(), nullable=False, server_default="{}"))
        batch.add_column(sa.Column("prices", sa.JSON(), nullable=False, server_default="{}"))
        batch.add_column(sa.Column("peak_hours", sa.String(255), nullable=True))
    with op.batch_alter_table("request") as batch:
        batch.add_column(sa.Column("plan_code", sa.String(40), nullable=True))
        batch.add_column(sa.Column("route", sa.JSON(), nullable=True))
        batch.add_column(sa.Column("cached", sa.Boolean(), nullable=False, server_default=sa.false()))
        batch.add_column(sa.Column("not_before", _MOMENT, nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("request") as batch:
        for name in ("not_before", "cached", "route", "plan_code"):
            batch.drop_column(name)
    with op.batch_alter_table("provider_setting") as batch:
        for name in ("peak_hours", "prices", "limits"):
            batch.drop_column(name)
    _one_entry_a_request()
    with op.batch_alter_table("ledger_entry") as batch:
        batch.drop_index("ix_ledger_entry_provider_created_at")
        batch.drop_index("ix_ledger_entry_request_id")
        batch.drop_constraint("fk_ledger_entry_attempt_id", type_="foreignkey")
        batch.drop_constraint(batch.f("ck_ledger_entry_payer"), type_="check")
        batch.drop_constraint("ledger_once_per_attempt", type_="unique")
        batch.alter_column("request_id", existing_type=sa.Uuid(), nullable=False)
        batch.create_unique_constraint("ledger_once_per_request", ["request_id"])
        for name in ("price_date", "pictures", "cache_write_tokens", "payer", "attempt_id"):
            batch.drop_column(name)
    op.execute("UPDATE attempt SET number = execution + 1000 * (number - 1)")
    with op.batch_alter_table("attempt") as batch:
        batch.drop_index("ix_attempt_provider_ended_at")
        batch.drop_constraint("attempt_number", type_="unique")
        batch.create_unique_constraint("attempt_number", ["request_id", "number"])
        for name in ("first_piece_ms", "cost_microusd", "output_tokens", "input_tokens", "detail", "execution"):
            batch.drop_column(name)
    for name in ("attachment", "route_rule", "revision"):
        op.drop_table(name)


def _new_tables() -> None:
    op.create_table(
        "revision",
        sa.Column("subject", sa.String(40), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("subject", name=op.f("pk_revision")),
    )
    op.create_table(
        "route_rule",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        sa.Column("operation", sa.String(40), nullable=True),
        sa.Column("category", sa.String(40), nullable=True),
        sa.Column("plan_code", sa.String(40), nullable=True),
        sa.Column("organization_id", sa.Uuid(), nullable=True),
        sa.Column("targets", sa.JSON(), nullable=False),
        sa.Column("max_cost_microusd", sa.BigInteger(), nullable=True),
        sa.Column("updated_at", _MOMENT, nullable=False),
        sa.CheckConstraint("max_cost_microusd IS NULL OR max_cost_microusd > 0", name=op.f("ck_route_rule_max_cost_positive")),
        sa.ForeignKeyConstraint(["organization_id"], ["organization.id"], name=op.f("fk_route_rule_organization_id")),
        sa.ForeignKeyConstraint(["plan_code"], ["plan.code"], name=op.f("fk_route_rule_plan_code")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_route_rule")),
    )
    op.create_index("ix_route_rule_position_id", "route_rule", ["position", "id"])
    op.create_table(
        "attachment",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("request_id", sa.Uuid(), nullable=False),
        sa.Column("person_id", sa.Uuid(), nullable=False),
        sa.Column("organization_id", sa.Uuid(), nullable=False),
        sa.Column("kind", sa.String(40), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("media_type", sa.String(40), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("width", sa.Integer(), nullable=False),
        sa.Column("height", sa.Integer(), nullable=False),
        sa.Column("seed", sa.BigInteger(), nullable=True),
        sa.Column("actions", sa.JSON(), nullable=False),
        sa.Column("created_at", _MOMENT, nullable=False),
        sa.CheckConstraint("kind IN ('given', 'made')", name=op.f("ck_attachment_kind")),
        sa.ForeignKeyConstraint(["organization_id"], ["organization.id"], name=op.f("fk_attachment_organization_id")),
        sa.ForeignKeyConstraint(["person_id"], ["person.id"], name=op.f("fk_attachment_person_id")),
        sa.ForeignKeyConstraint(["request_id"], ["request.id"], name=op.f("fk_attachment_request_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_attachment")),
    )
    op.create_index("ix_attachment_person_id_id", "attachment", ["person_id", "id"])
    op.create_index("ix_attachment_request_id_id", "attachment", ["request_id", "id"])
    op.create_index("ix_attachment_sha256", "attachment", ["sha256"])


def _one_entry_a_request() -> None:
    """The previous release keeps one ledger entry a request: the sums go into the last one. What the house paid for is lost
    to its books, and stays in the vendor's."""
    op.execute("DELETE FROM ledger_entry WHERE payer = 'house'")
    sums = ", ".join(
        f"{name} = (SELECT sum(e.{name}) FROM ledger_entry e WHERE e.request_id = ledger_entry.request_id)"  # noqa: S608
        for name in ("requests", "input_tokens", "output_tokens", "cached_tokens", "reasoning_tokens", "cost_microusd")
    )
    later = "SELECT 1 FROM ledger_entry e WHERE e.request_id = ledger_entry.request_id AND e.id > ledger_entry.id"
    op.execute(f"UPDATE ledger_entry SET {sums} WHERE NOT EXISTS ({later})")  # noqa: S608
    op.execute(f"DELETE FROM ledger_entry WHERE EXISTS ({later})")  # noqa: S608
