"""GBNF, the notation of llama.cpp's grammars: refuses the texts that llama.cpp's own reader does not survive.

llama.cpp never returns from `"a"{2,1}`, from hidden left recursion or from rules that name the next one twice; it
overflows the stack on deep nesting; and an element for one token (`<[5]>`) lets it accept a token that it then throws
an exception about, which ends the process. Not found here: a grammar so ambiguous that its readings double with each
character. Knows no model.
"""

from __future__ import annotations

import itertools
import re
from collections import defaultdict
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter

from edgesteer.errors import EngineError

ROOT = "root"
MAX_CHARACTERS = 200_000
MAX_REPEATS = 2000
"""llama.cpp refuses a larger minimum and takes a larger maximum for infinity."""
MAX_ELEMENTS = 100_000
"""Of all rules once repetitions are written out, which is how llama.cpp keeps them."""
MAX_DEPTH = 1000
"""Of nesting, and of rules that begin with a rule; llama.cpp recurses over both."""
MAX_BEGINNINGS = 4096
"""Ways in which a rule can begin; llama.cpp compares each with each."""

Rules = dict[str, list[list[str]]]
"""By name: the alternatives, each a sequence of TERMINALs and names of rules."""
TERMINAL = "'"
"""A character, whichever; no rule can have this name."""

_NAME = "[a-zA-Z0-9-]{1,64}(?![a-zA-Z0-9-])"
_ESCAPE = r'\\(?:x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|[trn\\"\[\]-])'
_SYMBOL = re.compile(
    rf"""
    (?P<space> (?: [ \t\r\n] | \#[^\r\n]* )+ )
    | (?P<rule> (?P<new> {_NAME} ) [ \t]* ::= )
    | (?P<name> {_NAME} )
    | (?P<characters> "(?: [^"\\] | {_ESCAPE} )*" | \[ (?!\^?\]) (?: [^\]\\] | {_ESCAPE} )* \] )
    | (?P<any> \. )
    | (?P<open> \( )
    | (?P<close> \) )
    | (?P<alternative> \| )
    | (?P<repeat> [*+?] | \{{ \s* (?P<low>[0-9]{{1,9}}) \s* (?: (?P<comma>,) \s* (?P<high>[0-9]{{0,9}}) \s* )? \}} )
    """,
    re.VERBOSE,
)


def check_gbnf(text: str) -> None:
    """Raise EngineError when llama.cpp could not read this grammar, or not in reasonable time and memory."""
    if len(text) > MAX_CHARACTERS:
        raise EngineError("grammar is too long", expected=f"at most {MAX_CHARACTERS} characters", found=len(text))
    if "\0" in text:
        raise EngineError("grammar holds a NUL character", expected=r"\x00 in its place")
    rules = _Reader(text).rules
    named = {symbol for alternatives in rules.values() for symbol in itertools.chain(*alternatives)}
    for name in sorted({ROOT, *named} - {TERMINAL} - rules.keys()):
        raise EngineError("grammar lacks a rule", expected=f"{name} ::= ...")
    _check_beginnings(rules)


class _Reader:
    """Reads a grammar into rules; groups and repetitions become rules of their own, exactly as in llama.cpp."""

    def __init__(self, text: str) -> None:
        self.rules: Rules = {}
        self._text = text
        self._at = 0
        self._open: list[str] = []
        """The rule that is being read and the groups in it, the innermost last."""
        self._last = 0
        """Where in the sequence its last item begins, the one that a * repeats."""
        self._continues = False
        """Whether the rule goes on after a line break, as after ::= and |."""
        self._elements = 0
        while self._at < len(text):
            symbol = _SYMBOL.match(text, self._at)
            if symbol is None:
                raise self._error("grammar cannot be read")
            self._take(symbol)
            self._at = symbol.end()
        self._end_rule()

    @property
    def _sequence(self) -> list[str]:
        return self.rules[self._open[-1]][-1]

    def _take(self, symbol: re.Match[str]) -> None:
        kind = symbol.lastgroup
        if kind == "space":
            if len(self._open) == 1 and not self._continues and re.search("[\r\n]", symbol[0]):
                self._end_rule()
            return
        if (kind == "rule") == bool(self._open):
            expected = "the end of the line or of the group" if self._open else "name ::= ..."
            raise self._error("grammar cannot be read", expected)
        self._continues = kind in ("rule", "alternative")
        match kind:
            case "rule":
                self._begin(symbol["new"])
            case "name":
                self._add([symbol[0]])
            case "characters":
                self._add([TERMINAL] * (len(symbol[0]) - 2))
            case "any":
                self._add([TERMINAL])
            case "open":
                self._begin(self._unnamed())
            case "close":
                self._close_group()
            case "alternative":
                self.rules[self._open[-1]].append([])
                self._last = 0
            case "repeat":
                self._repeat(*_times(symbol))

    def _begin(self, name: str) -> None:
        self._open.append(name)
        self.rules[name] = [[]]
        self._last = 0
        if len(self._open) > MAX_DEPTH:
            raise self._error("grammar is nested too deeply")

    def _end_rule(self) -> None:
        if len(self._open) > 1:
            raise self._error("a group of the grammar is not closed")
        self._open.clear()

    def _close_group(self) -> None:
        if len(self._open) < 2:
            raise self._error("the grammar closes a group that is not open")
        self._add([self._open.pop()])

    def _add(self, item: list[str]) -> None:
        self._grow(len(item))
        self._last = len(self._sequence)
        self._sequence.extend(item)

    def _repeat(self, low: int, high: int | None) -> None:
        """Write S{low,high} as S S ... S', where S' ::= S S' | has no limit, or else each S' names the one before."""
        item = self._sequence[self._last :]
        times = max(low, high or 1)
        if not item:
            raise self._error("the grammar repeats nothing")
        if times > MAX_REPEATS or (high is not None and high < low):
            raise self._error("a repetition of the grammar is out of range")
        self._grow(times * (len(item) + 1))
        self._sequence[self._last :] = item * low
        optional: list[str] = []
        if high is None:
            optional = [self._unnamed()]
            self.rules[optional[0]] = [[*item, *optional], []]
        else:
            for _ in range(high - low):
                name = self._unnamed()
                self.rules[name] = [[*item, *optional], []]
                optional = [name]
        self._sequence.extend(optional)

    def _unnamed(self) -> str:
        """Return a name for a group or repetition of this rule; no rule of the text can have it."""
        return f"{self._open[0]}_{len(self.rules)}"

    def _grow(self, elements: int) -> None:
        self._elements += elements
        if self._elements > MAX_ELEMENTS:
            raise self._error("grammar is too large once its repetitions are written out")

    def _error(self, what: str, expected: str | None = None) -> EngineError:
        line = self._text.count("\n", 0, self._at) + 1
        found = repr(self._text[self._at :][:30]) if self._at < len(self._text) else "its end"
        return EngineError(what, where=f"line {line} of the grammar", expected=expected, found=found)


def _times(symbol: re.Match[str]) -> tuple[int, int | None]:
    """Return how often at least, and at most (None: no limit)."""
    if symbol["low"] is None:
        return {"*": (0, None), "+": (1, None), "?": (0, 1)}[symbol[0]]
    low = int(symbol["low"])
    if not symbol["comma"]:
        return low, low
    return low, int(symbol["high"]) if symbol["high"] else None


def _check_beginnings(rules: Rules) -> None:
    """Refuse rules that begin with themselves, or that can begin in too many ways."""
    empty = _possibly_empty(rules)
    first = {name: list(_first_symbols(alternatives, empty)) for name, alternatives in rules.items()}
    try:
        order = [*TopologicalSorter(first).static_order()]
    except CycleError as error:
        names = [name.partition("_")[0] for name in error.args[1]]
        found = " -> ".join(name for name, _ in itertools.groupby(names))
        raise EngineError("a rule of the grammar begins with itself (left recursion)", found=found) from error
    ways, depth = {TERMINAL: 1}, {TERMINAL: 0}
    for name in (each for each in order if each != TERMINAL):
        ways[name] = sum(ways[each] for each in first[name])
        depth[name] = 1 + max((depth[each] for each in first[name]), default=0)
        if ways[name] > MAX_BEGINNINGS or depth[name] > MAX_DEPTH:
            raise EngineError("a rule of the grammar can begin in too many ways", found=name.partition("_")[0])


def _possibly_empty(rules: Rules) -> set[str]:
    """Return the rules that match the empty text."""
    sequences = [(name, set(sequence)) for name, alternatives in rules.items() for sequence in alternatives]
    users = defaultdict(list)
    for number, (_, symbols) in enumerate(sequences):
        for symbol in symbols:
            users[symbol].append(number)
    missing = [len(symbols) for _, symbols in sequences]
    found: set[str] = set()
    pending = [name for name, symbols in sequences if not symbols]
    while pending:
        name = pending.pop()
        if name in found:
            continue
        found.add(name)
        for number in users[name]:
            missing[number] -= 1
            if not missing[number]:
                pending.append(sequences[number][0])
    return found


def _first_symbols(alternatives: list[list[str]], empty: set[str]) -> Iterator[str]:
    """Yield what each alternative can begin with: its first symbol, and the next one while that can be empty."""
    for sequence in alternatives:
        for symbol in sequence:
            yield symbol
            if symbol not in empty:
                break
