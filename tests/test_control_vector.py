"""llama.cpp's control vectors: imported as law `add`, exported as a controller's open-loop shadow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFReader, GGUFWriter

from edgesteer.control_vector import export_control_vector, import_control_vector
from edgesteer.controller import Controller, Pid, Statistics
from edgesteer.errors import EdgeSteerError, SidecarError


def vector(*numbers: float) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.array(numbers, np.float32)


def write_as_repeng(path: Path, directions: dict[str, Any]) -> Path:
    """What repeng's ControlVector.export_gguf writes."""
    writer = GGUFWriter(path, "controlvector")
    writer.add_string("controlvector.model_hint", "llama")
    writer.add_uint32("controlvector.layer_count", len(directions))
    for name, direction in directions.items():
        writer.add_tensor(name, direction)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def exported(path: Path, controller: Controller) -> dict[str, list[float]]:
    export_control_vector(path, controller)
    return {tensor.name: tensor.data.tolist() for tensor in GGUFReader(path).tensors}


def make_controller(law: str, blocks: tuple[int, ...] = (1, 3), **changes: Any) -> Controller:
    values: dict[str, Any] = dict(
        name="warm", positive="warm", negative="cold", law=law, n_blocks=4, blocks=blocks,
        probe=None if law == "add" else np.ones((2, 2), np.float32), offset=vector(0, 0),
        gain=np.array([[1, 2], [3, 4]], np.float32), rest=vector(0.5, 0.25), span=vector(1, 2), scale=3.0,
    )
    return Controller(**(values | changes))


def neutral(*means: float) -> Statistics:
    other = [np.full(len(means), 9, np.float32)] * 7
    other[4] = vector(*means)
    return Statistics(*other)


# Import


def test_imported_vector_adds_its_directions_at_their_blocks(tmp_path: Path) -> None:
    directions = {"direction.1": vector(1, 2), "direction.3": vector(3, 4)}
    controller = import_control_vector(write_as_repeng(tmp_path / "happy.gguf", directions))
    assert (controller.name, controller.law) == ("happy", "add")
    assert (controller.blocks, controller.n_blocks) == ((1, 3), 4)
    np.testing.assert_array_equal(controller.gain, [[1, 2], [3, 4]])


def test_strength_of_an_imported_vector_is_llama_cpps_scale(tmp_path: Path) -> None:
    controller = import_control_vector(write_as_repeng(tmp_path / "a.gguf", {"direction.1": vector(1, 2)}))
    command = controller.command(-0.8)
    control = command.effort * (controller.rest + command.level * controller.span)
    np.testing.assert_allclose(control, [-0.8], rtol=1e-7)


def test_directions_may_come_in_any_order(tmp_path: Path) -> None:
    names = ["direction.10", "direction.9", "direction.2"]
    path = write_as_repeng(tmp_path / "a.gguf", {name: vector(float(name[10:]), 0) for name in names})
    controller = import_control_vector(path)
    assert controller.blocks == (2, 9, 10)
    np.testing.assert_array_equal(controller.gain[:, 0], [2, 9, 10])


def test_block_count_of_the_model_may_be_given(tmp_path: Path) -> None:
    path = write_as_repeng(tmp_path / "a.gguf", {"direction.1": vector(1, 2)})
    assert import_control_vector(path, n_blocks=30).n_blocks == 30


def test_name_is_made_of_what_a_sidecar_can_store(tmp_path: Path) -> None:
    path = write_as_repeng(tmp_path / "very happy.v2.gguf", {"direction.1": vector(1, 2)})
    assert import_control_vector(path).name == "very-happy-v2"


def test_direction_beyond_the_models_blocks_is_refused(tmp_path: Path) -> None:
    path = write_as_repeng(tmp_path / "a.gguf", {"direction.4": vector(1, 2)})
    with pytest.raises(SidecarError, match="steered blocks are wrong; expected ascending numbers below 4"):
        import_control_vector(path, n_blocks=4)


@pytest.mark.parametrize("name", ["direction.0", "direction.-1", "direction.x", "direction.01", "blk.1.w"])
def test_tensor_that_is_no_direction_is_refused(tmp_path: Path, name: str) -> None:
    path = write_as_repeng(tmp_path / "a.gguf", {"direction.1": vector(1, 2), name: vector(1, 2)})
    with pytest.raises(SidecarError, match=rf"a\.gguf: {name}: not a direction"):
        import_control_vector(path)


def test_file_without_directions_is_refused(tmp_path: Path) -> None:
    path = write_as_repeng(tmp_path / "a.gguf", {})
    with pytest.raises(SidecarError, match=r"a\.gguf: holds no directions"):
        import_control_vector(path)


@pytest.mark.parametrize(
    ("second", "complaint"),
    [
        (vector(1, 2, 3), "wrong shape or type"),
        (np.ones((1, 2), np.float32), "wrong shape or type"),
        (np.ones(2, np.float16), "wrong shape or type"),
        (vector(1, np.nan), "not finite"),
    ],
    ids=["another width", "two dimensions", "half precision", "not a number"],
)
def test_direction_that_cannot_be_added_is_named(tmp_path: Path, second: Any, complaint: str) -> None:
    path = write_as_repeng(tmp_path / "a.gguf", {"direction.1": vector(1, 2), "direction.2": second})
    with pytest.raises(SidecarError, match=rf"direction\.2: tensor.*{complaint}"):
        import_control_vector(path)


def test_truncated_file_is_refused(tmp_path: Path) -> None:
    path = write_as_repeng(tmp_path / "a.gguf", {"direction.1": vector(1, 2)})
    path.write_bytes(path.read_bytes()[:-32])
    with pytest.raises(SidecarError, match="truncated or corrupt"):
        import_control_vector(path)


# Export


def test_open_loop_law_is_exported_by_hand(tmp_path: Path) -> None:
    # (rest + scale * span) * gain = 3.5 * (1, 2) and 6.25 * (3, 4)
    assert exported(tmp_path / "a.gguf", make_controller("add")) == {
        "direction.1": [3.5, 7.0],
        "direction.3": [18.75, 25.0],
    }


def test_feedback_law_is_exported_at_the_neutral_measurement(tmp_path: Path) -> None:
    # neutral alpha 0.5 at block 1 and 2.25 at block 3: (3.5 - 0.5) * (1, 2) and (6.25 - 2.25) * (3, 4)
    controller = make_controller("lqr", statistics=neutral(8, 0.5, 8, 2.25))
    assert exported(tmp_path / "a.gguf", controller) == {
        "direction.1": [3.0, 6.0],
        "direction.3": [12.0, 16.0],
    }


def test_law_on_block_inputs_does_not_use_the_statistics_of_outputs(tmp_path: Path) -> None:
    controller = make_controller("a-lqr", statistics=neutral(8, 0.5, 8, 2.25))
    assert exported(tmp_path / "a.gguf", controller)["direction.1"] == [3.5, 7.0]


def test_pid_is_exported_with_the_sums_over_the_blocks_by_hand(tmp_path: Path) -> None:
    # Kp = 1 and Ki = 2: the directions a = (3.5, 7) and b = (18.75, 25) of the open-loop law above make 3 a at block 1
    # and 2 a + 3 b at block 3
    controller = make_controller("pid", pid=Pid(1.0, 2.0, 0.0))
    assert exported(tmp_path / "a.gguf", controller) == {"direction.1": [10.5, 21.0], "direction.3": [63.25, 89.0]}


@pytest.mark.parametrize("law", ["ablate", "rotate", "scheduled"])
def test_law_without_a_constant_push_has_no_control_vector(tmp_path: Path, law: str) -> None:
    x, y = np.eye(2, dtype=np.float32)
    tensors = {"gain": np.stack([x, y]), "probe": np.stack([x, y]), "rest": vector(0, 0), "span": vector(0, 0)}
    controller = make_controller(law, **tensors, axis=np.stack([y, x]) if law == "rotate" else None)
    with pytest.raises(SidecarError, match=f"warm: has no control vector; expected .*; found {law}"):
        export_control_vector(tmp_path / "a.gguf", controller)


def test_block_0_is_left_out(tmp_path: Path) -> None:
    assert list(exported(tmp_path / "a.gguf", make_controller("add", blocks=(0, 2)))) == ["direction.2"]


def test_controller_of_block_0_alone_is_refused(tmp_path: Path) -> None:
    gain = np.ones((1, 2), np.float32)
    controller = make_controller("add", (0,), gain=gain, offset=vector(0), rest=vector(0), span=vector(1))
    with pytest.raises(SidecarError, match="warm: steers block 0 alone"):
        export_control_vector(tmp_path / "a.gguf", controller)
    assert list(tmp_path.iterdir()) == []


def test_imported_vector_is_exported_unchanged(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    directions = {f"direction.{n}": generator.normal(size=8).astype(np.float32) for n in (1, 2, 5)}
    controller = import_control_vector(write_as_repeng(tmp_path / "a.gguf", directions))
    export_control_vector(tmp_path / "b.gguf", controller)
    written = {tensor.name: tensor.data for tensor in GGUFReader(tmp_path / "b.gguf").tensors}
    assert list(written) == list(directions)
    assert all(np.array_equal(written[name], directions[name]) for name in directions)


def test_exported_file_has_the_metadata_of_a_control_vector(tmp_path: Path) -> None:
    export_control_vector(tmp_path / "a.gguf", make_controller("add"))
    reader = GGUFReader(tmp_path / "a.gguf")
    values = {key: field.contents() for key, field in reader.fields.items() if not key.startswith("GGUF.")}
    assert values == {
        "general.architecture": "controlvector",
        "controlvector.model_hint": "warm",
        "controlvector.layer_count": 2,
    }


def test_same_controller_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        export_control_vector(tmp_path / name, make_controller("add"))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_export_into_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(EdgeSteerError, match="its folder does not exist"):
        export_control_vector(tmp_path / "none" / "a.gguf", make_controller("add"))
