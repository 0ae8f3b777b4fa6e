"""Sessions that another daemon has left unfinished on disk, read to be resumed.

The journal has the published messages, and the spool the audio from some time before the last of
them. Audio after the last final or gap is cut and recognised once more. The chunker continues in
step with the frames of the first time, and its voice detector gets some of the audio before, so
that the segments have the same borders again.
"""

import contextlib
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from streamasr.core.errors import StorageError
from streamasr.core.messages import End, Final
from streamasr.core.units import Float32Array, Samples
from streamasr.pipeline.stream import Beginning
from streamasr.segmentation.chunker import FRAME
from streamasr.session.session import Published
from streamasr.storage.database import NoJournalError
from streamasr.storage.reader import JournalReader
from streamasr.storage.records import SessionRecord
from streamasr.storage.spool import Spooled, delete_spool, read_spool, spooled_sessions

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Recovered:
    """A session to be resumed."""

    record: SessionRecord
    beginning: Beginning
    warm_up: Float32Array
    """Settled audio right before the beginning, a whole number of frames."""
    audio: list[tuple[Samples, Float32Array]]
    """Audio after the beginning; audio between the parts was never written."""
    wordless: list[tuple[Final, Float32Array]]
    """Finals whose words are still owed, with their audio."""
    is_over: bool
    """Its end was published, but perhaps not received by its client."""
    last_written: float
    """Time at which the newest audio was written, or else the newest message, in seconds since
    1970."""


def recover(journal: Path, spool: Path | None) -> list[Recovered]:
    """Read all unfinished sessions, and delete the audio of sessions without a record.

    Args:
        journal: path of the database.
        spool: directory of the audio of all sessions; None if audio is not kept.

    Raises:
        StorageError: the journal cannot be read.
    """
    try:
        reader = JournalReader(journal)
    except NoJournalError:
        return []
    with reader:
        records = reader.unfinished()
        written = _time_of_last_write(journal)
        recovered = [_recover_one(record, reader, spool, written) for record in records]
    if spool is not None:
        for name in set(spooled_sessions(spool)) - {record.name for record in records}:
            with contextlib.suppress(StorageError):
                delete_spool(spool / name)
    return recovered


def _time_of_last_write(journal: Path) -> float:
    log = journal.with_name(f"{journal.name}-wal")  # newer than the database, where it exists
    return max(path.stat().st_mtime for path in (journal, log) if path.exists())


def _recover_one(
    record: SessionRecord, reader: JournalReader, spool: Path | None, written: float
) -> Recovered:
    counts = reader.counts(record.name)
    newest = reader.messages(record.name, counts.last_seq - 1, 1)
    spooled, last_written = _read(record.name, spool)
    position = _where_to_begin(counts.settled, spooled)
    beginning = Beginning(
        position=position,
        border=counts.settled,
        n_segments=counts.last_segment,
        published=Published(
            counts.last_seq, counts.n_finals, counts.n_words, reader.stable_text(record.name)
        ),
    )
    wordless = counts.wordless if record.options.words else ()
    return Recovered(
        record=record,
        beginning=beginning,
        warm_up=_warm_up(spooled, position),
        audio=[(start, samples) for start, samples in _after(spooled, position) if len(samples)],
        wordless=[(final, _between(spooled, final.start, final.end)) for final in wordless],
        is_over=any(isinstance(message, End) for _, message in newest),
        last_written=written if last_written is None else last_written,
    )


def _read(name: str, spool: Path | None) -> tuple[Spooled, float | None]:
    nothing = Spooled(Samples(0), Samples(0), [])
    if spool is None:
        return nothing, None
    try:
        spooled = read_spool(spool / name)
        written = [path.stat().st_mtime for path in (spool / name).glob("*.f32")]
    except (StorageError, OSError) as error:
        logger.warning("session %s: its audio cannot be read: %s", name, error)
        return nothing, None
    return spooled, max(written, default=None)


def _where_to_begin(settled: Samples, spooled: Spooled) -> Samples:
    """Return the start of the frame in which the last final or gap ends, if it was spooled."""
    in_step = Samples(settled // FRAME * FRAME)
    for start, samples in spooled.parts:
        if start <= in_step < start + len(samples):
            return in_step
    return settled


def _after(spooled: Spooled, position: Samples) -> list[tuple[Samples, Float32Array]]:
    return [
        (Samples(max(start, position)), samples[max(0, position - start) :])
        for start, samples in spooled.parts
    ]


def _between(spooled: Spooled, start: Samples, end: Samples) -> Float32Array:
    """Return the samples [start, end), with silence where none were written."""
    wanted = np.zeros(end - start, np.float32)
    for first, samples in spooled.parts:
        low, high = max(first, start), min(first + len(samples), end)
        if low < high:
            wanted[low - start : high - start] = samples[low - first : high - first]
    return wanted


def _warm_up(spooled: Spooled, position: Samples) -> Float32Array:
    for start, samples in spooled.parts:
        if start <= position <= start + len(samples):
            n_samples = (position - start) // FRAME * FRAME
            return samples[position - start - n_samples : position - start]
    return np.zeros(0, np.float32)
