import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gguf import TokenType

from streamasr.core.errors import ModelError
from streamasr.importing.gguf_file import GGUFFile, read_gguf
from streamasr.importing.tokenizer import Vocabulary, read_vocabulary, vocabulary_of
from tests.sources.crispasr import write_crispasr
from tests.sources.ggml_org import write_ggml_org
from tests.support.checkpoints import (
    MERGES,
    byte_alphabet,
    token_id,
    write_checkpoint,
    write_tokenizer,
)

TOKENS = ["a", "b", "ab", "<b>", "<|endoftext|>", "<|im_start|>", "<asr_text>", "[PAD7]"]
MERGES_OF_THEM = ["a b"]


def file_with(**facts: Any) -> GGUFFile:
    """A GGUF that is nothing but a tokenizer; None leaves a fact out."""
    usual = {"model": "gpt2", "tokens": TOKENS, "merges": MERGES_OF_THEM}
    stated = {f"tokenizer.ggml.{name}": value for name, value in (usual | facts).items()}
    metadata = {name: value for name, value in stated.items() if value is not None}
    return GGUFFile(Path("model.gguf"), "qwen3", metadata, {})


def kinds(vocabulary: Vocabulary) -> list[str]:
    return [kind.name for kind in vocabulary.types]


def test_the_same_tokenizer_comes_out_of_every_form(tmp_path: Path) -> None:
    native = write_checkpoint(tmp_path / "native")
    original = write_checkpoint(tmp_path / "original", style="original")
    expected = read_vocabulary(native, n_rows=320)
    assert read_vocabulary(original, n_rows=320) == expected
    crispasr = read_gguf(write_crispasr(native, tmp_path / "c.gguf"))
    assert vocabulary_of(crispasr, 320) == expected
    pair = [read_gguf(path) for path in write_ggml_org(native, tmp_path / "g").iterdir()]
    [text] = (file for file in pair if file.architecture == "qwen3vl")
    assert vocabulary_of(text, 320) == expected


def test_kinds_that_a_file_leaves_out_follow_from_place_and_look() -> None:
    assert kinds(vocabulary_of(file_with(), 9)) == [
        *["NORMAL"] * 4,  # an added token is behind <|endoftext|>, <b> is a word like others
        *["CONTROL"] * 2,
        "USER_DEFINED",
        *["UNUSED"] * 2,
    ]


HASHES = ["#", "a", "b", "##", "ab", "#a", "####", "abab", "######", "<|endoftext|>"]
MERGES_OF_HASHES = ["# #", "a b", "# a", "## ##", "ab ab", "#### ##"]


def test_merges_that_were_taken_for_comments_follow_from_the_tokens() -> None:
    kept = [merge for merge in MERGES_OF_HASHES if not merge.startswith("#")]
    vocabulary = vocabulary_of(file_with(tokens=HASHES, merges=kept), 10)
    assert list(vocabulary.merges) == MERGES_OF_HASHES


@pytest.mark.parametrize(
    ("tokens", "merges"),
    [
        (HASHES, MERGES_OF_HASHES),  # nothing is lost
        (HASHES, ["# #"]),  # more than those are
        (HASHES, ["ab ab", "a b"]),  # ranks are not ids
        (HASHES, ["a b", "ab ab", "b b"]),  # a merge makes what is no token
        (["#", "a", "b", "ab", "#?"], ["a b"]),  # a token is made of nothing
        (["a", "b", "ab", "#" * 1000], ["a b"]),
    ],
)
def test_other_merges_stay_as_they_are(tokens: list[str], merges: list[str]) -> None:
    vocabulary = vocabulary_of(file_with(tokens=tokens, merges=merges), len(tokens))
    assert list(vocabulary.merges) == merges


def test_kinds_that_a_file_states_are_believed() -> None:
    stated = [1, 1, 1, 4, 3, 3, 3, 5]
    vocabulary = vocabulary_of(file_with(token_type=stated), 10)
    assert [int(kind) for kind in vocabulary.types] == [*stated, 5, 5]
    assert vocabulary.tokens[8:] == ("[PAD8]", "[PAD9]")


@pytest.mark.parametrize(
    ("facts", "sentence"),
    [
        ({"model": None}, "the tokenizer is None, not byte-level BPE"),
        ({"model": "t5"}, "the tokenizer is 't5', not byte-level BPE"),
        ({"tokens": 3}, "tokens must be a list of texts"),
        ({"tokens": [1, 2]}, "tokens must be a list of texts"),
        ({"tokens": [*TOKENS, *"cd"]}, "10 tokens have only 9 embeddings"),
        ({"tokens": ["a", "\ufffd"]}, "not UTF-8 throughout"),
        ({"tokens": ["a", "b", "a"]}, "token 'a' has two ids"),
        ({"tokens": ["[PAD8]"]}, "token '.PAD8.' has two ids"),
        ({"merges": None}, "has no merges"),
        ({"merges": []}, "has no merges"),
        ({"merges": ["a b", "ab"]}, "'ab' is not a merge of two tokens"),
        ({"merges": [" b"]}, "' b' is not a merge of two tokens"),
        ({"merges": ["a "]}, "'a ' is not a merge of two tokens"),
        ({"token_type": [1, 1]}, "9 tokens have 3 kinds"),
        ({"token_type": [1] * 7 + [99]}, "token_type is not as expected"),
        ({"token_type": 3}, "token_type is not as expected"),
        ({"token_type": ["a"] * 8}, "token_type is not as expected"),
    ],
)
def test_a_broken_tokenizer_of_a_gguf_is_named(facts: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ModelError, match=rf"model\.gguf: .*{sentence}"):
        vocabulary_of(file_with(**facts), 9)


def test_tokens_that_a_family_needs_must_be_there() -> None:
    assert vocabulary_of(file_with(), 9, ["<asr_text>"]).find("<asr_text>") == 6
    with pytest.raises(ModelError, match=r"no token <timestamp>, .* get a newer one"):
        vocabulary_of(file_with(), 9, ["<asr_text>", "<timestamp>"])


def released(first_lost: int = 151_643) -> list[str]:
    fillers = range(first_lost, 151_936)
    return [*(f"t{n}" for n in range(first_lost)), *(f"[PAD{n}]" for n in fillers)]


def test_lost_tokens_come_back_unless_they_are_elsewhere() -> None:
    tokens = released()
    tokens[7] = "<think>"
    vocabulary = vocabulary_of(file_with(tokens=tokens), 151_936)
    assert vocabulary.tokens[151_643:151_646] == ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    assert vocabulary.tokens[151_667] == "[PAD151667]"
    assert vocabulary.find("<think>") == 7


def test_kinds_of_lost_tokens_are_not_believed() -> None:
    stated = [1] * 151_643 + [5] * 293
    vocabulary = vocabulary_of(file_with(tokens=released(), token_type=stated), 151_936)
    assert vocabulary.types[151_645] == TokenType.CONTROL


def test_a_table_that_only_looks_alike_is_left_alone() -> None:
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
    ("change", "sentence"),
    [
        (added(id=-1), "merges or added tokens are not as expected"),
        (added(id="7"), "merges or added tokens are not as expected"),
        (added(content=7), "merges or added tokens are not as expected"),
        (added(content="\ud800"), "tokens or merges are not text"),
        (added(id=10**12), "token 1000000000000 has no row among 320 embeddings"),
        (merges(), "has no merges"),
        (merges(["a", "b", "c"]), "merges or added tokens are not as expected"),
        (merges(7), "merges or added tokens are not as expected"),
        (merges("ab"), "'ab' is not a merge of two tokens"),
    ],
)
def test_a_strange_tokenizer_json_is_named(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], sentence: str
) -> None:
    write_tokenizer(tmp_path)
    path = tmp_path / "tokenizer.json"
    tokenizer = json.loads(path.read_text("utf-8"))
    change(tokenizer)
    path.write_text(json.dumps(tokenizer), "utf-8")
    with pytest.raises(ModelError, match=sentence):
        read_vocabulary(tmp_path, 320)


def test_older_merges_are_texts(tmp_path: Path) -> None:
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
