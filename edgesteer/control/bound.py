"""The tracking error that feedback can leave: a bound from the linear model's residuals, and its quantile over texts.

Pure array functions; this file knows nothing about models, prompts or files.

Over T blocks, m laws read one number each of a residual stream of width n and write one direction g_j each. Relative to
the unsteered run of the same token, the stream's deviation D obeys D[t+1] = A[t] D[t] + g_j u_j + r[t] with D[0] = 0;
the residual r[t] is all that the linear model leaves out. With effort h_j (0 where phi cut the control off),
u_j = h_j e_j, and the error d_i of the unsteered run, the errors e before control obey exactly

    e_i = d_i - sum_{j<i} M_ij h_j e_j - sum_t a_i[t+1]' r[t],       a_i[t]' = a_i[t+1]' A[t],       M_ij = a_i' g_j.

So e = L (d - sum_t a[t+1]' r[t]) with L = (I + M h)^-1, and p_i[t] = sum_k L_ik a_k[t] are backward Lyapunov weights of
the closed loop: P = p p' solves P[t] = Acl[t]' P[t+1] Acl[t] from w_i w_i' at the boundary that law i reads. |r|_P =
|p' r| is what a residual can do to that reading, and |e|_P <= |L d| + sum_t |r[t]|_P takes no product of norms.
Source: Skifstad, Yang, Chou, arXiv 2604.19018 (bounds on the setpoint tracking error); the rank-one weights are ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]


class ErrorBound(NamedTuple):
    """|setpoint - reading| after control splits into two parts; each is (tokens, m), in units of the reading."""

    linear: Float
    """The error that the linear model predicts, signed."""
    residual: Float
    """The most that the residuals can add to or take from it, whatever their signs."""

    @property
    def total(self) -> Float:
        """No error can be larger; it is this large where all residuals push the same way."""
        total: Float = np.abs(self.linear) + self.residual
        return total


def sensitivities(jacobians: Float, probes: Float, boundaries: Sequence[int]) -> Float:
    """Return a_i[t], the derivative of each reading by the stream at each boundary: (m, T+1, n).

    It is 0 after the boundary that is read. jacobians: (T, n, n). probes: (m, n), what law i reads at boundaries[i].
    Raises ValueError on a boundary outside 0 .. T.
    """
    n_blocks, width, _ = jacobians.shape
    if not all(0 <= boundary <= n_blocks for boundary in boundaries):
        raise ValueError(f"boundaries must lie in 0 .. {n_blocks}; found {tuple(boundaries)}")
    rows = np.zeros((len(probes), n_blocks + 1, width))
    rows[np.arange(len(probes)), boundaries] = probes
    for t in reversed(range(n_blocks)):
        rows[:, t] += rows[:, t + 1] @ jacobians[t]
    return rows


def responses(sensitivity: Float, gains: Float, blocks: Sequence[int]) -> Float:
    """Return M_ij = a_i' g_j, what one unit of control j adds to reading i: (m, m), lower triangular.

    sensitivity: (m, T+1, n). gains: (m, n), what law j writes at the output of blocks[j]. The diagonal is what a law
    does to its own reading, which only the reading after control shows; 0 for a law that reads its block's input.
    """
    response: Float = np.einsum("ijn,jn->ij", sensitivity[:, np.array(blocks) + 1], gains)
    return response


def reading_residuals(sensitivity: Float, before: Float, after: Float, boundaries: Sequence[int]) -> Float:
    """Return a_i[t+1]' r[t], what each block's residual does to each reading: (tokens, m, T).

    before, after: (T+1, tokens, n) deviation from the unsteered run at each boundary, before and after control there.
    boundaries: (m,) where each law reads; later blocks do nothing to it.
    """
    arriving = np.einsum("itn,tkn->kit", sensitivity[:, 1:], before[1:])
    predicted = np.einsum("itn,tkn->kit", sensitivity[:, :-1], after[:-1])
    reaches = np.arange(sensitivity.shape[1] - 1) < np.array(boundaries)[:, None]
    result: Float = (arriving - predicted) * reaches
    return result


def tracking_error_bound(response: Float, effort: Float, free_error: Float, residuals: Float) -> ErrorBound:
    """Return the bound on each token's tracking errors after control.

    response: (m, m), M. effort: (tokens, m), h, 0 where a law did not act. free_error: (tokens, m), d = setpoint -
    reading of the unsteered run. residuals: (tokens, m, T) from reading_residuals.
    """
    loop = np.eye(len(response)) + np.tril(response, -1) * effort[:, None, :]
    solved = np.linalg.solve(loop, np.concatenate((free_error[..., None], residuals), axis=-1))
    left = 1 - effort * np.diag(response)  # of the error before control, after the law's own
    return ErrorBound(left * solved[..., 0], np.abs(left) * np.abs(solved[..., 1:]).sum(axis=-1))


def controlled_risk(scores: Sequence[Float], risk: float) -> float:
    """Return the least bound that, on average over texts, at most a share `risk` of a text's scores exceeds.

    Holds for a further text that is exchangeable with these, whatever the distribution and however the scores within
    one text depend on each other (conformal risk control, Angelopoulos et al., ICLR 2024, theorem 1).

    scores: one array a text; NaN counts neither as a score nor as an excess.
    Raises ValueError unless 0 < risk < 1 and there are at least 1 / risk - 1 texts.
    """
    n = len(scores)
    if not 0 < risk < 1 or risk * (n + 1) < 1:
        raise ValueError(f"a risk of {risk} needs to lie in (0, 1) and at least 1 / risk - 1 texts; found {n} texts")
    kept = [text[np.isfinite(text)] for text in scores]
    values = np.concatenate([np.zeros(1), *kept])
    weights = np.concatenate([np.zeros(1), *(np.full(len(text), 1 / len(text)) for text in kept if len(text))])
    order = np.argsort(values)[::-1]
    excess = np.cumsum(weights[order]) - weights[order]  # texts' shares above each value, of n
    allowed = excess <= risk * (n + 1) - 1 + 1e-9
    return float(values[order][allowed][-1])
