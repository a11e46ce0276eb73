"""Pictures of one shape are decoded together, and a faulty one fails alone."""

import pytest
from doubles.engine import CountingRunner, LateExecutor, engine_by_hand, request, run_all

from instantid_serve.errors import GenerationFailedError, NonFiniteOutputError


class WatchedRunner(CountingRunner):
    """Remembers what it decoded together; a prompt `explodes` takes the whole group along."""

    def __init__(self):
        super().__init__()
        self.groups = []

    def finish(self, states):
        self.groups.append([state.request.id for state in states])
        if any(state.request.prompt == "explodes" for state in states):
            raise RuntimeError("out of memory")
        return super().finish(states)


def decode(requests, most):
    """Let all finish their steps first, then decode them; the futures and what was decoded together."""
    runner, decode_on = WatchedRunner(), LateExecutor()
    engine = engine_by_hand(runner, decode_on=decode_on, decode_together=most)
    futures = [engine.submit(one) for one in requests]
    run_all(engine)
    decode_on.run_all()
    run_all(engine)
    return futures, runner.groups


def test_pictures_of_one_shape_are_decoded_together_up_to_the_limit():
    sizes = [64, 64, 32, 64]
    futures, groups = decode([request(f"r{i}", size=size, steps=1) for i, size in enumerate(sizes)], most=2)

    assert sorted(map(sorted, groups)) == [["r0", "r1"], ["r2"], ["r3"]]
    assert [future.result(0).pixels.shape[0] for future in futures] == sizes


@pytest.mark.parametrize(
    ("fault", "error"), [("explodes", GenerationFailedError), ("bad decode", NonFiniteOutputError)]
)
def test_a_picture_that_cannot_be_decoded_fails_alone(fault, error):
    requests = [request("well", steps=1), request("bad", prompt=fault, steps=1), request("also well", steps=1)]

    (well, bad, also), _ = decode(requests, most=4)

    assert isinstance(bad.exception(0), error)
    assert well.result(0)
    assert also.result(0)


def test_a_fault_beside_decoding_is_told_as_well():
    class Nameless(WatchedRunner):
        @property
        def precision(self):
            raise AttributeError("this model does not say")

    runner = Nameless()
    engine = engine_by_hand(runner)
    future = engine.submit(request("a", steps=1))

    run_all(engine)

    assert isinstance(future.exception(0), GenerationFailedError)
