"""Without the indexes that no query uses: each chat had to write three of them.

Revision: 0004, after 0003
"""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

UNUSED = {
    "ix_exchanges_adapter": ("exchanges", ["adapter"]),
    "ix_exchanges_caller_id": ("exchanges", ["caller", "id"]),
    "ix_exchanges_conversation_id": ("exchanges", ["conversation_id"]),
    "ix_runs_created_at": ("runs", ["created_at"]),
}


def upgrade() -> None:
    for name, (table, _) in UNUSED.items():
        op.drop_index(name, table)


def downgrade() -> None:
    for name, (table, columns) in UNUSED.items():
        op.create_index(name, table, columns)
