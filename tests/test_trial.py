"""Code that is tried in a process of its own."""

from __future__ import annotations

import signal
import sys

import pytest

from edgesteer.trial import failure_of

SECONDS = 60.0


def test_code_that_ends_well_has_no_failure() -> None:
    assert failure_of("import sys; assert sys.argv[1:] == ['a', 'b c']", "a", "b c", seconds=SECONDS) is None


def test_failure_is_the_last_line_of_stderr() -> None:
    assert failure_of("raise ValueError('of this kind')", seconds=SECONDS) == "ValueError: of this kind (exit code 1)"


def test_silent_failure_is_its_exit_code() -> None:
    assert failure_of("import sys; sys.exit(7)", seconds=SECONDS) == "exit code 7"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signals")
def test_a_process_that_is_ended_by_a_signal_does_not_end_ours() -> None:
    code = f"import os; os.kill(os.getpid(), {int(signal.SIGILL)})"
    assert failure_of(code, seconds=SECONDS) == "ended by SIGILL"


def test_code_that_hangs_is_ended() -> None:
    assert failure_of("import time; time.sleep(600)", seconds=0.2) == "no answer within 0.2 s"
