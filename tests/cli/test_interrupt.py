"""Ctrl-C, held back."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any

import pytest

from edgesteer.cli.interrupt import interrupt_at_steps, interrupt_later


@pytest.fixture(autouse=True)
def restored_handler() -> Iterator[None]:
    handler = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, handler)


def test_the_body_ends_before_ctrl_c_takes_effect() -> None:
    steps = []

    def work() -> None:
        with interrupt_later():
            steps.append("before")
            signal.raise_signal(signal.SIGINT)
            steps.append("after")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert steps == ["before", "after"]


def test_without_ctrl_c_nothing_happens_and_the_handler_is_the_old_one() -> None:
    handler = signal.getsignal(signal.SIGINT)
    with interrupt_later():
        assert signal.getsignal(signal.SIGINT) is not handler
    assert signal.getsignal(signal.SIGINT) is handler


def test_an_error_of_the_body_comes_through_and_the_handler_is_the_old_one() -> None:
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(ZeroDivisionError), interrupt_later():
        raise ZeroDivisionError
    assert signal.getsignal(signal.SIGINT) is handler


def test_where_ctrl_c_is_ignored_it_stays_ignored() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with interrupt_later():
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN


def test_ctrl_c_takes_effect_at_the_next_step(no_progress: Any) -> None:
    handler = signal.getsignal(signal.SIGINT)
    done = []

    def work() -> None:
        with interrupt_at_steps(no_progress) as progress:
            step = progress.stage("work", 3)
            step()
            signal.raise_signal(signal.SIGINT)
            done.append("work between two steps")
            step()
            done.append("too late")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done == ["work between two steps"]
    assert signal.getsignal(signal.SIGINT) is handler


def test_ctrl_c_after_the_last_step_takes_effect_at_the_end(no_progress: Any) -> None:
    done = []

    def work() -> None:
        with interrupt_at_steps(no_progress):
            signal.raise_signal(signal.SIGINT)
            done.append("the end")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done == ["the end"]
