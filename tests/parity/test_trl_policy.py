"""Parity with TRL 1.16: its own loss and advantage code on the tensors that our packed batches hold.

TRL's methods run unbound on a plain object, with the model's forward, sampling and rewards replaced by given
numbers; everything between is TRL's. TRL 1.16 has no PPO: the unit tests check it against definitions.
"""

import importlib
import warnings
from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch

from tunewright.core.records import Tokens
from tunewright.engine.batch import build_batch
from tunewright.objectives.base import make_objective
from tunewright.objectives.options.table import options_of

TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}
LENGTHS, LONGEST, GROUP = [5, 2, 7, 1, 4, 6], 9, 3


@pytest.fixture(scope="module")
def trl():
    pytest.importorskip("trl")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {
            name: getattr(importlib.import_module(f"trl.trainer.{name.lower()}_trainer"), f"{name}Trainer")
            for name in ("GRPO", "RLOO")
        }


def numbers(*shape, seed=0, scale=1.0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


# --- one set of answers, padded for TRL and packed for us

NEW = -numbers(6, 7, seed=1).abs() - 0.1
OLD = NEW + numbers(6, 7, seed=2, scale=0.4)
REFERENCE = NEW + numbers(6, 7, seed=3, scale=0.5)
SAMPLER = OLD + numbers(6, 7, seed=4, scale=0.5)
ADVANTAGES = numbers(6, seed=5)
MASK = torch.tensor([[float(t < n) for t in range(7)] for n in LENGTHS])


def packed(tool_mask=MASK):
    """Two prompts with three answers each; the id of a token is its index in the padded tensors."""
    branches = [
        Tokens(
            [i * 7 + t for t in range(n)],
            [float(w) for w in tool_mask[i, :n]],
            extras={"advantage": float(ADVANTAGES[i])},
            tracks={
                name: values[i, :n].tolist()
                for name, values in (("old", OLD), ("reference", REFERENCE), ("sampled", SAMPLER))
            },
        )
        for i, n in enumerate(LENGTHS)
    ]
    pair = (tuple(branches[:GROUP]), tuple(branches[GROUP:]))
    return build_batch([Tokens([0, 0], [0.0, 0.0], branches=group) for group in pair])


class Table:
    def __init__(self, logprobs):
        self.flat = logprobs.flatten()

    def logprobs(self, batch, hidden=None):
        return self.flat[batch.targets.ids]


def ours(name, tool_mask=MASK, cap=0.0, **values):
    """Mean loss and its gradient for the padded log-probabilities."""
    values = {"rollout": {"max_new_tokens": LONGEST, "importance_cap": cap}, **values}
    live = NEW.clone().requires_grad_()
    objective, batch = make_objective(name, options_of(name, values)), packed(tool_mask)
    loss = objective.loss(Table(live), batch).total / objective.count(batch)
    return loss.detach(), torch.autograd.grad(loss, live)[0]


class Accelerator:
    """One process."""

    device, num_processes, process_index = torch.device("cpu"), 1, 0

    def gather(self, values):
        return values

    def reduce(self, values, reduction="sum"):
        return values


def theirs(trainer, tool_mask=MASK, beta=0.0, low=0.2, high=0.2, **settings):
    """The same from TRL's ``_compute_loss``."""
    live = NEW.clone().requires_grad_()
    args = SimpleNamespace(use_bias_correction_kl=True, delta=None, steps_per_generation=1)
    stub = SimpleNamespace(
        **{
            "loss_type": "grpo",
            "importance_sampling_level": "token",
            "use_vllm": False,
            "vllm_importance_sampling_correction": True,
            **settings,
        },
        args=args,
        model=SimpleNamespace(training=True),
        accelerator=Accelerator(),
        aux_loss_enabled=False,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        beta=beta,
        epsilon_low=low,
        epsilon_high=high,
        max_completion_length=LONGEST,
        current_gradient_accumulation_steps=1,
        _entropy_bonus_enabled=False,
        _metrics={"train": defaultdict(list)},
        _get_per_token_logps_and_entropies=lambda *a, **k: (live, torch.zeros_like(live), None),
    )
    mask = MASK.long()
    inputs = {
        "prompt_ids": torch.zeros(6, 2, dtype=torch.long),
        "prompt_mask": torch.ones(6, 2, dtype=torch.long),
        "completion_ids": torch.zeros(6, 7, dtype=torch.long),
        "completion_mask": mask,
        "tool_mask": tool_mask.long(),
        "advantages": ADVANTAGES,
        "old_per_token_logps": OLD,
        "ref_per_token_logps": REFERENCE,
        "old_logps": (OLD * MASK).sum(1),
        "num_items_in_batch": (MASK * tool_mask).sum(),
        "importance_sampling_ratio": (OLD - SAMPLER).exp().clamp(max=2.0),
    }
    loss = trainer._compute_loss(stub, stub.model, inputs)
    return loss.detach(), torch.autograd.grad(loss, live)[0], stub._metrics["train"]


GSPO = {"importance_sampling_level": "sequence", "low": 3e-4, "high": 4e-4}
SAME = {  # our name -> TRL's settings
    "grpo": {"loss_type": "grpo"},
    "dr_grpo": {"loss_type": "dr_grpo"},
    "dapo": {"loss_type": "dapo", "high": 0.28},
    "gspo": {"loss_type": "grpo", **GSPO},
    "cispo": {"loss_type": "cispo", "high": 5.0},
}


@pytest.mark.parametrize("beta", [0.0, 0.3])
@pytest.mark.parametrize("name", SAME)
def test_losses_of_the_grpo_trainer(trl, name, beta):
    loss, grad = ours(name, kl=beta)
    other, other_grad, _ = theirs(trl["GRPO"], beta=beta, **SAME[name])
    torch.testing.assert_close(loss, other, **TOLERANCE)
    torch.testing.assert_close(grad, other_grad, **TOLERANCE)
    assert float(grad.abs().sum()) > 1e-3


@pytest.mark.parametrize("name", SAME)
def test_the_importance_correction(trl, name):
    """TRL's mode ``token_truncate`` at 2, with a divergence, which it does not scale."""
    loss, grad = ours(name, cap=2.0, kl=0.1)
    other, other_grad, _ = theirs(trl["GRPO"], beta=0.1, use_vllm=True, **SAME[name])
    torch.testing.assert_close(loss, other, **TOLERANCE)
    torch.testing.assert_close(grad, other_grad, **TOLERANCE)
    assert abs(float(loss - ours(name, kl=0.1)[0])) > 1e-3


@pytest.mark.parametrize("name", ["grpo", "dapo", "gspo"])
def test_tool_output_is_left_out(trl, name):
    tool_mask = MASK.clone()
    tool_mask[0, 1:3] = tool_mask[2, 4] = 0
    loss, grad = ours(name, tool_mask)
    other, other_grad, _ = theirs(trl["GRPO"], tool_mask, **SAME[name])
    torch.testing.assert_close(loss, other, **TOLERANCE)
    torch.testing.assert_close(grad, other_grad, **TOLERANCE)


def test_rloo_loss(trl):
    loss, grad = ours("rloo")
    other, other_grad, _ = theirs(trl["RLOO"])
    torch.testing.assert_close(loss, other, **TOLERANCE)
    torch.testing.assert_close(grad, other_grad, **TOLERANCE)


def test_metrics(trl):
    """Clip share, KL to the reference (on the policy itself TRL's ratio weight is 1)."""
    batch = packed()
    objective = make_objective("grpo", options_of("grpo", {"rollout": {"importance_cap": 0}}))
    found = {n: float(m.total / m.weight) for n, m in objective.loss(Table(NEW), batch).metrics.items()}
    logged = theirs(trl["GRPO"])[2]
    assert found["clipped"] == pytest.approx(logged["clip_ratio/region_mean"][0]) and found["clipped"] > 0
    log_ratio = REFERENCE - NEW
    k3 = (log_ratio.exp() - log_ratio - 1) * MASK
    assert found["kl"] == pytest.approx(float(k3.sum() / MASK.sum()), rel=1e-5)


# --- advantages


def scored(trainer, rewards, **settings):
    """TRL's advantages, from given rewards, by ``_generate_and_score_completions``."""
    reference = object()

    def logprobs(model, *args, **kwargs):
        return (REFERENCE if model is reference else OLD), None, None

    answers = [[1] * n for n in LENGTHS]
    stub = SimpleNamespace(
        **{"beta": 0.0, "scale_rewards": "group", "normalize_advantages": False, **settings},
        accelerator=Accelerator(),
        model=SimpleNamespace(training=True, is_gradient_checkpointing=False),
        ref_model=reference,
        args=SimpleNamespace(
            per_device_train_batch_size=6,
            steps_per_generation=1,
            gradient_accumulation_steps=1,
            gradient_checkpointing_kwargs=None,
        ),
        environment_factories=None,
        environments=None,
        tools=None,
        pad_to_multiple_of=None,
        mask_truncated_completions=False,
        use_vllm=False,
        num_iterations=1,
        num_generations=GROUP,
        multi_objective_aggregation="sum_then_normalize",
        reward_weights=torch.ones(1),
        reward_clip_range=None,
        reward_func_names=["given"],
        log_multimodal=False,
        _tokenizer=SimpleNamespace(pad_token_id=0),
        _metrics={"train": defaultdict(list)},
        _logs=defaultdict(list, rewards=defaultdict(list), extra=defaultdict(list)),
        _pending_extra_logs={},
        _pending_metrics={},
        _get_per_token_logps_and_entropies=logprobs,
        _calculate_rewards=lambda *args: rewards.reshape(-1, 1),
    )
    written = ([[1, 1]] * 6, answers, ["x"] * 6)
    if "GRPO" in trainer.__name__:
        written = (written[0], answers, None, written[2], None, None, None, None)
    stub._generate = lambda prompts: written
    return trainer._generate_and_score_completions(stub, [{"prompt": "p"}] * 6)["advantages"]


REWARDS = torch.tensor([[0.1, 1.3, -0.4], [2.0, 2.0, 2.5]])


@pytest.mark.parametrize("name", ["grpo", "dapo", "gspo", "cispo", "dr_grpo"])
def test_advantages_of_the_grpo_trainer(trl, name):
    objective = make_objective(name, options_of(name, {"overlong": 0.0}))
    found = objective.credit(REWARDS, torch.tensor(LENGTHS).view(2, GROUP)).advantages
    scale = "none" if name == "dr_grpo" else "group"
    torch.testing.assert_close(
        found.flatten(), scored(trl["GRPO"], REWARDS, scale_rewards=scale), **TOLERANCE
    )


@pytest.mark.parametrize("beta", [0.0, 0.3])
def test_advantages_of_the_rloo_trainer(trl, beta):
    objective = make_objective("rloo", options_of("rloo", {"kl": beta}))
    divergence = ((OLD - REFERENCE) * MASK).sum(1).view(2, GROUP) if beta else None
    found = objective.credit(REWARDS, torch.tensor(LENGTHS).view(2, GROUP), divergence).advantages
    torch.testing.assert_close(found.flatten(), scored(trl["RLOO"], REWARDS, beta=beta), **TOLERANCE)


def test_trl_has_no_ppo_to_compare_with(trl):
    """If this fails, TRL has it again: compare the clipped losses and GAE with it here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = importlib.import_module("trl")
        assert not any("PPO" in name for name in (*dir(module), *dir(importlib.import_module("trl.trainer"))))
