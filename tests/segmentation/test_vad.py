"""The voice detector on synthetic voices and noises, and on a recording where there is one."""

import numpy as np
import numpy.typing as npt
import pytest

from streamasr.audio.file import open_audio
from streamasr.core.errors import ConfigError
from streamasr.core.events import SpeechEnded
from streamasr.core.units import SAMPLE_RATE, Float32Array, to_samples
from streamasr.segmentation.chunker import FRAME, Chunker
from streamasr.segmentation.settings import SILENCE_DB, ChunkerConfig, VadConfig
from streamasr.segmentation.vad import NoiseFloor, VoiceDetector, level_db
from tests.support.errors import raises
from tests.support.paths import REPOSITORY

Float64Array = npt.NDArray[np.float64]

RECORDING = REPOSITORY.parent / "shared" / "audio" / "jfk.wav"


def scale(samples: Float64Array, level: float) -> Float32Array:
    """Bring to a root mean square of `level` dBFS."""
    rms = np.sqrt(np.mean(np.square(samples)))
    return np.asarray(samples / rms * 10 ** (level / 20), np.float32)


def harmonics(pitch: Float64Array | float, seconds: float) -> Float64Array:
    """A vowel: harmonics under two formants; the pitch may move."""
    n = to_samples(seconds)
    phase = 2 * np.pi * np.cumsum(np.broadcast_to(pitch, n)) / SAMPLE_RATE
    mean_pitch = float(np.mean(pitch))
    vowel = np.zeros(n)
    for k in range(1, int(4000 / mean_pitch)):
        hz = k * mean_pitch
        strength = 1 / (1 + ((hz - 600) / 250) ** 2) + 0.4 / (1 + ((hz - 1700) / 300) ** 2)
        vowel += strength * np.sin(k * phase + k * k)
    return vowel


def speech(seconds: float, level: float, *, rate: float = 4.0, seed: int = 0) -> Float32Array:
    """Babble: syllables with falling pitch, short closures between them, `rate` per second."""
    rng = np.random.default_rng(seed)
    syllables = []
    for _ in range(int(seconds * rate)):
        length = to_samples(1 / rate)
        pitch = rng.uniform(100, 160) * np.linspace(1.1, 0.9, length)
        envelope = np.sin(np.pi * np.linspace(0, 1, length)) ** 0.7 + 0.003
        syllables.append(harmonics(pitch, 1 / rate)[:length] * envelope)
    return scale(np.concatenate(syllables), level)


def steady(kind: str, seconds: float, level: float) -> Float32Array:
    """A sound that goes on and on."""
    n = to_samples(seconds)
    t = np.arange(n) / SAMPLE_RATE
    white = np.random.default_rng(1).standard_normal(n)
    hz = np.maximum(np.fft.rfftfreq(n, 1 / SAMPLE_RATE), 20)
    pink = np.fft.irfft(np.fft.rfft(white) / np.sqrt(hz), n)
    pink /= pink.std()
    sounds = {
        "white": white,
        "pink": pink,
        "fan": pink * (1 + 0.15 * np.sin(2 * np.pi * 0.7 * t)) + np.sin(2 * np.pi * 118 * t),
        "hum": sum(np.sin(2 * np.pi * 50 * k * t + k) / k for k in range(1, 20)),
        "tone": np.sin(2 * np.pi * 1000 * t),
        "vowel": harmonics(140, seconds),
    }
    return scale(np.asarray(sounds[kind]), level)


def silence(seconds: float) -> Float32Array:
    return np.zeros(to_samples(seconds), np.float32)


def find_segments(samples: Float32Array) -> list[tuple[float, float]]:
    chunker = Chunker(ChunkerConfig(), VoiceDetector(VadConfig()))
    events = chunker.feed(samples) + chunker.finish()
    ended = [event for event in events if isinstance(event, SpeechEnded)]
    return [(event.start / SAMPLE_RATE, event.end / SAMPLE_RATE) for event in ended]


def total(segments: list[tuple[float, float]]) -> float:
    return sum(end - start for start, end in segments)


STEADY = ["white", "pink", "fan", "hum", "tone", "vowel"]


@pytest.mark.parametrize("level", [-60, -40, -20, -10])
@pytest.mark.parametrize("kind", STEADY)
def test_steady_sound_is_not_speech(kind: str, level: float) -> None:
    segments = find_segments(steady(kind, 8, level))
    assert total(segments) <= 0.8  # where it is loud from the first sample on
    assert all(start == 0 for start, _ in segments)


@pytest.mark.parametrize("kind", STEADY)
def test_steady_sound_after_silence_is_soon_known(kind: str) -> None:
    assert total(find_segments(np.concatenate([silence(2), steady(kind, 6, -20)]))) < 4


def test_digital_silence_is_not_speech() -> None:
    assert find_segments(silence(10)) == []


@pytest.mark.parametrize("level", [-60, -40, -20])
def test_speech_is_found_at_any_level(level: float) -> None:
    samples = np.concatenate([silence(2), speech(3, level), silence(2)])
    [(start, end)] = find_segments(samples)
    assert 1.6 <= start <= 2.0
    assert 4.9 <= end <= 5.5


@pytest.mark.parametrize("level", [-60, -30])
def test_first_word_of_a_stream_is_found(level: float) -> None:
    [(start, end)] = find_segments(np.concatenate([speech(0.6, level, rate=2), silence(2)]))
    assert start == 0.0
    assert end >= 0.5


@pytest.mark.parametrize("kind", ["white", "pink", "fan", "hum"])
def test_speech_in_noise_at_10_db_is_found_and_the_noise_is_not(kind: str) -> None:
    samples = steady(kind, 12, -35)
    samples[to_samples(5) : to_samples(8)] += speech(3, -25)
    inside = [(start, end) for start, end in find_segments(samples) if end > 1]
    assert inside[0][0] <= 5.1
    assert inside[-1][1] >= 7.8
    assert total(inside) <= 4.2


def test_long_fast_speech_is_not_taken_for_noise() -> None:
    samples = speech(15, -25, rate=7)
    assert total(find_segments(samples)) > 0.97 * len(samples) / SAMPLE_RATE


def test_recording_is_found_with_its_pauses() -> None:
    if not RECORDING.exists():
        pytest.skip("the recording is not here")
    with open_audio(RECORDING) as audio:
        segments = find_segments(np.concatenate(list(audio.blocks())))
    assert 9.5 < total(segments) <= 11.0
    assert segments[0][0] < 0.4
    assert segments[-1][1] > 10.5


def test_samples_beyond_full_scale_are_accepted() -> None:
    is_voiced = VoiceDetector(VadConfig())
    for frame in np.split(10 * speech(3, -10), 100):
        is_voiced(frame)


def test_level_of_a_full_scale_square_is_zero() -> None:
    frame = np.ones(FRAME, np.float32)
    assert level_db(frame) == 0.0
    assert level_db(0.1 * frame) == pytest.approx(-20)
    assert level_db(0 * frame) == SILENCE_DB


def test_noise_floor_follows_down_at_once_and_up_after_its_window() -> None:
    floor = NoiseFloor(3.0)
    assert floor.update(-30.0) == -30.0
    for _ in range(30):
        quiet = floor.update(-60.0)
    assert quiet == pytest.approx(-60.0, abs=0.1)
    levels = [floor.update(-40.0) for _ in range(200)]
    assert levels[70] == pytest.approx(-60.0, abs=0.1)
    assert levels[120] == pytest.approx(-40.0, abs=0.1)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("aggressiveness", 4),
        ("noise_db", 3.0),
        ("max_gain_db", -1.0),
        ("minimum_db", float("nan")),
        ("floor_window", 0.1),
    ],
)
def test_impossible_settings_are_refused_by_name(field: str, value: float) -> None:
    with raises(ConfigError, "value_out_of_range") as caught:
        VadConfig(**{field: value})  # type: ignore[arg-type]
    assert field in str(caught.value)
