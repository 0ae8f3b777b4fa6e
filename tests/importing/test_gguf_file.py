import os
import re
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type
from hypothesis import given, settings
from hypothesis import strategies as st

from streamasr.core.errors import ModelError
from streamasr.importing.gguf_file import GGUFFile, describe, is_speech_decoder, read_gguf
from tests.sources import foreign
from tests.sources.ggml_org import write_ggml_org
from tests.support.checkpoints import write_checkpoint

RNG = np.random.default_rng(5)

_CODES: Final = {"u8": 0, "u32": 4, "i32": 5, "f32": 6, "bool": 7, "str": 8, "u64": 10, "f64": 12}
_FORMATS: Final = {"u8": "<B", "u32": "<I", "i32": "<i", "f32": "<f", "u64": "<Q", "f64": "<d"}


@dataclass(frozen=True)
class Fact:
    """A value of a chosen type; the type of an array's elements is "[str]" and so on."""

    kind: str
    value: Any


def text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(data)) + data


def packed(kind: str, value: Any) -> bytes:
    match kind:
        case "str":
            return text(value)
        case "bool":
            return bytes([value])
        case _:
            return struct.pack(_FORMATS[kind], value)


def fact(name: str | bytes, fact: Fact) -> bytes:
    if not fact.kind.startswith("["):
        return text(name) + struct.pack("<I", _CODES[fact.kind]) + packed(fact.kind, fact.value)
    kind = fact.kind.strip("[]")
    items = b"".join(packed(kind, item) for item in fact.value)
    return text(name) + struct.pack("<IIQ", 9, _CODES[kind], len(fact.value)) + items


def tensor(name: str | bytes, sizes: Sequence[int], kind: int = 0, offset: int = 0) -> bytes:
    """A tensor's entry; `sizes` are ggml's, rows last."""
    shape = struct.pack(f"<I{len(sizes)}Q", len(sizes), *sizes)
    return text(name) + shape + struct.pack("<IQ", kind, offset)


def build(
    facts: Mapping[str, Fact] | None = None,
    tensors: Sequence[bytes] = (),
    data: bytes = b"",
    *,
    version: int = 3,
    alignment: int = 32,
) -> bytes:
    facts = facts or {}
    header = struct.pack("<4sIQQ", b"GGUF", version, len(tensors), len(facts))
    header += b"".join(fact(name, value) for name, value in facts.items()) + b"".join(tensors)
    return header + b"\0" * (-len(header) % alignment) + data


ARCHITECTURE = {"general.architecture": Fact("str", "qwen3asr")}
EVERY_KIND = ARCHITECTURE | {
    "small": Fact("u8", 200),
    "signed": Fact("i32", -5),
    "large": Fact("u64", 1 << 63),
    "ratio": Fact("f32", 0.5),
    "precise": Fact("f64", 0.1),
    "claim": Fact("bool", True),
    "name": Fact("str", "café 中文"),
    "words": Fact("[str]", ["a", "", "é"]),
    "numbers": Fact("[i32]", [1, -2, 3]),
    "claims": Fact("[bool]", [True, False]),
    "none": Fact("[str]", []),
}
VALUES = RNG.normal(size=(3, 4)).astype(np.float32)
SOUND = build(
    EVERY_KIND,
    [tensor("one.weight", (4, 3)), tensor("two.bias", (5,), kind=1, offset=64)],
    VALUES.tobytes().ljust(64, b"\0") + np.arange(5, dtype=np.float16).tobytes(),
)
HEADER_BYTES = len(SOUND) - 64 - 10


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gguf") / "x.gguf"


@pytest.fixture
def read(scratch: Path) -> Callable[[bytes], GGUFFile]:
    return lambda data: read_bytes(scratch, data)


Read = Callable[[bytes], GGUFFile]


def read_bytes(path: Path, data: bytes) -> GGUFFile:
    path.write_bytes(data)
    return read_gguf(path)


def test_facts_of_every_kind_are_read(read: Read) -> None:
    file = read(SOUND)
    assert file.architecture == "qwen3asr"
    assert file.metadata["ratio"] == 0.5
    for name, stated in EVERY_KIND.items():
        assert file.metadata[name] == stated.value
        assert type(file.metadata[name]) is type(stated.value)


def test_tensors_have_the_shapes_that_numpy_gives_them(read: Read) -> None:
    one, two = read(SOUND).tensors.values()
    assert (one.name, one.stored_type, one.shape) == ("one.weight", "F32", (3, 4))
    assert np.array_equal(one.stored(), VALUES)
    assert np.array_equal(one.float32(), VALUES)
    assert np.array_equal(one.rows(1, 3), VALUES[1:])
    assert (two.stored_type, two.stored().dtype.name, two.shape) == ("F16", "float16", (5,))
    assert two.float32().tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("alignment", [1, 8, 64])
def test_any_alignment_is_followed(read: Read, version: int, alignment: int) -> None:
    facts = ARCHITECTURE | {"general.alignment": Fact("u32", alignment)}
    data = build(
        facts, [tensor("a", (4, 3))], VALUES.tobytes(), version=version, alignment=alignment
    )
    assert np.array_equal(read(data).tensors["a"].stored(), VALUES)


def test_bytes_that_are_not_utf_8_cost_a_character_not_the_file(read: Read) -> None:
    facts = {"general.name": Fact("str", b"caf\xe9"), "words": Fact("[str]", [b"\xff", "b"])}
    metadata = read(build(ARCHITECTURE | facts)).metadata
    assert metadata["general.name"] == "caf\ufffd"
    assert metadata["words"] == ["\ufffd", "b"]


@pytest.mark.parametrize("kind", [Type.Q4_0, Type.Q8_0, Type.Q5_1, Type.BF16, Type.F16, Type.F32])
def test_types_are_dequantised_as_the_gguf_package_does(tmp_path: Path, kind: Type) -> None:
    values = RNG.normal(size=(6, 64)).astype(np.float32)
    stored = gguf.quants.quantize(values, kind)
    writer = gguf.GGUFWriter(tmp_path / "t.gguf", "qwen3asr")
    writer.add_tensor("a.weight", stored, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    ours = read_gguf(tmp_path / "t.gguf").tensors["a.weight"]
    assert (ours.shape, ours.stored_type) == ((6, 64), kind.name)
    assert ours.stored().tobytes() == stored.tobytes()
    expected = gguf.quants.dequantize(stored, kind)
    assert ours.float32().dtype == np.float32
    assert np.array_equal(ours.float32(), expected)
    assert np.array_equal(ours.rows(2, 4), expected[2:4])


@pytest.mark.parametrize("kind", [24, 27, 28, 15])
def test_numbers_that_are_no_weights_are_not_dequantised(read: Read, kind: int) -> None:
    block, n_bytes = gguf.GGML_QUANT_SIZES[Type(kind)]
    file = read(build(ARCHITECTURE, [tensor("a", (block,), kind)], b"\0" * n_bytes))
    assert file.tensors["a"].stored().nbytes == n_bytes
    with pytest.raises(ModelError, match=f"a is stored as {Type(kind).name}"):
        file.tensors["a"].float32()


def test_trailing_axes_of_one_can_be_taken_off(read: Read) -> None:
    data = build(ARCHITECTURE, [tensor("a.bias", (1, 1, 12))], VALUES.tobytes())
    bias = read(data).tensors["a.bias"]
    assert bias.shape == (12, 1, 1)
    assert np.array_equal(bias.squeezed().float32(), VALUES.ravel())


def test_what_the_gguf_package_reads_is_read_alike(tmp_path: Path) -> None:
    directory = write_ggml_org(write_checkpoint(tmp_path / "c"), tmp_path / "g")
    for path in directory.iterdir():
        ours, theirs = read_gguf(path), gguf.GGUFReader(path)
        fields = {name: field.contents() for name, field in theirs.fields.items()}
        assert {n: v for n, v in fields.items() if not n.startswith("GGUF.")} == ours.metadata
        assert [tensor.name for tensor in theirs.tensors] == list(ours.tensors)
        for tensor in theirs.tensors:
            assert tensor.shape.tolist()[::-1] == list(ours.tensors[tensor.name].shape)
            assert np.array_equal(tensor.data, ours.tensors[tensor.name].stored())


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "this is not a GGUF file"),
        (b"GGU", "this is not a GGUF file"),
        (b"PK\3\4" + bytes(60), "this is not a GGUF file"),
        (b"GGUF", "ends within its header"),
        (build(version=1), "version 1; versions 2 and 3"),
        (build(version=4), "version 4; versions 2 and 3"),
        (build(version=3 << 24), "big-endian; a little-endian one"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1 << 62, 0), "more entries than any model's"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1 << 62), "more entries than any model's"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 60_000), "ends within its header"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1 << 63) + bytes(99), "ends within its header"),
        (build({}, [tensor("a", (1, 1, 1, 1, 1))]), "a' has 5 axes"),
        (build({}, [tensor("a", (4,), kind=4)]), "a' has a type that is not known here"),
        (build({}, [tensor("a", (4,), kind=999)]), "a' has a type that is not known here"),
        (build({}, [tensor("a", (4, 0))]), r"cannot be F32 with a shape of \(0, 4\)"),
        (build({}, [tensor("a", (48,), kind=8)]), r"cannot be Q8_0 with a shape of \(48,\)"),
        (build({}, [tensor("a", (1 << 62, 1 << 62))]), r"cut short, [0-9,]+ bytes are missing"),
        (build({}, [tensor("a", (4, 3))], bytes(41)), "cut short, 7 bytes are missing"),
        (build({}, [tensor("a", (4,), offset=32)], bytes(64)), "broken, a is not in its place"),
        (
            build({}, [tensor("a", (4,)), tensor("b", (4,))], bytes(64)),
            "broken, b is not in its place",
        ),
        (
            build({}, [tensor("a", (4,)), tensor("a", (4,), offset=32)], bytes(64)),
            "tensor a is there twice",
        ),
        (build({}, [tensor(b"\xff", (4,))], bytes(64)), "a tensor has a name that is not UTF-8"),
        (build({b"\xff": Fact("u8", 1)}), "an entry of its header has a name"),  # type: ignore[dict-item]
        (build({"general.architecture": Fact("u8", 1)}), "general.architecture must be a text"),
        (build({"general.alignment": Fact("u32", 0)}), "alignment must be a power of two, not 0"),
        (build({"general.alignment": Fact("u32", 48)}), "alignment must be a power of two, not 48"),
        (build({"general.alignment": Fact("str", "32")}), "alignment must be a power of two"),
    ],
)
def test_a_broken_file_is_named_in_a_sentence(read: Read, data: bytes, sentence: str) -> None:
    with pytest.raises(ModelError, match=sentence) as caught:
        read(data)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_the_same_fact_twice_is_refused(read: Read) -> None:
    twice = struct.pack("<4sIQQ", b"GGUF", 3, 0, 2) + 2 * fact("a", Fact("u8", 1))
    with pytest.raises(ModelError, match="has a twice"):
        read(twice)


@pytest.mark.parametrize("kind", [9, 13, 0xFFFFFFFF])
def test_arrays_of_arrays_and_unknown_types_are_refused(read: Read, kind: int) -> None:
    entry = text("deep") + struct.pack("<IIQ", 9, kind, 1) + bytes(99)
    with pytest.raises(ModelError, match="'deep' has a type that GGUF does not have"):
        read(struct.pack("<4sIQQ", b"GGUF", 3, 0, 1) + entry)


@pytest.mark.parametrize("kind", ["str", "u8", "u64"])
def test_a_huge_claim_takes_no_memory(read: Read, kind: str) -> None:
    for count in (1 << 21, 1 << 40, (1 << 64) - 1):
        entry = text("many") + struct.pack("<IIQ", 9, _CODES[kind], count) + bytes(99)
        with pytest.raises(ModelError, match=r"ends within its header|more entries"):
            read(struct.pack("<4sIQQ", b"GGUF", 3, 0, 1) + entry)


def test_a_header_without_end_is_refused(scratch: Path) -> None:
    """A file with a hole in it takes no space, and may be as large as it likes."""
    with scratch.open("wb") as file:
        file.write(struct.pack("<4sIQQ", b"GGUF", 3, 0, 1) + text("general.name"))
        file.write(struct.pack("<IQ", 8, 1 << 33))
        file.truncate(1 << 34)
    with pytest.raises(ModelError, match="header is longer than any model's"):
        read_gguf(scratch)
    with scratch.open("wb") as file:
        file.write(struct.pack("<4sIQQ", b"GGUF", 3, 0, 1) + text("words"))
        file.write(struct.pack("<IIQ", 9, 8, 1 << 30))
        file.truncate(1 << 34)
    with pytest.raises(ModelError, match="more entries than any model's"):
        read_gguf(scratch)
    scratch.unlink()


def test_what_is_no_file_is_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ModelError, match="this is not a file"):
        read_gguf(tmp_path / "pipe")
    with pytest.raises(ModelError, match="this is not a file"):
        read_gguf(tmp_path)
    with pytest.raises(ModelError, match="there is no such file"):
        read_gguf(tmp_path / "missing")
    with pytest.raises(ModelError, match="cannot be read"):
        read_gguf(tmp_path / ("x" * 300))


def survey(path: Path) -> None:
    """All that a file says, and every tensor of it."""
    try:
        file = read_gguf(path)
        assert describe(file)
    except ModelError:
        return
    for tensor in file.tensors.values():
        assert tensor.stored().nbytes == tensor.n_bytes


@given(length=st.integers(0, len(SOUND) - 1))
@settings(deadline=None, max_examples=150)
def test_a_file_cut_anywhere_is_refused(scratch: Path, length: int) -> None:
    with pytest.raises(ModelError) as caught:
        read_bytes(scratch, SOUND[:length])
    if length >= HEADER_BYTES:
        assert f"{len(SOUND) - length:,} bytes are missing" in str(caught.value)


@given(
    changes=st.lists(
        st.tuples(
            st.integers(0, HEADER_BYTES - 9),
            st.one_of(
                st.binary(min_size=1, max_size=8),
                st.integers(0, 63).map(lambda shift: struct.pack("<Q", 1 << shift)),
                st.integers(0, 14).map(lambda kind: struct.pack("<I", kind)),
            ),
        ),
        min_size=1,
        max_size=4,
    )
)
@settings(deadline=None, max_examples=400)
@pytest.mark.process
def test_bytes_changed_in_the_header_are_refused_or_harmless(
    scratch: Path, changes: list[tuple[int, bytes]]
) -> None:
    data = bytearray(SOUND)
    for place, change in changes:
        data[place : place + len(change)] = change
    scratch.write_bytes(data)
    survey(scratch)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> dict[str, GGUFFile]:
    directory = tmp_path_factory.mktemp("pair")
    write_ggml_org(write_checkpoint(directory / "c"), directory / "g")
    files = [read_gguf(path) for path in (directory / "g").iterdir()]
    return {file.architecture: file for file in files}


def test_facts_are_fetched_by_type(read: Read) -> None:
    file = read(SOUND)
    assert (file.integer("small"), file.integer("missing", 7)) == (200, 7)
    assert (file.number("precise"), file.number("small")) == (0.1, 200)
    assert file.text("missing", "small", "name") == "café 中文"
    assert file.text("missing") is None
    assert (file.texts("words"), file.texts("none"), file.texts("no")) == (["a", "", "é"], [], [])
    for name in ("claim", "signed", "large", "ratio", "name", "words"):
        with pytest.raises(ModelError, match=f"{name} must be a positive number"):
            file.integer(name)
    for name in ("signed", "name", "words"):
        with pytest.raises(ModelError, match=f"{name} must be a positive number"):
            file.number(name)
    for name in ("numbers", "name", "small"):
        with pytest.raises(ModelError, match=f"{name} must be a list of texts"):
            file.texts(name)
    with pytest.raises(ModelError, match="missing is missing from this GGUF"):
        file.integer("missing")
    file.only("small", 200)
    file.only("missing", 1)
    with pytest.raises(ModelError, match="small = 200 is not supported"):
        file.only("small", 199)


@pytest.mark.parametrize(
    ("facts", "sentence"),
    [
        ({}, "does not say what model it is"),
        ({"general.architecture": Fact("str", "qwen3-asr")}, r"dialect of qwen3-asr\.cpp"),
        ({"general.architecture": Fact("str", "qwen3")}, "for text .qwen3. without the tokens"),
        ({"general.architecture": Fact("str", "qwen3vl")}, "for text .qwen3vl. without the tokens"),
        (
            {"general.architecture": Fact("str", "clip")},
            r"encoder \(mmproj\) of another model, for images",
        ),
        (
            {
                "general.architecture": Fact("str", "clip"),
                "clip.audio.projector_type": Fact("str", "ultravox"),
            },
            "with the projector ultravox",
        ),
        ({"general.architecture": Fact("str", "canary_ctc")}, r"CTC model \(canary_ctc\)"),
        ({"general.architecture": Fact("str", "wav2vec2")}, r"CTC model \(wav2vec2\)"),
        ({"general.architecture": Fact("str", "parakeet")}, "architecture parakeet, not a Qwen3"),
        ({"general.architecture": Fact("str", "a\nb" * 50)}, r"architecture a\?ba\?b"),
        (ARCHITECTURE | {"general.type": Fact("str", "adapter")}, "no model but its adapter"),
        (ARCHITECTURE | {"split.count": Fact("u32", 3)}, "llama-gguf-split --merge"),
    ],
)
def test_a_file_of_no_use_is_described_by_its_content(
    read: Read, facts: dict[str, Fact], sentence: str
) -> None:
    described = describe(read(build(facts)))
    assert re.search(sentence, described), described
    assert "\n" not in described


@pytest.mark.parametrize(
    ("tokens", "is_one"),
    [
        (["<|audio_start|>", "<asr_text>"], True),
        (["<|audio_start|>", "<timestamp>"], True),
        (["<|audio_start|>"], False),
        (["<asr_text>", "<timestamp>"], False),
    ],
)
def test_a_recognisers_or_an_aligners_tokens_make_a_decoder_of_speech(
    read: Read, tokens: list[str], *, is_one: bool
) -> None:
    file = read(build({"tokenizer.ggml.tokens": Fact("[str]", tokens)}))
    assert is_speech_decoder(file) == is_one


def test_half_of_a_pair_is_described(pair: dict[str, GGUFFile]) -> None:
    assert "encoder of a Qwen3-ASR without its language model" in describe(pair["clip"])
    assert "language model of a Qwen3-ASR without its encoder" in describe(pair["qwen3vl"])


def test_files_that_are_about_are_described(tmp_path: Path) -> None:
    dialect = describe(read_gguf(foreign.write_predict_woo(tmp_path / "p.gguf")))
    assert "models pull qwen3-asr-0.6b" in dialect
    aligner = describe(read_gguf(foreign.write_ctc_aligner(tmp_path / "a.gguf")))
    assert "models pull qwen3-aligner-0.6b" in aligner
    vision = describe(read_gguf(foreign.write_vision_projector(tmp_path / "v.gguf")))
    assert "a Qwen3-ASR's has the projector qwen3a" in vision


def test_a_file_that_vanishes_or_shrinks_is_named(scratch: Path, read: Read) -> None:
    tensor = read(SOUND).tensors["one.weight"]
    scratch.write_bytes(SOUND[:-60])
    with pytest.raises(ModelError, match="removed or cut while it was read"):
        tensor.float32()
    scratch.unlink()
    with pytest.raises(ModelError, match="removed or cut while it was read"):
        tensor.stored()


def test_a_large_vocabulary_is_read_in_a_moment(scratch: Path) -> None:
    words = [f"token{number}" for number in range(152_000)]
    facts = ARCHITECTURE | {"tokens": Fact("[str]", words), "types": Fact("[i32]", range(152_000))}
    scratch.write_bytes(build(facts))
    file = read_gguf(scratch)
    assert file.texts("tokens") == words
    assert file.metadata["types"][-1] == 151_999
