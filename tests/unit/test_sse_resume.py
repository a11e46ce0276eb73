"""The benchmark of event streams still runs, and finds nothing lost in a few cuts."""

from load_tests.bench import sse_resume


async def test_cut_streams_lose_nothing(tmp_path):
    context = sse_resume.open_here(tmp_path, None, poll_s=0.02)

    found = await sse_resume.measure(context, cuts=20, jobs=2)

    assert found["cuts"] >= 20
    assert (found["lost"], found["repeated"], found["out_of_order"]) == (0, 0, 0)
