"""Which weights answered: the fingerprint of an exchange's base model, beside the name that it was served under.

Revision: 0002, after 0001
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("exchanges", sa.Column("base_sha256", sa.Text(), nullable=True))


def downgrade() -> None:
    op.drop_column("exchanges", "base_sha256")
