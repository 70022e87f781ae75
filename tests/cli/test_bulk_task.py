"""What a line can set. The errors are tested in test_bulk.py."""

from __future__ import annotations

from dataclasses import fields

from edgesteer.cli.bulk_task import STEERING_FIELDS, digest, sampling_fields


def test_every_sampling_option_can_be_set_by_a_line() -> None:
    from edgesteer.runtime.sampling import Sampling

    assert list(sampling_fields()) == [field.name for field in fields(Sampling)]


def test_every_steering_option_can_be_set_by_a_line() -> None:
    from edgesteer.runtime.request import Steering

    assert ["controller", *STEERING_FIELDS] == [field.name for field in fields(Steering)]


def test_digest_does_not_depend_on_the_order_of_the_fields() -> None:
    assert digest({"a": 1, "b": [2]}) == digest({"b": [2], "a": 1})
    assert digest({"a": 1}) != digest({"a": 2})
    assert len(digest({})) == 12
