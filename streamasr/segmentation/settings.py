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
    """When a frame counts as voiced; levels are those of a frame's root mean square, dBFS."""

    aggressiveness: int = 1
    """webrtcvad's mode, 0 to 3: how sure it must be. At this noise level, modes 0 and 1 hear no
    speech in steady noise either, and 1 hears more of the soft speech than 2."""
    noise_db: float = -42.0
    """Where the noise floor is put. At -35 webrtcvad takes a fan for speech again; each dB
    lower loses more speech in noise."""
    max_gain_db: float = 25.0
    """Most by which a recording without noise is amplified."""
    minimum_db: float = -80.0
    """Level below which nothing is voiced."""
    floor_window: float = 3.0
    """The noise floor is the quietest moment of this many seconds: how soon new noise is known,
    and the longest vowel that is not taken for noise."""

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        if self.aggressiveness not in {0, 1, 2, 3}:
            raise ConfigError(f"aggressiveness must be 0, 1, 2 or 3; it is {self.aggressiveness}.")
        _check_range("noise_db", self.noise_db, SILENCE_DB, 0.0)
        _check_range("max_gain_db", self.max_gain_db, 0.0, 60.0)
        _check_range("minimum_db", self.minimum_db, SILENCE_DB, 0.0)
        _check_range("floor_window", self.floor_window, 0.5, 60.0)


def _check_range(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ConfigError(f"{name} must be from {low:g} to {high:g}; it is {value}.")


class ChunkerConfig(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    rename=lambda name: f"{name}_s",  # in files, where nothing else tells the unit
):
    """How speech is cut into segments; all times in seconds."""

    pre_roll: float = 0.3
    """Audio kept before the first voiced frame: soft onsets come before what a VAD notices."""
    hangover: float = 0.6
    """Silence that ends a segment (the endpoint)."""
    trailing_silence: float = 0.2
    """How much of that silence stays in the segment; at most the hangover."""
    pause: float = 0.2
    """Silence after which the final text is prepared, so that it is ready at the endpoint; at least
    `trailing_silence` in effect. From the hangover on, it is not prepared."""
    min_speech: float = 0.2
    """Voiced time before a segment is announced; shorter bursts are silence."""
    onset_gap: float = 0.2
    """Silence after which a burst that was not yet a segment is given up."""
    max_segment: float = 24.0
    """Longest segment; longer speech is cut."""
    cut_search: float = 5.0
    """The end of a too long segment where the place of the cut is searched."""
    cut_window: float = 0.1
    """Length of the quiet place that is searched."""
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


_LONGEST_S: Final = 3600
"""No time is set longer: memory is kept for most of them."""


def _check_time(name: str, seconds: object) -> None:
    if not isinstance(seconds, int | float) or not 0 <= seconds <= _LONGEST_S:
        raise ConfigError(
            f"{name} must be a time in seconds, from 0 to {_LONGEST_S}; it is {seconds!r}."
        )


def _check_at_least(name: str, seconds: float, limit_name: str, limit: float) -> None:
    if seconds < limit:
        raise ConfigError(f"{name} ({seconds:g} s) must be at least {limit_name} ({limit:g} s).")
