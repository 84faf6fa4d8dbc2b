# Every target sets itself up: a .venv with the pinned dependencies, made once. DALI is
# one of them on Linux; it needs no GPU.

PYTHON ?= python3
VENV := .venv
PEERS := .venv-peers
BENCH :=
RUN := $(VENV)/bin/python
# Exactly what constraints.txt names, and no file that has another hash than stands there.
PIP := $(RUN) -m pip install --quiet --disable-pip-version-check --no-deps
# Three processes for two cores, as many a test waits for a process of its own (151 s,
# where two took 176 and four 180). Whoever is done takes on from the others.
WORKERS = $(shell echo $$(( ($$(getconf _NPROCESSORS_ONLN) * 3 + 1) / 2 )))
TESTS = $(RUN) -m pytest -q -n $(WORKERS) --maxprocesses 6 --dist worksteal --durations 10
READY := $(VENV)/.ready

# Where a machine says that no bytecode be written, each of a hundred processes would
# compile the package, and pytest its tests, anew: 5 s of every worker.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test check torture setup docs bench bench-peers clean

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) --require-hashes -r constraints.txt
	$(PIP) --no-build-isolation -e .
	@touch $@

# Photographs, shards, two phases of training, evaluation: 4 minutes on 2 cores that
# compute in bf16, 8 to 10 on others.
demo: $(READY)
	$(RUN) scripts/demo_data.py demo/photographs --images 1200
	$(RUN) scripts/shard.py demo/photographs demo/shards
	rm -rf demo/run
	$(RUN) -m fastretina.train --shards demo/shards --out demo/run --weights none \
		--image-size 128
	@echo
	$(RUN) -m fastretina.evaluate demo/run
	@echo
	@echo "What was learned stands in the table: right answers are on its diagonal."
	@echo "Figures: demo/run/curves.png and demo/run/confusion.png"

# "check" takes 15 minutes on 2 slow cores; what takes some 10 seconds by itself is left
# to it.
test: $(READY)
	$(TESTS)

check: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(TESTS) --slow

# Kills, losses of power, damaged files and broken machines by the thousand, from a seed
# that it prints: under an hour on 2 cores, MINUTES=5 for less, and SEED=7 ONLY=kills
# CASE=17 for one case again. What it has found is in docs/reliability.md.
MINUTES := 50
torture: $(READY)
	cd tests && PYTHONPATH=.. ../$(RUN) -m torture --minutes $(MINUTES) \
		$(if $(SEED),--seed $(SEED)) $(if $(ONLY),--only $(ONLY)) $(if $(CASE),--case $(CASE))

# The pages under docs/ with one of the API, in build/site; a dead link is an error.
docs: $(READY)
	$(VENV)/bin/mkdocs build -q
	@echo "build/site/index.html"

# Every finish line, beside its ceiling: under 5 minutes on 2 cores. What is wanted
# otherwise goes in BENCH, e.g. make bench BENCH="--shards shards --full".
bench: $(READY)
	$(RUN) -m pytest bench --benchmark-only -q $(BENCH)
	$(RUN) -m bench.report

# The same against FFCV, SPDL, litData, MosaicML streaming and torchcodec.
bench-peers: $(PEERS)/.ready
	$(PEERS)/bin/python -m pytest bench --benchmark-only -q $(BENCH)
	$(PEERS)/bin/python -m bench.report

$(PEERS)/.ready: $(READY) bench/peers.sh bench/peers.txt
	bench/peers.sh $(PEERS)
	@touch $@

clean:
	rm -rf demo .pytest_cache .mypy_cache .ruff_cache .hypothesis build *.egg-info
