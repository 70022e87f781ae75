"""The dynamics sidecar: what goes in comes out, and no bytes can do harm. test_sidecar.py has more of the container."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFReader, GGUFWriter

from edgesteer.dynamics import Dynamics, DynamicsSidecar, read_dynamics, write_dynamics
from edgesteer.errors import EdgeSteerError, SidecarError
from edgesteer.fingerprint import Fingerprint

MODEL = Fingerprint("llama", 2, 4, "a" * 64, "b" * 64, "Tiny")


def ramp(*shape: int, start: float = 0.0) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Numbers that half precision holds exactly."""
    return (start + np.arange(np.prod(shape), dtype=np.float32)).reshape(shape) / 64


def make_dynamics(**changes: Any) -> Dynamics:
    values: dict[str, Any] = dict(
        n_blocks=2, ranks=(1, 2), left=ramp(3, 4, start=1), right=ramp(3, 4, start=20), energy=ramp(2, start=60),
        mean=ramp(3, 4, start=5), spread=ramp(3, 4, start=7), factors=ramp(3, 2, 4), position_mean=ramp(5, 3, 4),
        prompt_mean=ramp(3, 4, start=11), text_count=7, token_count=300, jacobian_count=6, seed=2**40,
    )
    return Dynamics(**(values | changes))


def write(path: Path, **changes: Any) -> Path:
    write_dynamics(path, DynamicsSidecar(MODEL, make_dynamics(**changes)))
    return path


def edited(tmp_path: Path, edit: Callable[[dict[str, Any]], None]) -> str:
    """Return what read_dynamics says of a file whose tensors were edited."""
    reader = GGUFReader(write(tmp_path / "good.gguf"))
    tensors = {tensor.name: np.array(tensor.data) for tensor in reader.tensors}
    edit(tensors)
    writer = GGUFWriter(tmp_path / "bad.gguf", "edgesteer-dynamics")
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name != "general.architecture":
            subtype = field.types[-1] if len(field.types) > 1 else None
            writer.add_key_value(name, field.contents(), field.types[0], subtype)
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(SidecarError) as caught:
        read_dynamics(tmp_path / "bad.gguf")
    return str(caught.value)


def test_dynamics_survive_the_round_trip(tmp_path: Path) -> None:
    read = read_dynamics(write(tmp_path / "a.gguf"))
    assert read.fingerprint == MODEL
    for each in fields(Dynamics):
        before, after = getattr(make_dynamics(), each.name), getattr(read.dynamics, each.name)
        assert type(before) is type(after), each.name
        np.testing.assert_array_equal(before, after)


def test_factors_are_stored_in_half_precision(tmp_path: Path) -> None:
    types = {tensor.name: tensor.tensor_type.name for tensor in GGUFReader(write(tmp_path / "a.gguf")).tensors}
    assert {name for name, kind in types.items() if kind == "F16"} == {"left", "right", "factors"}
    assert set(types.values()) == {"F16", "F32"}


def test_same_dynamics_give_the_same_bytes(tmp_path: Path) -> None:
    assert write(tmp_path / "a.gguf").read_bytes() == write(tmp_path / "b.gguf").read_bytes()


def test_blocks_take_their_rows_in_order() -> None:
    dynamics = make_dynamics()
    first, second = (block.dense for block in dynamics.blocks)
    left, right = dynamics.left, dynamics.right
    np.testing.assert_allclose(first, np.eye(4) + np.outer(left[0], right[0]))
    np.testing.assert_allclose(second, np.eye(4) + np.outer(left[1], right[1]) + np.outer(left[2], right[2]))


def test_every_field_and_key_is_documented(tmp_path: Path) -> None:
    page = files("edgesteer").joinpath("DYNAMICS.md").read_text("utf-8")
    reader = GGUFReader(write(tmp_path / "a.gguf"))
    names = [*reader.fields, *(tensor.name for tensor in reader.tensors)]
    assert [name for name in names if f"`{name}`" not in page] == ["GGUF.version", "GGUF.tensor_count", "GGUF.kv_count"]
    assert len(names) == len(fields(Dynamics)) + len(fields(Fingerprint)) + 3 + 3


# Dynamics that do not belong into a file


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ranks": (3,)}, "ranks do not fit the model; expected 2 numbers"),
        ({"ranks": (0, 3)}, "ranks do not fit the model"),
        ({"ranks": (2, 2)}, r"left: tensor has the wrong shape or type; expected float32 \(4, 4\)"),
        ({"mean": ramp(2, 4)}, r"mean: tensor has the wrong shape"),
        ({"factors": ramp(3, 4)}, r"factors: tensor has the wrong shape"),
        ({"position_mean": ramp(0, 3, 4)}, r"position_mean: tensor has the wrong shape"),
        ({"right": ramp(3, 4) * np.float32("nan")}, "right: tensor holds a value that is not finite"),
        ({"spread": -ramp(3, 4)}, "no covariance has these factors"),
        ({"factors": 1 + ramp(3, 2, 4)}, "no covariance has these factors"),
    ],
)
def test_dynamics_that_make_no_sense_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SidecarError, match=message) as caught:
        make_dynamics(**changes)
    assert str(caught.value).endswith("Run `edgesteer linearize` again for this model.")


@pytest.mark.parametrize("field", ["n_blocks", "width"])
def test_dynamics_of_another_model_are_refused(field: str) -> None:
    with pytest.raises(SidecarError, match=f"{field} of the dynamics is not the model's; expected 9"):
        DynamicsSidecar(replace(MODEL, **{field: 9}), make_dynamics())


def test_factor_beyond_half_precision_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(SidecarError, match="left: value does not fit half precision; expected up to 65504"):
        write(tmp_path / "a.gguf", left=ramp(3, 4) + np.float32(70000))
    assert list(tmp_path.iterdir()) == []


def test_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(EdgeSteerError, match="its folder does not exist"):
        write(tmp_path / "none" / "a.gguf")


# Damaged files


def test_file_cut_at_any_length_is_an_error(tmp_path: Path) -> None:
    whole = write(tmp_path / "a.gguf").read_bytes()
    cut = tmp_path / "cut.gguf"
    for length in range(0, len(whole) - 32, 7):
        cut.write_bytes(whole[:length])
        with pytest.raises(SidecarError, match=r"cut\.gguf: (file is truncated or corrupt|not a GGUF file)"):
            read_dynamics(cut)


@pytest.mark.parametrize("seed", range(3))
def test_flipped_bytes_give_an_error_or_valid_dynamics(tmp_path: Path, seed: int) -> None:
    whole = np.frombuffer(write(tmp_path / "a.gguf").read_bytes(), np.uint8)
    generator = np.random.default_rng(seed)
    refused = 0
    for _ in range(100):
        damaged = whole.copy()
        places = generator.integers(0, len(whole), size=3)
        damaged[places] ^= generator.integers(1, 256, size=3).astype(np.uint8)
        (tmp_path / "a.gguf").write_bytes(damaged.tobytes())
        try:
            assert isinstance(read_dynamics(tmp_path / "a.gguf"), DynamicsSidecar)
        except SidecarError:
            refused += 1
    assert 20 < refused < 100


def test_missing_tensor_is_named(tmp_path: Path) -> None:
    message = edited(tmp_path, lambda tensors: tensors.pop("spread"))
    assert message.startswith(f"{tmp_path / 'bad.gguf'}: spread: tensor is missing.")


def test_tensor_of_another_shape_is_named(tmp_path: Path) -> None:
    message = edited(tmp_path, lambda tensors: tensors.update(left=np.zeros((2, 4), np.float16)))
    assert "left: tensor has the wrong shape or type; expected float32 (3, 4)" in message


def test_sidecar_is_no_dynamics_sidecar(tmp_path: Path) -> None:
    writer = GGUFWriter(tmp_path / "a.gguf", "edgesteer")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(SidecarError, match="not a dynamics sidecar; expected architecture edgesteer-dynamics; found"):
        read_dynamics(tmp_path / "a.gguf")


def test_other_format_version_has_its_own_message(tmp_path: Path) -> None:
    content = write(tmp_path / "a.gguf").read_bytes()
    place = content.index(b"edgesteer.format_version") + len(b"edgesteer.format_version") + 4
    (tmp_path / "a.gguf").write_bytes(content[:place] + (2).to_bytes(8, "little") + content[place + 8 :])
    with pytest.raises(SidecarError, match="dynamics sidecar has another format version; expected 1; found 2"):
        read_dynamics(tmp_path / "a.gguf")
