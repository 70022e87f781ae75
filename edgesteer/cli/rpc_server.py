"""`edgesteer rpc-server`: lends this machine to a model that runs elsewhere."""

from __future__ import annotations

import signal
import sys
from typing import Annotated

import typer

from edgesteer.cli.declared import constant
from edgesteer.cli.options import ThreadsOption

HOST, PORT = (constant("edgesteer.runtime.rpc", name) for name in ("HOST", "PORT"))


def rpc_server(
    host: Annotated[str, typer.Option(help="The address to listen at.")] = HOST,
    port: Annotated[int, typer.Option(min=1, max=65535, help="The port.")] = PORT,
    threads: ThreadsOption = None,
) -> None:
    """Lend this machine's GPUs, or else its CPU, to models that another machine loads with --rpc HOST:PORT.

    It is llama.cpp's rpc-server, from the llama-cpp-python that is installed here, which needs the RPC backend. It
    knows no passwords: whoever reaches the address may use and crash it. Ctrl-C ends it.
    """
    from edgesteer.runtime.engine import default_threads
    from edgesteer.runtime.rpc import lend_devices

    if host != HOST:
        print("Warning: whoever reaches this address may use and crash this server", file=sys.stderr, flush=True)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Python's handler would wait for a call that does not return
    lend_devices(host, port, threads or default_threads())
