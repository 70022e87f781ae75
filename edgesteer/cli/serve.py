"""`edgesteer serve`: a model behind OpenAI's HTTP interface, where each request carries its own steering."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgesteer.cli import options
from edgesteer.cli.declared import constant, field_default, keyword_default
from edgesteer.cli.request import SteerValue, load_steering, parse_steer
from edgesteer.errors import EdgeSteerError
from edgesteer.extras import needs_extra
from edgesteer.registry import resolve_model
from edgesteer.steering_file import split_name

if TYPE_CHECKING:
    from edgesteer.controller import Controller
    from edgesteer.runtime.model import LlamaModel

HOST = "127.0.0.1"
PORT = 8080
PARALLEL = 4
MAX_WAITING = keyword_default("edgesteer.runtime.worker", "Worker", "max_waiting")
MAX_BODY_BYTES = field_default("edgesteer.serve.service", "Settings", "max_body_bytes")
DRAIN_SECONDS = constant("edgesteer.serve.server", "DRAIN_SECONDS")

NETWORK = "Network"
LIMITS = "Limits"


@options.device_options
def serve(
    model: options.ModelArgument,
    devices: dict[str, Any],
    steer: options.SteerOption = None,
    load: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE[#NAME]",
            rich_help_panel=options.STEERING,
            help="Load a controller, off in requests that say nothing of steering; may be given several times.",
        ),
    ] = None,
    sidecars: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            rich_help_panel=options.STEERING,
            help="The folder whose files may be loaded while the server runs.",
        ),
    ] = None,
    host: Annotated[str, typer.Option(rich_help_panel=NETWORK, help="The address to listen at.")] = HOST,
    port: Annotated[
        int, typer.Option(min=0, max=65535, rich_help_panel=NETWORK, help="The port; 0: a free one.")
    ] = PORT,
    api_key: Annotated[
        str | None,
        typer.Option(
            envvar="EDGESTEER_API_KEY",
            rich_help_panel=NETWORK,
            help="What clients must send as bearer token. Better set by the environment, which others cannot list.",
        ),
    ] = None,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            rich_help_panel=NETWORK,
            show_default="this machine's own names when it alone is served, else any",
            help="A name under which clients may call the server; may be given several times.",
        ),
    ] = None,
    cors_origin: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ORIGIN",
            rich_help_panel=NETWORK,
            help="A web page's origin, such as https://example.org, that may call the server from a browser; may be "
            "given several times.",
        ),
    ] = None,
    parallel: Annotated[
        int, typer.Option(min=1, max=256, rich_help_panel=LIMITS, help="Texts that are worked on at once.")
    ] = PARALLEL,
    queue: Annotated[
        int, typer.Option(min=0, rich_help_panel=LIMITS, help="Most texts that wait; more are refused with 429.")
    ] = MAX_WAITING,
    max_tokens: Annotated[
        int | None,
        typer.Option(
            min=1,
            rich_help_panel=LIMITS,
            show_default="its share of the context",
            help="Most tokens that a request may ask for, and what it gets when it does not say.",
        ),
    ] = None,
    max_body_bytes: Annotated[
        int, typer.Option(min=1, rich_help_panel=LIMITS, help="Longest body of a request.")
    ] = MAX_BODY_BYTES,
    drain_seconds: Annotated[
        float, typer.Option(min=0, rich_help_panel=LIMITS, help="How long answers may go on after Ctrl-C.")
    ] = DRAIN_SECONDS,
    ctx_size: options.ContextOption = None,
    batch_size: options.BatchOption = options.BATCH_TOKENS,
    threads: options.ThreadsOption = None,
    n_gpu_layers: options.OffloadOption = options.GPU_LAYERS,
) -> None:
    """Serve a model over HTTP, with OpenAI's interface.

    Ctrl-C ends it: running answers may go on for a while, then they are ended; a second Ctrl-C does not wait.
    """
    values = [parse_steer(each) for each in steer or ()]
    values += [SteerValue(*split_name(each), 0.0) for each in load or ()]
    check_options(api_key, sidecars)
    with needs_extra("serve"):
        from edgesteer.serve.app import create_app
        from edgesteer.serve.guards import LOOPBACK_NAMES, is_loopback
        from edgesteer.serve.server import Server, open_socket
        from edgesteer.serve.service import Settings
    from edgesteer.runtime.engine import Engine
    from edgesteer.runtime.model import LlamaModel
    from edgesteer.runtime.worker import Worker

    path = resolve_model(model)
    with open_socket(host, port) as listener, LlamaModel(path, n_gpu_layers=n_gpu_layers, **devices) as llama:
        if not is_loopback(host) and not api_key:
            print("Warning: whoever reaches this address may use the server; set EDGESTEER_API_KEY", file=sys.stderr)
        controllers, described = load_controllers(values, llama)
        settings = Settings(
            Path(model).name.removesuffix(".gguf"),
            **described,
            sidecars=sidecars,
            api_key=api_key,
            hosts=allowed_host or (LOOPBACK_NAMES if is_loopback(host) else ()),
            cors_origins=cors_origin or (),
            max_tokens=max_tokens,
            max_choices=parallel,
            max_body_bytes=max_body_bytes,
        )
        engine = Engine(
            llama,
            controllers,
            context_tokens=ctx_size,
            batch_tokens=batch_size,
            n_sequences=parallel,
            threads=threads,
            reloadable=True,
        )
        with Worker(engine, max_waiting=queue) as worker:
            server = Server(create_app(worker, llama, settings), drain_seconds=drain_seconds)
            print(f"{settings.model_id} is served at {address_of(listener)}; Ctrl-C ends it", flush=True)
            server.run([listener])
    if server.forced:
        raise KeyboardInterrupt


def check_options(api_key: str | None, sidecars: Path | None) -> None:
    """Raise EdgeSteerError for a key or a folder that cannot be meant."""
    if api_key is not None and not (api_key.isascii() and api_key.isprintable() and api_key.strip() == api_key != ""):
        raise EdgeSteerError("the API key cannot be sent in a header", expected="printable ASCII without spaces around")
    if sidecars is not None and not sidecars.is_dir():
        raise EdgeSteerError("no such folder", where=sidecars, remedy="Give --sidecars a folder.")


def load_controllers(values: Sequence[SteerValue], model: LlamaModel) -> tuple[list[Controller], dict[str, Any]]:
    """Return the controllers and what Settings says of them; warn when a strength is outside its safe range."""
    from edgesteer.runtime.generate import warn_outside_safe_range

    controllers, steering = load_steering(values, model.fingerprint)
    for controller, asked in zip(controllers, steering, strict=True):
        warn_outside_safe_range(controller, asked.strength)
    defaults = {each.controller: each.strength for each in steering}
    files = {each.name: value.file.name for each, value in zip(controllers, values, strict=True)}
    return controllers, {"defaults": defaults, "files": files}


def address_of(listener: Any) -> str:
    """Return the URL of a listening socket."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
