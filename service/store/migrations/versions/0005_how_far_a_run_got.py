"""How far a run got: the furthest step of each stage that any attempt reached, and which attempts got further.

Revision: 0005, after 0004
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("runs", sa.Column("furthest", sa.JSON(), nullable=False, server_default="{}"))
    op.add_column("runs", sa.Column("forgiven", sa.JSON(), nullable=False, server_default="[]"))


def downgrade() -> None:
    op.drop_column("runs", "forgiven")
    op.drop_column("runs", "furthest")
