"""One tenant's requests at the same moment: they wait for each other, and never in a circle."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

from doubles.service import LEASE_S, add, new_job

from instantid_serve.service.fairness import Room
from instantid_serve.service.job import JobStatus, Priority

SECONDS = 1.5


def test_accepting_canceling_and_claiming_at_once_meet_no_deadlock(jobs, queue, tenants):
    alice, ends = tenants.ensure("alice"), time.monotonic() + SECONDS
    waiting = [job.id for job in jobs.accept(alice, [new_job(priority=Priority.LOW) for _ in range(300)]).jobs]
    lock = threading.Lock()

    def accept(priority):
        while time.monotonic() < ends:
            add(jobs, priority=priority)

    def cancel():
        while time.monotonic() < ends and waiting:
            with lock:
                job_id = waiting.pop()
            jobs.request_cancel("alice", job_id)

    def work():
        while time.monotonic() < ends:
            for claim in queue.claim("w1", Room(2), LEASE_S):
                queue.settle_failed(claim.job.id, claim.fence, {"code": "x", "detail": ""})

    tasks = [
        lambda: accept(Priority.HIGH),
        lambda: accept(Priority.HIGH),
        lambda: accept(Priority.LOW),
        cancel,
        cancel,
        work,
    ]
    with ThreadPoolExecutor(len(tasks)) as pool:
        for done in [pool.submit(task) for task in tasks]:
            done.result()

    assert queue.counts()[JobStatus.CANCELED] > 0
