"""Graphs that FunASR itself exports to ONNX, imported, against the models that they were made from.

Every kind of release: Paraformer, BiCif-Paraformer and SeACo-Paraformer with its graph of hotwords.
"""

import copy
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Final

import pytest

pytest.importorskip("torch")
pytest.importorskip("funasr")
pytest.importorskip("onnx")

import torch
from funasr.models.seaco_paraformer.model import SeacoParaformer

from streamasr.importing.options import ImportOptions
from streamasr.importing.pack import import_model
from streamasr.models.onnx import OnnxOptions
from streamasr.models.paraformer.recogniser import Paraformer, load
from tests.reference.paraformer import build
from tests.reference.paraformer_clips import CLIPS, TOKENS, clip, infer, recognise, write_sidecars
from tests.sources.paraformer.weights import Sizes, Weights

pytestmark = pytest.mark.reference

VOCAB: Final = len(TOKENS)
NO_BIAS: Final = TOKENS.index("no")
"""Class for "no hotword"; 8377 in the released models."""
SIZES: Final = {
    "plain": Sizes(vocab=VOCAB),
    "time head": Sizes(d_model=64, head="cnn_blstm", vocab=VOCAB),
    "hotwords": Sizes(d_model=64, head="cnn_blstm", has_hotwords=True, vocab=VOCAB),
}
OPSET: Final = 14  # of the released files
Pair = tuple[Any, Path, Paraformer]
"""FunASR's model, the folder of its export, and the imported model."""
HOTWORDS: Final = {
    "none": (),
    "one": ("今天",),
    "some": ("今天", "天气", "hello", "上海", "一二三四五六七八九十", "雨天"),
    "many": tuple(f"{a}{b}" for a in TOKENS[3:9] for b in TOKENS[3:9]),
}


def build_seaco(sizes: Sizes) -> Any:
    """Make a SeACo-Paraformer with random weights."""
    config = sizes.config()
    names = ("encoder", "encoder_conf", "decoder", "decoder_conf", "predictor", "predictor_conf")
    model = SeacoParaformer(
        **{name: config[name] for name in names},
        **config["model_conf"],
        input_size=560,
        vocab_size=sizes.vocab,
        inner_dim=sizes.d_model,
        NO_BIAS=NO_BIAS,
        seaco_decoder="ParaformerSANMDecoder",
        seaco_decoder_conf={
            "attention_heads": sizes.heads,
            "linear_units": 2 * sizes.d_model,
            "num_blocks": 6,
            "att_layer_num": 6,
            "kernel_size": 21,
            "sanm_shfit": 0,
            "use_output_layer": False,
            "wo_input_layer": True,
        },
    )
    weights = Weights(sizes)
    generator = torch.Generator().manual_seed(0)
    state = {
        name: torch.from_numpy(weights.read(name))
        if name in weights.shapes
        else (1.0 if "norm" in name and name.endswith("weight") else 0.0)
        + 0.1 * torch.randn(tensor.shape, generator=generator)
        for name, tensor in model.state_dict().items()
    }
    # About half of the tokens are taken from the hotwords.
    state["hotword_output_layer.bias"][NO_BIAS] += 3.0
    model.load_state_dict(state)
    return model.eval()


def export(model: Any, sizes: Sizes, folder: Path) -> Path:
    """Export a model with FunASR's own code, which changes the model that it exports."""
    folder.mkdir()
    config = sizes.config()
    parts = {name: config[name] for name in ("encoder", "decoder", "predictor")}
    scripts = copy.deepcopy(model).export(
        **parts, seaco_decoder="ParaformerSANMDecoder", device="cpu", max_seq_len=512
    )
    for script in scripts if isinstance(scripts, tuple) else (scripts,):
        script.NOBIAS = NO_BIAS
        given = script.export_dummy_inputs()
        if isinstance(given, torch.Tensor):  # hotwords
            given = (given % VOCAB,)
        elif len(given) == 3:
            given = (*given[:2], torch.randn(2, 1, sizes.d_model))
        name = script.export_name if isinstance(script.export_name, str) else script.export_name()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what is traced, and of the exporter's age
            torch.onnx.export(
                script.eval(),
                given,
                folder / f"{name.removesuffix('.onnx')}.onnx",
                opset_version=OPSET,
                input_names=script.export_input_names(),
                output_names=script.export_output_names(),
                dynamic_axes=script.export_dynamic_axes(),
                dynamo=False,
            )
    write_sidecars(folder, sizes)
    # FunASR cuts hotwords into tokens by this file alone; ours does without it.
    units = "".join(f"{token} {token}\n" for token in TOKENS[3:-1])
    (folder / "seg_dict").write_text(units, "utf-8")
    return folder


def make_pair(name: str, folder: Path) -> Pair:
    """Return FunASR's model, the folder of its export, and the imported model."""
    sizes = SIZES[name]
    model = build_seaco(sizes) if sizes.has_hotwords else build(sizes)
    with torch.no_grad():  # several tokens a second
        model.predictor.cif_output.bias.fill_(0.3)
    exported = export(model, sizes, folder / "export")
    import_model(exported, folder / "bundle", ImportOptions())
    return model, exported, load(folder / "bundle", OnnxOptions(threads=1))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Pair]:
    return cache(lambda name: make_pair(name, tmp_path_factory.mktemp("pair")))


@pytest.mark.parametrize("kind", SIZES)
@pytest.mark.parametrize("name", CLIPS)
def test_texts_and_times_are_those_of_funasr(
    made: Callable[[str], Pair], kind: str, name: str
) -> None:
    model, folder, ours = made(kind)
    samples = clip(name)
    found = recognise(ours, samples)
    has_hotwords = isinstance(model, SeacoParaformer)
    theirs = infer(model, folder, samples, **({"hotword": ""} if has_hotwords else {}))
    if theirs is None:
        assert not found.text
        return
    assert found.text.replace(" ", "") == theirs["text"].replace(" ", "")
    assert len(found.tokens) > 3 or name in {"short", "silence"}
    if not hasattr(model.predictor, "upsample_cnn"):
        return  # its export gives no times
    # FunASR groups times into words; the first start and the last end are those of tokens.
    [first, *_], [*_, last] = theirs["timestamp"], theirs["timestamp"]
    assert found.times[0][0] / 16 == pytest.approx(max(0, first[0]), abs=1.1)
    assert found.times[-1][1] / 16 <= last[1] + 1.1


@pytest.mark.parametrize("name", ["espeak_1", "mandarin"])
def test_hotwords_have_the_effect_that_they_have_in_funasr(
    made: Callable[[str], Pair], name: str
) -> None:
    model, folder, ours = made("hotwords")
    texts = {}
    for listed, hotwords in HOTWORDS.items():
        theirs = infer(model, folder, clip(name), hotword=" ".join(hotwords))
        assert theirs is not None
        texts[listed] = recognise(ours, clip(name), hotwords).text
        assert texts[listed].replace(" ", "") == theirs["text"].replace(" ", "")
    assert len(set(texts.values())) > 1
