"""`edgesteer chat`: a conversation in the terminal, whose steering can be turned while it goes on."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import typer

from edgesteer.cli import options
from edgesteer.cli.chat_file import load, save, strengths
from edgesteer.cli.chat_input import choose_source
from edgesteer.cli.chat_screen import Screen, coloured_tokens, dial_lines, numbered_tokens, visible
from edgesteer.cli.console import print_table
from edgesteer.cli.conversation import Answer, Conversation
from edgesteer.cli.generate import choose_loop, print_measurements
from edgesteer.cli.options import options_from
from edgesteer.cli.request import load_steering, parse_steer, require_utf8
from edgesteer.errors import EdgeSteerError, ModelError, SteeringError
from edgesteer.registry import resolve_model

if TYPE_CHECKING:
    from edgesteer.controller import Controller
    from edgesteer.runtime.model import LlamaModel

OFF = "off"


@options_from("edgesteer.runtime.sampling", "Sampling", argument="sampling", panel="Sampling", flags={"seed": ("-s",)})
@options.device_options
def chat(
    model: options.ModelArgument,
    sampling: dict[str, Any],
    devices: dict[str, Any],
    system: options.SystemOption = "",
    n_predict: options.LengthOption = options.MAX_TOKENS,
    stop: options.StopOption = None,
    steer: options.SteerOption = None,
    mode: options.ModeOption = None,
    rows: options.RowsOption = options.ROWS,
    open_loop: options.OpenOption = False,
    decay: options.DecayOption = None,
    ctx_size: options.ContextOption = None,
    batch_size: options.BatchOption = options.BATCH_TOKENS,
    threads: options.ThreadsOption = None,
    n_gpu_layers: options.OffloadOption = options.GPU_LAYERS,
    verbose: options.VerboseOption = False,
) -> None:
    """Talk with a model, and turn its dials while you do; /help lists the commands.

    Ctrl-C stops an answer, Ctrl-D ends the chat. In a pipe every line is a message or a command, and the answers are
    printed; the exit code is 1 when one of them failed.
    """
    loop, values = choose_loop(open_loop, decay), [parse_steer(each) for each in steer or ()]
    require_utf8(system, "--system")
    from edgesteer.runtime.batch import Batch
    from edgesteer.runtime.engine import Engine
    from edgesteer.runtime.model import LlamaModel
    from edgesteer.runtime.sampling import Sampling

    with LlamaModel(resolve_model(model), n_gpu_layers=n_gpu_layers, **devices) as llama:
        require_chat_template(llama)
        controllers, dials = load_steering(values, llama.fingerprint, mode=mode, rows=rows, **loop)
        with Engine(llama, controllers, context_tokens=ctx_size, batch_tokens=batch_size, threads=threads) as engine:
            limit = n_predict if n_predict >= 0 else None
            talk = Conversation(Batch(engine), dials, Sampling(**sampling), system=system, limit=limit, stop=stop or ())
            code = Chat(talk, Path(model).name.removesuffix(".gguf"), verbose=verbose).run()
    if code:
        raise typer.Exit(code)


def require_chat_template(model: LlamaModel) -> None:
    """Raise ModelError for a model that does not say how a conversation is written down."""
    if model.chat.source is None:
        raise ModelError(
            "the model has no chat template", where=model.path, remedy="Use `edgesteer generate --raw` with it."
        )


class Chat:
    """Reads messages and commands, and carries them out until the end of the input."""

    def __init__(self, conversation: Conversation, model_name: str, *, verbose: bool = False) -> None:
        self._talk = conversation
        self._model_name = model_name
        self._verbose = verbose
        self._screen = Screen()
        self._files: set[Path] = set()
        """What this chat has read or written, and may write again."""

    def run(self) -> int:
        """Return the exit code: 1 when something failed that no one was there to see."""
        source, failed, interrupts = choose_source(self._words, self._status), 0, 0
        if source.interactive:
            self._screen.note(f"{self._model_name}. /help lists the commands, Ctrl-D ends the chat.")
        for controller in self._talk.controllers.values():
            self._warn(controller)
        while True:
            try:
                text = source.read()
                interrupts = 0
                self._take(text)
            except EOFError:
                return int(failed and not source.interactive)
            except EdgeSteerError as error:
                failed = 1
                self._screen.error(error)
            except KeyboardInterrupt:
                interrupts += 1
                if not source.interactive:
                    raise
                if interrupts > 1:
                    self._screen.note("Ctrl-D or /exit ends the chat.")

    def _take(self, text: str) -> None:
        """Answer a message, or carry out a command. Raises EOFError for /exit."""
        if not text.startswith("/"):
            if text.strip():
                self._answer(lambda: self._talk.ask(text.strip()))
            return
        name, *arguments = text[1:].split(maxsplit=1) or [""]
        find_command(name).run(self, "".join(arguments).strip())

    def _words(self) -> list[str]:
        """Return what a command may be completed to."""
        dials = [f"/steer {name}" for name in self._talk.controllers]
        return [*(f"/{name}" for name in COMMANDS), *dials]

    def _status(self) -> str:
        """Return the line below the prompt: the dials, and how full the context is."""
        status = self._talk.batch.status()
        dials = [f"{dial.controller} {dial.strength:g}" for dial in self._talk.dials.values()]
        return "   ".join([*dials, f"{status.cells_used + status.cells_cached} of {status.cells_total} tokens"])

    def _warn(self, controller: Controller) -> None:
        from edgesteer.runtime.generate import outside_safe_range

        warning = outside_safe_range(controller, self._talk.dials[controller.name].strength)
        if warning:
            self._screen.warning(warning)

    # ---- answers ----

    def _answer(self, ask: Callable[[], Answer]) -> None:
        """Begin an answer, show it, and keep what there is of it."""
        left_out = self._talk.left_out
        answer = ask()
        if self._talk.left_out > left_out:
            count = self._talk.left_out
            self._screen.note(f"The context no longer holds the first turns ({count}); /clear begins anew.")
        try:
            self._show(answer)
        finally:
            self._talk.settle()
        if not answer.text:
            self._screen.note("There is no answer; the message is taken back.")
        if self._verbose and answer.result is not None:
            print_measurements(answer.result)

    def _show(self, answer: Answer) -> None:
        """Print an answer as it comes. Ctrl-C ends it, and not the chat."""
        stopped = False
        try:
            with closing(answer.pieces()) as pieces:
                for piece in pieces:
                    self._screen.piece(piece)
        except KeyboardInterrupt:
            stopped = True
        finally:
            self._screen.line()
        if stopped:
            self._screen.note("Stopped.")
        elif answer.result is not None and answer.result.stop_reason == "context":
            self._screen.note("The context is full, so the answer ends here; /clear begins anew.")

    # ---- commands ----

    def steer(self, argument: str) -> None:
        name, *rest = argument.split() or [""]
        if len(rest) > 1:
            raise EdgeSteerError("/steer takes a name and a strength", found=argument)
        if not self._talk.controllers:
            raise SteeringError("no controller is loaded", remedy="Start the chat with --steer FILE.")
        chosen = [self._talk.find(name)] if name else list(self._talk.controllers.values())
        for strength in rest:
            self._talk.set_strength(chosen[0], read_strength(chosen[0].name, strength))
            self._warn(chosen[0])
        for each in chosen:
            for line in dial_lines(each, self._talk.dials[each.name].strength, self._talk.reading(each.name)):
                self._screen.line(line)

    def compare(self, argument: str) -> None:
        last, answer = self._talk.last, self._talk.unsteered()
        self._screen.line("--- unsteered", "bold")
        self._show(answer)
        self._screen.line(f"--- {strengths(last)}", "bold")
        self._screen.line(visible(last.text))

    def retry(self, argument: str) -> None:
        self._answer(self._talk.retry)

    def undo(self, argument: str) -> None:
        self._talk.undo()
        self._screen.note(f"Turns that are left: {len(self._talk.turns)}")

    def clear(self, argument: str) -> None:
        self._talk.clear()
        self._screen.note("The conversation begins anew.")

    def system(self, argument: str) -> None:
        if argument:
            self._talk.system = "" if argument == OFF else argument
        self._screen.line(visible(self._talk.system) or "There is no system message.")

    def tokens(self, argument: str) -> None:
        answer = self._talk.last.answer
        measured = [name for name in self._talk.controllers if self._talk.reading(name) is not None]
        name = self._talk.find(argument).name if argument else next(iter(measured), "")
        if answer is None or name not in measured:
            raise SteeringError("nothing was measured", where=name or None, remedy="Set a strength, and ask again.")
        draw = coloured_tokens if self._screen.colours else numbered_tokens
        self._screen.line(draw(answer.tokens, name))

    def save(self, argument: str) -> None:
        path = read_path(argument)
        if path.exists() and path not in self._files:
            raise EdgeSteerError("there is a file already", where=path, remedy="Give another name.")
        save(path, self._model_name, self._talk.system, self._talk.turns)
        self._files.add(path)
        self._screen.note(f"{path} is written.")

    def load(self, argument: str) -> None:
        path = read_path(argument)
        system, turns = load(path)
        self._talk.clear()
        self._talk.system, self._talk.turns = system, turns
        self._files.add(path)
        self._screen.note(f"Turns that were read: {len(turns)}")

    def help(self, argument: str) -> None:
        print_table(("command", "what it does"), [(each.usage, each.help) for each in COMMANDS.values()])

    def exit(self, argument: str) -> None:
        raise EOFError


class Command(NamedTuple):
    """One command: how to write it, what it does, and the method that does it."""

    usage: str
    help: str
    run: Callable[[Chat, str], None]


COMMANDS = {
    "steer": Command(
        "/steer [NAME [STRENGTH|off]]", "Show the dials, or set one; a part of the name will do.", Chat.steer
    ),
    "compare": Command("/compare", "Answer the last message without steering too.", Chat.compare),
    "tokens": Command("/tokens [NAME]", "Show how much of the concept each token of the answer carries.", Chat.tokens),
    "retry": Command("/retry", "Answer the last message again.", Chat.retry),
    "undo": Command("/undo", "Take the last message and its answer back.", Chat.undo),
    "clear": Command("/clear", "Begin anew; the system message and the dials stay.", Chat.clear),
    "system": Command("/system [TEXT|off]", "Show the system message, or set it.", Chat.system),
    "save": Command("/save FILE", "Write the conversation as .json or .md.", Chat.save),
    "load": Command("/load FILE.json", "Go on with a saved conversation in place of this one.", Chat.load),
    "help": Command("/help", "List the commands.", Chat.help),
    "exit": Command("/exit", "End the chat.", Chat.exit),
}


def find_command(name: str) -> Command:
    """Return the command of this name. Raises EdgeSteerError with the ones that are like it."""
    if name in COMMANDS:
        return COMMANDS[name]
    similar = [f"/{each}" for each in get_close_matches(name, COMMANDS)]
    remedy = "/help lists the commands; a message may begin with a space."
    raise EdgeSteerError("unknown command", where=f"/{name}", expected=" or ".join(similar) or None, remedy=remedy)


def read_strength(controller: str, text: str) -> float:
    """Return the strength that a text stands for. Raises SteeringError."""
    if text == OFF:
        return 0.0
    try:
        return float(text)
    except ValueError as error:
        expected = f"a number such as 0.5, or {OFF}"
        raise SteeringError("strength is not a number", where=controller, expected=expected, found=text) from error


def read_path(text: str) -> Path:
    """Return the path that a command names. Raises EdgeSteerError when it names none."""
    if not text:
        raise EdgeSteerError("there is no file name", expected="FILE.json or FILE.md")
    return Path(text).expanduser()
