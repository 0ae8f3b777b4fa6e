"""Tokenizers of checkpoints and GGUFs: all forms give the same vocabulary; invalid ones are "
"refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gguf import TokenType

from streamasr.core.errors import ModelError
from streamasr.importing.gguf_file import GGUFFile, read_gguf
from streamasr.importing.qwen3.tokenizer import Vocabulary, read_vocabulary, vocabulary_of
from tests.sources.crispasr import write_crispasr
from tests.sources.ggml_org import write_ggml_org
from tests.support.checkpoints import (
    MERGES,
    byte_alphabet,
    token_id,
    write_checkpoint,
    write_tokenizer,
)
from tests.support.errors import raises

TOKENS = ["a", "b", "ab", "<b>", "<|endoftext|>", "<|im_start|>", "<asr_text>", "[PAD7]"]
MERGES_OF_THEM = ["a b"]


def file_with(**changes: Any) -> GGUFFile:
    """Return a GGUF that contains only a tokenizer; None removes an entry."""
    usual = {"model": "gpt2", "tokens": TOKENS, "merges": MERGES_OF_THEM}
    stated = {f"tokenizer.ggml.{name}": value for name, value in (usual | changes).items()}
    metadata = {name: value for name, value in stated.items() if value is not None}
    return GGUFFile(Path("model.gguf"), "qwen3", metadata, {})


def kinds(vocabulary: Vocabulary) -> list[str]:
    return [kind.name for kind in vocabulary.types]


def test_every_form_gives_the_same_vocabulary(tmp_path: Path) -> None:
    native = write_checkpoint(tmp_path / "native")
    original = write_checkpoint(tmp_path / "original", style="original")
    expected = read_vocabulary(native, n_rows=320)
    assert read_vocabulary(original, n_rows=320) == expected
    crispasr = read_gguf(write_crispasr(native, tmp_path / "c.gguf"))
    assert vocabulary_of(crispasr, 320) == expected
    pair = [read_gguf(path) for path in write_ggml_org(native, tmp_path / "g").iterdir()]
    [text] = (file for file in pair if file.architecture == "qwen3vl")
    assert vocabulary_of(text, 320) == expected


def test_missing_token_types_are_derived_from_position_and_spelling() -> None:
    assert kinds(vocabulary_of(file_with(), 9)) == [
        *["NORMAL"] * 4,  # <b> precedes <|endoftext|>, so it is not an added token
        *["CONTROL"] * 2,
        "USER_DEFINED",
        *["UNUSED"] * 2,
    ]


HASHES = ["#", "a", "b", "##", "ab", "#a", "####", "abab", "######", "<|endoftext|>"]
MERGES_OF_HASHES = ["# #", "a b", "# a", "## ##", "ab ab", "#### ##"]


def test_merges_mistaken_for_comments_are_restored_from_the_tokens() -> None:
    kept = [merge for merge in MERGES_OF_HASHES if not merge.startswith("#")]
    vocabulary = vocabulary_of(file_with(tokens=HASHES, merges=kept), 10)
    assert list(vocabulary.merges) == MERGES_OF_HASHES


@pytest.mark.parametrize(
    ("tokens", "merges"),
    [
        (HASHES, MERGES_OF_HASHES),  # no merge is missing
        (HASHES, ["# #"]),  # other merges are missing, too
        (HASHES, ["ab ab", "a b"]),  # ranks are not ids
        (HASHES, ["a b", "ab ab", "b b"]),  # the result of a merge is not a token
        (["#", "a", "b", "ab", "#?"], ["a b"]),  # a token cannot be formed of others
        (["a", "b", "ab", "#" * 1000], ["a b"]),
    ],
)
def test_other_merges_are_unchanged(tokens: list[str], merges: list[str]) -> None:
    vocabulary = vocabulary_of(file_with(tokens=tokens, merges=merges), len(tokens))
    assert list(vocabulary.merges) == merges


def test_stated_token_types_are_used() -> None:
    stated = [1, 1, 1, 4, 3, 3, 3, 5]
    vocabulary = vocabulary_of(file_with(token_type=stated), 10)
    assert [int(kind) for kind in vocabulary.types] == [*stated, 5, 5]
    assert vocabulary.tokens[8:] == ("[PAD8]", "[PAD9]")


@pytest.mark.parametrize(
    ("changes", "code", "value"),
    [
        ({"model": None}, "tokenizer_type", "None"),
        ({"model": "t5"}, "tokenizer_type", "'t5'"),
        ({"tokens": 3}, "metadata_value", "tokens "),
        ({"tokens": [1, 2]}, "metadata_value", "tokens "),
        ({"tokens": [*TOKENS, *"cd"]}, "vocabulary_too_large", "10 tokens, but only 9 "),
        ({"tokens": ["a", "\ufffd"]}, "vocabulary_not_text", ""),
        ({"tokens": ["a", "b", "a"]}, "token_duplicate", "'a'"),
        ({"tokens": ["[PAD8]"]}, "token_duplicate", "'[PAD8]'"),
        ({"merges": None}, "merges_missing", ""),
        ({"merges": []}, "merges_missing", ""),
        ({"merges": ["a b", "ab"]}, "merge_invalid", "'ab'"),
        ({"merges": [" b"]}, "merge_invalid", "' b'"),
        ({"merges": ["a "]}, "merge_invalid", "'a '"),
        ({"token_type": [1, 1]}, "token_types_invalid", "9 tokens, but 3 types"),
        ({"token_type": [1] * 7 + [99]}, "token_types_invalid", "99"),
        ({"token_type": 3}, "token_types_invalid", ""),
        ({"token_type": ["a"] * 8}, "token_types_invalid", "'a'"),
    ],
)
def test_an_invalid_tokenizer_of_a_gguf_is_refused(
    changes: dict[str, Any], code: str, value: str
) -> None:
    with raises(ModelError, code) as caught:
        vocabulary_of(file_with(**changes), 9)
    assert value in str(caught.value)
    assert str(caught.value).startswith("model.gguf: ")


def test_tokens_of_a_familys_prompt_must_be_present() -> None:
    assert vocabulary_of(file_with(), 9, ["<asr_text>"]).find("<asr_text>") == 6
    with raises(ModelError, "prompt_token_missing") as caught:
        vocabulary_of(file_with(), 9, ["<asr_text>", "<timestamp>"])
    assert "<timestamp>" in str(caught.value)


def released(first_lost: int = 151_643) -> list[str]:
    fillers = range(first_lost, 151_936)
    return [*(f"t{n}" for n in range(first_lost)), *(f"[PAD{n}]" for n in fillers)]


def test_lost_tokens_are_restored_unless_they_have_another_id() -> None:
    tokens = released()
    tokens[7] = "<think>"
    vocabulary = vocabulary_of(file_with(tokens=tokens), 151_936)
    assert vocabulary.tokens[151_643:151_646] == ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    assert vocabulary.tokens[151_667] == "[PAD151667]"
    assert vocabulary.find("<think>") == 7


def test_stated_types_of_lost_tokens_are_ignored() -> None:
    stated = [1] * 151_643 + [5] * 293
    vocabulary = vocabulary_of(file_with(tokens=released(), token_type=stated), 151_936)
    assert vocabulary.types[151_645] == TokenType.CONTROL


def test_a_similar_table_with_another_first_token_is_unchanged() -> None:
    tokens = released()
    tokens[151_643] = "other"
    vocabulary = vocabulary_of(file_with(tokens=tokens), 151_936)
    assert vocabulary.tokens[151_645] == "[PAD151645]"


def added(**changes: Any) -> Callable[[dict[str, Any]], None]:
    def change(tokenizer: dict[str, Any]) -> None:
        tokenizer["added_tokens"][0] |= changes

    return change


def merges(*pairs: Any) -> Callable[[dict[str, Any]], None]:
    def change(tokenizer: dict[str, Any]) -> None:
        tokenizer["model"]["merges"] = list(pairs)

    return change


@pytest.mark.parametrize(
    ("change", "code", "value"),
    [
        (added(id=-1), "merges_invalid", "-1"),
        (added(id="7"), "merges_invalid", "7"),
        (added(content=7), "merges_invalid", "7"),
        (added(content="\ud800"), "vocabulary_not_text", ""),
        (added(id=10**12), "vocabulary_too_large", "1000000000000, but only 320 "),
        (merges(), "merges_missing", ""),
        (merges(["a", "b", "c"]), "merges_invalid", ""),
        (merges(7), "merges_invalid", ""),
        (merges("ab"), "merge_invalid", "'ab'"),
    ],
)
def test_an_invalid_tokenizer_json_is_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], code: str, value: str
) -> None:
    write_tokenizer(tmp_path)
    path = tmp_path / "tokenizer.json"
    tokenizer = json.loads(path.read_text("utf-8"))
    change(tokenizer)
    path.write_text(json.dumps(tokenizer), "utf-8")
    with raises(ModelError, code) as caught:
        read_vocabulary(tmp_path, 320)
    assert value in str(caught.value)


def test_merges_may_be_strings_as_in_older_files(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    path = tmp_path / "tokenizer.json"
    tokenizer = json.loads(path.read_text("utf-8"))
    merges(*MERGES)(tokenizer)
    path.write_text(json.dumps(tokenizer), "utf-8")
    assert read_vocabulary(tmp_path, 320).merges == MERGES


def test_bytes_come_first(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    vocabulary = read_vocabulary(tmp_path, 320)
    assert vocabulary.tokens[:256] == tuple(byte_alphabet())
    assert vocabulary.find("<asr_text>") == token_id("<asr_text>")
    assert vocabulary.find("nothing") is None
