"""The benchmark for a GPU, rehearsed on a CPU: table, operations, and what it does where little fits."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / "benchmarks" / "gpu.py"


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.syspath_prepend(PROGRAM.parent)
    import gpu

    return gpu


def run(*words):
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, PROGRAM, *words], capture_output=True, text=True, env=environment, timeout=300
    )


def test_a_rehearsal_ends_in_a_table_whose_figures_agree(gpu):
    done = run("--tiny", "--device", "cpu", "--alone", "--only", "tiny, lora")
    assert done.returncode == 0, done.stderr[-2000:]
    head, blank, names, rule, line = done.stdout.splitlines()[-5:]
    assert head.startswith(f"cpu, torch {torch.__version__}; products in bfloat16: ") and blank == ""
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert len(cells) == names.count("|") - 1 == rule.count("|") - 1 == 6
    case, side, speed, memory, used, times = cells
    assert (case, side, times) == ("tiny, lora", "Tunewright", "")
    rate = float(head.split("bfloat16: ")[1].split()[0]) * 1e12
    (tiny,) = (shape for shape in gpu.SHAPES if shape.name == "tiny")
    each = gpu.flops_per_token(tiny, "lora")
    share = float(speed.replace(",", "")) * each / rate
    assert abs(float(used.rstrip("%")) / 100 - share) < 0.001
    assert float(speed.replace(",", "")) > 1 and float(memory.replace(",", "")) > 100


@pytest.mark.parametrize(
    ("words", "said"), [((), "no CUDA device"), (("--device", "cpu"), "full sizes are for a CUDA device")]
)
def test_without_a_gpu_it_says_what_is_missing(words, said):
    done = run(*words)
    assert done.returncode == 2 and said in done.stdout and "--tiny" in done.stdout


def test_operations_of_full_training_are_those_that_torch_counts(gpu):
    """All scores are counted there, half of them here; the rotary angles are counted there alone."""
    (tiny,) = (shape for shape in gpu.SHAPES if shape.name == "tiny")
    model = AutoModelForCausalLM.from_config(tiny.config, attn_implementation="eager")
    ids = torch.randint(3, tiny.words, (1, tiny.length))
    with FlopCounterMode(display=False) as counter:
        model(input_ids=ids).logits.sum().backward()
    scores = 6 * tiny.layers * tiny.heads * tiny.head_dim * tiny.length
    expected = (gpu.flops_per_token(tiny, "full") + scores) * tiny.length
    assert counter.get_total_flops() == pytest.approx(expected, rel=1e-3)


def test_sizes_and_operations_by_hand(gpu):
    shape = gpu.Shape("toy", 8, 20, 3, 4, 2, 100, True, 10)
    assert shape.head_dim == 2 and shape.linear == 3 * (8 * 8 + 2 * 4 * 8 + 8 * 8 + 3 * 8 * 20)
    assert shape.sides == 3 * (16 + 2 * 12 + 16 + 3 * 28) and shape.head == 800
    attention = 6 * 3 * 8 * 10
    assert gpu.flops_per_token(shape, "full") == 6 * (shape.linear + 800) + attention
    adapter = 16 * shape.sides
    assert gpu.flops_per_token(shape, "lora") == 4 * (shape.linear + 800) + 6 * adapter + attention
    assert gpu.flops_per_token(shape, "qlora") == gpu.flops_per_token(shape, "lora")


@pytest.mark.parametrize(("name", "billions"), [("1B", 1.236), ("8B", 8.030)])
def test_the_shapes_are_those_of_llama(name, billions, gpu):
    """1,235,814,400 and 8,030,261,248 weights, as the models have that they are named after."""
    (shape,) = (shape for shape in gpu.SHAPES if shape.name == name)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(shape.config)
    linear = [m.weight for m in model.model.layers.modules() if isinstance(m, torch.nn.Linear)]
    assert shape.linear == sum(w.numel() for w in linear)
    assert shape.sides == sum(sum(w.shape) for w in linear)
    assert sum(p.numel() for p in model.parameters()) / 1e9 == pytest.approx(billions, abs=1e-3)


def test_as_many_rows_at_a_time_as_the_forecast_allows(gpu, monkeypatch, capsys):
    shape = gpu.SHAPES[0]
    monkeypatch.setattr(gpu, "room_mb", lambda device: 1000.0)
    needs = {8: 2000.0, 4: 950.0, 2: 919.0, 1: 500.0}
    monkeypatch.setattr(gpu, "forecast_mb", lambda model, shape, method, together, *rest: needs[together])
    assert gpu.largest_case("", shape, "lora", 8, "cpu").together == 2  # 950 MB leave too little room
    needs = dict.fromkeys(needs, 5000.0)
    assert gpu.largest_case("", shape, "full", 8, "cpu") is None
    assert "full: needs 5,000 MB, 920 MB are there: left out" in capsys.readouterr().out


def test_the_forecast_grows_with_the_rows_and_knows_the_method(gpu, tmp_path):
    (tiny,) = (shape for shape in gpu.SHAPES if shape.name == "tiny")
    model = str(gpu.write_model(tiny, tmp_path / "tiny", "cpu"))
    one, two = (gpu.forecast_mb(model, tiny, "lora", count, 2, "cpu") for count in (1, 2))
    assert 0 < one < two < gpu.forecast_mb(model, tiny, "full", 2, 2, "cpu") + two


def test_a_peer_runs_with_the_most_rows_it_can_and_others_are_left_out_aloud(gpu, monkeypatch, capsys):
    def printed(command):
        rows = int(command[command.index("--device-batch") + 1])
        if "--liger" in command or rows > 2:
            raise SystemExit("it failed:\nout of memory")
        return {}

    monkeypatch.setattr(gpu, "printed", printed)
    monkeypatch.setattr(gpu, "installed", lambda *modules: {"trl", "liger_kernel"})
    found = gpu.peers("model", Path("rows"), "lora", "cuda", 8)
    assert list(found) == ["TRL"] and found["TRL"][-2:] == ["--device-batch", "2"]
    said = capsys.readouterr().out
    assert "out of memory" in said and "TRL with Liger does not run here" in said
    assert gpu.peers("model", Path("rows"), "qlora", "cuda", 8) == {}
    assert "no bitsandbytes" in capsys.readouterr().out


def test_shares_and_ratios(gpu):
    case = gpu.Case(gpu.SHAPES[0], "lora", 1)
    sides = {"Tunewright": gpu.Speed(300.0, 10.0, ()), "TRL": gpu.Speed(200.0, 20.0, ())}
    each = gpu.flops_per_token(case.shape, "lora")
    mine, trl = gpu.lines(case, sides, 1000 * each)
    assert mine == gpu.Line("tiny, lora", "Tunewright", 300.0, 10.0, pytest.approx(0.3), 1.5)
    assert trl.used == pytest.approx(0.2) and trl.times == 1.0
    page = gpu.table("A GPU", 2.5e14, [mine, trl])
    assert "A GPU, torch" in page and "250 TFLOP/s" in page
    assert "| tiny, lora | Tunewright | 300 | 10 | 30.0% | 1.50 |" in page
