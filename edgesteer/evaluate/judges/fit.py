"""Fits a linear head on the sentence encoder from labelled texts, by logistic regression. Knows no command line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgesteer.errors import JudgeError
from edgesteer.evaluate.judges.encoder import NAME, load_encoder
from edgesteer.evaluate.judges.head import Card
from edgesteer.evaluate.judges.labelled import Labelled, accuracy_of
from edgesteer.extras import needs_extra

REGULARIZATIONS = (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
"""The C among which cross-validation chooses, by likelihood."""
FOLDS = 5
FEWEST_TEXTS = 20
FEWEST_OF_A_LABEL = 5
HELD_OUT = 0.2
SEED = 0


class Head(NamedTuple):
    """A fitted head; the weight, (384,), and the bias include the standardization."""

    weight: NDArray[np.float64]
    bias: float
    card: Card


def fit_head(
    labelled: Labelled,
    *,
    held_out: float = HELD_OUT,
    seed: int = SEED,
    advance: Callable[[], None] = lambda: None,
) -> Head:
    """Fit a head, and measure it on a share of the texts that it does not see, drawn by label.

    advance is called after each text that is embedded. Raises JudgeError when there are too few texts.
    """
    check_enough(labelled, held_out)
    with needs_extra("eval"):
        from sklearn.model_selection import train_test_split  # type: ignore[import-untyped]
        from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]
    embeddings = load_encoder().embed(labelled.texts, advance)
    carries = labelled.carries
    fitted, held = train_test_split(np.arange(len(carries)), test_size=held_out, stratify=carries, random_state=seed)
    with threadpool_limits(1):  # sums in another order would change the file
        search = _search(embeddings[fitted], carries[fitted], seed)
        accuracy = accuracy_of(search.predict(embeddings[held]), carries[held])
        weight, bias = _folded(search.best_estimator_)
    regularization = float(search.best_params_["logisticregression__C"])
    encoder = load_encoder()
    card = Card(labelled.names, accuracy, len(fitted), regularization, seed, NAME, encoder.sha256)
    return Head(weight, bias, card)


def check_enough(labelled: Labelled, held_out: float) -> None:
    """Raise JudgeError unless both halves have texts of both labels."""
    counts = (int((~labelled.carries).sum()), int(labelled.carries.sum()))
    if sum(counts) < FEWEST_TEXTS or min(counts) < FEWEST_OF_A_LABEL:
        raise JudgeError(
            "too few labelled texts",
            expected=f"{FEWEST_TEXTS} different ones, {FEWEST_OF_A_LABEL} of each label",
            found=" and ".join(f"{count} of {name!r}" for count, name in zip(counts, labelled.names, strict=True)),
        )
    if not (1 <= held_out * min(counts) <= min(counts) - 2):
        raise JudgeError(
            "a wrong share of held-out texts",
            expected=f"one text of each label at least, and two that are left of {min(counts)}",
            found=held_out,
        )


def _search(embeddings: NDArray[np.float32], carries: NDArray[np.bool_], seed: int) -> Any:
    """Return the fitted search over C; each fold standardizes by itself."""
    from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]
    from sklearn.model_selection import GridSearchCV, StratifiedKFold
    from sklearn.pipeline import make_pipeline  # type: ignore[import-untyped]
    from sklearn.preprocessing import StandardScaler  # type: ignore[import-untyped]

    folds = min(FOLDS, int(carries.sum()), int((~carries).sum()))
    search = GridSearchCV(
        make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)),
        {"logisticregression__C": REGULARIZATIONS},
        scoring="neg_log_loss",
        cv=StratifiedKFold(folds, shuffle=True, random_state=seed),
    )
    return search.fit(embeddings.astype(np.float64), carries)


def _folded(pipeline: Any) -> tuple[NDArray[np.float64], float]:
    """Return weight and bias of the head on embeddings that are not standardized."""
    scaler, regression = pipeline[0], pipeline[1]
    weight = regression.coef_[0] / scaler.scale_
    return weight, float(regression.intercept_[0] - weight @ scaler.mean_)
