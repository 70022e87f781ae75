"""Options that commands share, and the defaults that belong to the command line alone.

All other defaults are the library's; `options_from` and edgesteer.cli.declared take them from there.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from edgesteer.cli.declared import Field, constant, field_default, fields_of, keyword_default
from edgesteer.controller import MODES
from edgesteer.errors import EdgeSteerError, SteeringError
from edgesteer.files import check_writable

DEMO_MODEL = "smollm2"
DEMO_CONCEPT = "warmth"
DEMO_PROMPT = "What should I do this weekend?"
DEMO_TOKENS = 80
DEMO_TEMP = 0.7
PARALLEL = 4
"""llama.cpp's default for its server."""
MAX_TOKENS = -1
"""llama.cpp's default: until the model ends the text or the context is full."""

ROWS = field_default("edgesteer.runtime.request", "Steering", "rows")
SEQUENCE_TOKENS = constant("edgesteer.runtime.engine", "SEQUENCE_TOKENS")
BATCH_TOKENS = keyword_default("edgesteer.runtime.engine", "Engine", "batch_tokens")
GPU_LAYERS = keyword_default("edgesteer.runtime.model", "LlamaModel", "n_gpu_layers")

STEERING = "Steering"
BULK = "Many prompts"
MACHINE = "Machine"

ModelArgument = Annotated[
    str, typer.Argument(metavar="MODEL", help="A GGUF file, or a name that `edgesteer models list` shows.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
VerboseOption = Annotated[
    bool, typer.Option("--verbose", "-v", help="Then print the speed and what the loop measured on stderr.")
]
PromptOption = Annotated[str | None, typer.Option("--prompt", "-p", metavar="TEXT", help="The prompt.")]
FileOption = Annotated[
    Path | None, typer.Option("--file", "-f", help="Read the prompt from a file; from stdin when there is neither.")
]
InputOption = Annotated[
    Path | None,
    typer.Option(
        "--input",
        "-i",
        metavar="FILE.jsonl",
        rich_help_panel=BULK,
        help="Generate for every line: a JSON object with prompt or messages, and what it sets for itself; -: from "
        "stdin.",
    ),
]
OutputOption = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="OUT.jsonl",
        rich_help_panel=BULK,
        show_default="stdout",
        help="Append the texts to this file, less those that it has already.",
    ),
]
ParallelOption = Annotated[
    int, typer.Option("--parallel", "-np", min=1, max=256, rich_help_panel=BULK, help="Texts that run at once.")
]
SamplesOption = Annotated[
    int,
    typer.Option(
        min=1,
        rich_help_panel=BULK,
        help="Texts of each line, with the seeds --seed, --seed + 1, ... (-n is the length of each).",
    ),
]
OrderOption = Annotated[
    bool,
    typer.Option(
        "--ordered/--as-finished", rich_help_panel=BULK, help="Write the texts in the order of the input, or at once."
    ),
]
SystemOption = Annotated[str, typer.Option("--system", "-sys", metavar="TEXT", help="The system message.")]
RawOption = Annotated[
    bool, typer.Option("--raw", help="Continue the prompt as it is, without the model's chat template.")
]
LengthOption = Annotated[
    int, typer.Option("--n-predict", "-n", min=-1, help="Most tokens to generate; -1: until the context is full.")
]
StopOption = Annotated[
    list[str] | None, typer.Option(metavar="TEXT", help="End before this text; may be given several times.")
]
SteerOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="FILE[#NAME][=STRENGTH]",
        rich_help_panel=STEERING,
        help="A sidecar or control vector, and its strength: 0 is off, 1 the calibrated setting, -1 the other pole; "
        "may be given several times.",
    ),
]
ModeOption = Annotated[
    str | None,
    typer.Option(
        metavar="|".join(MODES),
        rich_help_panel=STEERING,
        show_default="the controller's",
        help="Which way the loop may push.",
    ),
]
RowsOption = Annotated[
    str,
    typer.Option(
        metavar="|".join(constant("edgesteer.runtime.request", "ROWS")),
        rich_help_panel=STEERING,
        help="Which tokens are steered: from the prompt's last one on, the whole prompt too, those that a model "
        "wrote, or none (measure only).",
    ),
]
OpenOption = Annotated[
    bool, typer.Option("--open", rich_help_panel=STEERING, help="Without the outer loop across tokens.")
]
DecayOption = Annotated[
    float | None,
    typer.Option(
        metavar="TOKENS",
        rich_help_panel=STEERING,
        help="Let the steering fade with this time constant, instead of the outer loop.",
    ),
]
ContextOption = Annotated[
    int | None,
    typer.Option(
        "--ctx-size",
        "-c",
        min=1,
        rich_help_panel=MACHINE,
        show_default=f"{SEQUENCE_TOKENS} for each text at once",
        help="Tokens of context, shared by all texts that are worked on at once.",
    ),
]
BatchOption = Annotated[
    int, typer.Option("--batch-size", "-b", min=1, rich_help_panel=MACHINE, help="Most tokens of one decode.")
]
ThreadsOption = Annotated[
    int | None,
    typer.Option(
        "--threads", "-t", min=1, rich_help_panel=MACHINE, show_default="the machine's cores", help="CPU threads."
    ),
]
OffloadOption = Annotated[
    int, typer.Option("--n-gpu-layers", "-ngl", rich_help_panel=MACHINE, help="Blocks to offload; -1: all.")
]
RpcOption = Annotated[
    list[str] | None,
    typer.Option(
        "--rpc",
        metavar="HOST:PORT,...",
        rich_help_panel=MACHINE,
        help="Machines that run llama.cpp's rpc-server, to offload blocks to; may be given several times.",
    ),
]
DeviceOption = Annotated[
    list[str] | None,
    typer.Option(
        "--device",
        "-dev",
        metavar="NAME,...",
        rich_help_panel=MACHINE,
        show_default="RPC servers, then GPUs",
        help="The devices to offload to, as `edgesteer doctor` names them; may be given several times.",
    ),
]
SplitOption = Annotated[
    str | None,
    typer.Option(
        "--tensor-split",
        "-ts",
        metavar="N,...",
        rich_help_panel=MACHINE,
        show_default="by their free memory",
        help="Each device's share of the offloaded blocks, as in 3,1.",
    ),
]

KINDS: dict[str, Any] = {
    "str": str, "int": int, "float": float, "str | None": str, "float | None": float, "tuple[int, ...] | None": tuple,
}  # fmt: skip
"""The type of an option by the annotation of its field; a field of another type is no option."""


def options_from(
    module: str,
    dataclass: str,
    *,
    argument: str,
    panel: str,
    flags: Mapping[str, Sequence[str]] | None = None,
    details: Mapping[str, Mapping[str, Any]] | None = None,
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command one option for each field of a dataclass of the library whose type is among KINDS.

    The command takes the values as a dict in the parameter named by `argument`. flags: short forms by field.
    details: more arguments of typer.Option by field. panel: the heading over these options in a terminal.
    """
    fields = [each for each in fields_of(module, dataclass) if each.annotation in KINDS]
    flags, details = flags or {}, details or {}
    added = [_parameter(each, panel, flags.get(each.name, ()), details.get(each.name, {})) for each in fields]
    return _adding(added, argument, lambda values: values)


def device_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command --rpc, --device and --tensor-split.

    The command takes those that are given as a dict in the parameter `devices`: arguments of LlamaModel.
    """
    kind = inspect.Parameter.KEYWORD_ONLY
    added = [
        inspect.Parameter("rpc", kind, default=None, annotation=RpcOption),
        inspect.Parameter("device", kind, default=None, annotation=DeviceOption),
        inspect.Parameter("tensor_split", kind, default=None, annotation=SplitOption),
    ]
    return _adding(added, "devices", _device_arguments)(command)


def _device_arguments(values: dict[str, Any]) -> dict[str, Any]:
    found = {
        "rpc": split_names(values["rpc"] or ()),
        "device": split_names(values["device"] or ()),
        "tensor_split": parse_shares(values["tensor_split"]),
    }
    return {name: value for name, value in found.items() if value}


def split_names(texts: Sequence[str]) -> tuple[str, ...]:
    """Return the names in texts such as `a,b`, each once, in their order."""
    names = [name.strip() for text in texts for name in text.split(",")]
    return tuple(dict.fromkeys(filter(None, names)))


def parse_shares(text: str | None) -> tuple[float, ...]:
    """Return the numbers of a text such as `3,1`. Raises EdgeSteerError."""
    try:
        return tuple(map(float, text.split(","))) if text is not None else ()
    except ValueError as error:
        where = "--tensor-split"
        raise EdgeSteerError("not a list of numbers", where=where, expected="as in 3,1", found=repr(text)) from error


def _adding(
    added: Sequence[inspect.Parameter], argument: str, convert: Callable[[dict[str, Any]], dict[str, Any]]
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator that gives a command more parameters; it takes their values as a dict in `argument`."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = inspect.signature(command, eval_str=True).parameters.values()
        signature = inspect.Signature([*(each for each in own if each.name != argument), *added])

        @functools.wraps(command)
        def wrapper(**values: Any) -> None:
            taken = {each.name: values.pop(each.name) for each in added}
            command(**values, **{argument: convert(taken)})

        wrapper.__signature__ = signature  # type: ignore[attr-defined]
        wrapper.__annotations__ = {each.name: each.annotation for each in signature.parameters.values()}
        return wrapper

    return decorate


def _parameter(field: Field, panel: str, flags: Sequence[str], details: Mapping[str, Any]) -> inspect.Parameter:
    long = f"--{field.name.replace('_', '-')}"
    option = typer.Option(long, *flags, help=field.doc, rich_help_panel=panel, **details)
    return inspect.Parameter(
        field.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=field.default,
        annotation=Annotated[KINDS[field.annotation], option],
    )


loading_options = options_from(
    "edgesteer.export.weights",
    "LoadOptions",
    argument="loading",
    panel=MACHINE,
    details={
        "stream": {"metavar": "|".join(constant("edgesteer.export.weights", "STREAMS"))},
        "device": {"metavar": "|".join(constant("edgesteer.export.devices", "DEVICES"))},
    },
)
"""The options of commands that read the base model with PyTorch, as a dict in their parameter `loading`."""


def parse_blocks(text: str) -> tuple[int, ...]:
    """Return the block numbers of a text such as `4-20,25`, ascending. Raises SteeringError."""
    blocks: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", part.strip(), re.ASCII)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if last < first:
            raise SteeringError(
                "steered blocks cannot be read", expected="numbers and ranges such as 4-20,25", found=text
            )
        blocks.update(range(first, last + 1))
    return tuple(sorted(blocks))


def format_blocks(blocks: Sequence[int]) -> str:
    """Return the text that parse_blocks reads: `4-20,25`."""
    starts = [b for b in blocks if b - 1 not in blocks]
    ends = [b for b in blocks if b + 1 not in blocks]
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in zip(starts, ends, strict=True))


def check_output(output: Path, *inputs: Path) -> None:
    """Raise EdgeSteerError now when the output could not be written later, or would take the place of an input."""
    check_writable(output)
    for each in inputs:
        if output.exists() and each.exists() and output.samefile(each):
            raise EdgeSteerError("would overwrite the file that is read", where=output, remedy="Give another path.")
