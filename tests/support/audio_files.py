"""Small media files for tests, written by libav where they are needed."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from streamasr.core.units import SAMPLE_RATE, Float32Array

BLOCK = 1024  # samples per frame given to an encoder


def tone(seconds: float, rate: int = SAMPLE_RATE, hz: float = 440.0) -> Float32Array:
    """Return a sine at half of full scale, (n,)."""
    t = np.arange(round(seconds * rate)) / rate
    return (0.5 * np.sin(2 * np.pi * hz * t)).astype(np.float32)


def write_audio(
    path: Path,
    channels: Float32Array,
    *,
    rate: int = SAMPLE_RATE,
    codec: str = "pcm_s16le",
    layout: str = "mono",
    options: dict[str, str] | None = None,
    late: float = 0.0,
    gap: tuple[float, float] | None = None,
) -> Path:
    """Write samples to an audio file and return its path.

    Args:
        path: the file to write; its suffix chooses the container.
        channels: (n,) or (n_channels, n), full scale at 1.
        rate: samples per second.
        codec: libav's name for the encoder.
        layout: libav's name for the channel layout.
        options: options of the container.
        late: timestamp of the first sample, in seconds.
        gap: (a second, the length of a jump of the timestamps there, in seconds).
    """
    channels = np.atleast_2d(channels)
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream(codec, rate=rate, layout=layout)
        assert isinstance(stream, av.AudioStream)
        for start in range(0, channels.shape[1], BLOCK):
            block = np.ascontiguousarray(channels[:, start : start + BLOCK], np.float32)
            frame = av.AudioFrame.from_ndarray(block, "fltp", layout)
            time = late + (gap[1] if gap and start >= gap[0] * rate else 0.0)
            frame.sample_rate, frame.time_base = rate, Fraction(1, rate)
            frame.pts = start + round(time * rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def write_video(path: Path, sound: Float32Array | None, *, late: float = 0.0) -> Path:
    """Write a second of video, with sound that starts `late` seconds in, or without sound."""
    with av.open(str(path), "w") as container:
        picture = container.add_stream("mpeg4", rate=10)
        assert isinstance(picture, av.VideoStream)
        picture.width, picture.height, picture.pix_fmt = 32, 32, "yuv420p"
        stream = None
        if sound is not None:
            stream = container.add_stream("aac", rate=SAMPLE_RATE, layout="mono")
            assert isinstance(stream, av.AudioStream)
        for i in range(10):
            image = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 25 * i, np.uint8), "rgb24")
            image.pts, image.time_base = i, Fraction(1, 10)
            container.mux(picture.encode(image))
        container.mux(picture.encode(None))
        for start in range(0, 0 if sound is None else len(sound), BLOCK):
            assert sound is not None
            assert stream is not None
            frame = av.AudioFrame.from_ndarray(
                sound[None, start : start + BLOCK].copy(), "fltp", "mono"
            )
            frame.sample_rate, frame.time_base = SAMPLE_RATE, Fraction(1, SAMPLE_RATE)
            frame.pts = start + round(late * SAMPLE_RATE)
            container.mux(stream.encode(frame))
        if stream is not None:
            container.mux(stream.encode(None))
    return path


def cut_off(path: Path, fraction: float) -> Path:
    """Write a copy of a file that ends after this fraction of its bytes."""
    broken = path.with_name(f"broken-{path.name}")
    data = path.read_bytes()
    broken.write_bytes(data[: int(fraction * len(data))])
    return broken
