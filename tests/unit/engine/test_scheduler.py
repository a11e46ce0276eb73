"""The scheduler's rules, by example and under generated sequences."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from instantid_serve.engine.request import Entry, ShapeKey
from instantid_serve.engine.scheduler import Scheduler
from instantid_serve.engine.step_times import ENOUGH, StepTimes
from instantid_serve.messages import Request

SMALL, LARGE = ShapeKey(8, 8), ShapeKey(16, 16)
STEP_S = {SMALL: 0.01, LARGE: 0.04}


def entry(name, *, key=SMALL, steps=10, guided=True, now_s=0.0, deadline_s=None):
    request = Request(
        id=name,
        prompt="",
        seed=0,
        width=key.latent_width * 8,
        height=key.latent_height * 8,
        embedding=np.zeros(512, np.float32),
        landmarks=np.zeros((5, 2), np.float32),
        guidance_scale=5.0 if guided else 1.0,
        deadline_s=deadline_s,
    )
    return Entry(request, key, steps, now_s)


def scheduler(max_batch_rows=4, ageing_s=1.0):
    return Scheduler(max_batch_rows=max_batch_rows, ageing_s=ageing_s)


def ids(batch):
    return [e.id for e in batch]


def run_step(sched, now_s):
    """Run one step as the engine does; returns the batch and the time after it."""
    batch = sched.next_batch(now_s)
    seconds = STEP_S[batch[0].key]
    sched.ran(batch, seconds)
    for done in [e for e in batch if e.remaining == 0]:
        sched.remove(done.id)
    return batch, now_s + seconds


def test_a_device_that_runs_behind_is_believed_about_its_steps():
    """What the host measures between two calls is then the time of another step, or nearly nothing."""
    times, quick, slow = StepTimes(), ShapeKey(64, 64), ShapeKey(128, 128)
    sched = Scheduler(max_batch_rows=4, ageing_s=1.0, step_times=times)
    for name, key in (("a", quick), ("b", slow)):
        sched.add(entry(name, key=key, steps=99))

    turns, told = Counter(), []
    for _ in range(60):
        batch = sched.next_batch(0.0)
        sched.ran(batch, 0.0, told)
        key = batch[0].key
        turns[key] += 1
        told = [((key, batch[0].rows), 0.1 if key == quick else 0.9)]

    assert times.estimate_s(quick, 2) == 0.1
    assert times.estimate_s(slow, 2) == 0.9
    assert turns[quick] == pytest.approx(9 * turns[slow], abs=9)


def test_requests_of_one_shape_share_a_step_whatever_else_differs():
    sched = scheduler(max_batch_rows=8)
    for e in (entry("a", steps=4), entry("b", steps=50, guided=False), entry("c", steps=9, deadline_s=99.0)):
        sched.add(e)

    batch = sched.next_batch(0.0)

    assert sorted(ids(batch)) == ["a", "b", "c"]


def test_a_row_left_over_goes_to_a_request_that_needs_only_one():
    sched = scheduler(max_batch_rows=3)
    for e in (entry("two", steps=1), entry("also-two", steps=2), entry("one", steps=3, guided=False)):
        sched.add(e)

    batch = sched.next_batch(0.0)

    assert ids(batch) == ["two", "one"]


def test_the_least_remaining_work_goes_first():
    sched = scheduler(max_batch_rows=2)
    for e in (entry("long", steps=50), entry("short", steps=4)):
        sched.add(e)

    batch = sched.next_batch(0.0)

    assert ids(batch) == ["short"]


def test_a_request_about_to_miss_its_deadline_goes_before_shorter_ones():
    sched = scheduler(max_batch_rows=2)
    sched.ran([entry("measured")], 0.1)
    for e in (entry("short", steps=4), entry("urgent", steps=20, deadline_s=3.0)):
        sched.add(e)

    batch = sched.next_batch(0.0)

    assert ids(batch) == ["urgent"]


def test_a_stream_of_short_requests_cannot_starve_a_long_one():
    sched, now_s = scheduler(max_batch_rows=2, ageing_s=0.2), 0.0
    long = entry("long", steps=20)
    sched.add(long)

    for arrival in range(2000):
        sched.add(entry(f"short-{arrival}", steps=2, now_s=now_s))
        _, now_s = run_step(sched, now_s)

    assert long.remaining == 0


def test_two_shapes_share_the_device_time_of_equal_crowds_equally():
    sched, now_s, spent = scheduler(max_batch_rows=2), 0.0, {SMALL: 0.0, LARGE: 0.0}
    for key in (SMALL, LARGE):
        for i in range(3):
            sched.add(entry(f"{key.latent_width}-{i}", key=key, steps=100_000))

    for _ in range(1000):
        batch, now_s = run_step(sched, now_s)
        spent[batch[0].key] += STEP_S[batch[0].key]

    assert spent[SMALL] == pytest.approx(spent[LARGE], rel=0.02)


def test_a_crowd_gets_a_crowds_share():
    sched, now_s, spent = scheduler(max_batch_rows=2), 0.0, {SMALL: 0.0, LARGE: 0.0}
    for i in range(9):
        sched.add(entry(f"crowd-{i}", steps=100_000))
    sched.add(entry("single", key=LARGE, steps=100_000))

    for _ in range(2000):
        batch, now_s = run_step(sched, now_s)
        spent[batch[0].key] += STEP_S[batch[0].key]

    assert spent[SMALL] / spent[LARGE] == pytest.approx(9, rel=0.05)


def test_a_shape_that_was_away_cannot_claim_the_time_it_missed():
    sched, now_s = scheduler(max_batch_rows=2), 0.0
    sched.add(entry("early", steps=100_000))
    for _ in range(500):
        _, now_s = run_step(sched, now_s)
    sched.add(entry("late", key=LARGE, steps=100_000, now_s=now_s))

    turns = []
    for _ in range(50):
        batch, now_s = run_step(sched, now_s)
        turns.append(ids(batch)[0])

    assert turns.count("early") == pytest.approx(40, abs=2)  # a quarter of the step time, so four turns for one


def test_an_id_cannot_be_scheduled_twice():
    sched = scheduler()
    sched.add(entry("a"))

    with pytest.raises(ValueError, match="already"):
        sched.add(entry("a"))


def test_the_batch_stops_at_the_measured_knee():
    times = StepTimes()
    for rows, seconds in ((2, 0.010), (4, 0.020), (8, 0.040)) * ENOUGH:  # no gain from more rows
        times.record(SMALL, rows, seconds)
    sched = Scheduler(max_batch_rows=8, ageing_s=1.0, step_times=times)
    for i in range(4):
        sched.add(entry(f"r{i}"))

    batch = sched.next_batch(0.0)

    assert len(batch) == 1


class AnySequence(RuleBasedStateMachine):
    """Joins, leaves and steps in any order: rules that must hold at every moment."""

    @initialize(rows=st.integers(1, 9))
    def start(self, rows):
        self.max_rows, self.now_s, self.added = rows, 0.0, 0
        self.sched = scheduler(max_batch_rows=rows, ageing_s=0.5)
        self.live = {}

    @rule(
        key=st.sampled_from([SMALL, LARGE, ShapeKey(8, 8, "lora")]),
        steps=st.integers(1, 12),
        guided=st.booleans(),
        slack_s=st.none() | st.floats(0.001, 5),
    )
    def join(self, key, steps, guided, slack_s):
        self.added += 1
        deadline_s = None if slack_s is None else self.now_s + slack_s
        new = entry(f"r{self.added}", key=key, steps=steps, guided=guided, now_s=self.now_s, deadline_s=deadline_s)
        self.sched.add(new)
        self.live[new.id] = new

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def leave(self, data):
        name = data.draw(st.sampled_from(sorted(self.live)))

        assert self.sched.remove(name) is self.live.pop(name)

    @rule(seconds=st.floats(0.0001, 2))
    def step(self, seconds):
        self._one_step(seconds)

    def _one_step(self, seconds) -> None:
        batch = self.sched.next_batch(self.now_s)

        assert bool(batch) == bool(self.live)
        if not batch:
            return
        assert len({e.key for e in batch}) == 1
        assert len(set(ids(batch))) == len(batch)
        assert all(e is self.live[e.id] and e.remaining > 0 for e in batch)
        assert len(batch) == 1 or sum(e.rows for e in batch) <= self.max_rows
        self.now_s += seconds
        self.sched.ran(batch, seconds)
        for e in [e for e in batch if e.remaining == 0]:
            self.sched.remove(e.id)
            del self.live[e.id]

    @rule()
    def everybody_is_served_in_the_end(self):
        bound = 20 * sum(e.remaining for e in self.live.values()) * max(1, len(self.live))
        for _ in range(bound):
            if not self.live:
                break
            self._one_step(0.05)

        assert not self.live

    @invariant()
    def it_holds_exactly_the_live_ones(self):
        if hasattr(self, "live"):
            assert len(self.sched) == len(self.live)
            assert all(name in self.sched for name in self.live)


TestAnySequence = AnySequence.TestCase
TestAnySequence.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)
