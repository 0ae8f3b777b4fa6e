"""The wire protocol, rule by rule, over a real socket and with a scripted engine."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamasr.audio.pcm import PcmDecoder
from streamasr.client import connect, listen
from streamasr.core.audio_format import Encoding
from streamasr.core.options import SessionOptions
from streamasr.core.orders import Recognise
from streamasr.core.units import Float32Array, Samples
from streamasr.protocols import v1
from streamasr.server.timeouts import Timeouts
from tests.support.fake_daemon import (
    Client,
    DaemonOptions,
    FakeDaemon,
    Json,
    SlowArchive,
    durable,
    exact,
    float_bytes,
    in_time_order,
    recognise,
    running_daemon,
)
from tests.support.fakes import FakeEngine, PatientEngine, pcm, talk
from tests.support.signals import speechlike
from tests.support.waiting import eventually

TALK = exact(talk(1.5, 2.0))
"""Two segments."""

EXPECTED = recognise(TALK)

QUIET = np.zeros(1600, np.float32)


# A session from start to end.


async def test_ready_gives_the_state_of_the_session(tmp_path: Path) -> None:
    async with running_daemon(tmp_path) as daemon, Client.start(daemon) as client:
        assert client.received == [
            {
                "type": "ready",
                "session": client.session,
                "model": "fake",
                "seq": 0,
                "next_sample": 0,
                "sample_rate": 16000,
                "protocol": 1,
                "family": "fakes",
                "languages": ["English", "French"],
            }
        ]


async def test_a_segment_is_speech_then_partials_then_final_then_words(tmp_path: Path) -> None:
    async with running_daemon(tmp_path) as daemon, Client.start(daemon) as client:
        for begin in range(0, len(TALK), 8000):
            await client.send_audio(TALK[begin : begin + 8000])
            await client.send_message("ping")
            await client.receive("pong")
            if begin == 56_000 and not client.of("words"):
                await client.receive("words")  # lest the second's final overtake its partials
        received = await client.stop()
        for segment in (1, 2):
            of_segment = [m for m in received if m.get("segment") == segment]
            speech, *partials, final, words = of_segment
            start = speech["start"]
            assert speech == {"type": "speech", "segment": segment, "start": start}
            assert partials
            for partial in partials:
                n_samples = round((partial["end"] - start) * 16000)
                assert partial == {
                    "type": "partial",
                    "segment": segment,
                    "text": f"{n_samples} samples",
                    "stable": 0,
                    "start": start,
                    "end": partial["end"],
                    "language": "English",
                }
            n_samples = round((final["end"] - start) * 16000)
            assert final == {
                "type": "final",
                "seq": final["seq"],
                "segment": segment,
                "text": f"{n_samples} samples",
                "language": "English",
                "start": start,
                "end": final["end"],
                "reason": "silence",
            }
            assert [word["text"] for word in words["words"]] == [str(n_samples), "samples"]
            assert set(words["words"][0]) == {"text", "start", "end", "score"}
            assert words["method"] == "spread"
            assert final["seq"] < words["seq"]
        assert received[-1] == {
            "type": "end",
            "seq": 5,
            "duration": len(TALK) / 16000,
            "segments": 2,
            "words": 4,
        }
        assert durable(received) == EXPECTED
        assert client.connection.close_code == 1000


@pytest.mark.parametrize("encoding", ["pcm_s16le", "pcm_f32le"])
@pytest.mark.parametrize(("rate", "channels"), [(8000, 1), (16000, 2), (44100, 1), (48000, 8)])
async def test_audio_may_have_any_format(
    tmp_path: Path, encoding: Encoding, rate: int, channels: int
) -> None:
    seconds = np.arange(round(len(TALK) * rate / 16000)) / rate
    mono = np.interp(seconds, np.arange(len(TALK)) / 16000, TALK).astype(np.float32)
    frames = np.repeat(mono[:, None], channels, axis=1)
    audio = pcm(frames) if encoding == "pcm_s16le" else float_bytes(frames)
    decoder = PcmDecoder(encoding, rate, channels)
    expected = recognise(np.concatenate((decoder.feed(audio), decoder.finish())))
    options_sent = {"encoding": encoding, "sample_rate": rate, "channels": channels}
    async with running_daemon(tmp_path) as daemon, Client.start(daemon, **options_sent) as client:
        for begin in range(0, len(audio), 50_001):  # no whole frames
            await client.connection.send(audio[begin : begin + 50_001])
        assert durable(await client.stop()) == expected


@settings(max_examples=10)
@given(sizes=st.lists(st.integers(0, 5000), min_size=1))
async def test_frames_may_have_any_sizes(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int]
) -> None:
    audio = pcm(TALK)
    directory = tmp_path_factory.mktemp("daemon")
    async with running_daemon(directory) as daemon, Client.start(daemon) as client:
        begin = 0
        for size in sizes:
            await client.connection.send(audio[begin : begin + size])
            begin = min(begin + size, len(audio))
        await client.connection.send(audio[begin:])
        assert durable(await client.stop()) == EXPECTED


async def test_frames_of_one_byte_are_carried_over(tmp_path: Path) -> None:
    async with running_daemon(tmp_path) as daemon, Client.start(daemon) as client:
        for byte in pcm(TALK[:4000]):
            await client.connection.send(bytes([byte]))
        await client.send_audio(TALK[4000:])
        assert durable(await client.stop()) == EXPECTED


async def test_a_single_byte_at_the_end_is_ignored(tmp_path: Path) -> None:
    async with running_daemon(tmp_path) as daemon, Client.start(daemon) as client:
        await client.connection.send(pcm(QUIET) + b"x")
        received = await client.stop()
        assert received[-1]["duration"] == 0.1


async def test_a_session_without_audio_has_an_end(tmp_path: Path) -> None:
    async with running_daemon(tmp_path) as daemon, Client.start(daemon) as client:
        received = await client.stop()
        assert received[1:] == [
            {"type": "end", "seq": 1, "duration": 0.0, "segments": 0, "words": 0}
        ]


@pytest.mark.parametrize("number", [0, -7, "name", None])
async def test_ping_is_answered_with_its_id(tmp_path: Path, number: int | str | None) -> None:
    async with running_daemon(tmp_path) as daemon, Client.start(daemon) as client:
        await client.send_message("ping", id=number)
        assert await client.next() == {"type": "pong", "id": number}


async def test_ping_is_answered_while_the_end_is_awaited(tmp_path: Path) -> None:
    engine = PatientEngine()
    async with (
        running_daemon(tmp_path, DaemonOptions(engine=engine)) as daemon,
        Client.start(daemon) as client,
    ):
        await client.send_audio(TALK)
        await client.send_message("stop")
        await client.send_message("ping", id=1)
        await client.receive("pong")


async def test_flush_ends_the_segment_and_not_the_session(tmp_path: Path) -> None:
    async with running_daemon(tmp_path) as daemon, Client.start(daemon) as client:
        speech = speechlike(32_000)
        await client.send_audio(speech)
        await client.send_message("flush")
        assert (await client.receive("final"))["reason"] == "flush"
        await client.send_audio(speech)
        received = await client.stop()
        assert [m["reason"] for m in received if m["type"] == "final"] == ["flush", "stop"]
        assert received[-1]["duration"] == 4.0


async def test_configure_holds_from_the_next_segment_on(tmp_path: Path) -> None:
    engine = FakeEngine()
    async with (
        running_daemon(tmp_path, DaemonOptions(engine=engine)) as daemon,
        Client.start(daemon, language="en", context="before") as client,
    ):
        await client.send_audio(TALK[:32_000])  # in the middle of the first
        change = {"language": None, "context": "", "hotwords": ["after"]}
        await client.send_message("configure", **change, partials=False, words=False)
        await client.send_audio(TALK[32_000:])
        received = await client.stop()
    assert [m["segment"] for m in received if m["type"] == "words"] == [1]
    assert 2 not in [m["segment"] for m in client.of("partial")]
    found = {
        segment: (options.language, options.context, options.hotwords)
        for segment, options in options_by_segment(engine).items()
    }
    assert found == {1: ("English", "before", ()), 2: (None, "", ("after",))}


def options_by_segment(engine: FakeEngine) -> dict[int, SessionOptions]:
    passes = [order for order in engine.orders if isinstance(order, Recognise)]
    return {order.of.segment: order.options for order in passes}


async def test_languages_limit_the_choice_of_the_model(tmp_path: Path) -> None:
    engine = FakeEngine()
    async with (
        running_daemon(tmp_path, DaemonOptions(engine=engine)) as daemon,
        Client.start(daemon, languages=["en-US", "zh", "English"]) as client,
    ):
        await client.send_audio(TALK[:32_000])
        await client.send_message("configure", languages=["de-AT"])
        await client.send_audio(TALK[32_000:])
        await client.stop()
    found = options_by_segment(engine)
    assert (found[1].language, found[1].languages) == (None, ("English", "Chinese"))
    assert (found[2].language, found[2].languages) == ("German", ("German",))


@pytest.mark.parametrize(
    "options",
    [
        {"languages": ["en", "tlh"]},
        {"languages": ["en", "zh"], "language": "de"},
        {"channels": 2, "channel": 2},
    ],
)
async def test_options_that_cannot_be_fulfilled_are_refused(tmp_path: Path, options: Json) -> None:
    async with running_daemon(tmp_path) as daemon, Client.connect(daemon) as client:
        await client.send_message("start", **options)
        await client.refused_with("bad_value", 1008)


# Channels.


def two_channels(left: Float32Array, right: Float32Array) -> bytes:
    return pcm(np.stack([left, right], axis=1))


SILENCE = np.zeros(len(TALK), np.float32)


@pytest.mark.parametrize(
    ("channel", "expected"),
    [(0, EXPECTED), (1, recognise(SILENCE)), ("mix", recognise(exact(TALK / np.float32(2))))],
)
async def test_one_channel_is_chosen_or_all_are_mixed(
    tmp_path: Path, channel: int | str, expected: list[Json]
) -> None:
    audio = two_channels(TALK, SILENCE)
    async with (
        running_daemon(tmp_path) as daemon,
        Client.start(daemon, channels=2, channel=channel) as client,
    ):
        for begin in range(0, len(audio), 50_001):
            await client.connection.send(audio[begin : begin + 50_001])
        assert durable(await client.stop()) == expected


async def test_channels_of_opposite_phase_do_not_cancel_when_one_is_chosen(tmp_path: Path) -> None:
    audio = two_channels(TALK, -TALK)
    async with (
        running_daemon(tmp_path) as daemon,
        Client.start(daemon, channels=2, channel=0) as client,
    ):
        await client.connection.send(audio)
        assert durable(await client.stop()) == EXPECTED


async def test_the_channel_may_change_within_a_session(tmp_path: Path) -> None:
    half = len(TALK) // 2
    async with (
        running_daemon(tmp_path) as daemon,
        Client.start(daemon, channels=2, channel=0) as client,
    ):
        await client.connection.send(two_channels(TALK[:half], SILENCE[:half]))
        await client.send_message("configure", channel=1)
        await client.connection.send(two_channels(SILENCE[half:], TALK[half:]))
        assert durable(await client.stop()) == EXPECTED


async def test_a_channel_that_the_audio_lacks_is_refused_and_the_session_survives(
    tmp_path: Path,
) -> None:
    stereo = two_channels(TALK, SILENCE)
    async with running_daemon(tmp_path) as daemon:
        async with Client.start(daemon, channels=2, channel=0) as client:
            await client.connection.send(stereo[: 4 * 40_000])
            await client.send_message("configure", channel=2)
            assert (await client.refusal())[1]["code"] == "bad_value"
        name = client.session
        async with Client.connect(daemon) as mono:
            # The session keeps its channel, and this audio has only one.
            daemon.host.configure(daemon.sessions.find(name), {"channel": 1})
            await mono.send_message("start", session=name)
            assert (await mono.refusal())[1]["code"] == "bad_value"
        daemon.host.configure(daemon.sessions.find(name), {"channel": 0})
        async with Client.start(daemon, session=name, channels=2) as again:
            await again.connection.send(stereo[4 * again.ready["next_sample"] :])
            assert durable(await again.stop()) == EXPECTED


async def test_partials_and_words_can_be_switched_off(tmp_path: Path) -> None:
    async with (
        running_daemon(tmp_path) as daemon,
        Client.start(daemon, partials=False, words=False) as client,
    ):
        await client.send_audio(TALK)
        kinds = [m["type"] for m in await client.stop()]
        assert kinds == ["ready", "speech", "final", "speech", "final", "end"]


async def test_sessions_at_the_same_time_do_not_mix(tmp_path: Path) -> None:
    async def converse(daemon: FakeDaemon, n_words: int) -> None:
        samples = exact(talk(*[1.0 + 0.1 * n_words] * n_words))
        async with Client.start(daemon) as client:
            await client.send_audio(samples)
            assert durable(await client.stop()) == recognise(samples)

    async with running_daemon(tmp_path) as daemon:
        await asyncio.gather(*(converse(daemon, n) for n in range(1, 6)))


# Errors.


REFUSED = [
    ("bad_json", 1007, "{"),
    ("bad_json", 1007, '{"type": "ping", "id": 1'),
    ("unknown_type", 1008, "[]"),
    ("unknown_type", 1008, '{"type": "sing"}'),
    ("unknown_field", 1008, '{"type": "flush", "now": true}'),
    ("bad_value", 1008, '{"type": "configure", "partials": "yes"}'),
    ("bad_value", 1008, '{"type": "configure", "language": "Klingon"}'),
    ("out_of_order", 1008, '{"type": "start"}'),
    ("too_big", 1009, '{"type": "ping", "id": "' + 65_536 * "x" + '"}'),
    ("too_big", 1009, bytes(2**20 + 1)),
    ("too_big", 1009, bytes(2**20 + 2**19)),
]


@pytest.mark.parametrize(("code", "close_code", "frame"), REFUSED)
async def test_an_error_is_sent_before_the_connection_is_closed(
    tmp_path: Path, code: str, close_code: int, frame: str | bytes
) -> None:
    async with running_daemon(tmp_path) as daemon, Client.start(daemon) as client:
        await client.connection.send(frame)
        error = await client.refused_with(code, close_code)
        assert len(error["message"]) > 10
        assert client.connection.close_reason == code


async def test_a_frame_far_above_the_limit_is_not_read(tmp_path: Path) -> None:
    async with running_daemon(tmp_path) as daemon, Client.start(daemon) as client:
        head_of_a_frame = bytes([0x82, 0xFF, *(2**22).to_bytes(8, "big"), 1, 2, 3, 4])
        client.connection.transport.write(head_of_a_frame)
        assert (await client.refusal())[0] == 1009
        assert "exceeds" in str(client.connection.close_reason)


@pytest.mark.parametrize(
    ("code", "close_code", "frame"),
    [
        ("out_of_order", 1008, b"\0\0"),
        ("out_of_order", 1008, '{"type": "stop"}'),
        ("unknown_type", 1008, "1"),
        ("bad_json", 1007, "start"),
        ("unknown_field", 1008, '{"type": "start", "model": "large"}'),
        ("bad_value", 1008, '{"type": "start", "encoding": "opus"}'),
        ("bad_value", 1008, '{"type": "start", "sample_rate": 7999}'),
        ("bad_value", 1008, '{"type": "start", "channels": 9}'),
        ("bad_value", 1008, '{"type": "start", "language": "Klingon"}'),
        ("bad_value", 1008, '{"type": "start", "since": 3}'),
        ("bad_value", 1008, '{"type": "start", "context": "' + 10_001 * "x" + '"}'),
        ("too_big", 1009, '{"type": "start", "context": "' + 100_000 * "x" + '"}'),
        ("unknown_session", 1008, '{"type": "start", "session": "nobody"}'),
    ],
)
async def test_a_wrong_start_is_refused(
    tmp_path: Path, code: str, close_code: int, frame: str | bytes
) -> None:
    async with running_daemon(tmp_path) as daemon, Client.connect(daemon) as client:
        await client.connection.send(frame)
        await client.refused_with(code, close_code)
        assert len(daemon.sessions) == 0


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
async def test_values_that_cannot_be_audio_are_refused(tmp_path: Path, value: float) -> None:
    async with (
        running_daemon(tmp_path) as daemon,
        Client.start(daemon, encoding="pcm_f32le") as client,
    ):
        samples = QUIET.copy()
        samples[7] = value
        await client.connection.send(float_bytes(samples))
        error = await client.refused_with("bad_audio", 1003)
        assert "Sample 7" in error["message"]


@pytest.mark.parametrize("late", ["flush", "stop", "configure", b"\0\0"])
async def test_nothing_but_ping_may_follow_stop(tmp_path: Path, late: str | bytes) -> None:
    options = DaemonOptions(engine=PatientEngine())
    async with running_daemon(tmp_path, options) as daemon, Client.start(daemon) as client:
        await client.send_audio(TALK)
        await client.send_message("stop")
        if isinstance(late, bytes):
            await client.connection.send(late)
        else:
            await client.send_message(late)
        await client.refused_with("out_of_order", 1008)


async def test_a_client_that_sends_nothing_is_refused(tmp_path: Path) -> None:
    options = DaemonOptions(timeouts=Timeouts(start=0.05))
    async with running_daemon(tmp_path, options) as daemon, Client.connect(daemon) as client:
        error = await client.refused_with("out_of_order", 1008)
        assert "0.05 s" in error["message"]


async def test_a_session_survives_an_error_of_its_client(tmp_path: Path) -> None:
    async with running_daemon(tmp_path) as daemon:
        async with Client.start(daemon) as client:
            await client.send_audio(TALK[:40_000])
            await client.connection.send("{")
            await client.refusal()
        async with Client.start(daemon, session=client.session, since=0) as again:
            await again.send_audio(TALK[again.ready["next_sample"] :])
            assert durable(await again.stop()) == EXPECTED


# Resuming.


async def test_a_client_that_resumes_misses_no_message(tmp_path: Path) -> None:
    async with running_daemon(tmp_path) as daemon:
        async with Client.start(daemon) as client:
            await client.send_audio(TALK[:70_001])
            await client.receive("words")
            client.connection.transport.abort()
        async with Client.start(daemon, session=client.session, since=1) as again:
            assert again.ready["session"] == client.session
            assert again.ready["seq"] == 2
            assert [m["type"] for m in again.received] == ["words", "ready"]
            await again.send_audio(TALK[again.ready["next_sample"] :])
            assert durable(await again.stop()) == EXPECTED[1:]


async def test_without_since_all_messages_are_sent_again(tmp_path: Path) -> None:
    async with running_daemon(tmp_path) as daemon:
        async with Client.start(daemon) as client:
            await client.send_audio(TALK[:70_000])
            await client.receive("words")
        async with Client.start(daemon, session=client.session) as again:
            assert durable(again.received) == EXPECTED[:2]


@settings(max_examples=15)
@given(
    cuts=st.lists(st.integers(0, len(TALK)), min_size=1, max_size=4).map(sorted),
    n_read=st.lists(st.integers(0, 3), min_size=4, max_size=4),
)
async def test_interruptions_do_not_change_the_messages(
    tmp_path_factory: pytest.TempPathFactory, cuts: list[int], n_read: list[int]
) -> None:
    received: list[Json] = []
    session: Json = {}
    async with running_daemon(tmp_path_factory.mktemp("daemon")) as daemon:
        for cut, n_messages in zip(cuts, n_read, strict=False):
            async with Client.start(daemon, **session) as client:
                position = client.ready["next_sample"]
                await client.send_audio(TALK[position:cut])
                if position < 48_000 and cut > 64_000:  # the first final is due
                    for _ in range(n_messages):
                        await client.next()
                client.connection.transport.abort()
            received += durable(client.received)
            since = received[-1]["seq"] if received else 0
            session = {"session": client.session, "since": since}
        async with Client.start(daemon, **session) as client:
            await client.send_audio(TALK[client.ready["next_sample"] :])
            received += durable(await client.stop())
    assert received == EXPECTED


async def test_our_own_client_survives_lost_connections_at_any_rate(tmp_path: Path) -> None:
    rate = 44_100
    seconds = np.arange(round(len(TALK) * rate / 16000)) / rate
    samples = np.interp(seconds, np.arange(len(TALK)) / 16000, TALK).astype(np.float32)
    async with (
        running_daemon(tmp_path) as daemon,
        connect(daemon.address, sample_rate=rate) as stream,
    ):
        for number, block in enumerate(np.array_split(samples, 30)):
            await stream.send(block)
            if number in (9, 10, 20):
                for connection in daemon.server.connections:
                    connection.abort()
        await stream.stop()
        messages = [event async for event in stream]
    finals = [message for message in messages if isinstance(message, v1.Final)]
    expected = [m for m in EXPECTED if m["type"] == "final"]
    assert [final.seq for final in finals] == [m["seq"] for m in expected]
    for final, other in zip(finals, expected, strict=True):
        assert final.start == pytest.approx(other["start"], abs=0.05)
        assert final.end == pytest.approx(other["end"], abs=0.05)
    assert isinstance(messages[-1], v1.End)
    assert messages[-1].duration == pytest.approx(len(TALK) / 16000, abs=0.001)


async def test_options_survive_the_connection(tmp_path: Path) -> None:
    engine = FakeEngine()
    async with running_daemon(tmp_path, DaemonOptions(engine=engine)) as daemon:
        options_sent = {"language": "de", "partials": False, "words": False}
        async with Client.start(daemon, context="names", **options_sent) as client:
            pass
        async with Client.start(daemon, session=client.session, language="fr") as again:
            await again.send_audio(TALK)
            kinds = {m["type"] for m in await again.stop()}
            assert kinds == {"ready", "speech", "final", "end"}
            decoded = {
                (order.options.language, order.options.context)
                for order in engine.orders
                if isinstance(order, Recognise)
            }
            assert decoded == {("French", "names")}


async def test_an_end_that_was_not_received_is_sent_again(tmp_path: Path) -> None:
    engine = PatientEngine()
    async with running_daemon(tmp_path, DaemonOptions(engine=engine)) as daemon:
        async with Client.start(daemon) as client:
            await client.send_audio(TALK)
            await client.send_message("stop")
            await eventually(lambda: daemon.sessions.find(client.session).intake.is_finishing)
            client.connection.transport.abort()
        await answer_all(daemon, engine, client.session)
        for _ in range(2):
            async with Client.start(daemon, session=client.session) as again:
                assert in_time_order(again.received) == in_time_order(EXPECTED)
                again.connection.transport.abort()
        async with Client.start(daemon, session=client.session, since=5) as again:
            assert again.received == [again.ready]
            assert await again.receive_all() == [again.ready]
            assert again.connection.close_code == 1000
        await eventually(lambda: not len(daemon.sessions))
        async with Client.connect(daemon) as late:
            await late.send_message("start", session=client.session)
            assert (await late.refusal())[1]["code"] == "unknown_session"


async def test_stop_may_be_sent_again(tmp_path: Path) -> None:
    engine = PatientEngine()
    async with running_daemon(tmp_path, DaemonOptions(engine=engine)) as daemon:
        async with Client.start(daemon) as client:
            await client.send_audio(TALK)
            await client.send_message("stop")
            await eventually(lambda: daemon.sessions.find(client.session).intake.is_finishing)
        async with Client.start(daemon, session=client.session) as again:
            await again.send_message("stop")
            answering = asyncio.create_task(answer_all(daemon, engine, client.session))
            assert in_time_order(await again.receive_all()) == in_time_order(EXPECTED)
            await answering


async def test_a_session_takes_audio_from_one_connection(tmp_path: Path) -> None:
    async with running_daemon(tmp_path) as daemon, Client.start(daemon) as first:
        async with Client.connect(daemon) as second:
            await second.send_message("start", session=first.session)
            await second.refused_with("session_busy", 1008)
        await first.send_audio(TALK)
        assert durable(await first.stop()) == EXPECTED


async def test_a_client_that_is_held_back_keeps_its_session(tmp_path: Path) -> None:
    engine = PatientEngine()
    options = DaemonOptions(
        engine=engine, max_lag_s=1.0, old_connection_s=0.2, timeouts=Timeouts(close=0.2)
    )
    async with running_daemon(tmp_path, options) as daemon, Client.start(daemon) as first:
        sending = asyncio.create_task(first.send_audio(np.tile(TALK, 20)))
        live = daemon.sessions.find(first.session)
        await eventually(lambda: not live.intake.has_room(daemon.max_lag))
        async with Client.connect(daemon) as second:
            await second.send_message("start", session=first.session)
            assert (await second.refusal())[1]["code"] == "session_busy"
        sending.cancel()


async def test_a_connection_that_broke_unnoticed_is_replaced(tmp_path: Path) -> None:
    options = DaemonOptions(old_connection_s=0.05)
    async with running_daemon(tmp_path, options) as daemon, Client.start(daemon) as first:
        await first.send_audio(TALK[:50_000])
        await eventually(lambda: daemon.sessions.find(first.session).intake.position == 50_000)
        first.connection.transport.pause_reading()  # it answers no ping, as if it were gone
        async with Client.start(daemon, session=first.session) as second:
            assert second.ready["next_sample"] == 50_000
            await second.send_audio(TALK[50_000:])
            assert durable(await second.stop()) == EXPECTED
        first.connection.transport.abort()


async def test_a_connection_that_broke_while_held_back_is_replaced_and_sends_nothing_more(
    tmp_path: Path,
) -> None:
    engine = PatientEngine()
    options = DaemonOptions(engine=engine, max_lag_s=1.0, old_connection_s=0.05)
    async with running_daemon(tmp_path, options) as daemon:
        async with Client.start(daemon) as first:
            live = daemon.sessions.find(first.session)
            sending = asyncio.create_task(first.send_audio(np.tile(TALK, 20)))
            await eventually(lambda: not live.intake.has_room(daemon.max_lag))
            sending.cancel()
            first.connection.transport.abort()
        async with Client.start(daemon, session=first.session) as second:
            position = second.ready["next_sample"]
            assert position < 4 * 16_000
            daemon.max_lag = Samples(10**9)
            await second.send_audio(np.tile(TALK, 20)[position : len(TALK)])
            await second.send_message("stop")
            await answer_all(daemon, engine, first.session)
            assert in_time_order(await second.receive_all()) == in_time_order(EXPECTED)


# Reading a session.


async def test_any_number_of_connections_may_read_a_session(tmp_path: Path) -> None:
    async with running_daemon(tmp_path) as daemon, Client.start(daemon) as speaker:
        path = f"/v1/events?session={speaker.session}"
        async with AsyncExitStack() as stack:
            early = [await stack.enter_async_context(Client.connect(daemon, path)) for _ in "123"]
            for client in early:
                await client.receive("ready")
            await speaker.send_audio(TALK[:70_000])
            await speaker.receive("words")
            late = await stack.enter_async_context(Client.connect(daemon, path))
            since = await stack.enter_async_context(Client.connect(daemon, path + "&since=1"))
            assert (await late.receive("ready"))["seq"] == 2
            assert len(late.received) == 1
            await since.receive("ready")
            await speaker.send_audio(TALK[70_000:])
            assert durable(await speaker.stop()) == EXPECTED
            for client in early:
                assert durable(await client.receive_all()) == EXPECTED
                assert client.connection.close_code == 1000
            assert durable(await late.receive_all()) == EXPECTED[2:]
            assert durable(await since.receive_all()) == EXPECTED[1:]


async def test_our_own_client_reads_a_session(tmp_path: Path) -> None:
    async with running_daemon(tmp_path) as daemon:
        live = daemon.host.begin_own()
        events = listen(daemon.address, since=0)
        ready = await anext(events)
        assert isinstance(ready, v1.Ready)
        assert ready.session == "microphone"
        live.intake.feed(TALK)
        live.intake.finish()
        kinds = [type(event) async for event in events]
        assert kinds[-1] is v1.End
        assert kinds.count(v1.Final) == 2


async def test_a_reader_that_comes_after_the_end_receives_the_end(tmp_path: Path) -> None:
    async with running_daemon(tmp_path) as daemon:
        live = daemon.host.begin_own()
        live.intake.feed(TALK)
        live.intake.finish()
        await live.is_over.wait()
        events = [event async for event in listen(daemon.address)]
        assert [type(event) for event in events] == [v1.End]


@pytest.mark.parametrize("said", [b"\0\0", '{"type": "start"}', '{"type": "stop"}', "{"])
async def test_readers_may_not_send(tmp_path: Path, said: str | bytes) -> None:
    async with running_daemon(tmp_path) as daemon:
        daemon.host.begin_own()
        async with Client.connect(daemon, "/v1/events?session=microphone") as client:
            await client.receive("ready")
            await client.connection.send(said)
            closed_with, error = await client.refusal()
            assert (closed_with, error["code"]) in [(1008, "out_of_order"), (1007, "bad_json")]
        assert not daemon.sessions.find("microphone").intake.is_finishing


async def test_readers_may_ping_and_leave(tmp_path: Path) -> None:
    async with running_daemon(tmp_path) as daemon:
        live = daemon.host.begin_own()
        async with Client.connect(daemon, "/v1/events?session=microphone") as client:
            await client.send_message("ping", id="x")
            assert await client.receive("pong") == {"type": "pong", "id": "x"}
            assert live.publisher.n_readers == 1
        await eventually(lambda: live.publisher.n_readers == 0)


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("", "bad_value"),
        ("?session=", "bad_value"),
        ("?session=a&session=b", "bad_value"),
        ("?session=microphone&since=-1", "bad_value"),
        ("?session=microphone&since=1e3", "bad_value"),
        ("?session=microphone&since=%D9%A3", "bad_value"),
        ("?session=microphone&since=1&since=2", "bad_value"),
        ("?session=nobody", "unknown_session"),
        ("?session=%00%ff%F0", "unknown_session"),
    ],
)
async def test_a_wrong_query_of_a_reader_is_refused(tmp_path: Path, query: str, code: str) -> None:
    async with running_daemon(tmp_path) as daemon:
        daemon.host.begin_own()
        async with Client.connect(daemon, "/v1/events" + query) as client:
            await client.refused_with(code, 1008)


async def test_the_daemons_own_session_takes_no_audio_of_clients(tmp_path: Path) -> None:
    async with running_daemon(tmp_path) as daemon, Client.connect(daemon) as client:
        daemon.host.begin_own()
        await client.send_message("start", session="microphone")
        error = await client.refused_with("session_busy", 1008)
        assert "can only be read" in error["message"]


# Limits.


async def test_there_is_a_limit_to_sessions(tmp_path: Path) -> None:
    async with running_daemon(tmp_path, DaemonOptions(max_sessions=2)) as daemon:
        daemon.host.begin_own()  # is not counted
        async with Client.start(daemon) as first, Client.start(daemon):
            async with Client.connect(daemon) as third:
                await third.send_message("start")
                await third.refused_with("overloaded", 1013)
            await first.stop()
            async with Client.start(daemon):
                pass


async def test_a_session_ends_when_its_client_does_not_resume_it(tmp_path: Path) -> None:
    async with running_daemon(tmp_path, DaemonOptions(resume_s=0.05)) as daemon:
        async with Client.start(daemon) as client:
            await client.send_audio(TALK)
            await client.send_message("ping")
            await client.receive("pong")
            path = f"/v1/events?session={client.session}&since=0"
            async with Client.connect(daemon, path) as listener:
                client.connection.transport.abort()
                assert durable(await listener.receive_all()) == EXPECTED
        await eventually(lambda: not len(daemon.sessions))


async def test_the_audio_that_waits_is_bounded(tmp_path: Path) -> None:
    engine = PatientEngine()
    speech = np.tile(TALK, 100)  # more than the sockets hold
    options = DaemonOptions(engine=engine, max_lag_s=10.0)
    async with running_daemon(tmp_path, options) as daemon, Client.start(daemon) as client:
        live = daemon.sessions.find(client.session)
        sending = asyncio.create_task(client.send_audio(speech))
        await eventually(lambda: not live.intake.has_room(daemon.max_lag))
        for _ in range(100):
            await asyncio.sleep(0)
        stopped_at = live.intake.position
        assert stopped_at < 16 * 16_000  # ten seconds, what precedes them, and a slice
        assert not sending.done()
        hearing = asyncio.create_task(client.receive_all())
        await engine.answer_until(sending)
        await client.send_message("stop")
        await engine.answer_until(hearing)
        assert client.received[-1]["duration"] == len(speech) / 16000
        assert len(client.of("final")) == 2 * 100


@pytest.mark.parametrize("partials", [True, False])
async def test_a_lag_limit_below_a_segment_does_not_block(tmp_path: Path, partials: bool) -> None:
    options = DaemonOptions(max_lag_s=0.01)
    async with (
        running_daemon(tmp_path, options) as daemon,
        Client.start(daemon, partials=partials) as client,
    ):
        await client.send_audio(TALK)
        assert durable(await client.stop()) == EXPECTED


@pytest.mark.parametrize("code", [1000, 1001])
async def test_an_end_that_was_not_received_is_kept_although_its_client_closed(
    tmp_path: Path, code: int
) -> None:
    async with running_daemon(tmp_path) as daemon:
        async with Client.start(daemon) as client:
            await client.send_audio(TALK)
            name, live = client.session, daemon.sessions.find(client.session)
            client.connection.transport.abort()
        await eventually(lambda: not daemon.server.n_connections)
        live.intake.finish()
        await live.is_over.wait()
        async with Client.connect(daemon) as client:
            await client.send_message("start", session=name, since=0)
            await client.connection.close(code)
        await eventually(lambda: not daemon.server.n_connections)
        async with Client.connect(daemon) as client:
            await client.send_message("start", session=name, since=0)
            assert durable(await client.receive_all())[-1]["type"] == "end"


# A slow disk.


async def test_a_message_waits_for_the_journal_for_a_limited_time(tmp_path: Path) -> None:
    store = SlowArchive(tmp_path / "journal.sqlite3", tmp_path / "spool")
    options = DaemonOptions(journal_timeout_s=0.2)
    async with running_daemon(tmp_path, options, store) as daemon, Client.start(daemon) as client:
        await client.send_audio(TALK)
        received = await client.stop()
        assert durable(received) == EXPECTED
        for _ in range(5):
            store.confirm()


async def test_messages_keep_their_order_however_the_journal_confirms(
    tmp_path: Path,
) -> None:
    store = SlowArchive(tmp_path / "journal.sqlite3", tmp_path / "spool")
    options = DaemonOptions(journal_timeout_s=1000)
    async with running_daemon(tmp_path, options, store) as daemon, Client.start(daemon) as client:
        await client.send_audio(TALK)
        await client.send_message("stop")
        await eventually(lambda: len(store.unconfirmed) == 5)
        assert daemon.sessions.find(client.session).publisher.seq == 0
        path = f"/v1/events?session={client.session}&since=0"
        async with Client.connect(daemon, path) as other:
            await other.receive("ready")
            assert durable(other.received) == []  # what is not kept yet is not told
            for index in (4, 3, 1, 1, 0):
                store.confirm(index)
            assert durable(await client.receive_all()) == EXPECTED
            assert durable(await other.receive_all()) == EXPECTED


async def answer_all(daemon: FakeDaemon, engine: PatientEngine, session: str) -> None:
    """Have the engine answer until a session is over."""
    live = daemon.sessions.find(session)
    while not live.is_over.is_set():
        engine.answer()
        await asyncio.sleep(0)
