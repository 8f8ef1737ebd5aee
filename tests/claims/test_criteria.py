"""Criteria: what is refused, and that they survive a round trip."""

import pytest

from farfield.claims.criteria import Criterion
from farfield.errors import InputError


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"name": "", "kind": "exact"}, "needs a name"),
        ({"name": "c", "kind": "superior"}, "nearest: superiority"),
        ({"name": "c", "kind": "superiority", "better": "smaller"}, "'lower', 'higher'"),
        ({"name": "c", "kind": "superiority", "against": "ours"}, "'baseline', 'ablation'"),
        ({"name": "c", "kind": "superiority", "margin": -0.1}, "0 or more"),
        ({"name": "c", "kind": "superiority", "margin": float("nan")}, "finite number"),
        ({"name": "c", "kind": "superiority", "margin": "0.1"}, "finite number"),
        ({"name": "c", "kind": "superiority", "alpha": 0.0}, "between 0 and 0.5"),
        ({"name": "c", "kind": "superiority", "relative": "yes"}, "true, false"),
        ({"name": "c", "kind": "superiority", "margin": 1.5, "relative": True}, "cannot be reached"),
        ({"name": "c", "kind": "trend", "margin": 0.5, "relative": True}, "not for trend"),
        ({"name": "c", "kind": "bound"}, "rate to be excluded"),
        ({"name": "c", "kind": "bound", "rate": 0.9, "margin": 0.2}, "rate + margin"),
        ({"name": "c", "kind": "exact", "rate": 0.1}, "only a bound"),
        ({"name": "c", "kind": "exact", "tolerance": 0.1}, "unknown key of a criterion 'tolerance'"),
        ({"kind": "exact"}, "has no 'name'"),
    ],
)
def test_refusals_say_what_is_allowed(fields, says):
    with pytest.raises(InputError) as caught:
        Criterion.from_dict(fields)
    assert says in str(caught.value)


def test_round_trip_and_text():
    c = Criterion("mae", "superiority", margin=0.5, relative=True, description="half the error")
    assert Criterion.from_dict(c.to_dict()) == c
    assert c.text == "mae lower than the baseline by more than 50 % of the baseline"
    assert Criterion("miss", "bound", rate=0.2, margin=0.07).text == "miss violated in at most 27 % of trials"
    assert Criterion("acc", "trend", better="higher").text == "acc rises with a slope beyond 0"
