"""llama.cpp's RPC backend: the devices of servers elsewhere as ggml's own, and this machine's lent to others.

llama.cpp ends the process when a server cannot be reached, is of another version or goes away, so a server is tried
first. What the devices are used for is not known here.
"""

from __future__ import annotations

import ctypes
import logging
import socket
from collections.abc import Iterable
from typing import Any

import llama_cpp

from edgesteer.errors import EngineError
from edgesteer.runtime.system import ADDRESS, CPU, Device, describe_device, devices, ggml
from edgesteer.trial import failure_of

CONNECT_SECONDS = 5.0
TRIAL_SECONDS = 20.0
"""For a process that loads llama.cpp and shakes hands with a server; a server has time for one client only."""
TRY = "import sys; from edgesteer.runtime.rpc import register; register(sys.argv[1])"
HOST = "127.0.0.1"
PORT = 50052
"""llama.cpp's own defaults."""
BUILD = (
    'CMAKE_ARGS="-DGGML_RPC=ON" pip install --force-reinstall --no-deps --no-cache-dir --no-binary llama-cpp-python '
    "llama-cpp-python"
)
AbortCallback = ctypes.CFUNCTYPE(None, ctypes.c_char_p)

logger = logging.getLogger(__name__)
_tried: set[str] = set()


def rpc_devices(addresses: Iterable[str]) -> list[Device]:
    """Return the devices of some servers, HOST:PORT each, in their order.

    Raises EngineError for an address that cannot be meant, a build without the RPC backend, and a server that cannot be
    reached or does not speak this llama.cpp's protocol.
    """
    parts = {address: split_address(address) for address in addresses}
    if parts:
        require_backend()
        for address, (host, port) in parts.items():
            check_reachable(host, port)
            if address not in _tried:
                check_protocol(address)
                _tried.add(address)
        _set_abort_callback(_last_words)
    return [device for address in parts for device in register(address)]


def split_address(address: str) -> tuple[str, int]:
    """Return the host and the port of HOST:PORT. Raises EngineError."""
    host, _, port = address.rpartition(":")
    is_port = port.isascii() and port.isdecimal() and 0 < int(port) < 1 << 16
    if not host.strip() or ":" in host or not is_port:
        expected = "HOST:PORT, as in 192.168.1.20:50052"
        raise EngineError("not the address of an RPC server", expected=expected, found=repr(address))
    return host, int(port)


def require_backend() -> int:
    """Return ggml's pointer to the RPC backend. Raises EngineError when this llama.cpp was built without it."""
    llama_cpp.llama_backend_init()
    backend: int | None = ggml("ggml_backend_reg_by_name", ADDRESS, ctypes.c_char_p)(b"RPC")
    if not backend:
        raise EngineError(
            "this llama-cpp-python was built without llama.cpp's RPC backend",
            remedy=f"Build it (docs/install.md): {BUILD}",
        )
    return backend


def check_reachable(host: str, port: int, seconds: float = CONNECT_SECONDS) -> None:
    """Raise EngineError when nothing listens there."""
    try:
        socket.create_connection((host, port), seconds).close()
    except OSError as error:
        raise EngineError(
            "the RPC server cannot be reached",
            where=f"{host}:{port}",
            found=error,
            remedy="Start `edgesteer rpc-server` there, or check the address and the firewall.",
        ) from error


def check_protocol(address: str, seconds: float = TRIAL_SECONDS) -> None:
    """Raise EngineError when llama.cpp, in a process of its own, cannot shake hands with the server."""
    failure = failure_of(TRY, address, seconds=seconds)
    if failure is not None:
        raise EngineError(
            "no RPC server of this llama.cpp's version answers",
            where=address,
            found=failure,
            remedy="Both sides need the same version of llama.cpp, and a server has time for one client only.",
        )


def register(address: str) -> list[Device]:
    """Return a server's devices. llama.cpp ends this process when the server does not answer as expected."""
    server = _function("ggml_backend_rpc_add_server", ADDRESS, ctypes.c_char_p)(address.encode())
    if not server:
        raise EngineError("the RPC server has no device", where=address)
    count = ggml("ggml_backend_reg_dev_count", ctypes.c_size_t, ADDRESS)
    get = ggml("ggml_backend_reg_dev_get", ADDRESS, ADDRESS, ctypes.c_size_t)
    return [describe_device(get(server, number)) for number in range(count(server))]


def lend_devices(host: str, port: int, threads: int) -> None:
    """Run a server that lends this machine's GPUs, or else its CPU, to one client after the other. Does not return.

    Raises EngineError for a build without the RPC backend, and when the server cannot listen there.
    """
    types = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_size_t, ADDRESS)
    start = _function("ggml_backend_rpc_start_server", None, *types)
    found = devices()
    lent = [each for each in found if each.is_gpu] or [each for each in found if each.kind == CPU]
    start(f"{host}:{port}".encode(), None, threads, len(lent), (ADDRESS * len(lent))(*(each.handle for each in lent)))
    raise EngineError("the RPC server cannot listen", where=f"{host}:{port}", remedy="Choose another --port or --host.")


def _function(name: str, result: Any, *arguments: Any) -> Any:
    """Return a function of the RPC backend. Raises EngineError when there is no such backend."""
    find = ggml("ggml_backend_reg_get_proc_address", ADDRESS, ADDRESS, ctypes.c_char_p)
    return ctypes.CFUNCTYPE(result, *arguments)(find(require_backend(), name.encode()))


@AbortCallback  # type: ignore[untyped-decorator]
def _last_words(message: bytes) -> None:
    """Say why llama.cpp ends the process, in place of a stack trace."""
    reason = message.decode("utf-8", "replace").strip()
    logger.critical("Error: llama.cpp ends this process: %s; is the RPC server still there?", reason)


def _set_abort_callback(callback: object) -> None:
    ggml("ggml_set_abort_callback", ADDRESS, AbortCallback)(callback)
