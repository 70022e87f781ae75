"""How undecided the model is about the next token, read off the residual stream by a linear probe.

What law `scheduled` schedules its gain by. Array functions of activations; knows no models.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgesteer.control.activations import Activations
from edgesteer.control.covariance import shrunk_probe
from edgesteer.controller import Array

Float = NDArray[np.float64]


def entropy(logits: Array) -> Float:
    """Return the Shannon entropy of softmax(logits) along the last axis, in nats."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    weights = np.exp(shifted)
    total = weights.sum(axis=-1)
    found: Float = np.log(total) - (weights * shifted).sum(axis=-1) / total
    return found


class Uncertainty(NamedTuple):
    """At a boundary, probe . x - offset is the predicted entropy of the next token over its mean."""

    probe: Float
    """(T+1, n)"""
    offset: Float
    """(T+1,)"""


def fit_uncertainty(texts: Sequence[Activations], entropies: Float, shrinkage: float) -> Uncertainty:
    """Return the regression of the next token's entropy on the stream at every boundary.

    Its probe lies along C^-1 cov(x, entropy), with the shrunk covariance C of the tokens, and is as long as least
    squares make it. Where nothing predicts the entropy, and at boundary 0, which no steered block writes, the
    prediction is 1. entropies: (N,) in nats, of all tokens of all the texts.
    """
    relative = entropies / mean - 1 if (mean := entropies.mean()) > 0 else np.zeros(len(entropies))
    probes, offsets = [], []
    for boundary in range(texts[0].boundaries):
        stream = np.concatenate([each.at(boundary) for each in texts])
        centre = stream.mean(axis=0, dtype=np.float64)
        deviations = stream - centre.astype(stream.dtype)
        covariance = deviations.T.astype(np.float64) @ relative / len(relative)
        probe = np.zeros(len(centre))
        if boundary and np.any(covariance):
            along = shrunk_probe(deviations, covariance, shrinkage)
            predicted = deviations @ along
            probe = along * (predicted @ relative) / (predicted @ predicted)
        probes.append(probe)
        offsets.append(float(probe @ centre) - 1.0)
    return Uncertainty(np.stack(probes), np.array(offsets))
