"""Child processes: the encoder, the aligner, and what keeps them alive."""
