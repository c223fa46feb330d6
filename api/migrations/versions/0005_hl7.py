"""HL7: what is known of orders and patients by event time; the outbox by destination, with its outages; which listener a message came by."""
import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.add_column("orders", sa.Column("known", sa.Text()))
    op.add_column("orders", sa.Column("held", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.add_column("patients", sa.Column("known", sa.Text()))
    op.create_index("patients_merged", "patients", ["merged_into"])
    op.add_column("messages", sa.Column("listener", sa.Text(), nullable=False, server_default=""))
    op.add_column("outbox", sa.Column("patient_id", sa.Text(), nullable=False, server_default=""))
    op.add_column("outbox", sa.Column("study_id", sa.Text(), nullable=False, server_default=""))
    op.add_column("outbox", sa.Column("result_status", sa.Text(), nullable=False, server_default=""))
    op.add_column("outbox", sa.Column("tries", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("outbox", sa.Column("not_before", sa.Text(), nullable=False, server_default=""))
    op.create_index("outbox_queue", "outbox", ["destination", "state", "id"])
    op.create_table(
        "outages",
        sa.Column("id", NUMBER, primary_key=True),
        sa.Column("destination", sa.Text(), nullable=False),
        sa.Column("began", sa.Text(), nullable=False),
        sa.Column("ended", sa.Text(), nullable=False, server_default=""),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.UniqueConstraint("destination", "ended"),
    )


def downgrade() -> None:
    raise NotImplementedError("restore a backup made before the upgrade")
