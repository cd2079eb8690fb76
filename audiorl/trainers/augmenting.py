"""Training clips are augmented, evaluation clips never: one collator for each, and workers that know the epoch."""

from __future__ import annotations

import copy
from typing import Any

from audiorl.augment import load_augmentation
from audiorl.collator import SpeechCollator
from audiorl.trainers.config import SpeechConfig


class TrainingAugmentation:
    """What a config says about augmenting clips; it does nothing where the config says nothing.

    Attributes:
        augmentation: None where training clips are heard as they are.
        growth: how much longer a clip can get; None where it keeps its length.
    """

    def __init__(self, args: SpeechConfig):
        seed = args.seed if args.data_seed is None else args.data_seed
        self.augmentation = None if args.augmentation is None else load_augmentation(args.augmentation, seed=seed)
        self.growth = None if self.augmentation is None else self.augmentation.growth

    def __bool__(self) -> bool:
        return self.augmentation is not None

    def collator(self, plain: Any) -> Any:
        """The collator of training batches; that of evaluation batches stays `plain`.

        Raises:
            ValueError: the clips are to be augmented in a collator that cannot do it.
        """
        if self.augmentation is None:
            return plain
        if not isinstance(plain, SpeechCollator):
            raise ValueError(
                f"augmentation acts in SpeechCollator; data_collator is a {type(plain).__name__}. Leave it out, "
                "or turn augmentation off and augment in your own collator (audiorl.augment.load_augmentation)."
            )
        augmented = copy.copy(plain)
        augmented.augment_with(self.augmentation)
        return augmented

    def begin_epoch(self, epoch: int) -> None:
        """Tell the loader's workers the epoch before its iterator is made; a resumed one comes with its own number."""
        if self.augmentation is not None:
            self.augmentation.set_epoch(epoch)
