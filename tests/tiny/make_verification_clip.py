"""Write the clip for `streamasr models verify`, and its words.

    python make_verification_clip.py ../../streamasr/models/clip

Needs espeak-ng. The words are in the embedded model's vocabulary, and larger models have only one
spelling for them: no numbers, and no words that could be punctuation. The starts of words are those
of espeak-ng; a word ends with its sound, before the next word starts.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import av
import numpy as np
from bank import SAMPLE_RATE, trimmed
from espeak import Espeak, Prosody
from vocabulary import WORD_ID, WORDS

TEXT = "good morning please open the window and play the music thank you"
VOICE = "gmw/en-US"
SILENCE = 0.5  # seconds before and after


def write_flac(path: Path, samples: np.ndarray) -> None:
    """Write (n,) int16 samples."""
    with av.open(str(path), "w", format="flac") as file:
        stream = file.add_stream("flac", rate=SAMPLE_RATE, layout="mono")
        stream.codec_context.format = "s16"
        frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
        frame.sample_rate = SAMPLE_RATE
        for part in (frame, None):
            file.mux(stream.encode(part))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    directory: Path = parser.parse_args().directory
    audio, starts = Espeak().speak(TEXT, VOICE, Prosody(rate=140))
    said = trimmed(audio, tuple(WORD_ID[word] for word in TEXT.split()), starts, VOICE)
    assert said is not None, "espeak-ng ran words together"
    silence = np.zeros(round(SILENCE * SAMPLE_RATE), np.int16)
    write_flac(directory / "clip.flac", np.concatenate([silence, said.audio, silence]))
    facts = {
        "voice": f"espeak-ng {VOICE}",
        "language": "English",
        "text": TEXT,
        "words": [
            {
                "text": WORDS[word],
                "start": round(float(start) + SILENCE, 3),
                "end": round(float(end) + SILENCE, 3),
            }
            for word, (start, end) in zip(said.words, said.times, strict=True)
        ],
    }
    (directory / "clip.json").write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
