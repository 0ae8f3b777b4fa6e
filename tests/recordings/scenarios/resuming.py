"""Sessions that outlive their connection, or the daemon."""

import numpy as np

from streamasr.core.units import Float32Array
from tests.recordings.audio import RATE, pcm_f32le, pcm_s16le, speech, talk
from tests.recordings.engine import Held
from tests.recordings.player import EVENTS, Player
from tests.recordings.scenarios.registry import scenario
from tests.recordings.script import Script
from tests.support.waiting import LoopClock


@scenario()
async def resumed_after_a_lost_connection(play: Player) -> None:
    """Lose the connection in mid-speech, and go on from `next_sample`."""
    samples = talk(2.0, 4.0, 1.0)
    async with play.connect("first") as first:
        await first.start()
        await first.speak(samples[: 6 * RATE])
        session, since = first.session, first.last_seq
        await first.drop()
    async with play.connect("second") as second:
        await second.start(session=session, since=since)
        await second.speak(samples[second.next_sample :])
        await second.stop()


@scenario()
async def resumed_in_every_way(play: Player) -> None:
    """Come back with different numbers, after different ways of leaving."""
    samples = talk(1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0)
    step = 2 * RATE
    async with play.connect("first") as client:
        await client.start()
        await client.speak(samples[:step])
        session = client.session
        await client.close(4000)
    given: dict[str, dict[str, int]] = {
        "without a number": {},
        "from the start": {"since": 0},
        "from the first message": {"since": 1},
        "from the future": {"since": 1000},
    }
    codes = {"from the start": 1000, "from the first message": 1001}
    for number, (name, fields) in enumerate(given.items(), start=1):
        async with play.connect(name) as client:
            await client.start(session=session, **fields)
            await client.speak(samples[number * step : (number + 1) * step])
            await client.close(codes.get(name, 4001))
    async with play.connect("without a code") as client:
        await client.start(session=session, since=8)
        await client.close_without_code()
    async with play.connect("with other options") as client:
        await client.start(session=session, since=8, partials=False, language="fr")
        await client.speak(samples[5 * step : 6 * step])
        await client.drop()
    async with play.connect("with another encoding") as client:
        await client.start(session=session, since=8, encoding="pcm_f32le")
        await client.send(pcm_f32le(samples[6 * step :]))
        await client.pace()
        await client.stop()


async def _leave_after_stop(play: Player, held: Held, samples: Float32Array) -> str:
    """Speak twice, stop, and lose the connection; return the name of the session.

    Args:
        play: the player of the scenario.
        held: stage that the engine holds back from the second time on.
        samples: audio of each time.
    """
    async with play.connect("first") as client:
        await client.start()
        await client.speak(samples)
        await play.server.hold(held)
        await client.speak(samples)
        await client.say("stop")
        await client.drop()
        return client.session


@scenario()
async def resumed_when_it_is_over(play: Player) -> None:
    """Lose the connection after `stop`, and come back for the end."""
    session = await _leave_after_stop(play, "text", talk(1.0))
    async with play.connect("before the end") as client:
        await client.start(session=session, since=0)
        await client.tell("stop")
        await client.drop()
    await play.server.release()
    async with play.connect("after the end") as client:
        await client.say("start", session=session, since=2)
        await client.wait_closed()
    async with play.connect("after it was received") as client:
        await client.say("start", session=session, since=0)
        await client.wait_closed()


@scenario()
async def audio_of_a_session_that_is_over(play: Player) -> None:
    """Send audio to a session that was stopped on another connection."""
    async with play.connect("first") as client:
        await client.start()
        await play.server.hold("text")
        await client.speak(talk(1.0))
        await client.say("stop")
        await client.drop()
        session = client.session
    async with play.connect("second") as client:
        await client.start(session=session)
        await client.send(pcm_s16le(talk(1.0)))
        await client.tell("flush")
        await client.tell("configure", language="fr")
        await play.server.release()
        await client.wait_closed()


@scenario(settings={"server": {"resume_s": 0.2}})
async def no_client_came_back(play: Player) -> None:
    """Stay away for longer than a session is kept."""
    async with play.connect("client") as client:
        await client.start()
        await client.speak(np.concatenate([talk(1.0), speech(1.0)]))
        path = f"{EVENTS}?session={client.session}&since=0"
        async with play.connect("listener", path) as listener:
            await listener.wait("ready")
            await client.drop()
            await listener.wait_closed()
        session = client.session
    await LoopClock().advance(1.0)
    async with play.connect("too late") as client:
        await client.say("start", session=session)
        await client.wait_closed()


@scenario()
async def resumed_after_a_crash(play: Player) -> None:
    """Crash in mid-speech, when some of the text is stable."""
    samples = talk(1.0, 5.0, 1.0)
    async with play.connect("first") as client:
        await client.start(language="en", context="kept")
        await client.speak(samples[: 7 * RATE])
        session, since = client.session, client.last_seq
        await client.drop()
    await play.server.crash()
    async with play.connect("second") as client:
        await client.start(session=session, since=since)
        await client.speak(samples[client.next_sample :])
        await client.stop()


@scenario()
async def stable_text_survives_crashes(play: Player) -> None:
    """Crash twice in one segment, each time with a model that would say something else."""
    samples = talk(1.0, 8.0)
    async with play.connect("first") as client:
        await client.start()
        await client.speak(samples[: 6 * RATE])
        session = client.session
        await client.drop()
    await play.server.crash(Script(shift=5))
    async with play.connect("second") as client:
        await client.start(session=session, since=2)
        await client.speak(samples[client.next_sample : 9 * RATE])
        await client.drop()
    await play.server.crash(Script(shift=10))
    async with play.connect("third") as client:
        await client.start(session=session, since=2)
        await client.speak(samples[client.next_sample :])
        await client.stop()


@scenario()
async def resumed_after_crashes(play: Player) -> None:
    """Crash in silence, in mid-speech, in a pause, and before any audio."""
    samples = talk(2.0, 1.0, 4.0)
    async with play.connect("start") as client:
        await client.start()
        session = client.session
        await client.drop()
    for number, seconds in enumerate((0.0, 0.5, 3.9, 4.5, 7.5, 10.0)):
        await play.server.crash()
        async with play.connect(f"connection {number}") as client:
            await client.start(session=session, since=0)
            begin, end = client.next_sample, round(seconds * RATE)
            await client.speak(samples[begin:end])
            await client.drop()
    await play.server.crash()
    async with play.connect("last") as client:
        await client.start(session=session, since=3)
        await client.speak(samples[client.next_sample :])
        await client.stop()


@scenario()
async def crashed_with_words_owed(play: Player) -> None:
    """Crash between finals and their words."""
    async with play.connect("first") as client:
        await client.start()
        await play.server.hold("words")
        await client.speak(talk(2.0, 1.0, 1.5))
        session = client.session
        await client.drop()
    await play.server.crash()
    async with play.connect("second") as client:
        await client.start(session=session, since=0)
        await client.speak(talk(1.0))
        await client.stop()


@scenario(script=Script(failing=frozenset({1})))
async def crashed_after_a_gap(play: Player) -> None:
    """Crash when a gap is the last message."""
    samples = talk(1.0, 2.0)
    async with play.connect("first") as client:
        await client.start()
        await client.speak(samples[: 3 * RATE])
        session = client.session
        await client.drop()
    await play.server.crash()
    async with play.connect("second") as client:
        await client.start(session=session, since=0)
        await client.speak(samples[client.next_sample :])
        await client.stop()


@scenario()
async def crashed_with_an_end_that_was_not_received(play: Player) -> None:
    """Stop, lose the connection, and crash when the session is over."""
    session = await _leave_after_stop(play, "words", talk(2.0))
    await play.server.release()
    await play.server.crash()
    async with play.connect("second") as client:
        await client.say("start", session=session, since=1)
        await client.wait_closed()


@scenario()
async def stopped_daemon(play: Player) -> None:
    """Stop the daemon in mid-speech: everyone receives the end, and it can be fetched later."""
    async with play.connect("away") as away:
        await away.start()
        await away.speak(talk(1.0))
        await away.drop()
        session = away.session
    async with play.connect("client") as client:
        await client.start()
        await client.speak(np.concatenate([talk(1.0), speech(2.0)]))
        path = f"{EVENTS}?session={client.session}"
        async with play.connect("listener", path) as listener:
            await listener.wait("ready")
            await play.server.stop()
            await client.wait_closed()
            await listener.wait_closed()
    await play.server.start()
    async with play.connect("the end of the other") as client:
        await client.say("start", session=session, since=0)
        await client.wait_closed()
    async with play.connect("again") as client:
        await client.say("start", session=session, since=0)
        await client.wait_closed()


@scenario(settings={"server": {"stop_timeout_s": 0.2}})
async def stopped_daemon_that_cannot_finish(play: Player) -> None:
    """Stop the daemon while the engine is stuck; the session goes on afterwards."""
    async with play.connect("first") as client:
        await client.start()
        await client.speak(talk(1.0))
        await play.server.hold("text")
        await client.speak(np.concatenate([talk(1.0), speech(2.0)]))
        session, since = client.session, client.last_seq
        await play.server.stop()
        await client.wait_closed()
    await play.server.start()
    async with play.connect("second") as client:
        await client.start(session=session, since=since)
        await client.speak(talk(1.0))
        await client.stop()
