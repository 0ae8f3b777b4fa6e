"""Formats of audio, and audio that is sent as fast as the server reads."""

import numpy as np

from tests.recordings.audio import pcm_f32le, pcm_s16le, resampled, talk
from tests.recordings.player import Player
from tests.recordings.scenarios.registry import scenario


@scenario()
async def encodings(play: Player) -> None:
    """Send the same talk in several encodings, in frames that cut samples in two."""
    samples = talk(1.5, 2.0)
    formats = [
        ("pcm_s16le", 16_000, 1),
        ("pcm_f32le", 16_000, 1),
        ("pcm_s16le", 44_100, 2),
        ("pcm_f32le", 44_100, 2),
        ("pcm_s16le", 8_000, 1),
        ("pcm_s16le", 48_000, 8),
        ("pcm_f32le", 22_050, 1),
    ]
    for encoding, rate, channels in formats:
        frames = resampled(samples, rate, channels)
        data = pcm_s16le(frames) if encoding == "pcm_s16le" else pcm_f32le(frames)
        async with play.connect(f"{encoding}, {rate} Hz, {channels}") as client:
            await client.start(encoding=encoding, sample_rate=rate, channels=channels)
            size = len(data) // 20 + 1
            for begin in range(0, len(data), size):
                await client.send(data[begin : begin + size])
                await client.pace()
            await client.stop()


@scenario()
async def channels_are_mixed(play: Player) -> None:
    """Send speech on one of two channels, and on both with opposite signs."""
    mono = talk(2.0)
    left = np.stack([mono, np.zeros_like(mono)], axis=1)
    opposite = np.stack([mono, -mono], axis=1)
    for name, frames in (("left only", left), ("opposite", opposite)):
        async with play.connect(name) as client:
            await client.start(channels=2, partials=False)
            await client.send(pcm_s16le(frames))
            await client.pace()
            await client.stop()


@scenario()
async def odd_byte_counts(play: Player) -> None:
    """Send frames of one byte, of odd sizes, and half a sample at the end."""
    samples = talk(1.5)
    data = pcm_s16le(samples)
    async with play.connect("client") as client:
        await client.start(partials=False)
        for begin in range(1000):
            await client.send(data[begin : begin + 1])
        await client.pace()
        begin = 1000
        for size in (1, 3, 501, 1601, 3199, 6401):
            await client.send(data[begin : begin + size])
            await client.pace()
            begin += size
        while begin < len(data):
            await client.send(data[begin : begin + 4001])
            await client.pace()
            begin += 4001
        await client.send(b"x")
        await client.stop()


@scenario(settings={"server": {"max_lag_s": 2.0}}, keeps_order=False)
async def file_mode(play: Player) -> None:
    """Send five minutes of audio as fast as the server reads, in large frames."""
    data = pcm_s16le(np.tile(talk(2.0, 4.5, 1.0), 27))
    async with play.connect("client") as client:
        await client.start(partials=False)
        for begin in range(0, len(data), 1_000_001):
            await client.send(data[begin : begin + 1_000_001])
        await client.stop()


@scenario(settings={"server": {"max_lag_s": 2.0}}, keeps_order=False)
async def file_mode_with_a_slow_engine(play: Player) -> None:
    """Send a minute of audio while nothing is recognised: the server stops reading."""
    data = pcm_s16le(np.tile(talk(2.0, 4.5, 1.0), 6))
    async with play.connect("client") as client:
        await client.start(partials=False)
        await play.server.hold("text")
        for begin in range(0, len(data), 64_000):
            await client.send(data[begin : begin + 64_000])
        while not any(message["type"] == "end" for message in client.received):
            await play.server.release()
            await client.say("stop")
            await client.wait_closed()


@scenario(keeps_order=False)
async def file_mode_at_44100_hz_stereo(play: Player) -> None:
    """Send a minute of audio of another format as fast as the server reads."""
    frames = resampled(np.tile(talk(2.0, 4.5), 6), 44_100, 2)
    data = pcm_f32le(frames)
    async with play.connect("client") as client:
        await client.start(encoding="pcm_f32le", sample_rate=44_100, channels=2, partials=False)
        for begin in range(0, len(data), 300_003):
            await client.send(data[begin : begin + 300_003])
        await client.stop()
