"""Suites: what a file may say, what it may not, and where its prompts come from."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgesteer.errors import SuiteError
from edgesteer.evaluate.suite import Suite, SuitePrompt, builtin_suites, load_suite

HEAD = 'name = "dogs"\ndescription = "A topic."\nprimary = "dogs"\n'
JUDGE = '[[judges]]\nkind = "words"\nname = "dogs"\nwords = ["dog"]\n'
PROMPT = '[[prompts]]\ntext = "Tell me."\n'


def write(folder: Path, text: str) -> Path:
    path = folder / "suite.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_suite_has_what_its_file_says(tmp_path: Path) -> None:
    text = (
        'name = "dogs"\ndescription = "A topic."\nmax_tokens = 12\nsystem = "Mention dogs."\nraw = true\n'
        'primary = "dogs"\n[[prompts]]\nid = "garden"\ntext = "And the garden?"\ngroup = "far"\n' + PROMPT + JUDGE
    )
    suite = load_suite(write(tmp_path, text))
    assert suite == Suite(
        name="dogs",
        prompts=(SuitePrompt("garden", "And the garden?", "far"), SuitePrompt("2", "Tell me.", "")),
        judges=({"kind": "words", "name": "dogs", "words": ["dog"]},),
        primary="dogs",
        description="A topic.",
        max_tokens=12,
        system="Mention dogs.",
        raw=True,
    )
    assert suite.folder == tmp_path


FILES = {
    "a.txt": "one\n\ntwo\nthree\n",
    "a.jsonl": '{"q": "one"}\n{"q": ["two", "more"]}\n{"q": "three"}\n',
    "a.csv": 'id,q\n1,one\n2,"two"\n3,three\n',
    "a.tsv": "0\tone\n1\ttwo\n0\tthree\n",
}
COLUMNS = {"a.txt": "", "a.jsonl": 'column = "q"\n', "a.csv": 'column = "q"\n', "a.tsv": "column = 1\n"}


@pytest.mark.parametrize("name", FILES)
def test_prompts_come_from_files_of_every_kind(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(FILES[name], encoding="utf-8")
    table = f'[[prompts_from]]\npath = "{name}"\n{COLUMNS[name]}skip = 1\nlimit = 2\ngroup = "near"\n'
    prompts = load_suite(write(tmp_path, HEAD + table + JUDGE)).prompts
    assert prompts == (SuitePrompt("a-2", "two", "near"), SuitePrompt("a-3", "three", "near"))


def test_only_rows_with_the_wanted_values_are_taken(tmp_path: Path) -> None:
    (tmp_path / "q.csv").write_text("lang,text\nen,one\nde,zwei\nen,three\n", encoding="utf-8")
    table = '[[prompts_from]]\npath = "q.csv"\nwhere = { lang = "en" }\n'
    assert [each.text for each in load_suite(write(tmp_path, HEAD + table + JUDGE)).prompts] == ["one", "three"]


def test_the_data_folder_comes_before_the_suites_own(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (tmp_path / "a.txt").write_text("beside\n")
    path = write(tmp_path, HEAD + '[[prompts_from]]\npath = "a.txt"\n' + JUDGE)
    assert load_suite(path, data).prompts[0].text == "beside"
    (data / "a.txt").write_text("in the folder\n")
    assert load_suite(path, data).prompts[0].text == "in the folder"


WRONG = {
    "not valid TOML": "name = ",
    'key "judges" is missing': HEAD + PROMPT,
    "there are no prompts": HEAD + JUDGE,
    'unknown key "colour"': HEAD + "colour = 1\n" + PROMPT + JUDGE,
    "text is empty": HEAD + '[[prompts]]\ntext = " "\n' + JUDGE,
    "the same id stands twice": HEAD + '[[prompts]]\nid = "2"\ntext = "a"\n' + PROMPT + JUDGE,
    "the same judge stands twice": HEAD + PROMPT + JUDGE + JUDGE,
    "the primary judge is missing": HEAD.replace('primary = "dogs"', 'primary = "cats"') + PROMPT + JUDGE,
    "kind is empty": HEAD + PROMPT + '[[judges]]\nname = "dogs"\n',
    "max_tokens is not a number": HEAD + "max_tokens = 0\n" + PROMPT + JUDGE,
    "a file of prompts is missing": HEAD + '[[prompts_from]]\npath = "no.txt"\n' + JUDGE,
    "unknown kind of file": HEAD + '[[prompts_from]]\npath = "suite.toml"\n' + JUDGE,
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_suite_is_refused_with_its_fault(what: str, tmp_path: Path) -> None:
    with pytest.raises(SuiteError, match=what):
        load_suite(write(tmp_path, WRONG[what]))


def test_a_missing_column_is_named_with_those_that_there_are(tmp_path: Path) -> None:
    (tmp_path / "q.csv").write_text("lang,question\nen,one\n", encoding="utf-8")
    with pytest.raises(SuiteError, match=r"q\.csv, row 1: .* expected lang or question; found text"):
        load_suite(write(tmp_path, HEAD + '[[prompts_from]]\npath = "q.csv"\n' + JUDGE))


def test_an_unknown_suite_is_answered_with_those_that_there_are() -> None:
    with pytest.raises(SuiteError, match="nothing: no such suite; expected a file or one of"):
        load_suite("nothing")


@pytest.mark.parametrize("name", builtin_suites())
def test_every_built_in_suite_loads_under_its_name(name: str) -> None:
    assert load_suite(name).name == name


def test_a_limit_takes_from_all_groups_in_turn() -> None:
    prompts = tuple(SuitePrompt(str(n), "x", "far" if n < 4 else "on") for n in range(6))
    limited = Suite("s", prompts, (), "").limited(3)
    assert [each.id for each in limited.prompts] == ["0", "1", "4"]


def test_the_digest_changes_with_a_prompt_and_not_with_the_folder() -> None:
    suite = Suite("s", (SuitePrompt("1", "a"),), (), "", folder=Path("here"))
    assert suite.sha256 == Suite("s", (SuitePrompt("1", "a"),), (), "", folder=Path("there")).sha256
    assert suite.sha256 != Suite("s", (SuitePrompt("1", "b"),), (), "").sha256


def test_the_suite_of_the_documentation_loads(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "eval.md").read_text("utf-8")
    rows = "".join(f"Question {n}?,{'en' if n % 2 else 'de'}\n" for n in range(100))
    (tmp_path / "questions.csv").write_text(f"question,language\n{rows}", encoding="utf-8")
    suite = load_suite(write(tmp_path, page.split("```toml\n")[1].split("```")[0]))
    assert len(suite.prompts) == 21
    assert suite.prompts[1] == SuitePrompt("questions-22", "Question 21?", "far")
