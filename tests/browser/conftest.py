"""A browser, the servers that it visits, and tiny runs for them to show.

`make test-browser` installs what is needed; without it the tests here are skipped, and say so."""
import json, os, shutil, socket, subprocess, sys, time, urllib.request

import pytest

for o in ('playwright','voila','notebook','jupyterlab'):
    pytest.importorskip(o, reason=f'browser tests need {o}: make test-browser')
chromium = shutil.which('chromium')
if chromium is None: pytest.skip('browser tests need chromium: make test-browser', allow_module_level=True)

from aead.runs.train import train_run
from ..conftest import make_cfg
from ..helpers import make_layout

RUNS = {'small': ['run0','run1'], 'large': ['large']}

def notebook(runs):
    "A notebook that opens a dashboard in one line."
    import nbformat.v4 as v4
    folders = [f'runs/{o}' for o in runs]
    kernel = {'name': 'python3', 'display_name': 'Python 3', 'language': 'python'}
    cells = [v4.new_code_cell(o) for o in ('from aead.dashboard.app import Dashboard', f'Dashboard({folders})')]
    return v4.new_notebook(cells=cells, metadata={'kernelspec': kernel})

@pytest.fixture(scope='session')
def place(tmp_path_factory):
    "Three tiny runs, two on the embedded data and one on pictures of 512 pixels, and the notebooks that show them."
    import nbformat
    d = tmp_path_factory.mktemp('browser')
    brick = dict(data=dict(category='brick'), detect=dict(far=.1))
    for k in (0,1): train_run(d/f'runs/run{k}', make_cfg(train=dict(epochs=1, seed=k), **brick))
    make_layout(d/'mtd', 'mtd', bad=10, hw=(512,512))
    large = dict(layout='mtd', path=str(d/'mtd'), size=512)
    train_run(d/'runs/large', make_cfg(train=dict(epochs=1), data=large))
    for k,runs in RUNS.items(): nbformat.write(notebook(runs), d/f'{k}.ipynb')
    return d

def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]

def jupyter_folders(home):
    "Variables that keep all of Jupyter's files below `home`; no question about news lies over the page."
    settings = home/'lab'/'@jupyterlab'/'apputils-extension'/'notification.jupyterlab-settings'
    settings.parent.mkdir(parents=True, exist_ok=True)
    settings.write_text(json.dumps({'fetchNews': 'false', 'checkForUpdates': False}))
    folders = {'JUPYTER_CONFIG_DIR': 'config', 'JUPYTER_DATA_DIR': 'data', 'JUPYTER_RUNTIME_DIR': 'runtime',
               'IPYTHONDIR': 'ipython', 'JUPYTERLAB_SETTINGS_DIR': 'lab', 'JUPYTERLAB_WORKSPACES_DIR': 'workspaces'}
    return {k: str(home/v) for k,v in folders.items()}

def answers(url):
    try: urllib.request.urlopen(url, timeout=5).read(1)
    except OSError: return False
    return True

def serve(place, name, args, page):
    "Starts a server on a free port of this machine alone, and gives its process and address once `page` answers."
    port = free_port()
    command = [sys.executable, '-m', *[o.format(port=port) for o in args]]
    env = {**os.environ, **jupyter_folders(place/f'.{name}')}
    with open(place/f'{name}.log', 'wb') as log:
        p = subprocess.Popen(command, cwd=place, env=env, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    url,end = f'http://127.0.0.1:{port}',time.time()+90
    while p.poll() is None and time.time()<end:
        if answers(url+page): return p,url
        time.sleep(.3)
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
    address = ['--ServerApp.ip=127.0.0.1', '--ServerApp.port={port}', '--ServerApp.port_retries=0']
    # no password: only this machine can reach the server, for as long as the test lasts
    login = ['--IdentityProvider.token=', '--ServerApp.password=']
    # `jupyterapp.commands`: cells are run by name, not by a menu that moves
    by_name = ['--LabApp.expose_app_in_browser=True', '--JupyterNotebookApp.expose_app_in_browser=True']
    # the tests may run as root, in a container
    p,url = serve(place, 'jupyter', ['jupyterlab', '--no-browser', '--allow-root', *address, *login, *by_name], '/api')
    yield url
    stop(p)

@pytest.fixture(scope='session')
def voila(place):
    "Voilà, which shows the notebooks of the folder as pages."
    address = ['--Voila.ip=127.0.0.1', '--port={port}']
    command = ['voila', '.', '--no-browser', '--VoilaConfiguration.show_tracebacks=True',
               '--VoilaConfiguration.allow_theme_override=YES']
    p,url = serve(place, 'voila', [*command, *address], '/')
    yield url
    stop(p)

@pytest.fixture(scope='session')
def browser():
    from playwright.sync_api import sync_playwright
    # Debian's browser, in place of one that Playwright would download. Its sandbox does not start as root, nor in
    # most containers, whose /dev/shm is too small for plotly's pages.
    with sync_playwright() as p:
        b = p.chromium.launch(executable_path=chromium, args=['--no-sandbox', '--disable-dev-shm-usage'])
        yield b
        b.close()

@pytest.fixture
def page(browser):
    "A page as wide as a small laptop's."
    p = browser.new_page(viewport={'width': 1280, 'height': 900})
    p.set_default_timeout(60_000)
    p.said = []                                                 # errors in the console
    p.on('console', lambda m: p.said.append(m.text) if m.type=='error' else None)
    p.on('pageerror', lambda e: p.said.append(str(e)))
    yield p
    p.close()
