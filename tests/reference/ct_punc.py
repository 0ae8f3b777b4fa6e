"""The CTTransformer of funasr with given weights."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from funasr.models.ct_transformer.model import CTTransformer
from funasr.models.ct_transformer_streaming.encoder import SANMVadEncoder
from funasr.models.ct_transformer_streaming.model import CTTransformerStreaming
from funasr.models.sanm.encoder import SANMEncoder
from funasr.tokenizer.char_tokenizer import CharTokenizer

from tests.sources.ct_punc import MARKS, WORDS, Shape, Weights

SHAPES: Final = [
    Shape(),
    Shape(width=24, hidden=16, heads=2, blocks=2, kernel=7),
    Shape(width=32, hidden=32, heads=8, inner=48, blocks=4),
]
NO_END = (0, 3, 4)
"""Classes of a text without an end of a sentence."""


def reference(
    weights: Weights, shape: Shape, *, realtime: bool = False, dictionary: Path | None = None
) -> Any:
    """funasr's model with these weights, and with words for jieba."""
    kind = CTTransformerStreaming if realtime else CTTransformer
    model = kind(
        encoder=(SANMVadEncoder if realtime else SANMEncoder).__name__,
        encoder_conf={
            "input_size": shape.width, "output_size": shape.hidden, "attention_heads": shape.heads,
            "linear_units": shape.inner, "num_blocks": shape.blocks, "kernel_size": shape.kernel,
            "input_layer": "pe", "sanm_shfit": 0,
        },
        vocab_size=len(weights["embed.weight"]),
        punc_list=list(MARKS),
        embed_unit=shape.width,
        att_unit=shape.hidden,
        sentence_end_id=3,
        jieba_usr_dict=dictionary and str(dictionary),
    )  # fmt: skip
    model.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
    return model.eval()


def infer(
    model: Any, text: str, words: Sequence[str] = WORDS, **others: Any
) -> tuple[str, list[int]]:
    """The text with marks, and the class of each word."""
    tokenizer = CharTokenizer(token_list=list(words))
    with torch.no_grad():
        [result], _ = model.inference(
            [text], key=["k"], tokenizer=tokenizer, device="cpu", **others
        )
    return result["text"], result["punc_array"].tolist()  # of a realtime model, the last window's


def random_text(n_words: int, seed: int) -> str:
    """Chinese with English words in between, some of them unknown."""
    words = [*WORDS[3:-1], "蛇", "zebra"]
    chosen = np.random.RandomState(seed).choice(words, n_words, p=_weights_of(words))
    return "".join(f" {word} " if word.isascii() else word for word in chosen).replace("  ", " ")


def _weights_of(words: list[str]) -> np.ndarray[Any, Any]:
    p = np.array([0.4 if word.isascii() else 1.0 for word in words])
    return p / p.sum()
