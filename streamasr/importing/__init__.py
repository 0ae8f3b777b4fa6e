"""Conversion of published model files into the model directories that streamasr runs.

    source.py         identifies the models under a path, by content
    forms.py          list of the families; their folders read the forms and write the files
    ct_punc/          ct-punc, which punctuates
    qwen3/            Qwen3-ASR and Qwen3-ForcedAligner
    bundle_source.py  model directories of our own
    archive.py        zips of any of them

    model_source.py   interface of what source.py finds
    pack.py           writes a model directory
    bundle_writer.py  stores files in it
    options.py        its requested properties
    atomic.py         directories that are created or removed atomically
    origin.py         identity of a source, to detect its changes

    graph_writer.py   writes ONNX graphs from weights
    quantize.py       int8 weights; q8_0 and q4_k GGUF
    tensors.py        interface of tensors that stay in their file

    gguf_file.py, onnx_file.py, safetensors_file.py, config_file.py  parse the files themselves
    onnx_message.py   iterates over protobuf fields
    gguf_kind.py      identifies a GGUF
    decoder_file.py   facts about a language model's GGUF

Torch is not needed: weights are read from a file and written to another, tensor by tensor. The
user's files are only read. The engine does not import this package; it runs the directories that
are written here.
"""
