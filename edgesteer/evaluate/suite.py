"""Suite: the prompts that texts are generated from, and the judges that score them, read from TOML and checked.

    name = "dogs"
    description = "A topic: does the text mention dogs?"
    max_tokens = 40                      # of each text; optional, 40
    system = "Mention dogs."             # the concept asked for in words: the system-prompt baseline; optional
    raw = false                          # true: continue the prompts as they are, without a chat template; optional
    primary = "dogs"                     # the judge whose score is "the effect"; the others show side effects

    [[prompts]]                          # any number; id is optional ("1", "2", ... by place), so is group
    id = "garden"
    text = "What did you do in the garden?"
    group = "far"                        # far, near, on (carries the concept already), opposite, harmful, ...

    [[prompts_from]]                     # any number; prompts from a file of the user's, which is not copied
    path = "multiq/MultiQ_17lang.csv"    # beside the suite, or under the folder given as --data
    column = "prompt"                    # .jsonl: a key (of a list, the first item is taken); .csv, .tsv: a header, or
                                         # a number from 0 on in a file without headers; .txt has a prompt a line
    where = { language = "en" }          # only the rows with these values; optional, as are the next three
    skip = 10                            # rows to leave out at the beginning, of those
    limit = 20                           # most rows to take
    group = "far"

    [[judges]]                           # at least one; its fields by kind: see edgesteer.evaluate.judges
    kind = "words"
    name = "dogs"
    words = ["dog", "dogs", "puppy"]

Knows no model, and of judges only their names.
"""

from __future__ import annotations

import csv
import hashlib
import io
import itertools
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from edgesteer.concept import as_table, as_text, decode_json, decode_toml, numbered, read_text
from edgesteer.errors import ConceptError, SuiteError

MAX_TOKENS = 40
DELIMITERS = {".csv": ",", ".tsv": "\t"}
MOST_COLUMNS = 256
TEXT = "text"
"""The column that is read when none is named, and that of a file with a prompt a line."""
KINDS = (".jsonl", *DELIMITERS, ".txt")
REQUIRED = ("name", "description", "judges", "primary")
OPTIONAL = ("max_tokens", "system", "raw", "prompts", "prompts_from")

JudgeSpec = Mapping[str, Any]
Row = Mapping[str, Any]


@dataclass(frozen=True)
class SuitePrompt:
    """One prompt; group: what its texts are reported with, "" for none."""

    id: str
    text: str
    group: str = ""


@dataclass(frozen=True)
class Suite:
    """What is generated and how it is judged. judges: their tables as they stand in the file, each with kind and name.

    folder: where the suite's file lies; paths in it are relative to it.
    """

    name: str
    prompts: tuple[SuitePrompt, ...]
    judges: tuple[JudgeSpec, ...]
    primary: str
    description: str = ""
    max_tokens: int = MAX_TOKENS
    system: str = ""
    raw: bool = False
    folder: Path = field(default=Path(), compare=False)

    @property
    def sha256(self) -> str:
        """Of what the suite says, not of its file."""
        content = {key: value for key, value in asdict(self).items() if key != "folder"}
        return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()

    def limited(self, n_prompts: int) -> Suite:
        """Return the suite with so many of its prompts: the first ones of each group, in turn."""
        places: dict[str, Iterator[int]] = {}
        ranks = [next(places.setdefault(each.group, itertools.count())) for each in self.prompts]
        chosen = sorted(range(len(ranks)), key=lambda number: ranks[number])[:n_prompts]
        return replace(self, prompts=tuple(self.prompts[number] for number in sorted(chosen)))


def load_suite(name_or_path: str | Path, data: Path | None = None) -> Suite:
    """Read a suite: a built-in one by its name, or a TOML file.

    data: a folder in which files of prompts are looked for, before the suite's own.
    Raises SuiteError when there is no such suite, or it or a file that it names cannot be used.
    """
    path = resolve_suite(str(name_or_path))
    with as_suite_error():
        document = as_table(decode_toml(read_text(path), str(path)), str(path), required=REQUIRED, optional=OPTIONAL)
        prompts = [*own_prompts(document, str(path)), *prompts_from(document, path, data)]
        judges = tuple(table for _, table in judge_tables(document, str(path)))
        suite = Suite(
            name=as_text(document["name"], "name", str(path)),
            prompts=tuple(prompts),
            judges=judges,
            primary=as_text(document["primary"], "primary", str(path)),
            description=as_text(document["description"], "description", str(path)),
            max_tokens=whole_number(document.get("max_tokens", MAX_TOKENS), "max_tokens", str(path), least=1),
            system=as_text(document["system"], "system", str(path)) if "system" in document else "",
            raw=bool(document.get("raw", False)),
            folder=path.parent,
        )
    check(suite, path)
    return suite


def builtin_suites() -> dict[str, Path]:
    """The suites that come with edgesteer: name -> file, by name."""
    folder = files("edgesteer.models").joinpath("suites")
    paths = (Path(str(entry)) for entry in folder.iterdir())
    return {path.stem: path for path in sorted(paths) if path.suffix == ".toml"}


def resolve_suite(name_or_path: str) -> Path:
    """Return the file of a built-in suite, or the path itself. Raises SuiteError when it is neither."""
    builtin = builtin_suites()
    path = builtin.get(name_or_path, Path(name_or_path))
    if not path.is_file():
        raise SuiteError("no such suite", where=name_or_path, expected=f"a file or one of {', '.join(builtin)}")
    return path


def check(suite: Suite, path: Path) -> None:
    """Raise SuiteError for a suite without prompts, with an id or a judge twice, or without its primary judge."""
    if not suite.prompts:
        raise SuiteError("there are no prompts", where=path, expected="[[prompts]] or [[prompts_from]]")
    names = [str(spec["name"]) for spec in suite.judges]
    for what, found in (("id", [each.id for each in suite.prompts]), ("judge", names)):
        if repeated := [each for number, each in enumerate(found) if each in found[:number]]:
            raise SuiteError(f"the same {what} stands twice", where=path, found=repeated[0])
    if suite.primary not in names:
        raise SuiteError("the primary judge is missing", where=path, expected=" or ".join(names), found=suite.primary)


def own_prompts(document: Row, where: str) -> Iterator[SuitePrompt]:
    for number, (place, item) in enumerate(numbered(document.get("prompts", []), f"{where}: prompts"), start=1):
        table = as_table(item, place, required=("text",), optional=("id", "group"))
        key = as_text(table["id"], "id", place) if "id" in table else str(number)
        yield SuitePrompt(key, as_text(table["text"], "text", place), group_of(table, place))


def judge_tables(document: Row, where: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for place, item in numbered(document["judges"], f"{where}: judges"):
        table = as_table(item, place, optional=None)
        for key in ("kind", "name"):
            as_text(table.get(key, ""), key, place)
        yield place, table


# ---- prompts from other files ----


def prompts_from(document: Row, path: Path, data: Path | None) -> Iterator[SuitePrompt]:
    """Yield the prompts of all files, with ids such as `vicuna80-3` for the third row."""
    for place, item in numbered(document.get("prompts_from", []), f"{path}: prompts_from"):
        table = as_table(item, place, required=("path",), optional=("column", "where", "skip", "limit", "group"))
        source = find_file(as_text(table["path"], "path", place), place, path.parent, data)
        skip = whole_number(table.get("skip", 0), "skip", place)
        most = whole_number(table["limit"], "limit", place, least=1) if "limit" in table else None
        column, wanted = table.get("column", TEXT), as_table(table.get("where", {}), place, optional=None)
        rows = enumerate(read_rows(source, column, place), start=1)
        chosen = (row for row in rows if wanted.items() <= row[1].items())
        for number, row in itertools.islice(chosen, skip, None if most is None else skip + most):
            text = cell(row, column, f"{source}, row {number}")
            yield SuitePrompt(f"{source.stem}-{number}", text, group_of(table, place))


def find_file(name: str, where: str, *folders: Path | None) -> Path:
    """Return the file of this name in the last folder that has it."""
    found = [folder / name for folder in folders if folder is not None and (folder / name).is_file()]
    if not found:
        raise SuiteError(
            "a file of prompts is missing", where=where, found=name, remedy="Name the folder that has it with --data."
        )
    return found[-1]


def read_rows(source: Path, column: object, where: str) -> Iterator[Row]:
    """Yield the rows of a file; a table's first row names its columns, unless a column is asked for by number."""
    kind = source.suffix.lower()
    if kind not in KINDS:
        raise SuiteError("unknown kind of file", where=where, expected=" or ".join(KINDS), found=source.name)
    text = read_text(source)
    if kind in DELIMITERS:
        rows = csv.reader(io.StringIO(text, newline=""), delimiter=DELIMITERS[kind])
        headers = map(str, itertools.count()) if isinstance(column, int) else next(rows, [])
        headers = list(itertools.islice(headers, MOST_COLUMNS))
        yield from (dict(zip(headers, row, strict=False)) for row in rows if row)
        return
    for line in filter(str.strip, text.split("\n")):
        yield {TEXT: line} if kind == ".txt" else as_table(decode_json(line, where), where, optional=None)


def cell(row: Row, column: object, where: str) -> str:
    if str(column) not in row:
        raise SuiteError("there is no such column", where=where, expected=" or ".join(row), found=column)
    value = row[str(column)]
    return as_text(value[0] if isinstance(value, list) and value else value, str(column), where)


# ---- values ----


def group_of(table: Row, where: str) -> str:
    return as_text(table["group"], "group", where) if "group" in table else ""


def whole_number(value: object, key: str, where: str, least: int = 0) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise SuiteError(f"{key} is not a number", where=where, expected=f"{least} or more", found=value)
    return value


@contextmanager
def as_suite_error() -> Iterator[None]:
    """Let what the readers of concept files refuse be the fault of a suite."""
    try:
        yield
    except ConceptError as error:
        raise SuiteError(str(error)) from error
