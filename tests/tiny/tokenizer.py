"""Build the embedded model's tokenizer: a byte-level BPE like that of Qwen2, but smaller."""
# ruff: noqa: SIM905 - tokens in one line are easier to read than a column of strings

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)
from vocabulary import ENGLISH

SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPECIAL = (
    "<|endoftext|> <|im_start|> <|im_end|> <|audio_start|> <|audio_end|> <|audio_pad|>"
).split()
MARKERS = ["<asr_text>", "<timestamp>"]  # added but not special, as in the released models
PROMPT_WORDS = ["system", "user", "assistant", "language", " English", " Chinese", " None"]
# The first two bytes of some numerals become one token, others stay three: a character is
# then torn between tokens in two ways.
NUMERAL_PAIRS = [("ä", "¸"), ("ä", "º"), ("å", "ħ")]
MULTIPLE = 32  # of the vocabulary's size


def train_bpe() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Learn merges until every word, with and without a leading space, is one token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    trainer = trainers.BpeTrainer(
        vocab_size=10_000,
        min_frequency=1,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    words = [*PROMPT_WORDS, *ENGLISH, *(f" {word}" for word in ENGLISH)]
    tokenizer.train_from_iterator(words, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    merges = [(left, right) for left, right in model["merges"]] + NUMERAL_PAIRS
    vocabulary = dict(model["vocab"])
    for left, right in NUMERAL_PAIRS:
        vocabulary.setdefault(left + right, len(vocabulary))
    return vocabulary, merges


def build_tokenizer() -> Tokenizer:
    vocabulary, merges = train_bpe()
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in SPECIAL])
    blanks = -(len(vocabulary) + len(SPECIAL) + len(MARKERS)) % MULTIPLE
    others = [*MARKERS, *(f"<blank{index}>" for index in range(blanks))]
    tokenizer.add_tokens([AddedToken(t, normalized=False, special=False) for t in others])
    return tokenizer


def save_tokenizer(directory: Path) -> Tokenizer:
    """Write the tokenizer's files like those of Qwen2.

    Returns:
        The tokenizer.
    """
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer = build_tokenizer()
    tokenizer.save(str(directory / "tokenizer.json"))
    tokenizer.model.save(str(directory))  # vocab.json, merges.txt
    added = {
        str(index): {
            "content": token.content,
            "lstrip": False,
            "normalized": False,
            "rstrip": False,
            "single_word": False,
            "special": token.special,
        }
        for index, token in tokenizer.get_added_tokens_decoder().items()
    }
    config = {
        "add_prefix_space": False,
        "added_tokens_decoder": added,
        "additional_special_tokens": SPECIAL[1:],
        "audio_bos_token": "<|audio_start|>",
        "audio_eos_token": "<|audio_end|>",
        "audio_token": "<|audio_pad|>",
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "errors": "replace",
        "model_max_length": 131072,
        "pad_token": "<|endoftext|>",
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    return tokenizer
