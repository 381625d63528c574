"""What is ordered; and inserts wake, too, because a list of orders is kept fresh."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("orders", sa.Column("item", sa.Text, nullable=False, server_default=""))
    op.replace_row_triggers("orders", key=["id"], inserts=True)


def downgrade() -> None:
    op.replace_row_triggers("orders", key=["id"])
    op.drop_column("orders", "item")
