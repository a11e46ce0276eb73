"""Several processes on one database at once."""

import collections
import json
import subprocess
import sys

from doubles.service import add

from instantid_serve.service.job import JobStatus
from instantid_serve.service.job_queue import JobQueue
from instantid_serve.service.jobs import Jobs

PROCESSES = 4
JOBS = 120

# Claims until nothing is left. Every third claim is released spoiled or held past its lease, so that the others take
# it over; then the late settle must be refused.
WORKER = """
import json, sys, time
from instantid_serve.errors import StaleFenceError
from instantid_serve.service.database import open_database, upgrade
from instantid_serve.service.fairness import Room
from instantid_serve.service.job import JobStatus
from instantid_serve.service.job_queue import JobQueue

database = open_database(sys.argv[1], busy_timeout_s=60)
upgrade(database)
queue = JobQueue(database, max_attempts=50)
claimed, settled, refused, late, turn = [], [], [], [], 0
print("ready", flush=True)
sys.stdin.readline()
while True:
    claims = queue.claim("w" + sys.argv[2], Room(3), 0.2)
    for claim in claims:
        turn += 1
        claimed.append([claim.job.id, claim.fence])
        if turn % 3 == 0:
            late.append(claim)
            continue
        try:
            queue.settle_succeeded(claim.job.id, claim.fence, [], {})
            settled.append(claim.job.id)
        except StaleFenceError:
            refused.append([claim.job.id, claim.fence])
    if not claims:
        for claim in late:
            try:
                queue.settle_succeeded(claim.job.id, claim.fence, [], {})
                settled.append(claim.job.id)
            except StaleFenceError:
                refused.append([claim.job.id, claim.fence])
        late = []
        counts = queue.counts()
        if counts[JobStatus.QUEUED] + counts[JobStatus.RUNNING] == 0:
            break
        time.sleep(0.05)
print(json.dumps({"claimed": claimed, "settled": settled, "refused": refused}))
"""


def start_workers(url):
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, url, str(number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(PROCESSES)
    ]
    for worker in workers:
        assert worker.stdout.readline() == "ready\n"
    return workers


def test_no_job_is_claimed_twice_under_one_fence_and_each_ends_once(database_url, database):
    workers = start_workers(database_url)
    jobs = Jobs(database)
    inserted = {add(jobs, tenant).id for tenant in ["alice", "bob", "carol"] * (JOBS // 3)}

    reports = [json.loads(worker.communicate("go\n", timeout=120)[0]) for worker in workers]
    claims = collections.Counter(tuple(claim) for report in reports for claim in report["claimed"])
    settled = collections.Counter(job_id for report in reports for job_id in report["settled"])

    assert all(worker.returncode == 0 for worker in workers)
    assert max(claims.values()) == 1
    assert {job_id for job_id, _ in claims} == inserted
    assert settled == dict.fromkeys(inserted, 1)
    assert JobQueue(database).counts()[JobStatus.SUCCEEDED] == JOBS
