"""edgesteer serve: its options, and the process from its start to its end. What it answers is in tests/serve."""

from __future__ import annotations

import re
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from edgesteer.sidecar import Sidecar, write_sidecar

ONE_THREAD = ("--threads", 1)
NO_END = {"0": -100, "2": -100}
LONG = {"model": "tiny", "prompt": "the", "max_tokens": 8000, "logit_bias": NO_END, "stream": True}

pytestmark = [
    pytest.mark.torch,
    pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signals for one process"),
]


@pytest.fixture
def sidecar(tiny_llama: Any, make_controller: Any, tmp_path: Path) -> Path:
    """A sidecar of the tiny model with the controllers `warm` and `formal`."""
    controllers = {name: make_controller(4, 32, name=name) for name in ("warm", "formal")}
    write_sidecar(tmp_path / "moods.gguf", Sidecar(tiny_llama.fingerprint, controllers))
    return tmp_path / "moods.gguf"


@pytest.fixture
def serving(start: Callable[..., Any], tiny_model: Any) -> Callable[..., Any]:
    """Return a context manager: the process of a server with these options, and a client of it."""

    @contextmanager
    def run(*options: object, **environment: str) -> Iterator[tuple[Any, httpx.Client]]:
        prelude = f"import os; os.environ.update({environment!r})"
        command = ("serve", tiny_model.gguf, "--port", 0, *ONE_THREAD, *options)
        with start(*command, prelude=prelude) as process:
            try:
                line = process.stdout.readline()
                match = re.search(r"tiny is served at (http://\S+); Ctrl-C ends it", line)
                assert match, line + process.stderr.read()
                with httpx.Client(base_url=match[1], timeout=60, trust_env=False) as client:
                    yield process, client
            finally:
                process.kill()

    return run


def end(process: Any, number: int = signal.SIGTERM) -> tuple[int, str]:
    """Send a signal; return the exit code and what stands on stderr."""
    process.send_signal(number)
    errors = process.stderr.read()
    return process.wait(timeout=60), errors


def test_options_reach_the_server(serving: Any, sidecar: Path) -> None:
    options = ("--steer", f"{sidecar}#warm=0.5", "--load", f"{sidecar}#formal", "--sidecars", sidecar.parent)
    limits = ("--parallel", 2, "--queue", 3, "--ctx-size", 1024, "--max-tokens", 5, "--max-body-bytes", 2000)
    with serving(*options, *limits) as (process, client):
        listed = client.get("/v1/steering").json()["data"]
        assert [(each["name"], each["default_strength"]) for each in listed] == [("warm", 0.5), ("formal", 0.0)]
        assert {each["file"] for each in listed} == {"moods.gguf"}
        assert client.get("/v1/steering/files").json()["data"] == ["moods.gguf"]
        assert client.get("/health").json()["cells_total"] == 1024
        body = {"model": "tiny", "prompt": "the", "logit_bias": NO_END}
        assert client.post("/v1/completions", json=body).json()["usage"]["completion_tokens"] == 5
        assert client.post("/v1/completions", json={**body, "n": 3}).status_code == 400
        assert client.post("/v1/completions", json={**body, "prompt": "x" * 2000}).status_code == 413
        assert client.get("/health", headers={"Host": "evil.example"}).status_code == 403
        assert end(process) == (0, "")


def test_names_and_origins_can_be_allowed(serving: Any) -> None:
    with serving("--allowed-host", "box.example", "--cors-origin", "https://a.example") as (_, client):
        headers = {"Host": "box.example", "Origin": "https://a.example"}
        response = client.get("/health", headers=headers)
        assert (response.status_code, response.headers["access-control-allow-origin"]) == (200, "https://a.example")
        assert client.get("/health").status_code == 403


@pytest.mark.parametrize("options", [("--api-key", "sesame"), ()])
def test_the_key_may_come_from_the_option_or_the_environment(options: tuple[str, ...], serving: Any) -> None:
    environment = {} if options else {"EDGESTEER_API_KEY": "sesame"}
    with serving(*options, **environment) as (_, client):
        assert client.get("/v1/models").status_code == 401
        assert client.get("/v1/models", headers={"Authorization": "Bearer sesame"}).status_code == 200


@pytest.mark.parametrize("key", [(), ("--api-key", "sesame")])
def test_an_address_of_others_warns_when_there_is_no_key(key: tuple[str, ...], serving: Any) -> None:
    with serving("--host", "0.0.0.0", *key) as (process, client):
        assert client.get("/health", headers={"Host": "any.example"}).status_code == 200
        code, errors = end(process)
    assert code == 0
    assert errors.startswith("Warning: whoever reaches this address may use the server" if not key else "")
    assert errors.count("\n") == (not key)


def test_a_strength_outside_the_safe_range_warns(serving: Any, sidecar: Path) -> None:
    with serving("--steer", f"{sidecar}#warm=1.5") as (process, _):
        assert end(process) == (
            0,
            "Warning: warm: strength 1.5 is outside the safe range -1 to 1; the text may break\n",
        )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_streams_cleanly_and_the_process_without_a_word(number: int, serving: Any) -> None:
    with serving("--ctx-size", 8192, "--drain-seconds", 0) as (process, client):
        with client.stream("POST", "/v1/completions", json=LONG) as response:
            lines = response.iter_lines()
            next(lines)
            process.send_signal(number)
            *_, last, done = [line for line in lines if line]
        assert ('"finish_reason": "length"' in last, done) == (True, "data: [DONE]")
        assert process.stderr.read() == ""
        assert process.wait(timeout=60) == 0


def test_a_second_ctrl_c_does_not_wait(serving: Any) -> None:
    with serving("--ctx-size", 65536, "--drain-seconds", 600) as (process, client):
        with client.stream("POST", "/v1/completions", json={**LONG, "max_tokens": 65000}) as response:
            lines = response.iter_lines()
            next(lines)
            process.send_signal(signal.SIGINT)
            while not closed(client):
                pass
            assert end(process, signal.SIGINT) == (130, "Interrupted.\n")


def closed(client: httpx.Client) -> bool:
    """Whether the server takes no more connections."""
    with socket.socket() as probe:
        return bool(probe.connect_ex((client.base_url.host, client.base_url.port)))


def test_a_port_in_use_is_one_line_before_the_model_is_loaded(edgesteer: Any, tmp_path: Path) -> None:
    model = tmp_path / "broken.gguf"
    model.write_bytes(b"GGUF" + bytes(100))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = edgesteer("serve", model, "--port", port)
    assert (result.code, result.out) == (1, "")
    assert result.err == (
        f"Error: 127.0.0.1:{port}: cannot listen here; found Address already in use. Give another --port or --host.\n"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--sidecars", "nowhere"), "nowhere: no such folder. Give --sidecars a folder."),
        (("--api-key", ""), "the API key cannot be sent in a header; expected printable ASCII without spaces around"),
        (("--api-key", "schlüssel"), "the API key cannot be sent in a header"),
        (("--steer", "none.gguf"), "none.gguf: no such file"),
        (("--steer", "x.gguf=much"), "x.gguf=much: strength is not a number"),
        (("--load", "none.gguf#warm"), "none.gguf: no such file"),
        (("--parallel", 8, "--batch-size", 4), "wrong number of sequences; expected 1 to 4; found 8. "),
        (("--host", "a.invalid"), "a.invalid:0: cannot listen here"),
    ],
)
def test_errors(options: tuple[object, ...], message: str, edgesteer: Any, tiny_model: Any) -> None:
    result = edgesteer("serve", tiny_model.gguf, "--port", 0, *ONE_THREAD, *options)
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith(f"Error: {message}")
    assert result.err.count("\n") == 1


def test_a_missing_package_is_one_line_with_its_extra(
    edgesteer: Any, tiny_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith("edgesteer.serve.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "fastapi", None)
    result = edgesteer("serve", tiny_model.gguf, "--port", 0)
    assert (result.code, 'Run: pip install "edgesteer[serve]"' in result.err) == (1, True)
