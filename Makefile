# Set-up, demonstration, tests. Needs Python 3.11 or newer, and nothing else.
PYTHON ?= python3
BIN := .venv/bin
WHEEL := .venv-wheel
# Half of the files of the environment, which are compiled if they are ever imported.
RARE := /(tests?|ray|mlflow|databricks|pip|spacy|playwright|debugpy)/
export NO_ALBUMENTATIONS_UPDATE := 1
# Hundreds of processes import the package: bytecode is kept, whatever the surroundings say.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help venv demo test test-quick campaign lint test-browser lab docs hooks readme test-wheel clean

help:
	@echo "make demo        train and evaluate on the embedded data set; writes runs/demo/report.html"
	@echo "make test        everything that is checked: notebooks, package, tests"
	@echo "make test-quick  in under two minutes: what the last change touched"
	@echo "make campaign    kills, full disks, broken files, thousands of images: the long form, half an hour"
	@echo "make test-browser  the dashboard and the report in a real browser (installs what it needs)"
	@echo "make venv        only make .venv with all that is needed"
	@echo "make lab         open the notebooks in JupyterLab"
	@echo "make docs        check the documentation, and build its site in _docs (needs Quarto)"
	@echo "make readme      write README.md from nbs/index.ipynb"
	@echo "make test-wheel  build the wheel and test it in an environment of its own"

venv: .venv/installed

.venv/installed: settings.ini setup.py scripts/dev_requirements.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3,11))' || { echo "aead needs Python 3.11 or newer; this is $$($(PYTHON) --version). Say which: make PYTHON=python3.12 venv"; exit 2; }
	@echo "installing into .venv (a few minutes the first time) …"
	@$(PYTHON) -m venv .venv
	@$(PYTHON) scripts/dev_requirements.py > .venv/requirements.txt
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-compile --requirement .venv/requirements.txt
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --editable .
	@$(BIN)/python -m compileall -q -j 0 -x '$(RARE)' .venv/lib > .venv/compiled.txt || true  # pip compiles on one core; what does not compile is no Python of this version
	@touch $@

demo: venv
	@$(BIN)/aead demo --out runs/demo
	@echo "next: source .venv/bin/activate, then aead --help"

lint: venv
	$(BIN)/ruff check aead nbs tests scripts

# Each worker begins with a half of the tests, so that what a file shares is made once; who is done takes over from the other.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/nbdev_test --n_workers 2
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist worksteal --durations=15 tests --ignore tests/browser

# For daily use: the notebooks that differ from the last commit, and the tests that mirror them.
test-quick: lint
	$(BIN)/python scripts/quick.py

# The long form of tests/campaigns; writes the table of nbs/benchmarks/50_reliability.ipynb.
campaign: venv
	AEAD_CAMPAIGN=long OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist worksteal --durations=15 tests/campaigns

# Runs export, clean and ruff before each commit; and merges notebooks cell by cell.
hooks: venv
	$(BIN)/nbdev_install_hooks
	$(BIN)/pip install --quiet --disable-pip-version-check pre-commit && $(BIN)/pre-commit install

# Playwright drives Debian's chromium: no browser is downloaded from elsewhere. -s shows the time that a click takes.
test-browser: venv
	@$(BIN)/python -c 'import playwright, voila, notebook' 2> /dev/null || $(BIN)/pip install --quiet --disable-pip-version-check playwright voila notebook
	@command -v chromium > /dev/null || { test "$$(id -u)" = 0 && apt-get install -y -qq chromium > /dev/null; } || { echo "make test-browser needs chromium: apt-get install chromium (as root), and run this again"; exit 2; }
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q tests/browser

lab: venv
	$(BIN)/jupyter lab

docs: venv
	$(BIN)/python scripts/docs.py

readme: venv
	$(BIN)/python scripts/readme.py

test-wheel: venv
	rm -rf dist build $(WHEEL)
	$(BIN)/python -m build --wheel --quiet
	$(PYTHON) -m venv $(WHEEL)
	$(WHEEL)/bin/pip install --quiet --disable-pip-version-check "$$(ls dist/*.whl)[dashboard,export,serve]" pytest pytest-xdist hypothesis httpx
	scripts/test_wheel.sh $(WHEEL)

clean:
	rm -rf .venv $(WHEEL) dist build runs/demo
