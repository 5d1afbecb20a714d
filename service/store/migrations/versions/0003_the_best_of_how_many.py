"""The best of how many: whether the replies of an exchange were chosen from more that were sampled.

Revision: 0003, after 0002
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("exchanges", sa.Column("best_of", sa.Integer(), nullable=True))


def downgrade() -> None:
    op.drop_column("exchanges", "best_of")
