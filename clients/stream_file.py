"""Transcribe a file with the daemon; it is sent as fast as the daemon accepts it.

Text is printed as it becomes final; `--format` and `--output-dir` write files. After a loss of the
connection, `streamasr.client` resumes the session, and nothing is missing.
"""

import argparse
import asyncio
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from streamasr import client
from streamasr.audio.file import open_audio
from streamasr.audio.source import AudioSource
from streamasr.cli.console import ProgressBar
from streamasr.client import Event, Reconnecting, v1
from streamasr.core.errors import AudioError
from streamasr.core.transcript import Segment, Transcript, Word
from streamasr.core.units import to_samples
from streamasr.pipeline.formats import FORMATS, format_transcript, write_whole


async def converse(
    arguments: argparse.Namespace, source: AudioSource, take: Callable[[Event], None]
) -> AudioError | None:
    """Send the file and receive all events; return the error if the file is broken."""
    async with client.connect(
        arguments.url,
        token=arguments.token_file and arguments.token_file.read_text("utf-8").strip(),
        language=arguments.language,
        context=arguments.context,
        partials=False,  # they would only take time
    ) as stream:
        sending = asyncio.create_task(send(source, stream))
        try:
            async for event in stream:
                take(event)
            return await sending
        finally:
            sending.cancel()


async def send(source: AudioSource, stream: client.AudioSession) -> AudioError | None:
    """Send a file; of a broken file, send the readable part and return the error."""
    broken = None
    try:
        for block in source.blocks():
            await stream.send(block)  # waits while the daemon's queue is full
    except AudioError as error:
        broken = error
    await stream.stop()
    return broken


class Report:
    """Collector of the daemon's messages, which also prints their text."""

    def __init__(self, bar: ProgressBar, *, prints: bool) -> None:
        """Begin without any message.

        Args:
            bar: bar that shows the progress.
            prints: whether the text of each final is printed as it arrives.
        """
        self._bar = bar
        self._prints = prints
        self._model = ""
        self._finals: list[v1.Final] = []
        self._words: dict[int, v1.Words] = {}
        self._duration = 0.0
        self.gaps: list[v1.Gap] = []

    def take(self, event: Event) -> None:
        """Process an event: keep durable messages, and print text and progress."""
        match event:
            case v1.Ready(model=model):
                self._model = model
            case v1.Final():
                self._bar.show(event.end)
                if event.text:
                    self._finals.append(event)
                    if self._prints:
                        print(" ".join(event.text.split()), flush=True)
            case v1.Words():
                self._words[event.segment] = event
            case v1.Gap():
                self.gaps.append(event)
            case v1.End(duration=duration):
                self._duration = duration
            case Reconnecting(tries=1):
                print(f"waiting: {event.reason}", file=sys.stderr, flush=True)
            case _:
                pass  # not durable

    def transcript(self, file: Path) -> Transcript:
        """Return the transcript, for output to files."""
        segments = tuple(self._segment(final) for final in self._finals)
        name = os.fsencode(file).decode(errors="replace")
        return Transcript(name, self._model, to_samples(self._duration), segments)

    def _segment(self, final: v1.Final) -> Segment:
        timed = self._words.get(final.segment)
        return Segment(
            id=final.segment,
            start=to_samples(final.start),
            end=to_samples(final.end),
            language=final.language,
            text=final.text,
            words=place(timed.words, final.text) if timed else (),
        )


def place(words: tuple[v1.Word, ...], text: str) -> tuple[Word, ...]:
    """Add to each word the space that follows it in the text of its segment."""
    placed, text, end = [], " ".join(text.split()), 0
    for word in words:
        end = text.index(word.text, end) + len(word.text)
        placed.append(
            Word(
                text=word.text,
                start=to_samples(word.start),
                end=to_samples(word.end),
                confidence=word.score,
                space_after=text[end : end + 1] == " ",
            )
        )
    return tuple(placed)


def prepare(directory: Path) -> None:
    """Check that files can be written to a directory, before the long transcription."""
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=directory):
        pass


def transcribe(arguments: argparse.Namespace) -> None:
    """Transcribe the file, and write or print the result.

    Raises:
        StreamASRError: the transcript is incomplete; the available part was written.
        OSError: a file could not be read or written.
    """
    file: Path = arguments.file
    formats = arguments.formats or ["txt"]
    prints = arguments.output_dir is None and formats == ["txt"]
    if arguments.output_dir is not None:
        prepare(arguments.output_dir)
    with open_audio(file) as source, ProgressBar(file.name, source.duration, True) as bar:
        report = Report(bar, prints=prints)
        broken = asyncio.run(converse(arguments, source, report.take))
    transcript = report.transcript(file)
    for kind in formats:
        if arguments.output_dir is not None:
            path = arguments.output_dir / f"{file.stem}.{kind}"
            write_whole(path, format_transcript(transcript, kind))
        elif not prints:
            sys.stdout.write(format_transcript(transcript, kind))
    if broken:
        raise broken
    if report.gaps:
        where = ", ".join(f"{gap.start:.1f}-{gap.end:.1f} s" for gap in report.gaps)
        raise AudioError(
            f"{file}: parts were not recognised ({where}): {report.gaps[0].reason}.",
            code="not_recognised",
        )


def reason(error: Exception) -> str:
    """Return the message of an error in one sentence."""
    if not isinstance(error, OSError) or not error.strerror:
        return str(error)
    return f"{error.filename}: {error.strerror}" if error.filename else error.strerror


def main() -> int:
    """Run until the file is transcribed or Ctrl-C is pressed; return the exit code."""
    parser = argparse.ArgumentParser(description="Transcribe a file with the daemon.")
    parser.add_argument("file", type=Path, metavar="FILE", help="any audio or video file")
    parser.add_argument("--url", default=client.DEFAULT_URL, help="daemon (default: %(default)s)")
    parser.add_argument("--token-file", type=Path, metavar="FILE", help="token of the server")
    parser.add_argument("--language", metavar="L", help="name or code; default: detected")
    parser.add_argument("--context", default="", metavar="TEXT", help="expected names and terms")
    parser.add_argument(
        *("--format", "-f"), dest="formats", action="append", choices=FORMATS, help="default: txt"
    )
    parser.add_argument("--output-dir", "-o", type=Path, metavar="DIR", help="default: stdout")
    arguments = parser.parse_args()
    if arguments.output_dir is None and len(arguments.formats or ()) > 1:
        parser.error("several formats need a directory: add --output-dir")
    # SIGTERM ends the program as cleanly as SIGINT, which asyncio handles. Background jobs ignore
    # SIGINT, so for them SIGTERM keeps its default.
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        transcribe(arguments)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of stdout has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (client.StreamASRError, OSError, UnicodeError) as error:
        print(f"stream_file: {reason(error)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
