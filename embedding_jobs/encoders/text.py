"""Encode texts with a transformers encoder: tokens, batches of similar length, pooled hidden states."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from embedding_jobs.encoders.config import TextEncoderConfig
from embedding_jobs.encoders.model_files import find_model, sha256_of
from embedding_jobs.encoders.protocol import Prepared
from embedding_jobs.encoders.text_modules import TextPooling, text_pooling
from embedding_jobs.errors import EncoderError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_TOKENS_PER_BATCH = {"cpu": 1024, "cuda": 32768}

_MAX_ITEMS_PER_BATCH = 2048

# Families with a decoder whose encoder can be loaded alone; sentence-transformers does so too.
_ENCODERS_ALONE = ("t5", "mt5", "umt5")

_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.*",
    "merges.txt",
    "*.model",
)


class TextKind:
    """The built-in kind "text"."""

    modality: Literal["text", "image"] = "text"

    def describe(self, config: TextEncoderConfig) -> dict[str, Any]:
        """Return what a text's vector depends on."""
        found = find_model(config.model, config.revision)
        pooling = text_pooling(config, found.path)
        folder = pooling.network
        weights = sorted(folder.glob("*.safetensors"))
        if not weights:
            raise EncoderError(
                f"the encoder `{config.model}` must have its weights as safetensors, {folder} has none: "
                "other formats can run code when they are loaded; convert it"
            )
        tokenizer = sorted({path for pattern in _TOKENIZER_FILES for path in folder.glob(pattern)})
        network = _model_config(config, folder)
        if not 1 <= pooling.n_layers <= network.num_hidden_layers:
            raise EncoderError(
                f"`layers` must be 1 to {network.num_hidden_layers} for {config.model}, got {pooling.n_layers}"
            )
        if pooling.name == "model" and network.is_encoder_decoder and network.model_type not in _ENCODERS_ALONE:
            raise EncoderError(
                f"`pooling: model` cannot follow {config.model}, which pools its decoder ({network.model_type}): "
                "set `pooling` to last_layers_mean, mean or cls, which take its encoder"
            )
        made_of: dict[str, Any] = {
            "kind": "text",
            "model": config.model,
            "revision": found.commit or config.revision,
            "weights_sha256": sha256_of(weights),
            "model_config_sha256": sha256_of([folder / "config.json"]),
            "tokenizer_sha256": sha256_of(tokenizer),
            "pooling": pooling.name,
            "layers": pooling.n_layers,
            "max_tokens": max_tokens(config, pooling),
            "prefix": pooling.prefix,
            "compute_dtype": config.compute_dtype,
        }
        if pooling.name == "model":
            made_of["modules"] = {
                "modes": list(pooling.modes),
                "include_prompt": pooling.include_prompt,
                "dense": [
                    [one.activation, one.bias, one.n_inputs, one.n_outputs, sha256_of([one.weights])]
                    for one in pooling.dense
                ],
                "normalize": pooling.normalize,
                "dimension": pooling.dimension,
                "lower_case": pooling.lower_case,
            }
        return made_of

    def preprocessor(self, config: TextEncoderConfig) -> Tokenizer:
        """Load the tokenizer."""
        return Tokenizer(config)

    def encoder(self, config: TextEncoderConfig, device: str, n_threads: int) -> TextEncoder:
        """Load the network."""
        return TextEncoder(config, device, n_threads)


class Tokenizer:
    """Turn texts into token ids: `ids` (tokens,) of all texts in a row, and `lengths` (texts,)."""

    def __init__(self, config: TextEncoderConfig) -> None:
        pooling = text_pooling(config, find_model(config.model, config.revision).path)
        self._tokenizer = _tokenizer(config, pooling)
        self._max_tokens = max_tokens(config, pooling)
        self._prefix = pooling.prefix

    def __call__(self, inputs: Sequence[str]) -> Prepared:
        """Tokenise texts. A text beyond the limit is cut and gets a note."""
        texts = [self._prefix + text for text in inputs]
        rows: list[list[int]] = self._tokenizer(texts, truncation=False, verbose=False)["input_ids"]
        notes: list[str | None] = [None] * len(rows)
        for i, row in enumerate(rows):
            if len(row) > self._max_tokens:
                # The tokenizer cuts, since it knows where its special tokens go.
                rows[i] = self._tokenizer(texts[i], truncation=True, max_length=self._max_tokens)["input_ids"]
                notes[i] = "truncated"
        lengths = np.array([len(row) for row in rows], dtype=np.int32)
        ids = np.fromiter((token for row in rows for token in row), dtype=np.int32, count=int(lengths.sum()))
        return Prepared({"ids": ids, "lengths": lengths}, notes, [None] * len(rows), int(lengths.sum()))


class TextEncoder:
    """Encode texts on one device: pooled hidden states of a transformers encoder."""

    def __init__(self, config: TextEncoderConfig, device: str, n_threads: int) -> None:
        import torch

        from embedding_jobs.encoders.text_head import TextHead
        from embedding_jobs.encoders.torch_runtime import Threads, compute_dtype

        self._threads = Threads(n_threads)
        pooling = text_pooling(config, find_model(config.model, config.revision).path)
        self._torch = torch
        self._device = torch.device(device)
        self._n_layers = 0 if pooling.name == "model" else pooling.n_layers
        self._tokens_per_batch = config.tokens_per_batch or _TOKENS_PER_BATCH[self._device.type]
        self._pad_id = int(_model_config(config, pooling.network).pad_token_id or 0)
        model = _network(config, pooling.network)
        model = model.to(device=self._device, dtype=compute_dtype(config.compute_dtype, device))
        self._head = TextHead(pooling, int(model.config.hidden_size), _prompt_tokens(config, pooling), self._device)
        self.dimension = self._head.dimension
        self._model = torch.compile(model, dynamic=True) if config.compile else model

    def __call__(self, prepared: Prepared) -> NDArray[np.float32]:
        """Encode one unit; the vectors are in the order of its texts."""
        torch = self._torch
        ids, lengths = prepared.arrays["ids"], prepared.arrays["lengths"]
        starts = np.concatenate([[0], np.cumsum(lengths)])
        with torch.inference_mode():
            out = torch.empty((len(lengths), self.dimension), dtype=torch.float32, device=self._device)

        def encode(rows: NDArray[np.int64]) -> None:
            width = int(lengths[rows].max())
            tokens = np.full((len(rows), width), self._pad_id, dtype=np.int64)
            for i, row in enumerate(rows):
                tokens[i, : lengths[row]] = ids[starts[row] : starts[row + 1]]
            mask = np.arange(width)[None, :] < lengths[rows][:, None]
            # Without padding no mask is needed, and attention takes a faster path.
            out[self._move(rows)] = self._encode(self._move(tokens), None if mask.all() else self._move(mask))

        # The longest first: the batch that runs last, beside idle threads, is then short.
        self._threads.run(encode, batches(lengths, self._tokens_per_batch)[::-1])
        vectors: NDArray[np.float32] = out.cpu().numpy()
        return vectors

    def _encode(self, tokens: Any, mask: Any) -> Any:
        """Turn tokens (texts, tokens) into vectors (texts, dimension)."""
        attention = None if mask is None else mask.long()
        found = self._model(input_ids=tokens, attention_mask=attention, output_hidden_states=self._n_layers > 0)
        return self._head(found.hidden_states[-self._n_layers :] if self._n_layers else [found.last_hidden_state], mask)

    def _move(self, array: NDArray[Any]) -> Any:
        tensor = self._torch.from_numpy(array)
        if self._device.type == "cuda":
            # With pinned memory the copy runs while the previous batch is computed.
            return tensor.pin_memory().to(self._device, non_blocking=True)
        return tensor


def batches(lengths: NDArray[np.int32], tokens_per_batch: int) -> list[NDArray[np.int64]]:
    """Cut texts, shortest first, into batches of at most `tokens_per_batch` padded tokens.

    Args:
        lengths: Tokens of each text, shape (texts,).
        tokens_per_batch: Upper limit of longest length x number of texts; a longer text is a batch alone.

    Returns:
        Row numbers of each batch; every row is in one batch. They depend only on the lengths.
    """
    order = np.argsort(lengths, kind="stable")
    found = []
    start = 0
    for end in range(1, len(order) + 1):
        n_next = end + 1 - start
        full = end == len(order) or int(lengths[order[end]]) * n_next > tokens_per_batch
        if full or n_next > _MAX_ITEMS_PER_BATCH:
            found.append(order[start:end])
            start = end
    return found


def max_tokens(config: TextEncoderConfig, pooling: TextPooling) -> int:
    """Return the limit in tokens: the configured one, else the model's.

    Raises:
        EncoderError: `max_tokens` exceeds the model's limit.
    """
    limits = [int(_tokenizer(config, pooling).model_max_length)]
    positions = getattr(_model_config(config, pooling.network), "max_position_embeddings", None)
    if positions:
        limits.append(int(positions))
    limit = min(limits)
    if config.max_tokens is None:
        return min(limit, pooling.max_tokens or limit)
    if not 3 <= config.max_tokens <= limit:
        raise EncoderError(f"`max_tokens` must be 3 to {limit} for {config.model}, got {config.max_tokens}")
    return config.max_tokens


def _prompt_tokens(config: TextEncoderConfig, pooling: TextPooling) -> int:
    """Return how many tokens at the start of every text are not pooled: the prefix's, without a last special token."""
    if pooling.include_prompt or not pooling.prefix:
        return 0
    tokenizer = _tokenizer(config, pooling)
    limit = max_tokens(config, pooling)
    tokens = tokenizer(pooling.prefix, truncation=True, max_length=limit)["input_ids"]
    return len(tokens) - sum(token in tokenizer.all_special_ids for token in tokens[-1:])


def _tokenizer(config: TextEncoderConfig, pooling: TextPooling) -> Any:
    from tokenizers.normalizers import Lowercase, Sequence
    from transformers import AutoTokenizer

    path = pooling.network
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise EncoderError(f"the tokenizer of `{config.model}` cannot be loaded from {path}: {error}") from error
    if pooling.lower_case:
        inner = tokenizer.backend_tokenizer
        inner.normalizer = Sequence([Lowercase(), *([inner.normalizer] if inner.normalizer else [])])
    return tokenizer


def _model_config(config: TextEncoderConfig, path: Path) -> Any:
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise EncoderError(f"the configuration of `{config.model}` cannot be loaded from {path}: {error}") from error


def _network(config: TextEncoderConfig, path: Path) -> Any:
    """Load the encoder's weights. A checkpoint that leaves part of the network at random values is an error."""
    import torch

    from embedding_jobs.encoders.torch_runtime import declare_torchvision_operators

    declare_torchvision_operators()
    from safetensors import SafetensorError
    from transformers import AutoModel, AutoModelForTextEncoding
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    alone = _model_config(config, path).model_type in _ENCODERS_ALONE
    try:
        model, info = (AutoModelForTextEncoding if alone else AutoModel).from_pretrained(
            path,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            attn_implementation="sdpa",
            dtype=torch.float32,
            output_loading_info=True,
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise EncoderError(f"the encoder `{config.model}` cannot be loaded from {path}: {error}") from error
    # The pooler comes after the hidden states and is not used; many checkpoints have none.
    missing = sorted(key for key in info["missing_keys"] if not key.startswith("pooler."))
    if missing:
        raise EncoderError(
            f"the weights of `{config.model}` must cover the network, {len(missing)} are missing, first {missing[0]}"
        )
    model = model.get_encoder() if model.config.is_encoder_decoder else model
    return model.eval()
