"""edgesteer generate --input: many prompts, on the tiny model. What a text must be is what `generate` gives alone."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from edgesteer.cli import bulk
from edgesteer.cli.bulk_task import FIELDS

pytestmark = pytest.mark.torch

MACHINE = ("--threads", 1, "--ctx-size", 1024)
ALONE = ("--parallel", 1)
"""In larger batches llama.cpp adds in another order, which may turn the choice between two tokens that are close."""
GREEDY = (*MACHINE, "--temp", 0)
QUICK = (*GREEDY, "--n-predict", 6)
RECORD = [
    "id", "sample", "text", "n_tokens", "stop_reason", "timings", "seed", "steering", "telemetry", "warnings", "input",
    "settings",
]  # fmt: skip


class Bulk(NamedTuple):
    """What a run did: its exit code, stderr, and the records of the output."""

    code: int
    err: str
    records: list[dict[str, Any]]

    @property
    def texts(self) -> dict[Any, str]:
        return {each["id"]: each["text"] for each in self.records if "text" in each}

    @property
    def errors(self) -> dict[int, str]:
        return {each["line"]: each["error"] for each in self.records if "error" in each}


Run = Callable[..., Bulk]


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "out.jsonl"


@pytest.fixture
def run(edgesteer: Any, tiny_model: Any, tmp_path: Path, output: Path) -> Run:
    """Return a function that generates for some lines (objects, or bytes as they are) under some options."""

    def run(*lines: Any, options: tuple[object, ...] = (), machine: tuple[object, ...] = QUICK) -> Bulk:
        write_lines(tmp_path / "in.jsonl", *lines)
        command = ("generate", tiny_model.gguf, "--input", tmp_path / "in.jsonl", "--output", output)
        result = edgesteer(*command, *machine, *options)
        assert result.out == ""
        return Bulk(result.code, result.err, read_records(output))

    return run


def write_lines(path: Path, *lines: Any) -> None:
    path.write_bytes(b"".join(each if isinstance(each, bytes) else json.dumps(each).encode() + b"\n" for each in lines))


def read_records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()] if path.exists() else []


# ---- what is generated ----


def test_every_line_gives_the_text_that_generate_gives(run: Run, edgesteer: Any, tiny_model: Any) -> None:
    prompts = [f"{word} the end" for word in ("one", "two", "three", "four", "five", "six")]
    alone = [edgesteer("generate", tiny_model.gguf, "-p", each, *QUICK).out.removesuffix("\n") for each in prompts]
    done = run(*({"id": each, "prompt": each} for each in prompts), options=ALONE)
    assert done.code == 0
    assert done.texts == dict(zip(prompts, alone, strict=True))
    assert len(set(alone)) == len(alone)


def test_texts_that_run_at_once_are_not_mixed_up(run: Run) -> None:
    biases = {"the end " * number: {str(40 + number): 1000} for number in range(1, 10)}
    lines = [{"id": prompt, "prompt": prompt, "logit_bias": bias} for prompt, bias in biases.items()]
    texts = run(*lines, options=("--parallel", 4)).texts
    assert all(len(set(text)) == 1 for text in texts.values())
    assert len(set(texts.values())) == len(lines)


def test_a_record_says_what_was_asked_and_what_came(run: Run, tiny_steer: Any) -> None:
    [record] = run({"prompt": "the end"}, options=("--steer", f"{tiny_steer()}=0.5", "-s", 7)).records
    assert list(record) == RECORD
    assert (record["id"], record["sample"], record["seed"], record["warnings"]) == (1, 0, 7, [])
    assert record["n_tokens"] == record["timings"]["predicted_n"] <= 6
    assert [(each["controller"], each["strength"]) for each in record["steering"]] == [("warm", 0.5)]
    assert set(record["telemetry"]["warm"]) == {
        "alpha", "running_mean", "error_before", "error_after", "effort", "error_bound", "violations", "checks",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("line", "options"),
    [
        ({"n_predict": 3}, ("-n", 3)),
        ({"temp": 2, "seed": 5, "top_k": 0}, ("--temp", 2, "-s", 5, "--top-k", 0)),
        ({"logit_bias": {"20": 1000}}, None),
        ({"system": "be brief"}, ("-sys", "be brief")),
        ({"raw": True}, ("--raw",)),
        ({"steering": {"warm": 1}}, ("--steer", "warm.gguf=1")),
        ({"steering": {"warm": -0.5}}, ("--steer", "warm.gguf=-0.5")),
        ({"steering": {"warm": {"strength": 1, "loop": "open"}}}, ("--steer", "warm.gguf=1", "--open")),
        ({"steering": {"warm": {"strength": 1, "rows": "all"}}}, ("--steer", "warm.gguf=1", "--rows", "all")),
        ({"steering": {"warm": {"mode": "floor"}}}, ("--steer", "warm.gguf=0.25", "--mode", "floor")),
        ({"steering": {"warm": {"loop": "decay", "decay_tokens": 2}}}, ("--steer", "warm.gguf=0.25", "--decay", 2)),
        ({"steering": {}}, ()),
        ({}, ()),
    ],
)
def test_a_line_sets_what_the_options_set(
    line: Any, options: Any, run: Run, edgesteer: Any, tiny_model: Any, tiny_steer: Any, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    tiny_steer()
    [record] = run({"prompt": "the end", **line}, options=("--steer", "warm.gguf=0.25", *ALONE)).records
    if options is None:  # a bias that no text can resist
        assert len(set(record["text"])) == 1
        return
    steered = () if "steering" in line else ("--steer", "warm.gguf=0.25")
    command = ("generate", tiny_model.gguf, "-p", "the end", *QUICK, *steered, *options, "--json")
    assert record["text"] == json.loads(edgesteer(*command).out)["text"]


def test_lines_of_one_batch_are_steered_each_by_itself(run: Run, tiny_steer: Any) -> None:
    strengths = (0, 1, -1)
    lines = [{"id": each, "prompt": "the end", "steering": {"warm": each}} for each in strengths]
    together = run(*lines, options=("--steer", tiny_steer(), "--parallel", 3))
    assert len(set(together.texts.values())) == 3
    assert [each["steering"][0]["strength"] for each in together.records] == list(strengths)


def test_messages_are_a_conversation(run: Run) -> None:
    user = {"role": "user", "content": "the end"}
    done = run(
        {"id": "prompt", "prompt": "the end"},
        {"id": "messages", "messages": [user]},
        {"id": "longer", "messages": [user, {"role": "assistant", "content": "on"}, user]},
        {"id": "system", "messages": [{"role": "system", "content": "in"}, user]},
        options=ALONE,
    )
    assert done.texts["prompt"] == done.texts["messages"]
    assert len(set(done.texts.values())) == 3


def test_system_message_of_the_command_line_is_for_messages_without_one(run: Run) -> None:
    system, user = {"role": "system", "content": "in"}, {"role": "user", "content": "the end"}
    lines = {"id": 1, "messages": [user]}, {"id": 2, "messages": [system, user]}
    done = run(*lines, options=("-sys", "in", *ALONE))
    assert done.texts[1] == done.texts[2]


def test_a_text_ends_before_a_stop_string(run: Run, output: Path) -> None:
    text = run({"prompt": "the end"}).texts[1]
    output.unlink()
    [record] = run({"prompt": "the end", "stop": text[2]}).records
    assert (record["text"], record["stop_reason"]) == (text[: text.index(text[2])], "stop")


def test_samples_have_the_seeds_that_follow(run: Run, edgesteer: Any, tiny_model: Any) -> None:
    hot = (*MACHINE, "--temp", 2, "-n", 6, "--top-k", 0)
    lines = {"prompt": "the end"}, {"prompt": "the end", "samples": 1}
    done = run(*lines, options=("--samples", 3, "-s", 5, *ALONE), machine=hot)
    seeds = [(each["id"], each["sample"], each["seed"]) for each in done.records]
    assert seeds == [(1, 0, 5), (1, 1, 6), (1, 2, 7), (2, 0, 5)]
    texts = [each["text"] for each in done.records]
    assert texts[0] == texts[3]
    for text, seed in zip(texts, (5, 6, 7), strict=False):
        assert text == edgesteer("generate", tiny_model.gguf, "-p", "the end", *hot, "-s", seed).out.removesuffix("\n")


# ---- where it goes ----


@pytest.mark.parametrize(("options", "order"), [((), [1, 2, 3]), (("--as-finished",), [2, 3, 1])])
def test_texts_come_in_the_order_of_the_input_or_as_finished(options: Any, order: list[int], run: Run) -> None:
    lines = [{"prompt": "the end", "n_predict": count} for count in (12, 1, 2)]
    assert [each["id"] for each in run(*lines, options=options).records] == order


def test_order_holds_where_texts_have_to_wait_for_each_other(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "AHEAD", 1)
    lines = [{"prompt": "the end", "n_predict": 1 + 5 * (number % 3 == 0)} for number in range(9)]
    assert [each["id"] for each in run(*lines, options=("--parallel", 2)).records] == list(range(1, 10))


def test_no_more_texts_are_in_flight_than_may_be(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    flights = []

    class Watched(bulk.Outbox):
        def place(self) -> int:
            flights.append(self.open + 1)
            return super().place()

    monkeypatch.setattr(bulk, "Outbox", Watched)
    monkeypatch.setattr(bulk, "AHEAD", 3)
    lines = [{"prompt": "the end", "n_predict": 30 if number == 0 else 1} for number in range(20)]
    assert len(run(*lines, options=("--parallel", 2)).records) == 20
    assert max(flights) == 6


def test_without_an_output_the_records_are_printed(edgesteer: Any, tiny_model: Any, tmp_path: Path) -> None:
    write_lines(tmp_path / "in.jsonl", {"prompt": "the"}, {"prompt": "a"})
    result = edgesteer("generate", tiny_model.gguf, "-i", tmp_path / "in.jsonl", *QUICK)
    assert [json.loads(line)["id"] for line in result.out.splitlines()] == [1, 2]
    assert result.err.startswith("2 texts, ")


def test_input_may_come_from_standard_input(edgesteer: Any, tiny_model: Any) -> None:
    result = edgesteer("generate", tiny_model.gguf, "--input", "-", *QUICK, stdin=b'{"prompt": "the"}\n{"prompt": 3}')
    assert result.code == 1
    assert json.loads(result.out.splitlines()[0])["id"] == 1
    assert "Error: standard input, line 2: prompt: wrong value; expected a text; found 3\n" in result.err


def test_empty_input_is_no_error(run: Run) -> None:
    done = run(b"\n \n")
    assert (done.code, done.records) == (0, [])


def test_ids_are_line_numbers_where_none_are_given(run: Run) -> None:
    done = run({"prompt": "the"}, b"\n", {"id": "own", "prompt": "a"}, {"prompt": "in"})
    assert list(done.texts) == [1, "own", 4]


# ---- what can be wrong with a line ----

GOOD = {"id": "good", "prompt": "the end"}
USER = {"role": "user", "content": "the"}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{\n", "not valid JSON; found Expecting property name"),
        (b"[" * 100_000 + b"\n", "not valid JSON; found "),
        (b'"text"\n', 'not a JSON object; found "text"'),
        (b'{"prompt": "caf\xe9"}\n', "the text is not UTF-8; found a broken character at byte 16"),
        (b'{"prompt": "\\ud800"}\n', "prompt: the text is not UTF-8; found a broken character at 0"),
        (b'{"prompt": "x", "temp": NaN}\n', "not valid JSON; found NaN, which JSON does not have"),
        (b'{"prompt": "x", "temp": 1e999}\n', "temp: wrong value; expected a finite number; found Infinity"),
        (b'{"prompt": "x", "temp": 1' + b"0" * 400 + b"}\n", "temp: wrong value; expected a finite number; found 1000"),
        ({}, "a line has either prompt or messages; found neither"),
        ({"prompt": "x", "messages": [USER]}, "a line has either prompt or messages; found prompt and messages"),
        ({"prompt": " "}, "prompt: the prompt is empty. Give a text to answer or to continue."),
        ({"prompt": ["x"]}, 'prompt: wrong value; expected a text; found ["x"]'),
        ({"prompt": "x" * 1200}, "the prompt is longer than the context; expected < 1024 tokens; found 1"),
        ({"prompt": "x", "promt": "y"}, "promt: unknown field; expected one of id, prompt, "),
        ({"prompt": "x", "id": True}, "id: wrong value; expected a text or a whole number; found true"),
        ({"prompt": "x", "raw": 1}, "raw: wrong value; expected true or false; found 1"),
        ({"prompt": "x", "raw": True, "system": "y"}, "MODEL: a system message needs a chat template"),
        ({"prompt": "x", "n_predict": 1.5}, "n_predict: wrong value; expected a whole number; found 1.5"),
        ({"prompt": "x", "n_predict": -2}, "n_predict: wrong value; expected a number of tokens, or -1; found -2"),
        ({"prompt": "x", "n_predict": 0}, "no tokens are asked for; expected at least 1; found 0"),
        ({"prompt": "x", "samples": 0}, "samples: wrong value; expected at least 1; found 0"),
        ({"prompt": "x", "stop": [""]}, "stop: wrong value; expected a text or a list of texts, none of them empty"),
        ({"prompt": "x", "top_k": True}, "top_k: wrong value; expected a whole number; found true"),
        ({"prompt": "x", "top_p": 2}, "top_p is out of range"),
        ({"prompt": "x", "grammar": "root ::= ("}, ""),
        ({"prompt": "x", "logit_bias": {"x": 1}}, "logit_bias: wrong value; expected an object of numbers by token"),
        ({"prompt": "x", "logit_bias": {"9999": 1}}, ""),
        ({"messages": []}, "messages: wrong value; expected a list of messages; found []"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0]: wrong value; expected an object with role ("),
        ({"messages": [{**USER, "content": 3}]}, "messages[0].content: wrong value; expected a text; found 3"),
        ({"messages": [USER], "system": "x"}, "messages go with neither system nor raw."),
        ({"prompt": "x", "steering": 1}, "steering: wrong value; expected an object of strengths by "),
        ({"prompt": "x", "steering": {"cold": 1}}, 'steering: no such controller; expected warm; found "cold"'),
        ({"prompt": "x", "steering": {"warm": "1"}}, 'steering.warm: wrong value; expected a finite number; found "1"'),
        (b'{"prompt": "x", "steering": {"warm": NaN}}\n', "not valid JSON; found NaN"),
        (
            {"prompt": "x", "steering": {"warm": {"strenght": 1}}},
            "steering.warm.strenght: unknown field; expected one of strength, mode, rows, loop, decay_tokens",
        ),
        ({"prompt": "x", "steering": {"warm": {"rows": "top"}}}, "warm: unknown rows; expected last or all or"),
        ({"prompt": "x", "steering": {"warm": {"mode": "up"}}}, "warm: unknown mode; expected one-sided or hold"),
        ({"prompt": "x", "steering": {"warm": {"decay_tokens": 0}}}, "warm: decay must be positive; found 0"),
        ({"id": "good", "prompt": "x"}, "an earlier line has the same id; found 'good'. Give it another."),
        ({"id": 1, "prompt": "x"}, "an earlier line has the same id; found 1"),
    ],
)  # fmt: skip
def test_a_bad_line_is_reported_with_its_number_and_the_rest_goes_on(
    line: Any, message: str, run: Run, tiny_model: Any, tiny_steer: Any, tmp_path: Path
) -> None:
    done = run({"prompt": "a"}, GOOD, line, {"id": "last", "prompt": "the"}, options=("--steer", f"{tiny_steer()}=0.5"))
    assert done.code == 1
    assert list(done.texts) == [1, "good", "last"]
    assert list(done.errors) == [3]
    assert done.errors[3].startswith(message.replace("MODEL", str(tiny_model.gguf)))
    reported = [each for each in done.err.splitlines() if each.startswith("Error")]
    assert reported == [f"Error: {tmp_path / 'in.jsonl'}, line 3: {done.errors[3]}"]


def test_errors_keep_their_place_in_the_order(run: Run) -> None:
    done = run({"prompt": "the end"}, b"{\n", {"prompt": "the"}, {"id": "x", "prompt": 3})
    assert [(each["id"], each.get("line")) for each in done.records] == [(1, None), (None, 2), (3, None), ("x", 4)]


def test_strength_outside_the_safe_range_is_said_once_and_recorded(run: Run, tiny_steer: Any) -> None:
    done = run({"prompt": "a"}, {"prompt": "the"}, options=("--steer", f"{tiny_steer()}=1.5"))
    warning = "warm: strength 1.5 is outside the safe range -1 to 1; the text may break"
    assert done.err.count(warning) == 1
    assert [each["warnings"] for each in done.records] == [[warning], [warning]]


def test_texts_that_the_context_cuts_off_are_counted(run: Run) -> None:
    done = run({"prompt": "the end"}, machine=(*MACHINE[:2], "-c", 256, "-n", -1, "--temp", 3, "--top-k", 0, "-s", 1))
    assert done.records[0]["stop_reason"] == "context"
    assert "cut off where their share of the context (64 tokens) was full: 1; use a larger --ctx-size" in done.err


# ---- another run ----


def test_a_rerun_adds_nothing_to_a_finished_output(run: Run, output: Path) -> None:
    lines = [{"prompt": "the"}, {"id": "a", "prompt": "a", "samples": 2}]
    run(*lines)
    before = output.read_bytes()
    again = run(*lines)
    assert again.code == 0
    assert again.err.startswith("0 texts, 3 done before, ")
    assert output.read_bytes() == before


def test_a_rerun_adds_what_is_new(run: Run, output: Path) -> None:
    run({"id": "a", "prompt": "a"}, {"id": "c", "prompt": "in"})
    before = output.read_bytes()
    again = run({"id": "a", "prompt": "a", "samples": 2}, {"id": "b", "prompt": "the"}, {"id": "c", "prompt": "in"})
    assert output.read_bytes().startswith(before)
    assert [(each["id"], each["sample"]) for each in again.records[2:]] == [("a", 1), ("b", 0)]


@pytest.mark.parametrize("cut", [1, 3, 40, -1])
def test_a_torn_last_line_is_cut_off_and_made_again(cut: int, run: Run, output: Path) -> None:
    lines = [{"prompt": "the"}, {"prompt": "a"}]
    whole = run(*lines, options=ALONE)
    first, second = output.read_bytes().splitlines(keepends=True)
    output.write_bytes(first + second[:cut])
    again = run(*lines, options=ALONE)
    assert again.code == 0
    assert output.read_bytes().startswith(first)
    assert again.texts == whole.texts
    assert len(again.records) == 2


def test_a_failed_line_is_tried_again(run: Run) -> None:
    first = run({"id": "a", "prompt": "a"}, {"id": "b", "prompt": 3}, b"{\n")
    assert (first.code, sorted(first.errors)) == (1, [2, 3])
    again = run({"id": "a", "prompt": "a"}, {"id": "b", "prompt": "the"}, {"id": "c", "prompt": "in"})
    assert (again.code, again.errors, list(again.texts)) == (0, {}, ["a", "b", "c"])
    assert again.records[0] == first.records[0]


@pytest.mark.parametrize(
    ("options", "found"),
    [
        (("--temp", 0.5), "temp 0.0, now 0.5"),
        (("-s", 4), "seed as by default, now 4"),
        (("--steer", "other.gguf=0.25"), "steer [{"),
        (("--steer", "warm.gguf=0.5"), "steer [{"),
        (("-n", 5), "n_predict 6, now 5"),
        (("-sys", "x"), 'system as by default, now "x"'),
        (("--raw",), "raw as by default, now true"),
        (("--stop", "x"), 'stop as by default, now ["x"]'),
        (("--open",), "steer [{"),
    ],
)
def test_other_settings_are_not_mixed_in(
    options: Any, found: str, run: Run, output: Path, tiny_steer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tiny_steer(), tiny_steer(file="other.gguf", seed=1)
    steered = () if "--steer" in options else ("--steer", "warm.gguf=0.25")
    run({"prompt": "the"}, options=("--steer", "warm.gguf=0.25"))
    before = output.read_bytes()
    again = run({"prompt": "the"}, {"prompt": "a"}, options=(*steered, *options))
    assert again.code == 1
    assert again.err.startswith(f"Error: {output}, line 1: this text was made with other settings; found {found}")
    assert again.err.endswith(". Give those settings again, or another --output.\n")
    assert output.read_bytes() == before


def test_a_sidecar_that_was_made_anew_is_another_setting(run: Run, tiny_steer: Any) -> None:
    run({"prompt": "the"}, options=("--steer", f"{tiny_steer()}=0.25"))
    again = run({"prompt": "the"}, options=("--steer", f"{tiny_steer(seed=1)}=0.25"))
    assert "this text was made with other settings" in again.err


def test_another_model_is_another_setting(run: Run, tiny_model: Any, output: Path) -> None:
    run({"prompt": "the"})
    text = output.read_text()
    size = tiny_model.gguf.stat().st_size
    output.write_text(text.replace(f"tiny, {size} bytes", "large, 7 bytes"))
    again = run({"prompt": "the"})
    assert f'found model "large, 7 bytes", now "tiny, {size} bytes". Give' in again.err


@pytest.mark.parametrize("options", [("--parallel", 2), ("--samples", 2), ("--as-finished",), ("-c", 512), ("-b", 64)])
def test_what_does_not_decide_a_text_may_change(options: Any, run: Run) -> None:
    run({"prompt": "the"})
    assert run({"prompt": "the"}, options=options).code == 0


def test_a_line_that_says_something_else_now_is_refused(run: Run) -> None:
    run({"id": "a", "prompt": "the"})
    again = run({"id": "a", "prompt": "a"}, {"id": "b", "prompt": "in"})
    assert again.errors[1].startswith("the output has texts of this id that were made from another line")
    assert list(again.texts) == ["a", "b"]


@pytest.mark.parametrize(
    "content",
    [
        b"my notes",
        b"my notes\n",
        b'{"name": 1}\n',
        b'{"id": 1}\n',
        b'{"id": 1, nonsense\n',
        b'{"id": 1}\nx',
        b'{"id": [1], "sample": 0, "input": "", "settings": {}}\n',
    ],
)
def test_a_file_that_is_no_output_is_refused_and_left_alone(
    content: bytes, edgesteer: Any, tiny_model: Any, tmp_path: Path, output: Path
) -> None:
    output.write_bytes(content)
    write_lines(tmp_path / "in.jsonl", {"prompt": "the"})
    result = edgesteer("generate", tiny_model.gguf, "-i", tmp_path / "in.jsonl", "-o", output, *QUICK)
    assert result.code == 1
    assert "not a line of bulk generation's output. Give another --output.\n" in result.err
    assert output.read_bytes() == content


# ---- options ----


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-i", "in.jsonl", "-p", "x"], "--prompt does not go with --input"),
        (["-i", "in.jsonl", "-f", "in.jsonl"], "--file does not go with --input"),
        (["-i", "in.jsonl", "--json"], "--json does not go with --input"),
        (["-p", "x", "-o", "out.jsonl"], "--output needs --input"),
        (["-p", "x", "--samples", "2"], "--samples needs --input"),
        (["-i", "none.jsonl"], "none.jsonl: the input cannot be read; found No such file or directory"),
        (["-i", "."], ".: the input cannot be read; found Is a directory"),
        (["-i", "in.jsonl", "-o", "in.jsonl"], "in.jsonl: would overwrite the file that is read."),
        (["-i", "in.jsonl", "-o", "no/out.jsonl"], "no/out.jsonl: cannot be written: its folder does not exist."),
        (["-i", "in.jsonl", "-o", "."], ".: cannot be written: it is a folder."),
    ],
)
def test_options_that_cannot_be_meant(
    arguments: list[str], message: str, edgesteer: Any, tiny_model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_lines(tmp_path / "in.jsonl", {"prompt": "the"})
    result = edgesteer("generate", tiny_model.gguf, *arguments, *QUICK)
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith(f"Error: {message}")
    assert result.err.count("\n") == 1


# ---- in a process of its own ----


@pytest.fixture
def long_lines(tmp_path: Path) -> Path:
    """Texts that together take far longer than a test, and that no run of the tiny model's luck ends early."""
    bias = {"0": -1000, "2": -1000}
    lines = [{"prompt": "the end", "n_predict": 40, "logit_bias": bias} for _ in range(5000)]
    write_lines(tmp_path / "in.jsonl", *lines)
    return tmp_path / "in.jsonl"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for one process")
def test_ctrl_c_keeps_what_was_done_and_a_rerun_goes_on(
    start: Any, edgesteer: Any, tiny_model: Any, long_lines: Path, output: Path
) -> None:
    with start("generate", tiny_model.gguf, "-i", long_lines, "-o", output, *GREEDY) as process:
        while not (output.exists() and output.read_bytes().count(b"\n") > 3):
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130
        assert process.stderr.read().splitlines()[-1] == "Interrupted."
    done = read_records(output)
    assert 3 < len(done) < 5000
    count = len(done) + 3
    long_lines.write_bytes(b"".join(long_lines.read_bytes().splitlines(keepends=True)[:count]))
    assert edgesteer("generate", tiny_model.gguf, "-i", long_lines, "-o", output, *GREEDY).code == 0
    assert sorted(each["id"] for each in read_records(output)) == list(range(1, count + 1))


@pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot kill so")
def test_a_killed_run_is_gone_on_with(
    start: Any, edgesteer: Any, tiny_model: Any, long_lines: Path, output: Path
) -> None:
    with start("generate", tiny_model.gguf, "-i", long_lines, "-o", output, *GREEDY) as process:
        while not (output.exists() and output.read_bytes().count(b"\n") > 3):
            assert process.poll() is None
        process.kill()
    count = output.read_bytes().count(b"\n") + 3
    long_lines.write_bytes(b"".join(long_lines.read_bytes().splitlines(keepends=True)[:count]))
    assert edgesteer("generate", tiny_model.gguf, "-i", long_lines, "-o", output, *GREEDY).code == 0
    assert sorted(each["id"] for each in read_records(output)) == list(range(1, count + 1))


def test_a_text_comes_while_the_input_is_still_open(start: Any, tiny_model: Any) -> None:
    with start("generate", tiny_model.gguf, "-i", "-", *QUICK, stdin=subprocess.PIPE) as process:
        for number in (1, 2, 3):
            process.stdin.write('{"prompt": "the"}\n')
            process.stdin.flush()
            assert json.loads(process.stdout.readline())["id"] == number
        process.stdin.close()
        assert process.wait(timeout=60) == 0


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for one process")
def test_ctrl_c_ends_a_run_that_waits_for_input(start: Any, tiny_model: Any) -> None:
    with start("generate", tiny_model.gguf, "-i", "-", *QUICK, stdin=subprocess.PIPE) as process:
        process.stdin.write('{"prompt": "the"}\n')
        process.stdin.flush()
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130
        assert process.stderr.read().splitlines()[-1] == "Interrupted."


# ---- docs/bulk.md ----

PAGE = (Path(__file__).parents[2] / "docs" / "bulk.md").read_text("utf-8")


def test_the_pages_input_can_be_read(run: Run, tiny_steer: Any) -> None:
    lines = PAGE.split("```json\n")[1].split("```")[0]
    done = run(lines.encode(), options=("--steer", f"{tiny_steer('warmth')}=0.5"))
    assert (done.code, len(done.records)) == (0, 7)


def test_the_page_names_every_field(run: Run) -> None:
    fields = re.findall(r"`(\w+)`", "".join(re.findall(r"^\|(.*?)\|", PAGE, re.MULTILINE)))
    assert {*FIELDS, "steering", *RECORD} <= {*fields, "messages"}


def test_the_pages_error_is_what_is_written(run: Run, tiny_steer: Any) -> None:
    lines = [{"prompt": "a"}, {"prompt": "the"}, {"id": "letter-3", "prompt": "in", "steering": {"cold": 1}}]
    done = run(*lines, options=("--steer", f"{tiny_steer('warmth')}=0.5"))
    assert done.records[-1] == json.loads(PAGE.split("```json\n")[2].split("```")[0])
