"""A language model that predicts hidden tokens, and how it is made, kept and read.

    logits = (LayerNorm(gelu(W h + b))) E' + c     for the states h of hidden tokens only

E is the input embedding (`tied`) or a matrix that starts as a copy of it (`new`). The projection to
the vocabulary is the largest product of a small model: it runs on the 15 % that are predicted.

The contrastive loss is unsupervised SimCSE (Gao et al. 2021): both views of a text are the same
tokens under different dropout, a batch's other texts are the negatives, those with the very same
tokens left out.

    B texts, T tokens of the longest, M predicted tokens, V tokens of the vocabulary, E dimensions
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional
from transformers import BertConfig, BertModel, PreTrainedModel, PreTrainedTokenizerFast

from rove.config import EncoderSection, PretrainSection, ScratchSection
from rove.encoder import load_model
from rove.errors import ConfigError
from rove.pretraining.masking import Vocabulary

_HEAD_DIMENSIONS = 32
_MOST_POSITIONS = 512
_HEAD_FILE = "masked_language_head.safetensors"


class MaskedLanguageModel(nn.Module):
    """An encoder with a head over its vocabulary."""

    def __init__(
        self,
        encoder: PreTrainedModel,
        *,
        tied: bool = True,
        contrastive: bool = False,
        temperature: float = 0.05,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        weight_VE: Tensor = encoder.get_input_embeddings().weight  # type: ignore[assignment]
        num_tokens, width = weight_VE.shape
        states = int(encoder.config.hidden_size)
        deviation = float(getattr(encoder.config, "initializer_range", 0.02))
        self.transform = nn.Linear(states, width)
        nn.init.normal_(self.transform.weight, std=deviation)
        if states == width:
            # Near to the identity: a pretrained encoder's states already resemble embeddings.
            with torch.no_grad():
                self.transform.weight += torch.eye(width)
        nn.init.zeros_(self.transform.bias)
        self.norm = nn.LayerNorm(width, eps=float(getattr(encoder.config, "layer_norm_eps", 1e-12)))
        self.bias_V = nn.Parameter(torch.zeros(num_tokens))
        self.output_VE = None if tied else nn.Parameter(weight_VE.detach().clone())
        self._contrastive = contrastive
        self._temperature = temperature

    def forward(
        self,
        ids_BT: Tensor,
        present_BT: Tensor | None,
        places_M: Tensor,
        targets_M: Tensor,
        clean_ids_BT: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return the summed cross-entropy of the predicted tokens (nats), and SimCSE's loss (0
        without it)."""
        states_BTE = self.states(ids_BT, present_BT)
        logits_MV = self.logits(states_BTE.flatten(0, 1)[places_M])
        loss = functional.cross_entropy(logits_MV.float(), targets_M, reduction="sum")
        if not self._contrastive or clean_ids_BT is None:
            return loss, loss.new_zeros(())
        first_BE = self._pooled(clean_ids_BT, present_BT)
        second_BE = self._pooled(clean_ids_BT, present_BT)
        return loss, contrastive_loss(first_BE, second_BE, clean_ids_BT, self._temperature)

    def states(self, ids_BT: Tensor, present_BT: Tensor | None) -> Tensor:
        """Return the last layer's states (B, T, E); without padding there is no mask to apply."""
        mask_BT = None if present_BT is None else present_BT.to(torch.int64)
        states_BTE: Tensor = self.encoder(input_ids=ids_BT, attention_mask=mask_BT)[0]
        return states_BTE

    def logits(self, states_ME: Tensor) -> Tensor:
        """Return the scores (M, V) of all tokens of the vocabulary."""
        hidden_ME = self.norm(functional.gelu(self.transform(states_ME)))
        weight_VE: Any = self.output_VE
        if weight_VE is None:
            weight_VE = self.encoder.get_input_embeddings().weight
        return functional.linear(hidden_ME, weight_VE, self.bias_V)

    def _pooled(self, ids_BT: Tensor, present_BT: Tensor | None) -> Tensor:
        """Return what `Encoder` serves: unit vectors (B, E) of the mean state."""
        states_BTE = self.states(ids_BT, present_BT).float()
        if present_BT is not None:
            states_BTE = states_BTE * present_BT[..., None]
        return functional.normalize(states_BTE.sum(1), dim=1)

    def save(self, folder: Path, tokenizer: Any) -> None:
        """Write what `encoder.model` takes, and the head beside it."""
        folder.mkdir(parents=True, exist_ok=True)
        self.encoder.save_pretrained(str(folder))
        tokenizer.save_pretrained(str(folder))
        save_file(self._head(), folder / _HEAD_FILE)

    def read_head(self, folder: Path) -> bool:
        """Take over the head that `save` wrote to `folder`, if there is one that fits."""
        path = folder / _HEAD_FILE
        if not path.is_file():
            return False
        saved, own = load_file(path), self._head()
        if {name: one.shape for name, one in saved.items()} != {k: v.shape for k, v in own.items()}:
            return False
        self.load_state_dict(saved, strict=False)
        return True

    def _head(self) -> dict[str, Tensor]:
        states = self.state_dict().items()
        return {k: v.contiguous() for k, v in states if not k.startswith("encoder.")}


def contrastive_loss(
    first_BE: Tensor, second_BE: Tensor, ids_BT: Tensor, temperature: float
) -> Tensor:
    """Return the mean of -log softmax_j(first_i . second_j / temperature) at j = i.

    Texts with the same tokens are not told apart.
    """
    scores_BB = first_BE @ second_BE.T / temperature
    same_BB = (ids_BT[:, None, :] == ids_BT[None, :, :]).all(-1)
    same_BB.fill_diagonal_(False)
    targets_B = torch.arange(len(scores_BB), device=scores_BB.device)
    return functional.cross_entropy(scores_BB.masked_fill(same_BB, -torch.inf), targets_B)


def from_encoder(
    config: EncoderSection, section: PretrainSection
) -> tuple[MaskedLanguageModel, Any]:
    """Put a head on the encoder that the `encoder` section `config` names; see `build`."""
    encoder, tokenizer = load_model(config)
    check_length(encoder, tokenizer, section.max_tokens)
    Vocabulary.of(tokenizer)  # refuses one without a mask token
    model = _with_head(encoder, section)
    model.read_head(Path(config.model))
    return model, tokenizer


def check_length(encoder: PreTrainedModel, tokenizer: Any, max_tokens: int) -> None:
    """Raise `ConfigError` where the encoder has fewer positions than texts have tokens."""
    known = getattr(encoder.config, "max_position_embeddings", max_tokens)
    limit = min(known, tokenizer.model_max_length)
    if max_tokens > limit:
        raise ConfigError(
            f"pretrain.max_tokens is {max_tokens}, but encoder.model reads at most {limit}; "
            "lower it"
        )


def from_scratch(
    section: PretrainSection, tokenizer: PreTrainedTokenizerFast
) -> MaskedLanguageModel:
    """Make a BERT of random weights for `tokenizer`."""
    return _with_head(
        BertModel(bert_config(section.scratch, section.max_tokens, tokenizer)), section
    )


def bert_config(
    shape: ScratchSection, max_tokens: int, tokenizer: PreTrainedTokenizerFast
) -> BertConfig:
    """Derive everything from width and depth."""
    return BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.hidden // _HEAD_DIMENSIONS,
        intermediate_size=4 * shape.hidden,
        max_position_embeddings=max(max_tokens, _MOST_POSITIONS),
        pad_token_id=tokenizer.pad_token_id,
    )


def build(
    config: EncoderSection, section: PretrainSection, tokenizer: Any | None
) -> tuple[MaskedLanguageModel, Any]:
    """Make the model that a run starts from, the same for the same seed, and its tokenizer.

    `config` is the `encoder` section; `tokenizer` is the one trained on the corpus, or none.
    """
    torch.manual_seed(section.seed)
    if tokenizer is not None:
        return from_scratch(section, tokenizer), tokenizer
    return from_encoder(config, section)


def decay_groups(model: nn.Module, weight_decay: float) -> Sequence[dict[str, Any]]:
    """Split the parameters: matrices decay, biases and gains do not."""
    trained = [one for one in model.parameters() if one.requires_grad]
    return [
        {"params": [one for one in trained if one.ndim > 1], "weight_decay": weight_decay},
        {"params": [one for one in trained if one.ndim <= 1], "weight_decay": 0.0},
    ]


def _with_head(encoder: PreTrainedModel, section: PretrainSection) -> MaskedLanguageModel:
    if getattr(encoder, "pooler", None) is not None:
        encoder.pooler = None  # type: ignore[assignment]
    if section.attention_dropout is not None:
        _set_attention_dropout(encoder, section.attention_dropout)
    return MaskedLanguageModel(
        encoder,
        tied=section.head == "tied",
        contrastive=section.contrastive_weight > 0,
        temperature=section.contrastive_temperature,
    )


def _set_attention_dropout(encoder: PreTrainedModel, share: float) -> None:
    """Change it in the modules only: the saved configuration stays the encoder's own."""
    layers = [one for one in encoder.modules() if type(one).__name__.endswith("SelfAttention")]
    found = [one for layer in layers for one in layer.children() if isinstance(one, nn.Dropout)]
    if not found:
        raise ConfigError(
            f"pretrain.attention_dropout cannot be set for a {type(encoder).__name__}; remove it"
        )
    for dropout in found:
        dropout.p = share
