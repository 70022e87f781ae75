"""Slots: which tokens each sequence of the context holds in its KV cells, and what of them a prompt can use again.

A cell may stand in for a token that would be computed now only if it was computed from the same tokens under the same
steering; else cached and recomputed text would differ. Knows no llama.cpp; the batch carries out what is decided here.
"""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, field

from edgesteer.runtime.sequence import Mark, Sequence


@dataclass
class Slot:
    """One sequence number of the context. Without a sequence it is idle, and its cells may be used again or freed."""

    number: int
    sequence: Sequence | None = None
    tokens: list[int] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    """How each token's row was steered."""
    sensed: dict[int, dict[int, float]] = field(default_factory=dict)
    """What a controller's sensor read, by the controller's unique number and the token's position."""
    last_used: int = 0

    @property
    def idle(self) -> bool:
        return self.sequence is None

    def reusable(self, sequence: Sequence, marks: SequenceOf[Mark]) -> int:
        """Return how many tokens at the start of a sequence's prompt are here, computed as they would be now.

        marks: of the prompt. The prompt's last token always has to be computed, since its logits are wanted.
        """
        prompt = sequence.request.prompt.tokens
        most = min(len(self.tokens), len(prompt) - 1)
        for number, words in sequence.sensed_positions().items():
            known = self.sensed.get(number, {})
            most = next((int(at) for at in words if at < most and int(at) not in known), most)
        for at in range(most):
            if self.tokens[at] != prompt[at] or self.marks[at] != marks[at]:
                return at
        return most

    def truncate(self, length: int) -> None:
        """Keep the first tokens only."""
        del self.tokens[length:]
        del self.marks[length:]
        self.sensed = {n: {at: value for at, value in known.items() if at < length} for n, known in self.sensed.items()}

    def begin_with(self, other: Slot, length: int) -> None:
        """Hold the first tokens of another slot."""
        self.tokens, self.marks = other.tokens[:length], other.marks[:length]
        self.sensed = {number: dict(known) for number, known in other.sensed.items()}
        self.truncate(length)


def choose(slots: SequenceOf[Slot], sequence: Sequence) -> tuple[Slot, Slot, int] | None:
    """Return the slot to use, the slot whose first tokens it begins with, and how many; None when no slot is idle.

    An idle slot that is mostly this prompt is continued; else the slot that was idle for longest gets the tokens, and
    the other text stays for those who come back to it.
    """
    idle = sorted((slot for slot in slots if slot.idle), key=lambda slot: (bool(slot.tokens), slot.last_used))
    if not idle:
        return None
    marks = sequence.marks(0, sequence.prompt_length)
    lengths = {slot.number: slot.reusable(sequence, marks) for slot in slots}
    best = max(slots, key=lambda slot: (lengths[slot.number], slot.idle))
    length = lengths[best.number]
    if best.idle and (2 * length > len(best.tokens) or idle == [best]):
        return best, best, length
    others = [slot for slot in idle if slot is not best]
    return others[0], best, length
