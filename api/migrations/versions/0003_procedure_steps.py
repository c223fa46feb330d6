"""What was performed at the scanner: MPPS, and how far an order is."""
import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("orders", sa.Column("performed", sa.Text(), nullable=False, server_default=""))
    op.create_table(
        "procedure_steps",
        sa.Column("id", sa.Text(), primary_key=True),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("study_id", sa.Text(), nullable=False),
        sa.Column("patient_id", sa.Text(), nullable=False),
        sa.Column("record", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("created", sa.Text(), nullable=False),
        sa.Column("updated", sa.Text(), nullable=False),
    )
    op.create_index("procedure_steps_study", "procedure_steps", ["study_id"])
    op.create_table(
        "procedure_step_orders",
        sa.Column("step_id", sa.Text(), sa.ForeignKey("procedure_steps.id"), primary_key=True),
        sa.Column("order_id", sa.Text(), sa.ForeignKey("orders.id"), primary_key=True),
    )
    op.create_index("procedure_step_orders_order", "procedure_step_orders", ["order_id"])


def downgrade() -> None:
    raise NotImplementedError("an older version would lose what was performed; restore a backup")
