"""A WordPiece tokenizer that is trained on the corpus, for models that start from nothing.

The trainer of `tokenizers` numbers the pieces inside words in the order of a hash table, which
decides ties: two runs give two vocabularies. Here every character is numbered beforehand, by
frequency, so the same texts give the same tokenizer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers.trainers import WordPieceTrainer
from transformers import PreTrainedTokenizerFast

from rove.errors import DataError

_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_CONTINUES = "##"
_FEWEST_TOKENS = 32
_ALPHABET_SHARE = 0.2  # of the vocabulary; rarer characters are unknown
_LONGEST_DEFAULT = 512


def train_tokenizer(
    texts: Callable[[], Iterable[str]], vocabulary: int, max_tokens: int
) -> PreTrainedTokenizerFast:
    """Learn at most `vocabulary` pieces of lower-cased words, special tokens included.

    `texts` is called twice: for the alphabet, and for the pieces.
    """
    alphabet = _alphabet(texts(), max(1, int(_ALPHABET_SHARE * vocabulary)))
    numbered = [*_SPECIAL, *alphabet, *(_CONTINUES + one for one in alphabet)]
    backend = _backend(models.WordPiece(unk_token="[UNK]"))
    trainer = WordPieceTrainer(
        vocab_size=max(vocabulary, len(numbered)),
        special_tokens=numbered,
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        continuing_subword_prefix=_CONTINUES,
        show_progress=False,
    )
    backend.train_from_iterator(texts(), trainer)
    pieces = backend.get_vocab()
    if len(pieces) < _FEWEST_TOKENS:
        raise DataError(
            f"the corpus has only {len(pieces)} different tokens, too few to train a tokenizer on; "
            "add texts, or set pretrain.start to encoder"
        )
    # Built anew: the trained one holds the numbered characters for special tokens.
    trained = _backend(models.WordPiece(pieces, unk_token="[UNK]"))
    trained.post_processor = processors.BertProcessing(
        ("[SEP]", _SPECIAL.index("[SEP]")), ("[CLS]", _SPECIAL.index("[CLS]"))
    )
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=trained,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=max(max_tokens, _LONGEST_DEFAULT),
    )


def _backend(model: models.Model) -> Tokenizer:
    backend = Tokenizer(model)
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    return backend


def _alphabet(texts: Iterable[str], limit: int) -> list[str]:
    """Return the most frequent characters of words, in order of frequency, then of the code."""
    normalizer = normalizers.BertNormalizer(lowercase=True)
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(normalizer.normalize_str(text))
    ranked = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    return [one for one, _ in ranked if not one.isspace()][:limit]
