# Every target sets itself up: a .venv with the pinned dependencies, made once. DALI is
# one of them on Linux; it needs no GPU.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
READY := $(VENV)/.ready

.PHONY: demo test check setup clean

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev,dali]"
	@touch $@

# Photographs, shards, two phases of training, evaluation: under 4 minutes on 2 cores.
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

test: $(READY)
	$(RUN) -m pytest -q

check: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(RUN) -m pytest -q

clean:
	rm -rf demo .pytest_cache .mypy_cache .ruff_cache .hypothesis build *.egg-info
