"""The tables. What they look like in a database is made by ``migrations/``; a test holds the two together."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

metadata = sa.MetaData()
_json = sa.JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")
_serial = sa.BigInteger().with_variant(sa.Integer, "sqlite")  # SQLite numbers rows only under this very type
_flag = sa.Boolean(create_constraint=False)

tenants = sa.Table(
    "tenants",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("tier", sa.Text, nullable=False),
    sa.Column("weight", sa.Double, nullable=False),
    sa.Column("suspended", _flag, nullable=False),
    # NULL in any of these: the server's own (settings `tenancy`).
    sa.Column("requests_per_minute", sa.Integer),
    sa.Column("max_running_pictures", sa.Integer),
    sa.Column("max_queued_jobs", sa.Integer),
    sa.Column("pictures_per_month", sa.Integer),
    sa.Column("retention_s", sa.Double),
    sa.Column("defaults", _json, nullable=False),  # parameters of a generation that its requests leave out
    sa.Column("webhook_secrets", _json),  # sign the webhooks that single requests name; as those of an endpoint
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("updated_at", sa.Double, nullable=False),
)

api_keys = sa.Table(
    "api_keys",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),  # the public part of the key
    sa.Column("tenant", sa.Text, nullable=False),
    sa.Column("sha256", sa.Text, nullable=False),
    sa.Column("scopes", _json, nullable=False),
    sa.Column("label", sa.Text, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("expires_at", sa.Double),
    sa.Column("revoked_at", sa.Double),
    sa.Index("api_keys_by_tenant", "tenant", "created_at"),
)

jobs = sa.Table(
    "jobs",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("tenant", sa.Text, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("spec", _json, nullable=False),
    sa.Column("photo_key", sa.Text, nullable=False),  # the first of `photos`
    sa.Column("photos", _json),  # keys; NULL in rows of versions that knew one photo only
    sa.Column("pictures", sa.Integer, nullable=False),  # of the spec; the unit of budgets and fairness
    sa.Column("priority", sa.SmallInteger, nullable=False),
    sa.Column("virtual_finish", sa.Double, nullable=False),  # the order of claiming: see fairness.py
    sa.Column("attempts", sa.Integer, nullable=False),  # claims that were not handed back unharmed
    sa.Column("max_attempts", sa.Integer),  # NULL: the server's own
    sa.Column("fence", sa.BigInteger, nullable=False),  # grows with every claim; a settle must name the current one
    sa.Column("worker", sa.Text),
    sa.Column("lease_until", sa.Double),
    sa.Column("not_before", sa.Double, nullable=False),
    sa.Column("deadline_at", sa.Double),
    sa.Column("cancel_requested", _flag, nullable=False),
    sa.Column("step", sa.Integer, nullable=False),
    sa.Column("steps", sa.Integer, nullable=False),
    sa.Column("images", _json, nullable=False),
    sa.Column("error", _json),
    sa.Column("timings", _json, nullable=False),
    sa.Column("provenance", _json),
    sa.Column("metadata", _json),
    sa.Column("webhook", _json),  # {"url", "events"} of this job alone
    sa.Column("batch_id", sa.Text),
    sa.Column("identity_id", sa.Text),
    sa.Column("period", sa.Text),  # the month whose usage it is counted in
    sa.Column("retention_s", sa.Double),
    sa.Column("expires_at", sa.Double),  # when the row, its photo and its pictures go; known once it has ended
    sa.Column("deleted_at", sa.Double),  # its tenant deleted it: gone for everyone, removed by the housekeeper
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("updated_at", sa.Double, nullable=False),
    sa.Column("started_at", sa.Double),
    sa.Column("finished_at", sa.Double),
    sa.Index("jobs_by_turn", "status", "virtual_finish", "created_at"),
    sa.Index("jobs_by_status", "status", "created_at", "id"),
    sa.Index("jobs_by_lease", "status", "lease_until"),
    sa.Index("jobs_by_deadline", "status", "deadline_at"),
    sa.Index("jobs_by_tenant", "tenant", "created_at", "id"),
    sa.Index("jobs_of_tenant_by_status", "tenant", "status", "priority"),
    sa.Index("jobs_by_batch", "batch_id"),
    sa.Index("jobs_by_expiry", "expires_at"),
)

fair_share = sa.Table(  # one row: how far claiming has come in virtual time
    "fair_share",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("virtual_time", sa.Double, nullable=False),
)

workers = sa.Table(  # the dispatchers, and how fast what they hold goes on
    "workers",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("seen_at", sa.Double, nullable=False),
    sa.Column("pictures", sa.Integer, nullable=False),  # in flight
    sa.Column("max_pictures", sa.Integer, nullable=False),
    sa.Column("steps_per_s", sa.Double, nullable=False),  # of all pictures together, lately
    sa.Column("step_s", sa.Double, nullable=False),  # of one picture
)

compatibility = sa.Table(  # one row: the oldest migration whose version can still work with these tables
    "compatibility",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("oldest", sa.Text, nullable=False),
)

idempotency_keys = sa.Table(
    "idempotency_keys",
    metadata,
    sa.Column("tenant", sa.Text, primary_key=True),
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("fingerprint", sa.Text, nullable=False),
    sa.Column("resource_id", sa.Text, nullable=False),
    sa.Column("expires_at", sa.Double, nullable=False),
    sa.Index("idempotency_keys_by_expiry", "expires_at"),
)

events = sa.Table(  # what happened to a job, in order; written with the change itself
    "events",
    metadata,
    sa.Column("id", _serial, primary_key=True, autoincrement=True),
    sa.Column("tenant", sa.Text, nullable=False),
    sa.Column("job_id", sa.Text, nullable=False),
    sa.Column("type", sa.Text, nullable=False),
    sa.Column("data", _json, nullable=False),
    sa.Column("at", sa.Double, nullable=False),
    sa.Index("events_by_job", "job_id", "id"),
    sqlite_autoincrement=True,  # an id is never used again: readers resume after the last one they saw
)

batches = sa.Table(
    "batches",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("tenant", sa.Text, nullable=False),
    sa.Column("jobs", sa.Integer, nullable=False),
    sa.Column("metadata", _json),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Index("batches_by_tenant", "tenant", "created_at", "id"),
)

identities = sa.Table(
    "identities",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("tenant", sa.Text, nullable=False),
    sa.Column("label", sa.Text, nullable=False),
    sa.Column("photos", _json, nullable=False),  # keys and sizes
    sa.Column("consent", _json, nullable=False),
    sa.Column("metadata", _json),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("expires_at", sa.Double, nullable=False),
    sa.Column("deleted_at", sa.Double),
    sa.Index("identities_by_tenant", "tenant", "created_at", "id"),
    sa.Index("identities_by_expiry", "expires_at"),
)

uploads = sa.Table(
    "uploads",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("tenant", sa.Text, nullable=False),
    sa.Column("size_bytes", sa.Integer, nullable=False),
    sa.Column("media_type", sa.Text, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("expires_at", sa.Double, nullable=False),
    sa.Index("uploads_by_expiry", "expires_at"),
)

usage = sa.Table(  # per tenant and month; the counters of quotas and of `GET /v1/usage`
    "usage",
    metadata,
    sa.Column("tenant", sa.Text, primary_key=True),
    sa.Column("period", sa.Text, primary_key=True),
    sa.Column("pictures", sa.Integer, nullable=False),  # accepted, less those given back
    sa.Column("jobs", sa.Integer, nullable=False),
    sa.Column("made", sa.Integer, nullable=False),  # pictures that were made
    sa.Column("denoise_s", sa.Double, nullable=False),
)

webhook_endpoints = sa.Table(
    "webhook_endpoints",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("tenant", sa.Text, nullable=False),
    sa.Column("url", sa.Text, nullable=False),
    sa.Column("events", _json, nullable=False),  # types; empty: all
    sa.Column("secrets", _json, nullable=False),  # [{"secret", "expires_at"}], the newest first
    sa.Column("description", sa.Text, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("delivered_at", sa.Double),  # the last time that it took something, to the minute
    sa.Column("failing_since", sa.Double),  # the first of the failures in a row; NULL: the last attempt succeeded
    sa.Column("failed_at", sa.Double),  # the last of them
    sa.Column("disabled_at", sa.Double),
    sa.Column("disabled_reason", sa.Text),
    sa.Index("webhook_endpoints_by_tenant", "tenant", "created_at", "id"),
)

webhook_deliveries = sa.Table(  # the outbox and, once done, the log
    "webhook_deliveries",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("tenant", sa.Text, nullable=False),
    sa.Column("message_id", sa.Text, nullable=False),  # `webhook-id`: the same for every attempt
    sa.Column("endpoint_id", sa.Text),  # NULL: a URL that one job named
    sa.Column("url", sa.Text, nullable=False),
    sa.Column("host", sa.Text, nullable=False),  # of the URL, with its port: no host is sent too much at once
    sa.Column("job_id", sa.Text),
    sa.Column("type", sa.Text, nullable=False),
    sa.Column("payload", _json, nullable=False),
    sa.Column("status", sa.Text, nullable=False),  # pending, sending, delivered, failed
    sa.Column("attempts", _json, nullable=False),  # [{"at", "status", "error", "took_s"}]
    sa.Column("tries", sa.Integer, nullable=False),  # claims since it was made, or asked for again
    sa.Column("due_at", sa.Double, nullable=False),
    sa.Column("lease_until", sa.Double),
    sa.Column("fence", sa.BigInteger, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("finished_at", sa.Double),
    sa.Index("webhook_deliveries_due", "status", "due_at"),
    sa.Index("webhook_deliveries_by_endpoint", "endpoint_id", "id"),
    sa.Index("webhook_deliveries_by_job", "job_id"),
)

OF_TENANTS = (  # tables whose rows belong to one tenant, in the column `tenant`
    api_keys,
    jobs,
    idempotency_keys,
    events,
    batches,
    identities,
    uploads,
    usage,
    webhook_endpoints,
    webhook_deliveries,
)


def owned_by(table: sa.Table, tenant: str) -> sa.ColumnElement[bool]:
    """The rows of one tenant. Every query on a tenant's behalf goes through here; see docs/decisions/0009."""
    return table.c.tenant == tenant
