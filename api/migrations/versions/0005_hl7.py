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
    point_at_roots()


def point_at_roots() -> None:
    """Merges were chains; now every identifier points at the one in use, which holds the time of its newest merge."""
    connection = op.get_bind()
    patients = sa.table("patients", *(sa.column(name, sa.Text()) for name in ("id", "merged_into", "merge_time")))
    merged = {row.id: row for row in connection.execute(sa.select(patients).where(patients.c.merged_into.is_not(None)))}
    newest: dict[str, str] = {}
    for id, row in merged.items():
        root, seen = row.merged_into, {id}
        while root in merged and root not in seen:
            seen.add(root)
            root = merged[root].merged_into
        connection.execute(sa.update(patients).where(patients.c.id == id).values(merged_into=root))
        newest[root] = max(newest.get(root, ""), row.merge_time)
    for root, time in newest.items():
        connection.execute(sa.update(patients).where(patients.c.id == root).values(merge_time=time))


def downgrade() -> None:
    raise NotImplementedError("restore a backup made before the upgrade")
