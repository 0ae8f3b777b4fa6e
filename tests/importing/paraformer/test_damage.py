"""Files of Paraformers that are damaged, incomplete, of other models, or the streaming variant."""

import json
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from streamasr.core.errors import ModelError
from streamasr.importing.gguf_file import GGUFFile, read_gguf
from streamasr.importing.pack import import_model
from streamasr.importing.paraformer.crispasr import read_crispasr
from streamasr.importing.paraformer.funasr_gguf import read_funasr_gguf
from streamasr.importing.source import open_sources
from tests.sources.foreign import truncate
from tests.sources.paraformer.gguf_files import write_crispasr, write_funasr
from tests.sources.paraformer.onnx_export import (
    sherpa_metadata,
    write_funasr_export,
    write_sherpa_export,
    write_streaming,
)
from tests.sources.paraformer.original import am_mvn, config_of, write_original
from tests.sources.paraformer.weights import Sizes, Weights, token_list
from tests.sources.torch_checkpoint import Saved, pickle_of, write_record
from tests.support.errors import raises
from tests.support.gguf_changes import with_metadata

SMALL = Weights(Sizes())

Change = Callable[[Path], object]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a folder; tests copy it before they change anything."""
    return write_original(SMALL, tmp_path_factory.mktemp("source") / "original")


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_funasr_export(SMALL, tmp_path_factory.mktemp("source") / "export")


@pytest.fixture(scope="module")
def sherpa(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sherpa_export(SMALL, tmp_path_factory.mktemp("source") / "sherpa")


def remove(name: str) -> Change:
    return lambda folder: (folder / name).unlink()


def text(name: str, content: str) -> Change:
    return lambda folder: (folder / name).write_text(content, "utf-8")


def replaced(name: str, old: str, new: str) -> Change:
    def change(folder: Path) -> None:
        content = (folder / name).read_text("utf-8")
        assert old in content
        (folder / name).write_text(content.replace(old, new), "utf-8")

    return change


def cut(name: str) -> Change:
    return lambda folder: truncate(folder / name, 0.5)


def _am_mvn(number: str) -> str:
    first, *others = am_mvn().partition(".")
    return f"{first.rpartition(' ')[0]} {number} {''.join(others).partition(' ')[2]}"


OF_EITHER: dict[str, tuple[Change, str]] = {
    "no normalisation": (remove("am.mvn"), "cmvn_missing"),
    "no tokens": (remove("tokens.json"), "tokens_missing"),
    "tokens that are no list": (text("tokens.json", '{"a": 1}'), "tokens_invalid"),
    "tokens that are no texts": (text("tokens.json", "[1, 2]"), "tokens_invalid"),
    "tokens that are no JSON": (text("tokens.json", "[1, 2"), "json_invalid"),
    "too deep tokens": (text("tokens.json", "[" * 100_000), "json_invalid"),
    "half a character as a token": (
        text("tokens.json", json.dumps(["<blank>", "<s>", "</s>", "\ud83d"])),
        "tokens_invalid",
    ),
    "too few tokens": (text("tokens.json", '["<blank>", "<s>", "</s>"]'), "tokens_count"),
    "tokens of another model": (
        text("tokens.json", json.dumps(["a"] * SMALL.sizes.vocab)),
        "tokens_invalid",
    ),
    "other features": (replaced("config.yaml", "n_mels: 80", "n_mels: 40"), "setting_unsupported"),
    "another rate": (replaced("config.yaml", "fs: 16000", "fs: 8000"), "setting_unsupported"),
    "another window": (replaced("config.yaml", "hamming", "povey"), "setting_unsupported"),
    "another stacking": (replaced("config.yaml", "lfr_m: 7", "lfr_m: 5"), "features_differ"),
    "a normalisation for other features": (
        text("am.mvn", "<AddShift> 2 2\n[ 0 0 ]\n<Rescale> 2 2\n[ 1 1 ]\n"),
        "cmvn_width",
    ),
    "a broken normalisation": (text("am.mvn", "<Nnet>\n</Nnet>\n"), "cmvn_broken"),
    "a normalisation beyond float32": (
        text("am.mvn", _am_mvn("1e300")),
        "cmvn_broken",
    ),
    "a huge number": (replaced("config.yaml", "16000", f"0x{'f' * 20_000}"), "yaml_invalid"),
    "a number that takes long": (
        replaced("config.yaml", "16000", "1" + ":1" * 50_000),
        "yaml_invalid",
    ),
    "settings that are no YAML": (text("config.yaml", "a: ["), "yaml_invalid"),
    "settings with references": (text("config.yaml", "a: &x 1\nb: *x\n"), "yaml_invalid"),
    "settings with a call": (
        text("config.yaml", "a: !!python/object/apply:os.system [id]\n"),
        "yaml_invalid",
    ),
    "too deep settings": (text("config.yaml", "a: " + "[" * 20_000), "yaml_invalid"),
    "settings that are no mapping": (text("config.yaml", "- a\n"), "json_not_object"),
}


@pytest.mark.parametrize("name", OF_EITHER)
def test_damaged_sidecars_are_refused(
    tmp_path: Path, original: Path, export: Path, name: str
) -> None:
    change, code = OF_EITHER[name]
    for source in (original, export):
        folder = shutil.copytree(source, tmp_path / source.name)
        change(folder)
        with raises(ModelError, code):
            open_sources(folder)


OF_ORIGINAL: dict[str, tuple[Change, str]] = {
    "no settings": (remove("config.yaml"), "config_missing"),
    "cut weights": (cut("model.pt"), "torch_damaged"),
    "another model": (
        replaced("config.yaml", '"Paraformer"', '"ContextualParaformer"'),
        "setting_unsupported",
    ),
    "another encoder": (
        replaced("config.yaml", "SANMEncoder", "ConformerEncoder"),
        "setting_unsupported",
    ),
    "another decoder": (
        replaced("config.yaml", "ParaformerSANMDecoder", "ParaformerSANDecoder"),
        "setting_unsupported",
    ),
    "another predictor": (
        replaced("config.yaml", "CifPredictorV2", "CifPredictor"),
        "setting_unsupported",
    ),
    "another order of norms": (
        replaced("config.yaml", "normalize_before: true", "normalize_before: false"),
        "setting_unsupported",
    ),
    "no token for the end": (
        replaced("config.yaml", "predictor_bias: 1", "predictor_bias: 0"),
        "setting_unsupported",
    ),
    "an unknown shift": (
        replaced("config.yaml", "sanm_shfit: 0", "sanm_shfit: null"),
        "setting_unsupported",
    ),
    "too many rows of the past": (
        replaced("config.yaml", "sanm_shfit: 0", "sanm_shfit: 6"),
        "value_out_of_range",
    ),
    "heads that do not divide the width": (
        replaced("config.yaml", "attention_heads: 4", "attention_heads: 5"),
        "encoder_heads",
    ),
    "heads that are no number": (
        replaced("config.yaml", "attention_heads: 4", "attention_heads: many"),
        "json_value",
    ),
    **{
        f"{number} heads": (
            replaced("config.yaml", "attention_heads: 4", f"attention_heads: {number}"),
            "json_value",
        )
        for number in ("-1", "0", "false", "1.5")
    },
    **{
        f"{name} of {number}": (
            replaced("config.yaml", f"{name}: {usual}", f"{name}: {number}"),
            code,
        )
        for name, usual, number, code in (
            ("threshold", "1.0", "0", "setting_unsupported"),
            ("threshold", "1.0", "0.9", "setting_unsupported"),
            ("tail_threshold", "0.45", "-5", "value_out_of_range"),
            ("tail_threshold", "0.45", "1.0e+30", "value_out_of_range"),
            ("tail_threshold", "0.45", ".nan", "json_value"),
            ("smooth_factor", "1.0", "1.0e+200", "value_out_of_range"),
            ("noise_threshold", "0.0", "2.0", "value_out_of_range"),
        )
    },
    "a model whose name is a number": (
        replaced("config.yaml", '"Paraformer"', "5"),
        "no_model",
    ),
    "the streaming variant": (
        replaced("config.yaml", '"Paraformer"', '"ParaformerStreaming"'),
        "paraformer_streaming",
    ),
    "positions of the streaming variant": (
        replaced("config.yaml", '"pe"', '"pe_online"'),
        "paraformer_streaming",
    ),
}


@pytest.mark.parametrize("name", OF_ORIGINAL)
def test_unsuitable_original_folders_are_refused(tmp_path: Path, original: Path, name: str) -> None:
    change, code = OF_ORIGINAL[name]
    folder = shutil.copytree(original, tmp_path / "files")
    change(folder)
    with raises(ModelError, code):
        open_sources(folder)


class Changed(Weights):
    """Weights with other shapes."""

    def __init__(self, **changed: tuple[int, ...] | None) -> None:
        super().__init__(Sizes())
        for name, shape in changed.items():
            full = name.replace("__", ".")
            if shape is None:
                del self.shapes[full]
            else:
                self.shapes[full] = shape

    def read(self, name: str) -> Any:
        return np.zeros(self.shapes[name], np.float32)


OF_TENSORS: dict[str, tuple[Changed, str]] = {
    "a missing norm": (Changed(encoder__after_norm__bias=None), "tensor_missing"),
    "no encoder": (
        Changed(encoder__encoders0__0__self_attn__linear_q_k_v__weight=None),
        "tensor_missing",
    ),
    "another width": (Changed(encoder__after_norm__bias=(31,)), "tensor_shape"),
    "a vector as a matrix": (
        Changed(encoder__encoders0__0__self_attn__linear_q_k_v__weight=(96,)),
        "tensor_shape",
    ),
    "an unknown part": (Changed(encoder__adapter__weight=(3, 3)), "tensor_unexpected"),
    "a missing block": (
        Changed(encoder__encoders__9__norm1__weight=(32,)),
        "tensor_missing",
    ),
    "a huge kernel": (
        Changed(encoder__encoders0__0__self_attn__fsmn_block__weight=(32, 1, 2000)),
        "size_out_of_range",
    ),
}


@pytest.mark.parametrize("width", [32, 40, 48, 50, 560])
def test_layers_without_values_are_refused(tmp_path: Path, width: int) -> None:
    weights = Changed()
    for name, shape in weights.shapes.items():
        weights.shapes[name] = tuple(0 if length == width else length for length in shape)
    with pytest.raises(ModelError):
        open_sources(write_original(weights, tmp_path / "files"))


@pytest.mark.parametrize("name", OF_TENSORS)
def test_tensors_of_other_models_are_refused(tmp_path: Path, name: str) -> None:
    weights, code = OF_TENSORS[name]
    folder = write_original(weights, tmp_path / "files")
    with raises(ModelError, code):
        open_sources(folder)


def test_checkpoints_of_other_models_are_not_ours(tmp_path: Path, original: Path) -> None:
    folder = shutil.copytree(original, tmp_path / "files")
    replaced("config.yaml", '"Paraformer"', '"FsmnVADStreaming"')(folder)
    with raises(ModelError, "no_model"):
        open_sources(folder)


def test_one_of_several_checkpoints_must_be_named_model_pt(tmp_path: Path, original: Path) -> None:
    folder = shutil.copytree(original, tmp_path / "files")
    shutil.copy(folder / "model.pt", folder / "model.pt.best")
    assert open_sources(folder).notes  # names the one in use
    (folder / "model.pt").rename(folder / "model.pt.ep3")
    with raises(ModelError, "ambiguous_parts"):
        open_sources(folder)
    (folder / "model.pt.ep3").unlink()
    assert open_sources(folder).recogniser is not None


def test_unknown_tensors_of_training_are_ignored(tmp_path: Path) -> None:
    weights = Changed(ctc__ctc_lo__weight=(50, 32), criterion_att__x=(1,))
    folder = write_original(weights, tmp_path / "files")
    assert open_sources(folder).notes == ()


# GGUF


@pytest.fixture(scope="module")
def crispasr(tmp_path_factory: pytest.TempPathFactory) -> GGUFFile:
    return read_gguf(write_crispasr(SMALL, tmp_path_factory.mktemp("gguf") / "c.gguf"))


@pytest.fixture(scope="module")
def funasr(tmp_path_factory: pytest.TempPathFactory) -> GGUFFile:
    return read_gguf(write_funasr(SMALL, tmp_path_factory.mktemp("gguf") / "f.gguf"))


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"paraformer.n_mels": 40}, "setting_unsupported"),
        ({"paraformer.lfr_n": 1}, "setting_unsupported"),
        ({"paraformer.sample_rate": 8000}, "setting_unsupported"),
        ({"paraformer.d_model": 64}, "layer_count"),
        ({"paraformer.n_enc_blocks": 7}, "layer_count"),
        ({"paraformer.n_heads": 5}, "encoder_heads"),
        ({"paraformer.n_heads": None}, "metadata_missing"),
        ({"tokenizer.tokens": None}, "tokens_count"),
        ({"tokenizer.tokens": 5}, "metadata_value"),
        ({"tokenizer.tokens": ["a"] * 50}, "tokens_invalid"),
    ],
)
def test_metadata_of_crispasr_that_do_not_fit_are_refused(
    crispasr: GGUFFile, changed: dict[str, Any], code: str
) -> None:
    with raises(ModelError, code):
        read_crispasr(with_metadata(crispasr, changed))


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"pf.enc.output_size": 64}, "tensor_shape"),
        ({"pf.enc.num_blocks": 50}, "layer_count"),
        ({"pf.dec.decoders3": 2}, "layer_count"),
        ({"pf.vocab_size": 8404}, "layer_count"),
        ({"pf.dec.attention_heads": 5}, "encoder_heads"),
        ({"pf.predictor.threshold": -1.0}, "metadata_value"),
        ({"pf.predictor.threshold": 0.5}, "setting_unsupported"),
        ({"pf.predictor.tail_threshold": 5.0}, "value_out_of_range"),
        ({"pf.enc.attention_heads": 0}, "metadata_value"),
        ({"pf.vocab": None}, "tokens_missing"),
        ({"pf.vocab": ["<blank>", "<s>", "</s>"]}, "tokens_count"),
    ],
)
def test_metadata_of_funasr_that_do_not_fit_are_refused(
    funasr: GGUFFile, changed: dict[str, Any], code: str
) -> None:
    with raises(ModelError, code):
        read_funasr_gguf(with_metadata(funasr, changed))


def test_tensors_of_ggufs_that_are_missing_or_unknown_are_refused(
    crispasr: GGUFFile, funasr: GGUFFile
) -> None:
    for file, read, name in (
        (crispasr, read_crispasr, "paraformer.cmvn_shift"),
        (crispasr, read_crispasr, "paraformer.enc.after_norm.w"),
        (funasr, read_funasr_gguf, "cmvn.scale"),
        (funasr, read_funasr_gguf, "encoder.after_norm.weight"),
    ):
        fewer = {key: value for key, value in file.tensors.items() if key != name}
        with raises(ModelError, "tensor_missing"):
            read(replace(file, tensors=fewer))
        renamed = dict(file.tensors)
        renamed[f"{name}.other"] = renamed.pop(name)
        with pytest.raises(ModelError):
            read(replace(file, tensors=renamed))


def test_infinite_scales_of_blocks_are_refused_without_a_warning(tmp_path: Path) -> None:
    path = write_crispasr(SMALL, tmp_path / "c.gguf", "q8_0")
    tensor = read_gguf(path).tensors["paraformer.enc.blk.0.ffn.l1.w"]
    assert tensor.stored_type == "Q8_0"
    content = bytearray(path.read_bytes())
    content[tensor.offset : tensor.offset + 4] = b"\x00\x7c\x00\x00"  # infinity times 0
    path.write_bytes(content)
    with raises(ModelError, "weight_not_finite"):
        import_model(path, tmp_path / "bundle")


def test_settings_that_ggufs_omit_are_the_released_ones(
    crispasr: GGUFFile, funasr: GGUFFile
) -> None:
    for checkpoint in (read_crispasr(crispasr), read_funasr_gguf(funasr)):
        assert checkpoint.settings.threshold == 1.0
        assert checkpoint.settings.tail == 0.45
        assert checkpoint.settings.left_context == 1


# ONNX


def change_metadata(folder: Path, **changed: str | None) -> Path:
    path = folder / "model.onnx"
    model = onnx.load(path)
    entries = sherpa_metadata(SMALL) | changed
    del model.metadata_props[:]
    helper.set_model_props(model, {key: value for key, value in entries.items() if value})
    onnx.save(model, path)
    return folder


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"neg_mean": None}, "cmvn_missing"),
        ({"neg_mean": "1,2,x"}, "cmvn_broken"),
        ({"neg_mean": "1,2"}, "cmvn_broken"),
        ({"neg_mean": ",".join(["1e300"] * 560)}, "cmvn_broken"),
        ({"inv_stddev": ",".join(["-1"] * 560)}, "cmvn_broken"),
        ({"neg_mean": "1,2", "inv_stddev": "1,2"}, "cmvn_width"),
        ({"vocab_size": "many"}, "metadata_value"),
        ({"vocab_size": "51"}, "tokens_count"),
        ({"lfr_window_size": "-7"}, "metadata_value"),
        ({"lfr_window_size": "5"}, "features_differ"),
    ],
)
def test_metadata_of_graphs_that_do_not_fit_are_refused(
    tmp_path: Path, sherpa: Path, changed: dict[str, str | None], code: str
) -> None:
    folder = shutil.copytree(sherpa, tmp_path / "files")
    with raises(ModelError, code):
        open_sources(change_metadata(folder, **changed))


@pytest.mark.parametrize(
    ("content", "code"),
    [
        ("<blank> 0\n<s> 2\n</s> 1\n", "tokens_invalid"),
        ("<blank> 0\n", "tokens_count"),
        ("", "tokens_count"),
    ],
)
def test_damaged_lists_of_tokens_are_refused(
    tmp_path: Path, sherpa: Path, content: str, code: str
) -> None:
    folder = shutil.copytree(sherpa, tmp_path / "files")
    (folder / "tokens.txt").write_text(content, "utf-8")
    with raises(ModelError, code):
        open_sources(folder)


def test_lists_of_tokens_without_ids_are_read(tmp_path: Path, sherpa: Path) -> None:
    folder = shutil.copytree(sherpa, tmp_path / "files")
    lines = "\r\n".join(token_list(SMALL.sizes.vocab))
    (folder / "tokens.txt").write_text(f"{lines}\r\n", "utf-8")
    assert open_sources(folder).recogniser is not None


def test_the_tokens_of_old_exports_are_in_their_settings(tmp_path: Path, export: Path) -> None:
    folder = shutil.copytree(export, tmp_path / "files")
    (folder / "tokens.json").unlink()
    config = folder / "config.yaml"
    tokens = json.dumps(token_list(SMALL.sizes.vocab), ensure_ascii=False)
    plain = config.read_text("utf-8")
    config.write_text(f"{plain}token_list: {tokens}\n", "utf-8")
    bundle = import_model(folder, tmp_path / "b")
    assert bundle.facts["vocab"] == SMALL.sizes.vocab
    for wrong, code in (
        ("[1]", "tokens_invalid"),
        ("many", "tokens_invalid"),
        ("[a]", "tokens_count"),
    ):
        config.write_text(f"{plain}token_list: {wrong}\n", "utf-8")
        with raises(ModelError, code):
            open_sources(folder)


@pytest.mark.parametrize("is_sherpa", [False, True])
def test_the_streaming_export_is_named(tmp_path: Path, is_sherpa: bool) -> None:
    folder = write_streaming(tmp_path / "files", sherpa=is_sherpa)
    with raises(ModelError, "paraformer_streaming") as caught:
        open_sources(folder)
    assert str(folder) in str(caught.value)
    with raises(ModelError, "paraformer_streaming"):
        open_sources(folder / "decoder.onnx")


def test_a_graph_without_its_graph_of_hotwords_is_refused(tmp_path: Path) -> None:
    weights = Weights(Sizes(head="cnn_blstm", has_hotwords=True))
    folder = write_funasr_export(weights, tmp_path / "files")
    (folder / "model_eb.onnx").unlink()
    with raises(ModelError, "hotword_graph_missing"):
        open_sources(folder)


def test_graphs_of_equal_precision_are_ambiguous(tmp_path: Path, export: Path) -> None:
    folder = shutil.copytree(export, tmp_path / "files")
    shutil.copy(folder / "model.onnx", folder / "other.onnx")
    with raises(ModelError, "ambiguous_parts"):
        open_sources(folder)


def test_external_weights_are_kept_under_their_name(tmp_path: Path, export: Path) -> None:
    def with_data_in(name: str) -> Path:
        folder = shutil.copytree(export, tmp_path / f"files-{name}")
        model = onnx.load(folder / "model.onnx")
        (folder / "model.onnx").unlink()
        options: dict[str, Any] = {"save_as_external_data": True, "size_threshold": 0}
        onnx.save(model, folder / "model.onnx", location=name, **options)
        return folder

    bundle = import_model(with_data_in("weights.bin"), tmp_path / "b")
    assert (bundle.directory / "weights.bin").is_file()
    with raises(ModelError, "reserved_name"):
        open_sources(with_data_in("cmvn.npy"))


def test_a_voice_activity_detector_beside_the_graph_is_ignored(
    tmp_path: Path, export: Path
) -> None:
    folder = shutil.copytree(export, tmp_path / "files")
    node = helper.make_node("Identity", ["speech"], ["logits"])
    port = partial(helper.make_tensor_value_info, elem_type=1, shape=[1, "t", 400])
    graph = helper.make_graph([node], "vad", [port("speech"), port("in_cache0")], [port("logits")])
    onnx.save(helper.make_model(graph, ir_version=8), folder / "vad.onnx")
    source = open_sources(folder).recogniser
    assert source is not None
    assert source.path.name == "model.onnx"


def test_a_checkpoint_of_before_pytorch_1_6_is_refused(tmp_path: Path, original: Path) -> None:
    folder = shutil.copytree(original, tmp_path / "files")
    magic = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"
    (folder / "model.pt").write_bytes(magic + b"." + b"\x80\x02M\xe9\x03.")
    for path in (folder, folder / "model.pt"):
        with raises(ModelError, "torch_legacy") as caught:
            open_sources(path)
        assert str(folder / "model.pt") in str(caught.value)


def test_a_pickle_that_runs_a_program_is_refused(tmp_path: Path, original: Path) -> None:
    """The whole way from the folder: nothing is run."""
    folder = shutil.copytree(original, tmp_path / "files")
    marker = tmp_path / "run"
    call = b"cposix\nsystem\n(X" + len(f"touch {marker}").to_bytes(4, "little")
    call += f"touch {marker}".encode() + b"tR."
    with zipfile.ZipFile(folder / "model.pt", "w") as archive:
        write_record(archive, "data.pkl", b"\x80\x02" + call)
    with raises(ModelError, "torch_pickle"):
        open_sources(folder)
    assert not marker.exists()


def test_the_settings_are_those_of_a_complete_configuration() -> None:
    """The writer's configuration has every key that the reader checks."""
    assert config_of(SMALL)["frontend_conf"]["lfr_m"] == 7
    assert pickle_of({"w": Saved((1,), "0", 1)}).endswith(b".")
