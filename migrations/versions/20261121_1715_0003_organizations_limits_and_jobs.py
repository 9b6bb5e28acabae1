"""Organizations with members, limits as data, receipts of holds, batches, requests that were set aside, sums by the hour.

Runs beside the previous release: what it does not know has a default in the database. Persons that it registers meanwhile
have no membership; they count as members of the organization that they are in.

Revision: 0003
Follows: 0002
"""

from __future__ import annotations

from datetime import UTC, datetime

import sqlalchemy as sa
from alembic import op
from uuid_utils.compat import uuid7

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        # All at once, in the order in which requests are admitted and settled: nobody then waits for us while we wait for them.
        op.execute("LOCK TABLE request, person, hold, limit_counter, ledger_entry, delivery IN ACCESS EXCLUSIVE MODE")
    _tables_of_people()
    _tables_of_work()
    _columns_of_people()
    _columns_of_work()
    _memberships()
    _earlier_counts()
    op.execute("""UPDATE plan SET features = '["urgent", "batch"]' WHERE code <> 'free'""")


def _memberships() -> None:
    """Everybody is a member of the organization that they are in, in the role that they had in the installation."""
    op.execute(
        "INSERT INTO membership (person_id, organization_id, role, created_at) "
        "SELECT id, organization_id, role, created_at FROM person"
    )
    op.execute("UPDATE person SET role = 'member' WHERE role = 'manager'")


def _earlier_counts() -> None:
    """What was counted before there were receipts: from now on a counter is the sum of its receipts and its changes."""
    connection = op.get_bind()
    change = sa.table(
        "counter_change",
        sa.column("id", sa.Uuid),
        *(sa.column(name) for name in ("subject", "name", "period", "amount", "reason", "actor")),
        sa.column("starts_at", _MOMENT),
        sa.column("created_at", _MOMENT),
    )
    counter = sa.table(
        "limit_counter",
        *(sa.column(name) for name in ("subject", "name", "period", "used")),
        sa.column("starts_at", _MOMENT),
    )
    at = datetime.now(UTC)
    if connection.dialect.name == "sqlite":
        at = at.replace(tzinfo=None)
    used = connection.execute(sa.select(counter).where(counter.c.used > 0)).all()
    rows = [
        {
            "id": uuid7(),
            "subject": row.subject,
            "name": row.name,
            "period": row.period,
            "starts_at": row.starts_at,
            "amount": row.used,
            "reason": "counted before there were receipts",
            "actor": "upgrade",
            "created_at": at,
        }
        for row in used
    ]
    if rows:
        op.bulk_insert(change, rows)


def _tables_of_people() -> None:
    op.create_table(
        "membership",
        sa.Column("person_id", sa.Uuid(), nullable=False),
        sa.Column("organization_id", sa.Uuid(), nullable=False),
        sa.Column("role", sa.String(length=40), nullable=False),
        sa.Column("limits", sa.JSON(), server_default="[]", nullable=False),
        sa.Column("created_at", _MOMENT, nullable=False),
        sa.CheckConstraint("role IN ('member', 'manager', 'admin')", name=op.f("ck_membership_role")),
        sa.ForeignKeyConstraint(["organization_id"], ["organization.id"], name=op.f("fk_membership_organization_id")),
        sa.ForeignKeyConstraint(["person_id"], ["person.id"], name=op.f("fk_membership_person_id")),
        sa.PrimaryKeyConstraint("person_id", "organization_id", name=op.f("pk_membership")),
    )
    op.create_index("ix_membership_organization_id_person_id", "membership", ["organization_id", "person_id"])
    op.create_table(
        "invitation",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("organization_id", sa.Uuid(), nullable=False),
        sa.Column("medium", sa.String(length=40), nullable=False),
        sa.Column("address", sa.String(length=255), nullable=False),
        sa.Column("role", sa.String(length=40), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("invited_by", sa.Uuid(), nullable=True),
        sa.Column("created_at", _MOMENT, nullable=False),
        sa.Column("expires_at", _MOMENT, nullable=False),
        sa.Column("accepted_at", _MOMENT, nullable=True),
        sa.Column("accepted_by", sa.Uuid(), nullable=True),
        sa.Column("revoked_at", _MOMENT, nullable=True),
        sa.CheckConstraint("role IN ('member', 'manager', 'admin')", name=op.f("ck_invitation_role")),
        sa.ForeignKeyConstraint(["accepted_by"], ["person.id"], name=op.f("fk_invitation_accepted_by")),
        sa.ForeignKeyConstraint(["invited_by"], ["person.id"], name=op.f("fk_invitation_invited_by")),
        sa.ForeignKeyConstraint(["organization_id"], ["organization.id"], name=op.f("fk_invitation_organization_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_invitation")),
        sa.UniqueConstraint("digest", name=op.f("uq_invitation_digest")),
    )
    op.create_index("ix_invitation_organization_id_id", "invitation", ["organization_id", "id"])
    op.create_table(
        "plan_change",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("person_id", sa.Uuid(), nullable=True),
        sa.Column("organization_id", sa.Uuid(), nullable=False),
        sa.Column("before", sa.String(length=40), nullable=False),
        sa.Column("after", sa.String(length=40), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("actor", sa.String(length=255), nullable=False),
        sa.Column("restarted", sa.Boolean(), nullable=False),
        sa.Column("created_at", _MOMENT, nullable=False),
        sa.ForeignKeyConstraint(["organization_id"], ["organization.id"], name=op.f("fk_plan_change_organization_id")),
        sa.ForeignKeyConstraint(["person_id"], ["person.id"], name=op.f("fk_plan_change_person_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_plan_change")),
    )
    op.create_index("ix_plan_change_organization_id_id", "plan_change", ["organization_id", "id"])
    op.create_index("ix_plan_change_person_id_id", "plan_change", ["person_id", "id"])
    op.create_table(
        "organization_provider",
        sa.Column("organization_id", sa.Uuid(), nullable=False),
        sa.Column("provider", sa.String(length=40), nullable=False),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        sa.Column("default_model", sa.String(length=120), nullable=True),
        sa.Column("values", sa.JSON(), nullable=False),
        sa.Column("updated_at", _MOMENT, nullable=False),
        sa.ForeignKeyConstraint(
            ["organization_id"], ["organization.id"], name=op.f("fk_organization_provider_organization_id")
        ),
        sa.PrimaryKeyConstraint("organization_id", "provider", name=op.f("pk_organization_provider")),
    )


def _tables_of_work() -> None:
    op.create_table(
        "batch",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("person_id", sa.Uuid(), nullable=False),
        sa.Column("organization_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("operation", sa.String(length=40), nullable=False),
        sa.Column("template", sa.Text(), nullable=True),
        sa.Column("parameters", sa.JSON(), nullable=False),
        sa.Column("status", sa.String(length=40), nullable=False),
        sa.Column("total", sa.Integer(), nullable=False),
        sa.Column("likely_microusd", sa.BigInteger(), nullable=False),
        sa.Column("most_microusd", sa.BigInteger(), nullable=False),
        sa.Column("pause_reason", sa.Text(), nullable=True),
        sa.Column("resume_at", _MOMENT, nullable=True),
        sa.Column("created_at", _MOMENT, nullable=False),
        sa.Column("confirmed_at", _MOMENT, nullable=True),
        sa.Column("ended_at", _MOMENT, nullable=True),
        sa.CheckConstraint("status IN ('ready', 'running', 'paused', 'cancelled', 'completed')", name=op.f("ck_batch_status")),
        sa.ForeignKeyConstraint(["organization_id"], ["organization.id"], name=op.f("fk_batch_organization_id")),
        sa.ForeignKeyConstraint(["person_id"], ["person.id"], name=op.f("fk_batch_person_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_batch")),
    )
    op.create_index("ix_batch_organization_id_id", "batch", ["organization_id", "id"])
    op.create_index("ix_batch_person_id_id", "batch", ["person_id", "id"])
    op.create_index("ix_batch_status_id", "batch", ["status", "id"])
    op.create_table(
        "batch_row",
        sa.Column("batch_id", sa.Uuid(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("prompt", sa.Text(), nullable=False),
        sa.Column("given", sa.JSON(), nullable=False),
        sa.Column("state", sa.String(length=40), nullable=False),
        sa.Column("request_id", sa.Uuid(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.CheckConstraint("state IN ('waiting', 'admitted', 'refused')", name=op.f("ck_batch_row_state")),
        sa.ForeignKeyConstraint(["batch_id"], ["batch.id"], name=op.f("fk_batch_row_batch_id")),
        sa.ForeignKeyConstraint(["request_id"], ["request.id"], name=op.f("fk_batch_row_request_id")),
        sa.PrimaryKeyConstraint("batch_id", "number", name=op.f("pk_batch_row")),
    )
    op.create_index("ix_batch_row_batch_id_state_number", "batch_row", ["batch_id", "state", "number"])
    op.create_table(
        "dead_letter",
        sa.Column("request_id", sa.Uuid(), nullable=False),
        sa.Column("reason", sa.String(length=40), nullable=False),
        sa.Column("error_code", sa.String(length=40), nullable=False),
        sa.Column("last_error", sa.Text(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=40), nullable=False),
        sa.Column("replays", sa.Integer(), nullable=False),
        sa.Column("created_at", _MOMENT, nullable=False),
        sa.Column("acted_at", _MOMENT, nullable=True),
        sa.Column("acted_by", sa.String(length=255), nullable=True),
        sa.CheckConstraint("state IN ('open', 'replayed', 'dismissed')", name=op.f("ck_dead_letter_state")),
        sa.ForeignKeyConstraint(["request_id"], ["request.id"], name=op.f("fk_dead_letter_request_id")),
        sa.PrimaryKeyConstraint("request_id", name=op.f("pk_dead_letter")),
    )
    op.create_index("ix_dead_letter_state_reason_request_id", "dead_letter", ["state", "reason", "request_id"])
    op.create_table(
        "counter_change",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("subject", sa.String(length=80), nullable=False),
        sa.Column("name", sa.String(length=80), nullable=False),
        sa.Column("period", sa.String(length=10), nullable=False),
        sa.Column("starts_at", _MOMENT, nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("reason", sa.String(length=255), nullable=False),
        sa.Column("actor", sa.String(length=255), nullable=False),
        sa.Column("created_at", _MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_counter_change")),
    )
    op.create_index(
        "ix_counter_change_subject_name_period_starts_at", "counter_change", ["subject", "name", "period", "starts_at"]
    )
    op.create_table(
        "hourly_stat",
        sa.Column("hour", _MOMENT, nullable=False),
        sa.Column("organization_id", sa.Uuid(), nullable=False),
        sa.Column("channel", sa.String(length=40), nullable=False),
        sa.Column("operation", sa.String(length=40), nullable=False),
        sa.Column("provider", sa.String(length=40), nullable=False),
        sa.Column("model", sa.String(length=120), nullable=False),
        sa.Column("payer", sa.String(length=40), nullable=False),
        sa.Column("calls", sa.BigInteger(), nullable=False),
        sa.Column("requests", sa.BigInteger(), nullable=False),
        sa.Column("input_tokens", sa.BigInteger(), nullable=False),
        sa.Column("output_tokens", sa.BigInteger(), nullable=False),
        sa.Column("pictures", sa.BigInteger(), nullable=False),
        sa.Column("cost_microusd", sa.BigInteger(), nullable=False),
        sa.Column("credits_millicredits", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["organization_id"], ["organization.id"], name=op.f("fk_hourly_stat_organization_id")),
        sa.PrimaryKeyConstraint(
            "hour", "organization_id", "channel", "operation", "provider", "model", "payer", name=op.f("pk_hourly_stat")
        ),
    )
    op.create_index("ix_hourly_stat_organization_id_hour", "hourly_stat", ["organization_id", "hour"])


def _columns_of_people() -> None:
    with op.batch_alter_table("organization") as batch:
        batch.add_column(sa.Column("plan_code", sa.String(length=40), nullable=True))
        batch.add_column(sa.Column("limits", sa.JSON(), server_default="[]", nullable=False))
        batch.add_column(sa.Column("preferences", sa.JSON(), server_default="{}", nullable=False))
        batch.add_column(sa.Column("active", sa.Boolean(), server_default=sa.true(), nullable=False))
        batch.add_column(sa.Column("version", sa.Integer(), server_default="0", nullable=False))
        batch.create_foreign_key(batch.f("fk_organization_plan_code"), "plan", ["plan_code"], ["code"])
    op.create_index("ix_organization_plan_code", "organization", ["plan_code"])
    op.create_index("ix_person_plan_code_id", "person", ["plan_code", "id"])
    with op.batch_alter_table("plan") as batch:
        batch.add_column(sa.Column("more_limits", sa.JSON(), server_default="[]", nullable=False))
        batch.add_column(sa.Column("features", sa.JSON(), server_default="[]", nullable=False))
        batch.add_column(sa.Column("version", sa.Integer(), server_default="0", nullable=False))
    with op.batch_alter_table("api_token") as batch:
        batch.add_column(sa.Column("organization_id", sa.Uuid(), nullable=True))
        batch.add_column(sa.Column("limits", sa.JSON(), server_default="[]", nullable=False))
        batch.create_foreign_key(batch.f("fk_api_token_organization_id"), "organization", ["organization_id"], ["id"])
    with op.batch_alter_table("audit_entry") as batch:
        batch.add_column(sa.Column("organization_id", sa.Uuid(), nullable=True))
        batch.create_index(batch.f("ix_audit_entry_organization_id_id"), ["organization_id", "id"], unique=False)
        batch.create_foreign_key(batch.f("fk_audit_entry_organization_id"), "organization", ["organization_id"], ["id"])


def _columns_of_work() -> None:
    op.drop_index("ix_conversation_list", table_name="conversation")
    op.create_index("ix_conversation_list", "conversation", ["person_id", "organization_id", "last_activity_at", "id"])
    with op.batch_alter_table("request") as batch:
        batch.add_column(sa.Column("held_provider", sa.String(length=40), nullable=True))
        batch.add_column(sa.Column("allocation_millicredits", sa.BigInteger(), nullable=True))
        batch.add_column(sa.Column("cap_microusd", sa.BigInteger(), nullable=True))
        batch.add_column(sa.Column("credits_millicredits", sa.BigInteger(), server_default="0", nullable=False))
        batch.add_column(sa.Column("token_id", sa.Uuid(), nullable=True))
        batch.add_column(sa.Column("batch_id", sa.Uuid(), nullable=True))
        batch.add_column(sa.Column("retries", sa.Integer(), server_default="0", nullable=False))
        batch.add_column(sa.Column("expires_at", _MOMENT, nullable=True))
        batch.create_index(
            "ix_request_batch",
            ["batch_id", "status"],
            unique=False,
            sqlite_where=sa.text("batch_id IS NOT NULL"),
            postgresql_where=sa.text("batch_id IS NOT NULL"),
        )
        batch.create_index("ix_request_organization", ["organization_id", "id"], unique=False)
        batch.create_foreign_key(batch.f("fk_request_batch_id"), "batch", ["batch_id"], ["id"])
        batch.create_foreign_key(batch.f("fk_request_token_id"), "api_token", ["token_id"], ["id"])
    with op.batch_alter_table("hold") as batch:
        batch.add_column(sa.Column("expires_at", _MOMENT, nullable=True))
        batch.add_column(sa.Column("provider", sa.String(length=40), nullable=True))
        batch.add_column(sa.Column("used", sa.BigInteger(), server_default="0", nullable=False))
        batch.add_column(sa.Column("settled_by", sa.String(length=40), nullable=True))
        batch.add_column(sa.Column("why", sa.String(length=40), nullable=True))
        batch.alter_column("request_id", existing_type=sa.Uuid(), nullable=True)
        batch.create_check_constraint(batch.f("ck_hold_owner"), "request_id IS NOT NULL OR expires_at IS NOT NULL")
        batch.create_index(
            "ix_hold_expiry",
            ["expires_at"],
            unique=False,
            sqlite_where=sa.text("settled_at IS NULL AND expires_at IS NOT NULL"),
            postgresql_where=sa.text("settled_at IS NULL AND expires_at IS NOT NULL"),
        )
    with op.batch_alter_table("limit_counter") as batch:
        batch.add_column(sa.Column("warned_percent", sa.Integer(), server_default="0", nullable=False))
    with op.batch_alter_table("ledger_entry") as batch:
        batch.add_column(sa.Column("credits_millicredits", sa.BigInteger(), server_default="0", nullable=False))
    with op.batch_alter_table("delivery") as batch:
        batch.add_column(sa.Column("subject", sa.String(length=255), nullable=True))


def downgrade() -> None:
    op.execute("DELETE FROM hold WHERE request_id IS NULL")
    op.execute(
        "UPDATE person SET role = 'manager' WHERE role = 'member' AND EXISTS (SELECT 1 FROM membership "
        "WHERE membership.person_id = person.id AND membership.organization_id = person.organization_id "
        "AND membership.role = 'manager')"
    )
    with op.batch_alter_table("request") as batch:
        batch.drop_constraint(batch.f("fk_request_token_id"), type_="foreignkey")
        batch.drop_constraint(batch.f("fk_request_batch_id"), type_="foreignkey")
        batch.drop_index("ix_request_organization")
        batch.drop_index(
            "ix_request_batch", sqlite_where=sa.text("batch_id IS NOT NULL"), postgresql_where=sa.text("batch_id IS NOT NULL")
        )
        batch.drop_column("expires_at")
        batch.drop_column("retries")
        batch.drop_column("batch_id")
        batch.drop_column("token_id")
        batch.drop_column("credits_millicredits")
        batch.drop_column("cap_microusd")
        batch.drop_column("allocation_millicredits")
        batch.drop_column("held_provider")

    with op.batch_alter_table("plan") as batch:
        batch.drop_column("version")
        batch.drop_column("features")
        batch.drop_column("more_limits")

    op.drop_index("ix_person_plan_code_id", table_name="person")
    op.drop_index("ix_organization_plan_code", table_name="organization")
    with op.batch_alter_table("organization") as batch:
        batch.drop_constraint(batch.f("fk_organization_plan_code"), type_="foreignkey")
        batch.drop_column("version")
        batch.drop_column("active")
        batch.drop_column("preferences")
        batch.drop_column("limits")
        batch.drop_column("plan_code")

    with op.batch_alter_table("limit_counter") as batch:
        batch.drop_column("warned_percent")

    with op.batch_alter_table("ledger_entry") as batch:
        batch.drop_column("credits_millicredits")

    with op.batch_alter_table("hold") as batch:
        batch.drop_index(
            "ix_hold_expiry",
            sqlite_where=sa.text("settled_at IS NULL AND expires_at IS NOT NULL"),
            postgresql_where=sa.text("settled_at IS NULL AND expires_at IS NOT NULL"),
        )
        batch.drop_constraint(batch.f("ck_hold_owner"), type_="check")
        batch.alter_column("request_id", existing_type=sa.Uuid(), nullable=False)
        batch.drop_column("why")
        batch.drop_column("settled_by")
        batch.drop_column("used")
        batch.drop_column("provider")
        batch.drop_column("expires_at")

    with op.batch_alter_table("delivery") as batch:
        batch.drop_column("subject")

    with op.batch_alter_table("audit_entry") as batch:
        batch.drop_constraint(batch.f("fk_audit_entry_organization_id"), type_="foreignkey")
        batch.drop_index(batch.f("ix_audit_entry_organization_id_id"))
        batch.drop_column("organization_id")

    with op.batch_alter_table("api_token") as batch:
        batch.drop_constraint(batch.f("fk_api_token_organization_id"), type_="foreignkey")
        batch.drop_column("limits")
        batch.drop_column("organization_id")

    op.drop_index("ix_conversation_list", table_name="conversation")
    op.create_index("ix_conversation_list", "conversation", ["person_id", "last_activity_at", "id"])
    op.drop_table("dead_letter")
    op.drop_table("batch_row")
    op.drop_table("plan_change")
    op.drop_table("membership")
    op.drop_table("invitation")
    op.drop_table("batch")
    op.drop_table("organization_provider")
    op.drop_table("hourly_stat")
    op.drop_table("counter_change")
