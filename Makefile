# Thin names for run.py, which needs nothing but Python. Example: make test ARGS="-k store"
PYTHON ?= python3
ARGS ?=

TASKS := setup demo test calibrate check docs bench-distill bench-guard bench-trace bench-weights pin clean

.PHONY: $(TASKS)
$(TASKS):
	@$(PYTHON) run.py $@ $(ARGS)
