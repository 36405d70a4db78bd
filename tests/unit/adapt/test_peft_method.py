"""Every method of PEFT by its name: it runs packed, learns, comes off, is saved and merged, or is refused."""

import dataclasses
import json
from dataclasses import dataclass

import pytest
import torch
from peft import LoraConfig, PeftModel
from peft.mapping import (
    PEFT_TYPE_TO_CONFIG_MAPPING,
    PEFT_TYPE_TO_MIXED_MODEL_MAPPING,
    PEFT_TYPE_TO_PREFIX_MAPPING,
    PEFT_TYPE_TO_TUNER_MAPPING,
)
from peft.tuners.lora import LoraModel

from tests.contract.small import chats, save_small_model, small_train, small_values, write_rows
from tests.tiny import tiny_model
from tests.training import VOCAB, fit, job, rows, settings
from tunewright.adapt.base import ADAPTERS, PEFT, adapter_of, trainable
from tunewright.adapt.peft_kinds import REFUSED, UNMERGED
from tunewright.core.errors import ConfigError
from tunewright.engine.batch import build_batch
from tunewright.models.forward import ModelForward
from tunewright.models.load import load
from tunewright.models.quiet import quiet_peft

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # PEFT advises about methods on its own
IDS = torch.tensor([[5, 9, 30, 57, 8, 20, 41]])
BATCH = build_batch(rows(4, seed=9))


@dataclass(frozen=True)
class Case:
    """Settings that suit a model 64 wide, and how far the loss falls in 12 steps."""

    options: dict
    rate: float = 0.03
    falls: float = 0.01
    identity: bool = True


def case(falls=0.01, rate=0.03, identity=True, **options):
    return Case(options, rate, falls, identity)


CASES = {
    "adamss": case(r=8, num_subspaces=2),
    "adaption_prompt": case(0.005, 0.1, adapter_len=4),
    "beft": case(0.005, 0.1),
    "boft": case(0.05),
    "c3a": case(0.02, identity=False, block_size=16),
    "cartridge": case(0.005, 0.1, identity=False, num_virtual_tokens=4),
    "deft": case(0.1),
    "delora": case(0.1),
    "fourierft": case(0.005, 0.1, identity=False, n_frequency=50),
    "frod": case(),
    "glora": case(0.1),
    "gralora": case(0.1, r=8, alpha=16),
    "hira": case(r=8),
    "hra": case(0.05),
    "ia3": case(0.005, 0.1),
    "lily": case(0.1, r=8),
    "ln_tuning": case(0.005, 0.1),
    "loha": case(0.05, r=4),
    "lokr": case(0.05, r=4),
    "miss": case(0.1, r=8),
    "oft": case(0.05, oft_block_size=8),
    "osf": case(0.05, 0.01),
    "peanut": case(r=8),
    "psoft": case(r=8),
    "pvera": case(0.005, 0.1, r=16),
    "randlora": case(r=8, identity=True),
    "road": case(0.005, group_size=32),
    "shira": case(0.05, r=4),
    "supertuning": case(0.02),
    "tinylora": case(0.01),
    "trainable_tokens": case(0.005, token_indices=[3, 4, 5]),
    "unilora": case(0.005, 0.1, identity=False),
    "vblora": case(0.01, identity=False, vector_length=16, num_vectors=16),
    "vera": case(0.01, 0.1, r=16),
    "waveft": case(0.02, n_frequency=50),
}


def base(dtype=torch.float32):
    return tiny_model("llama", VOCAB, tie_word_embeddings=True).to(dtype)


def logprobs(model):
    """Of a packed batch, as a run computes them."""
    with torch.no_grad():
        return ModelForward(model.eval()).logprobs(BATCH).clone()


def test_every_method_of_peft_is_tried_here_or_refused_or_has_its_own():
    named = {kind.value.lower() for kind in PEFT_TYPE_TO_CONFIG_MAPPING}
    own = {name for name in ADAPTERS if name != PEFT}
    assert named == CASES.keys() | REFUSED.keys() | (named & own)


@pytest.mark.parametrize("method", CASES)
def test_packed_it_learns_comes_off_loads_in_plain_peft_and_merges(method, tmp_path):
    c = CASES[method]
    untouched = logprobs(base())
    adapter = adapter_of(method, **c.options)
    the_job = job(rows(40), adapter=adapter)
    model = the_job.model
    if c.identity:
        torch.testing.assert_close(logprobs(model), untouched, rtol=1e-5, atol=1e-5)
    before = logprobs(model).mean()
    fit(the_job, settings(max_steps=12, epochs=9, learning_rate=c.rate, warmup=0.0), tmp_path / "run")
    after = logprobs(model)
    assert float(after.mean() - before) > c.falls
    with adapter.disabled(model):
        assert torch.equal(logprobs(model), untouched)
    assert torch.equal(logprobs(model), after)
    adapter.save(model, tmp_path / "adapter")
    with quiet_peft():
        plain = PeftModel.from_pretrained(base(), tmp_path / "adapter")
    torch.testing.assert_close(logprobs(plain), after, rtol=1e-4, atol=1e-4)
    assert adapter.merges == (method not in UNMERGED)
    if adapter.merges:
        torch.testing.assert_close(logprobs(adapter.merged(model)), after, rtol=1e-3, atol=1e-3)
    else:
        with pytest.raises(ConfigError, match=f"{method}' cannot be merged: .*; save the adapter"):
            adapter.merged(model)


class Killed(Exception):
    pass


@pytest.mark.parametrize("method", ["adamss", "boft", "osf", "pvera", "randlora", "shira", "vblora", "vera"])
def test_resume_comes_to_the_same_bits(method, tmp_path):
    """Those with chance, buffers or hooks of their own among them."""

    def make():
        return job(rows(30), adapter=adapter_of(method, **CASES[method].options))

    def observe(event):
        if type(event).__name__ == "Saved" and event.step == 2:
            raise Killed

    how = settings(max_steps=4, save_every=2)
    _, expected = fit(make(), how, tmp_path / "whole")
    with pytest.raises(Killed):
        fit(make(), how, tmp_path / "cut", observe)
    _, found = fit(make(), how, tmp_path / "cut")
    assert found.keys() == expected.keys() and all(torch.equal(found[n], expected[n]) for n in expected)


@pytest.mark.parametrize("method", CASES)
def test_a_shell_without_numbers_can_be_rehearsed(method):
    with torch.device("meta"):
        shell = type(base())(base().config)
    adapter_of(method, **CASES[method].options).attach(shell)


@pytest.mark.parametrize("method", ["ia3", "ln_tuning", "vera", "oft", "miss", "trainable_tokens"])
def test_over_a_base_in_bfloat16_what_trains_is_float32(method):
    model = adapter_of(method, **CASES[method].options).attach(base(torch.bfloat16))
    assert {p.dtype for p in trainable(model).values()} == {torch.float32}
    ModelForward(model, compute=torch.bfloat16).logprobs(BATCH).sum().backward()
    assert any(p.grad is not None and p.grad.norm() > 0 for p in trainable(model).values())


def test_what_would_train_in_bfloat16_is_refused():
    with pytest.raises(ConfigError, match=r"keeps .*adaption_prompt in bfloat16.* set model.dtype=float32"):
        adapter_of("adaption_prompt").attach(base(torch.bfloat16))


@pytest.mark.parametrize(
    ("family", "targets", "expected"),
    [
        ("llama", "all-linear", {"down_proj"}),
        ("llama", ["k_proj", "v_proj", "mlp.down_proj"], {"down_proj"}),
        ("llama", "attention", set()),
        ("phi3", "all-linear", {"down_proj"}),
        ("gpt2", "all-linear", {"mlp.c_proj"}),
    ],
)
def test_ia3_scales_the_input_of_the_last_layer_of_the_mlp_and_the_output_of_all_others(
    family, targets, expected
):
    model = adapter_of("ia3", targets=targets).attach(tiny_model(family))
    layers = {n: m for n, m in model.named_modules() if hasattr(m, "ia3_l")}
    before = {n for n, m in layers.items() if m.is_feedforward}
    assert {e for n in before for e in expected if n.endswith(e)} == expected
    assert len(before) == 2 * len(expected)
    for name, layer in layers.items():
        size = layer.in_features if name in before else layer.out_features
        assert layer.ia3_l["default"].numel() == size


def test_methods_with_few_numbers_take_larger_steps():
    rates = {name: adapter_of(name).rate for name in ("ia3", "vera", "lora", "dora", "oft", "randlora")}
    assert rates == {"ia3": 100, "vera": 30, "lora": 10, "dora": 10, "oft": 10, "randlora": 1}
    assert adapter_of("lora", init="pissa").rate == 3


def test_ln_tuning_trains_every_normalisation_and_nothing_else():
    names = trainable(adapter_of("ln_tuning").attach(base())).keys()
    assert len(names) == 5 and all("norm" in name for name in names)
    names = trainable(adapter_of("ln_tuning", targets=["post_attention_layernorm"]).attach(base())).keys()
    assert len(names) == 2


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("lorra", {}, r"unknown adapter 'lorra'. Did you mean 'lora'"),
        ("prompt_tuning", {}, r"'prompt_tuning': its name here is prompt"),
        ("cpt", {}, r"virtual tokens are those of labelled examples.*use prompt"),
        ("multitask_prompt_tuning", {}, r"depend on a task id for each row"),
        ("xlora", {}, r"mixes adapters that are already trained"),
        ("poly", {}, r"needs a task id for each row"),
        ("shadow", {}, r"does not see packed texts apart"),
        ("vera", {"rr": 3}, r"unknown setting 'adapt.rr' of vera"),
        ("vera", {"d_intial": 0.1}, r"unknown setting 'adapt.d_intial' of vera. Did you mean 'd_initial'"),
        ("vera", {"target_modules": ["q_proj"]}, r"adapt.target_modules is set by adapt.targets"),
        ("vera", {"targets": ["q_prj"]}, r"no linear layer 'q_prj'. Did you mean 'q_proj'"),
        ("adaption_prompt", {"targets": "mlp"}, r"adapt.targets has no effect with .*'adaption_prompt'"),
        ("trainable_tokens", {"targets": ["q_proj"]}, r"adapt.targets has no effect"),
        ("cartridge", {"targets": "mlp"}, r"adapt.targets has no effect"),
        ("adamss", {"use_asa": True}, r"adapt.use_asa cannot be used: subspaces are chosen by a callback"),
        ("oft", {"oft_block_size": 7}, r"'oft': .*oft_block_size. .7.."),
        ("boft", {"boft_block_size": 3}, r"'boft' does not fit this model"),
        ("boft", {"boft_block_size": 4, "boft_block_num": 4}, r"'boft'"),
        ("ia3", {"feedforward_modules": ["nonsense"]}, r"'ia3'.*feedforward_modules"),
        ("road", {"variant": "road_9"}, r"'road'.*road_9|'road'.*[Vv]ariant"),
        ("loha", {"r": 0}, r"'loha' does not fit this model.*positive"),
        ("loha", {"r": "four"}, r"'loha' does not fit this model"),
        ("trainable_tokens", {"token_indices": [9999]}, r"'trainable_tokens' does not fit this model"),
        ("trainable_tokens", {}, r"'trainable_tokens' finds nothing to train"),
        ("lora", {"trainable_token_indices": [9999]}, r"indices: 9999 is no token of this model"),
        ("lora", {"trainable_token_indices": ["a"]}, r"indices: 'a' is no token of this model"),
        ("lora", {"trainable_token_indices": 5000}, r"indices: '5000' is no token .*give a list"),
        ("loha", {"exclude_modules": ["nonsense"]}, r"'loha'.*no modules were excluded"),
        ("loha", {"layers_to_transform": [7]}, r"layers_to_transform 7: this model has the layers 0 to 1"),
    ],
)
def test_what_does_not_fit_is_one_clear_error(method, options, message):
    with pytest.raises(ConfigError, match=message):
        adapter_of(method, **options).attach(base())


def test_a_method_that_a_family_has_no_layers_for_says_so():
    with pytest.raises(ConfigError, match=r"'loha' does not fit this model: .*Conv1D"):
        adapter_of("loha", r=2).attach(tiny_model("gpt2"))
    with pytest.raises(
        ConfigError, match=r"'adaption_prompt' does not fit this model: Unsupported model type"
    ):
        adapter_of("adaption_prompt").attach(tiny_model("phi3"))


def test_a_method_registered_with_peft_later_works_by_its_config(monkeypatch, tmp_path):
    @dataclasses.dataclass
    class TwiceConfig(LoraConfig):
        """LoRA with a setting of its own."""

        times: float = 1.0

        def __post_init__(self):
            super().__post_init__()
            self.peft_type = "TWICELORA"
            self.lora_alpha = self.times * self.r

    class TwiceModel(LoraModel):
        """LoRA under another name."""

    for mapping, entry in (
        (PEFT_TYPE_TO_CONFIG_MAPPING, TwiceConfig),
        (PEFT_TYPE_TO_TUNER_MAPPING, TwiceModel),
        (PEFT_TYPE_TO_MIXED_MODEL_MAPPING, TwiceModel),
        (PEFT_TYPE_TO_PREFIX_MAPPING, "lora_"),
    ):
        monkeypatch.setitem(mapping, "TWICELORA", entry)
    adapter = adapter_of("twicelora", r=4, times=2.0)
    the_job = job(rows(40), adapter=adapter)
    layer = next(m for m in the_job.model.modules() if hasattr(m, "lora_A"))
    assert layer.scaling["default"] == 2.0
    before = logprobs(the_job.model).mean()
    fit(the_job, settings(max_steps=12), tmp_path / "run")
    assert float(logprobs(the_job.model).mean() - before) > 0.1
    with pytest.raises(ConfigError, match=r"unknown setting 'adapt.tmes' of twicelora. Did you mean 'times'"):
        adapter_of("twicelora", tmes=2.0)


def test_a_run_with_a_method_by_name_is_loaded_again(tmp_path):
    model = save_small_model(tmp_path / "model")
    values = small_values(model, write_rows(tmp_path / "rows.jsonl", chats(30)), tmp_path / "run")
    del values["adapt.rank"]
    run, _ = small_train(values | {"adapt.method": "vera", "adapt.r": 16, "adapt.targets": "attention"})
    config = json.loads((run.path / "adapter" / "adapter_config.json").read_text())
    assert (config["peft_type"], config["r"]) == ("VERA", 16)
    loaded = load(str(run.path), device="cpu", dtype="float32")
    assert any("vera_lambda" in name for name, _ in loaded.model.named_parameters())


@pytest.mark.parametrize("method", ["lily", "beft", "adaption_prompt"])
def test_merging_what_cannot_be_merged_is_refused_before_anything_is_done(method, tmp_path):
    values = small_values(tmp_path / "nowhere", tmp_path / "rows.jsonl", tmp_path / "run")
    del values["adapt.rank"]
    with pytest.raises(ConfigError, match=r"output.final 'merged'"):
        small_train(values | {"adapt.method": method, "output.final": "merged"})
    assert not (tmp_path / "run").exists()
