"""A browser, the servers that it visits, and tiny runs for them to show. `make test-browser` installs what is needed; without it the tests here are skipped, and say so."""
import json, os, shutil, socket, subprocess, sys, time, urllib.request
from pathlib import Path

import pytest

for o in ('playwright','voila','notebook','jupyterlab'): pytest.importorskip(o, reason=f'browser tests need {o}: make test-browser')
chromium = shutil.which('chromium')
if chromium is None: pytest.skip('browser tests need chromium: make test-browser', allow_module_level=True)

from aead.runs.train import train_run
from ..conftest import make_cfg
from ..helpers import make_layout

RUNS = {'small': ['run0','run1'], 'large': ['large']}

def notebook(runs):
    "A notebook that opens a dashboard in one line."
    import nbformat.v4 as v4
    cells = [v4.new_code_cell('from aead.dashboard.app import Dashboard'), v4.new_code_cell(f'Dashboard({[f"runs/{o}" for o in runs]})')]
    return v4.new_notebook(cells=cells, metadata={'kernelspec': {'name': 'python3', 'display_name': 'Python 3', 'language': 'python'}})

@pytest.fixture(scope='session')
def place(tmp_path_factory):
    "A folder with three tiny runs, two on the embedded data and one on pictures of 512 pixels, and the notebooks that show them."
    import nbformat
    d = tmp_path_factory.mktemp('browser')
    for k in (0,1): train_run(d/f'runs/run{k}', make_cfg(train=dict(epochs=1, seed=k), data=dict(category='brick'), detect=dict(far=.1)))
    make_layout(d/'mtd', 'mtd', bad=10, hw=(512,512))
    train_run(d/'runs/large', make_cfg(train=dict(epochs=1), data=dict(layout='mtd', path=str(d/'mtd'), size=512)))
    for k,runs in RUNS.items(): nbformat.write(notebook(runs), d/f'{k}.ipynb')
    return d

def free_port():
    with socket.socket() as s: s.bind(('127.0.0.1', 0)); return s.getsockname()[1]

def serve(place, name, args, page):
    "Starts a server on a free port of this machine alone, in `place`, and gives its process and address once `page` answers."
    port,home = free_port(),place/f'.{name}'
    settings = home/'lab'/'@jupyterlab'/'apputils-extension'/'notification.jupyterlab-settings'
    settings.parent.mkdir(parents=True, exist_ok=True)
    settings.write_text(json.dumps({'fetchNews': 'false', 'checkForUpdates': False}))        # no question about news over the page
    env = {**os.environ, 'JUPYTER_CONFIG_DIR': str(home/'config'), 'JUPYTER_DATA_DIR': str(home/'data'), 'JUPYTER_RUNTIME_DIR': str(home/'runtime'), 'IPYTHONDIR': str(home/'ipython'),
           'JUPYTERLAB_SETTINGS_DIR': str(home/'lab'), 'JUPYTERLAB_WORKSPACES_DIR': str(home/'workspaces')}
    log = open(place/f'{name}.log', 'wb')
    p = subprocess.Popen([sys.executable, '-m', *[o.format(port=port) for o in args]], cwd=place, env=env, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    url,end = f'http://127.0.0.1:{port}',time.time()+90
    while time.time()<end:
        if p.poll() is not None: break
        try: urllib.request.urlopen(url+page, timeout=5).read(1); return p,url
        except OSError: time.sleep(.3)
    p.kill()
    raise RuntimeError(f"{name} does not answer:\n{(place/f'{name}.log').read_text()[-3000:]}")

def stop(p):
    "Ends a server and its kernels."
    p.terminate()
    try: p.wait(15)
    except subprocess.TimeoutExpired: p.kill()

@pytest.fixture(scope='session')
def jupyter(place):
    "JupyterLab, which serves Notebook 7 as well."
    p,url = serve(place, 'jupyter', ['jupyterlab', '--no-browser', '--ServerApp.ip=127.0.0.1', '--ServerApp.port={port}', '--ServerApp.port_retries=0',
        '--IdentityProvider.token=', '--ServerApp.password=',      # nobody logs in: only this machine can reach it, for as long as the test lasts
        '--allow-root',                                            # where the tests run as root, in a container
        '--LabApp.expose_app_in_browser=True', '--JupyterNotebookApp.expose_app_in_browser=True'], # `jupyterapp.commands`: cells are run by name, not by a menu that moves
        '/api')
    yield url
    stop(p)

@pytest.fixture(scope='session')
def voila(place):
    "Voilà, which shows the notebooks of the folder as pages."
    p,url = serve(place, 'voila', ['voila', '.', '--no-browser', '--Voila.ip=127.0.0.1', '--port={port}', '--VoilaConfiguration.show_tracebacks=True'], '/')
    yield url
    stop(p)

@pytest.fixture(scope='session')
def browser():
    from playwright.sync_api import sync_playwright
    with sync_playwright() as p:
        b = p.chromium.launch(executable_path=chromium,            # Debian's, in place of one that Playwright would download
            args=['--no-sandbox',                                  # its sandbox does not start as root, nor in most containers
                  '--disable-dev-shm-usage'])                      # /dev/shm of a container is too small for plotly's pages
        yield b
        b.close()

@pytest.fixture
def page(browser):
    "A page as wide as a small laptop's."
    p = browser.new_page(viewport={'width': 1280, 'height': 900})
    p.set_default_timeout(60_000)
    yield p
    p.close()
