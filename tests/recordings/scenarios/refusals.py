"""Messages, values and sessions that are refused."""

import json
from typing import Any

import numpy as np

from tests.recordings.audio import pcm_f32le, silence, talk
from tests.recordings.player import Player
from tests.recordings.scenarios.registry import scenario


@scenario()
async def first_messages_that_are_refused(play: Player) -> None:
    """Begin with something else than a valid `start`."""
    frames: dict[str, str | bytes] = {
        "audio before start": b"\0\0",
        "ping before start": '{"type": "ping"}',
        "stop before start": '{"type": "stop"}',
        "flush before start": '{"type": "flush"}',
        "configure before start": '{"type": "configure"}',
        "bad JSON": '{"type": "start"',
        "empty": "",
        "not an object": '["start"]',
        "null": "null",
        "no type": '{"encoding": "pcm_s16le"}',
        "type is a number": '{"type": 1}',
        "unknown type": '{"type": "begin"}',
        "type of the server": '{"type": "ready"}',
        "type in upper case": '{"type": "Start"}',
        "unknown field": '{"type": "start", "colour": "blue"}',
        "nested too deeply": '{"type": "start", "context": ' + "[" * 5000 + "]" * 5000 + "}",
        "half a surrogate pair": r'{"type": "start", "context": "\ud800"}',
        "too big": json.dumps({"type": "start", "context": "x" * 65_536}),
        "too big by its bytes": '{"type": "start", "context": "' + "ü" * 32_760 + '"}',
    }
    for name, frame in frames.items():
        async with play.connect(name) as client:
            await client.send(frame)
            await client.wait_closed()


@scenario()
async def values_that_are_refused(play: Player) -> None:
    """Begin with fields that have wrong values."""
    given: list[dict[str, Any]] = [
        {"encoding": "mp3"},
        {"encoding": None},
        {"sample_rate": 7999},
        {"sample_rate": 48_001},
        {"sample_rate": 16_000.5},
        {"sample_rate": "16000"},
        {"channels": 0},
        {"channels": 9},
        {"language": ""},
        {"language": "Klingon"},
        {"language": "x" * 101},
        {"context": None},
        {"context": "x" * 10_001},
        {"hotwords": "one"},
        {"hotwords": [""]},
        {"hotwords": ["x" * 101]},
        {"hotwords": ["x"] * 1001},
        {"partials": 1},
        {"words": None},
        {"session": ""},
        {"session": "nobody"},
        {"session": "../nobody"},
        {"since": 0},
        {"session": "nobody", "since": -1},
        {"session": "nobody", "since": 2**53},
    ]
    for fields in given:
        name = json.dumps(fields) if len(json.dumps(fields)) < 60 else json.dumps(fields)[:40]
        async with play.connect(name) as client:
            await client.say("start", **fields)
            await client.wait_closed()


@scenario()
async def limits_that_are_kept(play: Player) -> None:
    """Begin with the largest values that are allowed."""
    given: dict[str, dict[str, Any]] = {
        "context": {"context": "ü" * 10_000},
        "hotwords": {"hotwords": ["x"] * 1000},
        "long hotword": {"hotwords": ["ü" * 100]},
        "lowest rate": {"sample_rate": 8000},
        "highest rate": {"sample_rate": 48_000, "channels": 8, "encoding": "pcm_f32le"},
        "explicit defaults": {
            "encoding": "pcm_s16le",
            "sample_rate": 16_000,
            "channels": 1,
            "language": None,
            "context": "",
            "hotwords": [],
            "partials": True,
            "words": True,
            "session": None,
            "since": None,
        },
    }
    for name, fields in given.items():
        async with play.connect(name) as client:
            await client.start(**fields)
            await client.stop()


@scenario()
async def later_messages_that_are_refused(play: Player) -> None:
    """Begin well and go on badly; the session survives each of these."""
    frames: dict[str, str | bytes] = {
        "start twice": '{"type": "start"}',
        "unknown type": '{"type": "pause"}',
        "unknown field": '{"type": "configure", "colour": "blue"}',
        "field of start": '{"type": "configure", "encoding": "pcm_f32le"}',
        "field of a message without fields": '{"type": "flush", "now": true}',
        "bad language": '{"type": "configure", "language": "Klingon"}',
        "bad value": '{"type": "configure", "partials": "yes"}',
        "bad id": '{"type": "ping", "id": 1.5}',
        "id too large": '{"type": "ping", "id": 9007199254740992}',
        "id too long": json.dumps({"type": "ping", "id": "x" * 101}),
        "bad JSON": "{",
        "control too big": json.dumps({"type": "configure", "context": "x" * 65_536}),
        "audio too big": b"\0" * (2**20 + 1),
        "audio far too big": b"\0" * (2 * 2**20 + 1),
    }
    for name, frame in frames.items():
        async with play.connect(name) as client:
            await client.start()
            await client.speak(silence(0.5))
            await client.send(frame)
            await client.wait_closed()
            session = client.session
        async with play.connect(f"{name}, resumed") as client:
            await client.start(session=session)
            await client.stop()


@scenario()
async def messages_after_stop(play: Player) -> None:
    """Send what may not come after `stop`."""
    frames: dict[str, str | bytes] = {
        "audio": b"\0\0",
        "flush": '{"type": "flush"}',
        "stop": '{"type": "stop"}',
        "configure": '{"type": "configure", "words": false}',
        "start": '{"type": "start"}',
    }
    for name, frame in frames.items():
        async with play.connect(name) as client:
            await client.start()
            await play.server.hold("text")
            await client.speak(talk(1.0))
            await client.say("stop")
            await client.send(frame)
            await client.wait_closed()
        await play.server.release()


@scenario()
async def largest_frames(play: Player) -> None:
    """Send frames that are just small enough, and an empty one."""
    async with play.connect("client") as client:
        await client.start()
        await client.send(b"")
        await client.send(b"\0" * 2**20)
        context = "x" * 9_900
        hotwords = ["y" * 100] * 500
        frame = json.dumps({"type": "configure", "context": context, "hotwords": hotwords})
        await client.send(frame + " " * (65_536 - len(frame)))
        await client.pace()
        await client.stop()


@scenario()
async def bad_audio(play: Player) -> None:
    """Send floats that are not audio; the session can be resumed."""
    values = {"not a number": np.nan, "infinite": np.inf, "far too loud": 32_768.0}
    for name, value in values.items():
        async with play.connect(name) as client:
            await client.start(encoding="pcm_f32le")
            samples = talk(1.0)
            await client.send(pcm_f32le(samples))
            await client.pace()
            samples[100] = value
            await client.send(pcm_f32le(samples))
            await client.wait_closed()
            session = client.session
        async with play.connect(f"{name}, resumed") as client:
            await client.start(session=session, since=2, encoding="pcm_f32le")
            await client.send(pcm_f32le(talk(1.0)))
            await client.pace()
            await client.stop()


@scenario(settings={"server": {"max_sessions": 2}})
async def session_limit(play: Player) -> None:
    """Open more sessions than allowed: with owners, without, and given up ones."""
    async with play.connect("first") as first, play.connect("second") as second:
        await first.start()
        await second.start()
        await first.speak(talk(1.0))
        await second.speak(talk(1.0))
        async with play.connect("third is refused") as client:
            await client.say("start")
            await client.wait_closed()
        session = first.session
        await first.close(1000)  # given up, so its place can be taken
        async with play.connect("third takes the place of the first") as third:
            await third.start()
            async with play.connect("first is over") as client:
                await client.say("start", session=session, since=0)
                await client.wait_closed()
            await third.stop()
        async with play.connect("fourth after an end") as fourth:
            await fourth.start()
            await fourth.drop()  # it has not sent any audio
        async with play.connect("fifth takes the place of an empty one") as fifth:
            await fifth.start()
            await fifth.stop()
        await second.stop()


@scenario()
async def busy_session(play: Player) -> None:
    """Try to take a session whose connection is alive."""
    async with play.connect("first") as first:
        await first.start()
        await first.speak(talk(1.0))
        async with play.connect("second") as second:
            await second.say("start", session=first.session)
            await second.wait_closed()
        await first.speak(talk(1.0))
        await first.stop()
