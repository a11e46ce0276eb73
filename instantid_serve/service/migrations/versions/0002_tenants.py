"""Before the roll-out: tenants, fair shares, events, identities, uploads, webhooks, and row-level security.

It only adds: a version that knows 0001 goes on working beside it.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_json = sa.JSON().with_variant(JSONB(), "postgresql")
_serial = sa.BigInteger().with_variant(sa.Integer, "sqlite")
OF_TENANTS = (
    "api_keys", "jobs", "idempotency_keys", "events", "batches", "identities", "uploads", "usage",
    "webhook_endpoints", "webhook_deliveries",
)
# A CASE, because the planner takes it to hold for half of the rows. An OR of comparisons it takes to hold for a
# hundredth, and then it sorts the whole queue instead of reading its index (measured: 75 ms a claim instead of 7).
ALLOWED = (
    "CASE current_setting('instantid.tenant', true) WHEN '*' THEN true "
    "ELSE {column} = current_setting('instantid.tenant', true) END"
)


def upgrade() -> None:
    _extend_jobs()
    _create_tenancy()
    _create_shares()
    _create_records()
    _create_photos()
    _create_webhooks()
    op.execute(
        "INSERT INTO tenants (id, tier, weight, suspended, defaults, created_at, updated_at) "
        "SELECT tenant, 'standard', 1, false, '{}', min(created_at), min(created_at) FROM jobs GROUP BY tenant"
    )
    op.execute("INSERT INTO fair_share (id, virtual_time) VALUES (1, 0)")
    op.execute("INSERT INTO compatibility (id, oldest) VALUES (1, '0001')")
    if op.get_bind().dialect.name == "postgresql":
        for table, column in [("tenants", "id"), *((table, "tenant") for table in OF_TENANTS)]:
            allowed = ALLOWED.format(column=column)
            op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
            op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")  # also for the role that owns it
            op.execute(f"CREATE POLICY own_rows ON {table} USING ({allowed}) WITH CHECK ({allowed})")


def _extend_jobs() -> None:
    for column in (
        sa.Column("photos", _json),
        sa.Column("priority", sa.SmallInteger, nullable=False, server_default="1"),
        sa.Column("virtual_finish", sa.Double, nullable=False, server_default="0"),
        sa.Column("max_attempts", sa.Integer),
        sa.Column("deadline_at", sa.Double),
        sa.Column("provenance", _json),
        sa.Column("metadata", _json),
        sa.Column("webhook", _json),
        sa.Column("batch_id", sa.Text),
        sa.Column("identity_id", sa.Text),
        sa.Column("period", sa.Text),
        sa.Column("retention_s", sa.Double),
        sa.Column("expires_at", sa.Double),
        sa.Column("deleted_at", sa.Double),
    ):
        op.add_column("jobs", column)
    op.create_index("jobs_by_turn", "jobs", ["status", "virtual_finish", "created_at"])
    op.create_index("jobs_by_lease", "jobs", ["status", "lease_until"])
    op.create_index("jobs_by_deadline", "jobs", ["status", "deadline_at"])
    op.create_index("jobs_of_tenant_by_status", "jobs", ["tenant", "status", "priority"])
    op.create_index("jobs_by_batch", "jobs", ["batch_id"])
    op.create_index("jobs_by_expiry", "jobs", ["expires_at"])


def _create_tenancy() -> None:
    op.create_table(
        "tenants",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("tier", sa.Text, nullable=False),
        sa.Column("weight", sa.Double, nullable=False),
        sa.Column("suspended", sa.Boolean, nullable=False),
        sa.Column("requests_per_minute", sa.Integer),
        sa.Column("max_running_pictures", sa.Integer),
        sa.Column("max_queued_jobs", sa.Integer),
        sa.Column("pictures_per_month", sa.Integer),
        sa.Column("retention_s", sa.Double),
        sa.Column("defaults", _json, nullable=False),
        sa.Column("webhook_secrets", _json),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("updated_at", sa.Double, nullable=False),
    )
    op.create_table(
        "api_keys",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("sha256", sa.Text, nullable=False),
        sa.Column("scopes", _json, nullable=False),
        sa.Column("label", sa.Text, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("expires_at", sa.Double),
        sa.Column("revoked_at", sa.Double),
    )
    op.create_index("api_keys_by_tenant", "api_keys", ["tenant", "created_at"])


def _create_shares() -> None:
    op.create_table(
        "fair_share",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("virtual_time", sa.Double, nullable=False),
    )
    op.create_table(
        "workers",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("seen_at", sa.Double, nullable=False),
        sa.Column("pictures", sa.Integer, nullable=False),
        sa.Column("max_pictures", sa.Integer, nullable=False),
        sa.Column("steps_per_s", sa.Double, nullable=False),
        sa.Column("step_s", sa.Double, nullable=False),
    )
    op.create_table(
        "compatibility",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("oldest", sa.Text, nullable=False),
    )
    op.create_table(
        "usage",
        sa.Column("tenant", sa.Text, primary_key=True),
        sa.Column("period", sa.Text, primary_key=True),
        sa.Column("pictures", sa.Integer, nullable=False),
        sa.Column("jobs", sa.Integer, nullable=False),
        sa.Column("made", sa.Integer, nullable=False),
        sa.Column("denoise_s", sa.Double, nullable=False),
    )


def _create_records() -> None:
    op.create_table(
        "idempotency_keys",
        sa.Column("tenant", sa.Text, primary_key=True),
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("fingerprint", sa.Text, nullable=False),
        sa.Column("resource_id", sa.Text, nullable=False),
        sa.Column("expires_at", sa.Double, nullable=False),
    )
    op.create_index("idempotency_keys_by_expiry", "idempotency_keys", ["expires_at"])
    op.create_table(
        "events",
        sa.Column("id", _serial, primary_key=True, autoincrement=True),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("job_id", sa.Text, nullable=False),
        sa.Column("type", sa.Text, nullable=False),
        sa.Column("data", _json, nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("events_by_job", "events", ["job_id", "id"])
    op.create_table(
        "batches",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("jobs", sa.Integer, nullable=False),
        sa.Column("metadata", _json),
        sa.Column("created_at", sa.Double, nullable=False),
    )
    op.create_index("batches_by_tenant", "batches", ["tenant", "created_at", "id"])


def _create_photos() -> None:
    op.create_table(
        "identities",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("label", sa.Text, nullable=False),
        sa.Column("photos", _json, nullable=False),
        sa.Column("consent", _json, nullable=False),
        sa.Column("metadata", _json),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("expires_at", sa.Double, nullable=False),
        sa.Column("deleted_at", sa.Double),
    )
    op.create_index("identities_by_tenant", "identities", ["tenant", "created_at", "id"])
    op.create_index("identities_by_expiry", "identities", ["expires_at"])
    op.create_table(
        "uploads",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("size_bytes", sa.Integer, nullable=False),
        sa.Column("media_type", sa.Text, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("expires_at", sa.Double, nullable=False),
    )
    op.create_index("uploads_by_expiry", "uploads", ["expires_at"])


def _create_webhooks() -> None:
    op.create_table(
        "webhook_endpoints",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("url", sa.Text, nullable=False),
        sa.Column("events", _json, nullable=False),
        sa.Column("secrets", _json, nullable=False),
        sa.Column("description", sa.Text, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("delivered_at", sa.Double),
        sa.Column("failing_since", sa.Double),
        sa.Column("failed_at", sa.Double),
        sa.Column("disabled_at", sa.Double),
        sa.Column("disabled_reason", sa.Text),
    )
    op.create_index("webhook_endpoints_by_tenant", "webhook_endpoints", ["tenant", "created_at", "id"])
    op.create_table(
        "webhook_deliveries",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("message_id", sa.Text, nullable=False),
        sa.Column("endpoint_id", sa.Text),
        sa.Column("url", sa.Text, nullable=False),
        sa.Column("host", sa.Text, nullable=False),
        sa.Column("job_id", sa.Text),
        sa.Column("type", sa.Text, nullable=False),
        sa.Column("payload", _json, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("attempts", _json, nullable=False),
        sa.Column("tries", sa.Integer, nullable=False),
        sa.Column("due_at", sa.Double, nullable=False),
        sa.Column("lease_until", sa.Double),
        sa.Column("fence", sa.BigInteger, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("finished_at", sa.Double),
    )
    op.create_index("webhook_deliveries_due", "webhook_deliveries", ["status", "due_at"])
    op.create_index("webhook_deliveries_by_endpoint", "webhook_deliveries", ["endpoint_id", "id"])
    op.create_index("webhook_deliveries_by_job", "webhook_deliveries", ["job_id"])


def downgrade() -> None:
    for table in (
        "webhook_deliveries", "webhook_endpoints", "uploads", "identities", "batches", "events", "idempotency_keys",
        "usage", "workers", "compatibility", "fair_share", "api_keys", "tenants",
    ):
        op.drop_table(table)
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP POLICY own_rows ON jobs")
        op.execute("ALTER TABLE jobs NO FORCE ROW LEVEL SECURITY")
        op.execute("ALTER TABLE jobs DISABLE ROW LEVEL SECURITY")
    for index in (
        "jobs_by_turn", "jobs_by_lease", "jobs_by_deadline", "jobs_of_tenant_by_status", "jobs_by_batch",
        "jobs_by_expiry",
    ):
        op.drop_index(index, "jobs")
    for column in (
        "photos", "priority", "virtual_finish", "max_attempts", "deadline_at", "provenance", "metadata", "webhook",
        "batch_id", "identity_id", "period", "retention_s", "expires_at", "deleted_at",
    ):
        op.drop_column("jobs", column)
