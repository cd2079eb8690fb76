"""From rows to pairs, one batch at a time.

1. Decode the clips.
2. Hard cases only, where other systems' transcripts are given: keep clips on which these agree and the model does not.
3. Encode each clip once, make K hypotheses of each, equal ones counted once, and reward them; the transcript is
   rewarded beside them.
4. A strategy pairs texts that the filters allow. Texts that are empty, or too long for the decoder, cannot be learnt
   from and are in no pair; neither are two texts of equal reward, nor two that the normaliser or the model's own
   spelling makes equal.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from audiorl.batch import AUDIO_COMPANIONS, AUDIO_KEYS, GroupBatch
from audiorl.collator import SpeechCollator
from audiorl.datasets import BadRowsError, SkippedRows, judge_row
from audiorl.datasets.checks import UNLIMITED
from audiorl.evaluation import count_errors
from audiorl.evaluation.transcription import row_settings
from audiorl.models import SpeechFamily
from audiorl.models.sampling import rollout_noise
from audiorl.pairs.corruptions import synthetic_negatives
from audiorl.pairs.records import MinedBatch, MinedClip, check_columns, own_columns
from audiorl.pairs.settings import OF_TRANSCRIPT, STRATEGIES, TRANSCRIPT, MiningConfig, Pair, ScoredTexts, is_hard_case
from audiorl.rewards import Hallucination, KeywordRecall, NoStockPhrases, RewardError, RewardSet, RightScript
from audiorl.rewards.hallucination import INVENTED_UNITS, ONE_CHARACTER_OVER_AND_OVER
from audiorl.text.normalizers import Normalizer, normalizer

# A hypothesis this many times as long as its transcript is a loop: it is as wrong as it needs to be and is cut there.
LOOP_LENGTH = 2
LOOP_SLACK = 16
# Where there is no transcript to tell a loop by.
UNTOLD_TOKENS = 256

AnyRow = Mapping[str, Any]


class Hypothesis(NamedTuple):
    """One text that might be taken for the transcript."""

    text: str
    ids: list[int]  # its tokens; empty without a model
    score: float  # sum of log-probabilities in nats, or a beam's score; NaN without a model
    origin: str


def model_hypotheses(
    family: SpeechFamily, model: nn.Module, batch: GroupBatch, states: Tensor, config: MiningConfig
) -> list[list[Hypothesis]]:
    """The model's own hypotheses of B clips, each clip encoded once: one list for each clip.

    Args:
        batch: on the model's device, with the transcripts as the only hypothesis.
        states: what the encoder says of the clips.
    """
    limits = LOOP_LENGTH * batch.keep.sum(-1) + LOOP_SLACK  # (B, 1), each clip's own, whatever lies beside it
    if config.max_new_tokens is not None or config.pseudo_labels:
        limits = torch.full_like(limits, config.max_new_tokens or UNTOLD_TOKENS)
    found: list[list[Hypothesis]] = [[] for _ in range(len(batch.row_ids))]
    for draw, temperature in enumerate(config.temperature):
        if config.source == "beams":
            beams = family.beam_groups(
                model,
                batch,
                config.num_generations,
                states,
                max_tokens=int(limits.max()),
                temperature=temperature,
            )
            tokens, keep, scores = beams.tokens, beams.keep, beams.scores
        else:
            noise = _noise(family, batch, int(limits.max()), draw, config)
            samples = family.sample_groups(model, batch, noise, states, temperature=temperature)
            tokens, keep, scores = samples.tokens, samples.keep, samples.logps.double().sum(-1)
        within = keep & (keep.cumsum(-1) <= limits[..., None])
        origin = f"{config.source.removesuffix('s')}@{temperature:g}"
        for clip, texts in enumerate(family.text(tokens, within)):
            ids = [row[kept].tolist() for row, kept in zip(tokens[clip, :, 1:], within[clip], strict=True)]
            made = zip(texts, ids, scores[clip].tolist(), strict=True)
            found[clip] += [Hypothesis(text, own, score, origin) for text, own, score in made]
    return found


def _noise(family: SpeechFamily, batch: GroupBatch, max_tokens: int, draw: int, config: MiningConfig) -> Tensor:
    noise = rollout_noise(
        batch.row_ids.tolist(),
        seed=config.seed,
        step=draw,
        num_generations=config.num_generations,
        max_tokens=family.noise_length(batch, max_tokens),
    )
    return noise.to(batch.tokens.device)


def corrupted_hypotheses(row: AnyRow, config: MiningConfig) -> list[Hypothesis]:
    """Synthetic negatives of one row, their randomness drawn from the seed and the row's number."""
    made = synthetic_negatives(
        row["text"],
        count=config.num_generations,
        seed=f"{config.seed} {row['row_id']}",
        language=row.get("language") or config.language,
        keywords=row.get("keywords"),
        kinds=config.corruptions,
        normalise=config.normalise,
        translate=config.translate,
    )
    return [Hypothesis(text, [], float("nan"), kind) for text, kind in made]


@torch.no_grad()
def decoded_texts(family: SpeechFamily, model: nn.Module, batch: GroupBatch, rows: Sequence[AnyRow]) -> list[str]:
    """What the model says of B clips as its generation config tells it to."""
    audio = {name: batch.tensors[name] for name in (*AUDIO_KEYS, *AUDIO_COMPANIONS) if name in batch}
    return family.transcribe(model, audio, **row_settings(rows, family))


Row = dict[str, Any]
UNUSABLE = "rows that cannot be used"
NO_HARD_CASE = "clips that are no hard cases"
NO_FAILURE = "clips on which no hypothesis fails as asked"


class Candidates(NamedTuple):
    """One clip's distinct texts, place 0 the transcript, and how often each was found."""

    row: Row
    texts: list[Hypothesis]
    copies: list[int]


def distinct_texts(row: Row, transcript: Hypothesis, found: Sequence[Hypothesis], plain: Normalizer) -> Candidates:
    """Hypotheses that the normaliser makes equal stand once, as the first; one equal to the transcript stays."""
    kept: dict[str, Hypothesis] = {}
    copies: dict[str, int] = {}
    for hypothesis in found:
        key = plain(hypothesis.text)
        kept.setdefault(key, hypothesis)
        copies[key] = copies.get(key, 0) + 1
    return Candidates(row, [transcript, *kept.values()], [0, *copies.values()])


class FailureFinder:
    """What hypotheses fail in, of `FAILURES`, with the words of the rewards that punish it.

        loop           an n-gram comes back more often than in the transcript, or one character ten times in a row
        hallucination  three units or more that nobody said, any word into silence, notes, or a stock phrase
        language       most letters are of a script that is neither the row's language's nor its transcript's
        keyword        a keyword of the row was spoken and is not said

    Args:
        config: whose `only` says what is looked for, and `reward_keywords` the keywords of all rows; else each row's
            column `keywords` has them.
    """

    def __init__(self, config: MiningConfig, plain: Normalizer):
        shared: dict[str, Any] = {"normalise": plain, "unit": config.unit}
        self.wanted = config.only or []
        self.language = config.language
        self.loop = Hallucination(detect=("repetition", "patterns"), patterns=(ONE_CHARACTER_OVER_AND_OVER,), **shared)
        self.invented = Hallucination(detect=("insertions", "invention", "patterns"), **shared)
        self.stock, self.script = NoStockPhrases(), RightScript()
        self.recall = KeywordRecall(keywords=config.reward_keywords, **shared)

    def check_columns(self, columns: Sequence[str]) -> None:
        """Refuse rows without what is looked at."""
        if "keyword" in self.wanted and (missing := set(self.recall.needed_columns) - set(columns)):
            raise ValueError(
                f"only=keyword looks for keywords of the rows, which lack {sorted(missing)}: {sorted(columns)}. Add "
                "the column, or pass reward_keywords."
            )

    def __call__(self, row: AnyRow, transcript: str, texts: Sequence[str]) -> list[list[str]]:
        """The failures of each text."""
        true = [transcript] * len(texts)
        language = [row.get("language") or self.language] * len(texts)
        (pair,) = self.invented.pairs([""], [transcript])
        spoken = 0 if pair is None else len(pair.transcript)
        enough = -min(1.0, INVENTED_UNITS / spoken) if spoken else 0.0
        found: dict[str, list[bool]] = {
            "loop": [bool(value) for value in self.loop(texts, true)],
            "hallucination": [
                (bool(value) and (value or 0.0) <= enough) or bool(phrase)
                for value, phrase in zip(self.invented(texts, true), self.stock(texts, true), strict=True)
            ],
            "language": [bool(value) for value in self.script(texts, true, language)],
            "keyword": [False] * len(texts),
        }
        if "keyword" in self.wanted:
            words = {} if self.recall.keywords is not None else {"keywords": [row.get("keywords")] * len(texts)}
            found["keyword"] = [value is not None and value < 1 for value in self.recall(texts, true, **words)]
        # nothing said is none of them, but for a keyword that is missed
        empty = [not text.strip() for text in texts]
        return [
            [name for name in self.wanted if found[name][k] and (name == "keyword" or not empty[k])]
            for k in range(len(texts))
        ]


class Miner:
    """Rows of `speech_rows` -> `MinedBatch`.

    Args:
        model: in evaluation mode, on its device; None for synthetic negatives.
        family: of the model; None for synthetic negatives.
        config: what is made of the rows.
        skipped: where rows that cannot be used are written; None refuses them.

    Raises:
        ValueError: no model where one is needed, or a reward that needs one where there is none.
    """

    def __init__(
        self,
        model: nn.Module | None,
        family: SpeechFamily | None,
        config: MiningConfig,
        skipped: SkippedRows | None = None,
    ):
        self.model, self.family = (None, None) if config.source == "synthetic" else (model, family)
        if config.source != "synthetic" and (model is None or family is None):
            raise ValueError(
                f"source={config.source!r} asks a model for its hypotheses, and there is none. Pass the model that is "
                "going to be tuned, or set source='synthetic'."
            )
        self.config, self.skipped = config, skipped
        self._texts: dict[str, Any] = {
            "text_columns": ("text",),
            "silence": config.allow_silence or config.pseudo_labels,
        }
        self.rewards = None if config.reward_funcs is None else RewardSet(config.rewards or [], config.reward_weights)
        if self.rewards is not None and self.family is None:
            _require_no_tokens(self.rewards)
        if self.rewards is not None:
            self._check_rewards(self.rewards)
        self.plain = normalizer(config.normalise, processor=getattr(family, "processor", None))
        self.right_script = RightScript()
        self.failures = None if config.only is None else FailureFinder(config, self.plain)

    def _check_rewards(self, rewards: RewardSet) -> None:
        """Rewards that cannot judge the transcript, or need it."""
        groups, readers = rewards.asked.get("group"), rewards.readers_of("text")
        if groups and self.config.strategy in OF_TRANSCRIPT:
            raise RewardError(
                f"{groups} compare hypotheses with each other, so the transcript has no reward, but strategy="
                f"{self.config.strategy!r} pairs with it. Use best_vs_worst, above_margin or nbest."
            )
        if readers and self.config.pseudo_labels:
            raise RewardError(
                f"pseudo_labels replace transcripts, which {readers} read. Use consensus, confidence, "
                "agreement or judge, or leave pseudo_labels out."
            )

    def __call__(self, rows: Sequence[Row]) -> MinedBatch:
        for row in rows:
            check_columns(row, row["where"])
        if self.rewards is not None and rows:
            self.rewards.check_columns(list(own_columns(rows[0])))
        originals = {row["row_id"]: own_columns(row) for row in rows}
        if self.config.pseudo_labels:  # the tokens are then prefix and end
            rows = [{**row, "text": ""} for row in rows]
        if self.failures is not None and rows:
            self.failures.check_columns(list(own_columns(rows[0])))
        mined = MinedBatch()
        if self.model is None or self.family is None:
            usable = self._judged(rows)
            hypotheses = [corrupted_hypotheses(row, self.config) for row in usable]
            decoded: list[str | None] = [None] * len(usable)
            unusable = len(rows) - len(usable)
        else:
            heard, batch = self._collated(rows, self.family)
            unusable = len(rows) - len(heard)
            usable, decoded, hypotheses = self._listen(self.model, self.family, heard, batch, mined)
        if unusable:
            mined.left_out[UNUSABLE] = unusable
        candidates = [
            distinct_texts(row, self._transcript(row), found, self.plain)
            for row, found in zip(usable, hypotheses, strict=True)
        ]
        mined.clips = self._clips(candidates, decoded)
        for clip in mined.clips:
            clip.row = originals[clip.row_id]
        if self.failures is not None:
            failing = [clip for clip in mined.clips if any(clip.failures)]
            if len(failing) < len(mined.clips):
                mined.left_out[NO_FAILURE] = len(mined.clips) - len(failing)
            mined.clips = failing
        return mined

    # ---- rows that can be used ----

    def _judged(self, rows: Sequence[Row]) -> list[Row]:
        """Where no model says what it can take: rows with text, and audio as far as its header tells."""
        usable, bad = [], []
        for row in rows:
            faults = judge_row(row, **UNLIMITED, distinct=False, **self._texts)
            bad += faults
            if not faults:
                usable.append(row)
        if bad and self.skipped is None:
            raise BadRowsError(bad)
        if self.skipped is not None:
            self.skipped.add(*bad)
        return usable

    def decode(self, row: AnyRow) -> np.ndarray | None:
        """A row's clip for the family's encoder cache; see `SpeechCollator.decode`."""
        assert self.family is not None
        return self._collator(self.family).decode({**row, "text": ""} if self.config.pseudo_labels else row)

    def _collator(self, family: SpeechFamily) -> SpeechCollator:
        return SpeechCollator(family, skipped=self.skipped, **self._texts)

    def _collated(self, rows: Sequence[Row], family: SpeechFamily) -> tuple[list[Row], GroupBatch]:
        batch = self._collator(family)(rows)
        by_id = {row["row_id"]: row for row in rows}
        return [by_id[row_id] for row_id in batch.row_ids.tolist() if row_id >= 0], batch

    # ---- what the model says ----

    def _listen(
        self, model: nn.Module, family: SpeechFamily, rows: list[Row], batch: GroupBatch, mined: MinedBatch
    ) -> tuple[list[Row], list[str | None], list[list[Hypothesis]]]:
        """The clips that are worth it, what the model says of each when decoded, and its hypotheses."""
        if not rows:
            return [], [], []
        device = next(model.parameters()).device
        batch = GroupBatch({name: tensor.to(device) for name, tensor in batch.tensors.items()})
        decoded: list[str | None] = [None] * len(rows)
        if self.config.measure_wer or self.config.other_transcripts:
            said = decoded_texts(family, model, batch, rows)
            decoded = list(said)
            for row, text in zip(rows, said, strict=True):
                counts = self._errors(family.words(row["text"]), text)
                mined.errors += counts.errors
                mined.words += counts.words
        if self.config.other_transcripts:
            kept = [i for i, row in enumerate(rows) if self._is_hard(row, decoded[i] or "")]
            if len(kept) < len(rows):
                mined.left_out[NO_HARD_CASE] = len(rows) - len(kept)
            if not kept:
                return [], [], []
            rows, decoded = [rows[i] for i in kept], [decoded[i] for i in kept]
            batch = GroupBatch(
                {name: tensor[torch.tensor(kept, device=device)] for name, tensor in batch.tensors.items()}
            )
        with torch.no_grad():
            states = family.encode(model, batch)
            return rows, decoded, model_hypotheses(family, model, batch, states, self.config)

    def _is_hard(self, row: Row, own: str) -> bool:
        columns = self.config.other_transcripts or []
        lost = [name for name in columns if name not in row or not isinstance(row[name], str | None)]
        if lost:
            raise ValueError(
                f"{row['where']}: the columns {lost} of other_transcripts are missing or hold no text; the row has "
                f"{sorted(own_columns(row))}. Name columns with transcripts of other systems."
            )
        return is_hard_case(
            own,
            [row[name] for name in columns],
            max_disagreement=self.config.max_disagreement,
            min_disagreement=self.config.min_disagreement,
            unit=self.config.unit,
            normalise=self.plain,
        )

    # ---- rewards and pairs ----

    def _transcript(self, row: Row) -> Hypothesis:
        ids: list[int] = []
        if self.family is not None:
            tokens = self.family.tokenize_row(row["text"], row)
            ids = tokens.ids[tokens.first_kept :]
        return Hypothesis(row["text"], ids, math.nan, "transcript")

    def _words(self, text: str) -> str:
        return text if self.family is None else self.family.words(text)

    def _errors(self, transcript: str, text: str) -> Any:
        return count_errors([transcript], [text], unit=self.config.unit, normalise=self.plain).total

    def _clips(self, candidates: Sequence[Candidates], decoded: Sequence[str | None]) -> list[MinedClip]:
        clips = []
        for found, said in zip(candidates, decoded, strict=True):
            texts = [hypothesis.text for hypothesis in found.texts]
            transcript = self._words(texts[TRANSCRIPT])
            wers: list[float | None] = [0.0, *(self._errors(transcript, text).rate for text in texts[1:])]
            if self.config.pseudo_labels:
                wers = [None] * len(texts)
            clips.append(
                MinedClip(
                    row_id=found.row["row_id"],
                    row=own_columns(found.row),
                    texts=texts,
                    origins=[hypothesis.origin for hypothesis in found.texts],
                    copies=found.copies,
                    wers=wers,
                    rewards=[None if wer is None else 0.0 - wer for wer in wers],
                    parts={},
                    decoded=said,
                )
            )
        if self.rewards is not None and candidates:
            reward_clips(self.rewards, candidates, clips, self._words, told=not self.config.pseudo_labels)
        for found, clip in zip(candidates, clips, strict=True):
            if self.failures is not None:
                transcript = self._words(clip.texts[TRANSCRIPT])
                clip.failures = [[], *self.failures(found.row, transcript, list(map(self._words, clip.texts[1:])))]
            clip.pairs = self._pairs(found, clip)
        return clips

    def _pairs(self, found: Candidates, clip: MinedClip) -> list[Pair]:
        rewards = [math.nan if reward is None else reward for reward in clip.rewards]
        spelled = [_spelled(self.family, text, found.row) for text in clip.texts]
        texts = ScoredTexts(
            rewards,
            [hypothesis.score for hypothesis in found.texts],
            [
                place
                for place in range(1, len(rewards))
                if spelled[place] is not None and self._is_usable(clip.texts[place], rewards[place], found.row)
            ],
            partial(self._allowed, rewards, [self.plain(text) for text in clip.texts], spelled, clip.failures),
        )
        if self.config.pseudo_labels and texts.best is not None and self._earns_enough(rewards[texts.best]):
            clip.label = texts.best
        return STRATEGIES[str(self.config.strategy)](texts)[: self.config.max_pairs]

    def _earns_enough(self, reward: float) -> bool:
        least = self.config.min_chosen_reward
        return not math.isnan(reward) and (least is None or reward >= least)

    def _is_usable(self, text: str, reward: float, row: Row) -> bool:
        """Whether a hypothesis that a trainer can read may be in a pair: it says something and was scored."""
        if not text.strip() or math.isnan(reward):
            return False
        language = [row.get("language") or self.config.language]
        return not self.config.same_script or self.right_script([text], [row["text"]], language=language) == [0.0]

    def _allowed(
        self,
        rewards: Sequence[float],
        keys: Sequence[str],
        spelled: Sequence[Any],
        failures: Sequence[Sequence[str]],
        chosen: int,
        rejected: int,
    ) -> bool:
        if failures and (failures[chosen] or not failures[rejected]):
            return False
        if not self._earns_enough(rewards[chosen]):
            return False
        margin = rewards[chosen] - rewards[rejected]  # NaN where one is not scored, and then no comparison holds
        most = math.inf if self.config.max_margin is None else self.config.max_margin
        differ = keys[chosen] != keys[rejected] and spelled[chosen] != spelled[rejected]
        return 0 < margin <= most and margin >= self.config.min_margin and differ


class _Asked(NamedTuple):
    """One text that the rewards are asked about."""

    found: Candidates
    hypothesis: Hypothesis
    group: tuple[int, int]


def reward_clips(
    rewards: RewardSet, candidates: Sequence[Candidates], clips: Sequence[MinedClip], words: Any, *, told: bool = True
) -> None:
    """Give all texts of all clips their rewards, in one call; of a timed transcript the words are judged.

    Rewards that compare hypotheses see every one of them, equal ones as often as they were found; the transcript is a
    group of its own.

    Args:
        words: text -> what of it is spoken.
        told: whether there are transcripts; else they get no reward.
    """
    flat: list[_Asked] = []
    first: list[list[int | None]] = []  # of each clip, where each of its texts is asked about
    for i, found in enumerate(candidates):
        first.append([])
        number = 0
        for place, hypothesis in enumerate(found.texts):
            if place == TRANSCRIPT:
                first[-1].append(len(flat) if told else None)
                flat += [_Asked(found, hypothesis, (2 * i + 1, 0))] if told else []
                continue
            first[-1].append(len(flat))
            for _ in range(found.copies[place] if "group" in rewards.asked else 1):
                flat.append(_Asked(found, hypothesis, (2 * i, number)))
                number += 1
    names = dict.fromkeys(name for found in candidates for name in own_columns(found.row) if told or name != "text")
    columns = {name: [asked.found.row.get(name) for asked in flat] for name in names}
    if told:
        columns["text"] = [words(asked.found.row["text"]) for asked in flat]
    table = rewards(
        [words(asked.hypothesis.text) for asked in flat],
        [asked.hypothesis.ids for asked in flat],
        columns,
        [asked.found.row["where"] for asked in flat],
        group=[asked.group for asked in flat],
        completion_logps=[_log_probability(asked.hypothesis) for asked in flat],
    )
    for clip, places in zip(clips, first, strict=True):
        total = [math.nan if place is None else table.total[place] for place in places]
        clip.rewards = [None if math.isnan(value) else value for value in total]
        clip.parts = {
            name: [None if place is None else values[place] for place in places] for name, values in table.parts.items()
        }


def _log_probability(hypothesis: Hypothesis) -> float | None:
    """Nats, of what was sampled; a beam's score is no log-probability, and of a transcript nobody knows it."""
    known = hypothesis.origin.startswith("sample") and not math.isnan(hypothesis.score)
    return hypothesis.score if known else None


def _spelled(family: SpeechFamily | None, text: str, row: Mapping[str, Any]) -> Sequence[int] | str | None:
    """A text as the model writes it, for texts to be told apart by; None where it cannot.

    A loop may need more tokens as text than it was sampled with, and then more than the decoder has.
    """
    if family is None:
        return text
    try:
        return family.tokenize_row(text, row).ids
    except ValueError:
        return None


def _require_no_tokens(rewards: RewardSet) -> None:
    for name, reward in zip(rewards.names, rewards.rewards, strict=True):
        if "completion_ids" in inspect.signature(getattr(reward, "function", reward)).parameters:
            raise RewardError(
                f"The reward {name!r} reads completion_ids, and synthetic negatives have no tokens, because no model "
                "is asked. Leave it out, or use source='samples'."
            )
