"""Make tests/data/golden_paraformer_forms.npz: FunASR's outputs for random weights and features.

.venv-reference/bin/python -m tests.reference.make_paraformer_form_goldens

The weights are not stored: tests/sources/paraformer/weights.py makes them again from the seed.
"""

from dataclasses import replace

import numpy as np

from tests.reference.paraformer import build, stages
from tests.support.paraformer_forms import GOLDEN, GOLDEN_ROWS, GOLDEN_SIZES, features_of


def main() -> None:
    """Write the file."""
    found = stages(build(replace(GOLDEN_SIZES, head="cnn_blstm")), features_of(GOLDEN_ROWS, 0))
    assert found.time_alphas is not None
    np.savez_compressed(
        GOLDEN,
        encoded=found.encoded,
        alphas=found.alphas,
        time_alphas=found.time_alphas,
        acoustic=found.acoustic,
        logits=found.logits,
    )


if __name__ == "__main__":
    main()
