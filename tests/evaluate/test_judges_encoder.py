"""The sentence encoder, and heads on it: fitted, written, read."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgesteer.errors import EdgeSteerError, JudgeError, MissingExtraError, SuiteError
from edgesteer.evaluate.judges import Accuracy, judge_text, make_judge
from edgesteer.evaluate.judges.encoder import MOST_TOKENS, WIDTH, Encoder, load_encoder
from edgesteer.evaluate.judges.fit import Head, fit_head
from edgesteer.evaluate.judges.head import KEY, Card, encoder_judge, read_head, write_head
from edgesteer.evaluate.judges.labelled import Labelled, measure

THINGS = ("soup", "bread", "rice", "pasta", "cake", "salad", "stew", "pie", "toast", "jam")
PLACES = ("park", "garden", "street", "field", "yard", "forest", "beach", "meadow", "lane", "wood")
COOKING = tuple(f"{start} the {thing} in the kitchen." for thing in THINGS for start in ("She baked", "I ate"))
DOGS = tuple(f"{start} in the {place}." for place in PLACES for start in ("The dog barked", "A puppy ran"))
LABELLED = Labelled((*COOKING, *DOGS), np.arange(40) >= 20, ("cooking", "dogs"))
HELD_OUT_OF_8 = Accuracy(0.75, 0.4, 0.9, 8, 0.5)

Rewriter = Callable[..., Path]


@pytest.fixture(scope="module")
def head() -> Head:
    return fit_head(LABELLED)


@pytest.fixture
def path(head: Head, tmp_path: Path) -> Path:
    write_head(tmp_path / "dogs.onnx", *head)
    return tmp_path / "dogs.onnx"


# ---- the encoder ----


def test_vectors_are_unit_vectors_and_near_for_texts_of_near_meaning() -> None:
    rows = load_encoder().embed(["A man is eating food.", "Someone eats a meal.", "Shares fell on Monday."])
    assert rows.shape == (3, WIDTH)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-5)
    assert rows[0] @ rows[1] > 0.5 > 0.2 > abs(rows[0] @ rows[2])


def fresh_encoder() -> Encoder:
    """An encoder that remembers nothing."""
    from edgesteer.evaluate.judges import encoder

    return Encoder(encoder._file(*encoder.NETWORK), encoder._file(*encoder.TOKENIZER))


def test_a_vector_depends_on_nothing_but_its_text() -> None:
    texts = ["Hi.", "A sentence with quite a few more words than the other one has.", "Hi."]
    together = fresh_encoder().embed(texts)
    alone = [fresh_encoder().embed([text])[0] for text in texts[:2]]
    assert np.array_equal(together, [alone[0], alone[1], alone[0]])


def test_a_repeated_text_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, computed = fresh_encoder(), []
    embed = encoder._embed
    monkeypatch.setattr(encoder, "_embed", lambda text: computed.append(text) or embed(text))  # type: ignore[func-returns-value]
    encoder.embed(["a", "b", "a"])
    encoder.embed(["b"])
    assert computed == ["a", "b"]


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgesteer.evaluate.judges.encoder.REMEMBERED", 2)
    encoder = fresh_encoder()
    encoder.embed(["a", "b", "c"])
    assert list(encoder._known) == ["b", "c"]


def test_a_text_beyond_the_encoders_length_is_cut() -> None:
    rows = load_encoder().embed(["sea " * (MOST_TOKENS - 2), "sea " * (MOST_TOKENS - 2) + "and more words", ""])
    assert np.array_equal(rows[0], rows[1])
    assert np.isfinite(rows).all()


def test_a_missing_file_is_named_with_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    load_encoder.cache_clear()
    monkeypatch.setattr("edgesteer.evaluate.judges.encoder.TOKENIZER", ("no_such_package", "tokenizer.json"))
    with pytest.raises(MissingExtraError, match=r"tokenizer\.json in no_such_package.*edgesteer\[eval\]"):
        load_encoder()


# ---- fitting ----


def test_a_planted_difference_is_found(head: Head) -> None:
    assert (head.card.accuracy.value, head.card.accuracy.n, head.card.accuracy.chance) == (1, 8, 0.5)
    assert (head.card.fitted, head.card.labels) == (32, ("cooking", "dogs"))


def test_the_accuracy_is_of_texts_that_the_fit_has_not_seen() -> None:
    """With labels that mean nothing, it learns those of the fit in part, and of the others none."""
    from sklearn.model_selection import train_test_split  # type: ignore[import-untyped]

    carries = np.random.default_rng(1).permutation(LABELLED.carries)
    head = fit_head(replace(LABELLED, carries=carries), held_out=0.5)
    fitted, held = train_test_split(np.arange(40), test_size=0.5, stratify=carries, random_state=0)
    right = (load_encoder().embed(LABELLED.texts) @ head.weight + head.bias > 0) == carries
    assert head.card.accuracy.value == right[held].mean() < right[fitted].mean()


def test_the_head_is_scikit_learns_regression_on_standardized_embeddings(head: Head) -> None:
    from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]
    from sklearn.model_selection import train_test_split
    from sklearn.preprocessing import StandardScaler  # type: ignore[import-untyped]

    embeddings = load_encoder().embed(LABELLED.texts).astype(np.float64)
    fitted, held = train_test_split(np.arange(40), test_size=0.2, stratify=LABELLED.carries, random_state=0)
    scaler = StandardScaler().fit(embeddings[fitted])
    regression = LogisticRegression(C=head.card.regularization, max_iter=1000)
    regression.fit(scaler.transform(embeddings[fitted]), LABELLED.carries[fitted])
    expected = regression.decision_function(scaler.transform(embeddings[held]))
    np.testing.assert_allclose(embeddings[held] @ head.weight + head.bias, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("labelled", "held_out", "message"),
    [
        (Labelled(LABELLED.texts[:19], np.arange(19) > 8, ("0", "1")), 0.2, "too few labelled texts"),
        (Labelled(LABELLED.texts, np.arange(40) > 35, ("0", "1")), 0.2, "found 36 of '0' and 4 of '1'"),
        (LABELLED, 0.01, "a wrong share of held-out texts"),
        (LABELLED, 0.95, "a wrong share of held-out texts"),
    ],
)
def test_too_few_texts_are_refused(labelled: Labelled, held_out: float, message: str) -> None:
    with pytest.raises(JudgeError, match=message):
        fit_head(labelled, held_out=held_out)


# ---- the file ----


def test_the_file_gives_the_logistic_function_of_the_embedding(head: Head, path: Path) -> None:
    judge = make_judge({"kind": "encoder", "name": "dogs", "head": path.name}, path.parent)
    texts = ["Our puppy likes the park.", "I cooked soup.", "It is late."]
    expected = 1 / (1 + np.exp(-(load_encoder().embed(texts) @ head.weight + head.bias)))
    np.testing.assert_allclose(judge.score(texts), expected, atol=1e-5)
    assert judge.accuracy == head.card.accuracy


def test_a_judge_of_the_other_label_is_the_mirror(path: Path) -> None:
    texts = ["Our puppy likes the park.", "I cooked soup."]
    scores = [encoder_judge("x", path, wanted).score(texts) for wanted in ("dogs", "cooking")]
    np.testing.assert_allclose(scores[0], 1 - scores[1])
    with pytest.raises(SuiteError, match="expected one of cooking, dogs; found cats"):
        encoder_judge("x", path, "cats")


def test_a_head_judges_texts(path: Path) -> None:
    judge = encoder_judge("dogs", path)
    found = judge_text(judge, ["The dog barked in the lane. I ate the rice in the kitchen.", ""])
    assert (found[0].presence, found[0].density) == (1, 0.5)
    assert found[1].presence == 0
    assert judge.score([]).shape == (0,)
    assert measure(judge, LABELLED).value == 1


def test_the_same_texts_give_the_same_file(path: Path, tmp_path: Path) -> None:
    write_head(tmp_path / "again.onnx", *fit_head(LABELLED))
    assert (tmp_path / "again.onnx").read_bytes() == path.read_bytes()


def test_the_file_is_an_onnx_model_that_says_how_good_it_is(head: Head, path: Path) -> None:
    import onnx

    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    (entry,) = model.metadata_props
    values = json.loads(entry.value)
    assert entry.key == KEY
    assert values == json.loads(json.dumps(asdict(head.card)))
    assert values["encoder_sha256"] == load_encoder().sha256


# ---- files that are no heads ----


@pytest.fixture
def rewritten(path: Path) -> Rewriter:
    """Return a function that changes the card in the head's file."""
    import onnx

    def rewrite(change: Callable[[dict[str, Any]], object]) -> Path:
        model = onnx.load(path)
        (entry,) = model.metadata_props
        card = json.loads(entry.value)
        change(card)
        entry.value = json.dumps(card)
        onnx.save(model, path)
        return path

    return rewrite


def test_a_head_of_another_encoder_is_refused(rewritten: Rewriter) -> None:
    path = rewritten(lambda card: card.update(encoder="big", encoder_sha256="ab" * 32))
    with pytest.raises(JudgeError, match=r"another sentence encoder; expected all-MiniLM.*; found big abababababab"):
        read_head(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda card: card.pop("labels"),
        lambda card: card.update(labels=["a"]),
        lambda card: card.update(labels=3),
        lambda card: card.update(labels=[1, 2]),
        lambda card: card.update(accuracy=0.9),
        lambda card: card["accuracy"].update(value="good"),
        lambda card: card.update(encoder_sha256=None),
        lambda card: card.update(more=1),
    ],
)
def test_a_damaged_card_is_refused(rewritten: Rewriter, change: Callable[[dict[str, Any]], object]) -> None:
    with pytest.raises(JudgeError, match="not a judge's head"):
        read_head(rewritten(change))


@pytest.mark.parametrize("content", [b"", b"\x00" * 100, b"text", b"\xff" * 2_000_000])
def test_a_file_that_is_no_onnx_model_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.onnx").write_bytes(content)
    with pytest.raises(JudgeError, match="not a judge's head"):
        read_head(tmp_path / "a.onnx")


def test_no_truncated_head_is_taken(path: Path) -> None:
    whole = path.read_bytes()
    for end in range(0, len(whole), 97):
        path.write_bytes(whole[:end])
        with pytest.raises(JudgeError, match="not a judge's head"):
            read_head(path)


def card() -> Card:
    return Card(("a", "b"), HELD_OUT_OF_8, 32, 0.1, 0, "x", load_encoder().sha256)


@pytest.mark.parametrize(("output", "width"), [("other", WIDTH), ("probability", 5), ("embedding_", WIDTH)])
def test_another_graph_with_a_card_is_refused(tmp_path: Path, output: str, width: int) -> None:
    from onnx import TensorProto, helper, save

    graph = helper.make_graph(
        [helper.make_node("Identity", ["embedding"], [output])],
        "other",
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["n", width])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["n", width])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, {KEY: json.dumps(asdict(card()))})
    save(model, tmp_path / "other.onnx")
    with pytest.raises(JudgeError, match="not a judge's head"):
        read_head(tmp_path / "other.onnx")


def test_weights_that_give_no_probabilities_are_refused(tmp_path: Path) -> None:
    write_head(tmp_path / "nan.onnx", np.full(WIDTH, np.nan), 0.0, card())
    with pytest.raises(JudgeError, match="a graph that gives no probabilities"):
        read_head(tmp_path / "nan.onnx")


def test_a_head_is_not_written_into_a_folder_that_is_not_there(head: Head, tmp_path: Path) -> None:
    with pytest.raises(EdgeSteerError, match="its folder does not exist"):
        write_head(tmp_path / "none" / "a.onnx", *head)
