"""Families that write a hypothesis token by token: sampling and beam search from one step decoder."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor
from transformers import PreTrainedModel

from audiorl.batch import GroupBatch, GroupSamples
from audiorl.models.beam_search import BeamDecoder, BeamSettings, GroupBeams, beam_search
from audiorl.models.family import SpeechFamily
from audiorl.models.forward import calls_in_step, evaluating
from audiorl.models.sampling import Sampler, prefix_lengths, sample_from


class AutoregressiveFamily(SpeechFamily):
    """A family whose decoder predicts the next token of K hypotheses for each clip."""

    @abstractmethod
    def _positions(self, base: PreTrainedModel, states: Tensor) -> int:
        """Tokens that the decoder can read, prefix included."""

    @abstractmethod
    def _decoder(
        self, base: PreTrainedModel, batch: GroupBatch, states: Tensor, hypotheses: int, room: int, temperature: float
    ) -> BeamDecoder:
        """A decoder that has read nothing yet, for at most `room` tokens of each hypothesis of the batch's clips."""

    def _sample(
        self,
        base: PreTrainedModel,
        batch: GroupBatch,
        states: Tensor,
        noise: Tensor,
        temperature: float,
        sampler: Sampler | None,
    ) -> GroupSamples:
        _, hypotheses, limit = noise.shape
        decoder = self._decoder(base, batch, states, hypotheses, self._room(base, batch, states, limit), temperature)
        room = self._positions(base, states)
        with evaluating(base), calls_in_step(base, decoder) as call:
            return sample_from(call, batch, noise, end_token=self.end_token, max_tokens=room, sampler=sampler)

    def _beam(self, base: PreTrainedModel, batch: GroupBatch, states: Tensor, settings: BeamSettings) -> GroupBeams:
        room = self._room(base, batch, states, settings.max_tokens)
        decoder = self._decoder(base, batch, states, settings.num_beams, room, settings.temperature)
        positions = self._positions(base, states)
        with evaluating(base), calls_in_step(base, decoder) as call:
            return beam_search(call, batch, settings, end_token=self.end_token, max_tokens=positions)

    def _room(self, base: PreTrainedModel, batch: GroupBatch, states: Tensor, limit: int) -> int:
        return min(int(prefix_lengths(batch).max()) + limit, self._positions(base, states))
