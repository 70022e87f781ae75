"""`edgesteer judge`: make a judge from labelled texts, and measure how often a judge is right. Needs the eval extra."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgesteer.cli.console import print_json, progress_bars
from edgesteer.cli.declared import constant
from edgesteer.cli.options import JsonOption, check_output

FIT = "edgesteer.evaluate.judges.fit"
READY = ("sentiment", "readability")
"""Kinds of judges that need nothing but their name."""

app = typer.Typer(help="Judges of texts, for `edgesteer eval`.", no_args_is_help=True)

LabelledArgument = Annotated[
    Path, typer.Argument(metavar="LABELLED.tsv", help="A line is a text, a tab and its label; two labels in all.")
]
PositiveOption = Annotated[
    str | None,
    typer.Option(metavar="LABEL", show_default="1", help="The label of the texts that carry the concept."),
]


@app.command()
def fit(
    labelled: LabelledArgument,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="HEAD.onnx", help="The judge to write.")],
    positive: PositiveOption = None,
    held_out: Annotated[
        float, typer.Option(min=0.01, max=0.9, help="Share of the texts that only the accuracy is measured on.")
    ] = constant(FIT, "HELD_OUT"),
    seed: Annotated[int, typer.Option(min=0, help="Of the draw of those texts.")] = constant(FIT, "SEED"),
    as_json: JsonOption = False,
) -> None:
    """Make a judge from labelled texts: a linear head on a sentence encoder, as one ONNX file.

    A text that stands twice counts once. The same texts, seed and packages give the same file.

    JSON: an object with labels (the positive one last), accuracy (value, low, high: its 95 % interval, n: held-out
    texts, chance: what the commonest label alone gets), fitted (texts), regularization, seed, encoder and
    encoder_sha256.
    """
    from edgesteer.evaluate.judges.fit import fit_head
    from edgesteer.evaluate.judges.head import write_head
    from edgesteer.evaluate.judges.labelled import read_labelled

    check_output(output, labelled)
    texts = read_labelled(labelled, positive)
    with progress_bars(quiet=as_json) as bars:
        advance = bars.stage("embedding texts", len(texts.texts))
        head = fit_head(texts, held_out=held_out, seed=seed, advance=advance)
    write_head(output, head.weight, head.bias, head.card)
    if as_json:
        print_json(head.card)
        return
    card, (other, wanted) = head.card, head.card.labels
    print(f"{output}: {wanted!r} against {other!r}, fitted on {card.fitted} texts, C = {card.regularization:g}")
    print(f"{card.accuracy} held-out texts")


@app.command("test")
def measure_accuracy(
    judge: Annotated[
        str, typer.Argument(metavar="JUDGE", help="A file of `edgesteer judge fit`, or sentiment or readability.")
    ],
    labelled: LabelledArgument,
    positive: PositiveOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure how often a judge is right on labelled texts.

    JSON: an object with value (the share it judges right), low and high (its 95 % interval), n (texts) and chance (what
    the commonest label alone gets).
    """
    from edgesteer.evaluate.judges import make_judge
    from edgesteer.evaluate.judges.labelled import measure, read_labelled

    spec = {"kind": judge} if judge in READY else {"kind": "encoder", "name": Path(judge).stem, "head": judge}
    accuracy = measure(make_judge(spec, Path()), read_labelled(labelled, positive))
    if as_json:
        print_json(accuracy)
        return
    print(f"{accuracy} texts")
