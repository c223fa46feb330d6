"""CDS Hooks: cards shown and the feedback on them."""
import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "cds_cards",
        sa.Column("id", sa.Text(), primary_key=True),
        sa.Column("service", sa.Text(), nullable=False),
        sa.Column("hook_instance", sa.Text(), nullable=False),
        sa.Column("record", sa.Text(), nullable=False),
        sa.Column("time", sa.Text(), nullable=False),
    )
    op.create_table(
        "cds_feedback",
        sa.Column("id", NUMBER, primary_key=True),
        sa.Column("service", sa.Text(), nullable=False),
        sa.Column("card_id", sa.Text(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("outcome_time", sa.Text(), nullable=False),
        sa.Column("record", sa.Text(), nullable=False),
        sa.Column("user", sa.Text(), nullable=False),
        sa.Column("time", sa.Text(), nullable=False),
        sa.UniqueConstraint("card_id", "outcome", "outcome_time"),
    )


def downgrade() -> None:
    raise NotImplementedError("restore a backup made before the upgrade")
