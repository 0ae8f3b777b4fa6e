"""The daemon's own session, and connections that only receive."""

from typing import Final

import numpy as np

from tests.recordings.audio import RATE, buzz, speech, talk
from tests.recordings.player import EVENTS, Player
from tests.recordings.scenarios.registry import scenario

MICROPHONE: Final = {"microphone": {"enabled": True}}
"""Settings with a session of the daemon's own."""


@scenario(settings=MICROPHONE)
async def microphone(play: Player) -> None:
    """Listen to the daemon's own session: gaps, warnings, a pause, and its end."""
    async with play.connect("listener", f"{EVENTS}?session=microphone&since=0") as listener:
        await listener.wait("ready")
        await play.server.speak(talk(2.0))
        await play.server.lose_audio(RATE, "overflow")
        await play.server.speak(speech(1.5))
        await play.server.report_trouble("The microphone was unplugged.")
        await play.server.lose_audio(3 * RATE, "device_lost")
        await play.server.speak(speech(1.5))
        await play.server.pause_microphone()
        await listener.wait("warning")
        await listener.wait("warning")
        await listener.pace()
        await play.server.resume_microphone()
        await listener.wait("warning")
        await play.server.speak(talk(1.0))
        await play.server.end_microphone()
        await listener.wait_closed()
    async with play.connect("late", f"{EVENTS}?session=microphone") as late:
        await late.wait_closed()
    async with play.connect("late, from the start", f"{EVENTS}?session=microphone&since=0") as late:
        await late.wait_closed()


@scenario(settings=MICROPHONE)
async def microphone_overload(play: Player) -> None:
    """Have more audio wait than the daemon keeps, so that some is lost."""
    async with play.connect("listener", f"{EVENTS}?session=microphone") as listener:
        await listener.wait("ready")
        await play.server.hold("text")
        await play.server.speak(talk(1.0))
        for _ in range(32):
            await play.server.speak(buzz(2.0))
        await play.server.release()
        await play.server.speak(talk(1.0))
        await listener.pace()


@scenario(settings=MICROPHONE)
async def microphone_session_is_for_listeners(play: Player) -> None:
    """Try to send audio to the daemon's own session, and to send anything as a listener."""
    async with play.connect("speaker") as client:
        await client.say("start", session="microphone")
        await client.wait_closed()
    frames: dict[str, str | bytes] = {
        "audio": b"\0\0",
        "start": '{"type": "start"}',
        "stop": '{"type": "stop"}',
        "bad JSON": "{",
        "ping": '{"type": "ping", "id": 5}',
    }
    for name, frame in frames.items():
        async with play.connect(name, f"{EVENTS}?session=microphone") as listener:
            await listener.wait("ready")
            await listener.send(frame)
            if name == "ping":
                await listener.wait("pong")
            else:
                await listener.wait_closed()


@scenario()
async def microphone_absent(play: Player) -> None:
    """Listen to the session of a daemon that has none."""
    async with play.connect("listener", f"{EVENTS}?session=microphone") as listener:
        await listener.wait_closed()
    async with play.connect("speaker") as client:
        await client.say("start", session="microphone")
        await client.wait_closed()


@scenario(settings=MICROPHONE)
async def microphone_goes_on_after_a_restart(play: Player) -> None:
    """Crash in mid-speech; the time without a daemon is a gap."""
    async with play.connect("before", f"{EVENTS}?session=microphone&since=0") as listener:
        await listener.wait("ready")
        await play.server.speak(np.concatenate([talk(1.0), speech(2.0)]))
        await listener.drop()
    await play.server.crash()
    async with play.connect("after", f"{EVENTS}?session=microphone&since=0") as listener:
        await listener.wait("ready")
        await play.server.speak(talk(1.0))
        await play.server.end_microphone()
        await listener.wait_closed()


@scenario(settings={**MICROPHONE, "server": {"resume_s": 0}})
async def microphone_begins_anew_after_a_long_time(play: Player) -> None:
    """Crash in mid-speech, and come back too late to go on."""
    async with play.connect("before", f"{EVENTS}?session=microphone&since=0") as listener:
        await listener.wait("ready")
        await play.server.speak(np.concatenate([talk(1.0), speech(2.0)]))
        await listener.drop()
    await play.server.crash()
    async with play.connect("after", f"{EVENTS}?session=microphone&since=0") as listener:
        await listener.wait("ready")
        await play.server.speak(talk(1.0))
        await play.server.end_microphone()
        await listener.wait_closed()


@scenario()
async def listeners(play: Player) -> None:
    """Listen from the start, from a number, from now on, and after the end."""
    async with play.connect("client") as client:
        await client.start()
        path = f"{EVENTS}?session={client.session}"
        async with play.connect("early", path) as early:
            await early.wait("ready")
            await client.speak(talk(2.0))
            async with (
                play.connect("now", path) as now,
                play.connect("since 0", path + "&since=0") as since_0,
                play.connect("since 1", path + "&since=1") as since_1,
                play.connect("since 2", path + "&since=2") as since_2,
                play.connect("since 99", path + "&since=99") as since_99,
            ):
                for listener in (now, since_0, since_1, since_2, since_99):
                    await listener.wait("ready")
                await client.speak(talk(2.0))
                await client.stop()
                for listener in (early, now, since_0, since_1, since_2, since_99):
                    await listener.wait_closed()


@scenario()
async def queries_of_listeners(play: Player) -> None:
    """Ask for what is not there or cannot be."""
    async with play.connect("client") as client:
        await client.start()
        session = client.session
        for query in (
            "",
            "?session=",
            "?session=a&session=b",
            f"?session={session}&since=-1",
            f"?session={session}&since=1e3",
            f"?session={session}&since=%D9%A3",
            f"?session={session}&since=1&since=2",
            "?session=nobody",
            "?session=%00%ff%F0",
            f"?session={session}&colour=blue",
        ):
            name = query.replace(session, "SESSION") or "nothing"
            async with play.connect(name, EVENTS + query) as listener:
                if "colour" in query:
                    await listener.wait("ready")
                else:
                    await listener.wait_closed()
