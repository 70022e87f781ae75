"""Where sentences end, in any script. The one place that decides it. Knows nothing of what sentences mean."""

from __future__ import annotations

import re

ABBREVIATIONS = ("Mr", "Mrs", "Ms", "Dr", "Prof", "St", "vs", "e.g", "i.e", "[A-HJ-Z]")
"""What a full stop may follow in mid-sentence; the last is an initial."""
CLOSING = r"[\"'”’»)\]*_」』）】]*"
UNABBREVIATED = "".join(rf"(?<!\b{each})" for each in ABBREVIATIONS)
SPACED_END = rf"{UNABBREVIATED}[.!?…]+{CLOSING}(?=\s)"
UNSPACED_END = rf"[。！？｡।؟]+{CLOSING}"
END = re.compile(f"{SPACED_END}|{UNSPACED_END}")
LETTER = re.compile(r"[^\W\d_]")


def split_sentences(text: str) -> list[str]:
    """Return the sentences of a text in order, with their punctuation and the last one even if it is unfinished.

    A line ends a sentence as well, as in lists and headings. What holds no letter (a list's number, a rule) is none.
    """
    pieces = END.sub(r"\g<0>\n", text).splitlines()
    return [piece.strip() for piece in pieces if LETTER.search(piece)]
