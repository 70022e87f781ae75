"""The server as any HTTP client sees it: bad input, guards, state, back-pressure, clients that go, and its end."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from edgesteer.errors import EdgeSteerError
from edgesteer.runtime.request import chat_prompt
from edgesteer.serve import static
from edgesteer.serve.guards import host_name, is_loopback
from edgesteer.serve.server import open_socket

pytestmark = pytest.mark.torch

USER = [{"role": "user", "content": "the end"}]
NO_END = {"0": -100, "2": -100}
LONG = {"model": "tiny", "prompt": "the", "max_tokens": 8000, "logit_bias": NO_END, "stream": True}
"""A body whose text takes seconds."""


def error_of(response: httpx.Response) -> Any:
    """Return the error of a response that has OpenAI's shape and nothing else."""
    body = response.json()
    assert list(body) == ["error"]
    assert list(body["error"]) == ["message", "type", "param", "code"]
    return body["error"]


# ---- bad input ----


@pytest.mark.parametrize(
    ("fields", "status", "param", "words"),
    [
        ({"steering": {"cold": 1}}, 404, "steering.cold", "no controller is called 'cold'; loaded: warm, formal"),
        ({"steering": {"warm": 2.1}}, 400, "steering.warm", "strength 2.1 is outside the limits -2 to 2"),
        ({"steering": {"warm": "1"}}, 400, "steering.warm", "a valid number or"),
        ({"steering": {"warm": None}}, 400, "steering.warm", "a valid number or"),
        ({"steering": {"warm": {}}}, 400, "steering.warm.strength", "Field required"),
        ({"steering": {"warm": {"strength": 1, "mode": "up"}}}, 400, "steering.warm", "unknown mode; expected one-"),
        ({"steering": {"warm": {"strength": 1, "loop": "up"}}}, 400, "steering.warm", "unknown loop; expected closed"),
        ({"steering": {"warm": {"strength": 1, "rows": "up"}}}, 400, "steering.warm", "unknown rows; expected last"),
        ({"steering": [1]}, 400, "steering", "a valid dictionary"),
        ({"steering": {}, "model": "tiny@warm=1"}, 400, "steering", "asked for twice"),
        ({"model": "tiny@warm"}, 400, "model", "'warm' is not a steering"),
        ({"model": "tiny@warm=nan"}, 400, "model", "'warm=nan' is not a steering"),
        ({"model": "tiny@warm=1,warm=0"}, 400, "model", "named twice"),
        ({"model": "tiny@warm=3"}, 400, "model", "strength 3 is outside the limits"),
        ({"model": "tiny@cold=1"}, 404, "model", "no controller is called 'cold'"),
        ({"model": "tiny2"}, 404, "model", "no model is called 'tiny2'; this server has 'tiny'"),
        ({"model": None}, 400, "model", "a valid string"),
        ({"messages": [{"role": "user", "content": "x" * 600}]}, 400, "messages", "the context holds 512"),
        ({"messages": [{"role": "tool", "content": "x"}]}, 400, "messages.0.role", "or 'assistant'; found 'tool'"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "messages.0.content.0.type",
         "should be 'text'; found 'image_url'"),
        ({"messages": [{"role": "user"}]}, 400, "messages.0.content", "Field required"),
        ({"messages": [{"role": "assistant", "content": "x", "tool_calls": [{}]}]}, 400, "messages.0.tool_calls",
         "not supported"),
        ({"tools": [{"type": "function"}]}, 400, "tools", "not supported"),
        ({"temprature": 1}, 400, "temprature", "no such field"),
        ({"temperature": "hot"}, 400, "temperature", "found 'hot'"),
        ({"temperature": True}, 400, "temperature", "a valid number"),
        ({"top_p": 1.5}, 400, "top_p", "less than or equal to 1"),
        ({"max_tokens": 0}, 400, "max_tokens", "greater than or equal to 1"),
        ({"max_completion_tokens": 10**12}, 400, "max_completion_tokens", "less than or equal to"),
        ({"n": 5}, 400, "n", "this server allows 4"),
        ({"n": 2, "telemetry": True}, 400, "telemetry", "one text at a time"),
        ({"seed": 1.5}, 400, "seed", "a valid integer"),
        ({"stop": 5}, 400, "stop", "a valid string or Input should be a valid list; found 5"),
        ({"stop": [""]}, 400, "stop.0", "at least 1 character"),
        ({"logit_bias": {"the": 1}}, 400, "logit_bias.the", "match pattern"),
        ({"logit_bias": {"9999": 1}}, 400, None, "expected 0 to 265; found 9999"),
        ({"top_logprobs": 2}, 400, "top_logprobs", "needs logprobs"),
        ({"grammar": "root ::= ("}, 400, None, "group of the grammar is not closed"),
        ({"grammar": "x", "response_format": {"type": "json_object"}}, 400, "response_format", "exclude each other"),
        ({"response_format": {"type": "json_schema"}}, 400, "response_format.json_schema", "no schema"),
        ({"response_format": {"type": "xml"}}, 400, "response_format.type", "found 'xml'"),
        ({"stream_options": {}}, 400, "stream_options", "only for streams"),
    ],
)  # fmt: skip
def test_a_bad_field_is_named(fields: Any, status: int, param: str | None, words: str, server: Any) -> None:
    response = server.chat(**fields)
    error = error_of(response)
    assert (response.status_code, error["param"], error["type"]) == (status, param, "invalid_request_error")
    assert words in error["message"]


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"prompt": []}, "prompt", "the prompt is empty"),
        ({"prompt": ""}, "prompt", "the prompt is empty"),
        ({"prompt": ["the", ""]}, "prompt", "the prompt is empty"),
        ({"prompt": [266]}, "prompt", "the model has tokens 0 to 265; found 266"),
        ({"prompt": [-1]}, "prompt.0", "greater than or equal to 0"),
        ({"prompt": {"a": 1}}, "prompt", "a valid string or"),
        ({"prompt": "x", "echo": True}, "echo", "not supported"),
        ({"prompt": "x", "best_of": 2}, "best_of", "should be 1; found 2"),
        ({"prompt": "x", "suffix": "y"}, "suffix", "not supported"),
        ({"prompt": "x", "logprobs": True}, "logprobs", "a valid integer"),
        ({"prompt": "x", "messages": USER}, "messages", "no such field"),
        ({}, "prompt", "Field required"),
    ],
)
def test_a_bad_field_of_a_plain_completion_is_named(fields: Any, param: str, words: str, server: Any) -> None:
    response = server.post("/v1/completions", {"model": "tiny", **fields})
    error = error_of(response)
    assert (response.status_code, error["param"]) == (400, param)
    assert words in error["message"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"{", "not a JSON object sent as application/json: Expecting property name"),
        (b"", "not a JSON object"),
        (b"[1]", "not a JSON object"),
        (b'"text"', "not a JSON object"),
        (b"\xff{}", "error parsing the body"),
        (b"[" * 100_000, "error parsing the body"),
        (b"1" * 5000, "error parsing the body"),
        (b'{"temperature": NaN}', "temperature: Input should be a finite number"),
        (b'{"temperature": -Infinity}', "temperature: Input should be a finite number"),
        (b'{"steering": {"warm": NaN}}', "steering.warm: Input should be a finite number"),
        (b'{"model": "\\ud800"}', "half a character"),
        (b'{"steering": {"\\udfff": 1}}', "half a character"),
    ],
)
def test_a_body_that_is_no_json_of_ours_is_refused(body: bytes, words: str, server: Any) -> None:
    base: Any = {"model": "tiny", "messages": USER}
    if body.startswith(b'{"'):
        body = json.dumps(base).encode()[:-1] + b", " + body[1:]
    response = server.post("/v1/chat/completions", content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == 400
    assert words in error_of(response)["message"]


@pytest.mark.parametrize("media_type", [None, "text/plain", "application/x-www-form-urlencoded"])
def test_a_body_of_another_type_is_refused(media_type: str | None, server: Any) -> None:
    """A web page elsewhere may send such bodies without asking the browser."""
    headers = {"Content-Type": media_type} if media_type else {}
    body = json.dumps({"model": "tiny", "messages": USER})
    response = server.post("/v1/chat/completions", content=body, headers=headers)
    assert (response.status_code, "not a JSON object" in error_of(response)["message"]) == (400, True)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/nothing", 404),
        ("GET", "/docs", 404),
        ("GET", "/v1/models/gpt-4", 404),
        ("DELETE", "/v1/steering/cold", 404),
        ("GET", "/page/nothing.js", 404),
        ("GET", "/page/..%2f__init__.py", 404),
        ("GET", "/v1/chat/completions", 405),
        ("POST", "/v1/models", 405),
        ("PUT", "/v1/steering", 405),
    ],
)
def test_unknown_paths_and_methods_have_openais_errors(method: str, path: str, status: int, server: Any) -> None:
    with server.http as client:
        response = client.request(method, path)
    assert response.status_code == status
    assert error_of(response)["type"] == "invalid_request_error"


def test_a_model_without_a_chat_template_says_what_to_use(start_server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    server = start_server()
    chat = server.server._service.model.chat
    monkeypatch.setattr(server.server._service.model, "chat", type(chat)(None, chat.bos, chat.eos, chat.adds_bos))
    response = server.chat()
    assert (response.status_code, "use /v1/completions" in error_of(response)["message"]) == (400, True)


def test_a_defect_of_ours_shows_no_traceback(start_server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    server = start_server()
    monkeypatch.setattr("edgesteer.serve.completions.chat_prompt", lambda *_: 1 / 0)
    response = server.chat()
    assert (response.status_code, error_of(response)["type"]) == (500, "server_error")
    assert "division" not in response.text


# ---- what requests must pass ----


def test_a_long_body_is_refused_whether_or_not_it_says_its_length(start_server: Any) -> None:
    server = start_server(max_body_bytes=1000)
    body = json.dumps({"model": "tiny", "prompt": "x" * 1000}).encode()
    headers = {"Content-Type": "application/json"}
    announced = server.post("/v1/completions", content=body, headers=headers)
    chunked = server.post("/v1/completions", content=iter([body[:600], body[600:]]), headers=headers)
    for response in (announced, chunked):
        assert (response.status_code, error_of(response)["code"]) == (413, "body_too_large")
    assert server.post("/v1/completions", {"model": "tiny", "prompt": "x", "max_tokens": 1}).status_code == 200


def test_more_tokens_than_the_server_allows_are_refused_and_its_limit_is_the_default(start_server: Any) -> None:
    server = start_server(max_tokens=3)
    refused = server.chat(max_tokens=4)
    assert (refused.status_code, error_of(refused)["param"]) == (400, "max_tokens")
    assert server.chat(logit_bias=NO_END).json()["usage"]["completion_tokens"] == 3


@pytest.mark.parametrize("path", ["/v1/models", "/v1/steering", "/v1/nothing", "/metrics", "/openapi.json"])
def test_a_server_with_a_key_answers_only_those_who_have_it(path: str, start_server: Any) -> None:
    server = start_server(api_key="open sesame")
    for headers in (
        {},
        {"Authorization": "Bearer open"},
        {"Authorization": "Basic x"},
        {"Authorization": b"Bearer \xff"},
    ):
        response = server.get(path, headers=headers)
        assert (response.status_code, error_of(response)["code"]) == (401, "invalid_api_key")
    assert server.get(path, headers={"Authorization": "Bearer open sesame"}).status_code in (200, 404)


def test_the_page_and_the_state_of_health_need_no_key(start_server: Any) -> None:
    server = start_server(api_key="open sesame")
    assert [server.get(path).status_code for path in ("/health", "/", "/page/nothing.js")] == [200, 200, 404]


def test_a_server_of_this_machine_is_called_by_its_own_names_only(start_server: Any) -> None:
    server = start_server(hosts=("localhost", "::1"))
    port = server.url.rpartition(":")[2]
    for host, status in {f"LOCALHOST:{port}": 200, "[::1]": 200, "evil.example": 403, "127.0.0.1": 403}.items():
        assert server.get("/health", headers={"Host": host}).status_code == status
    assert error_of(server.get("/health", headers={"Host": "evil.example"}))["code"] == "host_not_allowed"


@pytest.mark.parametrize(
    ("header", "name"),
    [("a:80", "a"), ("a", "a"), ("[::1]:80", "::1"), ("[::1]", "::1"), ("", ""), ("::1", "::1"), ("a:b", "a:b")],
)
def test_host_name_leaves_out_the_port(header: str, name: str) -> None:
    assert host_name(header) == name


@pytest.mark.parametrize(
    ("host", "answer"),
    [("127.0.0.1", True), ("127.1.2.3", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("a.b", False)],
)
def test_loopback_is_this_machine_alone(host: str, answer: bool) -> None:
    assert is_loopback(host) is answer


def test_pages_elsewhere_may_read_only_what_their_origin_is_allowed_to(start_server: Any) -> None:
    asked = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST"}
    closed, opened = start_server(), start_server(cors_origins=["https://a.example"], api_key="key")
    assert "access-control-allow-origin" not in closed.get("/v1/models", headers=asked).headers
    with opened.http as client:
        before = client.options("/v1/chat/completions", headers=asked)
    assert (before.status_code, before.headers["access-control-allow-origin"]) == (200, "https://a.example")
    assert opened.get("/v1/models", headers=asked).headers["access-control-allow-origin"] == "https://a.example"
    other = opened.get("/v1/models", headers={"Origin": "https://b.example"}).headers
    assert "access-control-allow-origin" not in other


# ---- the page ----


def test_the_page_may_load_nothing_from_elsewhere_and_is_sent_once(server: Any) -> None:
    page = server.get("/")
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert page.headers["content-security-policy"].startswith("default-src 'self';")
    assert page.headers["x-content-type-options"] == "nosniff"
    again = server.get("/", headers={"If-None-Match": page.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize(
    ("suffix", "media_type"), [("js", "text/javascript"), ("css", "text/css"), ("svg", "image/svg")]
)
def test_files_of_the_page_have_their_types(suffix: str, media_type: str, server: Any) -> None:
    name = next(name for name in static.assets() if name.endswith(suffix))
    assert server.get(f"/page/{name}").headers["content-type"].startswith(media_type)


def test_an_installation_without_the_page_says_where_the_interface_is(
    server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(static, "assets", dict)
    response = server.get("/")
    assert (response.status_code, "the API is at /v1" in error_of(response)["message"]) == (404, True)


# ---- state ----


def test_health_counts_texts_and_cells(start_server: Any) -> None:
    server = start_server(context_tokens=8192, parallel=1)
    assert server.get("/health").json() == {
        "status": "ok", "waiting": 0, "running": 0, "cells_used": 0, "cells_total": 8192,
    }  # fmt: skip
    with streaming(server), streaming(server, wait=False):
        health = server.get("/health").json()
    assert (health["waiting"], health["running"], health["cells_used"] > 0) == (1, 1, True)


def test_metrics_count_tokens_requests_and_the_loops_error(start_server: Any, make_controller: Any) -> None:
    server = start_server([make_controller(4, 32, name="warm")])
    body = {"model": "tiny", "prompt": [5, 6, 7], "max_tokens": 4, "logit_bias": NO_END, "steering": {"warm": 1}}
    for _ in range(2):
        assert server.post("/v1/completions", body).status_code == 200
    server.chat(model="other")
    values = dict(line.rsplit(" ", 1) for line in server.get("/metrics").text.splitlines() if line[0] != "#")
    counted = {name: float(value) for name, value in values.items()}
    assert counted["edgesteer_generated_tokens_total"] == 8
    assert counted["edgesteer_prompt_tokens_total"] == 6
    assert counted["edgesteer_cached_tokens_total"] == 2
    assert counted["edgesteer_time_to_first_token_seconds_count"] == 2
    assert counted["edgesteer_time_per_token_seconds_count"] == 6
    assert counted['edgesteer_alpha_error_count{controller="warm"}'] == 6
    assert counted['edgesteer_requests_total{route="/v1/completions",status="200"}'] == 2
    assert counted['edgesteer_requests_total{route="/v1/chat/completions",status="404"}'] == 1
    assert counted['edgesteer_kv_cells{use="total"}'] == 512


# ---- many clients, and clients that go ----


@contextmanager
def streaming(server: Any, wait: bool = True, **fields: Any) -> Iterator[Iterator[str]]:
    """Ask for a long text, and go away at the end of the body. wait: until its first event has come."""
    with server.http as client, client.stream("POST", "/v1/completions", json={**LONG, **fields}) as response:
        assert response.status_code == 200
        lines = response.iter_lines()
        if wait:
            next(lines)
        yield lines


def test_a_stream_that_nobody_reads_any_more_gives_its_cells_back(start_server: Any) -> None:
    server = start_server(context_tokens=8192, parallel=1)
    with streaming(server):
        pass
    assert server.wait_until_idle()["cells_used"] == 0
    assert generated(server) < 8000


def test_an_answer_that_nobody_waits_for_is_not_written_to_its_end(start_server: Any) -> None:
    server = start_server(context_tokens=8192, parallel=1)
    with pytest.raises(httpx.ReadTimeout), server.http as client:
        client.post("/v1/completions", json={**LONG, "stream": False}, timeout=0.5)
    assert server.wait_until_idle()["cells_used"] == 0
    assert generated(server) < 8000


def generated(server: Any) -> float:
    lines = server.get("/metrics").text.splitlines()
    return float(next(line for line in lines if line.startswith("edgesteer_generated_tokens_total")).split()[1])


def test_a_full_queue_refuses_with_429_and_says_when_to_come_back(start_server: Any) -> None:
    server = start_server(context_tokens=8192, parallel=1, queue=0)
    with streaming(server):
        refused = server.chat()
        assert (refused.status_code, error_of(refused)["type"]) == (429, "rate_limit_error")
        assert int(refused.headers["retry-after"]) > 0
    server.wait_until_idle()
    assert server.chat(max_tokens=1).status_code == 200


def test_of_several_choices_none_runs_when_one_does_not_fit_the_queue(start_server: Any) -> None:
    server = start_server(context_tokens=8192, parallel=2, queue=0)
    with streaming(server):
        assert server.chat(n=2).status_code == 429
        assert server.get("/health").json()["running"] == 1


def test_a_failure_in_mid_stream_is_an_event_and_the_stream_ends(server: Any) -> None:
    body = {**LONG, "max_tokens": 8, "grammar": 'root ::= "ab" "\\x00"'}  # no token spells a NUL
    with server.http as client, client.stream("POST", "/v1/completions", json=body) as response:
        *chunks, failure, done = [line for line in response.iter_lines() if line]
    texts = [json.loads(chunk.removeprefix("data: "))["choices"][0]["text"] for chunk in chunks]
    assert "".join(texts) == "ab"
    assert json.loads(failure.removeprefix("data: "))["error"]["type"] == "server_error"
    assert done == "data: [DONE]"


def test_a_failure_without_a_stream_is_a_500_and_the_others_go_on(server: Any) -> None:
    response = server.post("/v1/completions", {**LONG, "stream": False, "grammar": 'root ::= "ab" "\\x00"'})
    assert (response.status_code, error_of(response)["code"]) == (500, "generation_failed")
    assert server.chat(max_tokens=1).status_code == 200


def test_a_character_that_is_split_over_tokens_is_sent_whole(server: Any) -> None:
    body = {**LONG, "max_tokens": 16, "grammar": 'root ::= "é€😀"'}
    with server.http as client, client.stream("POST", "/v1/completions", json=body) as response:
        lines = [line.removeprefix("data: ") for line in response.iter_lines() if line]
    texts = [json.loads(line)["choices"][0]["text"] for line in lines[:-1]]
    assert [text for text in texts if text] == ["é", "€", "😀"]


def test_a_long_prompt_does_not_hold_up_the_others(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked, free = threading.Event(), threading.Event()

    def slow(model: Any, messages: Any) -> Any:
        blocked.set()
        free.wait(30)
        raise EdgeSteerError("enough")

    monkeypatch.setattr("edgesteer.serve.completions.chat_prompt", slow)
    thread = threading.Thread(target=server.chat)
    thread.start()
    blocked.wait(30)
    assert server.get("/health").status_code == 200
    free.set()
    thread.join()


# ---- the end ----


def test_a_port_that_is_in_use_is_said_in_one_line() -> None:
    with open_socket("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(EdgeSteerError, match=f"127.0.0.1:{port}: cannot listen here; found Address already in use"):
            open_socket("127.0.0.1", port)


def test_a_host_that_does_not_exist_is_said_in_one_line() -> None:
    with pytest.raises(EdgeSteerError, match=r"a\.invalid:1: cannot listen here"):
        open_socket("a.invalid", 1)


def test_the_end_lets_running_answers_finish(start_server: Any) -> None:
    server = start_server(context_tokens=8192, parallel=1, drain_seconds=60)
    with streaming(server, max_tokens=300) as lines:
        server.server.should_exit = True
        assert finish_reasons(lines) == ["length", "[DONE]"]
    assert generated_after(server) == 300


def generated_after(server: Any) -> float:
    text = server.server._service.metrics.text().decode()
    return float(text.partition("\nedgesteer_generated_tokens_total ")[2].split()[0])


def test_the_end_cuts_answers_that_take_too_long_but_ends_their_streams(start_server: Any) -> None:
    server = start_server(context_tokens=8192, parallel=1, drain_seconds=0)
    with streaming(server) as lines:
        server.server.should_exit = True
        assert finish_reasons(lines) == ["length", "[DONE]"]
    assert generated_after(server) < 8000


def finish_reasons(lines: Iterator[str]) -> list[str]:
    """Return what the last two events say: a finish reason, and that they are the last."""
    *_, last, done = [line.removeprefix("data: ") for line in lines if line]
    return [json.loads(last)["choices"][0]["finish_reason"], done]


def test_a_client_that_reads_nothing_does_not_hold_up_the_end(
    start_server: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("edgesteer.serve.server.GRACE_SECONDS", 0)
    server = start_server(context_tokens=8192, parallel=1, send_buffer=4096)
    fields = {**LONG, "max_tokens": 500, "telemetry": True, "logprobs": 5}
    body = json.dumps(fields).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", int(server.url.rpartition(":")[2])))
        client.sendall(head.encode() + b"\r\n\r\n" + body)
        while not generated(server):
            pass
        server.wait_until_idle()
        deadline = time.monotonic() + 30
        while len(server.server.server_state.tasks) > 1 and time.monotonic() < deadline:
            time.sleep(0.01)  # for the tasks of what was asked above
        assert len(server.server.server_state.tasks) == 1  # it is all written, and cannot be sent
        server.server.should_exit = True
        server.thread.join(60)
    assert not server.thread.is_alive()
    assert not caplog.records


def test_a_server_that_ends_takes_on_nothing_more(start_server: Any) -> None:
    server = start_server()
    server.server._service.closing = True
    for response in (server.chat(), server.get("/health")):
        assert (response.status_code, error_of(response)["code"]) == (503, "shutting_down")


def test_a_request_that_comes_just_before_the_end_is_told_so(
    start_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = start_server()
    service = server.server._service

    def end(prompt: Any) -> Any:
        service.closing = True
        service.worker.close()
        return prompt

    monkeypatch.setattr("edgesteer.serve.completions.chat_prompt", lambda *it: end(chat_prompt(*it)))
    response = server.chat()
    assert (response.status_code, error_of(response)["code"]) == (503, "shutting_down")


def test_the_port_is_free_again_after_the_end(start_server: Any) -> None:
    server = start_server()
    port = int(server.url.rpartition(":")[2])
    server.server.should_exit = True
    for _ in range(600):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                break
        time.sleep(0.05)
    with open_socket("127.0.0.1", port) as again:
        assert again.getsockname()[1] == port
