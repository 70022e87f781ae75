"""Python's side of hook.c: load the library, describe sites and plans to it, read its telemetry and errors.

Everything but `ggml_backend` works without llama_cpp, on whatever backend table it is given. This file knows
neither tokens nor sequences; a batch here is rows of the residual stream.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.resources
import math
import mmap
import sys
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesteer.controller import Array, Controller, Pid
from edgesteer.errors import EngineError, ModelError, SteeringError
from edgesteer.runtime.graph import BLOCK_OUTPUT, EMBEDDING_NAMES, boundary_name

REINSTALL = "Reinstall edgesteer with `pip install --force-reinstall edgesteer`."
UNUSABLE = "This model cannot be steered; use another one."
SURVEY_BYTES = 1 << 20
RING_EVENTS = 1 << 15
"""More than a graph has nodes."""
UNKNOWN_OFFSET = ctypes.c_size_t(-1).value

EvalCallback = ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.c_void_p, ctypes.c_bool, ctypes.c_void_p)
"""ggml_backend_sched_eval_callback; ctypes makes it the same type as llama_cpp's."""

NameFunction = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)
CountFunction = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p)
SizeFunction = ctypes.CFUNCTYPE(ctypes.c_size_t, ctypes.c_void_p)
TestFunction = ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.c_void_p)
DataFunction = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)
CopyFunction = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t)


class Backend(ctypes.Structure):
    """es_backend: the ggml functions that the hook calls, and where a tensor keeps its buffer pointer."""

    _fields_ = (
        ("name", NameFunction),
        ("element_count", CountFunction),
        ("byte_count", SizeFunction),
        ("is_contiguous", TestFunction),
        ("data", DataFunction),
        ("read", CopyFunction),
        ("write", CopyFunction),
        ("buffer_is_host", TestFunction),
        ("buffer_offset", ctypes.c_size_t),
    )


class CSite(ctypes.Structure):
    """es_site."""

    _fields_ = (
        ("controller", ctypes.c_int),
        ("read_boundary", ctypes.c_int),
        ("write_block", ctypes.c_int),
        ("offset", ctypes.c_float),
        ("rest", ctypes.c_float),
        ("span", ctypes.c_float),
        ("probe", ctypes.c_void_p),
        ("gain", ctypes.c_void_p),
        ("axis", ctypes.c_void_p),
        ("is_pid", ctypes.c_bool),
        ("proportional", ctypes.c_float),
        ("integral", ctypes.c_float),
        ("derivative", ctypes.c_float),
    )


class CConfig(ctypes.Structure):
    """es_config."""

    _fields_ = (
        ("backend", ctypes.POINTER(Backend)),
        ("sites", ctypes.POINTER(CSite)),
        ("block_output", ctypes.c_char_p),
        ("embedding_names", ctypes.POINTER(ctypes.c_char_p)),
        ("before", ctypes.c_void_p),
        ("after", ctypes.c_void_p),
        ("control", ctypes.c_void_p),
        ("width", ctypes.c_int),
        ("n_blocks", ctypes.c_int),
        ("n_sites", ctypes.c_int),
        ("n_controllers", ctypes.c_int),
        ("max_rows", ctypes.c_int),
        ("force_copy", ctypes.c_bool),
        ("timed", ctypes.c_bool),
    )


class CError(ctypes.Structure):
    """es_error."""

    _fields_ = (
        ("code", ctypes.c_int),
        ("boundary", ctypes.c_int),
        ("expected", ctypes.c_int64),
        ("found", ctypes.c_int64),
        ("node", ctypes.c_char * 64),
    )


COMMAND = np.dtype([("level", "f4"), ("effort", "f4"), ("action", "u1"), ("mode", "u1")], align=True)
"""es_command: what one batch row asks of one controller; see edgesteer.controller.Command."""

EVENT = np.dtype([("asked", "i8"), ("computed", "i8"), ("done", "i8"), ("node", "S64")], align=True)
"""es_event: a node that was computed; nanoseconds of now_ns before its stretch of nodes, after it, after the hook."""

STRUCT_BYTES = {
    "backend": ctypes.sizeof(Backend),
    "site": ctypes.sizeof(CSite),
    "command": COMMAND.itemsize,
    "config": ctypes.sizeof(CConfig),
    "error": ctypes.sizeof(CError),
    "event": EVENT.itemsize,
}


OFF, SENSE, MEASURE, STEER = range(4)
"""The `action` of a COMMAND: do nothing; measure with the sensor; measure at all sites; measure and write."""

MODES = ("hold", "floor", "ceiling")


def phi_code(mode: str) -> int:
    """The `mode` of a COMMAND, for the mode of an edgesteer.controller.Command."""
    return MODES.index(mode)


class ErrorCode(IntEnum):
    """The code of an es_error."""

    OK = 0
    LAYOUT = 1
    TYPE = 2
    WIDTH = 3
    ROWS = 4
    NOT_A_NUMBER = 5
    CAPTURE = 6


@dataclass(frozen=True)
class Site:
    """One measurement, and perhaps one actuation, of one controller at one block (es_site).

    Boundaries are numbered as in edgesteer.controller. A site with a gain writes the output of `write_block`.
    It reads boundary write_block + 1 before any control there, or boundary write_block after all control
    there. A site without a gain is a sensor: it reads its boundary before control.
    """

    controller: int
    read_boundary: int
    write_block: int = -1
    probe: Array | None = None
    """(width,), or None: the measurement is 0."""
    offset: float = 0.0
    gain: Array | None = None
    """(width,), or None for a sensor."""
    rest: float = 0.0
    span: float = 0.0
    axis: Array | None = None
    """(width,), or None: nothing is turned."""
    pid: Pid | None = None
    """A controller's sites with it must come in the order of their blocks."""


def sites_of(controllers: Sequence[Controller]) -> list[Site]:
    """Sites of some controllers: for each in turn its steered blocks, ascending, then its sensor, if any."""
    return [site for number, each in enumerate(controllers) for site in sites_of_one(number, each)]


def sites_of_one(number: int, controller: Controller) -> Iterator[Site]:
    for k, block in enumerate(controller.blocks):
        yield Site(
            controller=number,
            read_boundary=block if controller.reads_block_input else block + 1,
            write_block=block,
            probe=None if controller.probe is None else controller.probe[k],
            offset=float(controller.offset[k]),
            gain=controller.gain[k],
            rest=float(controller.rest[k]),
            span=float(controller.span[k]),
            axis=None if controller.axis is None else controller.axis[k],
            pid=controller.pid,
        )
    if controller.sensor is not None:
        sensor = controller.sensor
        yield Site(number, sensor.block + 1, probe=sensor.probe, offset=float(sensor.offset))


class Hook:
    """llama.cpp's eval callback, steering a residual stream.

    backend: the tensor functions, from `ggml_backend` or fakes.
    width, n_blocks: shape of the model's residual stream.
    sites, n_controllers: what can be measured and written; see `sites_of`.
    max_rows: the most rows that one decode has.
    force_copy: treat every buffer as if it were not on the host.
    timed: measure the hook's own time, for `time_ns`.
    library: from `load_library`; by default the one that edgesteer was built with.

    Raises SteeringError when a site does not fit the model. The callback and the user data are valid until
    `close`; free the llama.cpp context first. Not thread-safe: plan, decode and read from one thread.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        width: int,
        n_blocks: int,
        sites: Sequence[Site],
        n_controllers: int,
        max_rows: int,
        force_copy: bool = False,
        timed: bool = False,
        library: ctypes.CDLL | None = None,
    ) -> None:
        for number, site in enumerate(sites):
            check_site(number, site, width, n_blocks, n_controllers)
        self.width, self.n_blocks, self.max_rows = width, n_blocks, max_rows
        self.n_controllers = n_controllers
        self.n_rows = 0
        self._telemetry = untouched_pages((3, max_rows, len(sites)))
        self._captures: dict[int, Array] = {}
        vectors = [[vector_of(each) for each in (site.probe, site.gain, site.axis)] for site in sites]
        table = (CSite * len(sites))(*(c_site(s, each) for s, each in zip(sites, vectors, strict=True)))
        names = (ctypes.c_char_p * (len(EMBEDDING_NAMES) + 1))(*(name.encode() for name in EMBEDDING_NAMES))
        config = CConfig(
            ctypes.pointer(backend), table, BLOCK_OUTPUT.encode(), names,
            *(array.ctypes.data for array in self._telemetry),
            width, n_blocks, len(sites), n_controllers, max_rows, force_copy, timed,
        )  # fmt: skip
        self._kept_for_c = (backend, vectors, table, names, config)
        self._library = library or load_library()
        self._handle = self._library.es_create(ctypes.byref(config))
        if not self._handle:
            raise EngineError("no memory left for the hook", found=f"{len(sites)} sites, {max_rows} rows")
        self._current = ctypes.c_void_p(self._handle)
        self.close = weakref.finalize(self, self._library.es_destroy, self._handle)
        """Free the native side; the callback must not be called any more. Runs at most once."""

    def __enter__(self) -> Hook:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def callback(self) -> Any:
        """For llama_context_params.cb_eval: an EvalCallback."""
        return EvalCallback(("es_eval_current", self._library))

    @property
    def user_data(self) -> int:
        """For llama_context_params.cb_eval_user_data: the address of the variable that says which hook is called."""
        return ctypes.addressof(self._current)

    def take_over(self, previous: Hook) -> None:
        """Be called in another hook's place from the next decode on, and close that one."""
        self._current = previous._current
        self._current.value = self._handle
        previous.close()

    @property
    def before(self) -> Array:
        """(n_sites, n_rows) alpha before control, NaN where nothing measured. Valid until the next plan."""
        return self._telemetry[0, : self.n_rows].T

    @property
    def after(self) -> Array:
        """(n_sites, n_rows) alpha after all control at the boundary that is read; otherwise as `before`."""
        return self._telemetry[1, : self.n_rows].T

    @property
    def control(self) -> Array:
        """(n_sites, n_rows) control, 0 where a site only measured; otherwise as `before`."""
        return self._telemetry[2, : self.n_rows].T

    def plan(self, commands: NDArray[np.void], is_output: NDArray[np.bool_]) -> None:
        """Say what the next llama_decode does; forgets the telemetry, errors and visits of the last one.

        commands: (rows, n_controllers) of COMMAND. is_output: (rows,), true for the rows that ask for logits.
        The decode must run as one ubatch, with its rows in batch order.
        Raises EngineError when there are more than max_rows rows, ValueError when the arrays do not match.
        """
        rows = len(is_output)
        if commands.dtype != COMMAND or commands.shape != (rows, self.n_controllers):
            raise ValueError(f"commands must be COMMAND ({rows}, {self.n_controllers}), not {commands.shape}")
        commands = np.ascontiguousarray(commands)
        outputs = np.ascontiguousarray(is_output, np.uint8)
        if not self._library.es_plan(self._handle, rows, outputs.ctypes.data, commands.ctypes.data):
            raise EngineError("the batch is too large", expected=f"at most {self.max_rows} rows", found=rows)
        self.n_rows = rows

    def missing_boundary(self) -> int | None:
        """The first boundary that the plan needs and that the decode did not come by, if there is one."""
        boundary = int(self._library.es_missing(self._handle))
        return None if boundary < 0 else boundary

    def check(self) -> None:
        """Raise if the last decode did not go as planned, and steered wrongly or not at all.

        Raises ModelError when a boundary that the plan needs never came or is not F32 rows of the model's
        width, EngineError when the rows are not those of the plan or a measurement is not a number.
        """
        missing = self.missing_boundary()
        if missing is not None:
            raise ModelError(
                "llama.cpp computed no such node", where=boundary_name(missing),
                remedy=UNUSABLE,
            )  # fmt: skip
        error = self._library.es_last_error(self._handle).contents
        if error.code != ErrorCode.OK:
            raise error_of(error)

    def visited(self, boundary: int) -> int:
        """How often a boundary was visited since the plan."""
        return int(self._library.es_visited(self._handle, self._boundary(boundary)))

    @contextmanager
    def survey(self) -> Iterator[Callable[[], list[str]]]:
        """While open, ask for nothing; calling what it yields gives the names of all nodes seen, in order."""
        buffer = ctypes.create_string_buffer(SURVEY_BYTES)
        self._library.es_survey(self._handle, buffer, len(buffer) - 1)
        try:
            yield lambda: buffer.value.decode(errors="replace").splitlines()
        finally:
            self._library.es_survey(self._handle, None, 0)

    def capture(self, boundary: int, rows: int) -> Array:
        """Copy a boundary, after control, at every decode from now on into the (rows, width) array returned.

        In the last block these are the output rows only; `captured` says how many the last decode had. More
        rows than asked for are an error that `check` raises. 0 rows end the capture.
        """
        destination = np.full((rows, self.width), np.nan, np.float32)
        address = destination.ctypes.data if rows else None
        self._library.es_capture(self._handle, self._boundary(boundary), address, rows)
        self._captures[boundary] = destination
        return destination

    def captured(self, boundary: int) -> int:
        """How many rows of a boundary the last decode copied."""
        return int(self._library.es_captured(self._handle, self._boundary(boundary)))

    def time_ns(self) -> int:
        """Nanoseconds that a timed hook worked on rows since the plan.

        What llama.cpp spends on asking about nodes is not in it: some nanoseconds a node.
        """
        return int(self._library.es_time_ns(self._handle))

    def now_ns(self) -> int:
        """The clock of EVENT, which starts anywhere."""
        return int(self._library.es_now())

    @contextmanager
    def trace(self, labels: Sequence[str] | None, *, size: int = RING_EVENTS) -> Iterator[EventRing]:
        """While open, note when the nodes of these labels, with or without a block's number, were computed.

        None: every node. Each node that is noted costs llama.cpp a synchronization.
        """
        ring = np.zeros(size, EVENT)
        names = None if labels is None else (ctypes.c_char_p * (len(labels) + 1))(*(each.encode() for each in labels))
        self._library.es_trace(self._handle, ring.ctypes.data, size, names)
        try:
            yield EventRing(ring, lambda: int(self._library.es_traced(self._handle)) if self.close.alive else 0)
        finally:
            if self.close.alive:
                self._library.es_trace(self._handle, None, 0, None)

    def _boundary(self, boundary: int) -> int:
        if not 0 <= boundary <= self.n_blocks:
            raise ValueError(f"boundary must be 0 to {self.n_blocks}, not {boundary}")
        return boundary


class EventRing:
    """The events of a trace. ring: where the hook writes them. count: how many it has written so far."""

    def __init__(self, ring: NDArray[np.void], count: Callable[[], int]) -> None:
        self._ring = ring
        self._count = count
        self._taken = 0
        self.lost = 0
        """How many were overwritten before they were taken."""

    def take(self) -> NDArray[np.void]:
        """Return the events since the last call, in order: (events,) of EVENT."""
        stop = max(self._count(), self._taken)
        start = max(self._taken, stop - len(self._ring))
        self.lost += start - self._taken
        self._taken = stop
        return self._ring[np.arange(start, stop) % len(self._ring)]


def untouched_pages(shape: tuple[int, ...]) -> Array:
    """An array of zeros that takes memory only where it is written: the heap would hand out pages that are in use."""
    size = max(1, math.prod(shape))
    return np.frombuffer(mmap.mmap(-1, 4 * size), np.float32)[: math.prod(shape)].reshape(shape)


def vector_of(vector: Array | None) -> Array | None:
    return None if vector is None else np.ascontiguousarray(vector, np.float32)


def c_site(site: Site, vectors: Sequence[Array | None]) -> CSite:
    pid = site.pid or Pid(1.0, 0.0, 0.0)
    return CSite(
        site.controller, site.read_boundary, site.write_block, site.offset, site.rest, site.span,
        *(None if each is None else each.ctypes.data for each in vectors),
        site.pid is not None, pid.proportional, pid.integral, pid.derivative,
    )  # fmt: skip


def check_site(number: int, site: Site, width: int, n_blocks: int, n_controllers: int) -> None:
    """Raise SteeringError unless the C code can carry out this site without leaving its arrays."""

    def require(condition: bool, what: str, expected: object, found: object) -> None:
        if not condition:
            raise SteeringError(
                f"{what} does not fit the model", where=f"site {number}", expected=expected, found=found,
                remedy="Use a controller that was exported for this model.",
            )  # fmt: skip

    require(0 <= site.controller < n_controllers, "controller", f"0 to {n_controllers - 1}", site.controller)
    require(0 <= site.read_boundary <= n_blocks, "boundary read", f"0 to {n_blocks}", site.read_boundary)
    for name, vector in (("probe", site.probe), ("gain", site.gain), ("axis", site.axis)):
        if vector is not None:
            require(vector.shape == (width,), name, f"shape ({width},)", vector.shape)
    if site.gain is not None:
        block = site.write_block
        require(0 <= block < n_blocks, "block written", f"0 to {n_blocks - 1}", block)
        near = site.read_boundary in (block, block + 1)
        require(near, "boundary read", f"{block} or {block + 1}", site.read_boundary)


def error_of(error: CError) -> ModelError | EngineError:
    """The exception that says what an es_error means."""
    node, expected, found = error.node.decode(errors="replace"), error.expected, error.found
    unusable = functools.partial(ModelError, where=node, remedy=UNUSABLE)
    unplanned = functools.partial(EngineError, where=node)
    match error.code:
        case ErrorCode.LAYOUT:
            return unusable("the rows do not lie next to each other")
        case ErrorCode.TYPE:
            return unusable("the values are not F32", expected=f"{expected} bytes", found=found)
        case ErrorCode.WIDTH:
            return unusable("the values are not rows", expected=f"a multiple of {expected}", found=found)
        case ErrorCode.ROWS:
            return unplanned("the rows are not those of the plan", expected=f"{expected} rows", found=found,
                             remedy="Decode at most n_ubatch rows at a time.")  # fmt: skip
        case ErrorCode.CAPTURE:
            return unplanned("too many rows to capture", expected=f"at most {expected}", found=found)
        case _:
            return unplanned("a measurement is not a number", found=f"NaN in row {found}",
                             remedy="Lower the strength; if it is low, the model overflows.")  # fmt: skip


def library_name() -> str:
    return {"win32": "edgesteer_hook.dll", "darwin": "libedgesteer_hook.dylib"}.get(
        sys.platform, "libedgesteer_hook.so"
    )


@functools.cache
def load_library(path: Path | None = None) -> ctypes.CDLL:
    """Load the native hook: the one built with edgesteer, or the one at path.

    Raises EngineError when it is missing or was built from another version of hook.h.
    """
    try:
        library = ctypes.CDLL(str(path or importlib.resources.files("edgesteer.runtime") / library_name()))
    except OSError as problem:
        raise EngineError("cannot load the native hook", found=problem, remedy=REINSTALL) from problem
    declare(library)
    for name, expected in STRUCT_BYTES.items():
        found = getattr(library, f"es_sizeof_{name}")()
        if found != expected:
            raise EngineError(
                f"the native hook has another es_{name}", expected=f"{expected} bytes", found=found,
                remedy=REINSTALL,
            )  # fmt: skip
    return library


def declare(library: ctypes.CDLL) -> None:
    """Tell ctypes the functions of hook.h."""
    integer, pointer, size = ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t
    signatures: dict[str, tuple[Any, list[Any]]] = {
        "es_create": (pointer, [ctypes.POINTER(CConfig)]),
        "es_destroy": (None, [pointer]),
        "es_plan": (ctypes.c_bool, [pointer, integer, pointer, pointer]),
        "es_last_error": (ctypes.POINTER(CError), [pointer]),
        "es_visited": (integer, [pointer, integer]),
        "es_missing": (integer, [pointer]),
        "es_survey": (None, [pointer, ctypes.c_char_p, size]),
        "es_capture": (None, [pointer, integer, pointer, integer]),
        "es_captured": (integer, [pointer, integer]),
        "es_now": (ctypes.c_int64, []),
        "es_time_ns": (ctypes.c_int64, [pointer]),
        "es_trace": (None, [pointer, pointer, size, ctypes.POINTER(ctypes.c_char_p)]),
        "es_traced": (ctypes.c_int64, [pointer]),
        **{f"es_sizeof_{name}": (size, []) for name in STRUCT_BYTES},
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments


@functools.cache
def ggml_backend() -> Backend:
    """The backend table of the ggml that llama-cpp-python has loaded.

    Raises EngineError when it lacks a function.
    """
    ggml = load_ggml()
    try:
        return Backend(
            name=NameFunction(("ggml_get_name", ggml)),
            element_count=CountFunction(("ggml_nelements", ggml)),
            byte_count=SizeFunction(("ggml_nbytes", ggml)),
            is_contiguous=TestFunction(("ggml_is_contiguous", ggml)),
            data=DataFunction(("ggml_get_data", ggml)),
            read=CopyFunction(("ggml_backend_tensor_get", ggml)),
            write=CopyFunction(("ggml_backend_tensor_set", ggml)),
            buffer_is_host=TestFunction(("ggml_backend_buffer_is_host", ggml)),
            buffer_offset=find_buffer_offset(ggml),
        )
    except AttributeError as problem:
        raise EngineError("this llama-cpp-python lacks a function of ggml", found=problem,
                          remedy="Install another version of llama-cpp-python.") from problem  # fmt: skip


def load_ggml() -> ctypes.CDLL:
    from llama_cpp import _ctypes_extensions, _ggml

    library: ctypes.CDLL = _ggml.libggml
    if sys.platform == "win32":  # elsewhere a look-up in a library also searches those that it links
        library = _ctypes_extensions.load_shared_library("ggml-base", _ggml.libggml_base_path)
    return library


class GgmlInitParams(ctypes.Structure):
    """ggml_init_params."""

    _fields_ = (("mem_size", ctypes.c_size_t), ("mem_buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool))


def find_buffer_offset(ggml: ctypes.CDLL) -> int:
    """Where a ggml_tensor keeps its buffer pointer, found in a real one because no function of ggml says it.

    Returns UNKNOWN_OFFSET when it is not in the first 128 bytes; the hook then copies every row it works on.
    """
    address, integer = ctypes.c_void_p, ctypes.c_int
    init = ctypes.CFUNCTYPE(address, GgmlInitParams)(("ggml_init", ggml))
    free = ctypes.CFUNCTYPE(None, address)(("ggml_free", ggml))
    new_tensor = ctypes.CFUNCTYPE(address, address, integer, ctypes.c_int64)(("ggml_new_tensor_1d", ggml))
    cpu_buffer_type = ctypes.CFUNCTYPE(address)(("ggml_backend_cpu_buffer_type", ggml))
    allocate = ctypes.CFUNCTYPE(address, address, address)(("ggml_backend_alloc_ctx_tensors_from_buft", ggml))
    free_buffer = ctypes.CFUNCTYPE(None, address)(("ggml_backend_buffer_free", ggml))

    context = init(GgmlInitParams(mem_size=1 << 16, mem_buffer=None, no_alloc=True))
    tensor = new_tensor(context, 0, 16)  # type 0 is F32
    buffer = allocate(context, cpu_buffer_type())
    words = (ctypes.c_size_t * 16).from_address(tensor)
    offsets = [i * ctypes.sizeof(ctypes.c_size_t) for i, word in enumerate(words) if word == buffer]
    free_buffer(buffer)
    free(context)
    return offsets[0] if offsets else UNKNOWN_OFFSET
