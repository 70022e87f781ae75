"""The routes of the controllers: list them, load one from the sidecars' folder, unload one.

Only files that the folder lists can be named, so that no path of a request is ever followed.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from fastapi import APIRouter
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response

from edgesteer.controller import Controller
from edgesteer.errors import EdgeSteerError
from edgesteer.serve.dials import STRENGTH_LIMIT, check_strength
from edgesteer.serve.errors import ApiError
from edgesteer.serve.replies import Json
from edgesteer.serve.schema import LoadController
from edgesteer.serve.service import AnyService, OpenService, Service
from edgesteer.steering_file import pick_controller, read_steering

router = APIRouter()


@router.get("/v1/steering")
async def list_controllers(service: AnyService) -> Json:
    """The loaded controllers, their poles and ranges, and their strengths in requests that say nothing of steering."""
    data = [service.dials.describe(controller) for controller in service.worker.controllers]
    return {"object": "list", "strength_limit": STRENGTH_LIMIT, "data": data}


@router.get("/v1/steering/files")
async def list_files(service: AnyService) -> Json:
    """The files that can be loaded."""
    return {"object": "list", "data": sorted(await run_in_threadpool(files_in, service.settings.sidecars))}


@router.post("/v1/steering", status_code=201)
async def load_controller(body: LoadController, service: OpenService) -> Json:
    """Load a controller; requests that run are not disturbed."""
    async with service.loading:
        controller = await run_in_threadpool(read_controller, body, service)
        if controller.name in service.dials.names:
            raise ApiError(
                409, f"a controller is called {controller.name!r} already", param="name", code="controller_exists"
            )
        check_strength(body.default_strength, service.dials.limits(controller), controller.name, "default_strength")
        await run_in_threadpool(service.worker.load, controller)
        service.dials.note(controller.name, body.default_strength, body.file)
        return service.dials.describe(controller)


@router.delete("/v1/steering/{name:path}", status_code=204)
async def unload_controller(name: str, service: OpenService) -> Response:
    """Unload a controller; requests that run keep it."""
    async with service.loading:
        service.dials.find(name)
        await run_in_threadpool(service.worker.unload, name)
        service.dials.forget(name)
        return Response(status_code=204)


def read_controller(body: LoadController, service: Service) -> Controller:
    """Return the controller that a body names, under the name that it wants.

    Raises ApiError: 403 without a folder, 404 for another file, 400 for one that cannot be used.
    """
    folder = service.settings.sidecars
    if folder is None:
        raise ApiError(
            403, "this server loads no files; start it with --sidecars FOLDER", param="file", code="loading_disabled"
        )
    path = files_in(folder).get(body.file)
    if path is None:
        raise ApiError(404, f"the folder has no file {body.file!r}", param="file", code="file_not_found")
    try:
        content = read_steering(path, service.model.fingerprint)
        controller = pick_controller(content.controllers, body.controller, path)
    except EdgeSteerError as error:
        message = str(error).replace(str(path), path.name)  # where the folder is, is nobody's business
        raise ApiError(400, message, param="file") from error
    return replace(controller, name=body.name or controller.name)


def files_in(folder: Path | None) -> dict[str, Path]:
    """Return the GGUF files of a folder by name, less those that are links to elsewhere."""
    if folder is None:
        return {}
    root = folder.resolve()
    return {path.name: path for path in root.glob("*.gguf") if path.is_file() and path.resolve().parent == root}
