import time

import pytest

from instantid_serve.service.ids import made_at, new_id


def test_an_id_tells_when_it_was_made():
    before = time.time()

    told = made_at(new_id("idn"))

    assert before - 0.001 <= told <= time.time()


@pytest.mark.parametrize("text", ["gen_z", "gen_", "gen", "gen_06h1", "gen_ü", "gen_" + "0" * 26])
def test_what_is_no_id_tells_no_time(text):
    with pytest.raises(ValueError, match=r".+"):
        made_at(text)
