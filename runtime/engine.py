"""Engine: one llama.cpp context with the feedback hook in it. It decodes rows of tokens; it does not know text.

One llama_decode is always one ubatch (n_ubatch = n_batch) over a unified KV cache, so that the hook's rows are the
batch's rows in order. This is the only file that sets llama.cpp's eval callback.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import llama_cpp
import numpy as np
from gguf import GGMLQuantizationType
from numpy.typing import NDArray

from edgesteer.controller import Array, Controller
from edgesteer.errors import EngineError
from edgesteer.runtime.graph import usable_blocks_error
from edgesteer.runtime.hook import COMMAND, Hook, ggml_backend, sites_of
from edgesteer.runtime.model import LlamaModel, last_log_line

Commands = NDArray[np.void]

SEQUENCE_TOKENS = 2048

CACHE_TYPES = ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1")
"""What keys and values can be stored as; llama.cpp's -ctk and -ctv."""


class Engine:
    """A context of a model under the feedback of some controllers. Use as a context manager, or call close().

    controllers: may be empty; then llama.cpp runs without a callback, unless reloadable: only then can set_controllers
    exchange them later. context_tokens: size of the KV cache, shared by n_sequences; None = SEQUENCE_TOKENS for each.
    batch_tokens: most rows of one decode. threads: None = this machine's cores (see default_threads). cache_type_k,
    cache_type_v: among CACHE_TYPES. force_copy: treat every buffer as if it were on a device (tests the copying path on
    a CPU). timed: measure the hook's own time, for hook.time_ns.
    Raises EngineError when llama.cpp cannot make the context.
    """

    def __init__(
        self,
        model: LlamaModel,
        controllers: Sequence[Controller] = (),
        *,
        context_tokens: int | None = None,
        batch_tokens: int = 512,
        n_sequences: int = 1,
        threads: int | None = None,
        cache_type_k: str = "f16",
        cache_type_v: str = "f16",
        force_copy: bool = False,
        timed: bool = False,
        reloadable: bool = False,
    ) -> None:
        self.model = model
        self.n_sequences = n_sequences
        wanted = context_tokens or SEQUENCE_TOKENS * max(1, n_sequences)
        self.batch_tokens = min(batch_tokens, wanted)
        most = min(self.batch_tokens, llama_cpp.llama_max_parallel_sequences())
        if not 1 <= n_sequences <= most:  # llama.cpp would abort
            raise EngineError(
                "wrong number of sequences",
                expected=f"1 to {most}",
                found=n_sequences,
                remedy="A batch must hold a token of each: use a larger --batch-size, or fewer sequences.",
            )
        self.cache_types = (cache_type_k, cache_type_v)
        self._force_copy, self._timed = force_copy, timed
        self.controllers: tuple[Controller, ...] = ()
        self._sites: dict[int, slice] = {}
        self.hook: Hook | None = None
        if controllers or reloadable:
            self.hook = self._make_hook(controllers)
        self.context = self._make_context(wanted, n_sequences, threads or default_threads())
        self.context_tokens = int(llama_cpp.llama_n_ctx(self.context))
        self._memory = llama_cpp.llama_get_memory(self.context)
        self.can_reuse = not model.is_recurrent
        """Whether a part of a sequence's tokens can be forgotten or shared; recurrent models keep one state."""
        self._batch = llama_cpp.llama_batch_init(self.batch_tokens, 0, 1)

    def _make_hook(self, controllers: Sequence[Controller]) -> Hook:
        sites = sites_of(controllers)
        hook = Hook(
            ggml_backend(),
            width=self.model.width,
            n_blocks=self.model.n_blocks,
            sites=sites,
            n_controllers=len(controllers),
            max_rows=self.batch_tokens,
            force_copy=self._force_copy,
            timed=self._timed,
        )
        self.controllers = tuple(controllers)
        numbers = [site.controller for site in sites]
        self._sites = {
            id(each): slice(numbers.index(number), numbers.index(number) + numbers.count(number))
            for number, each in enumerate(self.controllers)
        }
        return hook

    def set_controllers(self, controllers: Sequence[Controller]) -> None:
        """Exchange the controllers between two decodes; the KV cache and everything else stays.

        Raises SteeringError when one does not fit the model, EngineError for an engine that is not reloadable.
        """
        previous = self.hook
        if previous is None:
            raise EngineError("this engine has no hook", remedy="Make it with reloadable=True.")
        self.hook = self._make_hook(controllers)
        self.hook.take_over(previous)

    def column(self, controller: Controller) -> int:
        """Return the column of commands that belongs to a controller of this engine, told by identity."""
        return next(number for number, each in enumerate(self.controllers) if each is controller)

    def measured(self, controller: Controller) -> tuple[Array, Array, Array]:
        """Return alpha before and after control, and the control, of the last decode: (controller's sites, rows) each.

        Its sites are its steered blocks, ascending, then its sensor if any. Valid until the next decode.
        """
        assert self.hook is not None
        sites = self._sites[id(controller)]
        return self.hook.before[sites], self.hook.after[sites], self.hook.control[sites]

    def _make_context(self, context_tokens: int, n_sequences: int, threads: int) -> Any:
        parameters = llama_cpp.llama_context_default_params()
        parameters.n_ctx = context_tokens
        parameters.n_batch = parameters.n_ubatch = self.batch_tokens
        parameters.n_seq_max = n_sequences
        parameters.kv_unified = True
        parameters.n_threads = parameters.n_threads_batch = threads
        parameters.no_perf = True
        parameters.type_k, parameters.type_v = map(ggml_type, self.cache_types)
        if self.hook is not None:
            parameters.cb_eval = self.hook.callback
            parameters.cb_eval_user_data = self.hook.user_data
        context = llama_cpp.llama_init_from_model(self.model.handle, parameters)
        if not context:
            raise EngineError(
                "llama.cpp cannot make a context",
                where=self.model.path,
                found=last_log_line(),
                remedy=f"Try a smaller context than {context_tokens} tokens.",
            )
        return context

    def idle(self, n_rows: int) -> Commands:
        """Return commands that ask nothing of any controller: (n_rows, n_controllers)."""
        return np.zeros((n_rows, len(self.controllers)), dtype=COMMAND)

    def decode(
        self,
        tokens: Sequence[int],
        positions: Sequence[int],
        outputs: Sequence[bool],
        commands: Commands | None = None,
        sequences: Sequence[int] | None = None,
    ) -> None:
        """Run one batch of rows through the model, each under its own commands.

        tokens, positions, outputs (whether logits are wanted), sequences (0 when None): one entry a row, at most
        batch_tokens rows. commands: (rows, n_controllers); None steers nothing.
        Raises EngineError when the KV cache is full or llama.cpp fails, ModelError when the model's blocks cannot be
        reached by the hook.
        """
        self._fill_batch(tokens, positions, outputs, sequences or [0] * len(tokens))
        if self.hook is not None:
            self.hook.plan(self.idle(len(tokens)) if commands is None else commands, np.asarray(outputs, dtype=bool))
        status = llama_cpp.llama_decode(self.context, self._batch)
        if status == 1:
            raise EngineError(
                "the context is full",
                where=self.model.path,
                found=f"{self.context_tokens} tokens",
                remedy="Use a larger context (--ctx-size) or a shorter prompt.",
            )
        if status != 0:
            raise EngineError(
                "llama.cpp failed to decode",
                where=self.model.path,
                found=f"status {status}: {last_log_line()}",
            )
        if self.hook is not None:
            self._check_hook()

    def _fill_batch(
        self,
        tokens: Sequence[int],
        positions: Sequence[int],
        outputs: Sequence[bool],
        sequences: Sequence[int],
    ) -> None:
        if not 0 < len(tokens) <= self.batch_tokens:
            raise EngineError("wrong number of rows", expected=f"1 to {self.batch_tokens}", found=len(tokens))
        batch = self._batch
        batch.n_tokens = len(tokens)
        for row, (token, position, output, sequence) in enumerate(
            zip(tokens, positions, outputs, sequences, strict=True)
        ):
            batch.token[row] = token
            batch.pos[row] = position
            batch.n_seq_id[row] = 1
            batch.seq_id[row][0] = sequence
            batch.logits[row] = output

    def _check_hook(self) -> None:
        assert self.hook is not None
        if self.hook.missing_boundary() is not None:
            raise usable_blocks_error(self._survey(), where=self.model.path)
        self.hook.check()

    def _survey(self) -> list[str]:
        """Return the names of all nodes of the graph, by decoding one token; the KV cache is empty afterwards."""
        assert self.hook is not None
        llama_cpp.llama_memory_clear(self._memory, True)
        self._fill_batch([0], [0], [True], [0])
        with self.hook.survey() as names:
            llama_cpp.llama_decode(self.context, self._batch)
        llama_cpp.llama_memory_clear(self._memory, True)
        return names()

    def logits(self, output: int = -1) -> NDArray[np.float32]:
        """Return a copy of one row of logits: (vocabulary,); output counts the rows that asked for logits."""
        pointer = llama_cpp.llama_get_logits_ith(self.context, output)
        if not pointer:
            raise EngineError("no logits for this row", found=output, expected="a row decoded with output")
        return np.ctypeslib.as_array(pointer, shape=(self.model.n_tokens,)).copy()

    def forget(self, sequence: int = 0, from_position: int = 0) -> None:
        """Remove a sequence's tokens from a position on from the KV cache."""
        llama_cpp.llama_memory_seq_rm(self._memory, sequence, from_position, -1)

    def share(self, source: int, destination: int, n_tokens: int) -> None:
        """Let a sequence without tokens begin with the first tokens of another one; the cells are shared."""
        llama_cpp.llama_memory_seq_cp(self._memory, source, destination, 0, n_tokens)

    def close(self) -> None:
        """Free the context and the hook; the model stays."""
        if self.context:
            llama_cpp.llama_free(self.context)
            llama_cpp.llama_batch_free(self._batch)
            self.context = None
        if self.hook is not None:
            self.hook.close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def ggml_type(cache_type: str) -> int:
    """Return ggml's number of a cache type. Raises EngineError for a name that is not among CACHE_TYPES."""
    if cache_type not in CACHE_TYPES:
        raise EngineError("unknown cache type", expected=" or ".join(CACHE_TYPES), found=cache_type)
    return int(GGMLQuantizationType[cache_type.upper()])


def default_threads() -> int:
    """Return the number of cores this process may use; half of them from 8 on, where they tend to be hyperthreads."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return available if available < 8 else available // 2
