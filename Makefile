# A fresh machine needs Python 3.11 or newer with venv, git and make; all else is installed into .venv.

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PYTHONS := $(PYTHON) python3.13 python3.12 python3.11 python3
# Snakemake looks for `--profile NAME` in the working directory, hence the links.
LINK := for profile in $(filter-out profiles/default,$(wildcard profiles/*)); do \
	ln -sfn $$profile $$(basename $$profile); done
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: setup torch run run-hosts test slow slurm hosts lint lock clean

setup: $(READY)
	@$(LINK)

# PyTorch for the experiments, beside the locked packages, which stay as they are. It is not among those because it
# may bring gigabytes along, of what its index has for this machine.
torch: $(READY)
	mkdir -p build
	$(BIN)/python -m pip freeze --exclude-editable >build/installed.txt
	$(BIN)/python -m pip install -qq --disable-pip-version-check --constraint build/installed.txt \
		--requirement requirements-torch.txt

# The demo campaign; safe to call again after anything. ARGS goes to Snakemake, e.g. make run ARGS=--dry-run
run: $(READY)
	@code=0; snakemake --rerun-incomplete $(ARGS) || code=$$?; ripresa status || [ $$code -ne 0 ] || code=$$?; exit $$code

# The demo benchmarks on three hosts, each with an sshd of its own, that are brought up on this machine (as root, with
# the packages that python tests/hosts packages installs) and gone afterwards.
run-hosts: setup
	@state=$$(mktemp -d /tmp/hosts-XXXX); python tests/hosts up --state $$state/of && code=0 || exit 2; \
	snakemake --profile ansible --rerun-incomplete --config run_id=hosts families='[benchmarks]' \
		inventory=$$state/of/inventory/inventory.yml 'benchmarks={"hosts": ["bench"], "scratch": "/var/tmp"}' $(ARGS) || code=$$?; \
	ripresa status --run hosts; python tests/hosts down --state $$state/of; rmdir $$state; exit $$code

# The quick tier; ARGS goes to pytest. Tests wait about as much as they compute, so there are more than two at a time.
test: $(READY)
	pytest -n 4 -m "not slow" $(ARGS)

# The tier that measures and kills for minutes.
slow: $(READY)
	pytest -n 4 --dist loadfile -m "slow and not quiet and not slurm and not hosts" $(ARGS)
	pytest -m "quiet and not slurm and not hosts" $(ARGS)

# The tier on a real SLURM cluster, which needs root and Debian's packages (python tests/cluster packages).
slurm: $(READY)
	pytest -m slurm --durations 15 $(ARGS)

# The tier on hosts reached by ssh, which needs root and Debian's packages (python tests/hosts packages).
hosts: $(READY)
	pytest -n 3 -m hosts --durations 15 $(ARGS)

lint: $(READY)
	ruff check
	ruff format --check
	snakefmt --check Snakefile rules
	mypy
	python .ci/lint_rules.py
	ansible-lint -q workflow/ansible

# Write requirements.lock anew from pyproject.toml, keeping pinned versions where they still fit.
lock: $(READY)
	$(BIN)/python -m pip install -qq --disable-pip-version-check uv
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --extra dev --generate-hashes \
		--no-emit-index-url --no-emit-find-links --no-header --output-file requirements.lock pyproject.toml

# Everything that make and the tools leave behind, except runs/: results are for people to delete.
clean:
	rm -f $(notdir $(filter-out profiles/default,$(wildcard profiles/*)))
	rm -rf $(VENV) build .pytest_cache .mypy_cache .ruff_cache .hypothesis workflow/*.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Redone when the lock file or the package's definition changes; a set-up that was cut short leaves no stamp.
$(READY): requirements.lock pyproject.toml
	@if ! $(BIN)/python -c "import pip" 2>/dev/null; then \
		for python in $(PYTHONS); do \
			$$python -c "import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))" 2>/dev/null || continue; \
			echo "Setting up $(VENV) with $$($$python --version)"; \
			exec $$python -m venv --clear $(VENV); \
		done; \
		echo "make: Python 3.11 or newer with venv is needed, and none of '$(strip $(PYTHONS))' is one;" \
			"install it (Debian: apt-get install python3-venv) or call make PYTHON=/path/to/python3" >&2; \
		exit 2; \
	fi
	$(BIN)/python -m pip install -qq --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@$(LINK)
	@echo "Compiling the kernels of stacking, once for this machine"
	@$(BIN)/python workflow/scripts/stacking_compile.py
	@touch $@
