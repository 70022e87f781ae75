"""The Jacobian of a block at one token, by the chain rule at the inputs of its linear layers.

Forward differentiation would push all n directions through every weight matrix. The derivative of a linear layer by its
own input is its weight matrix already, so that layers which widen the stream (queries, keys and values; gate and up)
cost no product when the block is cut at their common input, an *anchor*. What is left between the residual stream and
the anchors are norms, through which rows are pulled back without a product of matrices.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.func import jacfwd, jvp, vjp, vmap

BlockFunction = Callable[[torch.Tensor], torch.Tensor]
Linears = Mapping[nn.Linear, Callable[[torch.Tensor], torch.Tensor]]


@dataclass
class Anchor:
    """Linear layers with one input."""

    input: torch.Tensor
    outputs: dict[nn.Linear, torch.Tensor] = field(default_factory=dict)

    @property
    def widens(self) -> bool:
        return sum(layer.out_features for layer in self.outputs) > self.input.numel()


def block_jacobian(block: nn.Module, run: BlockFunction, x: torch.Tensor) -> torch.Tensor:
    """Return the Jacobian of `run`, which runs a block on one token: (n, n), a row for each output coordinate.

    x: (n,). The same as torch.func.jacfwd up to rounding, for any block, and faster when all its matrices are those of
    linear layers.
    """
    anchors = find_anchors(block, run, x)
    if not anchors:
        direct: torch.Tensor = jacfwd(run)(x)
        return direct
    # by_anchor[k]: d (inputs of the anchors after the k-th, output) / d (input of the k-th), the others held fixed.
    by_anchor = [by_input(anchors, k, run, x) for k in range(len(anchors))]
    # of_output[k]: d output / d (input of the k-th anchor), through all that follows.
    of_output: list[torch.Tensor] = []
    for *later, direct in reversed(by_anchor):
        through = [total @ part for total, part in zip(of_output, later, strict=True)]
        of_output.insert(0, sum(through, direct))
    pull = vjp(lambda x: held(anchors, run, x, {}), x)[1]
    total: torch.Tensor = vmap(pull)((*of_output, torch.eye(len(x), dtype=x.dtype, device=x.device)))[0]
    return total


def find_anchors(block: nn.Module, run: BlockFunction, x: torch.Tensor) -> list[Anchor]:
    """Return the groups of linear layers at which to cut a block, in the order of their calls.

    None for a block with matrices outside of linear layers: what is not cut would be differentiated twice.
    """
    layers = [module for module in block.modules() if isinstance(module, nn.Linear)]
    inside = {id(weight) for layer in layers for weight in layer.parameters()}
    if any(weight.dim() > 1 and id(weight) not in inside for weight in block.parameters()):
        return []
    anchors: list[Anchor] = []
    calls: list[nn.Linear] = []

    def note(layer: nn.Linear) -> Callable[[torch.Tensor], torch.Tensor]:
        def forward(x: torch.Tensor) -> torch.Tensor:
            calls.append(layer)
            anchor = next((each for each in anchors if each.input is x), None)
            if anchor is None:
                anchors.append(anchor := Anchor(x))
            anchor.outputs[layer] = nn.functional.linear(x, layer.weight, layer.bias)
            return anchor.outputs[layer]

        return forward

    with replaced({layer: note(layer) for layer in layers}):
        run(x)
    return [each for each in anchors if each.widens and all(calls.count(layer) == 1 for layer in each.outputs)]


def by_input(anchors: Sequence[Anchor], index: int, run: BlockFunction, x: torch.Tensor) -> list[torch.Tensor]:
    """Return the derivatives of the later anchors' inputs and of the output by one anchor's input: (n, its size) each.

    The outputs of all other anchors are held fixed.
    """
    layers = anchors[index].outputs

    def after(*changes: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return held(anchors, run, x, dict(zip(layers, changes, strict=True)))[index + 1 :]

    zeros = tuple(torch.zeros_like(output.flatten()) for output in layers.values())
    weights = tuple(layer.weight.to(zero) for layer, zero in zip(layers, zeros, strict=True))
    pushed = vmap(lambda *columns: jvp(after, zeros, columns)[1], in_dims=1)(*weights)
    return [part.T for part in pushed]


def held(
    anchors: Sequence[Anchor], run: BlockFunction, x: torch.Tensor, changes: Mapping[nn.Linear, torch.Tensor]
) -> tuple[torch.Tensor, ...]:
    """Return the anchors' inputs and the block's output, (size,) each, where the outputs of anchors' layers are held.

    changes: what to add to the outputs of some layers, (size,) each.
    """
    inputs: dict[int, torch.Tensor] = {}

    def hold(number: int, layer: nn.Linear, output: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
        def forward(x: torch.Tensor) -> torch.Tensor:
            inputs[number] = x.flatten()
            return output + changes[layer] if layer in changes else output

        return forward

    layers = {
        layer: hold(number, layer, output)
        for number, anchor in enumerate(anchors)
        for layer, output in anchor.outputs.items()
    }
    with replaced(layers):
        made = run(x)
    return (*(inputs[number] for number in range(len(anchors))), made)


@contextmanager
def replaced(forwards: Linears) -> Iterator[None]:
    """Have linear layers do something else in the body."""
    try:
        for layer, forward in forwards.items():
            vars(layer)["forward"] = forward
        yield
    finally:
        for layer in forwards:
            vars(layer).pop("forward", None)
