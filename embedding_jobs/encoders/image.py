"""Encode images with a timm network: the model's preprocessing, then global average pooling."""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from embedding_jobs.encoders.config import ImageEncoderConfig
from embedding_jobs.encoders.image_weights import weights_file
from embedding_jobs.encoders.model_files import sha256_of
from embedding_jobs.encoders.protocol import Prepared
from embedding_jobs.errors import EncoderError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_IMAGES_PER_BATCH = {"cpu": 2, "cuda": 128}  # on a CPU, so few that the feature maps stay in its cache


class ImageKind:
    """The built-in kind "image"."""

    modality: Literal["text", "image"] = "image"

    def describe(self, config: ImageEncoderConfig) -> dict[str, Any]:
        """Return what an image's vector depends on."""
        data = data_config(config)
        return {
            "kind": "image",
            "model": config.model,
            "weights_sha256": sha256_of([weights_file(config)]),
            "pooling": "global_average",
            "input_size": list(data["input_size"]),
            "interpolation": data["interpolation"],
            "crop_pct": data["crop_pct"],
            "crop_mode": data["crop_mode"],
            "mean": list(data["mean"]),
            "std": list(data["std"]),
            "compute_dtype": config.compute_dtype,
        }

    def preprocessor(self, config: ImageEncoderConfig) -> Decoder:
        """Load the model's transform."""
        return Decoder(config)

    def encoder(self, config: ImageEncoderConfig, device: str, n_threads: int) -> ImageEncoder:
        """Load the network."""
        return ImageEncoder(config, device, n_threads)


class Decoder:
    """Decode images to `pixels`, uint8 (images, 3, height, width): a quarter of the bytes of normalised floats."""

    def __init__(self, config: ImageEncoderConfig) -> None:
        from embedding_jobs.encoders.torch_runtime import import_timm

        timm = import_timm()
        self._transform = timm.data.create_transform(**data_config(config), is_training=False, use_prefetcher=True)
        self._size = tuple(data_config(config)["input_size"])

    def __call__(self, inputs: Sequence[bytes | None]) -> Prepared:
        """Decode, resize and crop; an image that cannot be decoded becomes an error."""
        from PIL import Image

        pixels = []
        errors: list[str | None] = []
        for data in inputs:
            if not data:
                errors.append("no image")
                continue
            try:
                with Image.open(io.BytesIO(data)) as image:
                    pixels.append(np.asarray(self._transform(image.convert("RGB"))))
            # Pillow's decoders raise these for damaged files.
            except (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError) as error:
                # Pillow names the stream by its address, which differs in every process.
                reason = re.sub(r" <_io\.BytesIO object at \w+>", "", str(error)) or type(error).__name__
                errors.append(reason.splitlines()[0])
            else:
                errors.append(None)
        stacked = np.stack(pixels) if pixels else np.empty((0, *self._size), dtype=np.uint8)
        return Prepared({"pixels": stacked}, [None] * len(errors), errors, int(stacked[:, 0].size))


class ImageEncoder:
    """Encode images on one device: the last feature map of a timm network, averaged over all positions."""

    def __init__(self, config: ImageEncoderConfig, device: str, n_threads: int) -> None:
        import torch

        from embedding_jobs.encoders.torch_runtime import Threads, compute_dtype, fold_batch_norms

        self._threads = Threads(n_threads)
        data = data_config(config)
        self._torch = torch
        self._device = torch.device(device)
        self._dtype = compute_dtype(config.compute_dtype, device)
        self._n_batch = _IMAGES_PER_BATCH[self._device.type]
        # Normalise on the device, in units of pixels: bytes are copied there, not floats.
        self._mean, self._std = (
            torch.tensor(data[key], dtype=torch.float32, device=self._device).view(1, 3, 1, 1) * 255
            for key in ("mean", "std")
        )
        example = torch.randn((1, *data["input_size"]), generator=torch.Generator().manual_seed(0))
        model = fold_batch_norms(network(config), example)
        model = model.to(device=self._device, dtype=self._dtype, memory_format=torch.channels_last)
        self.dimension = int(model.num_features)
        self._n_prefix = int(getattr(model, "num_prefix_tokens", 0))
        self._features = torch.compile(model.forward_features) if config.compile else model.forward_features

    def __call__(self, prepared: Prepared) -> NDArray[np.float32]:
        """Encode one unit; the vectors are in the order of its readable images."""
        torch = self._torch
        pixels = prepared.arrays["pixels"]
        with torch.inference_mode():
            out = torch.empty((len(pixels), self.dimension), dtype=torch.float32, device=self._device)

        def encode(start: int) -> None:
            batch = torch.from_numpy(pixels[start : start + self._n_batch])
            if self._device.type == "cuda":
                batch = batch.pin_memory().to(self._device, non_blocking=True)
            images = ((batch.float() - self._mean) / self._std).to(self._dtype)
            images = images.contiguous(memory_format=torch.channels_last)
            out[start : start + len(batch)] = self._pool(self._features(images))

        self._threads.run(encode, range(0, len(pixels), self._n_batch))
        vectors: NDArray[np.float32] = out.cpu().numpy()
        return vectors

    def _pool(self, features: Any) -> Any:
        """Average over all positions of a map (images, channels, h, w), (images, h, w, channels) or tokens."""
        values = features.float()
        if values.ndim == 3:
            return values[:, self._n_prefix :].mean(dim=1)
        return values.mean(dim=(2, 3)) if values.shape[1] == self.dimension else values.mean(dim=(1, 2))


def data_config(config: ImageEncoderConfig) -> dict[str, Any]:
    """Return the model's preprocessing, with the configured image size.

    Raises:
        EncoderError: timm has no such model.
    """
    from embedding_jobs.encoders.torch_runtime import import_timm

    timm = import_timm()
    if not timm.is_model(config.model.split(".")[0]):
        import difflib

        near = difflib.get_close_matches(config.model, timm.list_models(), n=3)
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        raise EncoderError(f"`model` must be a timm model, got {config.model!r}{hint}")
    published = timm.get_pretrained_cfg(config.model, allow_unregistered=True)
    size = {"input_size": (3, config.image_size, config.image_size)} if config.image_size else {}
    return dict(timm.data.resolve_data_config(size, pretrained_cfg=published.to_dict()))


def network(config: ImageEncoderConfig) -> Any:
    """Build the network without its classifier, with the configured weights, in evaluation mode.

    Raises:
        EncoderError: The weights are not available, or belong to another network.
    """
    from embedding_jobs.encoders.torch_runtime import import_timm

    timm = import_timm()
    options: dict[str, Any] = {"pretrained": False, "num_classes": 0}
    try:
        # Networks with a fixed grid of patches are built for one size; others take any and have no such option.
        model = timm.create_model(config.model, img_size=config.image_size, **options)
    except TypeError:
        model = timm.create_model(config.model, **options)
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = weights_file(config)
    try:
        found = model.load_state_dict(load_file(path), strict=False)
    except SafetensorError as error:
        raise EncoderError(f"the weights in {path} must be safetensors: {error}; convert them") from error
    except RuntimeError as error:
        raise EncoderError(f"the weights in {path} must be those of {config.model}: {error}") from error
    if found.missing_keys:
        raise EncoderError(
            f"the weights in {path} must be those of {config.model}: "
            f"{len(found.missing_keys)} are missing, first {found.missing_keys[0]}"
        )
    return model.eval()
