"""A conversation, on the tiny model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from edgesteer.cli.conversation import Conversation
from edgesteer.errors import EdgeSteerError, EngineError, SteeringError

pytestmark = pytest.mark.torch

CONTEXT = 512
Talk = Callable[..., Conversation]


@pytest.fixture
def talk(tiny_llama: Any, make_controller: Any) -> Iterator[Talk]:
    """Return a function that begins a conversation with two controllers, `warm` at 1 and `formal` at 0."""
    from edgesteer.runtime.batch import Batch
    from edgesteer.runtime.engine import Engine
    from edgesteer.runtime.request import Steering
    from edgesteer.runtime.sampling import Sampling

    names = ("warm", "formal")
    controllers = [make_controller(tiny_llama.n_blocks, tiny_llama.width, name=name) for name in names]
    with Engine(tiny_llama, controllers, context_tokens=CONTEXT, threads=1) as engine:

        def begin(limit: int | None = 8, **sampling: Any) -> Conversation:
            dials = [Steering("warm", 1.0), Steering("formal", 0.0)]
            return Conversation(Batch(engine), dials, Sampling(**{"temp": 0.0, **sampling}), limit=limit)

        yield begin


def say(talk: Conversation, text: str) -> str:
    """Ask, take the whole answer, and keep it."""
    answer = talk.ask(text)
    shown = "".join(answer.pieces())
    talk.settle()
    return shown


def roles(talk: Conversation) -> str:
    return "".join(each["role"][0] for each in talk.messages())


# ---- turns ----


def test_an_answer_is_asked_for_with_all_that_was_said(talk: Talk) -> None:
    conversation = talk()
    conversation.system = "brief"
    first, second = say(conversation, "one"), say(conversation, "two")
    assert conversation.messages() == [
        {"role": "system", "content": "brief"},
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": first},
        {"role": "user", "content": "two"},
        {"role": "assistant", "content": second},
    ]


def test_pieces_are_the_text(talk: Talk) -> None:
    conversation = talk()
    shown = say(conversation, "one")
    answer = conversation.last.answer
    assert answer is not None
    assert answer.result is not None
    assert shown == answer.text == "".join(token.text for token in answer.tokens)
    assert len(answer.tokens) == answer.result.timings.predicted_n == 8


def test_every_token_but_the_last_was_measured(talk: Talk) -> None:
    conversation = talk()
    say(conversation, "one")
    answer = conversation.last.answer
    assert answer is not None
    assert answer.result is not None
    alphas = [token.readings["warm"].alpha for token in answer.tokens[:-1]]
    assert alphas == answer.result.steering[0].alpha
    assert answer.tokens[-1].readings == {}
    assert answer.reading("warm") is answer.tokens[-2].readings["warm"]
    assert answer.reading("formal") is None


def test_an_answer_that_is_broken_off_stays_as_far_as_it_came(talk: Talk) -> None:
    conversation = talk()
    pieces = conversation.ask("one").pieces()
    shown = next(pieces) + next(pieces)
    pieces.close()
    conversation.settle()
    assert conversation.last.text == shown
    assert not conversation.batch.busy
    say(conversation, "two")
    assert roles(conversation) == "uaua"


def test_a_message_without_an_answer_is_taken_back(talk: Talk) -> None:
    conversation = talk()
    say(conversation, "one")
    conversation.ask("two")
    conversation.settle()
    assert roles(conversation) == "ua"


def test_an_answer_that_fails_leaves_the_conversation_as_it_was(talk: Talk, monkeypatch: pytest.MonkeyPatch) -> None:
    conversation = talk()
    say(conversation, "one")

    def fail(*_: object) -> None:
        raise EngineError("out of luck")

    answer = conversation.ask("two")
    with monkeypatch.context() as patch:
        patch.setattr(conversation.batch.engine, "decode", fail)
        with pytest.raises(EngineError, match="out of luck"):
            list(answer.pieces())
    conversation.settle()
    assert roles(conversation) == "ua"
    assert say(conversation, "two")


def test_retry_answers_the_last_message_by_another_seed(talk: Talk) -> None:
    conversation = talk(temp=2.0, top_k=0, seed=3)
    first = say(conversation, "one")
    answers = [first]
    for _ in range(2):
        answers.append("".join(conversation.retry().pieces()))
        conversation.settle()
    assert roles(conversation) == "ua"
    assert len(set(answers)) == 3
    assert conversation.last.text == answers[-1]


def test_undo_takes_one_turn_back_and_clear_all(talk: Talk) -> None:
    conversation = talk()
    conversation.system = "brief"
    for text in ("one", "two", "three"):
        say(conversation, text)
    conversation.undo()
    assert [turn.user for turn in conversation.turns] == ["one", "two"]
    conversation.clear()
    assert roles(conversation) == "s"


@pytest.mark.parametrize("act", ["undo", "retry", "unsteered"])
def test_without_a_message_there_is_nothing_to_go_back_to(act: str, talk: Talk) -> None:
    with pytest.raises(EdgeSteerError, match="there is no message yet"):
        getattr(talk(), act)()


# ---- the context ----


def test_the_oldest_turns_are_left_out_when_the_context_is_full(talk: Talk) -> None:
    conversation = talk()
    for number in range(30):
        say(conversation, f"message {number}")
    kept = conversation.messages()
    assert conversation.left_out > 0
    assert len(conversation.turns) == 30
    assert kept[0]["role"] == "user"
    assert kept[-2]["content"] == "message 29"
    assert len(kept) == 2 * (30 - conversation.left_out)


def test_turns_are_left_out_some_at_a_time_so_that_the_cache_is_of_use(talk: Talk) -> None:
    conversation = talk()
    changes = 0
    for number in range(30):
        before = conversation.left_out
        say(conversation, f"message {number}")
        changes += conversation.left_out > before
    assert 0 < changes < conversation.left_out


def test_the_system_message_is_never_left_out(talk: Talk) -> None:
    conversation = talk()
    conversation.system = "brief"
    for number in range(30):
        say(conversation, f"message {number}")
    assert conversation.left_out > 0
    assert roles(conversation).startswith("su")


def test_a_message_that_does_not_fit_is_refused_and_nothing_changes(talk: Talk) -> None:
    conversation = talk()
    say(conversation, "one")
    with pytest.raises(
        EngineError, match=r"the message is too long for the context; expected at most 384 tokens; found"
    ):
        conversation.ask("x" * CONTEXT)
    assert (roles(conversation), conversation.left_out) == ("ua", 0)


def test_later_prompts_reuse_the_earlier_ones(talk: Talk) -> None:
    conversation = talk()
    say(conversation, "a long enough first message")
    answer = conversation.ask("two")
    list(answer.pieces())
    assert answer.result is not None
    assert answer.result.timings.cache_n > 20


# ---- dials ----


def test_a_dial_holds_from_the_next_answer_on(talk: Talk) -> None:
    conversation = talk()
    say(conversation, "one")
    conversation.set_strength(conversation.find("warm"), -0.5)
    conversation.set_strength(conversation.find("formal"), 0.25)
    say(conversation, "two")
    strengths = [[each.strength for each in turn.answer.request.steering] for turn in conversation.turns if turn.answer]
    assert strengths == [[1.0, 0.0], [-0.5, 0.25]]


def test_a_part_of_a_name_is_enough_where_it_is_clear(talk: Talk) -> None:
    conversation = talk()
    assert conversation.find("w").name == conversation.find("warm").name == "warm"
    with pytest.raises(SteeringError, match="cold: no such controller; expected warm or formal"):
        conversation.find("cold")
    with pytest.raises(SteeringError, match="several controllers are meant; expected warm or formal"):
        conversation.find("")


def test_a_strength_that_is_not_finite_is_refused(talk: Talk) -> None:
    conversation = talk()
    with pytest.raises(SteeringError, match="strength is not a finite number"):
        conversation.set_strength(conversation.find("warm"), float("nan"))
    assert conversation.dials["warm"].strength == 1.0


def test_unsteered_is_the_same_request_without_control(talk: Talk) -> None:
    steered, plain = talk(), talk()
    plain.set_strength(plain.find("warm"), 0.0)
    text = say(steered, "one")
    unsteered = steered.unsteered()
    assert "".join(unsteered.pieces()) == say(plain, "one")
    assert unsteered.text != text
    assert unsteered.reading("warm") is not None
    assert roles(steered) == "ua"


def test_an_unsteered_answer_cannot_be_compared(talk: Talk) -> None:
    conversation = talk()
    conversation.set_strength(conversation.find("warm"), 0.0)
    say(conversation, "one")
    with pytest.raises(SteeringError, match=r"the last answer was not steered\. Set a strength, and /retry"):
        conversation.unsteered()
