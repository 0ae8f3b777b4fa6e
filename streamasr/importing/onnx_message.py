"""Iteration over the fields of a protobuf message in a file, without reading large ones.

Every length is compared with the rest of the file before anything is read.

Source: protobuf's encoding (https://protobuf.dev/programming-guides/encoding).
"""

import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from streamasr.core.errors import ModelError

_MAX_FIELDS: Final = 1 << 20  # an encoder of 24 layers has about ten thousand
_MAX_PARSED_BYTES: Final = 1 << 16  # for one input, name or attribute
_MAX_ALL_PARSED_BYTES: Final = 1 << 24  # for all of them

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
"""Wire types."""


class Message:
    """Protobuf message in a file, with iteration over a bounded number of fields."""

    def __init__(self, data: mmap.mmap, path: Path) -> None:
        self._data = data
        self.path = path
        self.size = len(data)
        self._n_fields_left = _MAX_FIELDS
        self._n_bytes_left = _MAX_ALL_PARSED_BYTES

    def fields(self, begin: int, end: int) -> Iterator[tuple[int, int, int, int]]:
        """Iterate over the fields of one message.

        Yields:
            Field number, wire type, and the begin and end of the content; for a varint its value
            and -1.
        """
        position = begin
        while position < end:
            self._n_fields_left -= 1
            if self._n_fields_left < 0:
                raise ModelError(
                    f"{self.path} has more than {_MAX_FIELDS:,} fields, the limit for the graph of "
                    "an encoder.",
                    code="graph_too_large",
                )
            tag, position = self._varint(position, end)
            number, wire_type = tag >> 3, tag & 7
            if number == 0:
                raise self.broken()
            match wire_type:
                case 0:
                    value, position = self._varint(position, end)
                    yield number, wire_type, value, -1
                    continue
                case 1 | 5:
                    length = 8 if wire_type == FIXED64 else 4
                case 2:
                    length, position = self._varint(position, end)
                case _:
                    raise self.broken()
            if length > end - position:
                raise self.broken()
            yield number, wire_type, position, position + length
            position += length

    def take(self, begin: int, end: int) -> bytes:
        """Copy a field's content, which must be small."""
        self._n_bytes_left -= end - begin
        if end - begin > _MAX_PARSED_BYTES or self._n_bytes_left < 0:
            raise ModelError(
                f"{self.path}: the names or shapes in the graph exceed {_MAX_PARSED_BYTES:,} bytes "
                f"each or {_MAX_ALL_PARSED_BYTES:,} bytes together.",
                code="graph_too_large",
            )
        return self._data[begin:end]

    def text(self, begin: int, end: int) -> str:
        """Read a field as a string."""
        return self.take(begin, end).decode("utf-8", "replace")

    def long_text(self, begin: int, end: int, most_bytes: int) -> str:
        """Read a field of up to so many bytes as a string."""
        if end - begin > most_bytes:
            raise ModelError(
                f"{self.path}: a text in the graph exceeds {most_bytes:,} bytes.",
                code="graph_too_large",
            )
        return self._data[begin:end].decode("utf-8", "replace")

    def numbers(self, begin: int, end: int) -> Iterator[int]:
        """Iterate over the integers of a packed field."""
        position = begin
        while position < end:
            self._n_fields_left -= 1
            if self._n_fields_left < 0:
                raise self.broken()
            value, position = self._varint(position, end)
            yield value

    def broken(self) -> ModelError:
        """Return the error for a file that cannot be parsed."""
        return ModelError(
            f"{self.path} is not an ONNX graph, or is damaged or cut short; download it again.",
            code="graph_damaged",
        )

    def _varint(self, position: int, end: int) -> tuple[int, int]:
        value = 0
        for shift in range(0, 70, 7):
            if position >= end:
                break
            byte = self._data[position]
            position += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value, position
        raise self.broken()
