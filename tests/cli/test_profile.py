"""edgesteer profile and edgesteer profile compare, on the tiny model."""

from __future__ import annotations

import importlib.resources
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from edgesteer.cli import profile
from edgesteer.cli.profile import chosen, read_numbers
from edgesteer.errors import EdgeSteerError, EngineError

pytestmark = pytest.mark.torch  # makes the tiny model

Make = Callable[..., Any]
QUICK = ("--threads", 1, "--prompt-len", 8, "--gen-len", 4, "--repeats", 2, "--warmup", 0)
SCHEMA = json.loads((importlib.resources.files("edgesteer.profile") / "profile.schema.json").read_text("utf-8"))


@pytest.fixture(autouse=True)
def small_arrays(monkeypatch: pytest.MonkeyPatch) -> None:
    """The memory's bandwidth is measured for real, and quickly."""
    monkeypatch.setattr("edgesteer.profile.roofline.default_array_bytes", lambda: 1 << 16)
    monkeypatch.setattr("edgesteer.profile.run.IDLE_SECONDS", 0.1)


@pytest.fixture
def run(edgesteer: Make, tiny_model: Any) -> Make:
    """Return a function that profiles the tiny model quickly, with more options."""
    return lambda *options: edgesteer("profile", tiny_model.gguf, *QUICK, *options)


def validated(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(path.read_text("utf-8"))
    jsonschema_rs.validator_for(SCHEMA).validate(document)
    return document


# ---- one model ----


def test_everything_is_measured_by_default(run: Make) -> None:
    result = run()
    assert result.code == 0
    assert "tiny: prompt 8, generated 4, batch 1, threads 1, GPU layers 0, 2 repeats after 0" in result.out
    for title in ("Size", "Latency, ms", "Speed"):
        assert f"\n{title}\n" in result.out
    for label in ("TTFT", "TPOT", "TTLT"):
        assert re.search(rf"unsteered +{label} +[\d.]+", result.out)
    assert re.search(r"\nNo energy: |\nEnergy, idle power included\n", result.out)
    assert "1 threads (2 steps)" in result.err


@pytest.mark.parametrize(("option", "absent"), [("--size", "Latency"), ("--ttft", "Size"), ("--tpot", "TTFT")])
def test_only_what_is_asked_for_is_shown(run: Make, option: str, absent: str) -> None:
    result = run(option)
    assert result.code == 0
    assert absent not in result.out


def test_sizes_alone_generate_nothing(run: Make) -> None:
    assert "(0 steps)" in run("--size").err


def test_lists_are_swept_over(run: Make) -> None:
    result = run("--ttft", "--prompt-len", "4,8", "--batch", "1,2")
    rows = re.findall(r"^(\d+) +(\d+) +unsteered +TTFT", result.out, re.MULTILINE)
    assert rows == [("4", "1"), ("8", "1"), ("4", "2"), ("8", "2")]


def test_steering_is_measured_beside_the_plain_engine(run: Make, tiny_steer: Make) -> None:
    result = run("--steer", f"{tiny_steer()}=0.5")
    assert result.code == 0
    assert "\nSteered over unsteered\n" in result.out
    assert re.search(r"\nTPOT +[\d.]+ +-\n", result.out)  # two rounds are too few for an interval
    assert re.search(r"\nsteered .* %\n", result.out)  # the hook's share
    assert re.search(r"\nsidecars, MB +0\.\d+\n", result.out)


def test_files_hold_every_sample(run: Make, tiny_steer: Make, tmp_path: Path) -> None:
    names = {"--json": "a.json", "--csv": "a.csv", "--plot": "a.png", "--trace": "trace.json"}
    files = {option: tmp_path / name for option, name in names.items()}
    options = [each for pair in files.items() for each in pair]
    result = run("--steer", f"{tiny_steer()}=0.5", "--batch", 2, *options)
    assert result.code == 0
    document = validated(files["--json"])
    assert [len(series["samples"]) for series in document["series"]] == [2, 2]
    assert document["steering"][0]["strength"] == 0.5
    assert document["settings"]["batch"] == [2]
    assert document["model"]["model_name"] == "tiny"
    assert len(files["--csv"].read_text().splitlines()) == 1 + 2 * 2 * 2
    assert files["--plot"].read_bytes().startswith(b"\x89PNG")
    assert json.loads(files["--trace"].read_text())["traceEvents"]
    assert "\nWhere the time goes, by block\n" in result.out
    assert "Tracing" in result.out


def test_cache_types_are_llama_cpps(run: Make, tmp_path: Path) -> None:
    for each in ("f16", "f32"):
        run("--size", "-ctk", each, "-ctv", each, "--json", tmp_path / f"{each}.json")
    half, full = (validated(tmp_path / f"{each}.json")["sizes"][0]["kv_bytes"] for each in ("f16", "f32"))
    assert full == 2 * half
    assert "unknown cache type; expected f32 or f16" in run("-ctk", "q3").err


def test_a_model_named_as_the_subcommand_is_given_as_a_path(
    edgesteer: Make, tiny_model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "compare").write_bytes(tiny_model.gguf.read_bytes())
    monkeypatch.chdir(tmp_path)
    assert edgesteer("profile", "./compare", *QUICK, "--size").code == 0
    assert edgesteer("profile", "--size", "compare", *QUICK).code == 0  # it is no first word here
    assert edgesteer("profile", "compare", *QUICK, "--size").code == 2


# ---- ends ----


def test_a_run_ends_when_its_time_is_up(run: Make, tmp_path: Path) -> None:
    result = run("--max-seconds", 0, "--json", tmp_path / "a.json", "--plot", tmp_path / "a.png")
    assert result.code == 0
    assert not (tmp_path / "a.png").exists()
    assert "Ended early, after 0 samples: the time is up." in result.out
    assert validated(tmp_path / "a.json")["stopped"] == "the time is up"


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT for one process")
def test_ctrl_c_prints_and_writes_what_was_measured(start: Make, tiny_model: Any, tmp_path: Path) -> None:
    options = ("--threads", 1, "--prompt-len", 8, "--gen-len", 4, "--repeats", 1_000_000, "--tpot")
    process: subprocess.Popen[str] = start("profile", tiny_model.gguf, *options, "--json", tmp_path / "a.json")
    assert process.stderr is not None
    assert "1 threads" in process.stderr.readline()
    time.sleep(3)  # many measurements, also on a busy machine: one takes milliseconds
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.endswith("Interrupted.\n")
    assert re.search(r"unsteered +TPOT", out)
    document = validated(tmp_path / "a.json")
    assert document["stopped"] == "interrupted"
    count = len(document["series"][0]["samples"])
    assert f"Ended early, after {count} samples: interrupted." in out


def test_a_failure_after_the_first_samples_shows_them(run: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgesteer.profile import sweep

    engine = sweep.Engine

    def make(model: Any, *arguments: Any, **options: Any) -> Any:
        if options["threads"] == 2:
            raise EngineError("no memory")
        return engine(model, *arguments, **options)

    monkeypatch.setattr(sweep, "Engine", make)
    result = run("--ttft", "--threads", "1,2")
    assert result.code == 1
    assert result.err.endswith("Error: no memory\n")
    assert re.search(r"1 +unsteered +TTFT", result.out)
    assert "Ended early, after 2 samples: no memory." in result.out


def test_a_trace_that_fails_loses_nothing(run: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail(*_: Any) -> Any:
        raise EngineError("no trace")

    monkeypatch.setattr("edgesteer.profile.run.record_trace", fail)
    result = run("--trace", tmp_path / "trace.json")
    assert result.code == 1
    assert result.err.endswith("Error: no trace\n")
    assert re.search(r"unsteered +TPOT", result.out)


# ---- refusals ----


@pytest.mark.parametrize("text", ["", "a", "1,,2", "1.5", "0", "8,-1", "9999999999"])
def test_other_lists_are_refused(text: str) -> None:
    with pytest.raises(EdgeSteerError, match="--batch: not a list of numbers"):
        read_numbers("--batch", text)


def test_numbers_are_read_once_each() -> None:
    assert read_numbers("--batch", "8, 2,8,1") == (8, 2, 1)
    assert read_numbers("--n-gpu-layers", "-1,0", least=-1) == (-1, 0)


def test_no_quantity_means_all() -> None:
    assert chosen({"size": False, "ttft": False}) == ("size", "ttft")
    assert chosen({"size": False, "ttft": True}) == ("ttft",)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "what is to be measured?"),
        (("--quantizations", "."), "go together"),
        (("MODEL", "--quantizations", ".", "--text", "TEXT"), "what is to be measured?"),
        (("--quantizations", ".", "--text", "TEXT", "--json", "one.gguf"), "would overwrite"),
        (("--quantizations", ".", "--text", "TEXT", "--json", "TEXT"), "would overwrite"),
        (("MODEL", "--text", "TEXT"), "go together"),
        (("--quantizations", ".", "--text", "TEXT", "--csv", "a.csv"), "do not go with --quantizations"),
        (("MODEL", "--plot", "a.xyz"), "unknown kind of picture"),
        (("MODEL", "--json", "no/such/folder.json"), "its folder does not exist"),
        (("MODEL", "--trace", "."), "it is a folder"),
        (("MODEL", "--json", "MODEL"), "would overwrite"),
        (("MODEL", "--open", "--decay", "3"), "exclude each other"),
        (("MODEL", "--steer", "none.gguf=1"), "no such file"),
        (("none.gguf",), "no such file"),
    ],
)
def test_wrong_requests_are_refused_before_anything_is_measured(
    edgesteer: Make, tiny_model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: Any, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("TEXT").write_text("Some text.")
    for name in ("MODEL", "one.gguf"):
        Path(name).write_bytes(tiny_model.gguf.read_bytes())
    result = edgesteer("profile", *arguments)
    assert result.code == 1
    assert message in result.err
    assert result.err.count("\n") == 1
    assert result.out == ""


@pytest.mark.parametrize("arguments", [("MODEL",), ("compare", "a.json", "b.json")])
def test_a_missing_package_is_named(start: Make, arguments: tuple[str, ...]) -> None:
    process = start("profile", *arguments, prelude="sys.modules['scipy.stats'] = None")
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (1, "")
    assert 'pip install "edgesteer[profile]"' in err


# ---- compare ----


def test_two_runs_are_compared(run: Make, edgesteer: Make, tmp_path: Path) -> None:
    for name in ("a.json", "b.json"):
        run("--ttft", "--repeats", 6, "--json", tmp_path / name)
    result = edgesteer("profile", "compare", tmp_path / "a.json", tmp_path / "b.json")
    assert result.code == 0
    assert re.search(r"unsteered +TTFT +[\d.]+ +[\d.]+ +[\d.]+ +[\d.]+ to [\d.]+ +\w+", result.out)
    assert "all intervals hold together with 95.0 % confidence" in result.out
    found = edgesteer("profile", "compare", "--json", tmp_path / "a.json", tmp_path / "b.json")
    rows = json.loads(found.out)["rows"]
    assert [(row["metric"], row["n_before"], row["n_after"]) for row in rows] == [("ttft_ms", 6, 6), ("ttlt_ms", 6, 6)]
    assert rows[0]["ratio"]["value"] == pytest.approx(rows[0]["after"] / rows[0]["before"])


def test_compare_needs_no_engine(tmp_path: Path, run: Make) -> None:
    run("--ttft", "--json", tmp_path / "a.json")
    code = (
        "import sys; from edgesteer.cli import run; "
        f"assert run(['profile', 'compare', {str(tmp_path / 'a.json')!r}, {str(tmp_path / 'a.json')!r}]) == 0; "
        "sys.exit('llama_cpp' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, check=False).returncode == 0


def test_compare_refuses_other_files(edgesteer: Make, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{}")
    result = edgesteer("profile", "compare", tmp_path / "a.json", tmp_path / "a.json")
    assert result.code == 1
    assert "not a profile" in result.err


# ---- quantizations ----


def test_a_folder_of_quantizations_is_measured(edgesteer: Make, tiny_model: Any, tmp_path: Path) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    for name in ("a", "b"):
        (folder / f"{name}.gguf").write_bytes(tiny_model.gguf.read_bytes())
    (folder / "broken.gguf").write_bytes(b"GGUF")
    (tmp_path / "text.txt").write_text("The train was late again. " * 10)
    result = edgesteer(
        "profile", "--quantizations", folder, "--text", tmp_path / "text.txt", *QUICK,
        "--json", tmp_path / "q.json", "--plot", tmp_path / "q.svg",
    )  # fmt: skip
    assert result.code == 0
    assert "\nQuality against speed\n" in result.out
    assert re.search(r"\na\.gguf +0\.\d+ +32\.0 +\d\.\d{4} +\+0\.0000", result.out)
    assert "Skipped broken.gguf" in result.out
    document = validated(tmp_path / "q.json")
    assert [len(each["profile"]["series"]) for each in document["models"]] == [1, 1]
    assert b"<svg" in (tmp_path / "q.svg").read_bytes()


# ---- help ----


def test_defaults_are_the_librarys() -> None:
    from edgesteer.profile.sweep import Settings

    for name in ("prompt_len", "gen_len", "batch", "n_gpu_layers"):
        assert read_numbers(name, profile.default_list(name), least=-1) == getattr(Settings(), name)


def test_help_tells_of_compare(edgesteer: Make) -> None:
    result = edgesteer("profile", "--help")
    assert result.code == 0
    assert "profile compare A.json B.json" in result.out
    assert "A.json" in edgesteer("profile", "compare", "--help").out
