# Everything needs only Python 3.11-3.13 and make: set-up happens once, and again when pyproject.toml or
# constraints.txt change.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# The tests' S3 server: one node of Ceph with its gateway, on loopback, objects in memory.
S3_PACKAGES := ceph-mon ceph-osd ceph-mgr radosgw ceph-common
# The browser that opens the service's page in tests.
BROWSER_PACKAGES := chromium fonts-dejavu-core

.PHONY: help install s3-server browser demo test test-all check format bench clean
.DEFAULT_GOAL := help

help:
	@echo "make demo      draw a data set, train a small model, label all of it (2 minutes)"
	@echo "make install   set up $(VENV) with the command imgcls"
	@echo "make s3-server install the S3 server that the tests start (Debian and its kin, as root)"
	@echo "make browser   install the browser that the tests open the page in (likewise)"
	@echo "make check     format, lint, types, floors"
	@echo "make test      the default tests (minutes on 2 cores)"
	@echo "make test-all  the slow ones too"
	@echo "make bench     rates beside the machine's limit and other pipelines (see benchmarks/README.md)"

install: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13) and "imgcls-ray needs Python 3.11-3.13, this is " + sys.version)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $(READY)

s3-server:
	(for program in ceph-mon ceph-osd ceph-mgr radosgw radosgw-admin; do command -v $$program >/dev/null || exit 1; done) || \
	  (apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $(S3_PACKAGES))

browser:
	command -v chromium >/dev/null || \
	  (apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $(BROWSER_PACKAGES))

demo: $(READY)
	rm -rf build/demo
	$(BIN)/imgcls demo --output build/demo

# Two processes, each with a Ray and an S3 server of its own: most tests wait for something.
test: $(READY)
	$(BIN)/python -m pytest -m "not slow" -n 2 --dist loadfile

test-all: $(READY)
	$(BIN)/python -m pytest

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_floors.py

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	$(BIN)/python -m benchmarks.run_all

clean:
	rm -rf $(VENV) build .mypy_cache .ruff_cache .pytest_cache
