"""GBNF: what llama.cpp could not read, or would crash or hang on, is refused before it sees it."""

from __future__ import annotations

import pytest

from edgesteer.errors import EngineError
from edgesteer.runtime.gbnf import MAX_BEGINNINGS, MAX_CHARACTERS, MAX_DEPTH, MAX_ELEMENTS, MAX_REPEATS, check_gbnf
from edgesteer.runtime.grammar import check_grammar


def doubling(rules: int, *, ends: tuple[str, str] = ("", "")) -> str:
    """Rules that each name the next one twice."""
    first, second = ends
    lines = [f"r{number} ::= r{number + 1} {first} | r{number + 1} {second}" for number in range(rules)]
    return "\n".join(["root ::= r0", *lines, f'r{rules} ::= "x"'])


def shortened(text: str) -> str:
    return text[:40]


@pytest.mark.parametrize(
    "text",
    [
        "root ::=",
        'root ::= ""',
        "root ::= | ",
        'root ::= "yes" | "no"',
        '# a comment\r\nroot ::= a # of a\r\n\r\na ::= "x" |\n"y"\n',
        'root ::=\n  "a" | (\n  "b" |\n  "c"\n)\n',
        r'root ::= [^\x00-\x1f\]"\\] "\"\\\n" [a-] [-a] [\U0001F600-\U0001F64F] [é日] .',
        'root ::= "a"{2} "b"{2,} "c"{2,3} "d"{0,0} "e"* "f"+ "g"? "h"{2}* "i"?{3} "j"{ 1 , 2 }',
        'root ::= "(" root ")" |',
        'Ab-9 ::= "x"\nroot ::= Ab-9',
        'root ::= "a"\nroot ::= "b"',
        doubling(10),
        "root ::= " + "(" * 900 + '"a"' + ")" * 900,
    ],
    ids=shortened,
)
def test_grammars_that_are_accepted_are_read_by_llama_cpp(text: str) -> None:
    check_grammar(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"lacks a rule; expected root ::= \.\.\.$"),
        ('a ::= "x"', r"lacks a rule; expected root ::= \.\.\.$"),
        ("root ::= a b\na ::= .", r"lacks a rule; expected b ::= \.\.\.$"),
        ("not a grammar", "line 1 of the grammar: grammar cannot be read; expected name ::= ...; found 'not a"),
        ('root ::= "a"\n\n | "b"', "line 3 of the grammar: grammar cannot be read; expected name ::= "),
        (
            'root ::= "a" b ::= "c"',
            "line 1 .*cannot be read; expected the end of the line or of the group; found 'b ::=",
        ),
        ('root ::= "a', """cannot be read; found '"a'"""),
        ("root ::= [a", "cannot be read"),
        ("root ::= []", "cannot be read"),
        (r'root ::= "\q"', "cannot be read"),
        (r'root ::= "\x1"', "cannot be read"),
        ("under_score ::= .", "cannot be read"),
        ("root ::= <[5]>", "cannot be read; found '<"),
        ("root ::= !<[5]>", "cannot be read; found '!<"),
        ("root ::= <|end|>", "cannot be read; found '<"),
        ("root ::= ((.)", "a group of the grammar is not closed; found its end"),
        ("root ::= .)", "closes a group that is not open"),
        ("root ::= *", "the grammar repeats nothing"),
        ('root ::= "a" | +', "the grammar repeats nothing"),
        ('root ::= ""*', "the grammar repeats nothing"),
        ('root ::= "a"{2,1}', r"out of range; found '\{2,1\}'"),
        (f'root ::= "a"{{{MAX_REPEATS + 1}}}', "out of range"),
        (f'root ::= "a"{{0,{MAX_REPEATS + 1}}}', "out of range"),
        ('root ::= "a"{9999999999}', "cannot be read"),
        ('root ::= "a\0"', "holds a NUL character"),
    ],
)
def test_what_is_no_grammar_is_refused_and_the_place_named(text: str, message: str) -> None:
    with pytest.raises(EngineError, match=message):
        check_gbnf(text)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('root ::= root "a" | "b"', "root"),
        ('root ::= a "x"\na ::= b "y"\nb ::= a', "a -> b -> a"),
        ('root ::= ("a"*)*', "root"),
        ('root ::= a root "y" | "z"\na ::= b\nb ::= | "x"', "root"),
        ('root ::= "" root', "root"),
    ],
)
def test_left_recursion_is_refused_however_hidden(text: str, found: str) -> None:
    with pytest.raises(EngineError, match=rf"begins with itself \(left recursion\); found {found}$"):
        check_gbnf(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (" " * (MAX_CHARACTERS + 1), "grammar is too long"),
        ("root ::= " + "(" * (MAX_DEPTH + 1), "nested too deeply"),
        ("root ::= " + "." * (MAX_ELEMENTS + 1), "too large"),
        ('root ::= "' + "a" * 100 + f'"{{0,{MAX_REPEATS}}}', "too large once its repetitions are written out"),
        (f"root ::= .{{{MAX_REPEATS}}}{{{MAX_REPEATS}}}", "too large once its repetitions are written out"),
        (doubling(40), "can begin in too many ways"),
        (doubling(40, ends=('"a"', '"b"')), "can begin in too many ways"),
        ("root ::= " + " | ".join(["."] * (MAX_BEGINNINGS + 1)), "can begin in too many ways; found root"),
        (
            "root ::= r0\n" + "".join(f"r{n} ::= r{n + 1}\n" for n in range(MAX_DEPTH)) + f"r{MAX_DEPTH} ::= .",
            "can begin",
        ),
    ],
    ids=shortened,
)
def test_what_would_take_llama_cpp_too_long_or_too_much_is_refused(text: str, message: str) -> None:
    with pytest.raises(EngineError, match=message):
        check_gbnf(text)
