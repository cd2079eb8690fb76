"""Training clips are augmented, evaluation clips never: one collator for each, and workers that know the epoch."""

from __future__ import annotations

import copy
from typing import Any

from datasets import Dataset
from torch.utils.data import DataLoader

from audiorl.augment import Augmentation, load_augmentation
from audiorl.collator import SpeechCollator
from audiorl.datasets import RowFault
from audiorl.datasets.growth import growth_faults
from audiorl.models import SpeechFamily
from audiorl.trainers.checkpoints import WholeCheckpoints
from audiorl.trainers.config import SpeechConfig


class AugmentedTraining(WholeCheckpoints):
    """A `Trainer` whose training batches, and no others, come from `data_collator` with an augmentation.

    Attributes:
        augmentation: None where training clips are heard as they are.
    """

    augmentation: Augmentation | None = None
    data_collator: Any
    family: SpeechFamily
    text_columns: tuple[str, ...]

    def set_augmentation(self, args: SpeechConfig) -> None:
        """Read the description; the rest of the trainer need not be there yet."""
        if args.augmentation is not None:
            seed = args.seed if args.data_seed is None else args.data_seed
            self.augmentation = load_augmentation(args.augmentation, seed=seed)

    def check_augmentation(self) -> None:
        """Raises what `get_train_dataloader` would raise."""
        if self.augmentation is not None:
            self._augmented(self.data_collator)

    def growth_faults(self, rows: Dataset) -> list[RowFault]:
        """The faults of training rows that come of playing them slower or faster."""
        return growth_faults(
            rows,
            text_columns=self.text_columns,
            max_seconds=self.family.max_seconds,
            last_time=self.family.last_time,
            growth=None if self.augmentation is None else self.augmentation.growth,
        )

    def get_train_dataloader(self) -> DataLoader:
        plain = self.data_collator
        if self.augmentation is not None:
            self.data_collator = self._augmented(plain)
        try:
            return super().get_train_dataloader()
        finally:
            self.data_collator = plain

    def _run_epoch(self, *args: Any, epoch: int, **kwargs: Any) -> Any:
        """Tell the loader's workers the epoch before its iterator is made; a resumed one comes with its own number."""
        if self.augmentation is not None:
            self.augmentation.set_epoch(epoch)
        return super()._run_epoch(*args, epoch=epoch, **kwargs)

    def _augmented(self, collator: Any) -> SpeechCollator:
        if not isinstance(collator, SpeechCollator):
            raise ValueError(
                f"augmentation acts in SpeechCollator; data_collator is a {type(collator).__name__}. Leave it out, "
                "or turn augmentation off and augment in your own collator (audiorl.augment.load_augmentation)."
            )
        augmented = copy.copy(collator)
        augmented.augment_with(self.augmentation)
        return augmented
