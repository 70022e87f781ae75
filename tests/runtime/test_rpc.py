"""Blocks of a model on another machine, and what is said when that machine cannot be used.

The tests with a server need a llama-cpp-python with the RPC backend; docs/install.md tells how to build it.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgesteer.errors import EngineError
from edgesteer.runtime import engine as engine_module
from edgesteer.runtime import rpc
from edgesteer.runtime.engine import Engine
from edgesteer.runtime.hook import Backend, CopyFunction, ggml_backend
from edgesteer.runtime.model import LlamaModel, recorded_log
from edgesteer.runtime.rpc import check_protocol, check_reachable, lend_devices, rpc_devices, split_address
from edgesteer.runtime.system import backends

Copies = dict[str, int]

needs_rpc = pytest.mark.skipif(
    "RPC" not in backends(),
    reason="llama-cpp-python was built without the RPC backend; docs/install.md tells how to build it",
)
TOKENS = (5, 9, 11, 7, 20, 31)


# ---- addresses ----


@pytest.mark.parametrize(
    ("address", "parts"), [("192.168.1.20:50052", ("192.168.1.20", 50052)), ("board.local:1", ("board.local", 1))]
)
def test_an_address_is_a_host_and_a_port(address: str, parts: tuple[str, int]) -> None:
    assert split_address(address) == parts


@pytest.mark.parametrize(
    "address", ["", "host", ":1", "host:", "host:0", "host:65536", "host:-1", "host:1.5", "host:²", "a:b:1", "::1"]
)
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(EngineError, match="not the address of an RPC server; expected HOST:PORT, as in 192"):
        split_address(address)


def test_a_build_without_the_backend_says_how_to_build_one_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpc, "ggml", lambda *_: lambda name: None)
    line = r'without llama.cpp\'s RPC backend. Build it \(docs/install.md\): CMAKE_ARGS="-DGGML_RPC=ON" pip install'
    for use in (lambda: rpc_devices(["127.0.0.1:1"]), lambda: lend_devices("127.0.0.1", 1, 1)):
        with pytest.raises(EngineError, match=line):
            use()


def test_no_server_needs_no_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpc, "ggml", lambda *_: lambda name: None)
    assert rpc_devices([]) == []


# ---- servers that do not answer ----


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port of this machine that takes connections and says nothing."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        yield listener.getsockname()[1]


@pytest.fixture
def closed_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        return int(listener.getsockname()[1])


def test_a_port_where_something_listens_is_reachable(silent_port: int) -> None:
    check_reachable("127.0.0.1", silent_port)


def test_a_port_where_nothing_listens_is_an_error(closed_port: int) -> None:
    line = rf"127.0.0.1:{closed_port}: the RPC server cannot be reached; found .* Start `edgesteer rpc-server` there"
    with pytest.raises(EngineError, match=line):
        check_reachable("127.0.0.1", closed_port)


def test_a_host_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(EngineError, match=r"no-such-host.invalid:1: the RPC server cannot be reached"):
        check_reachable("no-such-host.invalid", 1)


@needs_rpc
def test_a_server_that_says_nothing_is_an_error_and_no_hang(silent_port: int) -> None:
    with pytest.raises(EngineError, match=r"no RPC server .* answers; found no answer within"):
        check_protocol(f"127.0.0.1:{silent_port}", seconds=8)


@needs_rpc
def test_a_server_of_another_protocol_is_an_error_and_ends_no_process() -> None:
    answer = "import socket; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True)\n"
    answer += "while True: c = s.accept()[0]; c.recv(64); c.sendall(b'SSH-2.0-OpenSSH_9.2' * 9); c.close()"
    with in_a_process(answer) as server:
        assert server.stdout is not None
        address = f"127.0.0.1:{int(server.stdout.readline())}"
        with pytest.raises(EngineError, match=r"no RPC server .* answers; found .*SIGABRT"):
            rpc_devices([address])


# ---- a server on this machine ----


@contextmanager
def served() -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Run a server on a free port of this machine; give its address and its process."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        port = listener.getsockname()[1]
    code = f"from edgesteer.runtime.rpc import lend_devices; lend_devices('127.0.0.1', {port}, 1)"
    with in_a_process(code) as process:
        wait_for(process, port)
        yield f"127.0.0.1:{port}", process


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The address of a server on this machine."""
    with served() as (address, _):
        yield address


@contextmanager
def in_a_process(code: str) -> Iterator[subprocess.Popen[str]]:
    """Run code in a process of its own for the time of the body."""
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_for(process: subprocess.Popen[str], port: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        try:
            return check_reachable("127.0.0.1", port)
        except EngineError:
            time.sleep(0.1)
    pytest.fail("the server did not start")


@pytest.fixture
def copies(monkeypatch: pytest.MonkeyPatch) -> Copies:
    """Counts what the hook reads from and writes to tensors that are not in this process's memory."""
    backend, counts = ggml_backend(), {"read": 0, "write": 0}

    def counting(name: str) -> Any:
        copy = getattr(backend, name)

        def count(*arguments: Any) -> None:
            counts[name] += 1
            copy(*arguments)

        return CopyFunction(count)

    wrapped = {name: counting(name) for name in counts}
    fields = {name: wrapped.get(name) or getattr(backend, name) for name, *_ in Backend._fields_}
    monkeypatch.setattr(engine_module, "ggml_backend", lambda: Backend(**fields))
    return counts


def steered_logits(path: Path, make_controller: Callable[..., Any], *, steer: bool = True, **devices: Any) -> Any:
    """Return the logits after some tokens, and the control at every block."""
    with LlamaModel(path, **devices) as model:
        controller = make_controller(model.n_blocks, model.width)
        with Engine(model, [controller], context_tokens=64, threads=1) as engine:
            commands = engine.idle(len(TOKENS))
            commands["action"], commands["level"], commands["effort"] = (3 if steer else 0), 1.0, 0.5
            outputs = [False] * (len(TOKENS) - 1) + [True]
            engine.decode(TOKENS, range(len(TOKENS)), outputs, commands)
            return engine.logits(), engine.measured(controller)[2].copy()


@pytest.mark.llama
@needs_rpc
@pytest.mark.parametrize("n_gpu_layers", [-1, 3], ids=["all blocks", "some blocks"])
def test_steering_is_the_same_where_blocks_run_on_a_server(
    n_gpu_layers: int, tiny_model: Any, make_controller: Any, server: str, copies: Copies
) -> None:
    here = steered_logits(tiny_model.gguf, make_controller)
    assert copies == {"read": 0, "write": 0}
    with recorded_log() as log:
        there = steered_logits(tiny_model.gguf, make_controller, n_gpu_layers=n_gpu_layers, rpc=[server])
    assert any("using device RPC" in line for line in log)
    assert copies["write"] >= len(TOKENS) * 2  # at least two of the blocks are elsewhere
    assert copies["read"] >= copies["write"]
    for ours, theirs in zip(here, there, strict=True):
        np.testing.assert_allclose(theirs, ours, rtol=1e-4, atol=1e-4)


@pytest.mark.llama
@needs_rpc
def test_steering_on_a_server_steers(tiny_model: Any, make_controller: Any, server: str) -> None:
    devices: dict[str, Any] = {"n_gpu_layers": -1, "rpc": [server]}
    off, on = (steered_logits(tiny_model.gguf, make_controller, steer=each, **devices)[0] for each in (False, True))
    assert np.abs(on - off).max() > 0.1


@needs_rpc
def test_a_servers_devices_have_memory_and_are_not_on_the_host(server: str) -> None:
    found: Sequence[Any] = rpc_devices([server])
    assert [(each.backend, each.description, each.on_host) for each in found] == [("RPC", server, False)]
    assert 0 < found[0].free_bytes <= found[0].total_bytes


@pytest.mark.llama
@needs_rpc
def test_a_split_that_does_not_fit_the_devices_is_refused(tiny_model: Any, server: str) -> None:
    with pytest.raises(EngineError, match="one for each of RPC0; found 2"):
        LlamaModel(tiny_model.gguf, n_gpu_layers=-1, rpc=[server], tensor_split=[3, 1])


@pytest.mark.llama
@needs_rpc
def test_a_server_that_goes_away_ends_the_process_with_a_line(tiny_model: Any) -> None:
    code = """if True:
        import sys
        from pathlib import Path
        from edgesteer.runtime.model import LlamaModel
        from edgesteer.runtime.engine import Engine
        with LlamaModel(Path({path!r}), n_gpu_layers=-1, rpc=[{address!r}]) as model:
            with Engine(model, context_tokens=64, threads=1) as engine:
                print("ready", flush=True)
                sys.stdin.readline()
                engine.decode([5], [0], [True])
    """
    with served() as (address, server), in_a_process(code.format(path=str(tiny_model.gguf), address=address)) as user:
        assert user.stdout is not None
        assert user.stdout.readline() == "ready\n"
        server.kill()
        server.wait()
        _, said = user.communicate("\n", timeout=60)
    assert user.returncode == -signal.SIGABRT
    assert "Error: llama.cpp ends this process: " in said.splitlines()[-1]
    assert "is the RPC server still there?" in said.splitlines()[-1]


@needs_rpc
def test_a_port_that_is_taken_is_an_error(silent_port: int) -> None:
    with pytest.raises(EngineError, match=f"127.0.0.1:{silent_port}: the RPC server cannot listen"):
        lend_devices("127.0.0.1", silent_port, 1)
