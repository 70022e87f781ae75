"""Fingerprints: what makes two models the same, and how a GGUF file tells."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFWriter

from edgesteer import fingerprint
from edgesteer.errors import FingerprintError, ModelError
from edgesteer.fingerprint import (
    Fingerprint,
    fingerprint_of_gguf,
    sha256_of_file,
    sha256_of_files,
    tokenizer_digest,
)
from edgesteer.registry import resolve_model

MODEL = Fingerprint("llama", 30, 576, "a" * 64, "b" * 64, "SmolLM2 135M")


def write_model(path: Path, tokens: list[str], *, width: bool = True) -> None:
    writer = GGUFWriter(path, "llama")
    writer.add_name("Tiny")
    writer.add_block_count(2)
    if width:
        writer.add_embedding_length(8)
    writer.add_token_list(tokens)
    writer.add_tensor("token_embd.weight", np.zeros((len(tokens), 8), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_model_matches_itself() -> None:
    assert MODEL.mismatch(MODEL) == []
    fingerprint.check(MODEL, MODEL, "warm.gguf")


def test_another_quantization_of_the_same_model_matches() -> None:
    assert MODEL.mismatch(replace(MODEL, model_sha256="c" * 64, model_name="SmolLM2 F16")) == []


@pytest.mark.parametrize(
    ("field", "other"),
    [("architecture", "gemma3"), ("n_blocks", 18), ("width", 640), ("tokenizer_sha256", "c" * 64)],
)
def test_each_compared_field_sets_two_models_apart(field: str, other: Any) -> None:
    loaded = replace(MODEL, **{field: other})
    assert MODEL.mismatch(loaded) == [(field, getattr(MODEL, field), other)]


def test_refusal_says_both_sides() -> None:
    loaded = replace(MODEL, width=640, model_name="Gemma 3 270M")
    with pytest.raises(FingerprintError) as caught:
        fingerprint.check(MODEL, loaded, "warm.gguf")
    assert str(caught.value) == (
        "warm.gguf: sidecar belongs to another model; expected SmolLM2 135M (width 576); "
        "found Gemma 3 270M (width 640). Load that model, or run `edgesteer export` for this one."
    )


def test_digest_of_a_small_vocabulary_by_hand() -> None:
    texts = [b"a", b"", b"bc"]
    stored = (3).to_bytes(8, "little") + b"".join(len(text).to_bytes(8, "little") + text for text in texts)
    assert tokenizer_digest(3, texts.__getitem__) == hashlib.sha256(stored).hexdigest()


def test_digest_of_a_large_vocabulary_asks_for_2048_spread_tokens() -> None:
    asked: list[int] = []

    def text(token: int) -> bytes:
        asked.append(token)
        return b"x"

    tokenizer_digest(262_144, text)
    assert asked == list(range(0, 262_144, 128))


def test_digest_depends_on_the_boundaries_between_texts() -> None:
    assert tokenizer_digest(2, [b"ab", b"c"].__getitem__) != tokenizer_digest(2, [b"a", b"bc"].__getitem__)


def test_digest_depends_on_the_size_of_the_vocabulary() -> None:
    assert tokenizer_digest(4096, lambda token: b"x") != tokenizer_digest(4097, lambda token: b"x")


def test_fingerprint_of_a_small_gguf(tmp_path: Path) -> None:
    write_model(tmp_path / "tiny.gguf", ["a", "b", "c"])
    assert fingerprint_of_gguf(tmp_path / "tiny.gguf") == Fingerprint(
        architecture="llama",
        n_blocks=2,
        width=8,
        tokenizer_sha256=tokenizer_digest(3, [b"a", b"b", b"c"].__getitem__),
        model_sha256=hashlib.sha256((tmp_path / "tiny.gguf").read_bytes()).hexdigest(),
        model_name="Tiny",
    )


def test_token_texts_are_taken_as_llama_cpp_reads_them(tmp_path: Path) -> None:
    # A C string ends at its first zero byte, and llama.cpp names an empty one after its id (llama-vocab.cpp).
    write_model(tmp_path / "tiny.gguf", ["a", "", "b\0c"])
    expected = tokenizer_digest(3, [b"a", b"[EMPTY_1]", b"b"].__getitem__)
    assert fingerprint_of_gguf(tmp_path / "tiny.gguf").tokenizer_sha256 == expected


def test_missing_model_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"none\.gguf: no such file"):
        fingerprint_of_gguf(tmp_path / "none.gguf")


def test_truncated_model_is_an_error_at_every_length(tmp_path: Path) -> None:
    write_model(tmp_path / "tiny.gguf", ["a", "b", "c"])
    whole = (tmp_path / "tiny.gguf").read_bytes()
    cut = tmp_path / "cut.gguf"
    for length in range(len(whole) - 32, -1, -7):  # the last tensor may be followed by padding
        cut.write_bytes(whole[:length])
        with pytest.raises(ModelError, match=r"cut\.gguf: (file is truncated or corrupt|not a GGUF file)"):
            fingerprint_of_gguf(cut)


def test_gguf_that_is_no_model_is_an_error_that_names_the_key(tmp_path: Path) -> None:
    write_model(tmp_path / "tiny.gguf", ["a"], width=False)
    with pytest.raises(ModelError, match=r"not a language model.*llama\.embedding_length"):
        fingerprint_of_gguf(tmp_path / "tiny.gguf")


def test_digest_of_several_files_is_that_of_their_sha256sum_list(tmp_path: Path) -> None:
    (tmp_path / "b").write_bytes(b"2")
    (tmp_path / "a").write_bytes(b"1")
    listing = f"{hashlib.sha256(b'1').hexdigest()}  a\n{hashlib.sha256(b'2').hexdigest()}  b\n"
    assert sha256_of_files([tmp_path / "b", tmp_path / "a"]) == hashlib.sha256(listing.encode()).hexdigest()


def test_digest_of_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be read"):
        sha256_of_file(tmp_path / "none")


@pytest.mark.llama
@pytest.mark.parametrize("name", ["smollm2", pytest.param("gemma3", marks=pytest.mark.slow)])
def test_llama_cpp_and_the_gguf_file_give_the_same_fingerprint(name: str) -> None:
    llama_cpp = pytest.importorskip("llama_cpp")
    path = resolve_model(name)
    parameters = llama_cpp.llama_model_default_params()
    parameters.vocab_only = True
    model = llama_cpp.llama_model_load_from_file(str(path).encode(), parameters)
    vocabulary = llama_cpp.llama_model_get_vocab(model)
    size = llama_cpp.llama_vocab_n_tokens(vocabulary)
    digest = tokenizer_digest(size, lambda token: llama_cpp.llama_vocab_get_text(vocabulary, token))
    llama_cpp.llama_model_free(model)
    assert fingerprint_of_gguf(path).tokenizer_sha256 == digest
