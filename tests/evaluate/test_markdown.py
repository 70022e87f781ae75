from __future__ import annotations

import math

from edgesteer.evaluate.markdown import interval, number, percent, rate, table
from edgesteer.evaluate.statistics import Interval


def test_a_table_has_a_header_a_rule_and_a_line_for_each_row():
    assert table(["arm", "n"], [["lqr", "3"]]) == "| arm | n |\n| --- | --- |\n| lqr | 3 |"


def test_a_bar_in_a_cell_does_not_end_the_cell():
    assert table(["a|b"], []).splitlines()[0] == r"| a\|b |"


def test_a_number_that_could_not_be_computed_is_a_dash():
    assert number(math.nan) == percent(math.inf) == "-"


def test_a_number_that_rounds_to_zero_has_no_sign():
    assert number(-0.001) == "0.00"


def test_an_interval_without_limits_is_its_value():
    assert interval(Interval(0.5, -math.inf, math.inf)) == "0.50"
    assert interval(Interval(0.5, 0.25, 0.75)) == "0.50 (0.25 to 0.75)"


def test_a_rate_is_in_percent():
    assert rate(Interval(0.5, 0.2, 0.8)) == "50 % (20 % to 80 %)"
    assert rate(Interval(math.nan, 0.0, 1.0)) == "-"
