"""Neutral texts for the calibration, read by the PyTorch model; edgesteer/control/calibration.py makes use of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from edgesteer.control.calibration import SteeredText
from edgesteer.controller import Command, Controller
from edgesteer.export.simulate import Steering, run_all_steered
from edgesteer.export.weights import LoadedModel, TokenizedText


@dataclass(frozen=True)
class TorchTexts:
    """NeutralTexts of a PyTorch model."""

    model: LoadedModel
    texts: Sequence[TokenizedText]

    def __len__(self) -> int:
        return len(self.texts)

    def steered(self, controller: Controller, command: Command) -> Iterator[SteeredText]:
        """Yield each text's completion, steered by one command from the token before it on, as if it were generated."""
        runs = [
            Steering(text.tokens, torch.arange(len(text.tokens)) >= text.completion_start - 1, command)
            for text in self.texts
        ]
        for text, run in zip(self.texts, run_all_steered(self.model, controller, runs), strict=True):
            completion = slice(text.completion_start, None)
            yield SteeredText(
                run.logits[completion].numpy(), run.control[:, completion].numpy(), run.sensor[completion].numpy()
            )
