"""Writers of every form in which Qwen3-ASR and Qwen3-ForcedAligner are published.

    weights.py       a checkpoint on disk, read tensor by tensor: where all of them start
    gguf_file.py     GGUF in any type, tensor by tensor
    decoder.py       the LLM as llama.cpp's converter writes it
    onnx_graphs.py   the encoder as the two graphs of the ONNX releases, in four precisions
    onnx_release.py  folders and zips of those graphs with a decoder
    crispasr.py      one GGUF of everything, of two generations of its converter
    ggml_org.py      a text GGUF and its `mmproj`
    safetensors.py   the original checkpoints' key style, shards and types
    foreign.py       files that look like these and are others, or are broken

They know nothing of `streamasr.importing`: each was written from descriptions of the published
files, so that a misreading on either side shows.
"""
