"""Importing the package and asking for help loads nothing heavy and answers at once."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time

import pytest

HEAVY = {
    "accelerate", "gguf", "jinja2", "numpy", "orjson", "pandas", "peft", "psutil", "pyarrow", "rapidfuzz",
    "sacrebleu", "safetensors", "scipy", "sklearn", "tokenizers", "torch", "transformers", "yaml",
}  # fmt: skip
HELP_SECONDS = 0.3
SLOW = {"torch._inductor.compile_fx", "scipy.stats", "sklearn"}  # loaded where they are used

HELP = """
import json, sys
from tunewright.cli.main import main
sys.argv = ["tunewright", *{words}]
try:
    main()
except SystemExit as end:
    assert end.code == 0, end.code
sys.stderr.write(json.dumps(sorted({{m.partition(".")[0] for m in sys.modules}})))
"""
IMPORT = """
import json, sys
import tunewright
assert tunewright.__version__
sys.stderr.write(json.dumps(sorted({m.partition(".")[0] for m in sys.modules})))
"""


def loaded_by(program: str) -> set[str]:
    """Top-level modules in memory after ``program``, run by a fresh interpreter."""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stderr.splitlines()[-1]))


def test_importing_the_package_loads_nothing_heavy():
    loaded = loaded_by(IMPORT)
    assert "tunewright" in loaded
    assert sorted(loaded & (HEAVY | {"rich", "typer"})) == []


@pytest.mark.parametrize(
    "words", [["--help"], ["train", "--help"], ["data", "check", "--help"], ["--version"]], ids=" ".join
)
def test_help_loads_nothing_heavy(words):
    loaded = loaded_by(HELP.format(words=words))
    assert "typer" in loaded
    assert sorted(loaded & HEAVY) == []


@pytest.mark.parametrize(
    "module", ["tunewright.adapt.lora", "tunewright.adapt.combine", "tunewright.models.load"]
)
def test_libraries_that_are_loaded_say_nothing(module):
    done = subprocess.run(
        [sys.executable, "-c", f"import {module}"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_commands_begin_without_what_they_may_never_use():
    """And the garbage collector, off while they are loaded, is on again."""
    program = """
import gc, sys
from tunewright.cli.loading import loading
with loading():
    import tunewright.cli.commands
assert gc.isenabled() and gc.get_freeze_count() > 100_000
sys.stderr.write("\\n" + "\\n".join(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    loaded = set(done.stderr.splitlines())
    assert {"torch", "peft", "tunewright.run.train"} <= loaded
    assert sorted(loaded & SLOW) == []


def test_the_probe_sees_a_heavy_import():
    assert "numpy" in loaded_by(IMPORT.replace("import tunewright", "import tunewright, numpy"))


def test_help_answers_within_a_third_of_a_second(capsys):
    """Processor time, because the clock on the wall measures what else the machine is doing."""
    command = [sys.executable, "-c", "from tunewright.cli.main import main; main()", "--help"]
    processor, wall = [], []
    for _ in range(5):
        begun = time.perf_counter()
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        assert child.returncode == 0
        wall.append(time.perf_counter() - begun)
        processor.append(usage.ru_utime + usage.ru_stime)
    median = statistics.median(processor)
    with capsys.disabled():
        sys.stdout.write(f"[help: {median:.3f} s of processor, {statistics.median(wall):.3f} s of wall] ")
    assert median < HELP_SECONDS, f"help took {median:.2f} s of processor time"
