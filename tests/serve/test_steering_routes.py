"""Steering over HTTP: each request its own, by field or by name; controllers listed, loaded and unloaded."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from edgesteer.sidecar import Sidecar, write_sidecar

pytestmark = pytest.mark.torch

WARM = {"steering": {"warm": 1}}
NO_END = {"0": -100, "2": -100}


def load(server: Any, file: str = "warm.gguf", **fields: Any) -> Any:
    return server.post("/v1/steering", {"file": file, **fields})


def names(server: Any) -> list[str]:
    return [each["name"] for each in server.get("/v1/steering").json()["data"]]


# ---- what requests ask for ----


def test_each_request_is_steered_as_it_asks(server: Any) -> None:
    texts = [
        server.text(steering=steering) for steering in ({}, {"warm": 1}, {"formal": -1}, {"warm": 1, "formal": -1})
    ]
    assert len(set(texts)) == 4


def test_strength_zero_is_the_unsteered_text(server: Any) -> None:
    assert server.text(steering={"warm": 0}) == server.text(steering={}) == server.text()


def test_a_suffix_of_the_models_name_steers_as_the_field_does(server: Any) -> None:
    field = server.text(steering={"warm": 1, "formal": -0.5})
    assert server.text(model="tiny@warm=1,formal=-0.5") == field
    assert server.text(model="tiny@warm=1") != field
    assert server.text(model="tiny@") == server.text(steering={})


def test_requests_at_the_same_time_do_not_steer_each_other(server: Any) -> None:
    asked: list[Any] = [{}, {"warm": 1}, {"warm": -1}, {"formal": 1}] * 2
    alone = [server.text(steering=each) for each in asked]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda each: server.text(steering=each), asked))
    assert together == alone


def test_all_of_a_controllers_options_reach_the_loop(server: Any) -> None:
    def alpha(**dial: Any) -> Any:
        fields = {"telemetry": True, "temperature": 0, "seed": 1, "max_tokens": 8, "logit_bias": NO_END}
        report = server.chat(**fields, steering={"warm": {"strength": 1, **dial}}).json()["edgesteer"]["steering"][0]
        return report["alpha"], report["effort"], report["push"]

    closed = alpha()
    assert alpha(loop="open")[1] == [1.0] * 7
    assert alpha(loop="decay", decay_tokens=2)[1][-1] < 0.1
    assert alpha(rows="none")[2] == [0.0] * 4
    assert alpha(rows="all") != closed
    assert alpha(mode="ceiling") != closed


def test_the_servers_strengths_are_for_requests_that_say_nothing(start_server: Any, make_controller: Any) -> None:
    server = start_server([make_controller(4, 32, name="warm")], defaults={"warm": 1.0})
    assert server.text() == server.text(steering={"warm": 1}) != server.text(steering={})


def test_who_starts_the_server_may_go_further_than_its_requests_and_they_as_far(
    start_server: Any, make_controller: Any
) -> None:
    server = start_server([make_controller(4, 32, name="warm")], defaults={"warm": 3.0})
    assert server.text() == server.text(steering={"warm": 3})
    assert server.get("/v1/steering").json()["data"][0]["limits"] == [-2, 3]
    assert server.chat(steering={"warm": 3.1}).status_code == 400


# ---- telemetry ----


def test_every_chunk_tells_what_was_measured_at_the_token_before(server: Any) -> None:
    fields: Any = {"telemetry": True, "max_tokens": 4, "logit_bias": NO_END, **WARM}
    body = {"model": "tiny", "messages": [{"role": "user", "content": "the"}], "stream": True, **fields}
    lines = [line[6:] for line in server.post("/v1/chat/completions", body).text.splitlines() if line]
    first, *pieces, last = [each["edgesteer"] for each in map(json.loads, lines[:-1]) if "edgesteer" in each]
    assert list(first) == ["text", "token"]
    assert [list(piece["readings"]["warm"]) for piece in pieces] == [
        ["alpha", "setpoint", "running_mean", "effort", "push"]
    ] * 3
    alphas = [piece["readings"]["warm"]["alpha"] for piece in pieces]
    assert last["steering"][0]["alpha"] == alphas
    assert list(last) == ["steering", "timings", "warnings"]
    assert last["timings"]["predicted_n"] == 4


def test_a_whole_answer_has_the_report_and_the_warnings(server: Any) -> None:
    ours = server.chat(telemetry=True, max_tokens=2, steering={"warm": 1.5}).json()["edgesteer"]
    assert ours["warnings"] == ["warm: strength 1.5 is outside the safe range -1 to 1; the text may break"]
    assert (ours["steering"][0]["controller"], ours["steering"][0]["strength"]) == ("warm", 1.5)


def test_without_the_wish_nothing_of_ours_is_added(server: Any) -> None:
    assert "edgesteer" not in server.chat(max_tokens=2, **WARM).json()


def test_what_was_not_measured_is_null(start_server: Any, make_controller: Any) -> None:
    server = start_server([make_controller(4, 32, name="warm", law="add")])
    steering = {"warm": {"strength": 1, "loop": "open"}}
    answer = server.chat(telemetry=True, max_tokens=3, logit_bias=NO_END, steering=steering).json()
    assert answer["edgesteer"]["steering"][0]["running_mean"] == [None, None]


# ---- the list ----


def test_controllers_are_listed_with_their_poles_and_ranges(server: Any) -> None:
    listed = server.get("/v1/steering").json()
    assert (listed["object"], listed["strength_limit"]) == ("list", 2.0)
    assert listed["data"][0] == {
        "name": "warm", "positive": "up", "negative": "down", "law": "lqr", "blocks": [0, 1, 2, 3],
        "default_strength": 0.0, "tuned_strength": 1.0, "safe_range": [-1.0, 1.0], "limits": [-2.0, 2.0],
        "has_sensor": True, "file": "warm.gguf",
    }  # fmt: skip


# ---- loading and unloading ----


def test_a_controller_can_be_loaded_used_and_unloaded(start_server: Any, folder: Path) -> None:
    server = start_server(sidecars=folder)
    assert server.get("/v1/steering/files").json()["data"] == ["pair.gguf", "warm.gguf"]
    loaded = load(server)
    assert (loaded.status_code, loaded.json()["name"], loaded.json()["file"]) == (201, "warm", "warm.gguf")
    assert server.text(**WARM) != server.text(steering={})
    with server.http as client:
        gone = client.delete("/v1/steering/warm")
    assert (gone.status_code, gone.content) == (204, b"")
    assert names(server) == []
    assert server.chat(**WARM).status_code == 404


def test_a_controller_can_be_picked_named_and_made_the_default(start_server: Any, folder: Path) -> None:
    server = start_server(sidecars=folder)
    loaded = load(server, "pair.gguf", controller="two", name="a/b c", default_strength=1)
    assert (loaded.status_code, loaded.json()["default_strength"]) == (201, 1.0)
    assert server.text() == server.text(steering={"a/b c": 1}) != server.text(steering={})
    with server.http as client:
        assert client.delete("/v1/steering/a%2Fb%20c").status_code == 204
    assert server.text() == server.text(steering={})


def test_loading_does_not_disturb_requests_and_unloading_leaves_them_their_controller(
    start_server: Any, folder: Path
) -> None:
    server = start_server(sidecars=folder, context_tokens=2048, parallel=1)
    load(server)
    body = {"model": "tiny", "prompt": "the", "temperature": 0, "max_tokens": 400, "logit_bias": NO_END, **WARM}
    calm = server.post("/v1/completions", body).json()["choices"][0]["text"]
    with server.http as client, client.stream("POST", "/v1/completions", json={**body, "stream": True}) as response:
        lines = response.iter_lines()
        first = next(lines)
        assert load(server, "pair.gguf", controller="one").status_code == 201
        assert client.delete(f"{server.url}/v1/steering/warm").status_code == 204
        chunks = [json.loads(line[6:]) for line in [first, *lines] if line and not line.endswith("[DONE]")]
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == calm
    assert names(server) == ["one"]


@pytest.mark.parametrize(
    ("fields", "status", "words"),
    [
        ({"file": "none.gguf"}, 404, "the folder has no file 'none.gguf'"),
        ({"file": "../outside.gguf"}, 404, "the folder has no file"),
        ({"file": "/etc/passwd"}, 404, "the folder has no file"),
        ({"file": "link.gguf"}, 404, "the folder has no file"),
        ({"file": "within/warm.gguf"}, 404, "the folder has no file"),
        ({"file": "\0"}, 404, "the folder has no file"),
        ({"file": "pair.gguf"}, 400, "pair.gguf: holds several controllers; expected one or two"),
        ({"file": "pair.gguf", "controller": "three"}, 400, "no such controller; expected one or two; found three"),
        ({"file": "torn.gguf"}, 400, "torn.gguf"),
        ({"file": "other.gguf"}, 400, "sidecar belongs to another model"),
        ({"file": "warm.gguf", "default_strength": 2.5}, 400, "strength 2.5 is outside the limits -2 to 2"),
        ({"file": "warm.gguf", "name": ""}, 400, "name: String should have at least 1 character"),
        ({"file": "warm.gguf", "path": "x"}, 400, "path: there is no such field"),
        ({}, 400, "file: Field required"),
    ],
)
def test_a_file_that_cannot_be_loaded_says_why(
    fields: Any, status: int, words: str, start_server: Any, folder: Path, tmp_path_factory: Any, tiny_llama: Any
) -> None:
    outside = tmp_path_factory.mktemp("outside") / "outside.gguf"
    outside.write_bytes((folder / "warm.gguf").read_bytes())
    os.link(outside, folder.parent / f"{folder.name}.gguf")
    (folder / "link.gguf").symlink_to(outside)
    (folder / "torn.gguf").write_bytes(outside.read_bytes()[:500])
    (folder / "other.gguf").write_bytes(outside.read_bytes().replace(b"llama", b"gemma"))
    (folder / "within").mkdir()
    (folder / "within" / "warm.gguf").write_bytes(outside.read_bytes())
    server = start_server(sidecars=folder)
    response = server.post("/v1/steering", fields)
    assert response.status_code == status
    assert words in response.json()["error"]["message"]
    assert str(folder) not in response.text
    assert names(server) == []


def test_without_a_folder_nothing_is_loaded(server: Any) -> None:
    assert server.get("/v1/steering/files").json()["data"] == []
    response = load(server)
    assert (response.status_code, "--sidecars" in response.json()["error"]["message"]) == (403, True)


def test_of_two_loads_of_one_name_one_succeeds(start_server: Any, folder: Path) -> None:
    server = start_server(sidecars=folder)
    with ThreadPoolExecutor(2) as pool:
        statuses = [response.status_code for response in pool.map(lambda _: load(server), range(2))]
    assert sorted(statuses) == [201, 409]
    assert names(server) == ["warm"]
    assert load(server, name="warmer").status_code == 201


def test_a_sidecar_that_is_deleted_while_loaded_goes_on_working(start_server: Any, folder: Path) -> None:
    server = start_server(sidecars=folder)
    load(server)
    before = server.text(**WARM)
    (folder / "warm.gguf").unlink()
    assert server.text(**WARM) == before
    assert server.get("/v1/steering/files").json()["data"] == ["pair.gguf"]
    assert load(server, name="again").status_code == 404


def test_a_sidecar_that_was_replaced_is_read_anew(
    start_server: Any, folder: Path, tiny_llama: Any, make_controller: Any
) -> None:
    server = start_server(sidecars=folder)
    load(server)
    other = make_controller(tiny_llama.n_blocks, tiny_llama.width, name="warm", seed=9)
    write_sidecar(folder / "warm.gguf", Sidecar(tiny_llama.fingerprint, {"warm": other}))
    load(server, name="new")
    assert server.text(steering={"new": 1}) != server.text(**WARM)
