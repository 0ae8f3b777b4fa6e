"""Dictation engine that runs on your own machine.

A sample travels one way: audio **blocks** -> VAD **frames** -> **chunks** of a **segment** ->
features -> encoder **embeddings** -> decoder **tokens** -> **hypothesis** -> **partial** or
**final** -> reader; the aligner adds word times to a final afterwards. Three processes: encoder,
main (session, decoder), aligner.
"""

__version__ = "0.1.0"
