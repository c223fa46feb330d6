"""Jobs: found by kind, so that a backlog of one kind does not slow the others."""
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.drop_index("jobs_due", "jobs")
    op.create_index("jobs_due", "jobs", ["state", "kind", "not_before", "id"])


def downgrade() -> None:
    op.drop_index("jobs_due", "jobs")
    op.create_index("jobs_due", "jobs", ["state", "not_before", "id"])
