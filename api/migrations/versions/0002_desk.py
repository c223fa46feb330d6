"""What the desk learns by: the switch of automation, which model is in use, and what a shadow model would have said."""
import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    switches = op.create_table(
        "switches",
        sa.Column("name", sa.Text(), primary_key=True),
        sa.Column("running", sa.Boolean(), nullable=False),
        sa.Column("user", sa.Text(), nullable=False),
        sa.Column("time", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
    )
    # the row must stand, so that a transaction that relies on it can lock it
    op.bulk_insert(switches, [{"name": "automation", "running": True, "user": "", "time": "", "reason": ""}])
    op.create_table(
        "model_uses",
        sa.Column("id", NUMBER, primary_key=True),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("user", sa.Text(), nullable=False),
        sa.Column("time", sa.Text(), nullable=False),
        sa.Column("figures", sa.Text()),
    )
    op.create_index("model_uses_role", "model_uses", ["role", "id"])
    op.create_table(
        "shadow_suggestions",
        sa.Column("id", NUMBER, primary_key=True),
        sa.Column("order_id", sa.Text(), sa.ForeignKey("orders.id"), nullable=False),
        sa.Column("order_version", sa.Integer(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("time", sa.Text(), nullable=False),
        sa.Column("suggestion", sa.Text()),
        sa.Column("reason", sa.Text(), nullable=False, server_default=""),
        sa.UniqueConstraint("order_id", "order_version", "model"),
    )
    op.create_index("shadow_suggestions_time", "shadow_suggestions", ["time"])
    op.create_index("orders_created", "orders", ["created"])


def downgrade() -> None:
    raise NotImplementedError("a desk's record is not thrown away; restore a backup")
