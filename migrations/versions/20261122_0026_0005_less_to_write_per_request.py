"""Less to write for each request: conversations are indexed where there is one, and holds refer to their request without a check.

Runs beside the previous release: nothing that it reads or writes is gone.

Revision: 0005
Follows: 0004
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_IN_CONVERSATION = sa.text("conversation_id IS NOT NULL")


def upgrade() -> None:
    _lock()
    op.drop_index("ix_request_conversation", "request")
    op.create_index(
        "ix_request_conversation",
        "request",
        ["conversation_id", "id"],
        sqlite_where=_IN_CONVERSATION,
        postgresql_where=_IN_CONVERSATION,
    )
    with op.batch_alter_table("hold") as table:
        table.drop_constraint(op.f("fk_hold_request_id"), type_="foreignkey")


def _lock() -> None:
    """Both tables at once, in the order in which requests are admitted: nobody then waits for us while we wait for them."""
    if op.get_bind().dialect.name == "postgresql":
        op.execute("LOCK TABLE request, hold IN ACCESS EXCLUSIVE MODE")


def downgrade() -> None:
    _lock()
    with op.batch_alter_table("hold") as table:
        table.create_foreign_key(op.f("fk_hold_request_id"), "request", ["request_id"], ["id"])
    op.drop_index("ix_request_conversation", "request")
    op.create_index("ix_request_conversation", "request", ["conversation_id", "id"])
