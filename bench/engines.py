"""The engines that the benchmarks compare: none of them knows what is measured.

Beside edgesteer's own there are the same law as a Python callback, and llama.cpp's static control vector.
"""

from __future__ import annotations

import ctypes
from typing import Any

import llama_cpp
import numpy as np
from common import UNSTEERED
from numpy.typing import NDArray

from edgesteer.controller import Controller
from edgesteer.errors import EngineError
from edgesteer.runtime.engine import Engine
from edgesteer.runtime.graph import BLOCK_OUTPUT
from edgesteer.runtime.hook import ggml_backend
from edgesteer.runtime.model import LlamaModel

STEERED = "steered"
IDLE = "strength 0"


class PythonHook:
    """The same law in NumPy behind a Python callback, with the interface of Hook that Engine uses.

    It steers every row at strength 1 in mode hold, and measures nothing for telemetry.
    """

    user_data = None

    def __init__(self, controller: Controller) -> None:
        assert controller.probe is not None
        self.callback = llama_cpp.ggml_backend_sched_eval_callback(self._evaluate)
        self._backend = ggml_backend()
        self._controller, self._probe = controller, controller.probe
        self._sites = {f"{BLOCK_OUTPUT}-{block}".encode(): k for k, block in enumerate(controller.blocks)}

    def _evaluate(self, tensor: int, ask: bool, _user_data: Any) -> bool:
        site = self._sites.get(ctypes.string_at(self._backend.name(tensor)))
        if ask or site is None:
            return site is not None or not ask
        width = self._controller.width
        address = ctypes.cast(self._backend.data(tensor), ctypes.POINTER(ctypes.c_float))
        rows = np.ctypeslib.as_array(address, (self._backend.element_count(tensor) // width, width))
        c = self._controller
        error = c.rest[site] + c.span[site] - (rows @ self._probe[site] - c.offset[site])
        rows += np.outer(error, c.gain[site])
        return True

    def plan(self, _commands: NDArray[np.void], _is_output: NDArray[np.bool_]) -> None:
        """Every row is steered."""

    def missing_boundary(self) -> None:
        return None

    def check(self) -> None:
        """Nothing is checked."""

    def close(self) -> None:
        """Python frees it."""


class PythonEngine(Engine):
    """An engine whose feedback is the Python callback."""

    def __init__(self, model: LlamaModel, controller: Controller, **options: Any) -> None:
        self._python_hook: Any = PythonHook(controller)
        super().__init__(model, **options)

    def _make_context(self, context_tokens: int, n_sequences: int, threads: int) -> Any:
        self.hook = self._python_hook
        return super()._make_context(context_tokens, n_sequences, threads)


def control_vector_engine(model: LlamaModel, controller: Controller, **options: Any) -> Engine:
    """Return an engine without a hook that adds llama.cpp's own static control vector at every block but the first."""
    engine = Engine(model, **options)
    data = np.ascontiguousarray(controller.gain[1:]).ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    width, last = controller.width, controller.n_blocks - 1
    if llama_cpp.llama_set_adapter_cvec(engine.context, data, last * width, width, 1, last):
        raise EngineError("llama.cpp refuses the control vector", where=model.path)
    return engine


def every_engine(model: LlamaModel, controller: Controller, threads: int | None) -> dict[str, Engine]:
    """Return every kind of engine that can be compared, by what it is called in the tables."""
    return {
        UNSTEERED: Engine(model, threads=threads),
        "unsteered, again": Engine(model, threads=threads),
        STEERED: Engine(model, [controller], threads=threads),
        "steered, buffers copied": Engine(model, [controller], threads=threads, force_copy=True),
        IDLE: Engine(model, [controller], threads=threads),
        "the law as a Python callback": PythonEngine(model, controller, threads=threads),
        "llama.cpp's control vector": control_vector_engine(model, controller, threads=threads),
    }
