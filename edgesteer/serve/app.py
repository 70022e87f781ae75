"""create_app: the routes, the guards before them and the shape of their errors, put together as one ASGI app."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.middleware.cors import CORSMiddleware

from edgesteer import __version__
from edgesteer.runtime.model import LlamaModel
from edgesteer.runtime.worker import Worker
from edgesteer.serve import completions, controllers, static
from edgesteer.serve.errors import add_error_handlers
from edgesteer.serve.guards import BodyLimit, HostGuard, KeyGuard, RequestCounter
from edgesteer.serve.schema import ErrorBody
from edgesteer.serve.service import AnyService, OpenService, Service, Settings

ERRORS: dict[int | str, dict[str, Any]] = {"4XX": {"model": ErrorBody}, "5XX": {"model": ErrorBody}}

router = APIRouter()


@router.get("/health")
async def health(service: OpenService) -> Response:
    """Whether requests are taken on, and how much is being done."""
    status = await run_in_threadpool(service.worker.status)
    running = status.prefilling + status.generating
    cells = {"cells_used": status.cells_used, "cells_total": status.cells_total}
    return JSONResponse({"status": "ok", "waiting": status.waiting, "running": running, **cells})


@router.get("/metrics")
async def metrics(service: AnyService) -> Response:
    """For Prometheus."""
    return Response(await run_in_threadpool(service.metrics.text), media_type=CONTENT_TYPE_LATEST)


def create_app(worker: Worker, model: LlamaModel, settings: Settings) -> FastAPI:
    """Return the app of a worker. Its state is `app.state.service`; it owns neither the worker nor the model."""
    app = FastAPI(
        title="edgesteer",
        version=__version__,
        docs_url=None,  # its pages load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
        responses=ERRORS,
    )
    app.state.service = service = Service(worker, model, settings)
    add_error_handlers(app)
    for each in (completions.router, controllers.router, router, static.router):
        app.include_router(each)
    add_guards(app, service)
    return app


def add_guards(app: FastAPI, service: Service) -> None:
    """Put the guards before the routes; the last one added is the first to be passed."""
    settings = service.settings
    app.add_middleware(BodyLimit, max_bytes=settings.max_body_bytes)
    if settings.api_key:
        app.add_middleware(KeyGuard, key=settings.api_key)
    app.add_middleware(HostGuard, hosts=settings.hosts)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.cors_origins),
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["*"],
        )
    app.add_middleware(RequestCounter, metrics=service.metrics)
