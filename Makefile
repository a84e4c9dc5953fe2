# On a fresh machine `make repro` and `make test` do everything. Needs Python 3.11 to 3.13, git and make.

SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# DVC finds a stage's `python` on PATH.
export PATH := $(CURDIR)/$(BIN):$(PATH)
# The browser tests need Debian's chromium; everything else runs without it.
export MLFLOW_DISABLE_TELEMETRY := true
export DO_NOT_TRACK := true
# Where it is set, every process of the tests would compile our modules, and pytest rewrite all tests, each time anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help

.PHONY: help
help: ## print the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(VENV)/installed: requirements.lock requirements-uv.lock
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info[:2] in ((3, 11), (3, 12), (3, 13)) else f"Lossbench needs Python 3.11 to 3.13; {sys.executable} is {sys.version.split()[0]}; try make PYTHON=python3.11")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-uv.lock
	@# Compiled once here, so that no stage compiles its imports anew: a second off each, and off every dvc command.
	$(BIN)/uv pip install --python $(BIN)/python --compile-bytecode --require-hashes -r requirements.lock
	$(BIN)/uv pip install --python $(BIN)/python --quiet --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/installed-dev: requirements-dev.lock $(VENV)/installed
	$(BIN)/uv pip install --python $(BIN)/python --require-hashes -r requirements-dev.lock
	@touch $@

# Beside .venv, which is found behind it: boto takes an older python-dateutil than all others, and who needs no cluster needs no Ray.
CLUSTER := $(VENV)-cluster
$(CLUSTER)/installed: requirements-ray.lock requirements-services.lock requirements-slurm.lock $(VENV)/installed-dev
	$(BIN)/uv venv --quiet --allow-existing --python $(BIN)/python $(CLUSTER)
	$(BIN)/uv pip install --python $(CLUSTER)/bin/python --compile-bytecode --require-hashes $(addprefix -r ,$(filter %.lock,$^))
	@$(CLUSTER)/bin/python -c 'import pathlib, sys, sysconfig; pathlib.Path(sysconfig.get_path("purelib"), "beside.pth").write_text(f"import site; site.addsitedir({sys.argv[1]!r})\n")' \
	  "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
	@touch $@

.PHONY: setup dev cluster
setup: $(VENV)/installed ## install what the pipeline needs into .venv
dev: $(VENV)/installed-dev ## install what tests, lint and benchmarks need as well
cluster: $(CLUSTER)/installed ## install Ray, submitit and what services need into .venv-cluster, beside .venv

.PHONY: repro plan look
repro: setup ## run the comparison (JOBS=n trainings at a time, DEVICE=cuda, STUDY=studies/name)
	@lossbench run $(if $(STUDY),--study "$(STUDY)") $(if $(JOBS),--jobs $(JOBS)) $(if $(DEVICE),--device $(DEVICE))

plan: setup ## say what repro would train, and about how long it takes
	@lossbench plan $(if $(STUDY),--study "$(STUDY)")

look: setup ## take the next look that comparison.looks declares, for what is undecided
	@lossbench look $(if $(STUDY),--study "$(STUDY)") $(if $(JOBS),--jobs $(JOBS))

.PHONY: test test-slow test-cluster lint audit format
test: dev ## run the tests (the long ones are in test-slow)
	@# A file's tests stay together: what they share, such as a trained study, is made once.
	@# In the order of the alphabet, which ends with files of seconds: by their number of tests the longest would come last.
	python -m pytest -m "not slow and not browser and not cluster" --numprocesses 2 --dist loadfile --no-loadscope-reorder
test-slow: dev ## run the long tests, those that need chromium, and all examples of the laws
	@# The laws once more, on all their examples: the quick tests try a tenth of them. In the order of the alphabet the
	@# files that hold one or two tests of minutes do not come last, where one process would wait for the other.
	LOSSBENCH_SCREENSHOTS="$${LOSSBENCH_SCREENSHOTS:-$(CURDIR)/build/screenshots}" \
	python -m pytest -m "(slow or browser or hypothesis) and not cluster" --hypothesis-profile full --timeout 900 \
	--numprocesses 2 --dist loadfile --no-loadscope-reorder --durations 40
test-cluster: cluster ## run the tests on Ray, submitit, PostgreSQL and S3 (ALL=1: the longest too); -rs says what is not installed
	$(CLUSTER)/bin/python -m pytest -m "cluster$(if $(ALL),, and not long)" -rs --timeout 900 --numprocesses 2 --dist loadfile
lint: dev ## ruff, mypy, yamllint, schemas, and the known vulnerabilities of the pinned packages
	ruff check .
	ruff format --check .
	mypy
	yamllint --strict .github deploy params.yaml dvc.yaml studies .pre-commit-config.yaml
	check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/ci.yml deploy/ci/retrain.yml
	check-jsonschema --builtin-schema vendor.github-issue-forms .github/ISSUE_TEMPLATE/bug.yml .github/ISSUE_TEMPLATE/loss.yml
	check-jsonschema --builtin-schema vendor.compose-spec deploy/compose/*.yaml
	kubernetes-validate --strict deploy/kubernetes/*.yaml
	check-jsonschema --builtin-schema vendor.citation-file-format CITATION.cff
	python .ci/audit
audit: dev ## look the pinned packages up in the advisory database (needs the network)
	python .ci/audit --strict
format: dev ## let ruff write the format
	ruff format .
	ruff check --fix .

.PHONY: site
site: dev ## build the documentation as a website, strictly, into build/site (with the report of the last make repro)
	python docs/make_site.py build/site

.PHONY: retrain rollback serve backup restore doctor
retrain: setup ## retrain if anything is new; promote the winner or keep the champion (STUDY=studies/name)
	@lossbench retrain $(if $(STUDY),--study "$(STUDY)")
rollback: setup ## give the former champion its place back (STUDY=studies/name)
	@lossbench rollback $(if $(STUDY),--study "$(STUDY)")
serve: setup ## answer over HTTP with the champion, and follow its alias (STUDY=studies/name)
	@lossbench serve $(if $(STUDY),--study "$(STUDY)")
backup: setup ## back up MLflow's store and the records: make backup TO=/path/to/folder (STUDY=studies/name)
	@lossbench backup $(if $(STUDY),--study "$(STUDY)") "$(TO)"
restore: setup ## put a backup back: make restore FROM=/path/to/folder (STUDY=studies/name)
	@lossbench restore $(if $(STUDY),--study "$(STUDY)") "$(FROM)"
doctor: setup ## find and repair what crashes left behind (lossbench doctor --check only looks)
	@lossbench doctor $(if $(STUDY),--study "$(STUDY)")

.PHONY: track ui summary study
track: setup ## complete the record in MLflow from outs and journals
	@lossbench track $(if $(STUDY),--study "$(STUDY)")
ui: setup ## serve the MLflow UI on 127.0.0.1 and print where to look
	@lossbench ui $(if $(STUDY),--study "$(STUDY)")
summary: setup ## print the result table again
	@lossbench summary $(if $(STUDY),--study "$(STUDY)")
study: setup ## make a study from your folder: make study NAME=mine DATA=/path/to/folder
	@lossbench new-study "$(NAME)" "$(DATA)"

.PHONY: build
build: setup ## make sdist and wheel in dist/
	$(BIN)/uv build --no-build-isolation --python $(BIN)/python --out-dir dist .

.PHONY: lock clean
lock: ## resolve requirements*.in anew into the hashed locks
	uv pip compile --generate-hashes --no-emit-index-url --python-version 3.11 --custom-compile-command 'make lock' -q requirements-uv.in -o requirements-uv.lock
	uv pip compile --generate-hashes --no-emit-index-url --python-version 3.11 --custom-compile-command 'make lock' -q requirements.in -o requirements.lock
	uv pip compile --generate-hashes --no-emit-index-url --python-version 3.11 --custom-compile-command 'make lock' -q requirements-dev.in -o requirements-dev.lock
	uv pip compile --generate-hashes --no-emit-index-url --python-version 3.11 --custom-compile-command 'make lock' -q requirements-peers.in -o requirements-peers.lock
	uv pip compile --generate-hashes --no-emit-index-url --python-version 3.11 --custom-compile-command 'make lock' -q requirements-ray.in -o requirements-ray.lock
	uv pip compile --generate-hashes --no-emit-index-url --python-version 3.11 --custom-compile-command 'make lock' -q requirements-slurm.in -o requirements-slurm.lock
	@# The same versions as everywhere, but for the one that botocore has a bound on.
	uv pip compile --generate-hashes --no-emit-index-url --no-annotate --python-version 3.11 --custom-compile-command 'make lock' -q -c <(grep -oE '^[A-Za-z0-9._-]+==[^ ]+' requirements.lock | grep -v '^python-dateutil==') requirements-services.in -o requirements-services.lock
clean: setup ## remove outs and stores, and nothing else (DRY=1 only lists them, STUDY=studies/name)
	@lossbench clean $(if $(STUDY),--study "$(STUDY)") $(if $(DRY),--dry-run)
