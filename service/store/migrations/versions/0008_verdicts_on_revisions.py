"""How sure it is that a revision is better than the text before it.

Revision: 0008, after 0007
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("revisions", sa.Column("odds", sa.Double(), nullable=True))


def downgrade() -> None:
    op.drop_column("revisions", "odds")
