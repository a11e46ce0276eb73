"""How the database finds the next jobs among many that wait: by the index, not by sorting the queue."""

import random

import pytest
import sqlalchemy as sa
from doubles.service import LEASE_S, spec

from instantid_serve.service.fairness import Room, next_in_turn
from instantid_serve.service.tables import jobs as table
from instantid_serve.service.tables import tenants as tenants_table

TENANTS, WAITING, RUNNING = 100, 3000, 60


@pytest.fixture
def crowded(database):
    """A database with many waiting jobs of many tenants."""
    order = random.Random(1)
    whole = {
        "photo_key": "k",
        "pictures": 1,
        "priority": 1,
        "attempts": 0,
        "cancel_requested": False,
        "tier": "standard",
    }
    whole |= {
        "fence": 0,
        "not_before": 0.0,
        "step": 0,
        "steps": 30,
        "images": [],
        "timings": {},
        "spec": spec().to_json(),
    }
    tenants = [
        {"id": f"t{n}", "tier": "standard", "weight": 1.0, "suspended": False, "defaults": {}, "created_at": 0.0}
        for n in range(TENANTS)
    ]
    del whole["tier"]
    rows = [
        whole
        | {
            "id": f"gen_{n}",
            "tenant": f"t{n % TENANTS}",
            "status": "queued" if n < WAITING else "running",
            "virtual_finish": order.random() * 100,
            "lease_until": None if n < WAITING else 2e6,
            "created_at": float(n),
            "updated_at": float(n),
        }
        for n in range(WAITING + RUNNING)
    ]
    with database.write() as connection:
        connection.execute(sa.insert(tenants_table), [row | {"updated_at": 0.0} for row in tenants])
        connection.execute(sa.insert(table), rows)
        if database.is_postgresql:
            connection.exec_driver_sql("ANALYZE")
    return database


def plan_of(database, query):
    with database.read() as connection:
        text = str(query.compile(connection.engine, compile_kwargs={"literal_binds": True})).replace("%", "%%")
        explain = "EXPLAIN" if database.is_postgresql else "EXPLAIN QUERY PLAN"
        return "\n".join(str(tuple(row)) for row in connection.exec_driver_sql(f"{explain} {text}"))


def test_the_heads_come_from_the_index_of_turns(crowded, clock):
    plan = plan_of(crowded, next_in_turn(clock(), Room(16, 2)))

    assert "jobs_by_turn" in plan
    assert "SCAN jobs\n" not in plan


def test_they_are_the_first_in_turn(crowded, queue):
    with crowded.read() as connection:
        first = sa.select(table.c.id).where(table.c.status == "queued").order_by(table.c.virtual_finish).limit(14)
        expected = connection.execute(first).scalars().all()

    assert [claim.job.id for claim in queue.claim("w1", Room(14), LEASE_S)] == expected
