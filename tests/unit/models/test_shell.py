"""A model without weights is, but for its weights, the model that is read."""

import pytest
import torch

from tests.contract.small import save_small_model
from tunewright.models.changes import NONE, Changes, Quantise
from tunewright.models.load import load
from tunewright.models.shell import load_shell

CHANGES = {
    "none": NONE,
    "4 bits": Changes(quantise=Quantise()),
    "4 bits, plain constants": Changes(quantise=Quantise(double=False)),
    "8 bits": Changes(quantise=Quantise(bits=8)),
    "longer": Changes(rope={"rope_type": "yarn", "factor": 2.0}),
    "new tokens": Changes(new_tokens=("<one>", "<two>")),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_small_model(tmp_path_factory.mktemp("shell") / "tiny")


def outlines(model):
    """Name, shape and format of every tensor, those that belong to quantised weights included."""
    found = {name: (tuple(t.shape), t.dtype) for name, t in model.named_parameters()}
    for name, weight in model.named_parameters():
        state = getattr(weight, "quant_state", None)
        if state is not None:
            found[f"{name}.absmax"] = tuple(state.absmax.shape), state.absmax.dtype
            found[f"{name}.nested"] = state.nested
        if getattr(weight, "SCB", None) is not None:
            found[f"{name}.scb"] = tuple(weight.SCB.shape), weight.SCB.dtype
    return found


@pytest.mark.parametrize("changes", CHANGES.values(), ids=CHANGES)
def test_all_but_the_numbers_is_there(folder, changes):
    if changes.quantise:
        pytest.importorskip("bitsandbytes")
    shell = load_shell(str(folder), device="cpu", dtype="bfloat16", changes=changes)
    real = load(str(folder), device="cpu", dtype="bfloat16", changes=changes)
    assert outlines(shell.model) == outlines(real.model)
    assert all(p.is_meta for p in shell.model.parameters())
    assert shell.parameters == real.parameters and shell.precision == real.precision
    config = real.model.config.to_dict()
    assert shell.model.config.to_dict() == {n: v for n, v in config.items() if n != "quantization_config"}
    assert len(shell.tokenizer) == len(real.tokenizer)


def test_what_a_shell_leaves_behind_has_data(folder):
    """Tables that bitsandbytes makes once and keeps must not be those of a model without weights."""
    functional = pytest.importorskip("bitsandbytes.functional")
    functional.name2qmap.clear()
    load_shell(str(folder), device="cpu", changes=CHANGES["4 bits"])
    model = load(str(folder), device="cpu", changes=CHANGES["4 bits"]).model
    assert model(torch.arange(3, 9)[None]).logits.isfinite().all()
