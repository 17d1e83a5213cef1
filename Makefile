# Everything needs only Python 3.11-3.13 and make. $(VENV) is set up once, and again when pyproject.toml or
# constraints.txt change.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PIP_INSTALL := $(BIN)/python -u tools/pip_install.py -c constraints.txt

# The tests' S3 server: one node of Ceph with its gateway, on loopback, objects in memory.
S3_PROGRAMS := ceph-mon ceph-osd radosgw radosgw-admin
S3_PACKAGES := ceph-mon ceph-osd radosgw ceph-common
# The tests' Azure server: Microsoft's emulator, on Node.
AZURE_PROGRAMS := node azurite-blob
AZURE_VERSION := 3.35.0
# The browser that opens the service's page in tests.
BROWSER_PROGRAMS := chromium
BROWSER_PACKAGES := chromium fonts-dejavu-core

# $(call is_installed,PROGRAMS)
is_installed = (for program in $(1); do command -v $$program >/dev/null || exit 1; done)
# $(call apt_install,PACKAGES), as root or by a sudo that asks for no password
apt_install = sudo=; [ "$$(id -u)" = 0 ] || sudo="sudo -n"; \
  $$sudo apt-get update -q && $$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $(1)

.PHONY: help install s3-server azure-server browser test-programs demo test test-all check format bench clean
.DEFAULT_GOAL := help

help:
	@echo "make demo      draw images, train a small model, label the images (2 minutes)"
	@echo "make install   set up $(VENV) with the command imgcls (3.4 GB to download, 7.5 GB on disk)"
	@echo "make test      run the default tests; installs the programs that they need (15 minutes on 2 cores)"
	@echo "make test-all  run all tests, including the slow ones"
	@echo "make check     check format, lint, types, import rules and known vulnerabilities of dependencies"
	@echo "make bench     measure throughput and compare it with other pipelines (see benchmarks/README.md)"
	@echo "make s3-server install the S3 server of the tests and benchmarks (as root; Debian, Ubuntu)"
	@echo "make azure-server install the Azure server of the tests (as root; Debian, Ubuntu)"
	@echo "make browser   install the browser of the tests of the service's page (as root; Debian, Ubuntu)"

install: $(READY)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13) and "imgcls-ray needs Python 3.11-3.13, this is " + sys.version)'
	@test -x $(BIN)/python || { \
	  echo "Setting up $(VENV), once: 3.4 GB to download, 7.5 GB on disk, 3 to 5 minutes on a fast connection. Most of it is for GPUs."; \
	  $(PYTHON) -m venv $(VENV); }
	@$(PIP_INSTALL) -e '.[dev]'
	@touch $(READY)

s3-server:
	@$(call is_installed,$(S3_PROGRAMS)) || { \
	  echo "Installing the S3 server of the tests (Ceph): 91 MB to download, 350 MB on disk."; \
	  $(call apt_install,$(S3_PACKAGES)); }

azure-server:
	@$(call is_installed,$(AZURE_PROGRAMS)) || { \
	  echo "Installing the Azure server of the tests (Azurite): 100 MB to download, 200 MB on disk."; \
	  $(call is_installed,node npm) || { $(call apt_install,nodejs npm); }; \
	  sudo=; [ "$$(id -u)" = 0 ] || sudo="sudo -n"; \
	  $$sudo npm install --global --no-audit --no-fund azurite@$(AZURE_VERSION); }

browser:
	@$(call is_installed,$(BROWSER_PROGRAMS)) || { \
	  echo "Installing the browser of the tests (Chromium): 200 MB to download, 670 MB on disk."; \
	  $(call apt_install,$(BROWSER_PACKAGES)); }

# If they cannot be installed, the tests that need them are skipped, and the last line of pytest says so.
test-programs:
	@if [ "$$(id -u)" = 0 ] || sudo -n true 2>/dev/null; then $(MAKE) --no-print-directory -k s3-server azure-server browser || true; fi

demo: $(READY)
	rm -rf build/demo
	$(BIN)/imgcls demo --output build/demo

# Two processes, each with its own Ray and S3 server, because most tests wait for something.
test: $(READY) test-programs
	$(BIN)/python -m pytest -m "not slow" -n 2 --dist loadfile --no-loadscope-reorder

test-all: $(READY) test-programs
	$(BIN)/python -m pytest

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_floors.py tests/test_advisories.py

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(READY)
	@$(PIP_INSTALL) -e '.[bench]'
	$(BIN)/python -m benchmarks.run_all

clean:
	rm -rf $(VENV) build .mypy_cache .ruff_cache .pytest_cache
