"""Reports: alerts of critical findings; what became of a draft's sentences at the signature."""
import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "alerts",
        sa.Column("id", NUMBER, primary_key=True),
        sa.Column("study_id", sa.Text(), sa.ForeignKey("studies.id"), nullable=False),
        sa.Column("draft_id", sa.Text(), nullable=False),
        sa.Column("code", sa.Text(), nullable=False),
        sa.Column("record", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("raised", sa.Text(), nullable=False),
        sa.Column("due", sa.Text(), nullable=False),
        sa.Column("escalated", sa.Text(), nullable=False, server_default=""),
        sa.Column("acknowledged", sa.Text(), nullable=False, server_default=""),
        sa.Column("acknowledged_by", sa.Text(), nullable=False, server_default=""),
        sa.Column("note", sa.Text(), nullable=False, server_default=""),
        sa.UniqueConstraint("study_id", "code"),
    )
    op.create_index("alerts_state", "alerts", ["state", "due"])
    op.create_table(
        "sentence_outcomes",
        sa.Column("id", NUMBER, primary_key=True),
        sa.Column("draft_id", sa.Text(), sa.ForeignKey("drafts.id"), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("section", sa.Text(), nullable=False),
        sa.Column("codes", sa.Text(), nullable=False),
        sa.Column("provenance", sa.Text(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("distance", sa.Float(), nullable=False),
        sa.Column("written", sa.Text(), nullable=False),
        sa.Column("signed", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("user", sa.Text(), nullable=False),
        sa.Column("time", sa.Text(), nullable=False),
        sa.UniqueConstraint("draft_id", "number"),
    )
    op.create_index("sentence_outcomes_time", "sentence_outcomes", ["time"])


def downgrade() -> None:
    raise NotImplementedError("restore a backup made before the upgrade")
