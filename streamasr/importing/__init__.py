"""Conversion of published model files into the model directories that streamasr runs.

    source.py                  identifies the form of the files, by content
    safetensors_checkpoint.py  folders of safetensors  ┐
    crispasr.py                CrispASR's single GGUF   ├─> checkpoint.py, one normal form
    projector.py               text GGUF and mmproj    ┘
    release.py                 ONNX graphs with a GGUF, used as they are
    archive.py                 zips of any of them

    graphs.py       encoder weights -> two ONNX graphs
    gguf_writer.py  LLM weights and tokenizer -> GGUF
    tokenizer.py    the vocabulary as a GGUF stores it
    quantize.py     q8_0 and q4_k GGUF
    pack.py         everything together: a model directory
    atomic.py       directories that are created or removed atomically
    origin.py       identity of a source, to detect its changes

    gguf_file.py, onnx_file.py, safetensors_file.py, config_file.py  parse the files themselves
    onnx_message.py  iterates over protobuf fields
    gguf_kind.py     identifies a GGUF

Torch is not needed: weights are read from a file and written to another, tensor by tensor. The
user's files are only read. The engine does not import this package; it runs the directories that
are written here.
"""
