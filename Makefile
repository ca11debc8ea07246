# Two commands: `make demo` runs the whole workflow on the embedded demo, `make test` runs all tests.
# Needs git, make and Python 3.11 to 3.13; choose another interpreter with PYTHON=python3.12.

PYTHON ?= python3
CORES ?= 2
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-fast drills check docs gpu-checks demo-generator clean-demo
.DEFAULT_GOAL := demo

# A killed run leaves Snakemake's lock and half-made jobs behind: --nolock and --rerun-incomplete let the next one go on.
# That is safe here because every file is written atomically and by one process at a time.
demo: $(VENV)/.installed
	@$(BIN)/snakemake --cores $(CORES) --nolock --rerun-incomplete --quiet host reason
	@echo "The report lies at $(CURDIR)/results/report/index.html"

# One thread each: torch's own threads would only get into each other's way. Two processes more than cores: the tests on Slurm mostly wait.
test: $(VENV)/.installed-dev $(VENV)/.installed-docs
	@OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses $$(($(CORES) + 2)) --dist loadgroup

# All but the end-to-end runs, fault drills, Slurm and browser: minutes less, for the time between two edits.
test-fast: $(VENV)/.installed-dev
	@OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses $(CORES) --dist loadgroup -m "not slow" $(addprefix --ignore tests/,faults slurm browser)

# The long set of the fault drills (tests/faults): 30 minutes on one core; its table goes into perf/results/faults.md.
drills: $(VENV)/.installed-dev
	@rm -f $(VENV)/drills.jsonl
	@CDGMAE_DRILLS=$(CURDIR)/$(VENV)/drills.jsonl OMP_NUM_THREADS=1 $(BIN)/pytest tests/faults --timeout 7200; code=$$?; \
	$(BIN)/python -m tests.faults.ledger $(VENV)/drills.jsonl perf/results/faults.md; exit $$code

# What .ci/run checks besides the tests: format, lint, types, layers.
check: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/snakefmt --check Snakefile workflow
	$(BIN)/snakemake --lint

# The documentation, into site/: strictly, without network, with its notebooks executed.
docs: $(VENV)/.installed-docs
	@NO_MKDOCS_2_WARNING=1 OMP_NUM_THREADS=1 $(BIN)/mkdocs build --quiet
	@echo "The documentation lies at $(CURDIR)/site/index.html"

# What only a GPU shows (docs/gpu.md): ten minutes, the table goes into gpu_checks.md.
gpu-checks: $(VENV)/.installed
	$(BIN)/python -m perf.gpu_checks

# The weights that the demo's generator starts from, into cdgmae/demo/generator (docs/demo_generator.md): forty minutes on one core with bf16, an hour without.
demo-generator: $(VENV)/.installed
	@mkdir -p build/demo-generator
	@$(BIN)/snakemake --directory build/demo-generator --cores $(CORES) --nolock --rerun-incomplete --quiet host reason \
	  --configfile config.yaml workflow/experiments/demo_generator.yaml -- results/generators/s_ldm
	@cd build/demo-generator/results/generators/s_ldm && cp -r autoencoder projector scheduler unet model_index.json cdgmae.json $(CURDIR)/cdgmae/demo/generator

# Remove what `make demo` made; the environment stays.
clean-demo:
	rm -rf results work logs benchmarks data/demo .snakemake

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info[:2] <= (3, 13) else "Python 3.11 to 3.13 is needed, found " + sys.version.split()[0] + "; run make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: envs/requirements.txt pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --requirement envs/requirements.txt
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.installed-dev: envs/requirements-dev.txt $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --requirement envs/requirements-dev.txt
	@touch $@

$(VENV)/.installed-docs: envs/requirements-docs.txt $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --requirement envs/requirements-docs.txt
	@touch $@
