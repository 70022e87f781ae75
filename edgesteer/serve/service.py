"""Service: the state of one server, which its routes share, and the settings that it was started with."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from fastapi import Depends, Request

from edgesteer.runtime.model import LlamaModel
from edgesteer.runtime.worker import Worker
from edgesteer.serve.dials import Dials
from edgesteer.serve.errors import shutting_down
from edgesteer.serve.metrics import Metrics


@dataclass(frozen=True)
class Settings:
    """What whoever starts a server decides.

    defaults: strengths of controllers in requests that say nothing of steering. files: the file of each controller, for
    show. sidecars: the folder whose files may be loaded at run time. hosts: names under which the server may be called;
    none: any. max_tokens: limit and default of a request. max_choices: most texts of one request.
    """

    model_id: str
    defaults: Mapping[str, float] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    sidecars: Path | None = None
    api_key: str | None = None
    hosts: Sequence[str] = ()
    cors_origins: Sequence[str] = ()
    max_tokens: int | None = None
    max_choices: int = 4
    max_body_bytes: int = 1_048_576


class Service:
    """context_tokens: of all texts together. closing: the server shuts down, and takes on nothing more."""

    def __init__(self, worker: Worker, model: LlamaModel, settings: Settings) -> None:
        self.worker = worker
        self.model = model
        self.settings = settings
        self.dials = Dials(worker, settings.defaults, settings.files)
        self.metrics = Metrics(worker)
        self.context_tokens = worker.status().cells_total
        self.started = int(time.time())
        self.loading = asyncio.Lock()
        """Held while controllers are loaded or unloaded, one at a time."""
        self.closing = False


def service_of(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


def open_service(request: Request) -> Service:
    """Return the service. Raises ApiError, 503, while it shuts down."""
    service = service_of(request)
    if service.closing:
        raise shutting_down()
    return service


AnyService = Annotated[Service, Depends(service_of)]
OpenService = Annotated[Service, Depends(open_service)]
