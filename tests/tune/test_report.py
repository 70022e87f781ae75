"""What a tuning says of itself."""

from __future__ import annotations

from typing import Any

import pytest

from edgesteer.tune.dial import Dial
from edgesteer.tune.race import Candidate
from edgesteer.tune.report import notes
from edgesteer.tune.settings import Setting
from edgesteer.tune.tuning import Tuned


@pytest.mark.parametrize(
    ("law", "setting", "lost"),
    [
        ("lqr", Setting(blocks="upper half"), True),
        ("lqr", Setting(loop="brief push"), False),
        ("lqr", Setting(), False),
        ("scheduled", Setting(blocks="upper half"), False),
    ],
)
def test_a_lost_bound_is_told_of_a_law_that_can_have_one(
    make_controller: Any, law: str, setting: Setting, lost: bool
) -> None:
    controller = make_controller(4, 32, law=law)
    chosen = Candidate(setting, controller, 1.0)
    lines = notes(Tuned(controller, chosen, (chosen,), (), Dial(controller, (), ())), 0.15)
    assert any("no tracking bound" in line for line in lines) == lost
