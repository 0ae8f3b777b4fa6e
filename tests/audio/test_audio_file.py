"""Files of many kinds, whole and in parts, and what is said of those that cannot be read."""

import io
import logging
import os
import resource
import wave
from pathlib import Path

import numpy as np
import pytest

from streamasr.audio.file import open_audio
from streamasr.audio.raw import RawAudio
from streamasr.core.errors import AudioError
from streamasr.core.units import SAMPLE_RATE, Float32Array, to_samples
from tests.support.audio_files import cut_off, tone, write_audio, write_video
from tests.support.errors import raises


def read(path: Path, *, start: float = 0.0, duration: float | None = None) -> Float32Array:
    with open_audio(path, start=start, duration=duration) as audio:
        return np.concatenate(list(audio.blocks()))


def read_until_error(path: Path) -> tuple[Float32Array, str]:
    """Return the samples delivered before the error, and its sentence."""
    blocks: list[Float32Array] = [np.zeros(0, np.float32)]
    with pytest.raises(AudioError) as caught, open_audio(path) as audio:
        blocks.extend(audio.blocks())
    sentence = str(caught.value)
    assert path.name in sentence
    assert "\n" not in sentence
    return np.concatenate(blocks), sentence


def noise(n: int, seed: int = 0) -> Float32Array:
    return np.random.default_rng(seed).uniform(-0.9, 0.9, n).astype(np.float32)


# What is read


def test_16_bit_wav_is_read_bit_for_bit(tmp_path: Path) -> None:
    steps = np.random.default_rng(0).integers(-32768, 32768, 50_001)
    samples = (steps / 32768).astype(np.float32)
    path = write_audio(tmp_path / "a.wav", samples)
    with open_audio(path) as audio:
        assert audio.duration == pytest.approx(50_001 / SAMPLE_RATE)
        blocks = list(audio.blocks())
    assert all(block.dtype == np.float32 and block.ndim == 1 and len(block) for block in blocks)
    assert np.concatenate(blocks).tobytes() == samples.tobytes()


@pytest.mark.parametrize(
    ("name", "codec", "tolerance"),
    [
        ("u8.wav", "pcm_u8", 1 / 128),
        ("s16.wav", "pcm_s16le", 1 / 32768),
        ("s24.wav", "pcm_s24le", 2**-22),
        ("s32.wav", "pcm_s32le", 2**-22),
        ("f32.wav", "pcm_f32le", 0),
        ("f64.wav", "pcm_f64le", 0),
        ("big.aiff", "pcm_s16be", 1 / 32768),
        ("s16.flac", "flac", 1 / 32768),
        ("apple.m4a", "alac", 1 / 32768),
    ],
)
@pytest.mark.parametrize("layout", ["mono", "stereo"])
def test_lossless_formats_keep_the_samples(
    tmp_path: Path, name: str, codec: str, tolerance: float, layout: str
) -> None:
    samples = noise(20_000)
    channels = samples if layout == "mono" else np.stack([samples, samples])
    path = write_audio(tmp_path / name, channels, codec=codec, layout=layout)
    np.testing.assert_allclose(read(path), samples, atol=tolerance)


@pytest.mark.parametrize(
    ("name", "codec", "rate"),
    [
        ("a.mp3", "libmp3lame", 44_100),
        ("a.m4a", "aac", 44_100),
        ("a.aac", "aac", 16_000),
        ("a.ogg", "libopus", 48_000),
        ("a.webm", "libopus", 48_000),
        ("a.mkv", "aac", 48_000),
        ("a.ts", "aac", 48_000),
        ("a.avi", "pcm_s16le", 22_050),
    ],
)
def test_lossy_and_video_formats_keep_the_sound(
    tmp_path: Path, name: str, codec: str, rate: int
) -> None:
    path = write_audio(tmp_path / name, tone(3.0, rate), codec=codec, rate=rate)
    samples = read(path)
    assert abs(len(samples) - 3 * SAMPLE_RATE) <= 0.15 * SAMPLE_RATE
    middle = samples[SAMPLE_RATE : 2 * SAMPLE_RATE]
    strongest = np.argmax(np.abs(np.fft.rfft(middle)))
    assert strongest == 440
    assert np.sqrt(np.mean(middle**2)) == pytest.approx(0.5 / np.sqrt(2), rel=0.05)


def test_channels_are_averaged(tmp_path: Path) -> None:
    left, right = noise(10_000, 1), noise(10_000, 2)
    path = write_audio(
        tmp_path / "a.wav", np.stack([left, right]), codec="pcm_f32le", layout="stereo"
    )
    np.testing.assert_allclose(read(path), (left + right) / 2, atol=1e-7)


def test_six_channels_at_96_khz(tmp_path: Path) -> None:
    sound = tone(1.0, 96_000)
    channels = np.stack([sound, sound, 0 * sound, 0 * sound, 0 * sound, sound])
    path = write_audio(tmp_path / "a.wav", channels, rate=96_000, layout="5.1")
    samples = read(path)
    assert len(samples) == SAMPLE_RATE
    np.testing.assert_allclose(samples[1000:-1000], 0.5 * tone(1.0)[1000:-1000], atol=1e-3)


def test_samples_beyond_full_scale_are_clipped(tmp_path: Path) -> None:
    path = write_audio(tmp_path / "a.wav", 3 * tone(0.5), codec="pcm_f32le")
    np.testing.assert_array_equal(read(path), np.clip(3 * tone(0.5), -1, 1))


def test_three_samples_are_audio(tmp_path: Path) -> None:
    assert len(read(write_audio(tmp_path / "a.wav", noise(3)))) == 3


def test_names_may_look_like_protocols_or_not_be_utf8(tmp_path: Path) -> None:
    for name in ["http:x.wav", "-", "a%20b#c.wav", os.fsdecode(b"\xff.wav"), "词.wav"]:
        path = tmp_path / "a.wav"
        write_audio(path, noise(1000))
        odd = path.rename(tmp_path / name)
        assert len(read(odd)) == 1000


# The timeline


def test_sound_that_starts_late_starts_late(tmp_path: Path) -> None:
    samples = read(write_video(tmp_path / "a.mp4", tone(1.0), late=0.5))
    assert np.abs(samples[: to_samples(0.45)]).max() < 0.01
    assert np.abs(samples[to_samples(0.55) :]).max() > 0.4


def test_gap_in_the_timestamps_is_silence(tmp_path: Path) -> None:
    path = write_audio(tmp_path / "a.mkv", tone(4.0), gap=(2.0, 1.5))
    samples = read(path)
    assert len(samples) == pytest.approx(to_samples(5.5), abs=0.1 * SAMPLE_RATE)
    assert np.abs(samples[to_samples(2.1) : to_samples(3.5)]).max() == 0
    assert np.abs(samples[to_samples(3.6) :]).max() > 0.4


# Parts


@pytest.mark.parametrize(("start", "duration"), [(0, 0.7), (1.2345, None), (3.3, 0.01), (0, 99)])
@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_part_is_what_stands_there_in_the_whole(
    tmp_path: Path, rate: int, start: float, duration: float | None
) -> None:
    path = write_audio(tmp_path / "a.flac", noise(4 * rate), rate=rate, codec="flac")
    end = None if duration is None else to_samples(start) + to_samples(duration)
    expected = read(path)[to_samples(start) : end]
    assert read(path, start=start, duration=duration).tobytes() == expected.tobytes()
    with open_audio(path, start=start, duration=duration) as audio:
        assert audio.duration == pytest.approx(len(expected) / SAMPLE_RATE, abs=1e-3)


@pytest.mark.parametrize(
    ("name", "codec", "rate", "shift"),
    [
        ("a.wav", "pcm_s16le", 44_100, 0),
        ("a.flac", "flac", 44_100, 0),
        ("a.m4a", "aac", 44_100, 0),
        ("a.mkv", "aac", 48_000, 16),
        ("a.webm", "libopus", 48_000, 16),
        ("a.mp3", "libmp3lame", 44_100, 0),
        ("a.ogg", "libopus", 48_000, 0),
        ("a.ts", "aac", 48_000, 0),
    ],
)
def test_part_far_into_a_file_lies_at_its_place(
    tmp_path: Path, name: str, codec: str, rate: int, shift: int
) -> None:
    chirp = np.sin(2 * np.pi * np.cumsum(np.linspace(200, 1000, 13 * rate)) / rate)
    path = write_audio(tmp_path / name, 0.5 * chirp.astype(np.float32), rate=rate, codec=codec)
    start = to_samples(10.0003)
    whole, part = read(path), read(path, start=10.0003, duration=2.0)
    assert len(part) == to_samples(2.0)
    errors = [
        np.abs(whole[start + lag : start + lag + len(part)] - part).max()
        for lag in range(-shift, shift + 1)
    ]
    assert min(errors) < 0.1


def test_start_behind_the_end_is_an_error(tmp_path: Path) -> None:
    path = write_audio(tmp_path / "a.wav", noise(16_000))
    with raises(AudioError, "ends_before_start"):
        read(path, start=7)


def test_file_that_breaks_off_at_once_contains_no_audio(tmp_path: Path) -> None:
    path = write_audio(tmp_path / "a.wav", noise(1000))
    path.write_bytes(path.read_bytes()[:-2000])
    assert "contains no audio" in read_until_error(path)[1]


@pytest.mark.parametrize(("start", "duration"), [(-1, None), (0, 0), (0, -2)])
def test_impossible_parts_are_refused(tmp_path: Path, start: float, duration: float) -> None:
    path = write_audio(tmp_path / "a.wav", noise(16_000))
    with raises(AudioError, "value_out_of_range"):
        open_audio(path, start=start, duration=duration)


# What cannot be read


def test_missing_file(tmp_path: Path) -> None:
    assert "does not exist" in read_until_error(tmp_path / "a.wav")[1]


def test_directory(tmp_path: Path) -> None:
    assert "is a directory" in read_until_error(tmp_path)[1]


def test_unreadable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_audio(tmp_path / "a.wav", noise(100))
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may read everything
    assert "permission denied" in read_until_error(path)[1]


def test_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.touch()
    assert "is empty" in read_until_error(path)[1]


@pytest.mark.parametrize("name", ["a.txt", "a.srt", "a.wav", "a.mp3", "a.json", "a.m3u8"])
def test_text_is_not_media(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text(
        "1\n00:00:01,000 --> 00:00:02,000\nhello\n" if "srt" in name else "hello\n" * 99
    )
    assert "is not an audio or video file" in read_until_error(path)[1]


def test_video_without_sound(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", None)
    assert "contains no sound" in read_until_error(path)[1]


def test_wav_without_samples(tmp_path: Path) -> None:
    path = write_audio(tmp_path / "a.wav", noise(100))
    header = path.read_bytes()[:-200].replace(b"data\xc8", b"data\x00")
    path.write_bytes(header[:4] + (len(header) - 8).to_bytes(4, "little") + header[8:])
    assert "contains no audio" in read_until_error(path)[1]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_samples_that_are_not_numbers(tmp_path: Path, value: float) -> None:
    samples = noise(40_000)
    samples[30_000] = value
    path = write_audio(tmp_path / "a.wav", samples, codec="pcm_f32le")
    before, sentence = read_until_error(path)
    assert before.tobytes() == samples[:30_000].tobytes()
    assert "1.9 s" in sentence
    assert "NaN or infinite" in sentence


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("a.wav", "pcm_s16le", {}),
        ("f.wav", "pcm_f32le", {}),
        ("a.flac", "flac", {}),
        ("a.m4a", "aac", {"movflags": "faststart"}),
        ("a.mkv", "aac", {}),
        ("a.mp3", "libmp3lame", {}),
    ],
)
def test_file_that_breaks_off_delivers_what_it_has(
    tmp_path: Path, name: str, codec: str, options: dict[str, str]
) -> None:
    path = cut_off(write_audio(tmp_path / name, noise(96_000), codec=codec, options=options), 0.6)
    before, sentence = read_until_error(path)
    assert len(before) == pytest.approx(0.6 * 96_000, rel=0.15)
    assert f"breaks off at {len(before) / SAMPLE_RATE:.1f} s" in sentence


def test_part_before_the_break_is_fine(tmp_path: Path) -> None:
    path = cut_off(write_audio(tmp_path / "a.wav", noise(96_000)), 0.6)
    assert len(read(path, duration=1.5)) == to_samples(1.5)


def test_mp4_without_its_index_is_incomplete(tmp_path: Path) -> None:
    path = cut_off(write_audio(tmp_path / "a.m4a", noise(96_000), codec="aac"), 0.6)
    assert "is incomplete" in read_until_error(path)[1]


def test_damaged_packets_are_left_out_with_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    path = write_audio(tmp_path / "a.flac", noise(96_000), codec="flac")
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 3000] = b"\x55" * 3000
    path.write_bytes(data)
    samples = read(path)
    assert len(samples) == pytest.approx(96_000, abs=2000)
    assert [record.levelno for record in caplog.records] in ([logging.WARNING], [])
    assert capfd.readouterr().err == ""


# Memory


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 44_100, 0, "NONE", ""))
        file.writeframes(bytes(2 * 44_100 * 300))
    with open_audio(path) as audio:
        blocks = audio.blocks()
        next(blocks)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        n = sum(len(block) for block in blocks)
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert n > 299 * SAMPLE_RATE
    assert grown < 6_000  # KiB; the samples alone are 19,200


# Raw samples from a pipe


class Pipe(io.BytesIO):
    """Gives its data in pieces of the sizes it is told, as a pipe does."""

    def __init__(self, data: bytes, sizes: list[int]) -> None:
        super().__init__(data)
        self._sizes = sizes

    def read1(self, size: int | None = -1, /) -> bytes:
        return super().read1(self._sizes.pop(0) if self._sizes else size or -1)


STEPS = np.array([0, 1, -1, 32767, -32768, 100], "<i2")


@pytest.mark.parametrize("sizes", [[], [1], [3, 1], [5, 5], [1, 1, 1, 1]])
def test_raw_samples_arrive_in_any_pieces(sizes: list[int]) -> None:
    audio = RawAudio(Pipe(STEPS.tobytes(), [*sizes]))
    samples = np.concatenate(list(audio.blocks()))
    np.testing.assert_array_equal(samples, STEPS / np.float32(32768))
    assert audio.duration is None


def test_half_a_sample_at_the_end_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    audio = RawAudio(io.BytesIO(STEPS.tobytes()[:-1]))
    assert sum(len(block) for block in audio.blocks()) == 5
    assert "ends in the middle of a sample" in caplog.text


@pytest.mark.parametrize("data", [b"", b"x"])
def test_empty_pipe_is_an_error(data: bytes) -> None:
    with raises(AudioError, "no_audio"):
        list(RawAudio(io.BytesIO(data)).blocks())


def test_part_of_a_pipe() -> None:
    data = (np.arange(48_000) % 1000).astype("<i2").tobytes()
    audio = RawAudio(io.BytesIO(data), start=0.5, duration=1.25)
    samples = np.concatenate(list(audio.blocks()))
    np.testing.assert_array_equal(samples * 32768, np.arange(8_000, 28_000) % 1000)


def test_start_behind_the_end_of_a_pipe_is_an_error() -> None:
    with raises(AudioError, "ends_before_start"):
        list(RawAudio(io.BytesIO(bytes(32_000)), start=2).blocks())
