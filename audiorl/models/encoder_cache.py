"""The encoder's states of clips, kept on disk, so that later epochs and runs with the same encoder skip it.

    family.encoder_cache = cache = EncoderCache("states", family, model)
    cache.fill(model, family, rows, load)     # encodes what is missing; afterwards batches carry states, no audio

1. A clip's file is named by its content (file or array, channel, segment) and lies in a folder named by the encoder:
   its weights, settings and features, and the type that states are kept in. Another encoder has another folder.
2. Every clip is encoded alone, in the precision of the weights, so that its states depend on nothing beside it: not on
   the batch, the process or the epoch. A run that stopped and went on reads what one that did not stop reads.
3. A file appears whole or not at all. Several processes may fill one folder; what two of them encode at the same time
   is equal. What a killed process left half written is removed by the next fill on its machine.
4. Before anything is encoded, `fill` says how much room the states take, and refuses if the disk lacks it.

The encoder must stay as it is: trainers refuse a cache where it is trained, adapted, randomised or hears augmented
clips.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from datasets import Dataset
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader
from transformers.utils import logging

from audiorl.audio import SILENCE_PEAK, AudioFault, row_audio_digest, row_audio_seconds
from audiorl.audio.sources import SEGMENT_COLUMNS, is_number
from audiorl.batch import KEPT_STATES, audio_alone
from audiorl.files import is_full, process_lives
from audiorl.models.forward import base_model, evaluating, is_sharded
from audiorl.terminal import progress_bar

if TYPE_CHECKING:
    from audiorl.models.family import SpeechFamily

logger = logging.get_logger(__name__)

Row = Mapping[str, Any]
# what a row's clip sounds like at the family's rate, (samples,) float32; None for one that cannot be used
Load = Callable[[Row], np.ndarray | None]

# How states are kept: rounded to half their size, or as the encoder returns them.
DTYPES = ("bfloat16", "model")
# What a clip's states depend on beside its `audio`.
_OF_A_CLIP = ("audio", "channel", "duration", *SEGMENT_COLUMNS)
# Parts of the names of config entries that do not change what an encoder says.
_NOT_HEARD = (
    *("token", "vocab", "decoder", "dropout", "layerdrop", "spec_augment", "mask_", "label", "use_cache", "dtype"),
    *("architectures", "version", "name_or_path", "return_dict", "output_", "problem_type", "chunk_size_feed_forward"),
)
# Bytes that a full disk should still have; checkpoints and logs go there too.
_SPARE = 2**28


class KeptStates(NamedTuple):
    """What is kept of a clip."""

    states: Tensor  # (S, D), of the encoder when it hears the clip alone
    samples: int  # at the family's rate
    silent: bool
    heard: int | None  # entries of its audio mask that are 1; None for families without a mask
    audio_tokens: int | None  # see `GroupBatch`

    @property
    def nbytes(self) -> int:
        return self.states.numel() * self.states.element_size()


class EncoderCache:
    """States of clips on disk, for one encoder.

    Args:
        folder: made if it is not there; may be shared by any encoders, runs and processes.
        family: of the model.
        model: whose encoder is asked; what `fill` gets later must have the same weights in it.
        dtype: "bfloat16" rounds states to 8 significant bits; "model" keeps them as the encoder returns them, exactly.

    Attributes:
        path: the folder of this encoder.

    Raises:
        ValueError: an unknown dtype, or an encoder that cannot be told apart from another one: adapted, quantised or
            sharded.
    """

    def __init__(
        self, folder: str | os.PathLike[str], family: SpeechFamily, model: nn.Module, *, dtype: str = "bfloat16"
    ):
        if dtype not in DTYPES:
            raise ValueError(
                f"encoder_cache_dtype is one of {list(DTYPES)}; got {dtype!r}. 'bfloat16' takes half the room, 'model' "
                "is exact."
            )
        _check_encoder(family, model)
        self.folder, self.dtype = os.path.abspath(os.path.expanduser(os.fspath(folder))), dtype
        self.encoder = encoder_digest(family, model)
        self.path = os.path.join(self.folder, f"{self.encoder[:24]}-{dtype}")
        self.sampling_rate = family.sampling_rate
        self._filled: set[str] = set()  # data sets that were gone through

    def __repr__(self) -> str:
        return f"EncoderCache({self.path!r})"

    def serves(self, family: SpeechFamily, model: nn.Module) -> bool:
        """Whether another model hears as the cache's encoder does."""
        return encoder_digest(family, model) == self.encoder

    # ---- reading ----

    def find(self, row: Row, *, silent: bool = False) -> KeptStates | None:
        """What is kept of a row's clip, read from the disk as it is used; None if there is nothing.

        Args:
            silent: whether a silent clip is wanted; else there is nothing of it, and whoever decodes it says why.

        Raises:
            ValueError: the file is damaged.
        """
        try:
            path = self._file(row_audio_digest(row))
        except AudioFault:
            return None
        if not os.path.exists(path):
            return None
        try:
            with safe_open(path, framework="pt") as file:
                told = json.loads(file.metadata()["clip"])
                kept = KeptStates(file.get_tensor("states"), **told)
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"The kept states in {path} cannot be read ({error}). Delete the file; the next start encodes the clip "
                "again."
            ) from error
        return None if kept.silent and not silent else kept

    def join(self, kept: Sequence[KeptStates]) -> dict[str, Tensor]:
        """The audio tensors of a `GroupBatch`, from what is kept of its clips."""
        made = {KEPT_STATES: pad_sequence([one.states for one in kept], batch_first=True)}
        heard = [one.heard for one in kept if one.heard is not None]
        if heard:
            made["audio_mask"] = (torch.arange(max(heard)) < torch.tensor(heard)[:, None]).long()
        tokens = [one.audio_tokens for one in kept if one.audio_tokens is not None]
        if tokens:
            samples = torch.tensor([one.samples for one in kept])
            made |= {"audio_tokens": torch.tensor(tokens), "audio_samples": samples}
        return made

    def missing(self, row: Row) -> ValueError:
        """The error about a clip that was to be kept and is not."""
        return ValueError(
            f"{row.get('where', 'A row')}: {self.path} has no states of its clip. Its audio changed or files were "
            "deleted since the run began, or the processes do not share the folder. Start again, with encoder_cache "
            "(--encoder_cache) on a disk that all processes see."
        )

    # ---- writing ----

    def fill(
        self,
        model: nn.Module,
        family: SpeechFamily,
        rows: Any,
        load: Load,
        *,
        processes: int = 1,
        workers: int = 0,
        progress: bool = True,
    ) -> int:
        """Encode the clips that are not kept yet.

        Args:
            model: with the encoder that the cache was made for, not wrapped, on the device where it is to run.
            rows: a `Dataset`; of several processes this one's share.
            load: decodes a row's clip; called in workers, if there are any.
            processes: that fill the folder at the same time, each as large a share.
            workers: processes that decode and compute features meanwhile.
            progress: show a progress bar.

        Returns:
            How many clips were encoded.

        Raises:
            ValueError: a stream, or too little room on the disk.
            OSError: the disk filled up meanwhile.
        """
        if not isinstance(rows, Dataset):
            raise ValueError(
                f"encoder_cache encodes all clips first, and the rows are a stream ({type(rows).__name__}). Load them "
                "whole (streaming=False), or leave encoder_cache out."
            )
        if rows._fingerprint in self._filled:
            return 0
        places = self._places(rows)
        if places:
            if is_sharded(model):
                raise ValueError(
                    f"{len(places):,} clips are to be encoded, and training shards the encoder's weights by now. Pass "
                    "these rows as eval_dataset when the trainer is built, or leave encoder_cache out."
                )
            self._make_folder(family, model)
            self._say(model, family, rows, places, processes)
            clips: Any = _Clips(rows.select(places), family, load)
            loader = DataLoader(clips, batch_size=None, num_workers=workers)
            for heard in progress_bar(loader, desc="Encoding clips", unit="clip", progress=progress):
                if heard is not None:
                    self._write(heard.digest, self._encoded(model, family, heard))
        self._filled.add(rows._fingerprint)
        return len(places)

    def _places(self, rows: Dataset) -> list[int]:
        """The rows whose clips are not kept, one for each clip."""
        known = rows.select_columns([name for name in _OF_A_CLIP if name in rows.column_names])
        places: dict[str, int] = {}
        for place, row in enumerate(known):
            with suppress(AudioFault):  # one that cannot be read is told when its batch comes
                digest = row_audio_digest(row)
                if not os.path.exists(self._file(digest)):
                    places.setdefault(digest, place)
        return sorted(places.values())

    def _make_folder(self, family: SpeechFamily, model: nn.Module) -> None:
        try:
            os.makedirs(os.path.join(self.path, "part"), exist_ok=True)
        except OSError as error:
            raise ValueError(
                f"encoder_cache={self.folder!r} is no folder that can be written to ({error.strerror or error}). Name "
                "another one (--encoder_cache)."
            ) from error
        for part in Path(self.path, "part").glob("*.part"):
            name, _, process = part.name.removesuffix(".part").rpartition("@")[2].rpartition(".")
            if name == socket.gethostname() and process.isdigit() and not process_lives(int(process)):
                part.unlink(missing_ok=True)
        told = {"model": type(base_model(model)).__name__, "name": base_model(model).config._name_or_path}
        about = Path(self.path, "encoder.json")
        if not about.exists():
            about.write_text(json.dumps({**told, "family": type(family).__name__, "dtype": self.dtype}, indent=2))

    def _say(
        self, model: nn.Module, family: SpeechFamily, rows: Dataset, places: Sequence[int], processes: int
    ) -> None:
        """Log the room that the states will take; refuse if the disk has less."""
        seconds = [length for length in map(_seconds, rows.select(places)) if length is not None]
        needed = self._room(model, family, seconds) * processes
        free = shutil.disk_usage(self.path).free
        size = f"{_bytes(needed)} ({'bfloat16' if self.dtype == 'bfloat16' else 'exact'})"
        if needed > free - _SPARE:
            raise ValueError(
                f"The states of {len(places) * processes:,} clips would take {size}, and the disk of {self.folder} has "
                f"{_bytes(free)} free. Name a folder on a larger disk (--encoder_cache), keep them in bfloat16, or "
                "leave it out."
            )
        logger.warning(
            f"encoder_cache: {len(places):,} of {len(rows):,} clips"
            f"{f' of this process, one of {processes},' if processes > 1 else ''} are encoded now; the states of all "
            f"take about {size} in {self.path}, {_bytes(free)} are free."
        )

    def _room(self, model: nn.Module, family: SpeechFamily, seconds: Sequence[float]) -> float:
        """Bytes of clips of these lengths: states grow in line with the clip; the shortest and longest are tried."""
        if not seconds:
            return 0.0
        most = family.max_seconds or max(seconds)
        short, long = (min(max(length, family.min_seconds), most) for length in (min(seconds), max(seconds)))
        first, last = (self._encoded(model, family, _noise(family, length)).nbytes for length in (short, long))
        each = (last - first) / (long - short) if long > short else 0.0
        return sum(first + each * (min(length, most) - short) for length in seconds)

    @torch.no_grad()
    def _encoded(self, model: nn.Module, family: SpeechFamily, heard: _Heard) -> KeptStates:
        base = base_model(model)
        batch = audio_alone({name: tensor.to(base.device) for name, tensor in heard.features.items()})
        with evaluating(base):
            states = family.encode(model, batch)[0].cpu()
        mask, tokens = batch.audio_mask, batch.tensors.get("audio_tokens")
        return KeptStates(
            states.to(torch.bfloat16) if self.dtype == "bfloat16" else states,
            heard.samples,
            heard.silent,
            None if mask is None else int(mask.sum()),
            None if tokens is None else int(tokens[0]),
        )

    def _write(self, digest: str, kept: KeptStates) -> None:
        path = self._file(digest)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        part = os.path.join(self.path, "part", f"{digest}@{socket.gethostname()}.{os.getpid()}.part")
        told = {name: value for name, value in kept._asdict().items() if name != "states"}
        try:
            save_file({"states": kept.states.contiguous()}, part, {"clip": json.dumps(told)})
            os.replace(part, path)
        except (OSError, SafetensorError) as error:
            with suppress(OSError):
                os.remove(part)
            if not is_full(error, self.path):
                raise
            raise OSError(
                f"The disk of {self.folder} is full. What was encoded is kept: make room and start again, or leave "
                "encoder_cache out."
            ) from error

    def _file(self, digest: str) -> str:
        return os.path.join(self.path, digest[:2], f"{digest}.safetensors")


class _Heard(NamedTuple):
    """A clip before it is encoded."""

    digest: str
    samples: int
    silent: bool
    features: dict[str, Tensor]  # one row


class _Clips(torch.utils.data.Dataset):
    """Rows -> `_Heard`; None for a clip that cannot be used."""

    def __init__(self, rows: Dataset, family: SpeechFamily, load: Load):
        self.rows, self.family, self.load = rows, family, load

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: int) -> _Heard | None:
        row = self.rows[place]
        clip = self.load(row)
        return None if clip is None else _heard(row_audio_digest(row), clip, self.family)


def _heard(digest: str, clip: np.ndarray, family: SpeechFamily) -> _Heard:
    silent = float(np.abs(clip).max(initial=0.0)) < SILENCE_PEAK
    return _Heard(digest, len(clip), silent, family.features([clip]))


def _noise(family: SpeechFamily, seconds: float) -> _Heard:
    samples = max(1, int(seconds * family.sampling_rate))
    return _heard("", np.random.default_rng(0).normal(0, 0.1, samples).astype(np.float32), family)


def _seconds(row: Row) -> float | None:
    """The length of a row's clip: its `duration`, or else what the audio's header says."""
    if is_number(row.get("duration")):
        return float(row["duration"])
    with suppress(AudioFault):
        return row_audio_seconds(row)
    return None


def _bytes(count: float) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"


# ---- which encoder ----


def _check_encoder(family: SpeechFamily, model: nn.Module) -> None:
    """Refuse an encoder whose weights do not say what it hears."""
    if not family.decodes_states:
        raise ValueError(
            f"{type(family).__name__} cannot use encoder_cache: its transcribe asks for the audio. Let it read "
            "self._states(base, batch) and set decodes_states, or leave encoder_cache out."
        )
    own = {id(parameter) for parameter in family.encoder_parameters(model)}
    adapted = [
        name
        for name, module in model.named_modules()
        if isinstance(layer := getattr(module, "base_layer", None), nn.Module)
        and any(id(parameter) in own for parameter in layer.parameters())
    ]
    if adapted:
        raise ValueError(
            f"encoder_cache keeps what the encoder says, and an adapter has layers in it ({len(adapted)}, the first is "
            f"{adapted[0]}). Put the adapter into the decoder alone (--lora_decoder_only, "
            'target_modules="decoder-linear"), merge it, or leave encoder_cache out.'
        )
    if any(not parameter.is_floating_point() for parameter in family.encoder_parameters(model)):
        raise ValueError(
            "encoder_cache names states by the encoder's weights, and those of this encoder are quantised. Keep it in "
            "full precision (llm_int8_skip_modules), or leave encoder_cache out."
        )
    if is_sharded(model) or any(p.is_meta or not p.numel() for p in family.encoder_parameters(model)):
        raise ValueError(
            "encoder_cache needs the encoder's weights in one piece when the trainer is built, and they are sharded. "
            "Use DDP, FSDP2 or ZeRO-2, or leave encoder_cache out."
        )


def encoder_digest(family: SpeechFamily, model: nn.Module) -> str:
    """What tells an encoder from every other: weights, buffers, settings and features; 64 hexadecimal digits."""
    base, own = base_model(model), hashlib.sha256()
    for tensor in [*family.encoder_parameters(model), *base.buffers()]:
        own.update(f"{tuple(tensor.shape)} {tensor.dtype}\n".encode())
        own.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    said = {
        "class": type(base).__name__,
        "family": type(family).__name__,
        "dtype": str(base.dtype),
        "config": list(_settings_heard(base.config.to_dict())),
        "features": _feature_settings(family),
    }
    own.update(json.dumps(said, sort_keys=True, default=repr).encode())
    return own.hexdigest()


def _settings_heard(config: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in sorted(config.items()):
        if name.startswith("_") or any(part in name for part in _NOT_HEARD):
            continue
        if isinstance(value, Mapping):
            yield from _settings_heard({str(key): one for key, one in value.items()}, f"{above}{name}.")
        else:
            yield f"{above}{name}", value


def _feature_settings(family: SpeechFamily) -> Any:
    """How clips become features; of a processor that does not say, the features of a noise."""
    processor = family.processor
    parts = (getattr(processor, name, None) for name in ("feature_extractor", "audio_processor"))
    extractor = next((part for part in (*parts, processor) if hasattr(part, "to_dict")), None)
    if extractor is not None:
        return sorted((name, value) for name, value in extractor.to_dict().items() if "_name" not in name)
    probe = _noise(family, max(family.min_seconds, 1.0)).features
    return {name: hashlib.sha256(tensor.numpy().tobytes()).hexdigest() for name, tensor in probe.items()}
