"""Refusals of clients' requests, independent of any wire format."""

from enum import StrEnum

from streamasr.core.errors import ProtocolError


class RefusalCode(StrEnum):
    """Reasons to refuse a request, for programs; the error's message says it for people.

    Every dialect has its own way to show them, and its own close codes.
    """

    BAD_JSON = "bad_json"
    UNKNOWN_TYPE = "unknown_type"
    UNKNOWN_FIELD = "unknown_field"
    BAD_VALUE = "bad_value"
    OUT_OF_ORDER = "out_of_order"
    """The message is not allowed at this point: audio before the session was opened."""
    UNKNOWN_SESSION = "unknown_session"
    SESSION_BUSY = "session_busy"
    """Another connection sends audio to this session."""
    POLICY = "policy"
    BAD_AUDIO = "bad_audio"
    TOO_BIG = "too_big"
    OVERLOADED = "overloaded"
    """All sessions are taken; try again later."""
    TOO_SLOW = "too_slow"
    """This client does not read its messages."""
    INTERNAL = "internal"


class RefusalError(ProtocolError):
    """The server does not do what a client asked for, or does not continue its connection."""

    default_code = RefusalCode.POLICY

    def __init__(self, message: str, *, code: str) -> None:
        """Describe the reason.

        Args:
            message: one sentence for people.
            code: one of `RefusalCode`, or of a newer server's.
        """
        super().__init__(message, code=code)
