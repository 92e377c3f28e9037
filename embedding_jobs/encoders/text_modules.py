"""Find how a text's vector is made: by the study's `pooling`, or by what the model's folder says of itself.

A folder of sentence-transformers lists its modules in `modules.json`: Transformer, Pooling, then Dense layers and
Normalize where it has them. Only its JSON files are read here, which needs no torch.

References:
    Reimers & Gurevych, "Sentence-BERT" (2019), https://arxiv.org/abs/1908.10084
    The files: https://sbert.net/docs/sentence_transformer/usage/custom_models.html
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from embedding_jobs.encoders.config import Pooling, TextEncoderConfig
from embedding_jobs.errors import EncoderError

# What is taken over the tokens; the order is that of the concatenation in older files, whose modes are switches.
Mode = Literal["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]

_MODULES = "modules.json"

_PROMPTS = "config_sentence_transformers.json"

# The settings of a Transformer, under the names that the library has given this file; the first one there is read.
_TRANSFORMER = [
    f"sentence_{name}_config.json"
    for name in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
]

_DEFAULT_LAYERS = 2

_File = TypeVar("_File")


@dataclass(frozen=True)
class DenseLayer:
    """A linear layer after the pooling.

    Attributes:
        weights: File of `linear.weight` and `linear.bias`.
        activation: Name of a class in `torch.nn`.
    """

    weights: Path
    n_inputs: int
    n_outputs: int
    bias: bool
    activation: str


@dataclass(frozen=True)
class TextPooling:
    """How a text's vector is made.

    Attributes:
        name: The pooling; `model` where the model's folder decides.
        network: Folder of the network and its tokenizer.
        modes: What is taken of a layer's hidden states; the results are concatenated.
        n_layers: How many of the last layers are pooled.
        prefix: Put in front of every text.
        include_prompt: Whether the prefix's tokens are pooled too.
        dense: Layers after the pooling, in order.
        normalize: Whether the vector is then scaled to length 1.
        dimension: How many of the vector's first numbers are kept; None keeps all.
        max_tokens: Length at which the model cuts texts; None leaves it to the network and its tokenizer.
        lower_case: Whether texts are lower-cased, whatever the tokenizer does.
    """

    name: Pooling
    network: Path
    modes: tuple[Mode, ...]
    n_layers: int = 1
    prefix: str = ""
    include_prompt: bool = True
    dense: tuple[DenseLayer, ...] = ()
    normalize: bool = False
    dimension: int | None = None
    max_tokens: int | None = None
    lower_case: bool = False


def text_pooling(config: TextEncoderConfig, folder: Path) -> TextPooling:
    """Return how a text's vector is made.

    Args:
        config: The study's settings; without `pooling`, the folder decides where it has a `modules.json`.
        folder: The model's files.

    Raises:
        EncoderError: A setting does not fit the folder, or its modules are not supported.
    """
    if config.pooling not in (None, *get_args(Pooling)):
        raise EncoderError(f"`pooling` must be {', '.join(get_args(Pooling))}, got {config.pooling!r}")
    described = (folder / _MODULES).is_file()
    name = config.pooling or ("model" if described else "last_layers_mean")
    if name == "model":
        if not described:
            raise EncoderError(
                f"`pooling` must be last_layers_mean, mean or cls for {config.model}, got 'model': "
                f"its folder has no {_MODULES}, which models of sentence-transformers have"
            )
        return _of_folder(config, folder)
    layers = (config.layers or _DEFAULT_LAYERS) if name == "last_layers_mean" else 1
    return TextPooling(name, folder, ("cls",) if name == "cls" else ("mean",), layers, config.prefix or "")


class _Checked(BaseModel):
    # A key that is not known here may change the vectors: it is refused.
    model_config = ConfigDict(extra="forbid", strict=True)


class _Module(_Checked):
    idx: int
    name: str
    path: Annotated[str, Field(pattern=r"^(\w[\w.-]*)?$")]
    type: str
    kwargs: list[str] = []

    @property
    def kind(self) -> str:
        """The class's name if the library has it: its path there has changed, and another's may run other code."""
        return self.type.rpartition(".")[2] if self.type.startswith("sentence_transformers.") else self.type


class _Transformer(_Checked):
    max_seq_length: Annotated[int, Field(ge=3)] | None = None
    do_lower_case: bool = False
    transformer_task: Literal["feature-extraction"] = "feature-extraction"
    # Other modalities are not asked for, but with "message" even a text goes through a chat template.
    modality_config: dict[Literal["text"], dict[str, Literal["forward", "last_hidden_state"]]] = {}
    module_output_name: Literal["token_embeddings"] = "token_embeddings"
    processing_kwargs: None = None
    tokenizer_name_or_path: None = None
    tokenizer_args: dict[str, Any] = {}
    processor_kwargs: dict[str, Any] = {}
    # They change how the library computes, and the vectors by no more than rounding.
    model_args: dict[str, Any] = {}
    model_kwargs: dict[str, Any] = {}
    config_args: dict[str, Any] = {}
    config_kwargs: dict[str, Any] = {}
    unpad_inputs: bool | None = None
    # Only the library's `encode_query` and `encode_document` read them.
    query_length: int | None = None
    document_length: int | None = None


class _Pooling(_Checked):
    word_embedding_dimension: int | None = None
    embedding_dimension: int | None = None
    pooling_mode: Mode | Annotated[list[Mode], Field(min_length=1)] | None = None
    include_prompt: bool = True
    cls: bool = Field(False, alias="pooling_mode_cls_token")
    max: bool = Field(False, alias="pooling_mode_max_tokens")
    mean: bool = Field(False, alias="pooling_mode_mean_tokens")
    mean_sqrt_len_tokens: bool = Field(False, alias="pooling_mode_mean_sqrt_len_tokens")
    weightedmean: bool = Field(False, alias="pooling_mode_weightedmean_tokens")
    lasttoken: bool = Field(False, alias="pooling_mode_lasttoken")

    @property
    def modes(self) -> tuple[Mode, ...]:
        if self.pooling_mode is not None:
            return (self.pooling_mode,) if isinstance(self.pooling_mode, str) else tuple(self.pooling_mode)
        return tuple(mode for mode in get_args(Mode) if getattr(self, mode)) or ("mean",)


class _Normalize(_Checked):
    module_input_name: Literal["sentence_embedding"] = "sentence_embedding"
    module_output_name: Literal["sentence_embedding"] | None = None


class _Dense(_Normalize):
    in_features: int
    out_features: int
    bias: bool = True
    activation_function: Annotated[
        str, Field(pattern=r"^torch\.nn\.(modules\.\w+\.)?(Identity|Tanh|ReLU|GELU|SiLU|Sigmoid)$")
    ] = "torch.nn.Tanh"
    use_residual: Literal[False] = False


class _Prompts(BaseModel):
    prompts: dict[str, str | None] = {}
    default_prompt_name: str | None = None
    truncate_dim: Annotated[int, Field(ge=1)] | None = None


def _of_folder(config: TextEncoderConfig, folder: Path) -> TextPooling:
    """Return what the model's folder says, with the study's prefix if it has one."""
    if config.layers is not None:
        raise EncoderError(
            f"`layers` must be left out where the {_MODULES} of {config.model} decides the pooling, got "
            f"{config.layers}: remove it, or set `pooling: last_layers_mean`"
        )
    modules = _read(config, list[_Module], folder / _MODULES)
    kinds = [module.kind for module in modules]
    n_dense, normalize = kinds.count("Dense"), "Normalize" in kinds
    expected = ["Transformer", "Pooling"] + ["Dense"] * n_dense + ["Normalize"] * normalize
    for number, (module, wanted) in enumerate(zip_longest(modules, expected)):
        if module is None or module.kind != wanted:
            found = f"got {module.type}" if module else "there is none"
            raise _unsupported(config, f"its module {number} must be {wanted or 'Dense or Normalize'}, {found}")
    paths = [folder / module.path for module in modules]
    files = [paths[0] / name for name in _TRANSFORMER]
    transformer = _read(config, _Transformer, next((file for file in files if file.is_file()), None))
    pooling = _read(config, _Pooling, paths[1] / "config.json")
    if normalize:
        _read(config, _Normalize, paths[-1] / "config.json")  # is only checked
    prompts = _read(config, _Prompts, folder / _PROMPTS)
    prompt = prompts.prompts.get(prompts.default_prompt_name or "")
    if prompts.default_prompt_name and prompts.default_prompt_name not in prompts.prompts:
        raise _unsupported(config, f"{_PROMPTS} has no prompt {prompts.default_prompt_name!r}")
    limit = {**transformer.tokenizer_args, **transformer.processor_kwargs}.get("model_max_length")
    return TextPooling(
        "model",
        paths[0],
        pooling.modes,
        prefix=(prompt or "") if config.prefix is None else config.prefix,
        include_prompt=pooling.include_prompt,
        dense=tuple(_dense(config, path) for path in paths[2 : 2 + n_dense]),
        normalize=normalize,
        dimension=prompts.truncate_dim,
        max_tokens=int(limit) if limit else transformer.max_seq_length,
        lower_case=transformer.do_lower_case,
    )


def _dense(config: TextEncoderConfig, path: Path) -> DenseLayer:
    layer = _read(config, _Dense, path / "config.json")
    weights = next(
        (file for name in ("model.safetensors", "pytorch_model.bin") if (file := path / name).is_file()), None
    )
    if weights is None:
        raise _unsupported(config, f"its Dense layer in {path} has no model.safetensors")
    activation = layer.activation_function.rpartition(".")[2]
    return DenseLayer(weights, layer.in_features, layer.out_features, layer.bias, activation)


def _read(config: TextEncoderConfig, kind: type[_File], file: Path | None) -> _File:
    """Read and check a JSON file; one that is not there is empty, as for the library."""
    try:
        text = file.read_bytes() if file is not None and file.is_file() else b"{}"
        return TypeAdapter(kind).validate_json(text)
    except OSError as error:
        raise EncoderError(f"{file} of `{config.model}` cannot be read: {error.strerror or error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        at = ".".join(map(str, first["loc"]))
        raise _unsupported(config, f"{file}: {f'`{at}`: ' if at else ''}{first['msg']}") from error


def _unsupported(config: TextEncoderConfig, reason: str) -> EncoderError:
    return EncoderError(
        f"`pooling: model` cannot follow what {config.model} says of itself: {reason}. It follows Transformer, "
        "Pooling, Dense and Normalize of sentence-transformers; set `pooling` to last_layers_mean, mean or cls"
    )
