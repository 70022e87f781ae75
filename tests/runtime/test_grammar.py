"""Grammar: which tokens may come next; that no token which is allowed can end the process."""

from __future__ import annotations

import random
import re

import numpy as np
import pytest

from edgesteer.errors import EngineError
from edgesteer.runtime.grammar import Candidates, Grammar, check_grammar
from edgesteer.runtime.model import LlamaModel


def allowed(grammar: Grammar, model: LlamaModel) -> list[int]:
    return [token for token in range(model.n_tokens) if grammar.allows(token)]


def spelling(model: LlamaModel, pieces: bytes) -> list[int]:
    """Return the tokens that are one of these bytes each."""
    return [token for token in range(model.n_tokens) if model.piece(token) in [bytes([each]) for each in pieces]]


def ends(model: LlamaModel) -> list[int]:
    return [token for token in range(model.n_tokens) if model.ends_generation(token)]


def accept(grammar: Grammar, model: LlamaModel, data: bytes) -> None:
    """Move on by these bytes, a token each."""
    for byte in data:
        (token,) = spelling(model, bytes([byte]))
        assert grammar.allows(token)
        grammar.accept(token)


def test_tokens_that_fit_are_allowed_and_no_others(tiny_llama: LlamaModel) -> None:
    with Grammar('root ::= [a-c] "x"?', tiny_llama) as grammar:
        assert allowed(grammar, tiny_llama) == spelling(tiny_llama, b"abc")
        accept(grammar, tiny_llama, b"b")
        assert allowed(grammar, tiny_llama) == sorted([*ends(tiny_llama), *spelling(tiny_llama, b"x")])


def test_end_is_allowed_only_where_the_grammar_ends(tiny_llama: LlamaModel) -> None:
    with Grammar('root ::= "ab"', tiny_llama) as grammar:
        accept(grammar, tiny_llama, b"a")
        assert not set(ends(tiny_llama)) & set(allowed(grammar, tiny_llama))
        accept(grammar, tiny_llama, b"b")
        assert allowed(grammar, tiny_llama) == ends(tiny_llama)
        grammar.accept(ends(tiny_llama)[0])


def test_empty_text_only_ends(tiny_llama: LlamaModel) -> None:
    with Grammar('root ::= ""', tiny_llama) as grammar:
        assert allowed(grammar, tiny_llama) == ends(tiny_llama)


def test_token_of_several_characters_must_fit_whole(tiny_llama: LlamaModel) -> None:
    (the,) = tiny_llama.tokenize("the")
    for text, fits in (("the", True), ("th", False), ("then", True), ("[a-z]{2}", False)):
        with Grammar(f'root ::= "{text}"' if text.isalpha() else f"root ::= {text}", tiny_llama) as grammar:
            assert grammar.allows(the) is fits


def test_mask_keeps_the_logits_of_tokens_that_fit(tiny_llama: LlamaModel) -> None:
    logits = np.random.default_rng(0).standard_normal(tiny_llama.n_tokens).astype(np.float32)
    with Grammar('root ::= [0-9] | "th"', tiny_llama) as grammar:
        masked = grammar.mask(logits)
        assert np.flatnonzero(np.isfinite(masked)).tolist() == allowed(grammar, tiny_llama)
        assert masked[np.isfinite(masked)].tolist() == logits[np.isfinite(masked)].tolist()


def test_character_is_spelled_byte_by_byte(tiny_llama: LlamaModel) -> None:
    with Grammar('root ::= "é" | "ê" | "日"', tiny_llama) as grammar:
        assert allowed(grammar, tiny_llama) == spelling(tiny_llama, b"\xc3\xe6")
        accept(grammar, tiny_llama, b"\xc3")
        assert allowed(grammar, tiny_llama) == spelling(tiny_llama, b"\xa9\xaa")


@pytest.mark.parametrize("data", [b"\x80", b"\xc0", b"\xc1", b"\xf5", b"\xff", b"\xe0\x80", b"\xed\xa0", b"\xf4\x90"])
def test_bytes_that_are_no_utf8_do_not_fit(tiny_llama: LlamaModel, data: bytes) -> None:
    with Grammar("root ::= .*", tiny_llama) as grammar:
        accept(grammar, tiny_llama, data[:-1])
        (token,) = spelling(tiny_llama, data[-1:])
        assert not grammar.allows(token)


def test_tokens_without_text_do_not_fit(tiny_llama: LlamaModel) -> None:
    (start,) = tiny_llama.tokenize("<|im_start|>")
    (nul,) = spelling(tiny_llama, b"\0")
    with Grammar('root ::= "<|im_start|>" | "\\x00"', tiny_llama) as grammar:
        assert allowed(grammar, tiny_llama) == spelling(tiny_llama, b"<")
        assert not grammar.allows(start)
        assert not grammar.allows(nul)


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ('root ::= ("a" | "the" | "é"){1,4} [^0-9]{0,2}', "(a|the|é){1,4}[^0-9]{0,2}"),
        ('root ::= "x"? pair{2,5}\npair ::= [à-ü] | . "n"', "x?([à-ü]|(?s:.)n){2,5}"),
        ('root ::= "0" | "-"? [1-9] [0-9]{0,3} ("." [0-9]+ "e")?', r"0|-?[1-9][0-9]{0,3}(\.[0-9]+e)?"),
        ("root ::= [😀-😎日本]{0,6}", "[😀-😎日本]{0,6}"),
    ],
)
def test_random_texts_of_allowed_tokens_match(tiny_llama: LlamaModel, text: str, pattern: str) -> None:
    for seed in range(6):
        data, chance = b"", random.Random(seed)
        with Grammar(text, tiny_llama) as grammar:
            for _ in range(200):
                token = chance.choice(allowed(grammar, tiny_llama))
                grammar.accept(token)
                if tiny_llama.ends_generation(token):
                    break
                data += tiny_llama.piece(token)
        assert re.fullmatch(pattern, data.decode())


def test_grammar_that_llama_cpp_refuses_is_an_error() -> None:
    with pytest.raises(EngineError, match=r"llama\.cpp cannot read the grammar\. Write fewer repetitions of groups\."):
        check_grammar('root ::= (("a"?){0,500}){0,5}')


def test_grammar_that_is_no_unicode_is_an_error() -> None:
    with pytest.raises(EngineError, match="grammar is not valid Unicode"):
        check_grammar('root ::= "\ud800"')


def test_grammar_can_be_closed_twice(tiny_llama: LlamaModel) -> None:
    grammar = Grammar("root ::= .", tiny_llama)
    grammar.close()
    grammar.close()


def test_candidates_are_what_a_sampler_works_on(tiny_llama: LlamaModel) -> None:
    import llama_cpp

    greedy = llama_cpp.llama_sampler_init_greedy()
    assert Candidates([7, 8, 9], [0.5, 2.0, 1.0]).apply(greedy).selected == 8
    llama_cpp.llama_sampler_free(greedy)
