"""Every command that runs a model can put its blocks on other devices."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

import pytest

from edgesteer.errors import EdgeSteerError

COMMANDS = {
    "generate": "{model} -p x",
    "chat": "{model}",
    "serve": "{model} --port 0",
    "tune": "{model} {sidecar} --suite french --no-degradation",
    "eval": "{model} --steer {sidecar} --suite french -o {folder}",
    "eval degradation": "{model} --steer {sidecar}",
    "eval questionnaire": "{model} {items} --steer {sidecar}",
    "profile": "{model} --size",
}
ITEMS = "text,label_ocean,key\nI like people.,E,1\n"
DEVICES = ("--rpc", "a:1,b:2", "--rpc", "c:3", "--device", "RPC1,CUDA0", "--tensor-split", "3,1", "--n-gpu-layers", "7")
PASSED = {
    "n_gpu_layers": 7, "rpc": ("a:1", "b:2", "c:3"), "device": ("RPC1", "CUDA0"), "tensor_split": (3.0, 1.0),
}  # fmt: skip


@pytest.fixture
def arguments(tmp_path: Path, tiny_sidecar: Any) -> dict[str, Path]:
    model, items = tmp_path / "model.gguf", tmp_path / "items.csv"
    model.write_bytes(b"GGUF")
    items.write_text(ITEMS)
    return {"model": model, "items": items, "sidecar": tiny_sidecar(), "folder": tmp_path / "results"}


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the models were to be loaded with; none is."""
    calls: list[dict[str, Any]] = []

    def load(_self: Any, path: Path, **options: Any) -> NoReturn:
        calls.append(options)
        raise EdgeSteerError("is not loaded", where=path.name)

    # on the class itself: modules that are imported meanwhile keep what they found under its name
    monkeypatch.setattr("edgesteer.runtime.model.LlamaModel.__init__", load)
    return calls


@pytest.mark.parametrize("command", COMMANDS)
def test_devices_reach_the_model(
    command: str, arguments: dict[str, Path], opened: list[dict[str, Any]], edgesteer: Any
) -> None:
    given = COMMANDS[command].format(**arguments).split()
    result = edgesteer(*command.split(), *given, *DEVICES)
    assert result.code == 1
    assert result.err.splitlines()[-1] == "Error: model.gguf: is not loaded"
    assert opened == [PASSED]


@pytest.mark.parametrize("command", COMMANDS)
def test_without_them_nothing_is_chosen(
    command: str, arguments: dict[str, Path], opened: list[dict[str, Any]], edgesteer: Any
) -> None:
    edgesteer(*command.split(), *COMMANDS[command].format(**arguments).split())
    assert opened == [{"n_gpu_layers": 0}]


def test_a_profile_without_offloaded_blocks_takes_no_devices_beside_one_that_does(
    arguments: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgesteer.profile import sweep

    calls: list[dict[str, Any]] = []
    monkeypatch.setattr(sweep, "LlamaModel", lambda path, **options: calls.append(options))
    devices = {"rpc": ("a:1",)}
    both, none = (sweep.Settings(n_gpu_layers=layers, devices=devices) for layers in ((0, -1), (0,)))
    for settings, layers in ((both, 0), (both, -1), (none, 0)):
        settings.open_model(arguments["model"], layers)
    assert calls == [{"n_gpu_layers": 0}, {"n_gpu_layers": -1, **devices}, {"n_gpu_layers": 0, **devices}]


def test_a_wrong_share_is_a_line(edgesteer: Any, arguments: dict[str, Path]) -> None:
    result = edgesteer("generate", arguments["model"], "-p", "x", "-ngl", "-1", "-ts", "3,x")
    assert result == (1, "", "Error: --tensor-split: not a list of numbers; expected as in 3,1; found '3,x'\n")


def test_a_wrong_address_is_a_line(edgesteer: Any, arguments: dict[str, Path]) -> None:
    result = edgesteer("generate", arguments["model"], "-p", "x", "-ngl", "-1", "--rpc", "nowhere")
    line = "Error: not the address of an RPC server; expected HOST:PORT, as in 192.168.1.20:50052; found 'nowhere'\n"
    assert result == (1, "", line)
