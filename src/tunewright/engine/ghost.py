"""Tensors without data, and the count of the bytes that they would take.

A ``Ghost`` has shape, strides, number format and device, but no values. Within a ``Ledger`` any code of torch
runs on ghosts as it runs on tensors: in the same order, with the same views, keeping the same tensors for the
backward pass. The ledger adds up what lives at every moment. So memory is found by running the program, not
by a formula that would have to know it.

Where values decide how a program goes on, they are 1 or true; where they decide a size, it is the largest
possible. Small tensors on the CPU whose values come from no ghost are real.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache, partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from tunewright.models.native import ops as native

aten: Any = torch.ops.aten
SMALL = 2**14  # numbers; real tensors of up to so many stay real
# What an allocation is rounded up to: torch's alignment on a CPU, the smallest block of its CUDA allocator.
ALIGNED = {"cpu": 64, "cuda": 512}


class Ghost(Tensor):
    """A tensor without data that says that it lies on ``device``; ``outline`` is its shape, on ``meta``."""

    outline: Tensor

    @staticmethod
    def __new__(cls, outline: Tensor, device: torch.device) -> Ghost:
        made: Ghost = torch.Tensor._make_wrapper_subclass(
            cls,
            outline.shape,
            strides=outline.stride(),
            storage_offset=outline.storage_offset(),
            dtype=outline.dtype,
            layout=outline.layout,
            device=device,
        )
        made.outline = outline
        return made

    def __repr__(self, **kwargs: Any) -> str:  # type: ignore[override]
        return f"Ghost({tuple(self.shape)}, {self.dtype}, {self.device})"

    def tolist(self) -> Any:
        """Ones, in the shape of the tensor."""
        return torch.ones(self.outline.shape, dtype=self.outline.dtype, device="cpu").tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, *_: Any) -> Any:
        raise AssertionError(f"{func} on a ghost, outside of a ledger")


def is_ghost(tensor: Tensor) -> bool:
    """Whether there is nothing in it; a ghost may call itself ``nn.Parameter``."""
    return getattr(tensor, "outline", None) is not None


native.STAND_INS.append(is_ghost)


class Ledger(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Runs operators on ghosts, and counts the bytes of those on ``device`` by kind.

    New storages are of the kind ``current``; ``label`` gives tensors another one. ``peak`` holds the bytes of
    each kind at the moment when all together were most since ``watch``. It cannot be entered twice at a time.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.device = torch.device(device)
        self.current = "activations"
        self.live: dict[str, int] = {}
        self.peak: dict[str, int] = {}
        self._now = self._most = 0
        self._known: dict[int, tuple[str, int]] = {}  # storage -> kind, bytes
        self._seen: dict[Any, tuple[Any, Any, torch.dtype]] = {}  # operator and arguments -> result

    def watch(self) -> None:
        """Begin a new search for the peak."""
        self.peak, self._most = dict(self.live), self._now

    @contextmanager
    def kind(self, name: str) -> Iterator[None]:
        """Within it new storages are of the kind ``name``."""
        before, self.current = self.current, name
        try:
            yield
        finally:
            self.current = before

    def label(self, tensors: Iterable[Tensor], name: str) -> None:
        """Count the storages of ``tensors`` as of the kind ``name``."""
        for tensor in tensors:
            if is_ghost(tensor) and self._counts(tensor):
                storage = cast(Ghost, tensor).outline.untyped_storage()
                key = storage._cdata
                if key not in self._known:
                    self._note(storage, key)
                kind, size = self._known[key]
                self._known[key] = name, size
                self.live[kind] -= size
                self.live[name] = self.live.get(name, 0) + size

    def emptied(self, model: nn.Module) -> None:
        """Make every parameter and buffer of ``model`` a ghost, in place, and count them as weights."""
        done: dict[int, Ghost] = {}
        for module in model.modules():
            for own in (module._parameters, module._buffers):
                for name, tensor in own.items():
                    if tensor is not None and not is_ghost(tensor):
                        own[name] = _emptied(tensor, self.device, done)  # type: ignore[assignment]
        self.label(done.values(), "weights")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if _is_composite(func):  # seen in inference mode only; otherwise autograd takes it apart
            with self:
                return func.decompose(*args, **kwargs)
        ghosts = [cast(Ghost, x) for x in _tensors((args, kwargs)) if is_ghost(x)]
        if ghosts and func in ANSWERS:
            return ANSWERS[func](ghosts[0])
        device = _target(func, kwargs, ghosts)
        if not ghosts and device.type == "cpu":
            out = func(*args, **kwargs)
            large = any(t.numel() > SMALL for t in _tensors(out))
            return self._ghosts(_mapped(out, lambda t: t.to("meta")), device, {}) if large else out
        same: dict[int, Tensor] = {}

        def inner(tensor: Tensor) -> Tensor:
            found = cast(Ghost, tensor).outline if is_ghost(tensor) else _shape_of(tensor)
            same[id(found)] = tensor
            return found

        args, kwargs = _mapped(args, inner), _mapped(kwargs, inner)
        if "device" in kwargs:
            kwargs["device"] = torch.device("meta")
        for name in ("pin_memory", "generator"):
            kwargs.pop(name, None)
        return self._ghosts(self._result(func, args, kwargs), device, same)

    def _result(self, func: Any, args: Any, kwargs: Any) -> Any:
        """``func`` on shapes; where layers repeat, most results have been seen before."""
        if not _makes_one(func):
            return _on_shapes(func, args, kwargs)
        key = func, _key(args), _key(kwargs)
        if key not in self._seen:
            out = _on_shapes(func, args, kwargs)
            self._seen[key] = out.shape, out.stride(), out.dtype
            return out
        shape, stride, dtype = self._seen[key]
        return torch.empty_strided(shape, stride, dtype=dtype, device="meta")

    def _ghosts(self, out: Any, device: torch.device, same: Mapping[int, Tensor]) -> Any:
        def ghost(tensor: Tensor) -> Tensor:
            if id(tensor) in same:
                return same[id(tensor)]
            with torch.inference_mode(False):  # or it could be no view of a weight
                made = Ghost(tensor, device)
            if self._counts(made):
                storage = tensor.untyped_storage()
                if storage._cdata not in self._known:
                    self._note(storage, storage._cdata)
            return made

        return _mapped(out, ghost)

    def _counts(self, tensor: Tensor) -> bool:
        return tensor.device.type == self.device.type

    def _note(self, storage: torch.UntypedStorage, key: int) -> None:
        unit = ALIGNED.get(self.device.type, 1)
        size = -(-storage.nbytes() // unit) * unit
        self._known[key] = self.current, size
        self.live[self.current] = self.live.get(self.current, 0) + size
        self._now += size
        weakref.finalize(storage, self._forget, key)
        if self._now > self._most:
            self.peak, self._most = dict(self.live), self._now

    def _forget(self, key: int) -> None:
        kind, size = self._known.pop(key)
        self.live[kind] -= size
        self._now -= size


def _emptied(tensor: Tensor, device: torch.device, done: dict[int, Ghost]) -> Ghost:
    """The ghost of a parameter or buffer, the same for the same; a class of its own stays known by its name,
    and the scales that a quantised weight carries become ghosts with it."""
    if id(tensor) in done:
        return done[id(tensor)]
    plain = type(tensor) in (Tensor, nn.Parameter, nn.Buffer)
    kind = Ghost if plain else type(type(tensor).__name__, (Ghost,), {})
    found: Ghost = kind(_shape_of(tensor), device)
    done[id(tensor)] = found
    for name, value in vars(tensor).items() if not plain else ():
        setattr(found, name, _carried(value, device, done))
    if isinstance(tensor, nn.Parameter):
        found._is_param = True
        found.requires_grad_(tensor.requires_grad)
    if type(tensor) is nn.Parameter:
        cast(Any, found).__class__ = nn.Parameter  # code that asks for the very class goes the same way
    return found


def _carried(value: Any, device: torch.device, done: dict[int, Ghost]) -> Any:
    if isinstance(value, Tensor):
        return _emptied(value, device, done)
    if not hasattr(value, "absmax"):
        return value
    other = copy.copy(value)
    for name, part in vars(value).items():
        setattr(other, name, _carried(part, device, done))
    return other


def _tensors(tree: Any) -> Iterator[Tensor]:
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, list | tuple):
        for item in tree:
            yield from _tensors(item)
    elif isinstance(tree, dict):
        yield from _tensors(tuple(tree.values()))


def _mapped(tree: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(tree, Tensor):
        return change(tree)
    if isinstance(tree, list):
        return [_mapped(item, change) for item in tree]
    if isinstance(tree, tuple):
        items = [_mapped(item, change) for item in tree]
        return type(tree)(*items) if hasattr(tree, "_fields") else tuple(items)
    return {key: _mapped(item, change) for key, item in tree.items()} if isinstance(tree, dict) else tree


def _shape_of(tensor: Tensor) -> Tensor:
    if type(tensor) is Tensor and tensor.device.type == "meta":
        return tensor
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")


def _target(func: Any, kwargs: Mapping[str, Any], ghosts: list[Ghost]) -> torch.device:
    """Where the result lies: as asked for, or beside the first ghost that is no single number."""
    if kwargs.get("device") is not None:
        return torch.device(kwargs["device"])
    large = [ghost for ghost in ghosts if ghost.dim()] or ghosts
    return large[0].device if large else torch.device("cpu")


@cache
def _is_composite(func: Any) -> bool:
    has = partial(torch._C._dispatch_has_kernel_for_dispatch_key, func.name())
    return has("CompositeImplicitAutograd") and not has("CPU")


@cache
def _makes_one(func: Any) -> bool:
    """Whether ``func`` gives one new tensor and changes none, so that shapes alone decide the result."""
    schema = func._schema
    return len(schema.returns) == 1 and str(schema.returns[0].type) == "Tensor" and not _aliases(schema)


def _aliases(schema: Any) -> bool:
    return any(part.alias_info is not None for part in (*schema.arguments, *schema.returns))


def _key(tree: Any) -> Any:
    """What of the arguments of an operator decides the shape of its result."""
    if isinstance(tree, Tensor):
        return tree.shape, tree.stride(), tree.dtype
    if isinstance(tree, list | tuple):
        return tuple(_key(item) for item in tree)
    if isinstance(tree, dict):
        return tuple((name, _key(item)) for name, item in tree.items())
    return type(tree), tree


def _on_shapes(func: Any, args: Any, kwargs: Any) -> Any:
    """``func`` on tensors of ``meta``; a boolean index takes all there is."""
    if func in INDEXED:
        args = (args[0], [_as_numbers(index) for index in args[1]], *args[2:])
    return func(*args, **kwargs)


def _as_numbers(index: Tensor | None) -> Tensor | None:
    if index is None or index.dtype != torch.bool:
        return index
    return torch.empty(index.numel(), dtype=torch.long, device="meta")


def _one(ghost: Ghost) -> Any:
    return torch.ones((), dtype=ghost.dtype, device="cpu").item()


INDEXED = frozenset({aten.index.Tensor, aten.index_put.default, aten.index_put_.default})
ANSWERS: dict[Any, Callable[[Ghost], Any]] = {
    aten._local_scalar_dense.default: _one,
    aten.allclose.default: lambda ghost: True,
    aten.equal.default: lambda ghost: True,
}
