"""Every error that edgesteer raises on purpose, and the one way in which it words them.

EdgeSteerError
|- ConceptError        a contrast set that cannot be used
|- SuiteError          a suite of prompts and judges that cannot be used
|- JudgeError          labelled texts or a judge's file that cannot be used
|- SidecarError        a file that is not a valid sidecar
|  `- FingerprintError a valid sidecar of another model
|- ModelError          a base model that cannot be found, read or steered
|- SteeringError       a request that no controller can carry out
|- EngineError         llama.cpp reported a failure
|  `- BusyError        there are more requests than the queue holds, or the engine is shutting down
`- MissingExtraError   an optional part of edgesteer is not installed

SafeRangeWarning       the strength is outside the range that the sidecar calls safe
"""


class EdgeSteerError(Exception):
    """One line for the user: what is wrong, where, what was expected, what was found, and what to do."""

    def __init__(
        self,
        what: str,
        *,
        where: object = None,
        expected: object = None,
        found: object = None,
        remedy: str | None = None,
    ) -> None:
        parts = [f"{where}: {what}" if where is not None else what]
        if expected is not None:
            parts.append(f"expected {expected}")
        if found is not None:
            parts.append(f"found {found}")
        line = "; ".join(parts)
        super().__init__(f"{line}. {remedy}" if remedy else line)


class ConceptError(EdgeSteerError):
    """A contrast set lacks a pole, holds an empty or repeated text, or cannot be parsed."""


class SuiteError(EdgeSteerError):
    """A suite is missing or cannot be parsed, or a judge or file that it names cannot be used."""


class JudgeError(EdgeSteerError):
    """Labelled texts cannot be read or are too few, or a file is no head of this sentence encoder."""


class SidecarError(EdgeSteerError):
    """A file is truncated, corrupt, of another version, or holds tensors that cannot be used."""


class FingerprintError(SidecarError):
    """A sidecar was made for another model than the one that is loaded."""


class ModelError(EdgeSteerError):
    """A base model is missing, damaged, or has no residual stream that edgesteer can reach."""


class SteeringError(EdgeSteerError):
    """A steering request names no controller, or asks for what the controller cannot do."""


class EngineError(EdgeSteerError):
    """llama.cpp failed to load, to decode or to sample, or the prompt does not fit."""


class BusyError(EngineError):
    """A request was not taken on: the queue is full, or the engine is shutting down. Trying later may help."""


class MissingExtraError(EdgeSteerError):
    """A command needs an optional dependency; the message names the pip install that brings it."""


class SafeRangeWarning(UserWarning):
    """A strength lies outside the range in which the exporter found the text intact."""
