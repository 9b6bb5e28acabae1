"""Outgoing webhooks, templates with their versions, answers kept for repeated API calls.

Runs beside the previous release: columns that it does not know may be empty.

Revision: 0004
Follows: 0003
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_MOMENT = sa.DateTime(timezone=True)
_OPEN = sa.text("state IN ('pending', 'sending')")
_FROM_TEMPLATE = sa.text("template_version_id IS NOT NULL")


def upgrade() -> None:
    _webhooks()
    _answers()
    _templates()
    with op.batch_alter_table("error_log") as table:
        table.add_column(sa.Column("resolved_by", sa.String(255)))
    with op.batch_alter_table("request") as table:
        table.add_column(sa.Column("template_version_id", sa.Uuid()))
        table.add_column(sa.Column("again_of_id", sa.Uuid()))
        table.create_foreign_key(op.f("fk_request_template_version_id"), "template_version", ["template_version_id"], ["id"])
        table.create_foreign_key(op.f("fk_request_again_of_id"), "request", ["again_of_id"], ["id"])
    op.create_index(
        "ix_request_template",
        "request",
        ["template_version_id", "id"],
        sqlite_where=_FROM_TEMPLATE,
        postgresql_where=_FROM_TEMPLATE,
    )


def _webhooks() -> None:
    op.create_table(
        "webhook_endpoint",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("organization_id", sa.Uuid(), nullable=False),
        sa.Column("url", sa.String(2000), nullable=False),
        sa.Column("description", sa.String(255), nullable=False),
        sa.Column("events", sa.JSON(), nullable=False),
        sa.Column("secret", sa.Text(), nullable=False),
        sa.Column("secret_before", sa.Text()),
        sa.Column("secret_before_until", _MOMENT),
        sa.Column("active", sa.Boolean(), server_default=sa.true(), nullable=False),
        sa.Column("disabled_reason", sa.Text()),
        sa.Column("failing_since", _MOMENT),
        sa.Column("version", sa.Integer(), server_default="0", nullable=False),
        sa.Column("created_at", _MOMENT, nullable=False),
        sa.Column("updated_at", _MOMENT, nullable=False),
        sa.ForeignKeyConstraint(["organization_id"], ["organization.id"], name=op.f("fk_webhook_endpoint_organization_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhook_endpoint")),
    )
    op.create_index(op.f("ix_webhook_endpoint_organization_id_id"), "webhook_endpoint", ["organization_id", "id"])
    op.create_table(
        "webhook_delivery",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("endpoint_id", sa.Uuid(), nullable=False),
        sa.Column("event", sa.String(40), nullable=False),
        sa.Column("payload", sa.JSON(), nullable=False),
        sa.Column("state", sa.String(40), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("next_try_at", _MOMENT),
        sa.Column("claimed_until", _MOMENT),
        sa.Column("log", sa.JSON(), nullable=False),
        sa.Column("created_at", _MOMENT, nullable=False),
        sa.Column("ended_at", _MOMENT),
        sa.CheckConstraint(
            "state IN ('pending', 'sending', 'delivered', 'failed', 'cancelled')", name=op.f("ck_webhook_delivery_state")
        ),
        sa.ForeignKeyConstraint(["endpoint_id"], ["webhook_endpoint.id"], name=op.f("fk_webhook_delivery_endpoint_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhook_delivery")),
    )
    op.create_index(op.f("ix_webhook_delivery_endpoint_id_id"), "webhook_delivery", ["endpoint_id", "id"])
    op.create_index(op.f("ix_webhook_delivery_created_at"), "webhook_delivery", ["created_at"])
    op.create_index("ix_webhook_delivery_open", "webhook_delivery", ["next_try_at"], sqlite_where=_OPEN, postgresql_where=_OPEN)


def _answers() -> None:
    op.create_table(
        "api_answer",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("person_id", sa.Uuid(), nullable=False),
        sa.Column("key", sa.String(255), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("status", sa.Integer()),
        sa.Column("headers", sa.JSON(), nullable=False),
        sa.Column("body", sa.LargeBinary()),
        sa.Column("running_until", _MOMENT),
        sa.Column("created_at", _MOMENT, nullable=False),
        sa.Column("expires_at", _MOMENT, nullable=False),
        sa.ForeignKeyConstraint(["person_id"], ["person.id"], name=op.f("fk_api_answer_person_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_answer")),
        sa.UniqueConstraint("person_id", "key", name="api_answer_key"),
    )
    op.create_index(op.f("ix_api_answer_expires_at"), "api_answer", ["expires_at"])


def _templates() -> None:
    op.create_table(
        "template",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("person_id", sa.Uuid(), nullable=False),
        sa.Column("organization_id", sa.Uuid(), nullable=False),
        sa.Column("scope", sa.String(40), nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("category", sa.String(40), nullable=False),
        sa.Column("operation", sa.String(40), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("used", sa.BigInteger(), nullable=False),
        sa.Column("created_at", _MOMENT, nullable=False),
        sa.Column("updated_at", _MOMENT, nullable=False),
        sa.Column("archived_at", _MOMENT),
        sa.CheckConstraint("scope IN ('personal', 'organization', 'public')", name=op.f("ck_template_scope")),
        sa.ForeignKeyConstraint(["organization_id"], ["organization.id"], name=op.f("fk_template_organization_id")),
        sa.ForeignKeyConstraint(["person_id"], ["person.id"], name=op.f("fk_template_person_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_template")),
    )
    op.create_index(op.f("ix_template_organization_id_scope_id"), "template", ["organization_id", "scope", "id"])
    op.create_index(op.f("ix_template_person_id_id"), "template", ["person_id", "id"])
    op.create_index(op.f("ix_template_scope_id"), "template", ["scope", "id"])
    op.create_table(
        "template_version",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("template_id", sa.Uuid(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("variables", sa.JSON(), nullable=False),
        sa.Column("parameters", sa.JSON(), nullable=False),
        sa.Column("person_id", sa.Uuid(), nullable=False),
        sa.Column("created_at", _MOMENT, nullable=False),
        sa.ForeignKeyConstraint(["person_id"], ["person.id"], name=op.f("fk_template_version_person_id")),
        sa.ForeignKeyConstraint(["template_id"], ["template.id"], name=op.f("fk_template_version_template_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_template_version")),
        sa.UniqueConstraint("template_id", "number", name="template_version_number"),
    )


def downgrade() -> None:
    op.drop_index("ix_request_template", "request")
    with op.batch_alter_table("request") as table:
        table.drop_constraint(op.f("fk_request_again_of_id"), type_="foreignkey")
        table.drop_constraint(op.f("fk_request_template_version_id"), type_="foreignkey")
        table.drop_column("again_of_id")
        table.drop_column("template_version_id")
    with op.batch_alter_table("error_log") as table:
        table.drop_column("resolved_by")
    for name in ("template_version", "template", "api_answer", "webhook_delivery", "webhook_endpoint"):
        op.drop_table(name)
