"""The web page: its files as they lie in the package, under a policy that lets it load nothing from elsewhere."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from fastapi import APIRouter
from fastapi.responses import Response
from starlette.requests import Request

from edgesteer.serve.errors import ApiError

router = APIRouter(include_in_schema=False)

MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
"""What is served; other files are not."""
HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


@dataclass(frozen=True)
class Asset:
    content: bytes
    media_type: str

    @property
    def tag(self) -> str:
        return f'"{hashlib.sha256(self.content).hexdigest()[:32]}"'


@router.get("/")
async def page(request: Request) -> Response:
    return send_asset("index.html", request)


@router.get("/page/{name}")
async def asset(name: str, request: Request) -> Response:
    return send_asset(name, request)


def send_asset(name: str, request: Request) -> Response:
    """Return a file of the page, or 304 when the client has it. Raises ApiError, 404."""
    found = assets().get(name)
    if found is None:
        raise ApiError(404, f"the page has no {name!r}; the API is at /v1, see /openapi.json", code="not_found")
    headers = {**HEADERS, "ETag": found.tag}
    if found.tag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(found.content, headers=headers, media_type=found.media_type)


@cache
def assets() -> dict[str, Asset]:
    """Return the page's files by name; none when this installation has no page."""
    folder = files("edgesteer.serve") / "page"
    found = {}
    for each in folder.iterdir() if folder.is_dir() else ():
        media_type = MEDIA_TYPES.get("." + each.name.rpartition(".")[2])
        if media_type and each.is_file():
            found[each.name] = Asset(each.read_bytes(), media_type)
    return found
