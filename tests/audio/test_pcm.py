"""Raw samples in pieces of any sizes: the same sound, counted exactly; and what is refused."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamasr.audio.pcm import PcmDecoder
from streamasr.core.audio_format import Encoding
from streamasr.core.errors import AudioError
from streamasr.core.units import SAMPLE_RATE, Float32Array
from tests.support.audio_files import tone
from tests.support.errors import raises
from tests.support.fakes import pcm

ENCODINGS: list[Encoding] = ["pcm_s16le", "pcm_f32le"]
RATES = [8_000, 11_025, 16_000, 22_050, 44_100, 48_000]


def decode(decoder: PcmDecoder, pieces: list[bytes]) -> Float32Array:
    return np.concatenate([*(decoder.feed(piece) for piece in pieces), decoder.finish()])


def encode(values: Float32Array, encoding: Encoding) -> bytes:
    return pcm(values) if encoding == "pcm_s16le" else values.astype("<f4").tobytes()


@given(st.data())
def test_any_split_gives_the_samples_of_one_piece_and_counts_them(data: st.DataObject) -> None:
    encoding = data.draw(st.sampled_from(ENCODINGS))
    rate = data.draw(st.sampled_from(RATES) | st.integers(8_000, 48_000))
    channels = data.draw(st.integers(1, 8))
    n_frames = data.draw(st.integers(0, 3_000))
    rng = np.random.default_rng(n_frames)
    sound = encode(rng.uniform(-1.2, 1.2, n_frames * channels).astype(np.float32), encoding)
    sound += bytes(data.draw(st.integers(0, 40)))
    borders = sorted(data.draw(st.lists(st.integers(0, len(sound)), max_size=12)))
    pieces = [sound[a:b] for a, b in zip([0, *borders], [*borders, len(sound)], strict=True)]

    decoder, whole_decoder = (PcmDecoder(encoding, rate, channels) for _ in range(2))
    samples, whole = decode(decoder, pieces), decode(whole_decoder, [sound])

    assert samples.tobytes() == whole.tobytes()
    frame_size = channels * (2 if encoding == "pcm_s16le" else 4)
    n_whole, n_rest = divmod(len(sound), frame_size)
    assert len(samples) == decoder.n_received == round(n_whole * SAMPLE_RATE / rate)
    assert decoder.n_dangling_bytes == n_rest
    assert samples.dtype == np.float32
    assert not len(samples) or np.abs(samples).max() <= 1


def test_one_byte_at_a_time_is_as_good_as_any() -> None:
    sound = pcm(tone(0.02, 44_100))
    pieces = [sound[i : i + 1] for i in range(len(sound))]
    ours = decode(PcmDecoder("pcm_s16le", 44_100, 1), pieces)
    assert ours.tobytes() == decode(PcmDecoder("pcm_s16le", 44_100, 1), [sound]).tobytes()


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_our_own_format_passes_bit_for_bit(encoding: Encoding) -> None:
    steps = np.random.default_rng(1).integers(-32768, 32768, 5_000)
    samples = (steps / 32768).astype(np.float32)
    ours = decode(PcmDecoder(encoding, SAMPLE_RATE, 1), [encode(samples, encoding)])
    assert ours.tobytes() == samples.tobytes()


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("rate", RATES)
def test_channels_are_averaged_at_any_rate(encoding: Encoding, rate: int) -> None:
    low, high = tone(0.4, rate, hz=300), tone(0.4, rate, hz=700)
    frames = np.stack([low, high, low, high], axis=1).astype(np.float32)
    ours = decode(PcmDecoder(encoding, rate, 4), [encode(frames.ravel(), encoding)])
    expected = (tone(0.4, hz=300) + tone(0.4, hz=700)) / 2
    np.testing.assert_allclose(ours[800:-800], expected[800:-800], atol=1e-3)


def test_floats_beyond_full_scale_are_clipped() -> None:
    sound = np.array([0.5, 1.5, -3.0, 99.0], "<f4").tobytes()
    assert PcmDecoder("pcm_f32le").feed(sound).tolist() == [0.5, 1.0, -1.0, 1.0]


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf, 12_345.0, -3e38])
def test_values_that_are_not_audio_are_refused_with_its_place(wrong: float) -> None:
    decoder = PcmDecoder("pcm_f32le", 48_000, 2)
    decoder.feed(np.zeros(14, "<f4").tobytes())
    with raises(AudioError, "bad_samples"):
        decoder.feed(np.array([0, 0, 0, 0, 0, wrong], "<f4").tobytes())
    assert decoder.n_received == round(7 / 3)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"encoding": "mp3"}, "encoding is 'mp3'; it must be pcm_s16le or pcm_f32le."),
        ({"sample_rate": 7_999}, "sample_rate is 7999; it must be from 8000 to 48000 Hz."),
        ({"sample_rate": 48_001}, "sample_rate is 48001; it must be from 8000 to 48000 Hz."),
        ({"channels": 0}, "channels is 0; it must be from 1 to 8."),
        ({"channels": 9}, "channels is 9; it must be from 1 to 8."),
    ],
)
def test_what_cannot_be_decoded_is_refused_by_name(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(AudioError) as caught:
        PcmDecoder(**options)
    assert str(caught.value) == sentence
