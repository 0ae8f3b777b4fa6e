"""espeak-ng through its C library: samples and the positions of words in them."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import soxr

SAMPLE_RATE = 16_000
_SYNCHRONOUS, _UTF8 = 2, 1
_RATE, _PITCH, _RANGE = 1, 3, 4
_EVENT_END, _EVENT_WORD = 0, 1


class _Event(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),  # ms
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", ctypes.c_void_p),
    ]


_Callback = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event)
)


@dataclass(frozen=True, slots=True)
class Prosody:
    """Prosody of an utterance: words per minute (80..450), pitch and range (0..99)."""

    rate: int = 175
    pitch: int = 50
    range: int = 50


class Espeak:
    """espeak-ng engine; the library allows one per process."""

    def __init__(self) -> None:
        self._lib = ctypes.CDLL("libespeak-ng.so.1")
        self._rate = self._lib.espeak_Initialize(_SYNCHRONOUS, 0, None, 0)
        if self._rate <= 0:
            raise RuntimeError("espeak-ng did not start")
        self._blocks: list[npt.NDArray[np.int16]] = []
        self._word_starts: list[float] = []
        self._callback = _Callback(self._receive)  # referenced here, because C keeps only a pointer
        self._lib.espeak_SetSynthCallback(self._callback)

    def _receive(self, samples, n_samples, events) -> int:  # type: ignore[no-untyped-def]
        if samples and n_samples:
            self._blocks.append(np.ctypeslib.as_array(samples, (n_samples,)).copy())
        index = 0
        while events[index].type != _EVENT_END:
            if events[index].type == _EVENT_WORD:
                self._word_starts.append(events[index].audio_position / 1000)
            index += 1
        return 0

    def speak(
        self, text: str, voice: str, prosody: Prosody
    ) -> tuple[npt.NDArray[np.float32], list[float]]:
        """Synthesise a text.

        Returns:
            (n,) samples at SAMPLE_RATE, -1..1, and each word's start in seconds.
        """
        if self._lib.espeak_SetVoiceByName(voice.encode()) != 0:
            raise ValueError(f"espeak-ng has no voice {voice}")
        for parameter, value in (
            (_RATE, prosody.rate),
            (_PITCH, prosody.pitch),
            (_RANGE, prosody.range),
        ):
            self._lib.espeak_SetParameter(parameter, value, 0)
        self._blocks, self._word_starts = [], []
        data = text.encode()
        self._lib.espeak_Synth(data, len(data) + 1, 0, 1, 0, _UTF8, None, None)
        self._lib.espeak_Synchronize()
        if not self._blocks:
            return np.zeros(0, np.float32), []
        audio = np.concatenate(self._blocks).astype(np.float32) / 32768
        return soxr.resample(audio, self._rate, SAMPLE_RATE), list(self._word_starts)
