"""A trainer whose saved models and checkpoints carry a model card.

1. The card is written beside the weights, before both appear (`checkpoints.py`).
2. `record_data` and `record_evaluation` tell it what a trainer cannot know by itself: what the rows are called, and how
   many errors the model made before and after.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from accelerate.utils import is_peft_model
from huggingface_hub import get_token

from audiorl.evaluation import Comparison, Decoded, compare, paired_bootstrap
from audiorl.evaluation.labels import LabelAnswers
from audiorl.evaluation.results import decoding_in_force
from audiorl.model_card import MODEL_CARD, RESULTS_FOLDER, WRONG_LABELS, BeforeAndAfter, CardFacts, DataSource, Run
from audiorl.model_card import write_card as write_card_files
from audiorl.model_card.methods import method_of, papers
from audiorl.models import SpeechFamily, base_model
from audiorl.models.footprint import parameter_counts
from audiorl.text.normalizers import Normalizer
from audiorl.trainers import run_facts
from audiorl.trainers.checkpoints import WholeCheckpoints, publish_files, staging_dir


class DescribedTrainer(WholeCheckpoints):
    """Writes the card of its model.

    Attributes:
        data_source: what is known of the training rows.
        measurement: what `record_evaluation` was told last.
    """

    family: SpeechFamily
    normalizer: Normalizer
    data_source: DataSource | None = None
    measurement: BeforeAndAfter | None = None
    card_tags: tuple[str, ...] = ()
    card_name: str | None = None
    hub_model_id: str | None = None

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.stopwatch = run_facts.Stopwatch()
        self.add_callback(self.stopwatch)

    def train(self, *args: Any, **kwargs: Any) -> Any:
        if self.is_world_process_zero():
            self.card_facts(self.args.output_dir)  # what would keep a card from being written shows before the run
        return super().train(*args, **kwargs)

    # ---- what a trainer has to be told ----

    def record_data(self, source: DataSource) -> None:
        """Tell the card what the training rows are called; their count is the trainer's to fill in."""
        self.data_source = source

    def record_evaluation(self, before: Decoded, after: Decoded, source: DataSource | None = None) -> Comparison:
        """Compare what the model said before and after training, and put WER and CER on the card.

        Of a family that answers with labels it is the share of wrong ones. A card that lies in `output_dir` already is
        written anew.

        Args:
            before, after: from `decode`, of the same rows; every process calls.
            source: what these rows are called; default nameless.

        Returns:
            The comparison in words, in characters for scripts without spaces, or of labels.

        Raises:
            ValueError: the two are not of the same clips, or there are fewer than two.
        """
        if self.family.labels is None:
            rates = compared_texts(before, after, self.normalizer)
        else:
            rates = {WRONG_LABELS: compared_labels(before, after)}
        decoding = decoding_in_force(self.model, {}, self.args.per_device_eval_batch_size)
        decoding = {**run_facts.search_of(self.model, decoding), **decoding}
        self.measurement = BeforeAndAfter(rates, source or DataSource(), decoding)
        if os.path.exists(os.path.join(self.args.output_dir, MODEL_CARD)):
            self.create_model_card()
        return self.measurement.main[1]

    # ---- the card ----

    def create_model_card(
        self, model_name: str | None = None, dataset_name: str | None = None, tags: str | list[str] | None = None
    ) -> None:
        """Write the card into `output_dir`, in one rename; the first process does.

        Args:
            model_name: of the tuned model; default as on the Hub, or the folder's.
            dataset_name: id of the training rows on the Hub, if `record_data` was not told.
            tags: beside those of method and model.
        """
        self._note(model_name, dataset_name, tags)
        if not self.is_world_process_zero():
            return
        final = self.args.output_dir
        staged = os.path.join(staging_dir(final), "card")
        os.makedirs(staged, exist_ok=True)
        self._write_card(staged, final)
        publish_files(staged, final)
        shutil.rmtree(staging_dir(final), ignore_errors=True)

    def describe(self, staged: str, final: str) -> None:
        super().describe(staged, final)
        if is_peft_model(self.model) and getattr(base_model(self.model), "can_generate", bool)():
            # an adapter alone would leave how it decodes to whatever the base's folder says later
            base_model(self.model).generation_config.save_pretrained(staged)
        self._write_card(staged, final)

    def _note(
        self, model_name: str | None = None, dataset_name: str | None = None, tags: str | list[str] | None = None
    ) -> None:
        """Keep what a caller says of the card, for this one and those that follow."""
        self.card_name = model_name or self.card_name
        if dataset_name is not None and self.data_source is None:
            self.data_source = DataSource(dataset_name, on_hub=not os.path.exists(dataset_name))
        if tags is not None:
            self.card_tags = (tags,) if isinstance(tags, str) else tuple(tags)

    def _write_card(self, folder: str, final: str, *, merged: bool = False) -> None:
        shutil.rmtree(Path(folder) / RESULTS_FOLDER, ignore_errors=True)
        write_card_files(self.card_facts(final, merged=merged), folder, (self.args.hub_token, get_token()))

    def card_facts(self, folder: str, *, merged: bool = False) -> CardFacts:
        """What the card of a model in `folder` says; `merged` where its adapter is part of the weights there."""
        model, args = self.model, self.args
        base, on_hub = run_facts.base_name(model)
        method, adapter = method_of(type(self)), run_facts.adapter_of(model)
        settings, losses = run_facts.changed_settings(args), run_facts.losses_of(args)
        license_id, license_link = run_facts.license_of(model)
        trained, parameters = parameter_counts(model)
        return CardFacts(
            model_name=self.card_name or os.path.basename(self.hub_name().rstrip("/")),
            load_name=self.hub_name() if args.push_to_hub or self.hub_model_id else os.fspath(folder),
            base_model=base,
            base_on_hub=on_hub,
            model_type=base_model(model).config.model_type,
            model_class=type(base_model(model)).__name__,
            pipeline_tag=run_facts.pipeline_tag(model, self.train_dataset),
            trainer=type(self).__name__,
            method=method,
            papers=papers(method, losses, settings, adapter.kind if adapter else None),
            losses=losses,
            settings=settings,
            clips_per_step=self._train_batch_size * args.gradient_accumulation_steps * args.world_size,
            trained_parameters=trained,
            parameters=parameters,
            data=self._data_source(),
            rewards=self._reward_weights(),
            languages=run_facts.languages_of(model, self.train_dataset, args.language),
            license=license_id,
            license_link=license_link,
            sampling_rate=self.family.sampling_rate,
            window=self.family.max_seconds,
            run=self._run(),
            runs_in_pipeline=run_facts.runs_in_pipeline(
                model, self.processing_class, adapted=adapter is not None and not merged
            ),
            call_settings=run_facts.call_settings(model, args),
            row_settings=run_facts.row_settings(args, self.train_dataset),
            adapter=None if merged else adapter,
            merged=merged,
            measurement=self.measurement,
            tags=self.card_tags,
        )

    def hub_name(self) -> str:
        """The model's id on the Hub as far as it is known: without its owner where the Hub was not reached yet."""
        return self.hub_model_id or self.args.hub_model_id or os.path.basename(os.path.abspath(self.args.output_dir))

    def _reward_weights(self) -> dict[str, float]:
        rewards = getattr(self, "rewards", None)
        return dict(zip(rewards.names, rewards.weights, strict=True)) if rewards is not None else {}

    def _data_source(self) -> DataSource:
        source = self.data_source or DataSource()
        rows = len(self.train_dataset) if hasattr(self.train_dataset, "__len__") else None
        return source if source.rows is not None else DataSource(**{**vars(source), "rows": rows})

    def _run(self) -> Run:
        return Run(
            seconds=self.stopwatch.seconds,
            first_step=self.stopwatch.first_step,
            last_step=self.state.global_step,
            hardware=run_facts.hardware(self.args, self.accelerator.distributed_type),
            versions=run_facts.versions(),
            logged=run_facts.last_logged_rates(self.state.log_history),
        )


def compared_texts(before: Decoded, after: Decoded, normalise: str | Normalizer) -> dict[str, Comparison]:
    """WER and CER; CER alone where a script without spaces makes characters the unit of both."""
    words, characters = (compare(before, after, unit=unit, normalise=normalise) for unit in ("auto", "character"))
    return {"CER": characters} if words.after.unit == "character" else {"WER": words, "CER": characters}


def compared_labels(before: Decoded, after: Decoded) -> Comparison:
    """One error for each clip whose label is not the row's."""
    first, second = (LabelAnswers(said.transcripts, list(said.hypotheses)).errors("none") for said in (before, after))
    return Comparison(first, second, paired_bootstrap(first, second))
