"""Whatever schemathesis makes of the server's own OpenAPI, the server does not fail."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings

pytestmark = pytest.mark.torch

EXAMPLES = settings(
    max_examples=25,
    derandomize=True,
    deadline=None,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture
def operations(start_server: Any, make_controller: Any, folder: Path) -> dict[str, Any]:
    """What a server says it can do, by method and path; its texts are short."""
    server = start_server([make_controller(4, 32, name="hot")], sidecars=folder, max_tokens=4)
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    found = [result.ok() for result in schema.get_all_operations()]
    return {f"{each.method.upper()} {each.path}": each for each in found}


@pytest.mark.parametrize(
    "operation",
    [
        "GET /v1/models",
        "GET /v1/models/{model}",
        "POST /v1/chat/completions",
        "POST /v1/completions",
        "GET /v1/steering",
        "POST /v1/steering",
        "GET /v1/steering/files",
        "DELETE /v1/steering/{name}",
        "GET /health",
        "GET /metrics",
    ],
)
def test_no_request_makes_the_server_fail(operation: str, operations: dict[str, Any]) -> None:
    seen: set[int] = set()

    @EXAMPLES
    @given(case=operations[operation].as_strategy())
    def send(case: Any) -> None:
        mend_names(case.body)
        seen.add(case.call().status_code)

    send()
    assert seen
    assert max(seen) < 500
    if "completions" in operation:
        assert {200, 400} <= seen


def mend_names(body: Any) -> None:
    """Let a body name the model and the controller that there are: guessed ones would end most requests at once."""
    if not isinstance(body, dict):
        return
    if isinstance(body.get("model"), str):
        body["model"] = "tiny"
    if isinstance(body.get("steering"), dict) and body["steering"]:
        body["steering"] = {"hot": next(iter(body["steering"].values()))}
    if isinstance(body.get("file"), str):
        body["file"] = "warm.gguf"


def test_every_operation_is_tried(operations: dict[str, Any]) -> None:
    mark = test_no_request_makes_the_server_fail.pytestmark[0]  # type: ignore[attr-defined]
    assert sorted(operations) == sorted(mark.args[1])
