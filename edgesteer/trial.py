"""Trial: Python code in a process of its own, because a native library may end the process that it runs in.

Knows nothing of what is tried.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys


def failure_of(code: str, *arguments: str, seconds: float) -> str | None:
    """Run Python code with some arguments; return why it failed, None when it ended well.

    The reason is the last line that it wrote on stderr, and the signal that ended it; or that it did not end in time.
    """
    command = [sys.executable, "-c", code, *arguments]
    environment = {**os.environ, "GGML_NO_BACKTRACE": "1"}
    try:
        done = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
            timeout=seconds, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return f"no answer within {seconds:g} s"
    if done.returncode == 0:
        return None
    ending = f"ended by {_signal_name(-done.returncode)}" if done.returncode < 0 else f"exit code {done.returncode}"
    said = done.stderr.strip().splitlines()
    return f"{said[-1]} ({ending})" if said else ending


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
