"""Keys and values of K hypotheses per clip while they grow, held as (B, H*K, T, d)."""

from __future__ import annotations

import inspect
from functools import cache as remembered
from typing import Any

from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicLayer

FIRST_ROOM = 32  # tokens


def hand_over(module: nn.Module, cache: Cache | None) -> dict[str, Any]:
    """The keyword arguments that give `module` its cache.

    transformers renamed the argument `past_key_values` to `cache` in 5.24, and warns of the old name. A model from
    elsewhere may still have the old one, so its own signature decides.
    """
    return {_cache_name(type(module)): cache}


@remembered
def _cache_name(module_class: type[nn.Module]) -> str:
    return "cache" if "cache" in inspect.signature(module_class.forward).parameters else "past_key_values"


class GroupedCacheLayer(DynamicLayer):
    """A cache layer that takes the (B, H, K*n, d) of a grouped decoder call, n new tokens for each hypothesis.

    It writes them into room that doubles when it runs out, so that a step copies its own tokens and not all before.
    """

    is_initialized: bool

    def __init__(self, group_size: int):
        super().__init__()
        self.group_size = group_size

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        clips, heads, _, width = key_states.shape
        fold = (clips, heads * self.group_size, -1, width)
        new_keys, new_values = key_states.reshape(fold), value_states.reshape(fold)
        if not self.is_initialized:
            self.dtype, self.device, self.is_initialized = new_keys.dtype, new_keys.device, True
            self.keys, self.values = new_keys[:, :, :0], new_values[:, :, :0]
            self._key_room, self._value_room = new_keys[:, :, :0], new_values[:, :, :0]
        held = self.get_seq_length()
        stop = held + new_keys.shape[2]
        if stop > self._key_room.shape[2]:
            room = max(FIRST_ROOM, 2 * stop)
            self._key_room = _with_room(self._key_room[:, :, :held], room)
            self._value_room = _with_room(self._value_room[:, :, :held], room)
        self._key_room[:, :, held:stop] = new_keys
        self._value_room[:, :, held:stop] = new_values
        self.keys, self.values = self._key_room[:, :, :stop], self._value_room[:, :, :stop]
        return self.keys, self.values

    def reset(self) -> None:
        # older releases of transformers only fill what is held with zeros, and the next tokens would follow those
        self.is_initialized = False

    def spread(self, hypotheses: int) -> None:
        """From here on K = `hypotheses`, all with the past of the one before."""
        self.group_size = hypotheses
        self.keys = self._key_room = self.keys.repeat_interleave(hypotheses, 1)
        self.values = self._value_room = self.values.repeat_interleave(hypotheses, 1)

    def select(self, parents: Tensor) -> None:
        """Hypothesis k of clip b goes on from the past of `parents[b, k]` (B, K)."""
        for states in (self.keys, self.values):
            apart = states.unflatten(1, (-1, self.group_size))  # (B, H, K, T, d)
            apart.copy_(apart.take_along_dim(parents[:, None, :, None, None], 2))


class StaticGroupedCacheLayer(GroupedCacheLayer):
    """The same with room for a fixed number of tokens: every step has the same shapes and the same addresses.

    Attention needs a mask of the places that are filled.

    Args:
        past: what was read so far; its tokens are taken over.
        room: tokens of a hypothesis, the past included.
        position: (1,) long, on the device: where the next token goes. Whoever steps moves it, for all layers at once.
    """

    def __init__(self, past: GroupedCacheLayer, room: int, position: Tensor):
        super().__init__(past.group_size)
        self.dtype, self.device, self.is_initialized = past.dtype, past.device, True
        self.position = position
        self.keys, self.values = _with_room(past.keys, room), _with_room(past.values, room)

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        clips, heads, _, width = key_states.shape
        fold = (clips, heads * self.group_size, -1, width)
        self.keys.index_copy_(2, self.position, key_states.reshape(fold))
        self.values.index_copy_(2, self.position, value_states.reshape(fold))
        return self.keys, self.values


def _with_room(states: Tensor, room: int) -> Tensor:
    """(B, H*K, room, d) with `states` at the front; zeros behind, since a masked NaN is still a NaN."""
    out = states.new_zeros((*states.shape[:2], room, states.shape[3]))
    out[:, :, : states.shape[2]] = states
    return out
