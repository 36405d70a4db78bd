"""One call for all texts of a packed batch: which calls go that way, and that it equals the blocked path."""

import warnings

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.attending import attend, plain_varlen
from tests.tiny import tiny_model
from tests.unit.models.test_forward import documents
from tests.unit.models.test_virtual_attention import AHEAD, HEADS, KEY_HEADS, SEGMENTS, SIZE, TOKENS
from tunewright.core.records import Tokens
from tunewright.engine.batch import build_batch
from tunewright.engine.ghost import Ledger
from tunewright.models import attention, placing, varlen
from tunewright.models.attention import packed_attention, texts_of
from tunewright.models.blocked import Text
from tunewright.models.forward import ModelForward
from tunewright.models.varlen import Call, Packing, layout_of, path_of

HERE = torch.device("cpu")
GOOD = Call("cuda", (9, 0), torch.bfloat16, (128, 128), True, False, False, False)
HALF, SINGLE = torch.float16, torch.float32


@pytest.mark.parametrize(
    ("changes", "way", "word"),
    [
        ({}, "varlen", "FlashAttention over all"),
        ({"dtype": HALF, "capability": (8, 0)}, "varlen", "over all"),
        ({"capability": (12, 0), "widths": (192, 192)}, "varlen", "over all"),
        ({"capability": (8, 0), "widths": (256, 256)}, "varlen", "over all"),
        ({"capability": (8, 6), "widths": (256, 256), "learns": False}, "varlen", "over all"),
        ({"capability": (8, 6), "widths": (256, 256)}, "loop", "up to 192 numbers, not 256"),
        ({"capability": (7, 5)}, "loop", "8.0"),
        ({"capability": None}, "loop", "8.0"),
        ({"dtype": SINGLE}, "loop", "torch.float32"),
        ({"widths": (264, 264)}, "loop", "not 264"),
        ({"widths": (20, 20)}, "loop", "multiple of 8, not 20"),
        ({"widths": (192, 128)}, "loop", "differ"),
        ({"softcap": True}, "loop", "soft cap"),
        ({"dropout": True}, "loop", "dropout"),
        ({"shifted": True}, "loop", "shifted"),
    ],
)
def test_the_way_of_a_call_on_cuda_and_its_reason(changes, way, word):
    choice = path_of(GOOD._replace(**changes))
    assert choice.way == way and word in choice.reason
    assert choice.worth_saying == (way == "loop")


@pytest.mark.parametrize("device", ["cpu", "mps"])
def test_other_devices_loop_and_nothing_is_wrong_with_that(device):
    choice = path_of(GOOD._replace(device=device))
    assert choice.way == "loop" and device in choice.reason and not choice.worth_saying


def test_a_slow_way_is_said_once_for_each_reason():
    varlen.say_once.cache_clear()
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        for reason in ("one", "two", "one"):
            varlen.say_once(reason)
    assert [str(w.message).rsplit(": ", 1)[1] for w in heard] == ["one", "two"]
    varlen.say_once.cache_clear()


def test_the_facts_of_a_call():
    q = torch.zeros(1, 4, 3, 16, requires_grad=True)
    v = torch.zeros(1, 2, 3, 8)
    assert varlen.call_of(q, v, None, 0.0, 0.0) == Call(
        "cpu", None, SINGLE, (16, 8), True, False, False, False
    )
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found = varlen.call_of(q, v, 30.0, 0.1, 0.25)
    assert found == Call("cpu", None, torch.bfloat16, (16, 8), False, True, True, True)


def test_the_layout_worked_by_hand():
    segments = ((0, 3, None), (3, 2, 0), (5, 1, 0))
    plain = layout_of(texts_of(((0, 3, None), (3, 2, None)), 0), HERE)
    assert plain.queries.tolist() == plain.keys.tolist() == [0, 3, 5] and plain.order is None
    assert (plain.longest, plain.most) == (3, 3)
    behind = layout_of(texts_of(segments, 2), HERE)
    assert behind.queries.tolist() == [0, 3, 5, 6] and behind.keys.tolist() == [0, 5, 12, 18]
    assert behind.order.tolist() == [0, 1, 2, 3, 4, *range(7), 0, 1, 2, 3, 4, 7]
    assert behind.queries.dtype == torch.int32 and (behind.longest, behind.most) == (3, 7)


def test_texts_behind_unused_keys_are_gathered_too():
    """An order is unnecessary where keys lie as queries lie, not where every text is one piece."""
    found = layout_of((Text((0, 2), ((1, 3),)),), HERE)
    assert found.order.tolist() == [1, 2]


def states(grad=True):
    torch.manual_seed(0)
    query = torch.randn(1, HEADS, TOKENS, SIZE) * 2
    key, value = (torch.randn(1, KEY_HEADS, TOKENS, SIZE) for _ in range(2))
    before = [torch.randn(1, KEY_HEADS, AHEAD, SIZE) for _ in range(2)]
    return [x.requires_grad_(grad) for x in (query, key, value, *before)]


@pytest.mark.parametrize("window", [None, 1, 4, 7, 100])
@pytest.mark.parametrize("ahead", [False, True])
def test_outputs_and_gradients_equal_the_blocked_path(ahead, window, monkeypatch):
    found = {}
    for way in ("blocked", "varlen", "fused"):
        attend(way, monkeypatch)
        query, key, value, *before = states()
        out = packed_attention(
            query, key, value, SEGMENTS, 0.3, window, before=tuple(before) if ahead else None
        )
        out.square().sum().backward()
        inputs = (query, key, value, *(before if ahead else ()))
        found[way] = (out.detach(), *(x.grad for x in inputs))
    for way in ("varlen", "fused"):
        for got, expected in zip(found[way], found["blocked"], strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def test_the_kernel_is_called_once_for_all_texts_and_never_where_it_cannot(monkeypatch):
    calls = []

    def counted(*args, **kwargs):
        calls.append(kwargs)
        return plain_varlen(*args, **kwargs)

    attend("varlen", monkeypatch)
    monkeypatch.setattr(varlen, "kernel", lambda: counted)
    query, key, value, *_ = states(grad=False)
    for window in (None, 4, 100):
        packed_attention(query, key, value, SEGMENTS, 0.3, window)
    assert [call["window_size"] for call in calls] == [(-1, 0), (3, 0), (-1, 0)]
    assert all(call["enable_gqa"] for call in calls)
    packed_attention(query, key, value, SEGMENTS, 0.3, softcap=5.0)
    packed_attention(query, key, value, SEGMENTS, 0.3, share=0.25)
    assert len(calls) == 3


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma3", "phi3"])
def test_a_model_learns_the_same(family, monkeypatch):
    """Through whole models with windows and shared prefixes; every layer shares one layout."""
    prefix, left, right = (t.ids for t in documents(2, (30, 12, 7)))
    tree = Tokens(prefix, [0.0] * 30, branches=tuple(Tokens(end, [1.0] * len(end)) for end in (left, right)))
    overrides = {"sliding_window": 16} if family in ("mistral", "gemma3") else {}
    found, layouts = {}, []
    whole = varlen.layout_of
    monkeypatch.setattr(varlen, "layout_of", lambda *given: layouts.append(given) or whole(*given))
    for way in ("blocked", "varlen"):
        attend(way, monkeypatch)
        forward = ModelForward(tiny_model(family, **overrides))
        logprobs = forward.logprobs(build_batch([tree, *documents(3, (40, 9))]))
        logprobs.sum().backward()
        found[way] = {n: p.grad for n, p in forward.model.named_parameters() if p.grad is not None}
        found[way]["logprobs"] = logprobs.detach()
    assert found["blocked"].keys() == found["varlen"].keys() and len(layouts) == 1
    for name, expected in found["blocked"].items():
        torch.testing.assert_close(found["varlen"][name], expected, rtol=1e-4, atol=1e-4)


def test_what_is_judged_in_inference_mode_can_be_learnt_from_afterwards(monkeypatch):
    attend("varlen", monkeypatch)
    forward, batch = ModelForward(tiny_model("llama")), build_batch(documents())
    with torch.inference_mode():
        forward.logprobs(batch)
    forward.logprobs(batch).sum().backward()


def test_a_packing_keeps_one_layout_for_each_device_and_number_of_keys_ahead():
    packing = Packing(SEGMENTS)
    assert packing == SEGMENTS and packing.layout(texts_of(SEGMENTS, 0), 0, HERE) is packing.layout(
        (), 0, HERE
    )
    assert packing.layout(texts_of(SEGMENTS, 3), 3, HERE) is not packing.layout((), 0, HERE)


class Additions(TorchDispatchMode):
    """The formats in which rows are added up by index."""

    def __init__(self):
        super().__init__()
        self.formats = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if "index_add" in func.name():
            self.formats.append(args[0].dtype)
        return func(*args, **(kwargs or {}))


def test_gradients_of_a_prefix_are_added_up_in_float32(monkeypatch):
    """A GPU adds bfloat16 to bfloat16, where 256 ones and one more are 256."""
    attend("varlen", monkeypatch)
    query, key, value = (x.detach().bfloat16().requires_grad_() for x in states()[:3])
    with Additions() as seen:
        packed_attention(query, key, value, SEGMENTS, 0.3).sum().backward()
    assert seen.formats == [torch.float32] * 2 and key.grad.dtype == torch.bfloat16


def test_a_plan_for_a_gpu_counts_what_the_real_kernel_keeps(monkeypatch):
    """On tensors without data, where torch's own operator tells shapes only."""
    monkeypatch.setattr(attention, "BLOCKED", set())
    monkeypatch.setattr(
        attention, "call_of", lambda *given: varlen.call_of(*given)._replace(device="cuda", capability=(9, 0))
    )
    ledger = Ledger()
    with ledger:
        query, key, value = (
            torch.empty(1, heads, 4096, 64, dtype=torch.bfloat16, requires_grad=True) for heads in (8, 2, 2)
        )
        halves = ((0, 2048, None), (2048, 2048, 0))
        out = packed_attention(query, key, value, halves, 0.125)
        held = ledger.live["activations"]
        out.sum().backward()
    assert out.shape == (1, 4096, 8, 64) and query.grad.shape == query.shape
    number = 2
    inputs, result = 4096 * 64 * (8 + 2 + 2) * number, 4096 * 64 * 8 * number
    prefixed, norms = 6144 * 64 * 4 * number, 4096 * 8 * 4
    assert 0 <= held - inputs - result - prefixed - norms < 2**17


def test_what_is_placed_on_a_gpu_leaves_from_pinned_memory(monkeypatch):
    asked = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: asked.append("pinned") or self)
    monkeypatch.setattr(torch.Tensor, "to", lambda self, device, **how: asked.append((str(device), how)))
    for there, available in (("cpu", False), ("mps", False), ("cuda", False), ("cuda", True)):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=available: there)
        placing.placed(torch.zeros(3), there)
    assert asked == [("cpu", {}), ("mps", {}), ("cuda", {}), "pinned", ("cuda", {"non_blocking": True})]
    asked.clear()
    placing.placed(torch.nn.Parameter(torch.zeros(3)), "cuda")
    assert asked == [("cuda", {})], "what may stand for a tensor without data has no memory to pin"
