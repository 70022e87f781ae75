"""Grammar: llama.cpp's grammar sampler over one text: which tokens may come next. Candidates: what samplers work on.

llama.cpp ends the process when it is told of a token that does not fit; so a token is accepted only where `allows` said
yes, and `allows` also refuses what llama.cpp decodes loosely: text that is not UTF-8, and tokens that have no text.
"""

from __future__ import annotations

import codecs
import ctypes
from typing import Any

import llama_cpp
import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgesteer.errors import EngineError
from edgesteer.runtime.gbnf import ROOT, check_gbnf
from edgesteer.runtime.model import LlamaModel

_TOKEN_DATA = np.dtype(llama_cpp.llama_token_data)


def check_grammar(text: str) -> None:
    """Raise EngineError unless this is a grammar (GBNF) that a text can be held to."""
    check_gbnf(text)
    llama_cpp.llama_sampler_free(_read(text, vocabulary=None))


def _read(text: str, vocabulary: Any) -> Any:
    """Return llama.cpp's sampler for a grammar that check_gbnf has passed."""
    try:
        sampler = llama_cpp.llama_sampler_init_grammar(vocabulary, text.encode(), ROOT.encode())
    except UnicodeEncodeError as error:
        raise EngineError("grammar is not valid Unicode", found=f"a lone surrogate at {error.start}") from error
    if not sampler:
        raise EngineError("llama.cpp cannot read the grammar", remedy="Write fewer repetitions of groups.")
    return sampler


class Candidates:
    """Tokens and their logits, for llama.cpp's samplers to change. tokens, logits: (n,)."""

    def __init__(self, tokens: ArrayLike, logits: ArrayLike) -> None:
        self._data = np.zeros(np.shape(tokens), _TOKEN_DATA)
        self._data["id"], self._data["logit"] = tokens, logits
        first = self._data.ctypes.data_as(ctypes.POINTER(llama_cpp.llama_token_data))
        self._array = llama_cpp.llama_token_data_array(first, len(self._data), -1, False)

    def apply(self, sampler: Any) -> Candidates:
        llama_cpp.llama_sampler_apply(sampler, ctypes.byref(self._array))
        return self

    @property
    def logits(self) -> NDArray[np.float32]:
        """In the order in which the sampler left them: (n,)."""
        logits: NDArray[np.float32] = self._data["logit"]
        return logits

    @property
    def selected(self) -> int:
        """The token that a sampler chain chose."""
        return int(self._data["id"][self._array.selected])


class Grammar:
    """Where a text stands in its grammar. Use as a context manager, or call close().

    text: GBNF. Raises EngineError when check_grammar does.
    """

    def __init__(self, text: str, model: LlamaModel) -> None:
        check_gbnf(text)
        self._model = model
        self._unfinished = b""
        """The bytes so far of a character that is spread over tokens."""
        self._sampler = _read(text, model.vocabulary)

    def allows(self, token: int) -> bool:
        """Return whether the text may go on with this token, or end if it is one that ends a text."""
        if not self._model.ends_generation(token) and self._rest(token) is None:
            return False
        return bool(np.isfinite(Candidates([token], [0.0]).apply(self._sampler).logits[0]))

    def mask(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the logits of the vocabulary, with -inf for tokens that do not fit.

        A few that `allows` refuses may remain.
        """
        return Candidates(np.arange(len(logits)), logits).apply(self._sampler).logits

    def accept(self, token: int) -> None:
        """Move on by a token that `allows` has allowed."""
        self._unfinished = self._rest(token) or b""
        llama_cpp.llama_sampler_accept(self._sampler, token)

    def _rest(self, token: int) -> bytes | None:
        """Return the unfinished character that the text then ends with, or None when the token cannot follow."""
        piece = self._model.piece(token)
        if not piece or b"\0" in piece:
            return None
        data = self._unfinished + piece
        try:
            rest = data[codecs.utf_8_decode(data, "strict", False)[1] :]
        except UnicodeDecodeError:
            return None
        return None if b"\xed\xa0" <= rest[:2] <= b"\xed\xbf" else rest  # a surrogate, which Python waits to refuse

    def close(self) -> None:
        if self._sampler:
            llama_cpp.llama_sampler_free(self._sampler)
            self._sampler = None

    def __enter__(self) -> Grammar:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
