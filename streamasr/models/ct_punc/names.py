"""Name of the family, and of the files in its bundles."""

from typing import Final

FAMILY_NAME: Final = "ct-punc"

MODEL_FILE: Final = "model.onnx"
TOKENS_FILE: Final = "tokens.json"
"""JSON list of all words of the vocabulary; the index is the identifier."""

SEGMENTATION_FILE: Final = "segmentation.txt"
"""Words of Chinese with their frequencies, for a vocabulary that consists of words."""

SEGMENTED: Final = "segmented"
"""Fact of a bundle: true if its vocabulary consists of words, and not of characters."""

REALTIME: Final = "realtime"
"""Fact of a bundle: true if its graph takes attention masks, as FunASR's realtime models do."""

UNKNOWN: Final = "<unk>"
NO_MARK: Final = "_"
COMMA: Final = "，"
PERIOD: Final = "。"
QUESTION: Final = "？"
PAUSE: Final = "、"
MARKS: Final = frozenset({COMMA, PERIOD, QUESTION, PAUSE})
"""Classes that are written; any other one means no mark."""
