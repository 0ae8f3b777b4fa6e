"""Make tests/data/golden_ct_punc.json: texts, their classes and their text with marks, by funasr.

.venv-reference/bin/python -m tests.reference.make_ct_punc_goldens

The weights are random and not stored: tests/sources/ct_punc.py makes them again from the seed.
"""

import json
from dataclasses import asdict
from typing import Any

import funasr
import torch

from tests.reference.ct_punc import NO_END, SHAPES, infer, random_text, reference
from tests.sources.ct_punc import MARKS, WORDS, random_weights
from tests.support.paths import TESTS

PATH = TESTS / "data" / "golden_ct_punc.json"


def main() -> None:
    """Write the file."""
    cases: list[dict[str, Any]] = []
    for i, shape in enumerate(SHAPES):
        for n_words, rare in [(1, ()), (7, ()), (20, ()), (53, (0,)), (260, NO_END)]:
            seed = 100 * i + n_words
            weights = random_weights(shape, len(WORDS), len(MARKS), seed, rare=rare)
            text = random_text(n_words, seed)
            marked, classes = infer(reference(weights, shape), text)
            known = {"shape": asdict(shape), "seed": seed, "rare": [*rare], "text": text}
            cases.append(known | {"classes": classes, "marked": marked})
    made = {"funasr": funasr.__version__, "torch": torch.__version__, "cases": cases}
    PATH.write_text(json.dumps(made, ensure_ascii=False, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
