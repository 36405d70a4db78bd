"""Keys and values of the rows in flight: cheap to extend by one token, to cut, to join and to branch.

Rows are right-aligned: all end in the same column, shorter ones begin with unused columns (zeros, masked).
The distance between two columns is then the distance between two tokens, so the causal, sliding-window and
chunked masks that transformers builds from a 2-D mask are right for every row.
No layer drops old tokens, not even those with a sliding window (their mask hides them): a row may therefore
be cut from any batch, joined to any other, or branched off a shared prefix, at the price of memory for hidden
tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

# Free columns made whenever a buffer is allocated: a full copy every 32 tokens instead of every token.
# Products read them too.
ROOM = 32

ZEROS_BEHIND = "zeros_behind"  # attribute of a tensor: it is the first columns of a buffer, zeros follow
AHEAD = "ahead"  # attribute of the keys of a layer: keys and values that stand before those of every row


class Ahead(NamedTuple):
    """Keys and values (1, heads, P, dim) that all rows have in common."""

    keys: Tensor
    values: Tensor


def whole(states: Tensor) -> Tensor:
    """(B, heads, W, dim) as (B heads, C, dim) with all C >= W columns of its buffer; those behind are zero.

    This is contiguous, where ``states`` is not: a CPU would copy it for every product.
    """
    rows, heads, _, width = states.shape
    if not getattr(states, ZEROS_BEHIND, False):
        return states.flatten(0, 1)
    columns = states.stride(1) // width
    return states.as_strided((rows * heads, columns, width), (columns * width, width, 1))


class RoomyLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """One layer; ``keys`` and ``values`` (B, heads, W, dim) are views of buffers with free columns behind.

    Free columns are zero, see ``whole``. ``ahead`` stands before every row and is no part of the views; it
    counts as cached, and attention finds it at the keys.
    """

    def __init__(self, ahead: Ahead | None = None, **kwargs: object) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.ahead = ahead
        self._buffers: tuple[Tensor, Tensor] | None = None

    def hold(self, keys: Tensor, values: Tensor, used: int) -> None:
        """Take over buffers (B, heads, columns, dim) whose first ``used`` columns are filled."""
        if not self.is_initialized:
            self.lazy_initialization(keys, values)
        self._buffers = keys, values
        self.keys, self.values = keys[:, :, :used], values[:, :, :used]

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Append columns (B, heads, new, dim); returns all keys and values."""
        used, (keys, values) = super().get_seq_length(), self._buffers or (None, None)
        keys, values = _appended(keys, used, key_states), _appended(values, used, value_states)
        end = used + key_states.shape[2]
        self.hold(keys, values, end)
        found = keys[:, :, :end], values[:, :, :end]
        for states in found:
            setattr(states, ZEROS_BEHIND, True)
        setattr(found[0], AHEAD, self.ahead)
        return found

    def get_seq_length(self) -> int:
        """Columns that are cached, those ahead included."""
        own = int(super().get_seq_length())
        return own if self.ahead is None else own + self.ahead.keys.shape[2]

    def reset(self) -> None:
        super().reset()
        self._buffers = None


def empty_cache() -> Cache:
    """A cache without tokens; its layers appear as the model runs."""
    return Cache(layer_class_to_replicate=RoomyLayer)


def cache_of(layers: Sequence[tuple[Tensor, Tensor]]) -> Cache:
    """A cache with these keys and values."""
    result = empty_cache()
    for index, (keys, values) in enumerate(layers):
        result.update(keys, values, index)
    return result


def behind(prefix: Cache) -> Cache:
    """A cache whose rows all begin with the one row of ``prefix``, which is not copied."""
    result = empty_cache()
    source: Any
    for source in prefix.layers:
        result.layers.append(RoomyLayer(Ahead(source.keys, source.values)))
    return result


def branched(prefix: Cache, shifts: Tensor, room: int) -> Cache:
    """``prefix`` (one row of P columns) once per entry of ``shifts`` (B,), moved right by that many columns.

    What is moved out on the right is lost; the columns freed on the left hold copies of the first token and
    must be masked. ``room`` columns are left free.
    """
    width = prefix.get_seq_length()
    columns = (torch.arange(width, device=shifts.device) - shifts[:, None]).clamp_(min=0)

    def moved(states: Tensor) -> Tensor:
        buffer = states.new_empty(len(shifts), states.shape[1], width + room, states.shape[3])
        buffer[:, :, width:] = 0
        buffer[:, :, :width] = states[0][:, columns.to(states.device)].transpose(0, 1)
        return buffer

    result = empty_cache()
    source: Any
    for source in prefix.layers:
        layer = RoomyLayer()
        layer.hold(moved(source.keys), moved(source.values), width)
        result.layers.append(layer)
    return result


def joined(parts: Sequence[tuple[Cache, list[int], int]]) -> Cache:
    """One cache out of the named rows (repeats allowed) of several, each cut to its last ``width`` columns.

    ``parts`` are (cache, rows, width), what stands ahead of all rows not counted. The sources are emptied
    layer by layer, so that the peak is one cache and one layer.
    """
    result, used = empty_cache(), max(width for _, _, width in parts)
    for index in range(len(parts[0][0].layers)):
        sources: list[Any] = [cache.layers[index] for cache, _, _ in parts]
        places = [(rows, width) for _, rows, width in parts]
        layer = RoomyLayer(sources[0].ahead)
        layer.hold(
            _stacked([source.keys for source in sources], places),
            _stacked([source.values for source in sources], places),
            used,
        )
        result.layers.append(layer)
        for source in sources:
            source.reset()
    return result


def _appended(buffer: Tensor | None, used: int, states: Tensor) -> Tensor:
    """``buffer`` with ``states`` written behind its first ``used`` columns; a larger one if need be."""
    end = used + states.shape[2]
    if buffer is None or end > buffer.shape[2]:
        larger = states.new_empty(*states.shape[:2], end + ROOM, states.shape[3])
        larger[:, :, end:] = 0
        if buffer is not None:
            larger[:, :, :used] = buffer[:, :, :used]
        buffer = larger
    buffer[:, :, used:end] = states
    return buffer


def _stacked(pieces: Sequence[Tensor], places: Sequence[tuple[list[int], int]]) -> Tensor:
    """Rows of several (B, heads, W, dim) tensors below each other, right-aligned, free columns behind.

    ``places`` are (rows, width) of each piece. What lies left of a short row is zero, which matters: a masked
    column has weight 0, and 0 times a stray NaN is NaN.
    """
    first, used = pieces[0], max(width for _, width in places)
    count = sum(len(rows) for rows, _ in places)
    buffer = first.new_empty(count, first.shape[1], used + ROOM, first.shape[3])
    buffer[:, :, used:] = 0
    start = 0
    for states, (rows, width) in zip(pieces, places, strict=True):
        target = buffer[start : start + len(rows), :, :used]
        target[:, :, : used - width] = 0
        target[:, :, used - width :] = states[torch.tensor(rows, device=states.device), :, -width:]
        start += len(rows)
    return buffer
