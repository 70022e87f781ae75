"""The sidecar file: what goes in comes out, the same input gives the same bytes, and no bytes can do harm."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFReader, GGUFValueType, GGUFWriter

from edgesteer.controller import LAWS, Certificate, Controller, Pid, Provenance, Sensor, Statistics
from edgesteer.errors import EdgeSteerError, SidecarError
from edgesteer.fingerprint import Fingerprint
from edgesteer.sidecar import Sidecar, read_sidecar, write_sidecar

MODEL = Fingerprint("llama", 4, 3, "a" * 64, "b" * 64, "Tiny")

GOLDEN_SHA256 = "df38bd196cd4215a2e8b70aaf6b14a1ddff533d93e6b9f4fb466358bcaacf3f4"
"""Of the file of golden_sidecar(). It changes only together with the format version."""


def ramp(*shape: int, start: float = 0.0) -> np.ndarray[Any, np.dtype[np.float32]]:
    return (start + np.arange(np.prod(shape), dtype=np.float32)).reshape(shape)


def make_controller(name: str = "warm", **changes: Any) -> Controller:
    """A controller in which every field differs from its default and from its neighbours."""
    values: dict[str, Any] = dict(
        name=name, positive="warm", negative="cold", law="lqr", n_blocks=4, blocks=(1, 3),
        probe=ramp(2, 3, start=1), offset=ramp(2, start=7), gain=ramp(2, 3, start=9), rest=ramp(2, start=15),
        span=ramp(2, start=17), scale=0.7, negative_scale=0.9, mode="hold", default_strength=0.3,
        safe_range=(-0.9, 1.1),
        sensor=Sensor(
            block=2, probe=ramp(3, start=20), offset=0.1, target=0.2, memory_tokens=12.5,
            push=ramp(2, start=23), prompt_mean=0.4, position_mean=ramp(5, start=25),
            slope=1.5, fade_tokens=3.5, recovery_tokens=90.5,
        ),
        statistics=Statistics(*(ramp(4, start=30 + 4 * row) for row in range(7))),
        provenance=Provenance(
            state_cost=1.5, input_cost=2.5, terminal_cost=3.5, jacobian_count=25, seed=2**40, pooling="last",
            shrinkage=0.01, concept_sha256="c" * 64, prompt_count=80,
        ),
        certificate=Certificate(
            level=0.123456789012345, mode="floor", risk=0.05, texts=39, effort=ramp(2), bound=ramp(2, 2, 2, start=60),
            measured=ramp(2, 2, 2, start=70),
        ),
    )
    return Controller(**(values | changes))


def golden_sidecar() -> Sidecar:
    return Sidecar(MODEL, {"warm": make_controller()})


def same(left: Any, right: Any) -> bool:
    """Equality in value and in type, down to the items of dataclasses, arrays and tuples."""
    if is_dataclass(left):
        return type(left) is type(right) and all(
            same(getattr(left, each.name), getattr(right, each.name)) for each in fields(left)
        )
    if isinstance(left, np.ndarray):
        return type(left) is type(right) and left.dtype == right.dtype and np.array_equal(left, right)
    if isinstance(left, tuple):
        return isinstance(right, tuple) and all(map(same, left, right)) and len(left) == len(right)
    return type(left) is type(right) and bool(left == right)


def round_trip(tmp_path: Path, controller: Controller) -> Controller:
    write_sidecar(tmp_path / "a.gguf", Sidecar(MODEL, {controller.name: controller}))
    return read_sidecar(tmp_path / "a.gguf").controllers[controller.name]


def rewrite(source: Path, target: Path, edit: Callable[[dict[str, Any], dict[str, Any]], None]) -> None:
    """Copy a sidecar after `edit` changed its keys, {name: (value, types)}, and its tensors."""
    reader = GGUFReader(source)
    keys = {
        name: (field.contents(), field.types) for name, field in reader.fields.items()
        if not name.startswith("GGUF.") and name != "general.architecture"
    }
    tensors = {tensor.name: np.array(tensor.data) for tensor in reader.tensors}
    edit(keys, tensors)
    writer = GGUFWriter(target, "edgesteer")
    for key, (value, types) in keys.items():
        writer.add_key_value(key, value, types[0], types[-1] if len(types) > 1 else None)
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def refusal(tmp_path: Path, edit: Callable[[dict[str, Any], dict[str, Any]], None]) -> str:
    """Return what read_sidecar says of the edited golden file."""
    write_sidecar(tmp_path / "good.gguf", golden_sidecar())
    rewrite(tmp_path / "good.gguf", tmp_path / "bad.gguf", edit)
    with pytest.raises(SidecarError) as caught:
        read_sidecar(tmp_path / "bad.gguf")
    assert str(caught.value).startswith(str(tmp_path / "bad.gguf"))
    return str(caught.value)


# What goes in comes out


def test_full_controller_survives_the_round_trip(tmp_path: Path) -> None:
    assert same(round_trip(tmp_path, make_controller()), make_controller())


def test_controller_without_its_optional_parts_survives_the_round_trip(tmp_path: Path) -> None:
    bare = make_controller(law="add", negative_scale=None, probe=None, sensor=None, statistics=None, certificate=None)
    assert same(round_trip(tmp_path, bare), bare)


@pytest.mark.parametrize("law", LAWS)
def test_every_law_survives_the_round_trip(tmp_path: Path, law: str) -> None:
    x, y, _ = np.eye(3, dtype=np.float32)
    zero = ramp(2) * 0
    tensors: dict[str, Any] = {
        "add": dict(probe=None),
        "pid": dict(pid=Pid(0.5, 0.25, 0.125)),
        "ablate": dict(probe=np.stack([x, y]), gain=np.stack([x, y]), offset=zero, rest=zero, span=zero),
        "rotate": dict(probe=np.stack([x, y]), gain=np.stack([x, y]), axis=np.stack([y, x]), offset=zero),
    }
    controller = make_controller(law=law, **tensors.get(law, {}))
    assert same(round_trip(tmp_path, controller), controller)


def test_a_fixed_target_survives_the_round_trip(tmp_path: Path) -> None:
    sensor = make_controller().sensor
    assert sensor is not None
    controller = make_controller(sensor=replace(sensor, reference="fixed"))
    assert same(round_trip(tmp_path, controller), controller)


def test_empty_text_survives_the_round_trip(tmp_path: Path) -> None:
    controller = make_controller(provenance=Provenance(concept_sha256=""), negative="")
    assert same(round_trip(tmp_path, controller), controller)


def test_text_beyond_ascii_survives_the_round_trip(tmp_path: Path) -> None:
    controller = make_controller("wärme", positive="wärmer \U0001f525")
    assert same(round_trip(tmp_path, controller), controller)


def test_numbers_come_back_as_their_declared_types(tmp_path: Path) -> None:
    loose = make_controller(
        scale=np.float64(0.5), blocks=(np.int64(1), np.int64(3)), default_strength=2, safe_range=(-1, 1)
    )
    strict = make_controller(scale=0.5, blocks=(1, 3), default_strength=2.0, safe_range=(-1.0, 1.0))
    assert same(round_trip(tmp_path, loose), strict)


def test_fingerprint_survives_the_round_trip(tmp_path: Path) -> None:
    write_sidecar(tmp_path / "a.gguf", golden_sidecar())
    assert read_sidecar(tmp_path / "a.gguf").fingerprint == MODEL


def test_several_controllers_keep_their_names_and_order(tmp_path: Path) -> None:
    controllers = {name: make_controller(name, positive=f"{name}!") for name in ("b", "a-1", "c_2")}
    write_sidecar(tmp_path / "a.gguf", Sidecar(MODEL, controllers))
    read = read_sidecar(tmp_path / "a.gguf").controllers
    assert list(read) == ["b", "a-1", "c_2"]
    assert all(same(read[name], controllers[name]) for name in controllers)


def test_read_tensors_do_not_keep_the_file_open(tmp_path: Path) -> None:
    write_sidecar(tmp_path / "a.gguf", golden_sidecar())
    controller = read_sidecar(tmp_path / "a.gguf").controllers["warm"]
    assert type(controller.gain) is np.ndarray
    assert controller.gain.base is None
    assert controller.gain.flags.writeable


# The bytes


def test_bytes_are_those_of_format_version_1(tmp_path: Path) -> None:
    write_sidecar(tmp_path / "a.gguf", golden_sidecar())
    assert hashlib.sha256((tmp_path / "a.gguf").read_bytes()).hexdigest() == GOLDEN_SHA256


def test_file_starts_as_a_gguf_of_architecture_edgesteer(tmp_path: Path) -> None:
    write_sidecar(tmp_path / "a.gguf", golden_sidecar())
    tensor_count, key_count = 18, 42
    assert (tmp_path / "a.gguf").read_bytes().startswith(
        b"GGUF" + (3).to_bytes(4, "little")
        + tensor_count.to_bytes(8, "little") + key_count.to_bytes(8, "little")
        + (20).to_bytes(8, "little") + b"general.architecture"
        + (8).to_bytes(4, "little") + (9).to_bytes(8, "little") + b"edgesteer"
    )


def test_tensor_rows_are_steered_blocks_for_other_gguf_readers_too(tmp_path: Path) -> None:
    write_sidecar(tmp_path / "a.gguf", golden_sidecar())
    gain = next(tensor for tensor in GGUFReader(tmp_path / "a.gguf").tensors if tensor.name == "warm.gain")
    assert gain.shape.tolist() == [3, 2]  # GGUF lists the fastest dimension, the width, first
    np.testing.assert_array_equal(gain.data, ramp(2, 3, start=9))


# The documentation


@pytest.mark.parametrize(
    ("kind", "prefix"),
    [
        (Fingerprint, "edgesteer.model."),
        (Controller, ""),
        (Sensor, "sensor."),
        (Statistics, "statistics."),
        (Provenance, "provenance."),
        (Certificate, "certificate."),
        (Pid, "pid."),
    ],
)
def test_every_field_is_documented(kind: type, prefix: str) -> None:
    page = files("edgesteer").joinpath("SIDECAR.md").read_text("utf-8")
    undocumented = [each.name for each in fields(kind) if f"`{prefix}{each.name}`" not in page]
    assert undocumented == []


def test_every_key_of_a_file_is_documented(tmp_path: Path) -> None:
    page = files("edgesteer").joinpath("SIDECAR.md").read_text("utf-8")
    write_sidecar(tmp_path / "a.gguf", golden_sidecar())
    reader = GGUFReader(tmp_path / "a.gguf")
    keys = [key.removeprefix("edgesteer.controller.warm.") for key in reader.fields]
    names = [tensor.name.removeprefix("warm.") for tensor in reader.tensors]
    undocumented = [name for name in keys + names if f"`{name}`" not in page]
    assert undocumented == ["GGUF.version", "GGUF.tensor_count", "GGUF.kv_count"]  # the container's own


def test_cost_of_another_kind_survives_the_round_trip(tmp_path: Path) -> None:
    made = make_controller(provenance=Provenance(cost="feature"))
    write_sidecar(tmp_path / "a.gguf", Sidecar(golden_sidecar().fingerprint, {"warm": made}))
    assert read_sidecar(tmp_path / "a.gguf").controllers["warm"].provenance.cost == "feature"


def test_fixture_leaves_no_field_at_its_default() -> None:
    # Otherwise the round trip could not tell a stored field from a forgotten one.
    controller = make_controller()
    defaults = [
        each.name for holder in (controller, controller.provenance) for each in fields(holder)
        if same(getattr(holder, each.name), each.default)
    ]  # fmt: skip
    # Only some laws and costs have them: see test_every_law_survives_the_round_trip and the one of the cost.
    assert defaults == ["axis", "pid", "cost"]


# Controllers that do not belong into a file


@pytest.mark.parametrize("name", ["", "a.b", "a b", "a/b"])
def test_name_that_would_blur_the_keys_is_refused(name: str) -> None:
    with pytest.raises(SidecarError, match="name cannot be stored"):
        Sidecar(MODEL, {name: make_controller(name)})


def test_controller_filed_under_another_name_is_refused() -> None:
    with pytest.raises(SidecarError, match="another name"):
        Sidecar(MODEL, {"cold": make_controller("warm")})


@pytest.mark.parametrize(
    ("field", "other"), [("n_blocks", replace(MODEL, n_blocks=9)), ("width", replace(MODEL, width=9))]
)
def test_controller_of_another_model_is_refused(field: str, other: Fingerprint) -> None:
    with pytest.raises(SidecarError, match=f"controller's {field} is not the model's; expected 9"):
        Sidecar(other, {"warm": make_controller()})


def test_sidecar_without_controllers_is_refused() -> None:
    with pytest.raises(SidecarError, match="no controller"):
        Sidecar(MODEL, {})


def test_number_that_is_not_finite_is_not_written(tmp_path: Path) -> None:
    controller = make_controller(scale=float("nan"))
    with pytest.raises(SidecarError, match=r"warm\.scale: number is not finite"):
        write_sidecar(tmp_path / "a.gguf", Sidecar(MODEL, {"warm": controller}))
    assert list(tmp_path.iterdir()) == []


def test_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(EdgeSteerError, match="its folder does not exist"):
        write_sidecar(tmp_path / "none" / "a.gguf", golden_sidecar())


# Files that are not sidecars


def test_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SidecarError, match=r"none\.gguf: no such file"):
        read_sidecar(tmp_path / "none.gguf")


def test_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SidecarError, match="cannot be read"):
        read_sidecar(tmp_path)


@pytest.mark.parametrize("content", [b"", b"G", b"hello, this is a text and no model\n" * 9])
def test_file_that_is_no_gguf_is_an_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.gguf").write_bytes(content)
    with pytest.raises(SidecarError, match="not a GGUF file"):
        read_sidecar(tmp_path / "a.gguf")


def test_gguf_of_another_kind_is_an_error_that_names_it(tmp_path: Path) -> None:
    writer = GGUFWriter(tmp_path / "a.gguf", "llama")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(SidecarError, match="not a sidecar; expected architecture edgesteer; found llama"):
        read_sidecar(tmp_path / "a.gguf")


def test_other_format_version_has_its_own_message(tmp_path: Path) -> None:
    version = {"edgesteer.format_version": (2, [GGUFValueType.INT64])}
    message = refusal(tmp_path, lambda keys, _: keys.update(version))
    assert message.endswith("sidecar has another format version; expected 1; found 2. "
                            "Update edgesteer, or run `edgesteer export` again.")


def test_format_version_is_looked_at_before_all_else(tmp_path: Path) -> None:
    def future(keys: dict[str, Any], tensors: dict[str, Any]) -> None:
        keys.clear()
        tensors.clear()
        keys["edgesteer.format_version"] = (7, [GGUFValueType.UINT32])

    assert "expected 1; found 7" in refusal(tmp_path, future)


# Damaged files


def test_file_cut_at_any_length_is_an_error(tmp_path: Path) -> None:
    write_sidecar(tmp_path / "a.gguf", golden_sidecar())
    whole = (tmp_path / "a.gguf").read_bytes()
    cut = tmp_path / "cut.gguf"
    lengths = [*range(64), *range(64, len(whole) - 32, 5)]  # up to 31 bytes of padding end the file
    for length in lengths:
        cut.write_bytes(whole[:length])
        with pytest.raises(SidecarError, match=r"cut\.gguf: (file is truncated or corrupt|not a GGUF file)"):
            read_sidecar(cut)


@pytest.mark.parametrize("offset", [8, 16], ids=["tensor count", "key count"])
@pytest.mark.parametrize("count", [1000, 2**40, 2**64 - 1])
def test_count_beyond_the_end_of_the_file_is_an_error(tmp_path: Path, offset: int, count: int) -> None:
    write_sidecar(tmp_path / "a.gguf", golden_sidecar())
    damaged = bytearray((tmp_path / "a.gguf").read_bytes())
    damaged[offset : offset + 8] = count.to_bytes(8, "little")
    (tmp_path / "a.gguf").write_bytes(damaged)
    with pytest.raises(SidecarError, match="truncated or corrupt"):
        read_sidecar(tmp_path / "a.gguf")


def test_array_longer_than_the_file_is_an_error(tmp_path: Path) -> None:
    write_sidecar(tmp_path / "a.gguf", golden_sidecar())
    content = (tmp_path / "a.gguf").read_bytes()
    key = b"edgesteer.controllers"
    length = content.index(key) + len(key) + 4 + 4  # after the array's type and its items' type
    damaged = content[:length] + (2**50).to_bytes(8, "little") + content[length + 8 :]
    (tmp_path / "a.gguf").write_bytes(damaged)
    with pytest.raises(SidecarError, match="truncated or corrupt"):
        read_sidecar(tmp_path / "a.gguf")


def test_arrays_nested_a_thousand_deep_are_an_error(tmp_path: Path) -> None:
    array = (9).to_bytes(4, "little") + (1).to_bytes(8, "little")
    (tmp_path / "a.gguf").write_bytes(
        b"GGUF" + (3).to_bytes(4, "little") + bytes(8) + (1).to_bytes(8, "little")
        + (1).to_bytes(8, "little") + b"k" + (9).to_bytes(4, "little") + 5000 * array
    )
    with pytest.raises(SidecarError, match="truncated or corrupt"):
        read_sidecar(tmp_path / "a.gguf")


@pytest.mark.parametrize("seed", range(6))
def test_flipped_bytes_give_an_error_or_a_valid_sidecar(tmp_path: Path, seed: int) -> None:
    write_sidecar(tmp_path / "a.gguf", golden_sidecar())
    whole = np.frombuffer((tmp_path / "a.gguf").read_bytes(), np.uint8)
    generator = np.random.default_rng(seed)
    refused = 0
    for _ in range(100):
        damaged = whole.copy()
        places = generator.integers(0, len(whole), size=generator.integers(1, 4))
        damaged[places] ^= generator.integers(1, 256, size=len(places)).astype(np.uint8)
        (tmp_path / "a.gguf").write_bytes(damaged.tobytes())
        try:
            assert isinstance(read_sidecar(tmp_path / "a.gguf"), Sidecar)
        except SidecarError:
            refused += 1
    assert 20 < refused < 100  # tensor values, names and padding may change unnoticed


# Files that are whole but wrong


def removed(name: str) -> Callable[[dict[str, Any], dict[str, Any]], None]:
    return lambda keys, tensors: (keys if name in keys else tensors).__delitem__(name)


@pytest.mark.parametrize(
    "name",
    [
        "edgesteer.controllers",
        "edgesteer.model.architecture",
        "edgesteer.controller.warm.law",
        "edgesteer.controller.warm.blocks",
        "edgesteer.controller.warm.sensor.target",
        "edgesteer.controller.warm.provenance.seed",
        "warm.gain",
        "warm.sensor.push",
        "warm.statistics.neutral_mean",
    ],
)
def test_missing_key_or_tensor_is_named(tmp_path: Path, name: str) -> None:
    kind = "key" if name.startswith("edgesteer.") else "tensor"
    assert f"{name}: {kind} is missing" in refusal(tmp_path, removed(name))


def test_missing_probe_is_an_error_for_a_feedback_law(tmp_path: Path) -> None:
    assert "probe does not fit the law" in refusal(tmp_path, removed("warm.probe"))


@pytest.mark.parametrize(
    ("key", "value", "kind", "item"),
    [
        ("edgesteer.controller.warm.law", 3, GGUFValueType.INT64, None),
        ("edgesteer.controller.warm.scale", "much", GGUFValueType.STRING, None),
        ("edgesteer.controller.warm.n_blocks", True, GGUFValueType.BOOL, None),
        ("edgesteer.controller.warm.blocks", 3, GGUFValueType.INT64, None),
        ("edgesteer.controller.warm.blocks", [1.0, 3.0], GGUFValueType.ARRAY, GGUFValueType.FLOAT64),
        ("edgesteer.controller.warm.safe_range", [-1.0, 0, 1], GGUFValueType.ARRAY, GGUFValueType.FLOAT64),
        ("edgesteer.controllers", "warm", GGUFValueType.STRING, None),
    ],
)
def test_value_of_the_wrong_type_is_named(
    tmp_path: Path, key: str, value: Any, kind: GGUFValueType, item: GGUFValueType | None
) -> None:
    types = [kind] if item is None else [kind, item]
    message = refusal(tmp_path, lambda keys, _: keys.update({key: (value, types)}))
    assert f"{key}: value has the wrong type" in message


def test_number_that_is_not_finite_is_named(tmp_path: Path) -> None:
    key, infinite = "edgesteer.controller.warm.scale", (float("inf"), [GGUFValueType.FLOAT64])
    message = refusal(tmp_path, lambda keys, _: keys.update({key: infinite}))
    assert f"{key}: number is not finite" in message


def test_tensor_with_a_nan_is_named(tmp_path: Path) -> None:
    def spoil(keys: dict[str, Any], tensors: dict[str, Any]) -> None:
        tensors["warm.gain"][1, 2] = np.nan

    assert "warm.gain: tensor holds a value that is not finite; found 1" in refusal(tmp_path, spoil)


@pytest.mark.parametrize("shape", [(3, 2), (6,), (1, 2, 3)])
def test_tensor_of_another_shape_is_named(tmp_path: Path, shape: tuple[int, ...]) -> None:
    message = refusal(tmp_path, lambda _, tensors: tensors.update({"warm.probe": ramp(*shape)}))
    assert "warm.probe: tensor has the wrong shape or type; expected float32 (2, 3)" in message
    assert f"found float32 {shape}" in message


def test_tensor_of_another_type_is_named(tmp_path: Path) -> None:
    half = np.zeros(2, np.float16)
    message = refusal(tmp_path, lambda _, tensors: tensors.update({"warm.span": half}))
    assert "warm.span: tensor has the wrong shape or type; expected float32 (2,); found float16" in message


def test_controller_listed_twice_is_an_error(tmp_path: Path) -> None:
    names = (["warm", "warm"], [GGUFValueType.ARRAY, GGUFValueType.STRING])
    message = refusal(tmp_path, lambda keys, _: keys.update({"edgesteer.controllers": names}))
    assert "names a controller twice" in message


def test_unknown_keys_and_tensors_are_ignored(tmp_path: Path) -> None:
    def extend(keys: dict[str, Any], tensors: dict[str, Any]) -> None:
        keys["somebody.note"] = ("hello", [GGUFValueType.STRING])
        tensors["somebody.matrix"] = ramp(2, 2)

    write_sidecar(tmp_path / "good.gguf", golden_sidecar())
    rewrite(tmp_path / "good.gguf", tmp_path / "more.gguf", extend)
    assert same(read_sidecar(tmp_path / "more.gguf").controllers["warm"], make_controller())


def test_scalars_may_be_stored_in_narrower_types(tmp_path: Path) -> None:
    def narrow(keys: dict[str, Any], tensors: dict[str, Any]) -> None:
        keys["edgesteer.controller.warm.n_blocks"] = (4, [GGUFValueType.UINT32])
        keys["edgesteer.controller.warm.scale"] = (0.5, [GGUFValueType.FLOAT32])

    write_sidecar(tmp_path / "good.gguf", golden_sidecar())
    rewrite(tmp_path / "good.gguf", tmp_path / "narrow.gguf", narrow)
    assert same(read_sidecar(tmp_path / "narrow.gguf").controllers["warm"], make_controller(scale=0.5))
