"""Failures as OpenAI words them: {"error": {"message", "type", "param", "code"}} under OpenAI's statuses.

Nothing else of the package writes an error body. Knows no route.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from edgesteer.errors import BusyError, EdgeSteerError

RETRY_SECONDS = 1


class ApiError(HTTPException):
    """A request that is answered with an error. param: the field of the body that is wrong. code: OpenAI's, or ours."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status, message, headers)
        self.param = param
        self.code = code

    @property
    def response(self) -> Response:
        content = json.dumps(self.body)  # ASCII, whatever it quotes
        return Response(content, self.status_code, self.headers, "application/json")

    @property
    def body(self) -> dict[str, Any]:
        error = {"message": self.detail, "type": error_type(self.status_code), "param": self.param, "code": self.code}
        return {"error": error}


def error_type(status: int) -> str:
    if status == 429:
        return "rate_limit_error"
    return "invalid_request_error" if status < 500 else "server_error"


def as_api_error(error: EdgeSteerError, *, closing: bool) -> ApiError:
    """Return what a client is told of an error of the library that its request has caused.

    closing: whether the server shuts down.
    """
    if isinstance(error, BusyError) and closing:
        return shutting_down()
    if isinstance(error, BusyError):
        return ApiError(429, str(error), code="server_busy", headers={"Retry-After": str(RETRY_SECONDS)})
    return ApiError(400, str(error))


def shutting_down() -> ApiError:
    return ApiError(503, "the server is shutting down", code="shutting_down")


def as_framework_error(error: HTTPException, request: Request) -> ApiError:
    """Return an error of the framework in our shape: an unknown path, a wrong method, a body that cannot be parsed."""
    messages = {
        404: f"there is nothing at {request.url.path}; see /openapi.json",
        405: f"{request.method} is not for {request.url.path}",
    }
    return ApiError(error.status_code, messages.get(error.status_code, str(error.detail)), headers=error.headers)


def as_validation_error(errors: Sequence[Mapping[str, Any]], body: object) -> ApiError:
    """Return what is wrong with a body: of all that the validator found, what lies deepest in it.

    Of a union the validator reports every member; the one that came furthest is the one that was meant.
    """
    if not isinstance(body, dict):
        broken = [f": {each['ctx']['error']}" for each in errors if each["type"] == "json_invalid"]
        return ApiError(400, f"the body is not a JSON object sent as application/json{''.join(broken)}")
    found = [(place_of(each, body), each) for each in errors]
    path = max((path for path, _ in found), key=len)
    meant = [each for at, each in found if at == path]
    param = ".".join(map(str, path))
    message = " or ".join(dict.fromkeys(reason(each) for each in meant)) + shown(meant[0].get("input"))
    return ApiError(400, f"{param}: {message}" if param else message, param=param or None)


def place_of(error: Mapping[str, Any], body: Any) -> tuple[str | int, ...]:
    """Return where in a body an error is: the validator's location without the names of types that are in it."""
    _, *location = error["loc"]
    path: list[str | int] = []
    for part in location:
        if (isinstance(body, dict) and part in body) or (isinstance(body, list) and isinstance(part, int)):
            path.append(part)
            body = body[part]
    return (*path, location[-1]) if error["type"] == "missing" else tuple(path)


def reason(error: Mapping[str, Any]) -> str:
    """Return one error of the validator in words."""
    if error["type"] == "extra_forbidden":
        return "there is no such field"
    if error["type"] == "none_required":
        return "this is not supported by edgesteer"
    return str(error["msg"])


def shown(given: object) -> str:
    """Return what was found instead, when that is short."""
    return f"; found {given!r}" if isinstance(given, str | int | float) and len(repr(given)) < 60 else ""


def add_error_handlers(app: FastAPI) -> None:
    """Answer every failure of an app in OpenAI's shape; what nobody foresaw becomes a 500 without its reasons."""

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        return (error if isinstance(error, ApiError) else as_framework_error(error, request)).response

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        return as_validation_error(error.errors(), error.body).response

    @app.exception_handler(EdgeSteerError)
    async def library(request: Request, error: EdgeSteerError) -> Response:
        return as_api_error(error, closing=request.app.state.service.closing).response

    @app.exception_handler(Exception)
    async def unforeseen(_: Request, error: Exception) -> Response:
        return ApiError(500, "the server failed; its log says why", code="internal_error").response
