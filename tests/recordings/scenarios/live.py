"""Live sessions, and what comes in place of text."""

from typing import Any

import numpy as np

from tests.recordings.audio import RATE, buzz, silence, speech, talk
from tests.recordings.player import Player
from tests.recordings.scenarios.registry import scenario
from tests.recordings.script import Script


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
