"""Principles: the constitutions that were in effect, and what they made of replies.

Revision: 0006, after 0005
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "constitutions",
        sa.Column("number", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_constitutions")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "revisions",
        sa.Column("position", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("exchange_id", sa.Text(), nullable=False),
        sa.Column("index", sa.Integer(), nullable=False),
        sa.Column("round", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("constitution", sa.Text(), nullable=False),
        sa.Column("constitution_sha256", sa.Text(), nullable=False),
        sa.Column("principle", sa.Text(), nullable=False),
        sa.Column("critique", sa.Text(), nullable=False),
        sa.Column("before", sa.Text(), nullable=False),
        sa.Column("before_token_ids", sa.JSON(), nullable=False),
        sa.Column("before_logprobs", sa.JSON(), nullable=False),
        sa.Column("before_finish_reason", sa.Text(), nullable=True),
        sa.Column("after", sa.Text(), nullable=True),
        sa.Column("after_token_ids", sa.JSON(), nullable=False),
        sa.Column("after_finish_reason", sa.Text(), nullable=True),
        sa.Column("ended", sa.Text(), nullable=False),
        sa.Column("problem", sa.Text(), nullable=False),
        sa.Column("seconds", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["exchange_id"], ["exchanges.id"], name=op.f("fk_revisions_exchange_id_exchanges")),
        sa.PrimaryKeyConstraint("position", name=op.f("pk_revisions")),
        sa.UniqueConstraint("exchange_id", "index", name=op.f("uq_revisions_exchange_id")),
        sqlite_autoincrement=True,
    )


def downgrade() -> None:
    op.drop_table("revisions")
    op.drop_table("constitutions")
