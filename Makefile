# `make demo` and `make test` are the two commands of the README. The other targets are parts of these two, or tools.
DEMO_PORT ?= 8080
DEMO_DIR ?= $(shell .ci/demo-dir)
# The demo never runs as root. If root starts it, it runs as a user that every host has.
DEMO_USER := $(shell test "$$(id -u)" != 0 || echo --user nobody --no-service)
SHELL := /bin/sh
BIN := .venv/bin
RUNTIME_EXTRAS := cpu,bundler
TEST_EXTRAS := cpu,bundler,pkcs11,postgres,parity,test
# Several workers (tests/conftest.py says how many), each of which takes one file after the other, the longest files first.
PARALLEL := -n auto --dist loadfile --no-loadscope-reorder

# A change in any of these makes a new release of the demo. An unchanged tree starts the one that is there.
SOURCES := pyproject.toml $(shell find appliance bundler installer webui -type f ! -path '*/__pycache__/*')

CXX_SOURCES := $(shell find appliance/kernels tests/appliance/kernels -name '*.cc' -o -name '*.h')

.PHONY: demo test check lint format sanitize coverage lock clients demo-model-eval demo-clean clean help

help:
	@echo "make demo             build, sign, install and serve the demo on port $(DEMO_PORT) (DEMO_PORT=, DEMO_DIR=)"
	@echo "make test             the complete test suite in .venv (REQUIRE_ALL=1: nothing may be skipped)"
	@echo "make check            the fast part of it, in less than a minute, before each commit"
	@echo "make lint             formats, ruff and mypy alone"
	@echo "make format           format Python and C++"
	@echo "make sanitize         the native operators under AddressSanitizer and UndefinedBehaviorSanitizer"
	@echo "make coverage         the fast part, and which lines it did not run"
	@echo "make lock             new versions for the development environment (.ci/constraints.txt) and for the API's clients"
	@echo "make clients          programs of the API's clients, and their table in docs/api.md"
	@echo "make demo-model-eval  the demo model's answers to questions it never saw"
	@echo "make demo-clean       remove what make demo built"

demo: $(DEMO_DIR)/installed
	@exec $(DEMO_DIR)/site/current/venv/bin/appliance serve --home $(DEMO_DIR)/site --port $(DEMO_PORT)

$(DEMO_DIR)/checkpoint/config.json: bundler/demo_model/weights.safetensors
	.ci/venv $(RUNTIME_EXTRAS)
	mkdir -p $(DEMO_DIR)
	rm -rf $(DEMO_DIR)/checkpoint
	$(BIN)/bundler demo-checkpoint --out $(DEMO_DIR)/checkpoint

$(DEMO_DIR)/keys/root.json:
	.ci/venv $(RUNTIME_EXTRAS)
	$(BIN)/bundler keygen --keys $(DEMO_DIR)/keys --no-passphrase

$(DEMO_DIR)/gpt-oss-demo.airgap: $(DEMO_DIR)/checkpoint/config.json $(DEMO_DIR)/keys/root.json $(SOURCES)
	.ci/venv $(RUNTIME_EXTRAS)
	$(BIN)/bundler build --checkpoint $(DEMO_DIR)/checkpoint --keys $(DEMO_DIR)/keys --out $@ \
		--python $$($(BIN)/python -c 'import sys; print("%d.%d" % sys.version_info[:2])')

$(DEMO_DIR)/installed: $(DEMO_DIR)/gpt-oss-demo.airgap
	.ci/venv $(RUNTIME_EXTRAS)
	$(BIN)/installer install $< --root $(DEMO_DIR)/keys/root.json --prefix $(DEMO_DIR)/site $(DEMO_USER)
	touch $@

test:
	@test -z "$(REQUIRE_ALL)" || .ci/system-packages
	.ci/venv $(TEST_EXTRAS)
	@test -z "$$(command -v npm)" || npm ci --ignore-scripts --silent
	@test -z "$(REQUIRE_ALL)" || { .ci/clients/make & making=$$!; }; \
		$(MAKE) --no-print-directory lint && { test -z "$$making" || wait $$making; }
	$(BIN)/pytest -q $(PARALLEL) --durations=15

check:
	.ci/venv $(TEST_EXTRAS)
	@$(MAKE) --no-print-directory lint
	$(BIN)/pytest -q --fast $(PARALLEL)

lint:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@$(BIN)/clang-format --dry-run --Werror $(CXX_SOURCES)
	$(BIN)/mypy

format:
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CXX_SOURCES)

sanitize:
	.ci/venv $(TEST_EXTRAS)
	$(BIN)/pytest -q tests/appliance/kernels/test_sanitized.py

coverage:
	.ci/venv $(TEST_EXTRAS)
	$(BIN)/coverage run -m pytest -q --fast
	$(BIN)/coverage report

lock:
	.ci/lock $(TEST_EXTRAS)
	.ci/clients/lock

clients:
	.ci/venv $(TEST_EXTRAS)
	.ci/clients/make
	@test -z "$$(command -v npm)" || npm ci --ignore-scripts --silent
	$(BIN)/pytest -q tests/clients --write-docs

demo-model-eval:
	.ci/venv $(RUNTIME_EXTRAS)
	$(BIN)/python -m bench.demo_model_eval

demo-clean:
	rm -rf $(DEMO_DIR)

clean: demo-clean
	rm -rf .venv .venv-clients build dist *.egg-info
