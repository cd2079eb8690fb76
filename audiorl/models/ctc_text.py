"""Transcripts as the symbols of a CTC model, and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from audiorl.models.family import TokenizedText

# Unknown characters that an error names.
NAMED = 8


class CTCText:
    """What a tokenizer of symbols needs beside itself: the letters' case, the blank around a transcript.

    A vocabulary that has only capitals is written in capitals, one that has only small letters in small ones; nothing
    else of a transcript is changed but runs of spaces.

    Args:
        tokenizer: of the checkpoint, `Wav2Vec2CTCTokenizer` or `ParakeetTokenizer` for example.
        blank: id of the model's blank.
        vocab_size: symbols that the model writes.

    Raises:
        ValueError: the tokenizer's padding, which is transformers' name for the blank, is another symbol.
    """

    def __init__(self, tokenizer: Any, blank: int, vocab_size: int):
        if tokenizer.pad_token_id != blank:
            raise ValueError(
                f"The model's blank is symbol {blank} (config.pad_token_id), the tokenizer's is "
                f"{tokenizer.pad_token_id} ({tokenizer.pad_token!r}). Load the processor from the model's own "
                "checkpoint."
            )
        self.tokenizer, self.blank, self.vocab_size = tokenizer, blank, vocab_size
        # Wav2Vec2's tokenizer counts the mark between words, which is said, among its special tokens
        self.special = {*tokenizer.all_special_ids, blank} - {getattr(tokenizer, "word_delimiter_token_id", None)}
        letters = "".join(symbol for symbol, i in tokenizer.get_vocab().items() if i not in self.special)
        upper, lower = any(map(str.isupper, letters)), any(map(str.islower, letters))
        self.case = str.upper if upper and not lower else str.lower if lower and not upper else str

    def ids(self, text: str) -> list[int]:
        """The symbols of a text, whatever they are."""
        written = self.case(" ".join(text.split()))
        return self.tokenizer(written, add_special_tokens=False).input_ids if written else []

    def tokenize(self, text: str) -> TokenizedText:
        """Blank, symbols, blank: the seam wants a token before the first that counts, and one that ends.

        Raises:
            ValueError: characters that the model cannot write.
        """
        ids = self.ids(text)
        if any(i in self.special or i >= self.vocab_size for i in ids):
            lost = [c for c in dict.fromkeys(self.case(text)) if not c.isspace() and self._is_lost(c)]
            shown = ", ".join(map(repr, lost[:NAMED])) + (", ..." if len(lost) > NAMED else "")
            raise ValueError(
                f"the model's vocabulary has no symbol for {shown or 'a part of it'}. Spell it out, or take it out of "
                "the text (audiorl.text.normalizers)."
            )
        return TokenizedText([self.blank, *ids, self.blank], 1)

    def _is_lost(self, character: str) -> bool:
        return any(i in self.special or i >= self.vocab_size for i in self.ids(character))

    def decode(self, ids: Sequence[int]) -> str:
        """Symbols, blanks among them or not, that are a transcript already: two of a kind stay two."""
        said = [i for i in ids if i not in self.special]
        return self.tokenizer.decode(
            said, skip_special_tokens=True, group_tokens=False, clean_up_tokenization_spaces=False
        )
