"""Tests of the web page: as files over HTTP, and as used in a real browser.

The browser's microphone plays the bundled clip. Tests of recognition use a real daemon with the
embedded model; others use a daemon without models, whose text states how much audio it received.
"""

import asyncio
import base64
import contextlib
import http.client
import itertools
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from difflib import SequenceMatcher
from pathlib import Path
from typing import Final

import numpy as np
import pytest
from msgspec import json

from streamasr.audio.file import open_audio
from streamasr.core.notices import NoticeCode
from streamasr.core.transcript import Segment, Transcript, Word
from streamasr.core.units import SAMPLE_RATE, Float32Array, to_samples
from streamasr.host.registry import Connection
from streamasr.models import tiny
from streamasr.models.qwen3.languages import LANGUAGES
from streamasr.pipeline.formats import format_transcript
from streamasr.server.web_assets import load_pages
from tests.support.browser import CHROMIUM, Tab, microphone_from, running_chromium
from tests.support.daemons import RunningDaemon
from tests.support.embedded import EmbeddedModel
from tests.support.fake_daemon import (
    DaemonOptions,
    FakeDaemon,
    Json,
    exact,
    recognise,
    running_daemon,
)
from tests.support.fakes import PatientEngine, talk, write_wav
from tests.support.paths import REPOSITORY
from tests.support.waiting import eventually

TOKEN = "correct-horse"
WEB = REPOSITORY / "clients" / "web"

CLIP_S: Final = 10.8
CLIP: Final = Path(tiny.__file__).with_name("demo.flac")
SENTENCES: Final = [
    "hello good morning please open page one hundred and twenty three",
    "copy the last sentence comma send my message question mark new line",
]
"""Text that the embedded model recognises in the first seconds of the clip."""

# Files over HTTP.


def fetch(
    daemon: FakeDaemon, path: str, method: str = "GET", **headers: str
) -> tuple[int, Json, bytes]:
    host, port = daemon.address.removeprefix("ws://").rsplit(":", 1)
    connection = http.client.HTTPConnection(host, int(port))
    try:
        connection.request(method, path, headers=headers)
        response = connection.getresponse()
        return response.status, {k.lower(): v for k, v in response.getheaders()}, response.read()
    finally:
        connection.close()


async def test_the_page_and_its_files_are_served(tmp_path: Path) -> None:
    async with running_daemon(tmp_path) as daemon:
        for path, page in load_pages().items():
            status, headers, body = await asyncio.to_thread(fetch, daemon, path)
            assert (status, body) == (200, page.body)
            assert headers["content-length"] == str(len(body))
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["referrer-policy"] == "no-referrer"
            assert "microphone=(self)" in headers["permissions-policy"]
            policy = headers["content-security-policy"].split("; ")
            assert {"default-src 'none'", "script-src 'self'", "style-src 'self'"} < set(policy)
            assert "unsafe" not in headers["content-security-policy"]
    assert load_pages()["/"].content_type == "text/html; charset=utf-8"
    assert load_pages()["/app.js"].content_type == "text/javascript; charset=utf-8"
    assert set(load_pages()) == {"/"} | {f"/{file.name}" for file in WEB.iterdir()}


async def test_head_returns_the_headers_of_get(tmp_path: Path) -> None:
    async with running_daemon(tmp_path) as daemon:
        for path in ("/", "/app.js", "/healthz", "/nothing"):
            status, headers, body = await asyncio.to_thread(fetch, daemon, path)
            got = await asyncio.to_thread(fetch, daemon, path, "HEAD")
            assert got == (status, headers | {"date": got[1]["date"]}, b"")
            assert body
        assert (await asyncio.to_thread(fetch, daemon, "/v1/stream", "HEAD"))[0] >= 400


async def test_a_cached_file_is_not_sent_again(tmp_path: Path) -> None:
    async with running_daemon(tmp_path) as daemon:
        _, headers, _ = await asyncio.to_thread(fetch, daemon, "/app.js")
        assert headers["cache-control"] == "no-cache"
        known = {"If-None-Match": headers["etag"]}
        status, again, body = await asyncio.to_thread(fetch, daemon, "/app.js", **known)
        assert (status, body, again["etag"]) == (304, b"", headers["etag"])
        assert (await asyncio.to_thread(fetch, daemon, "/style.css", **known))[0] == 200


@pytest.mark.parametrize(
    "path", ["/web/", "/nothing.js", "/../config.toml", "/..%2fapp.js", "//app.js", "/app.js/"]
)
async def test_other_paths_are_not_found(tmp_path: Path, path: str) -> None:
    async with running_daemon(tmp_path) as daemon:
        assert (await asyncio.to_thread(fetch, daemon, path))[0] == 404


async def test_the_page_needs_no_token(tmp_path: Path) -> None:
    async with running_daemon(tmp_path, DaemonOptions(token=TOKEN)) as daemon:
        assert (await asyncio.to_thread(fetch, daemon, "/"))[0] == 200


def test_the_page_loads_nothing_from_other_hosts() -> None:
    for file in WEB.iterdir():
        text = file.read_text("utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?://|//[a-z]+\.", text), file
        assert "innerHTML" not in text
        assert not re.search(r"<script(?! type=\"module\" src=)|<style| style=| on[a-z]+=\"", text)


def test_the_page_offers_all_languages() -> None:
    offered = re.search(r"LANGUAGES =\n(.*?);", (WEB / "app.js").read_text(), re.DOTALL)
    assert offered
    assert re.findall("[A-Z][a-z]+", offered[1]) == sorted(LANGUAGES)


# In a browser.

needs_browser = pytest.mark.skipif(not CHROMIUM, reason="needs Chromium")


@pytest.fixture(scope="module")
def clip() -> Float32Array:
    with open_audio(CLIP, duration=CLIP_S) as file:
        return np.concatenate(list(file.blocks()))


@pytest.fixture(scope="module")
def browser(clip: Float32Array, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    directory = tmp_path_factory.mktemp("browser")
    wav = write_wav(directory / "microphone.wav", clip)
    with running_chromium(directory / "profile", microphone_from(wav)) as address:
        yield address


def page_of(address: str) -> str:
    return address.replace("ws://", "http://") + "/"


@contextlib.asynccontextmanager
async def open_page(
    browser: str, directory: Path, options: DaemonOptions | None = None
) -> AsyncIterator[tuple[FakeDaemon, Tab]]:
    """Run a daemon, and open a tab with its page."""
    async with (
        running_daemon(directory, options or DaemonOptions()) as daemon,
        Tab.opened(browser, page_of(daemon.address)) as tab,
    ):
        yield daemon, tab


def settled(n: int) -> str:
    """Return the condition that the page shows n finals with words."""
    return f"document.querySelectorAll('.segments li:not(.live):has(.word)').length === {n}"


async def finals(tab: Tab) -> list[str]:
    return await tab.texts(".segments li:not(.live) p")


async def cut(daemon: FakeDaemon) -> None:
    """Abort every connection, like a broken network."""
    for connection in daemon.server.connections:
        connection.abort()


RECORD_AUDIO: Final = """void (window.AudioWorkletNode = class extends AudioWorkletNode {
    constructor(...options) {
        super(...options);
        window.received = [];
        window.nReceived = 0;
        this.port.addEventListener("message", ({ data: { pcm } }) => {
            received.push(btoa(String.fromCharCode(...new Uint8Array(pcm.buffer))));
            nReceived += pcm.length;
        });
    }
})"""
"""Records the samples that the microphone delivers to the page."""

WHOLE_CLIP: Final = f"nReceived > {round((CLIP_S + 1) * SAMPLE_RATE)}"

UNREVISED: Final = '[live]\ncommit = "endpoint"\n'
"""Settings with which finals equal the result of `transcribe` for the same samples."""


async def received(tab: Tab) -> bytes:
    """Return the samples that the microphone has delivered.

    They are never exactly the clip: Chromium plays by a timer of its own, with gaps on a busy
    machine.
    """
    return b"".join(map(base64.b64decode, await tab.get("received")))


def transcribed(pcm: bytes, model: str) -> list[str]:
    """Transcribe samples with an embedded model, without page and daemon."""
    command = [sys.executable, "-m", "streamasr", "transcribe", "--model", model, "--threads", "1"]
    done = subprocess.run([*command, "-"], input=pcm, capture_output=True, check=True)
    return done.stdout.decode().splitlines()


def published(daemon: RunningDaemon) -> list[str]:
    """Return the texts of all sessions in the daemon's store."""
    command = [sys.executable, "-m", "streamasr", "history", "--config", str(daemon.config)]
    done = subprocess.run([*command, "--format", "json"], capture_output=True, check=True)
    return [json.decode(line, type=Json)["text"] for line in done.stdout.splitlines()]


def likeness(lines: list[str]) -> float:
    """Return the similarity to the clip's sentences, word by word; 1 for equality."""
    found, expected = " ".join(lines).split(), " ".join(SENTENCES).split()
    return SequenceMatcher(None, found, expected, autojunk=False).ratio()


@needs_browser
async def test_text_appears_during_speech(
    browser: str, tmp_path: Path, embedded: EmbeddedModel
) -> None:
    with RunningDaemon(tmp_path, "--no-mic", settings=UNREVISED, model=embedded.name) as daemon:
        async with Tab.opened(browser, page_of(daemon.url)) as tab:
            await tab.get(RECORD_AUDIO)
            await tab.click("#microphone")
            await tab.until("document.querySelector('.live .unstable')?.textContent.length > 10")
            await tab.until(WHOLE_CLIP)
            assert await tab.text("#state") == "Listening"
            assert await tab.get("document.querySelector('#microphone').ariaPressed") == "true"
            await tab.click("#microphone")
            await tab.until("document.querySelector('#state').textContent === 'Ready'")
            shown = await finals(tab)
            assert shown == await asyncio.to_thread(transcribed, await received(tab), embedded.name)
            assert shown == await asyncio.to_thread(published, daemon)
            assert await tab.get(settled(len(shown)))
            assert likeness(shown) > 0.6, shown
            assert tab.errors == []


@needs_browser
async def test_no_word_is_lost_when_the_daemon_is_killed(
    browser: str, tmp_path: Path, embedded: EmbeddedModel
) -> None:
    with RunningDaemon(tmp_path, "--no-mic", settings=UNREVISED, model=embedded.name) as daemon:
        async with Tab.opened(browser, page_of(daemon.url)) as tab:
            await tab.get(RECORD_AUDIO)
            await tab.click("#microphone")
            await tab.until("document.querySelector('.live .unstable')?.textContent.length > 10")
            await asyncio.to_thread(daemon.kill)
            await tab.until("document.querySelector('#state').dataset.kind === 'lost'")
            assert "Reconnecting" in await tab.text("#state")
            await asyncio.to_thread(daemon.start)
            await tab.until(WHOLE_CLIP)
            await tab.click("#microphone")
            await tab.until("document.querySelector('#state').textContent === 'Ready'")
            shown = await finals(tab)
            assert shown == await asyncio.to_thread(transcribed, await received(tab), embedded.name)
            assert shown == await asyncio.to_thread(published, daemon)
            assert likeness(shown) > 0.6, shown


@needs_browser
async def test_audio_from_before_the_page_is_ready_is_kept(browser: str, tmp_path: Path) -> None:
    slow = """void (AudioContext.prototype.resume = function () {
        window.context = this;
        return new Promise((resolve) => (window.finishResume = resolve));
    })"""
    async with open_page(browser, tmp_path) as (daemon, tab):
        await tab.get(slow)
        await tab.click("#microphone")
        await tab.until("window.context?.currentTime > 1")
        assert await tab.get("document.querySelector('#microphone').ariaPressed") == "false"
        await tab.get("finishResume()")
        await tab.until("document.querySelector('#microphone').ariaPressed === 'true'")
        n_before = to_samples(await tab.get("context.currentTime"))
        await eventually(lambda: bool(list(daemon.sessions)))
        (live,) = daemon.sessions
        await tab.click("#microphone")
        await tab.until("document.querySelector('#state').textContent === 'Ready'")
        assert live.intake.position > n_before


@needs_browser
async def test_a_dropped_file_is_transcribed_despite_lost_connections(
    browser: str, tmp_path: Path
) -> None:
    samples = exact(np.concatenate([talk(0.7, 1.3)] * 15))
    expected = [m["text"] for m in recognise(samples) if m["type"] == "final"]
    file = write_wav(tmp_path / "talk.wav", samples)
    async with open_page(browser, tmp_path, DaemonOptions(max_lag_s=5.0)) as (daemon, tab):
        await tab.drop_files(file)
        for share in (0.2, 0.5, 0.8):
            await eventually(
                lambda: any(live.intake.position > share * len(samples) for live in daemon.sessions)  # noqa: B023
            )
            await cut(daemon)
        await tab.until(settled(len(expected)))
        await tab.until("document.querySelector('#state').textContent === 'Ready'")
        assert await finals(tab) == expected
        assert await tab.text("h2") == "talk.wav"


@needs_browser
async def test_a_file_is_sent_without_timers_as_in_background_pages(
    browser: str, tmp_path: Path
) -> None:
    file = write_wav(tmp_path / "silence.wav", np.zeros(to_samples(60.0), np.float32))
    async with open_page(browser, tmp_path) as (_, tab):
        await tab.get("void (window.setTimeout = () => 0)")
        await tab.choose_files("#file", file)
        await tab.until("document.querySelector('.about')?.textContent.includes('1:00')")
        await tab.until("document.querySelector('#state').textContent === 'Ready'")


@needs_browser
async def test_a_word_shows_its_times_and_plays_from_there(browser: str, tmp_path: Path) -> None:
    file = write_wav(tmp_path / "talk.wav", talk(0.7, 1.3))
    async with open_page(browser, tmp_path) as (_, tab):
        await tab.choose_files("#file", file)
        await tab.until(settled(2))
        second = ".segments li:nth-child(2) .word"
        await tab.point(second)
        shown = await tab.text("#when")
        assert re.fullmatch(r"0:0\d\.\d\d – 0:0\d\.\d\d", shown)
        await tab.click(second)
        await tab.until("!document.querySelector('#player').paused")
        begin = float(shown.split()[0].removeprefix("0:"))
        assert await tab.get("document.querySelector('#player').currentTime") >= begin - 0.02
        await tab.until("document.querySelector('.word.now') !== null")
        assert tab.errors == []


@needs_browser
async def test_the_keyboard_moves_from_word_to_word(browser: str, tmp_path: Path) -> None:
    file = write_wav(tmp_path / "talk.wav", talk(0.7, 1.3))
    async with open_page(browser, tmp_path) as (_, tab):
        await tab.choose_files("#file", file)
        await tab.until(settled(2))
        words = await tab.texts(".word")
        await tab.get("document.querySelector('.segments').focus()")
        for word in (words[0], words[1], words[2]):
            await tab.press("ArrowRight")
            assert await tab.get("document.activeElement.textContent") == word
        await tab.press("ArrowLeft")
        assert await tab.get("document.activeElement.textContent") == words[1]
        assert not await tab.get("document.querySelector('#when').hidden")
        await tab.press("Enter")
        await tab.until("!document.querySelector('#player').paused")


@needs_browser
async def test_segments_are_shown_in_spoken_order(browser: str, tmp_path: Path) -> None:
    messages = [
        {"type": "speech", "segment": 1, "start": 0.5},
        {"type": "resumed"},  # removes the partial of the first segment
        {"type": "speech", "segment": 2, "start": 10.5},
        {"type": "partial", "segment": 2, "start": 10.5, "text": "two", "stable": 0},
        {"type": "final", "segment": 1, "start": 0.5, "end": 9.0, "text": "one"},
        {"type": "gap", "start": 9.0, "end": 10.0, "reason": "restart"},
    ]
    script = f"""(async () => {{
        const {{ Sheet }} = await import("/sheet.js");
        const sheet = new Sheet("a", {{}});
        for (const message of {json.encode(messages).decode()}) sheet.show(message);
        return [...sheet.element.querySelectorAll("p:not(.about)")].map((p) => p.textContent);
    }})()"""
    async with open_page(browser, tmp_path) as (_, tab):
        assert await tab.get(script) == ["one", "1.0 s without text: restart", "two"]


@needs_browser
async def test_the_microphone_button_keeps_the_focus(browser: str, tmp_path: Path) -> None:
    async with open_page(browser, tmp_path) as (_, tab):
        await tab.get("document.querySelector('#microphone').focus()")
        await tab.press("Enter")
        await tab.until("document.querySelector('#microphone').ariaPressed === 'true'")
        await tab.press("Enter")
        await tab.until("document.querySelector('#microphone').ariaPressed === 'false'")
        assert await tab.get("document.activeElement.id") == "microphone"


@needs_browser
async def test_the_highlight_of_a_word_is_not_cut_off(browser: str, tmp_path: Path) -> None:
    """Rows are clipped to their box."""
    file = write_wav(tmp_path / "talk.wav", talk(0.7))
    async with open_page(browser, tmp_path) as (_, tab):
        await tab.choose_files("#file", file)
        await tab.until(settled(1))
        edges = "['.segments li', '.time', '.word'].map((s) => box(s).left)"
        box = "const box = (s) => document.querySelector(s).getBoundingClientRect();"
        row, time, word = await tab.get(f"(() => {{ {box} return {edges}; }})()")
        assert row <= time
        assert row <= word - 2, "its shadow"


@needs_browser
async def test_the_latest_text_stays_in_view(browser: str, tmp_path: Path) -> None:
    file = write_wav(tmp_path / "talk.wav", exact(np.concatenate([talk(0.3)] * 60)))
    async with open_page(browser, tmp_path) as (_, tab):
        await tab.choose_files("#file", file)
        await tab.until(settled(60))
        at_end = "scrollY > 500 && scrollY >= document.documentElement.scrollHeight - innerHeight"
        await tab.until(f"{at_end} - 2")


@needs_browser
async def test_a_reader_who_scrolls_back_stays_there(browser: str, tmp_path: Path) -> None:
    """Text that arrives in the same frame does not move the page, either."""
    file = write_wav(tmp_path / "talk.wav", exact(np.concatenate([talk(0.3)] * 60)))
    more = write_wav(tmp_path / "more.wav", exact(talk(0.3)))
    async with open_page(browser, tmp_path) as (_, tab):
        await tab.choose_files("#file", file)
        await tab.until(settled(60))
        await tab.until("scrollY > 500")
        await tab.get("void (window.requestAnimationFrame = (draw) => (window.draw = draw, 1))")
        await tab.choose_files("#file", more)
        await tab.until(settled(61))
        await tab.get("void addEventListener('scroll', () => (window.isBack = scrollY === 0))")
        await tab.get("scrollTo(0, 0)")
        await tab.until("window.isBack")
        await tab.get("draw()")
        assert await tab.get("scrollY") == 0


@needs_browser
async def test_search_counts_and_marks_the_matches(browser: str, tmp_path: Path) -> None:
    file = write_wav(tmp_path / "talk.wav", talk(0.7, 1.3, 0.9))
    async with open_page(browser, tmp_path) as (_, tab):
        await tab.choose_files("#file", file)
        await tab.until(settled(3))
        text = (await finals(tab))[1]
        await tab.type("#query", text.upper())  # across the elements of several words
        assert await tab.text("#hits") == "1 of 1"
        marked = "[...CSS.highlights.get('here')].map(String)"
        assert await tab.get(marked) == [text]
        await tab.get("document.querySelector('#query').select()")
        await tab.type("#query", "samples")
        assert await tab.text("#hits") == "1 of 3"
        await tab.press("Enter")
        assert await tab.text("#hits") == "2 of 3"
        await tab.get("document.querySelector('#query').select()")
        await tab.type("#query", "(nothing")
        assert await tab.text("#hits") == "no matches"
        await tab.press("Escape")
        assert await tab.text("#hits") == ""


@needs_browser
async def test_downloads_equal_the_files_of_transcribe(browser: str, tmp_path: Path) -> None:
    file = write_wav(tmp_path / "my talk.wav", exact(talk(0.7, 1.3, 0.5)))
    saved = tmp_path / "saved"
    saved.mkdir()
    async with open_page(browser, tmp_path) as (_, tab):
        await tab.save_downloads_in(saved)
        await tab.choose_files("#file", file)
        await tab.until("document.querySelector('#state').textContent === 'Ready'")
        await tab.until(settled(3))
        for kind in ("txt", "srt", "vtt", "json"):
            await tab.click(f"[data-format={kind}]")
            await eventually((saved / f"my talk.{kind}").exists)
        await eventually(lambda: not list(saved.glob("*.crdownload")))
    document = json.decode((saved / "my talk.json").read_bytes(), type=Json)
    transcript = read(document)
    for kind in ("txt", "srt", "vtt"):
        assert (saved / f"my talk.{kind}").read_text("utf-8") == format_transcript(transcript, kind)
    assert document == json.decode(format_transcript(transcript, "json"))


def read(document: Json) -> Transcript:
    """Read a transcript from its JSON format."""
    return Transcript(
        document["file"],
        document["model"],
        to_samples(document["duration"]),
        tuple(
            Segment(
                s["id"],
                to_samples(s["start"]),
                to_samples(s["end"]),
                s["language"],
                s["text"],
                tuple(
                    Word(w["text"], to_samples(w["start"]), to_samples(w["end"]), w["score"])
                    for w in s["words"]
                ),
            )
            for s in document["segments"]
        ),
    )


@needs_browser
async def test_subtitles_equal_those_of_streamasr(browser: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    segments = [_made_up(rng, number) for number in range(1, 30)]
    transcript = Transcript(
        "a", "m", to_samples(segments[-1].end / SAMPLE_RATE + 1), tuple(segments)
    )
    document = format_transcript(transcript, "json")
    script = f"""(async () => {{
        const {{ Transcript, FORMATS, place }} = await import("/transcript.js");
        const document = {document};
        const transcript = new Transcript(document.file);
        Object.assign(transcript, {{ model: document.model, duration: document.duration }});
        for (const segment of document.segments) {{
            segment.words = place(segment.text, segment.words);
            transcript.segments.set(segment.id, segment);
        }}
        return Object.entries(FORMATS).map(([name, {{ write }}]) => [name, write(transcript)]);
    }})()"""
    async with open_page(browser, tmp_path) as (_, tab):
        for kind, text in await tab.get(script):
            if kind == "json":
                assert json.decode(text) == json.decode(document)
            else:
                assert text == format_transcript(transcript, kind)


def _made_up(rng: np.random.Generator, number: int) -> Segment:
    """Make a segment of words in several scripts, with all marks that affect subtitles."""
    stock = ["so", "Grüße,", "naïve", "end.", "what?!", "«oui»", "a-->b", "<b>&c", "x" * 50]
    ideographs = list("一二三，四五。六七「八」九十")
    is_chinese = number % 3 == 0
    chosen = rng.choice(ideographs if is_chinese else stock, rng.integers(1, 60))
    step = int(rng.integers(1600, 12_000))
    begin = number * 60 * 12_000
    words = tuple(
        Word(
            str(word),
            to_samples(round((begin + i * step) / SAMPLE_RATE, 3)),
            to_samples(round((begin + (i + 1) * step - 160) / SAMPLE_RATE, 3)),
            0.5,
            space_after=not is_chinese and i + 1 < len(chosen),
        )
        for i, word in enumerate(chosen)
    )
    text = "".join(word.text + " " * word.space_after for word in words)
    language = "Chinese" if is_chinese else "French"
    return Segment(number, words[0].start, words[-1].end, language, text, words)


@needs_browser
async def test_sent_audio_can_be_sent_again_from_any_position(browser: str, tmp_path: Path) -> None:
    script = """(async () => {
        const { ResendBuffer } = await import("/protocol.js");
        ResendBuffer.KEEP = 50;
        const buffer = new ResendBuffer();
        let seed = 6, put = 0, at = 0, furthest = 0;
        const random = (n) => (seed = (seed * 48271) % 0x7fffffff) % n;
        for (let step = 0; step < 20000; step++) {
            const kind = random(10);
            if (kind < 4) {
                const block = Int16Array.from({ length: random(9) }, (_, i) => put + i);
                buffer.put(block);
                put += block.length;
            } else if (kind < 9) {
                if (!buffer.waiting) continue;
                for (const sample of buffer.take(1 + random(12)))
                    if (sample !== (at++ << 16) >> 16) return `wrong at ${at}`;
                furthest = Math.max(furthest, at);
            } else {
                const position = Math.max(0, furthest - random(70));
                const problem = buffer.rewind(position);
                if (problem && furthest - position <= 50) return problem;
                if (!problem) at = position;
            }
            if (buffer.waiting !== put - at) return `waiting ${buffer.waiting}, not ${put - at}`;
        }
        return buffer.rewind(put + 1) ?? "accepted a position beyond the end";
    })()"""
    async with open_page(browser, tmp_path) as (_, tab):
        answer = await tab.get(script)
        assert answer == "The daemon reports audio that was never sent; start a new session."


@needs_browser
async def test_a_page_that_reconnects_keeps_its_session(browser: str, tmp_path: Path) -> None:
    """For example after a laptop slept: otherwise the daemon may evict the session."""
    script = """(async () => {
        const { AudioSession } = await import("/protocol.js");
        let check;
        window.setInterval = (f) => ((check = f), 0);
        await new Promise((resolve) => {
            const onMessage = ({ type }) => type === "ready" && resolve();
            window.stream = new AudioSession({ sample_rate: 16000 }, { onMessage }).open();
        });
        const { now } = Date;
        Date.now = () => now() + 3600_000;
        check();
        Date.now = now;
    })()"""
    async with open_page(browser, tmp_path) as (daemon, tab):
        given_up, detach = [], daemon.sessions.detach

        def note(name: str, connection: Connection, **options: bool) -> None:
            given_up.append(options["is_given_up"])
            detach(name, connection, **options)

        daemon.sessions.detach = note  # type: ignore[method-assign]
        await tab.get(script)
        await tab.until("stream.isConnected")
        assert given_up == [False]
        await tab.get("stream.close()")
        await eventually(lambda: given_up == [False, True])


@needs_browser
async def test_the_token_is_asked_for_until_it_is_right(browser: str, tmp_path: Path) -> None:
    file = write_wav(tmp_path / "talk.wav", talk(0.7))
    async with open_page(browser, tmp_path, DaemonOptions(token=TOKEN)) as (_, tab):
        await tab.choose_files("#file", file)
        for shown in ("wrong", "no/token=", TOKEN):
            await tab.until("document.querySelector('#token-dialog').open")
            await tab.until("document.querySelector('#token').value === ''")
            await tab.type("#token", shown)
            await tab.press("Enter")
        await tab.until(settled(1))
        kept = "[localStorage, sessionStorage].map((s) => JSON.stringify(s).includes('horse'))"
        assert await tab.get(kept) == [False, True]
        assert TOKEN not in await tab.get("location.href")


@needs_browser
async def test_a_missing_token_gives_one_sentence(browser: str, tmp_path: Path) -> None:
    file = write_wav(tmp_path / "talk.wav", talk(0.7))
    async with open_page(browser, tmp_path, DaemonOptions(token=TOKEN)) as (_, tab):
        await tab.choose_files("#file", file)
        await tab.until("document.querySelector('#token-dialog').open")
        await tab.press("Escape")
        await tab.until("document.querySelector('#alert').textContent !== ''")
        assert await tab.text("#alert") == "The daemon requires a valid token."
        assert await tab.text("#state") == "Ready"


@needs_browser
async def test_a_full_daemon_is_shown_as_busy(browser: str, tmp_path: Path) -> None:
    file = write_wav(tmp_path / "talk.wav", talk(0.7))
    async with open_page(browser, tmp_path, DaemonOptions(max_sessions=1)) as (daemon, tab):
        await tab.click("#microphone")
        await eventually(lambda: any(live.intake.position for live in daemon.sessions))
        await tab.choose_files("#file", file)
        await tab.until("document.querySelector('#state').dataset.kind === 'busy'")
        await tab.click("#microphone")
        await tab.until("document.querySelector('.playable .word') !== null")


@needs_browser
async def test_the_lag_of_the_text_is_shown_as_the_state(browser: str, tmp_path: Path) -> None:
    async with open_page(browser, tmp_path, DaemonOptions(engine=PatientEngine())) as (daemon, tab):
        await tab.click("#microphone")
        await eventually(lambda: any(live.intake.position for live in daemon.sessions))
        [live] = daemon.sessions
        live.notify(NoticeCode.LAGGING, "the text is behind")
        await tab.until("document.querySelector('#state').textContent.endsWith('s behind')")
        assert await tab.text("#alert") == ""


@needs_browser
async def test_a_late_change_of_settings_has_no_effect(browser: str, tmp_path: Path) -> None:
    file = write_wav(tmp_path / "talk.wav", talk(0.7))
    engine = PatientEngine()
    async with open_page(browser, tmp_path, DaemonOptions(engine=engine)) as (daemon, tab):
        await tab.choose_files("#file", file)
        await eventually(lambda: any(live.intake.is_finishing for live in daemon.sessions))
        await tab.get(
            "document.querySelector('#language').value = 'German';"
            "document.querySelector('#language').dispatchEvent(new Event('change'))"
        )
        waiting = asyncio.create_task(tab.until(settled(1)))
        await engine.answer_until(waiting)
        assert await tab.text("#alert") == ""


@needs_browser
async def test_a_microphone_opened_too_late_is_closed(browser: str, tmp_path: Path) -> None:
    slow = """(async () => {
        const ask = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
        navigator.mediaDevices.getUserMedia = async (constraints) => {
            window.late = (await ask(constraints)).getTracks()[0];
            await new Promise((resolve) => (window.allow = resolve));
            return new MediaStream([late]);
        };
        document.querySelector("#device").dispatchEvent(new Event("change"));
    })()"""
    async with open_page(browser, tmp_path) as (_, tab):
        await tab.click("#microphone")
        await tab.until("document.querySelector('#microphone').ariaPressed === 'true'")
        await tab.get(slow)
        await tab.until("window.allow !== undefined")
        await tab.click("#microphone")
        await tab.until("document.querySelector('#state').textContent === 'Ready'")
        await tab.get("allow()")
        await tab.until("late.readyState === 'ended'")
        assert await tab.text("#alert") == ""


@needs_browser
async def test_a_forbidden_microphone_gives_one_sentence(browser: str, tmp_path: Path) -> None:
    async with open_page(browser, tmp_path) as (daemon, tab):
        await tab.get(
            "void (navigator.mediaDevices.getUserMedia ="
            " async () => { throw new DOMException('no', 'NotAllowedError'); })"
        )
        await tab.click("#microphone")
        await tab.until("document.querySelector('#alert').textContent !== ''")
        assert "not allowed" in await tab.text("#alert")
        assert not list(daemon.sessions)


@needs_browser
async def test_a_file_that_is_not_audio_gives_one_sentence(browser: str, tmp_path: Path) -> None:
    async with open_page(browser, tmp_path) as (_, tab):
        await tab.drop_files(Path(__file__))
        await tab.until("document.querySelector('#alert').textContent !== ''")
        assert (await tab.text("#alert")).startswith("test_web.py is not audio that this browser")
        assert await tab.text("#state") == "Ready"


@needs_browser
async def test_controls_have_names_and_no_error_is_logged(browser: str, tmp_path: Path) -> None:
    async with open_page(browser, tmp_path) as (_, tab):
        await tab.do("Accessibility.enable")
        tree = (await tab.do("Accessibility.getFullAXTree"))["nodes"]
        nameless = [
            node["role"]["value"]
            for node in tree
            if not node["ignored"]
            and node["role"]["value"]
            in {"button", "textbox", "searchbox", "combobox", "meter", "link"}
            and not node.get("name", {}).get("value")
        ]
        assert nameless == []
        assert tab.errors == []


@needs_browser
async def test_the_theme_follows_the_system_until_it_is_chosen(
    browser: str, tmp_path: Path
) -> None:
    background = "getComputedStyle(document.body).backgroundColor"
    async with (
        running_daemon(tmp_path) as daemon,
        Tab.opened(browser) as tab,
    ):
        await tab.look(scheme="dark")
        await tab.go(page_of(daemon.address))
        dark = await tab.get(background)
        await tab.look(scheme="light")
        light = await tab.get(background)
        assert dark != light
        await tab.click("#theme")
        await tab.click("#theme")
        assert await tab.get(background) == dark
        await tab.go(page_of(daemon.address))
        assert await tab.get(background) == dark


def test_text_and_borders_have_contrast_in_light_and_dark() -> None:
    style = (WEB / "style.css").read_text()
    pairs = re.findall(r"--(\w+): light-dark\((#\w{6}), (#\w{6})\)", style)
    colours = {name: shades for name, *shades in pairs}

    def luminance(colour: str) -> float:
        parts = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
        linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    def contrast(name: str, ground: str, shade: int) -> float:
        two = sorted(luminance(colours[each][shade]) + 0.05 for each in (name, ground))
        return two[1] / two[0]

    for shade, ground in itertools.product((0, 1), ("paper", "card")):
        for text in ("ink", "quiet", "faint", "accent", "live", "warn"):
            assert contrast(text, ground, shade) >= 4.5, (text, ground)
        assert contrast("edge", ground, shade) >= 3, ground


@needs_browser
@pytest.mark.parametrize("width", [320, 390, 768])
async def test_the_page_does_not_scroll_sideways_at_any_width(
    browser: str, tmp_path: Path, width: int
) -> None:
    file = write_wav(tmp_path / f"{'long name ' * 12}.wav", talk(0.7))
    async with (
        running_daemon(tmp_path) as daemon,
        Tab.opened(browser) as tab,
    ):
        await tab.look(width=width, height=800)
        await tab.go(page_of(daemon.address))
        await tab.choose_files("#file", file)
        await tab.until(settled(1))
        assert await tab.get("document.documentElement.scrollWidth") <= width


@needs_browser
async def test_captions_join_ideographs_without_spaces(browser: str, tmp_path: Path) -> None:
    script = """(async () => {
        const sockets = [];
        window.WebSocket = class { constructor() { sockets.push(this); } close() {} send() {} };
        await import("/captions.js");
        const receive = (message) => sockets[0].onmessage({ data: JSON.stringify(message) });
        const final = { type: "final", start: 0, end: 1, language: null };
        const partial = { type: "partial", segment: 4, stable: 1 };
        const shown = () => document.querySelector("#caption").textContent;
        receive({ type: "ready", seq: 0 });
        receive({ ...final, seq: 1, segment: 1, text: "so" });
        receive({ ...final, seq: 2, segment: 2, text: "一二" });
        receive({ ...final, seq: 3, segment: 3, text: "三" });
        receive({ ...partial, text: "四五六" });
        const wide = shown();
        receive({ ...partial, text: "and" });
        return [wide, shown(), document.querySelector("#caption .unstable").textContent];
    })()"""
    async with open_page(browser, tmp_path) as (_, tab):
        await tab.get("document.body.replaceChildren()")
        await tab.get("document.body.id = 'caption'")
        assert await tab.get(script) == ["so 一二三四五六", "so 一二三 and", "nd"]


@needs_browser
async def test_the_captions_page_shows_the_microphone(browser: str, tmp_path: Path) -> None:
    async with running_daemon(tmp_path) as daemon:
        live = daemon.host.begin_own()
        async with Tab.opened(browser, page_of(daemon.address) + "captions.html#lines=3") as tab:
            await eventually(lambda: bool(live.publisher.n_readers))
            live.intake.feed(exact(talk(0.7)))
            await tab.until("document.querySelector('#caption').textContent !== ''")
            assert "samples" in await tab.text("#caption")
            assert tab.errors == []
