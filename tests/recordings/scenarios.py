"""Deterministic conversations with a daemon, at the level of frames.

A scenario sends audio in fixed blocks and goes on when everything that follows from a block has
happened, so that the same messages come each time. Where audio is sent as fast as possible, the
recording is compared without the order in which segments overtake each other.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from tests.recordings.audio import (
    RATE,
    buzz,
    pcm_f32le,
    pcm_s16le,
    resampled,
    silence,
    speech,
    talk,
)
from tests.recordings.engine import Settings
from tests.recordings.player import EVENTS, STREAM, Player
from tests.recordings.script import Script

Play = Callable[[Player], Awaitable[None]]

TOKEN: Final = "correct-horse-battery"
"""Of the scenarios in which clients need one."""

MICROPHONE: Final = {"microphone": {"enabled": True}}
"""Settings with a session of the daemon's own."""


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """Conversation, and the daemon that it needs."""

    play: Play
    settings: Settings = field(default_factory=dict)
    script: Script = field(default_factory=Script)
    token: str | None = None
    is_loaded: bool = True
    keeps_order: bool = True
    """False where messages of different segments may overtake each other."""

    @property
    def name(self) -> str:
        """The name of its recording."""
        return self.play.__name__


SCENARIOS: Final[dict[str, Scenario]] = {}


def scenario(**options: Any) -> Callable[[Play], Play]:
    """Register a scenario; `options` are fields of `Scenario`."""

    def register(play: Play) -> Play:
        made = Scenario(play=play, **options)
        SCENARIOS[made.name] = made
        return play

    return register


# Live sessions.


@scenario()
async def live_session(play: Player) -> None:
    """Speak three segments, the last of them in Chinese, and stop in silence."""
    async with play.connect("client") as client:
        await client.start()
        await client.speak(talk(4.5, 1.2, 5.0))
        await client.stop()


@scenario()
async def without_partials(play: Player) -> None:
    """Ask for finals and words only."""
    async with play.connect("client") as client:
        await client.start(partials=False)
        await client.speak(talk(4.5, 1.2))
        await client.stop()


@scenario()
async def without_words(play: Player) -> None:
    """Ask for partials and finals only."""
    async with play.connect("client") as client:
        await client.start(words=False)
        await client.speak(talk(4.5, 1.2))
        await client.stop()


@scenario(settings={"live": {"partials": False, "words": False}})
async def partials_and_words_switched_off_by_the_operator(play: Player) -> None:
    """Ask for what the settings do not allow."""
    async with play.connect("client") as client:
        await client.start(partials=True, words=True)
        await client.speak(talk(2.0))
        await client.stop()


@scenario(settings={"live": {"commit": "endpoint", "partial_interval_s": 1.0}})
async def nothing_stable_before_the_end(play: Player) -> None:
    """Have text become stable with the final only."""
    async with play.connect("client") as client:
        await client.start()
        await client.speak(talk(4.5))
        await client.stop()


@scenario(script=Script(suspicious=frozenset({1}), spread=frozenset({2})))
async def suspicious_answers_and_spread_words(play: Player) -> None:
    """Speak a segment of which nothing becomes stable, and one without exact times."""
    async with play.connect("client") as client:
        await client.start()
        await client.speak(talk(4.0, 2.0))
        await client.stop()


@scenario(settings={"model": {"language": "de", "context": "operator", "hotwords": ["one", "two"]}})
async def languages_contexts_and_hotwords(play: Player) -> None:
    """Give names, codes and nothing; what a client leaves out is the operator's choice."""
    given: dict[str, dict[str, Any]] = {
        "nothing": {},
        "code": {"language": "fr"},
        "name": {"language": "Chinese"},
        "lower case": {"language": "english"},
        "context": {"context": "client"},
        "hotwords": {"hotwords": ["three", "vier", "五"]},
        "both": {"context": "client", "hotwords": ["three"]},
    }
    for name, fields in given.items():
        async with play.connect(name) as client:
            await client.start(partials=False, words=False, **fields)
            await client.speak(talk(1.0), block=RATE)
            await client.stop()


@scenario()
async def configured_in_mid_session(play: Player) -> None:
    """Change everything between and within segments."""
    async with play.connect("client") as client:
        await client.start(language="en", context="first")
        await client.speak(talk(2.0))
        await client.speak(speech(2.0))
        await client.tell("configure", language="de", hotwords=["second", "third"])
        await client.speak(silence(1.0))
        await client.speak(talk(2.0))
        await client.tell("configure", partials=False)
        await client.speak(talk(2.0))
        await client.tell("configure", words=False, language=None, context="")
        await client.speak(talk(2.0))
        await client.tell("configure", partials=True, words=True, context="last", hotwords=[])
        await client.tell("configure")
        await client.speak(talk(2.0))
        await client.stop()


@scenario(settings={"server": {"max_sessions": 1}})
async def settings_reloaded_in_mid_session(play: Player) -> None:
    """Read the settings again: sessions go on, with the operator's new choices."""
    async with play.connect("first") as first:
        await first.start()
        await first.speak(talk(2.0))
        await play.server.reload(
            {"server": {"max_sessions": 2}, "live": {"words": False}, "model": {"context": "new"}}
        )
        async with play.connect("second") as second:
            await second.start()
        await first.speak(talk(2.0))
        await first.stop()


@scenario()
async def flushed(play: Player) -> None:
    """Flush in mid-speech, in a pause, in silence and before any audio."""
    async with play.connect("client") as client:
        await client.start()
        await client.tell("flush")
        await client.speak(speech(4.0))
        await client.tell("flush")
        await client.speak(speech(2.0))
        await client.speak(silence(0.4))
        await client.tell("flush")
        await client.tell("flush")
        await client.speak(silence(2.0))
        await client.tell("flush")
        await client.speak(speech(1.5))
        await client.stop()


@scenario()
async def stopped_in_mid_speech(play: Player) -> None:
    """Stop while a segment is open."""
    async with play.connect("client") as client:
        await client.start()
        await client.speak(speech(4.0))
        await client.stop()


@scenario()
async def stopped_in_a_pause(play: Player) -> None:
    """Stop when the final has been prepared already."""
    async with play.connect("client") as client:
        await client.start()
        await client.speak(np.concatenate([speech(3.0), silence(0.4)]))
        await client.stop()


@scenario()
async def stopped_without_audio(play: Player) -> None:
    """Stop at once."""
    async with play.connect("client") as client:
        await client.start()
        await client.stop()


@scenario()
async def pings(play: Player) -> None:
    """Send pings with every kind of identifier, also while the end is awaited."""
    async with play.connect("client") as client:
        await client.start()
        for number in (0, -7, 2**53 - 1, "name", "ü" * 100, None):
            await client.tell("ping", id=number)
        await client.tell("ping")
        await play.server.hold("text")
        await client.speak(talk(1.0))
        await client.say("stop")
        await client.tell("ping", id="after stop")
        await play.server.release()
        await client.wait_closed()


@scenario()
async def long_speech_is_cut(play: Player) -> None:
    """Speak without a pause for longer than a segment may be."""
    async with play.connect("client") as client:
        await client.start()
        await client.speak(buzz(52.0), block=RATE // 2)
        await client.speak(silence(1.0))
        await client.stop()


@scenario(settings={"segmentation": {"max_segment_s": 6.0, "cut_search_s": 2.0}})
async def long_speech_is_cut_by_the_operator(play: Player) -> None:
    """Speak without a pause, with shorter segments."""
    async with play.connect("client") as client:
        await client.start()
        await client.speak(speech(15.0))
        await client.stop()


@scenario()
async def speech_too_short_to_count(play: Player) -> None:
    """Send bursts that are dropped, and then one that is kept."""
    async with play.connect("client") as client:
        await client.start()
        await client.speak(talk(0.1, 0.15, 0.2, 0.25, 0.5))
        await client.stop()


@scenario()
async def two_sessions_at_once(play: Player) -> None:
    """Speak in turns; each session has its own clock and numbers."""
    one, two = talk(2.0, 1.0), talk(3.0)
    async with play.connect("one") as first, play.connect("two") as second:
        await first.start()
        await second.start(language="fr")
        for begin in range(0, max(len(one), len(two)), RATE // 2):
            await first.speak(one[begin : begin + RATE // 2])
            await second.speak(two[begin : begin + RATE // 2])
        await second.stop()
        await first.stop()


# Gaps, and what comes in place of text.


@scenario(script=Script(failing=frozenset({2}), empty=frozenset({1, 4})))
async def failed_passes_and_empty_finals(play: Player) -> None:
    """Speak a segment that fails between others that are empty, good and empty."""
    async with play.connect("client") as client:
        await client.start()
        await client.speak(talk(1.5, 2.0, 1.5, 1.0))
        await client.stop()


@scenario(script=Script(failing_after={1: 2.6, 2: 1.0}))
async def passes_that_fail_late(play: Player) -> None:
    """Have the last good hypothesis become the final, and a gap cover the rest."""
    async with play.connect("client") as client:
        await client.start()
        await client.speak(talk(4.0, 2.0, 1.0))
        await client.stop()


@scenario(script=Script(contradicting=frozenset({1})))
async def final_that_contradicts_stable_text(play: Player) -> None:
    """Have the final take back what was stable."""
    async with play.connect("client") as client:
        await client.start()
        await client.speak(talk(5.0, 1.0))
        await client.stop()


@scenario(script=Script(failing=frozenset({1})))
async def failed_pass_of_a_flushed_segment(play: Player) -> None:
    """Flush a segment whose passes fail, without partials."""
    async with play.connect("client") as client:
        await client.start(partials=False)
        await client.speak(speech(2.0))
        await client.tell("flush")
        await client.speak(speech(2.0))
        await client.stop()


@scenario()
async def finals_in_order_when_answers_are_late(play: Player) -> None:
    """Hold all text back, then all words."""
    async with play.connect("client") as client:
        await client.start()
        await play.server.hold("text")
        await client.speak(talk(1.0, 1.5))
        await play.server.release()
        await client.pace()
        await play.server.hold("words")
        await client.speak(talk(1.0, 1.5))
        await play.server.release()
        await client.stop()


# The daemon's own session.


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


# Listeners.


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


# Sessions that outlive their connection.


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


@scenario()
async def resumed_when_it_is_over(play: Player) -> None:
    """Lose the connection after `stop`, and come back for the end."""
    async with play.connect("first") as client:
        await client.start()
        await client.speak(talk(1.0))
        await play.server.hold("text")
        await client.speak(talk(1.0))
        await client.say("stop")
        await client.drop()
        session = client.session
    async with play.connect("before the end") as client:
        await client.start(session=session, since=0)
        await client.tell("stop")
        await client.drop()
    await play.server.release()
    async with play.connect("after the end") as client:
        await client.say("start", session=session, since=2)
        await client.wait_closed()
    async with play.connect("after it was heard") as client:
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
async def nobody_came_back(play: Player) -> None:
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
    await asyncio.sleep(1.0)
    async with play.connect("too late") as client:
        await client.say("start", session=session)
        await client.wait_closed()


# Restarts.


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
async def crashed_with_an_end_that_was_not_heard(play: Player) -> None:
    """Stop, lose the connection, and crash when the session is over."""
    async with play.connect("first") as client:
        await client.start()
        await client.speak(talk(2.0))
        await play.server.hold("words")
        await client.speak(talk(2.0))
        await client.say("stop")
        await client.drop()
        session = client.session
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


# Refusals.


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


# Formats of audio, and file mode.


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


# Who may connect, and plain HTTP.


@scenario(token=TOKEN)
async def tokens(play: Player) -> None:
    """Show the token in every way, and in none."""
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    async with play.connect("header", headers=bearer) as client:
        await client.start()
        path = f"{EVENTS}?session={client.session}"
        async with play.connect("query", f"{path}&token={TOKEN}") as listener:
            await listener.wait("ready")
        await play.refused("events without", path)
        await play.refused("events with a wrong one", f"{path}&token=wrong")
        await client.stop()
    offered = ["streamasr.v1", "bearer", TOKEN]
    async with play.connect("subprotocols", subprotocols=offered) as client:
        await client.start()
        await client.stop()
    await play.refused("none")
    await play.refused("wrong", headers={"Authorization": "Bearer wrong"})
    await play.refused("other scheme", headers={"Authorization": f"Basic {TOKEN}"})
    await play.refused("stream with query", f"{STREAM}?token={TOKEN}")
    await play.refused("wrong subprotocol", subprotocols=["streamasr.v1", "bearer", "wrong"])
    await play.request("metrics without", "GET", "/metrics")
    await play.request("metrics with", "GET", "/metrics", f"Authorization: Bearer {TOKEN}")
    await play.request("health", "GET", "/healthz")
    await play.request("page", "GET", "/")


@scenario(settings={"server": {"allow_origin": ["https://notes.example"]}})
async def origins(play: Player) -> None:
    """Come from web pages: our own, an allowed one, and others."""
    port = play.server.url.rpartition(":")[2]
    good = {
        "own": f"http://127.0.0.1:{port}",
        "own by name": f"http://localhost:{port}",
        "allowed": "https://notes.example",
    }
    for name, origin in good.items():
        async with play.connect(name, headers={"Origin": origin}) as client:
            await client.start()
            await client.stop()
    bad = {
        "other": "https://evil.example",
        "other port": "http://127.0.0.1:1",
        "other port of an allowed one": "https://notes.example:8443",
        "null": "null",
    }
    for name, origin in bad.items():
        await play.refused(name, headers={"Origin": origin})
        await play.refused(f"{name}, events", f"{EVENTS}?session=x", headers={"Origin": origin})
        await play.request(f"{name}, metrics", "GET", "/metrics", f"Origin: {origin}")


@scenario()
async def pages(play: Player) -> None:
    """Ask for every page, and for pages that are not there."""
    for path in ("/healthz", "/readyz", "/metrics", "/", "/index.html", "/nothing", "/v1/", "/v2"):
        for method in ("GET", "HEAD"):
            body = await play.request(f"{method} {path}", method, path)
            if path in ("/healthz", "/readyz"):
                play.note(f"{method} {path}", {"body": body})
    metrics = await play.request("GET /metrics?x", "GET", "/metrics?x")
    types = [line for line in metrics.splitlines() if line.startswith("# TYPE")]
    kept = sorted(line for line in types if "_created" not in line)  # of a library's version
    play.note("metrics", {"types": kept})
    await play.request("stream without an upgrade", "GET", STREAM)
    await play.refused("unknown path", "/v1/streams")
    await play.refused("path with a slash", STREAM + "/")
    await play.refused("health", "/healthz")
    async with play.connect("stream with a query", STREAM + "?x=1") as client:
        await client.start()
    async with play.connect("our subprotocol", subprotocols=["streamasr.v1"]) as client:
        await client.start()
    async with play.connect("several", subprotocols=["other", "streamasr.v1"]) as client:
        await client.start()


@scenario(is_loaded=False)
async def while_loading(play: Player) -> None:
    """Connect before the engine is ready."""
    await play.request("health while loading", "GET", "/healthz")
    await play.request("readiness while loading", "GET", "/readyz")
    async with play.connect("client") as client:
        await client.say("start")
        await play.server.finish_loading()
        await client.wait("ready")
        await client.speak(talk(1.0))
        await client.stop()
    await play.request("readiness afterwards", "GET", "/readyz")
