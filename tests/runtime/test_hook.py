"""The native hook on a made-up network: the C code, driven as llama.cpp drives it, against tests/oracle.py.

Tensors, buffers and ggml's functions are fakes; no model is needed. EDGESTEER_HOOK_LIBRARY names another
build of the library to test (test_hook_sanitized.py uses it).
"""

from __future__ import annotations

import ctypes
import gc
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgesteer.controller import LAWS, Array, Command, Controller, Pid, Sensor
from edgesteer.errors import EngineError, ModelError, SteeringError
from edgesteer.runtime import hook as hook_module
from edgesteer.runtime.hook import (
    COMMAND,
    MEASURE,
    OFF,
    SENSE,
    STEER,
    UNKNOWN_OFFSET,
    Backend,
    Hook,
    Site,
    load_library,
    phi_code,
    sites_of,
)

WIDTH = 41  # more than two vectors of 16 and a rest
N_BLOCKS = 12
ROWS = 5
ACTIONS = {"off": OFF, "sense": SENSE, "measure": MEASURE, "steer": STEER}
ODD_NAMES = (
    "embd",
    "l_out",
    "l_out-",
    "l_outx1",
    "l_out-1 (view)",
    "l_out-:",
    f"l_out-{N_BLOCKS}",
    "result_norm",
)
NO_LIBRARY_GIVEN = "EDGESTEER_HOOK_LIBRARY" not in os.environ


# ---- fakes of ggml ----


class FakeBuffer(ctypes.Structure):
    _fields_ = (("is_host", ctypes.c_bool),)


class FakeTensor(ctypes.Structure):
    """`storage` is where the values are; `data` is what ggml_get_data says, no use on a device."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("buffer", ctypes.c_void_p),
        ("storage", ctypes.c_void_p),
        ("data", ctypes.c_void_p),
        ("element_count", ctypes.c_int64),
        ("byte_count", ctypes.c_size_t),
        ("is_contiguous", ctypes.c_bool),
        ("name", ctypes.c_char * 64),
    )


class FakeGgml:
    """The functions of a backend table over FakeTensors, counting the copies."""

    def __init__(self, buffer_offset: int = FakeTensor.buffer.offset) -> None:
        self.reads: list[tuple[int, int]] = []
        self.writes: list[tuple[int, int]] = []
        functions: dict[str, Callable[..., Any]] = {
            "name": lambda tensor: tensor + FakeTensor.name.offset,
            "element_count": lambda tensor: FakeTensor.from_address(tensor).element_count,
            "byte_count": lambda tensor: FakeTensor.from_address(tensor).byte_count,
            "is_contiguous": lambda tensor: FakeTensor.from_address(tensor).is_contiguous,
            "data": lambda tensor: FakeTensor.from_address(tensor).data,
            "read": self.read,
            "write": self.write,
            "buffer_is_host": lambda buffer: FakeBuffer.from_address(buffer).is_host,
        }
        types = dict(Backend._fields_[:-1])
        self.backend = Backend(
            **{name: types[name](function) for name, function in functions.items()},
            buffer_offset=buffer_offset,
        )

    def read(self, tensor: int, to: int, offset: int, size: int) -> None:
        self.reads.append((offset, size))
        ctypes.memmove(to, FakeTensor.from_address(tensor).storage + offset, size)

    def write(self, tensor: int, values: int, offset: int, size: int) -> None:
        self.writes.append((offset, size))
        ctypes.memmove(FakeTensor.from_address(tensor).storage + offset, values, size)


class FakeModel:
    """A network of blocks x -> x + x W, shown to a hook node by node under llama.cpp's names."""

    def __init__(self, n_blocks: int = N_BLOCKS, *, is_host: bool = True) -> None:
        random = np.random.default_rng(7)
        self.weights = [
            (random.normal(size=(WIDTH, WIDTH)) / (4 * np.sqrt(WIDTH))).astype(np.float32)
            for _ in range(n_blocks)
        ]
        self.buffer = FakeBuffer(is_host)
        self.asked: list[str] = []
        """Names of the nodes that the hook wanted."""
        self.defects: dict[str, dict[str, object]] = {}
        """Fields of the FakeTensor to falsify, by node."""
        self.renamed: dict[str, str] = {}

    def blocks(self) -> list[Callable[[NDArray[np.float64]], NDArray[np.float64]]]:
        return [lambda x, w=w: x + x @ w.astype(np.float64) for w in self.weights]  # type: ignore[misc]

    def decode(self, hook: Hook, embedding: Array, is_output: Sequence[bool] | None = None) -> list[Array]:
        """Return the boundaries as they are after control: n_blocks + 1 of (rows, WIDTH)."""
        self.asked = []
        last = len(self.weights) - 1
        x = self.show(hook, "embd", embedding * np.float32(0.5))
        x = self.show(hook, "inp_scaled", x * np.float32(2))
        boundaries = [x]
        for b, weights in enumerate(self.weights):
            self.show(hook, f"ffn_out-{b}", np.zeros_like(x))
            rows = np.array(is_output, dtype=bool) if b == last and is_output is not None else slice(None)
            x = self.show(hook, f"l_out-{b}", (x + x @ weights)[rows])
            boundaries.append(x)
        for odd_name in ODD_NAMES:
            self.show(hook, odd_name, np.zeros((1, WIDTH), np.float32))
        return boundaries

    def show(self, hook: Hook, name: str, values: Array) -> Array:
        """Ask the hook about a node and, if it wants it, let it work on it; return the values afterwards."""
        values = np.array(values, dtype=np.float32, order="C")
        elsewhere = np.full_like(values, np.nan)
        tensor = FakeTensor(
            buffer=ctypes.addressof(self.buffer),
            storage=values.ctypes.data,
            data=values.ctypes.data if self.buffer.is_host else elsewhere.ctypes.data,
            element_count=values.size,
            byte_count=values.nbytes,
            is_contiguous=True,
            name=self.renamed.get(name, name).encode(),
        )
        for field, value in self.defects.get(name, {}).items():
            setattr(tensor, field, value)
        address = ctypes.addressof(tensor)
        if hook.callback(address, True, hook.user_data):
            self.asked.append(name)
            assert hook.callback(address, False, hook.user_data)
        assert np.isnan(elsewhere).all()
        return values


# ---- controllers and runs ----


def controller(
    law: str = "lqr", *, seed: int = 0, blocks: Sequence[int] = (0, 3, 10, 11), sensor_block: int | None = 10
) -> Controller:
    random = np.random.default_rng(seed)

    def normal(*shape: int, spread: float = 1.0) -> Array:
        return (spread * random.normal(size=shape)).astype(np.float32)

    m = len(blocks)
    tensors = {
        "probe": None if law == "add" else normal(m, WIDTH, spread=1 / 8), "offset": normal(m),
        "gain": normal(m, WIDTH, spread=1 / 4), "rest": normal(m), "span": normal(m),
    }  # fmt: skip
    if law in ("ablate", "rotate"):
        gain, axis = np.moveaxis(np.linalg.qr(normal(m, WIDTH, 2))[0], -1, 0)
        tensors |= {"probe": gain, "gain": gain, "offset": np.zeros(m, "f4")}
        tensors |= {"axis": axis} if law == "rotate" else dict.fromkeys(("rest", "span"), np.zeros(m, "f4"))
    return Controller(
        name=f"{law}-{seed}", positive="up", negative="down",
        law=law, n_blocks=N_BLOCKS, blocks=tuple(blocks), pid=Pid(0.8, 0.2, 0.3) if law == "pid" else None, **tensors,
        sensor=None if sensor_block is None else Sensor(
            block=sensor_block, probe=normal(WIDTH, spread=1 / 8), offset=0.3, target=1.0, memory_tokens=8.0,
            push=normal(m), prompt_mean=0.0, position_mean=normal(4),
        ),
    )  # fmt: skip


def embedding_of(rows: int = ROWS) -> Array:
    return np.random.default_rng(3).normal(size=(rows, WIDTH)).astype(np.float32)


def command_array(demands: Sequence[Sequence[Any]]) -> NDArray[np.void]:
    rows = [
        [(d.command.level, d.command.effort, ACTIONS[d.action], phi_code(d.command.mode)) for d in r]
        for r in demands
    ]
    return np.array(rows, dtype=COMMAND)


@pytest.fixture(scope="session")
def library() -> ctypes.CDLL:
    return load_library(None if NO_LIBRARY_GIVEN else Path(os.environ["EDGESTEER_HOOK_LIBRARY"]))


class Setup:
    """One hook on one FakeModel, and how to run a batch through them."""

    def __init__(
        self,
        library: ctypes.CDLL,
        controllers: Sequence[Controller],
        *,
        is_host: bool = True,
        buffer_offset: int = FakeTensor.buffer.offset,
        max_rows: int = ROWS + 2,
        **options: Any,
    ) -> None:
        self.ggml = FakeGgml(buffer_offset)
        self.model = FakeModel(is_host=is_host)
        self.controllers = controllers
        self.hook = Hook(
            self.ggml.backend, width=WIDTH, n_blocks=N_BLOCKS, sites=sites_of(controllers),
            n_controllers=len(controllers), max_rows=max_rows, library=library, **options,
        )  # fmt: skip

    def run(self, demands: Sequence[Sequence[Any]], is_output: Sequence[bool] | None = None) -> list[Array]:
        outputs = np.ones(len(demands), bool) if is_output is None else np.array(is_output, dtype=bool)
        self.hook.plan(command_array(demands), outputs)
        return self.model.decode(self.hook, embedding_of(len(demands)), is_output)

    def unhooked(self, is_output: Sequence[bool] | None = None, rows: int = ROWS) -> list[Array]:
        """The same run with nothing steered."""
        self.hook.plan(np.zeros((rows, len(self.controllers)), COMMAND), np.ones(rows, bool))
        return self.model.decode(self.hook, embedding_of(rows), is_output)


MakeSetup = Callable[..., Setup]


@pytest.fixture
def make(library: ctypes.CDLL) -> MakeSetup:
    return lambda *arguments, **options: Setup(library, *arguments, **options)


def assert_same(
    setup: Setup, boundaries: Sequence[Array], trace: Any, is_output: Sequence[bool] | None = None
) -> None:
    """The run did what the oracle did: the residual stream and all telemetry."""
    setup.hook.check()
    close: dict[str, Any] = dict(rtol=1e-4, atol=2e-5)
    computed = slice(None) if is_output is None else np.array(is_output, dtype=bool)
    for ours, theirs in zip(boundaries[:-1], trace.boundaries[:-1], strict=True):
        np.testing.assert_allclose(ours, theirs, **close)
    np.testing.assert_allclose(boundaries[-1], trace.boundaries[-1][computed], **close)
    for name in ("before", "after", "control"):
        np.testing.assert_allclose(getattr(setup.hook, name), getattr(trace, name), err_msg=name, **close)


def assert_equal_bits(ours: Sequence[Array], theirs: Sequence[Array]) -> None:
    assert all(np.array_equal(a, b, equal_nan=True) for a, b in zip(ours, theirs, strict=True))


# ---- the law ----


@pytest.mark.parametrize("force_copy", [False, True], ids=["in place", "copied"])
@pytest.mark.parametrize("mode", ["hold", "floor", "ceiling"])
@pytest.mark.parametrize("law", LAWS)
def test_every_law_in_every_mode_is_the_oracle_s(
    make: MakeSetup, oracle: ModuleType, law: str, mode: str, force_copy: bool
) -> None:
    setup = make([controller(law)], force_copy=force_copy)
    demands = [[oracle.Demand("steer", Command(level, 0.7, mode))] for level in (-1.5, -0.5, 0.0, 0.5, 1.5)]
    trace = oracle.run(setup.controllers, demands, embedding_of(), setup.model.blocks())
    assert np.nanmax(np.abs(trace.control)) > 0.1
    assert_same(setup, setup.run(demands), trace)


def test_one_row_by_hand(library: ctypes.CDLL) -> None:
    # x = (1, 2): alpha = 3*1 + 1*2 - 1 = 4, error = 0.5 + 2*3 - 4 = 2.5, control = 0.5*2.5 = 1.25,
    # x += 1.25 * (0, 2)
    site = Site(
        0,
        1,
        0,
        probe=np.array([3, 1], np.float32),
        offset=1.0,
        gain=np.array([0, 2], np.float32),
        rest=0.5,
        span=3.0,
    )
    hook = Hook(
        FakeGgml().backend, width=2, n_blocks=1, sites=[site], n_controllers=1, max_rows=1, library=library
    )
    hook.plan(np.array([[(2.0, 0.5, STEER, phi_code("hold"))]], COMMAND), np.array([True]))
    assert FakeModel().show(hook, "l_out-0", np.array([[1, 2]], np.float32)).tolist() == [[1.0, 4.5]]
    assert [alpha.item() for alpha in (hook.before, hook.control, hook.after)] == [4.0, 1.25, 6.5]


@pytest.mark.parametrize("action", ["off", "sense", "measure", "steer"])
@pytest.mark.parametrize("law", LAWS)
def test_every_action_is_the_oracle_s(make: MakeSetup, oracle: ModuleType, law: str, action: str) -> None:
    setup = make([controller(law)])
    demands = [[oracle.Demand(action, Command(1.0, 1.0, "hold"))]] * ROWS
    trace = oracle.run(setup.controllers, demands, embedding_of(), setup.model.blocks())
    assert_same(setup, setup.run(demands), trace)


@pytest.mark.parametrize("force_copy", [False, True], ids=["in place", "copied"])
def test_controllers_of_all_laws_at_once_are_the_oracle_s(
    make: MakeSetup, oracle: ModuleType, force_copy: bool
) -> None:
    laws = ["lqr", "a-lqr", "add", "pid", "rotate", "ablate", "pid", "rotate", "lqr", "a-lqr"]
    sensors = [10, None, 3, 11, 0, 10, None, 3, 11, 0]
    setup = make(
        [
            controller(law, seed=i, sensor_block=s)
            for i, (law, s) in enumerate(zip(laws, sensors, strict=True))
        ],
        force_copy=force_copy,
    )
    random = np.random.default_rng(5)
    modes = ["hold", "floor", "ceiling"]

    def any_demand() -> Any:
        command = Command(random.normal(), random.random(), str(random.choice(modes)))
        return oracle.Demand(str(random.choice(list(ACTIONS))), command)

    demands = [[any_demand() for _ in laws] for _ in range(ROWS)]
    trace = oracle.run(setup.controllers, demands, embedding_of(), setup.model.blocks())
    assert_same(setup, setup.run(demands), trace)


def test_the_order_of_controllers_does_not_matter(make: MakeSetup, oracle: ModuleType) -> None:
    controllers = [controller("lqr", seed=1), controller("lqr", seed=2), controller("add", seed=3)]
    demand = [oracle.Demand("steer", Command(level, 1.0, "hold")) for level in (1.0, -2.0, 0.5)]
    forwards = make(controllers).run([demand] * ROWS)
    backwards = make(controllers[::-1]).run([demand[::-1]] * ROWS)
    np.testing.assert_allclose(forwards, backwards, rtol=1e-4, atol=1e-5)


def test_only_the_rows_that_ask_are_steered(make: MakeSetup, oracle: ModuleType) -> None:
    setup = make([controller()])
    off, steer = [oracle.Demand("off")], [oracle.Demand("steer", Command(2.0, 1.0, "hold"))]
    steered = setup.run([off, steer, off, off, steer])
    unsteered = setup.unhooked()
    untouched = [0, 2, 3]
    assert_equal_bits([x[untouched] for x in steered], [x[untouched] for x in unsteered])
    assert all(np.all(steered[1][row] != unsteered[1][row]) for row in (1, 4))


@pytest.mark.parametrize("law", LAWS)
def test_commands_may_change_from_decode_to_decode(make: MakeSetup, oracle: ModuleType, law: str) -> None:
    setup = make([controller(law)])
    for level in (1.0, -2.0):
        demands = [[oracle.Demand("steer", Command(level, 1.0, "hold"))]] * 2
        trace = oracle.run(setup.controllers, demands, embedding_of(2), setup.model.blocks())
        assert_same(setup, setup.run(demands), trace)


# ---- laws that write more than control * gain ----


def one_site_row(library: ctypes.CDLL, command: tuple[float, float], x: Sequence[float], **site: Any) -> list[float]:
    """Return what one site at one block makes of one row."""
    vectors = {name: np.array(site.pop(name), np.float32) for name in ("probe", "gain", "axis") if name in site}
    hook = Hook(
        FakeGgml().backend, width=len(x), n_blocks=1, sites=[Site(0, 1, 0, **vectors, **site)], n_controllers=1,
        max_rows=1, library=library,
    )  # fmt: skip
    hook.plan(np.array([[(*command, STEER, phi_code("hold"))]], COMMAND), np.array([True]))
    shown: list[float] = FakeModel().show(hook, "l_out-0", np.array([x], np.float32))[0].tolist()
    return shown


@pytest.mark.parametrize(("strength", "left"), [(0.25, 3.0), (0.5, 2.0), (1.0, 0.0)])
def test_ablation_removes_a_share_of_the_projection(library: ctypes.CDLL, strength: float, left: float) -> None:
    v = (0.0, 1.0, 0.0)
    assert one_site_row(library, (9.0, strength), (5, 4, 3), probe=v, gain=v) == [5.0, left, 3.0]


@pytest.mark.parametrize(
    ("x", "level", "effort", "turned"),
    [
        ((0, 2, 7), 1.0, 1.0, (2**0.5, 2**0.5, 7)),  # up by 45 degrees
        ((0, -2, 7), 1.0, 1.0, (2**0.5, -(2**0.5), 7)),  # by the shorter way
        ((0, 2, 7), -1.0, 1.0, (-(2**0.5), 2**0.5, 7)),
        ((0, 2, 7), 2.0, 0.5, (2**0.5, 2**0.5, 7)),  # the effort scales the angle
        ((0, 2, 7), 3.0, 1.0, (2, 0, 7)),  # not beyond the pole
        ((0, 2, 7), -3.0, 1.0, (-2, 0, 7)),
        ((-3, 0, 7), 2.0, 1.0, (0, 3, 7)),  # from the other pole, on either side
        ((0, 0, 7), 1.0, 1.0, (0, 0, 7)),
    ],
)
def test_rotation_by_hand(
    library: ctypes.CDLL, x: tuple[float, ...], level: float, effort: float, turned: tuple[float, ...]
) -> None:
    first = (1.0, 0.0, 0.0)
    plane = dict(probe=first, gain=first, axis=(0.0, 1.0, 0.0), span=np.pi / 4)
    assert one_site_row(library, (level, effort), x, **plane) == pytest.approx(turned, abs=1e-6)


def test_rotation_of_a_row_without_a_part_in_the_plane_writes_nothing(make: MakeSetup, oracle: ModuleType) -> None:
    setup = make([controller("rotate", blocks=[4], sensor_block=None)], is_host=False)
    setup.model.weights = [np.zeros((WIDTH, WIDTH), np.float32)] * N_BLOCKS
    outputs = np.ones(1, bool)
    setup.hook.plan(command_array([[oracle.Demand("steer", Command(1.0, 1.0, "hold"))]]), outputs)
    setup.model.decode(setup.hook, np.zeros((1, WIDTH), np.float32))
    assert setup.ggml.writes == []


@pytest.mark.parametrize("level", [-40.0, -1.0, 0.3, 2.0, 40.0])
def test_rotation_keeps_every_length(make: MakeSetup, oracle: ModuleType, level: float) -> None:
    setup = make([controller("rotate", blocks=[3], sensor_block=None)])
    steered = setup.run([[oracle.Demand("steer", Command(level, 1.0, "hold"))]] * ROWS)[4]
    plain = setup.unhooked()[4]
    assert not np.array_equal(steered, plain)
    np.testing.assert_allclose(*(np.linalg.norm(x, axis=1) for x in (steered, plain)), rtol=1e-5)


def test_pid_by_hand(make: MakeSetup, oracle: ModuleType) -> None:
    """Blocks that do nothing, one gain g, no feedback: controls 2, 2, 2 make 2 g times these factors.

    Kp + Ki + Kd, then Kp + 2 Ki, then Kp + 3 Ki.
    """
    base = controller("pid", blocks=[1, 4, 6], sensor_block=None)
    gain = np.tile(base.gain[:1], (3, 1))
    ones = np.ones(3, np.float32)
    constant = replace(base, probe=0 * gain, offset=0 * ones, rest=0 * ones, span=ones, gain=gain)
    setup = make([constant])
    setup.model.weights = [np.zeros((WIDTH, WIDTH), np.float32)] * N_BLOCKS
    boundaries = setup.run([[oracle.Demand("steer", Command(2.0, 1.0, "hold"))]])
    factors = np.cumsum([0.8 + 0.2 + 0.3, 0.8 + 2 * 0.2, 0.8 + 3 * 0.2])
    for boundary, factor in zip((2, 5, 7), factors, strict=True):
        moved = boundaries[boundary][0] - embedding_of(1)[0]
        np.testing.assert_allclose(moved, 2 * factor * gain[0], rtol=1e-5, atol=1e-6)


def test_pid_forgets_the_token_before(make: MakeSetup, oracle: ModuleType) -> None:
    setup = make([controller("pid"), controller("pid", seed=1)])
    demands = [[oracle.Demand("steer", Command(level, 1.0, "hold"))] * 2 for level in (1.0, -2.0, 0.5)]
    first = setup.run(demands)
    setup.run(demands[::-1])
    assert_equal_bits(setup.run(demands), first)


# ---- what stays untouched ----


def test_off_asks_for_nothing_and_leaves_every_bit(make: MakeSetup, oracle: ModuleType) -> None:
    setup = make([controller(law) for law in LAWS])
    boundaries = setup.run([[oracle.Demand("off")] * len(LAWS)] * ROWS)
    x = embedding_of()
    for weights, boundary in zip(setup.model.weights, boundaries[1:], strict=True):
        x = x + x @ weights
        assert np.array_equal(x, boundary)
    assert setup.model.asked == []


@pytest.mark.parametrize("is_host", [True, False], ids=["host", "device"])
def test_zero_effort_leaves_every_bit_and_writes_nothing(
    make: MakeSetup, oracle: ModuleType, is_host: bool
) -> None:
    setup = make([controller(law, seed=i) for i, law in enumerate(LAWS)], is_host=is_host)
    steered = setup.run([[oracle.Demand("steer", Command(1.0, 0.0, "hold"))] * len(LAWS)] * ROWS)
    assert setup.ggml.writes == []
    assert_equal_bits(steered, setup.unhooked())


def test_a_one_sided_mode_leaves_rows_beyond_the_setpoint(make: MakeSetup, oracle: ModuleType) -> None:
    setup = make([controller(blocks=[4])], is_host=False)
    far_below = Command(-1e3 * float(np.sign(setup.controllers[0].span[0])), 1.0, "floor")
    steered = setup.run([[oracle.Demand("steer", far_below)]] * ROWS)
    assert setup.ggml.writes == []
    assert_equal_bits(steered, setup.unhooked())


def test_untouched_rows_have_nan_telemetry(make: MakeSetup, oracle: ModuleType) -> None:
    setup = make([controller()])
    steer, off = oracle.Demand("steer", Command(1.0, 1.0, "hold")), oracle.Demand("off")
    setup.run([[steer]] * 3)
    setup.run([[off], [steer], [off]])
    for telemetry in (setup.hook.before, setup.hook.after, setup.hook.control):
        assert telemetry.shape == (5, 3)
        assert np.isnan(telemetry[:, [0, 2]]).all()
        assert np.isfinite(telemetry[:, 1]).all()


def test_sensing_asks_for_the_sensor_s_block_only(make: MakeSetup, oracle: ModuleType) -> None:
    setup = make([controller(sensor_block=7)])
    setup.run([[oracle.Demand("sense")]] * ROWS)
    assert setup.model.asked == ["l_out-7"]


def test_steering_asks_for_the_steered_and_sensed_blocks_only(make: MakeSetup, oracle: ModuleType) -> None:
    setup = make([controller(blocks=[1, 10], sensor_block=11)])
    setup.run([[oracle.Demand("off")], [oracle.Demand("steer", Command(1.0, 1.0, "hold"))]])
    assert setup.model.asked == ["l_out-1", "l_out-10", "l_out-11"]
    assert [b for b in range(N_BLOCKS + 1) if setup.hook.visited(b)] == [2, 11, 12]


def test_reading_the_input_of_block_0_asks_for_the_embedding(make: MakeSetup, oracle: ModuleType) -> None:
    setup = make([controller("a-lqr", blocks=[0], sensor_block=None)])
    setup.run([[oracle.Demand("steer", Command(1.0, 1.0, "hold"))]])
    assert setup.model.asked == ["embd", "inp_scaled", "l_out-0"]
    assert setup.hook.visited(0) == 2


# ---- buffers ----


@pytest.mark.parametrize(
    "options",
    [dict(is_host=False), dict(force_copy=True), dict(buffer_offset=UNKNOWN_OFFSET)],
    ids=["device", "forced", "buffer not found"],
)
def test_copied_rows_give_the_same_bits_as_rows_in_place(
    make: MakeSetup, oracle: ModuleType, options: dict[str, Any]
) -> None:
    controllers = [controller(law, seed=i) for i, law in enumerate(LAWS)]
    demands = [[oracle.Demand("steer", Command(level, 0.9, "floor"))] * len(LAWS) for level in (-1.0, 0.0, 1.0)]
    in_place, copied = make(controllers), make(controllers, **options)
    assert_equal_bits(in_place.run(demands), copied.run(demands))
    for name in ("before", "after", "control"):
        assert np.array_equal(getattr(in_place.hook, name), getattr(copied.hook, name), equal_nan=True)
    assert in_place.ggml.reads == in_place.ggml.writes == []
    assert copied.ggml.reads
    assert copied.ggml.writes


def test_only_active_rows_are_copied(make: MakeSetup, oracle: ModuleType) -> None:
    setup = make([controller(blocks=[4], sensor_block=None)], is_host=False)
    off = oracle.Demand("off")
    setup.run([[off], [oracle.Demand("measure")], [off], [oracle.Demand("steer", Command(9.0, 1.0, "hold"))]])
    row = WIDTH * 4
    assert setup.ggml.reads == [(row, row), (3 * row, row)]
    assert setup.ggml.writes == [(3 * row, row)]


# ---- the last block ----


@pytest.mark.parametrize("is_host", [True, False], ids=["host", "device"])
@pytest.mark.parametrize("law", ["lqr", "a-lqr", "pid", "rotate"])
@pytest.mark.parametrize(
    "is_output",
    [[0, 0, 0, 0, 1], [1, 0, 1, 1, 0], [1, 1, 1, 1, 1], [0, 0, 0, 0, 0]],
    ids=["last", "some", "all", "none"],
)
def test_the_last_block_s_rows_are_those_that_asked_for_logits(
    make: MakeSetup, oracle: ModuleType, is_output: list[bool], law: str, is_host: bool
) -> None:
    setup = make([controller(law, blocks=[2, 11], sensor_block=11)], is_host=is_host)
    demands = [[oracle.Demand("steer", Command(level, 1.0, "hold"))] for level in (-2.0, -1.0, 0.0, 1.0, 2.0)]
    trace = oracle.run(setup.controllers, demands, embedding_of(), setup.model.blocks(), is_output)
    assert_same(setup, setup.run(demands, is_output), trace, is_output)


def test_a_last_block_that_keeps_every_row_maps_one_to_one(make: MakeSetup, oracle: ModuleType) -> None:
    setup = make([controller(blocks=[11], sensor_block=None)])
    demands = [[oracle.Demand("steer", Command(level, 1.0, "hold"))] for level in (-1.0, 0.0, 1.0)]
    trace = oracle.run(setup.controllers, demands, embedding_of(3), setup.model.blocks())
    setup.hook.plan(command_array(demands), np.array([False, False, True]))
    assert_same(setup, setup.model.decode(setup.hook, embedding_of(3)), trace)


# ---- what goes wrong ----


@pytest.mark.parametrize(
    ("block", "defect", "error", "message"),
    [
        (3, dict(is_contiguous=False), ModelError, "l_out-3: the rows do not lie next to each other"),
        (3, dict(byte_count=ROWS * WIDTH * 2), ModelError,
         "l_out-3: the values are not F32; expected 820 bytes; found 410"),
        (10, dict(element_count=203, byte_count=812), ModelError,
         "l_out-10: the values are not rows; expected a multiple of 41; found 203"),
        (3, dict(element_count=WIDTH, byte_count=WIDTH * 4), EngineError,
         "l_out-3: the rows are not those of the plan; expected 5 rows; found 1"),
        (11, dict(element_count=3 * WIDTH, byte_count=3 * WIDTH * 4), EngineError,
         "l_out-11: .* expected 5 rows; found 3"),
    ],
    ids=["layout", "type", "width", "rows", "rows of the last block"],
)  # fmt: skip
@pytest.mark.parametrize("is_host", [True, False], ids=["host", "device"])
def test_a_tensor_that_is_not_the_residual_stream_is_reported_and_not_written(
    make: MakeSetup,
    oracle: ModuleType,
    block: int,
    defect: dict[str, object],
    error: type,
    message: str,
    is_host: bool,
) -> None:
    setup = make([controller(blocks=[block], sensor_block=None)], is_host=is_host)
    setup.model.defects[f"l_out-{block}"] = defect
    boundaries = setup.run([[oracle.Demand("steer", Command(5.0, 1.0, "hold"))]] * ROWS)
    assert setup.ggml.writes == []
    with pytest.raises(error, match=message):
        setup.hook.check()
    setup.model.defects.clear()
    assert_equal_bits(boundaries, setup.unhooked())


def test_after_an_error_nothing_more_is_written_until_the_next_plan(
    make: MakeSetup, oracle: ModuleType
) -> None:
    setup = make([controller(blocks=[3, 5], sensor_block=None)])
    demands = [[oracle.Demand("steer", Command(5.0, 1.0, "hold"))]] * ROWS
    setup.model.defects["l_out-3"] = dict(is_contiguous=False)
    assert_equal_bits(setup.run(demands), setup.unhooked())
    setup.model.defects.clear()
    setup.run(demands)
    setup.hook.check()
    assert np.isfinite(setup.hook.control).all()


def test_output_rows_are_not_looked_for_before_the_last_block(make: MakeSetup, oracle: ModuleType) -> None:
    setup = make([controller(blocks=[3], sensor_block=None)])
    setup.model.defects["l_out-3"] = dict(element_count=2 * WIDTH, byte_count=2 * WIDTH * 4)
    setup.run([[oracle.Demand("measure")]] * ROWS, [True, True, False, False, False])
    with pytest.raises(EngineError, match="expected 5 rows; found 2"):
        setup.hook.check()


def test_a_block_that_never_came_is_reported(make: MakeSetup, oracle: ModuleType) -> None:
    setup = make([controller(blocks=[3, 10], sensor_block=None)])
    setup.model.renamed["l_out-10"] = "block_10_out"
    setup.run([[oracle.Demand("steer", Command(1.0, 1.0, "hold"))]])
    assert setup.hook.missing_boundary() == 11
    with pytest.raises(ModelError, match=r"l_out-10: llama\.cpp computed no such node"):
        setup.hook.check()


def test_a_block_that_came_before_but_not_in_this_decode_is_reported(
    make: MakeSetup, oracle: ModuleType
) -> None:
    setup = make([controller(blocks=[3], sensor_block=None)])
    setup.run([[oracle.Demand("measure")]])
    setup.model.renamed["l_out-3"] = "block_3_out"
    setup.run([[oracle.Demand("measure")]])
    assert setup.hook.missing_boundary() == 4


def test_a_missing_embedding_is_reported_and_its_reader_writes_nothing(
    make: MakeSetup, oracle: ModuleType
) -> None:
    setup = make([controller("a-lqr", blocks=[0], sensor_block=None)])
    setup.model.renamed.update(embd="thing", inp_scaled="thing")
    steered = setup.run([[oracle.Demand("steer", Command(1.0, 1.0, "hold"))]] * ROWS)
    with pytest.raises(ModelError, match=r"embedding: llama\.cpp computed no such node"):
        setup.hook.check()
    assert_equal_bits(steered, setup.unhooked())


def test_a_nan_in_the_residual_stream_is_reported(make: MakeSetup, oracle: ModuleType) -> None:
    setup = make([controller(blocks=[3], sensor_block=None)])
    setup.model.weights[2] = setup.model.weights[2] * np.float32(np.nan)
    steer = oracle.Demand("steer", Command(1.0, 1.0, "floor"))
    setup.run([[oracle.Demand("off")], [steer], [steer]])
    with pytest.raises(EngineError, match="l_out-3: a measurement is not a number; found NaN in row 1"):
        setup.hook.check()


def test_a_run_that_went_well_passes_the_check(make: MakeSetup, oracle: ModuleType) -> None:
    setup = make([controller()])
    setup.run([[oracle.Demand("steer", Command(1.0, 1.0, "hold"))]])
    assert setup.hook.missing_boundary() is None
    setup.hook.check()


def test_a_batch_with_too_many_rows_is_refused(make: MakeSetup) -> None:
    setup = make([controller()], max_rows=3)
    with pytest.raises(EngineError, match="at most 3 rows; found 4"):
        setup.hook.plan(np.zeros((4, 1), COMMAND), np.ones(4, bool))


@pytest.mark.parametrize("shape", [(2,), (2, 2), (3, 1)])
def test_commands_that_do_not_match_the_rows_are_refused(make: MakeSetup, shape: tuple[int, ...]) -> None:
    setup = make([controller()])
    with pytest.raises(ValueError, match=r"COMMAND \(2, 1\)"):
        setup.hook.plan(np.zeros(shape, COMMAND), np.ones(2, bool))


VECTOR = np.ones(WIDTH, np.float32)


@pytest.mark.parametrize(
    ("site", "message"),
    [
        (Site(1, 1), "controller does not fit the model; expected 0 to 0; found 1"),
        (Site(0, 13), "boundary read .* expected 0 to 12; found 13"),
        (Site(0, 1, probe=VECTOR[1:]), r"probe .* expected shape \(41,\); found \(40,\)"),
        (Site(0, 1, 0, gain=VECTOR[1:]), r"gain .* expected shape \(41,\); found \(40,\)"),
        (Site(0, 12, 12, gain=VECTOR), "block written .* expected 0 to 11; found 12"),
        (Site(0, 5, 2, gain=VECTOR), "boundary read .* expected 2 or 3; found 5"),
    ],
    ids=["controller", "boundary", "probe", "gain", "block", "distance"],
)
def test_a_site_that_does_not_fit_the_model_is_refused(
    library: ctypes.CDLL, site: Site, message: str
) -> None:
    with pytest.raises(SteeringError, match=message):
        Hook(FakeGgml().backend, width=WIDTH, n_blocks=N_BLOCKS, sites=[site], n_controllers=1, max_rows=1,
             library=library)  # fmt: skip


# ---- survey and capture ----


def test_a_survey_names_every_node_and_asks_for_none(make: MakeSetup, oracle: ModuleType) -> None:
    setup = make([controller()])
    setup.hook.plan(command_array([[oracle.Demand("steer")]]), np.array([True]))
    with setup.hook.survey() as names:
        setup.model.decode(setup.hook, embedding_of(1))
    assert names()[:4] == ["embd", "inp_scaled", "ffn_out-0", "l_out-0"]
    assert names()[-1] == "result_norm"
    assert setup.model.asked == []


def test_a_full_survey_keeps_whole_names(make: MakeSetup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hook_module, "SURVEY_BYTES", len("embd\ninp_scaled\nffn_out-0\n"))
    setup = make([controller()])
    with setup.hook.survey() as names:
        setup.unhooked()
    assert names() == ["embd", "inp_scaled"]


def test_steering_works_again_after_a_survey(make: MakeSetup, oracle: ModuleType) -> None:
    setup = make([controller(blocks=[2], sensor_block=None)])
    with setup.hook.survey():
        setup.unhooked()
    setup.run([[oracle.Demand("steer", Command(1.0, 1.0, "hold"))]])
    assert setup.model.asked == ["l_out-2"]


@pytest.mark.parametrize("is_host", [True, False], ids=["host", "device"])
@pytest.mark.parametrize("boundary", [0, 1, 4, 7])
def test_a_capture_is_the_boundary_after_control(
    make: MakeSetup, oracle: ModuleType, boundary: int, is_host: bool
) -> None:
    setup = make([controller(blocks=[3], sensor_block=None)], is_host=is_host)
    captured = setup.hook.capture(boundary, ROWS)
    boundaries = setup.run([[oracle.Demand("steer", Command(2.0, 1.0, "hold"))]] * ROWS)
    assert setup.hook.captured(boundary) == ROWS
    assert np.array_equal(captured, boundaries[boundary])


def test_a_new_plan_forgets_what_was_captured(make: MakeSetup) -> None:
    setup = make([])
    setup.hook.capture(4, ROWS)
    setup.unhooked()
    setup.hook.plan(np.zeros((1, 0), COMMAND), np.ones(1, bool))
    assert setup.hook.captured(4) == 0


def test_several_boundaries_are_captured_at_once_with_nothing_steered(make: MakeSetup) -> None:
    setup = make([])
    captured = [setup.hook.capture(boundary, ROWS) for boundary in (2, 12)]
    boundaries = setup.unhooked()
    assert_equal_bits(captured, [boundaries[2], boundaries[12]])


def test_a_capture_of_the_last_block_has_the_output_rows(make: MakeSetup, oracle: ModuleType) -> None:
    setup = make([controller()])
    captured = setup.hook.capture(N_BLOCKS, ROWS)
    boundaries = setup.run([[oracle.Demand("off")]] * ROWS, [True, False, True, False, False])
    assert setup.hook.captured(N_BLOCKS) == 2
    assert np.array_equal(captured[:2], boundaries[-1])
    assert np.isnan(captured[2:]).all()


def test_a_capture_that_is_too_small_is_reported(make: MakeSetup) -> None:
    setup = make([])
    captured = setup.hook.capture(4, ROWS - 1)
    setup.unhooked()
    assert np.isnan(captured).all()
    with pytest.raises(EngineError, match="l_out-3: too many rows to capture; expected at most 4; found 5"):
        setup.hook.check()


def test_a_capture_of_no_rows_ends_it(make: MakeSetup) -> None:
    setup = make([])
    setup.hook.capture(4, ROWS)
    setup.hook.capture(4, 0)
    setup.unhooked()
    assert setup.model.asked == []


@pytest.mark.parametrize("boundary", [-1, N_BLOCKS + 1])
def test_a_boundary_outside_the_model_is_refused(make: MakeSetup, boundary: int) -> None:
    with pytest.raises(ValueError, match="boundary must be 0 to 12"):
        make([]).hook.capture(boundary, 1)


# ---- timing and tracing ----

COPY_NS = 2_000_000
LABELS = ("l_out", "inp_scaled")


@pytest.fixture
def slow_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading a row from a device takes COPY_NS at least."""
    read = FakeGgml.read

    def slow(self: FakeGgml, *arguments: int) -> None:
        time.sleep(COPY_NS / 1e9)
        read(self, *arguments)

    monkeypatch.setattr(FakeGgml, "read", slow)


def steered(setup: Setup, oracle: ModuleType, rows: int = 1) -> list[Array]:
    return setup.run([[oracle.Demand("steer", Command(1.0, 1.0, "hold"))]] * rows)


@pytest.mark.usefixtures("slow_copies")
def test_a_timed_hook_says_how_long_it_worked_since_the_plan(make: MakeSetup, oracle: ModuleType) -> None:
    setup = make([controller(blocks=[4], sensor_block=None)], is_host=False, timed=True)
    for rows in (3, 1):
        began = setup.hook.now_ns()
        steered(setup, oracle, rows)
        assert rows * COPY_NS <= setup.hook.time_ns() <= setup.hook.now_ns() - began


def test_a_plan_forgets_the_hook_s_time(make: MakeSetup, oracle: ModuleType) -> None:
    setup = make([controller()], timed=True)
    steered(setup, oracle)
    setup.hook.plan(np.zeros((1, 1), COMMAND), np.ones(1, bool))
    assert setup.hook.time_ns() == 0


def test_a_hook_that_is_not_timed_counts_nothing(make: MakeSetup, oracle: ModuleType) -> None:
    setup = make([controller()])
    steered(setup, oracle)
    assert setup.hook.time_ns() == 0


@pytest.mark.parametrize("labels", [LABELS, None], ids=["labels", "every node"])
def test_timing_and_tracing_change_no_bit(
    make: MakeSetup, oracle: ModuleType, labels: tuple[str, ...] | None
) -> None:
    plain, traced = make([controller()]), make([controller()], timed=True)
    with traced.hook.trace(labels):
        assert_equal_bits(steered(traced, oracle, ROWS), steered(plain, oracle, ROWS))
    assert np.array_equal(traced.hook.control, plain.hook.control, equal_nan=True)


def test_a_trace_notes_the_nodes_of_its_labels_in_order(make: MakeSetup, oracle: ModuleType) -> None:
    setup = make([controller(blocks=[4], sensor_block=None)])
    with setup.hook.trace(LABELS) as ring:
        steered(setup, oracle)
        nodes = ring.take()["node"].tolist()
    blocks = [f"l_out-{b}".encode() for b in range(N_BLOCKS)]
    assert nodes == [b"inp_scaled", *blocks, b"l_out", f"l_out-{N_BLOCKS}".encode()]


def test_a_trace_without_labels_notes_every_node(make: MakeSetup) -> None:
    setup = make([])
    with setup.hook.trace(None) as ring:
        setup.unhooked()
        nodes = ring.take()["node"].tolist()
    assert len(nodes) == 2 + 2 * N_BLOCKS + len(ODD_NAMES)
    assert nodes[:4] == [b"embd", b"inp_scaled", b"ffn_out-0", b"l_out-0"]


def test_the_times_of_a_trace_follow_one_another(make: MakeSetup, oracle: ModuleType) -> None:
    setup = make([controller()])
    began = setup.hook.now_ns()
    with setup.hook.trace(LABELS) as ring:
        for _ in range(2):
            steered(setup, oracle)
        events = ring.take()
    times = [began, *(t for e in events for t in (e["asked"], e["computed"], e["done"])), setup.hook.now_ns()]
    assert times == sorted(times)


@pytest.mark.usefixtures("slow_copies")
def test_an_event_tells_the_hook_s_work_apart(make: MakeSetup, oracle: ModuleType) -> None:
    setup = make([controller(blocks=[4], sensor_block=None)], is_host=False, timed=True)
    with setup.hook.trace(LABELS) as ring:
        steered(setup, oracle)
        events = {each["node"]: int(each["done"] - each["computed"]) for each in ring.take()}
    assert COPY_NS <= events.pop(b"l_out-4") <= setup.hook.time_ns()
    assert sum(events.values()) <= setup.hook.time_ns() - COPY_NS


def test_a_stretch_begins_at_the_first_node_asked_about(make: MakeSetup) -> None:
    setup = make([])
    with setup.hook.trace(LABELS) as ring:
        setup.model.show(setup.hook, "ffn_out-0", embedding_of(1))
        between = setup.hook.now_ns()
        setup.model.show(setup.hook, "l_out-0", embedding_of(1))
        assert ring.take()["asked"].item() <= between


def test_a_stretch_does_not_reach_over_a_plan(make: MakeSetup) -> None:
    setup = make([])
    with setup.hook.trace(LABELS) as ring:
        setup.model.show(setup.hook, "result_norm", embedding_of(1))
        between = setup.hook.now_ns()
        setup.hook.plan(np.zeros((1, 0), COMMAND), np.ones(1, bool))
        setup.model.show(setup.hook, "l_out-0", embedding_of(1))
        assert ring.take()["asked"].item() >= between


def test_events_are_taken_once(make: MakeSetup) -> None:
    setup = make([])
    with setup.hook.trace(["l_out-0"]) as ring:
        setup.unhooked()
        assert len(ring.take()) == 1
        assert len(ring.take()) == 0
        setup.unhooked()
        assert ring.take()["node"].tolist() == [b"l_out-0"]


def test_a_full_ring_keeps_the_newest_events_and_counts_the_lost(make: MakeSetup) -> None:
    setup = make([])
    with setup.hook.trace(LABELS, size=4) as ring:
        setup.unhooked()
        assert ring.take()["node"].tolist()[-2:] == [b"l_out", f"l_out-{N_BLOCKS}".encode()]
    assert ring.lost == 1 + N_BLOCKS + 2 - 4


def test_the_longest_name_that_ggml_knows_is_noted_whole(make: MakeSetup) -> None:
    setup = make([])
    setup.model.renamed["l_out-0"] = "x" * 63
    with setup.hook.trace(None) as ring:
        setup.model.show(setup.hook, "l_out-0", embedding_of(1))
        assert ring.take()["node"].tolist() == [b"x" * 63]


def test_only_the_hook_s_nodes_are_asked_for_after_a_trace(make: MakeSetup, oracle: ModuleType) -> None:
    setup = make([controller(blocks=[4], sensor_block=None)])
    with setup.hook.trace(LABELS) as ring:
        pass
    steered(setup, oracle)
    assert setup.model.asked == ["l_out-4"]
    assert len(ring.take()) == 0


def test_a_trace_may_outlive_its_hook(make: MakeSetup) -> None:
    setup = make([])
    with setup.hook.trace(LABELS) as ring:
        setup.hook.close()
        assert len(ring.take()) == 0


# ---- life, library and the real ggml ----


def test_arrays_given_to_the_hook_may_be_collected(make: MakeSetup, oracle: ModuleType) -> None:
    setup = make([controller()])
    demands = [[oracle.Demand("steer", Command(1.0, 1.0, "hold"))]] * ROWS
    expected = oracle.run([controller()], demands, embedding_of(), setup.model.blocks())
    setup.controllers = []
    gc.collect()
    np.full(1 << 16, 7, np.float32)
    assert_same(setup, setup.run(demands), expected)


def test_closing_twice_is_allowed(make: MakeSetup) -> None:
    with make([controller()]).hook as hook:
        hook.close()
    assert not hook.close.alive


def test_sites_are_the_blocks_of_each_controller_and_then_its_sensor() -> None:
    sites = sites_of(
        [controller("a-lqr", blocks=[2, 5], sensor_block=8), controller("add", sensor_block=None)]
    )
    places = [(site.controller, site.read_boundary, site.write_block) for site in sites]
    assert places == [(0, 2, 2), (0, 5, 5), (0, 9, -1), (1, 1, 0), (1, 4, 3), (1, 11, 10), (1, 12, 11)]
    assert [site.gain is None for site in sites] == [False, False, True, False, False, False, False]


def test_a_missing_library_is_reported(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="cannot load the native hook"):
        load_library(tmp_path / "nothing.so")


def test_a_library_with_other_structs_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(hook_module.STRUCT_BYTES, "site", 4)
    with pytest.raises(EngineError, match="another es_site; expected 4 bytes; found 64"):
        load_library.__wrapped__()


def test_the_callback_is_of_llama_cpp_s_type(make: MakeSetup) -> None:
    llama_cpp = pytest.importorskip("llama_cpp")
    parameters = llama_cpp.llama_context_default_params()
    parameters.cb_eval = make([]).hook.callback
    assert ctypes.cast(parameters.cb_eval, ctypes.c_void_p).value


def test_the_buffer_pointer_is_found_in_ggml_s_tensors() -> None:
    assert hook_module.ggml_backend().buffer_offset < 128


@pytest.mark.parametrize("force_copy", [False, True], ids=["in place", "copied"])
def test_a_real_ggml_tensor_is_steered(library: ctypes.CDLL, force_copy: bool) -> None:
    gain = np.arange(WIDTH, dtype=np.float32)
    hook = Hook(
        hook_module.ggml_backend(), width=WIDTH, n_blocks=1, sites=[Site(0, 1, 0, gain=gain, span=1.0)],
        n_controllers=1, max_rows=2, force_copy=force_copy, library=library,
    )  # fmt: skip
    hook.plan(np.array([[(0.5, 1.0, STEER, 0)], [(2.0, 1.0, STEER, 0)]], COMMAND), np.ones(2, bool))
    values = embedding_of(2)
    np.testing.assert_array_equal(
        steer_real_tensor(hook, values), values + np.array([[0.5], [2.0]], np.float32) * gain
    )
    hook.check()


def steer_real_tensor(hook: Hook, values: Array) -> Array:
    """Show the hook values in a real tensor l_out-0, in a CPU buffer; return what it holds afterwards."""
    ggml = hook_module.load_ggml()
    pointer = ctypes.c_void_p
    for name in (
        "ggml_init",
        "ggml_new_tensor_2d",
        "ggml_backend_cpu_buffer_type",
        "ggml_backend_alloc_ctx_tensors_from_buft",
    ):
        getattr(ggml, name).restype = pointer
    parameters = hook_module.GgmlInitParams(mem_size=1 << 16, mem_buffer=None, no_alloc=True)
    context = pointer(ggml.ggml_init(parameters))
    rows, width = (ctypes.c_int64(n) for n in values.shape)
    tensor = pointer(ggml.ggml_new_tensor_2d(context, 0, width, rows))
    ggml.ggml_set_name(tensor, b"l_out-0")
    buffer_type = pointer(ggml.ggml_backend_cpu_buffer_type())
    buffer = pointer(ggml.ggml_backend_alloc_ctx_tensors_from_buft(context, buffer_type))
    size, steered = ctypes.c_size_t(values.nbytes), np.empty_like(values)
    ggml.ggml_backend_tensor_set(tensor, pointer(values.ctypes.data), ctypes.c_size_t(0), size)
    assert hook.callback(tensor, True, hook.user_data)
    assert hook.callback(tensor, False, hook.user_data)
    ggml.ggml_backend_tensor_get(tensor, pointer(steered.ctypes.data), ctypes.c_size_t(0), size)
    ggml.ggml_backend_buffer_free(buffer)
    ggml.ggml_free(context)
    return steered
