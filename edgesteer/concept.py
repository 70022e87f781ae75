"""ConceptSet: the contrast prompts of one concept with two named poles, read from TOML or JSONL and checked.

Three TOML forms may be combined in one file: `[[pairs]]`, `[lists]`, and a `[template]` with slots. JSONL
starts with a header line and has one text a line. This file knows no models and no tokenizers: a prompt is
the user turn of a chat, and an empty one means that the completion stands alone, outside any chat template.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

from edgesteer.errors import ConceptError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MIN_EXAMPLES = 2
SLOT = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Example:
    """One text of one pole; the activations are collected over the completion."""

    prompt: str
    """The user turn; "" means plain text without a chat template."""
    completion: str
    system: str = ""
    """The persona or system turn; "" means none."""


@dataclass(frozen=True)
class ConceptSet:
    """The examples of both poles, in file order."""

    name: str
    positive: str
    """Name of the pole that positive strengths steer towards."""
    negative: str
    positive_examples: tuple[Example, ...]
    negative_examples: tuple[Example, ...]
    sha256: str
    """Of the names and examples, not of the file: comments and layout do not change it."""
    one_way: bool = False
    """Whether to steer towards the positive pole only, because the other one is worth avoiding."""


NAMES = ("name", "positive", "negative")
"""What every concept file begins with."""


class Header(NamedTuple):
    """What a concept file says of the concept itself."""

    name: str
    positive: str
    negative: str
    one_way: bool = False

    @property
    def poles(self) -> tuple[tuple[str, str], ...]:
        """(key in the file, name of the pole) of both poles."""
        return ("positive", self.positive), ("negative", self.negative)


class Entry(NamedTuple):
    """An example with the place it came from, so that an error can point there."""

    where: str
    pole: str
    example: Example


def load_concept(path: Path) -> ConceptSet:
    """Read a contrast set from a .toml or .jsonl file.

    Raises ConceptError when the file is missing or cannot be parsed, when a key is unknown, when a text is
    empty or repeated, or when a pole has fewer than two texts.
    """
    parsers = {".toml": parse_toml, ".jsonl": parse_jsonl}
    parse = parsers.get(path.suffix.lower())
    if parse is None:
        raise ConceptError(
            "unknown kind of concept file",
            where=path,
            expected=" or ".join(parsers),
            found=path.suffix or "no suffix",
        )
    header, entries = parse(read_text(path), str(path))
    check_no_repeats(entries)
    positive = pole_examples(header.positive, entries, path)
    negative = pole_examples(header.negative, entries, path)
    return ConceptSet(
        *header[:3], positive, negative, digest(header, positive, negative), one_way=header.one_way
    )


def load_neutral(path: Path | None = None) -> tuple[Example, ...]:
    """Read texts that belong to neither pole of any concept: `[[texts]]` of a TOML file, ours by default.

    Raises ConceptError as `load_concept` does.
    """
    source = path or Path(str(files("edgesteer.models").joinpath("neutral.toml")))
    document = as_table(decode_toml(read_text(source), str(source)), str(source), required=("texts",))
    entries = []
    for where, item in numbered(document["texts"], f"{source}: texts"):
        table = as_table(item, where, required=("completion",), optional=("prompt", "system"))
        entries.append(Entry(where, "neutral", as_example(table, table["completion"], where)))
    check_no_repeats(entries)
    return pole_examples("neutral", entries, source)


def builtin_concepts() -> dict[str, Path]:
    """The concepts that come with edgesteer: name -> file, by name."""
    folder = files("edgesteer.models").joinpath("concepts")
    paths = (Path(str(entry)) for entry in folder.iterdir())
    return {path.stem: path for path in sorted(paths) if path.suffix == ".toml"}


def resolve_concept(name_or_path: str) -> Path:
    """Return the file of a built-in concept, or the path itself; raises ConceptError when it is neither."""
    builtin = builtin_concepts()
    if name_or_path in builtin:
        return builtin[name_or_path]
    if Path(name_or_path).is_file():
        return Path(name_or_path)
    raise ConceptError("no such concept", where=name_or_path, expected=f"a file or one of {', '.join(builtin)}")


def parse_toml(text: str, where: str) -> tuple[Header, list[Entry]]:
    """Read the header and all three forms of a TOML concept."""
    document = as_table(
        decode_toml(text, where), where, required=NAMES, optional=("one_way", "pairs", "lists", "template")
    )
    header = as_header(document, where)
    entries = [
        *pair_entries(document.get("pairs", []), header, f"{where}: pairs"),
        *list_entries(document.get("lists", {}), header, f"{where}: lists"),
    ]
    if "template" in document:
        entries += template_entries(document["template"], header, f"{where}: template")
    return header, entries


def parse_jsonl(text: str, where: str) -> tuple[Header, list[Entry]]:
    """Read a JSONL concept: the header's object, then one object a line with its pole's name."""
    lines = [(f"{where}: line {n}", line) for n, line in enumerate(text.split("\n"), start=1) if line.strip()]
    if not lines:
        raise ConceptError("the file is empty", where=where, expected="a first line with name, positive and negative")
    place, first = lines[0]
    header = as_header(as_table(decode_json(first, place), place, required=NAMES, optional=("one_way",)), place)
    entries = []
    for place, line in lines[1:]:
        table = as_table(
            decode_json(line, place), place, required=("pole", "completion"), optional=("prompt", "system")
        )
        pole = as_text(table["pole"], "pole", place)
        if pole not in (header.positive, header.negative):
            raise ConceptError(
                "unknown pole", where=place, expected=f"{header.positive} or {header.negative}", found=pole
            )
        entries.append(Entry(place, pole, as_example(table, table["completion"], place)))
    return header, entries


def pair_entries(pairs: object, header: Header, where: str) -> Iterator[Entry]:
    """`[[pairs]]`: one prompt, and the answer of each pole."""
    for place, item in numbered(pairs, where):
        table = as_table(item, place, required=("positive", "negative"), optional=("prompt", "system"))
        for side, pole in header.poles:
            completion = as_text(table[side], side, place)
            yield Entry(place, pole, as_example(table, completion, place))


def list_entries(lists: object, header: Header, where: str) -> Iterator[Entry]:
    """`[lists]`: plain texts of each pole."""
    table = as_table(lists, where, optional=("positive", "negative"))
    for side, pole in header.poles:
        for place, item in numbered(table.get(side, []), f"{where}.{side}"):
            yield Entry(place, pole, as_example({}, item, place))


def template_entries(template: object, header: Header, where: str) -> Iterator[Entry]:
    """`[template]`: every combination of the shared slots and the pole's own slots."""
    table = as_table(
        template,
        where,
        required=("completion",),
        optional=("prompt", "system", "slots", "positive", "negative"),
    )
    texts = present_texts(table, ("prompt", "completion", "system"), where)
    shared = slot_values(table.get("slots", {}), f"{where}.slots")
    for side, pole in header.poles:
        slots = shared | slot_values(table.get(side, {}), f"{where}.{side}")
        check_slots(texts, slots, f"{where} for {side}")
        for number, values in enumerate(itertools.product(*slots.values()), start=1):
            filled = fill(texts, dict(zip(slots, values, strict=True)))
            place = f"{where}.{side} combination {number}"
            yield Entry(place, pole, as_example(filled, filled["completion"], place))


def slot_values(slots: object, where: str) -> dict[str, list[str]]:
    table = as_table(slots, where, optional=None)
    return {
        name: [as_text(value, "slot value", place) for place, value in numbered(values, f"{where}.{name}")]
        for name, values in table.items()
    }


def check_slots(texts: dict[str, str], slots: dict[str, list[str]], where: str) -> None:
    """Raise ConceptError unless the slots that the texts use are exactly the ones that are defined."""
    used = {name for text in texts.values() for name in SLOT.findall(text)}
    if undefined := sorted(used - slots.keys()):
        raise ConceptError(
            f"slot {{{undefined[0]}}} is used but not defined",
            where=where,
            expected=f"one of {', '.join(slots) or 'no slots'}",
        )
    if unused := sorted(slots.keys() - used):
        raise ConceptError(f"slot {{{unused[0]}}} is defined but not used", where=where)


def fill(texts: dict[str, str], values: dict[str, str]) -> dict[str, str]:
    return {key: SLOT.sub(lambda match: values[match[1]], text) for key, text in texts.items()}


def pole_examples(pole: str, entries: Iterable[Entry], path: Path) -> tuple[Example, ...]:
    """The examples of one pole; raises ConceptError when there are too few to tell a mean from a text."""
    examples = tuple(entry.example for entry in entries if entry.pole == pole)
    if len(examples) < MIN_EXAMPLES:
        raise ConceptError(
            f'pole "{pole}" has too few texts',
            where=path,
            expected=f"at least {MIN_EXAMPLES}",
            found=len(examples),
        )
    return examples


def check_no_repeats(entries: Iterable[Entry]) -> None:
    """Raise ConceptError when a text stands twice in one pole, or once in each."""
    seen: dict[Example, Entry] = {}
    for entry in entries:
        first = seen.setdefault(entry.example, entry)
        if first is not entry:
            what = "the text is repeated" if first.pole == entry.pole else "the same text is in both poles"
            raise ConceptError(
                what, where=entry.where, found=f"first at {first.where}", remedy="Remove one of the two."
            )


def digest(header: Header, positive: tuple[Example, ...], negative: tuple[Example, ...]) -> str:
    """SHA-256 over canonical JSON of the names and examples."""
    content = {
        **{name: getattr(header, name) for name in NAMES},
        "positive_examples": [asdict(example) for example in positive],
        "negative_examples": [asdict(example) for example in negative],
    }
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise ConceptError("the file cannot be read", where=path, found=reason) from error


def decode_toml(text: str, where: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:  # its message ends with the line and column
        raise ConceptError("not valid TOML", where=where, found=error) from error


def decode_json(line: str, where: str) -> object:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        found = f"{error.msg} at column {error.colno}"
        raise ConceptError("not valid JSON", where=where, found=found) from error


def as_table(
    value: object, where: str, *, required: tuple[str, ...] = (), optional: tuple[str, ...] | None = ()
) -> dict[str, Any]:
    """Return the value as a table with these keys (optional=None: any), or raise ConceptError."""
    if not isinstance(value, dict):
        raise ConceptError("not a table of keys and values", where=where, found=type(value).__name__)
    if optional is not None and (unknown := [key for key in value if key not in required + optional]):
        raise ConceptError(
            f'unknown key "{unknown[0]}"', where=where, expected=f"one of {', '.join(required + optional)}"
        )
    if missing := [key for key in required if key not in value]:
        raise ConceptError(f'key "{missing[0]}" is missing', where=where)
    return value


def as_text(value: object, key: str, where: str) -> str:
    if not isinstance(value, str):
        raise ConceptError(f"{key} is not a text", where=where, found=type(value).__name__)
    if not value.strip():
        remedy = "Leave the key out for plain text." if key == "prompt" else None
        raise ConceptError(f"{key} is empty", where=where, remedy=remedy)
    return value


def present_texts(table: dict[str, Any], keys: Iterable[str], where: str) -> dict[str, str]:
    return {key: as_text(table[key], key, where) for key in keys if key in table}


def as_header(table: dict[str, Any], where: str) -> Header:
    one_way = table.get("one_way", False)
    if not isinstance(one_way, bool):
        raise ConceptError("one_way is not true or false", where=where, found=repr(one_way))
    name, positive, negative = (as_text(table[key], key, where) for key in NAMES)
    header = Header(name, positive, negative, one_way)
    if header.positive == header.negative:
        raise ConceptError("the two poles have the same name", where=where, found=header.positive)
    return header


def as_example(table: dict[str, Any], completion: object, where: str) -> Example:
    """Build an example from a table's optional prompt and system; a key that is there must hold a text."""
    turns = present_texts(table, ("prompt", "system"), where)
    return Example(turns.get("prompt", ""), as_text(completion, "completion", where), turns.get("system", ""))


def numbered(items: object, where: str) -> Iterator[tuple[str, object]]:
    """The items of a list, each with its place, counted from 1."""
    if not isinstance(items, list):
        raise ConceptError("not a list", where=where, found=type(items).__name__)
    for number, item in enumerate(items, start=1):
        yield f"{where} {number}", item
