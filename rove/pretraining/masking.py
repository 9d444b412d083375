"""Which tokens of a batch are hidden, and what stands in their place.

A token is chosen with probability `share`; of the chosen, 80 % become the mask token, 10 % another
token drawn uniformly, 10 % stay (Devlin et al. 2019, BERT, appendix A.1). The draw is new for every
batch. With whole words, all pieces of a word are chosen together. Special tokens never are.

    B texts, T tokens of the longest, M chosen tokens, V tokens of the vocabulary
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rove.errors import ConfigError

Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

_MASKED, _REPLACED = 0.8, 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """What masking and padding need to know of a tokenizer."""

    size: int
    pad: int
    mask: int
    special_V: Flags
    continues_V: Flags | None
    """Pieces that go on with the word before them; none where the tokenizer does not tell."""

    @classmethod
    def of(cls, tokenizer: Any) -> Vocabulary:
        """Read a fast tokenizer."""
        if tokenizer.mask_token_id is None:
            raise ConfigError(
                "the tokenizer of encoder.model has no mask token, so the model cannot be trained "
                "on masked texts; give an encoder of the BERT family, or pretrain.start: scratch"
            )
        size = len(tokenizer)
        special_V = np.zeros(size, dtype=bool)
        special_V[[one for one in tokenizer.all_special_ids if one < size]] = True
        prefix = getattr(tokenizer.backend_tokenizer.model, "continuing_subword_prefix", None)
        continues_V = None
        if prefix:
            continues_V = np.zeros(size, dtype=bool)
            tokens = tokenizer.convert_ids_to_tokens(range(size))
            continues_V[:] = [str(token).startswith(prefix) for token in tokens]
        return cls(
            size=size,
            pad=tokenizer.pad_token_id or 0,
            mask=int(tokenizer.mask_token_id),
            special_V=special_V,
            continues_V=continues_V,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Masked:
    """A batch with hidden tokens."""

    ids_BT: Ints
    places_M: Ints
    """Of the tokens to predict, in `ids_BT` read row by row."""
    targets_M: Ints
    """What stood there."""


def mask(
    ids_BT: Ints,
    vocabulary: Vocabulary,
    share: float,
    rng: np.random.Generator,
    *,
    whole_words: bool = False,
) -> Masked:
    """Hide tokens of a padded batch."""
    hideable_BT = ~vocabulary.special_V[ids_BT]
    if whole_words:
        chosen_BT = hideable_BT & _whole_words(ids_BT, vocabulary, share, rng)
    else:
        chosen_BT = hideable_BT & (rng.random(ids_BT.shape) < share)
    places_M = np.flatnonzero(chosen_BT)
    targets_M = ids_BT.reshape(-1)[places_M]
    fate_M = rng.random(len(places_M))
    others = np.flatnonzero(~vocabulary.special_V)
    drawn_M = rng.choice(others, size=len(places_M)) if len(others) else targets_M
    shown_M = np.where(fate_M < _MASKED + _REPLACED, drawn_M, targets_M)
    shown_M[fate_M < _MASKED] = vocabulary.mask
    hidden_BT = ids_BT.copy()
    hidden_BT.reshape(-1)[places_M] = shown_M
    return Masked(ids_BT=hidden_BT, places_M=places_M, targets_M=targets_M)


def _whole_words(
    ids_BT: Ints, vocabulary: Vocabulary, share: float, rng: np.random.Generator
) -> Flags:
    """Choose words with probability `share`, and with a word all of its pieces."""
    if vocabulary.continues_V is None:
        raise ConfigError(
            "pretrain.whole_words needs a WordPiece tokenizer, which marks the pieces of a word; "
            "set it to false"
        )
    first_BT = ~vocabulary.continues_V[ids_BT]
    first_BT[:, 0] = True
    word_BT = np.cumsum(first_BT.reshape(-1)).reshape(ids_BT.shape) - 1
    chosen = rng.random(int(word_BT[-1, -1]) + 1) < share
    chosen_BT: Flags = chosen[word_BT]
    return chosen_BT
