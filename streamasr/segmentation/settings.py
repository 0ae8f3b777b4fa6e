"""Settings of voice detection and segmentation, with their ranges.

They are sections of the file of settings and are read by every command, so this module imports
neither numpy nor webrtcvad.
"""

from typing import Final

import msgspec

from streamasr.core.errors import ConfigError

FRAME_SECONDS: Final = 0.03
"""Length of a frame: the longest that webrtcvad judges."""

SILENCE_DB: Final = -100.0
"""Level given to digital silence, dBFS: below one step of 16 bits."""


class VadConfig(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    rename={"floor_window": "floor_window_s"},
):
    """Voice detection; levels are those of a frame's root mean square, dBFS."""

    aggressiveness: int = 1
    """Mode of webrtcvad, from 0 (most sensitive) to 3. At this noise level, modes 0 and 1 find no
    speech in steady noise either, and mode 1 detects more of the soft speech than mode 2."""
    noise_db: float = -42.0
    """Level to which the noise floor is brought. At -35 webrtcvad takes a fan for speech; each dB
    lower loses more speech in noise."""
    max_gain_db: float = 25.0
    """Largest amplification of a recording without noise."""
    minimum_db: float = -80.0
    """Level below which no frame is voiced."""
    floor_window: float = 3.0
    """The noise floor is the quietest moment of this many seconds: new noise is recognised as noise
    after this time, and a vowel that is held longer is taken for noise."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.aggressiveness not in {0, 1, 2, 3}:
            raise ConfigError(
                f"aggressiveness is {self.aggressiveness}; it must be 0, 1, 2 or 3.",
                code="value_out_of_range",
            )
        _check_range("noise_db", self.noise_db, SILENCE_DB, 0.0)
        _check_range("max_gain_db", self.max_gain_db, 0.0, 60.0)
        _check_range("minimum_db", self.minimum_db, SILENCE_DB, 0.0)
        _check_range("floor_window", self.floor_window, 0.5, 60.0)


def _check_range(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ConfigError(
            f"{name} is {value}; it must be from {low:g} to {high:g}.", code="value_out_of_range"
        )


class ChunkerConfig(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    rename=lambda name: f"{name}_s",  # in files, which name the unit in the key
):
    """Segmentation of speech; all times in seconds."""

    pre_roll: float = 0.3
    """Audio kept before the first voiced frame: soft onsets come before what a VAD notices."""
    hangover: float = 0.6
    """Silence that ends a segment (the endpoint)."""
    trailing_silence: float = 0.2
    """Part of that silence that stays in the segment; at most the hangover."""
    pause: float = 0.2
    """Silence after which the final text is prepared, so that it is ready at the endpoint; at least
    `trailing_silence` in effect. With a value of the hangover or more, it is not prepared."""
    min_speech: float = 0.2
    """Voiced time before a segment is announced; shorter bursts count as silence."""
    onset_gap: float = 0.2
    """Silence after which a burst that was not yet a segment is dropped."""
    max_segment: float = 24.0
    """Length at which speech without a pause is cut."""
    cut_search: float = 5.0
    """Part at the end of a too long segment in which the quietest place is searched."""
    cut_window: float = 0.1
    """Length of the quiet place."""
    chunk: float = 0.1
    """Length of the pieces in which a segment is delivered."""

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            _check_time(name, getattr(self, name))
        _check_at_least("hangover", self.hangover, "one frame", FRAME_SECONDS)
        _check_at_least("onset_gap", self.onset_gap, "one frame", FRAME_SECONDS)
        _check_at_least("chunk", self.chunk, "one frame", FRAME_SECONDS)
        _check_at_least("cut_window", self.cut_window, "one frame", FRAME_SECONDS)
        _check_at_least("hangover", self.hangover, "trailing_silence", self.trailing_silence)
        _check_at_least("cut_search", self.cut_search, "cut_window", self.cut_window)
        _check_at_least("max_segment", self.max_segment, "cut_search", self.cut_search)


LONGEST_S: Final = 3600
"""Upper limit of every time: memory is reserved for most of them."""


def _check_time(name: str, seconds: object) -> None:
    if not isinstance(seconds, int | float) or not 0 <= seconds <= LONGEST_S:
        raise ConfigError(
            f"{name} is {seconds!r}; it must be a time in seconds, from 0 to {LONGEST_S}.",
            code="value_out_of_range",
        )


def _check_at_least(name: str, seconds: float, limit_name: str, limit: float) -> None:
    if seconds < limit:
        raise ConfigError(
            f"{name} ({seconds:g} s) must be at least {limit_name} ({limit:g} s).",
            code="value_out_of_range",
        )
