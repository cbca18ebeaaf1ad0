"""Takes the pictures of report and dashboard that README shows, in headless Chromium: `python scripts/screenshots.py runs/demo`.

Needs what `make test-browser` installs: chromium, playwright, voila. The pictures go to `nbs/images`."""
import os, shutil, socket, subprocess, sys, tempfile, time, urllib.request
from pathlib import Path

import nbformat.v4 as v4
from playwright.sync_api import sync_playwright

images = Path(__file__).resolve().parent.parent/'nbs'/'images'
WIDTH = 1280 # of the window, pixels
QUALITY = 88 # of the pictures, as JPEG

def shoot(page, url, path, height, ready=None):
    "A picture of the top of a page, once `ready` is there."
    page.set_viewport_size({'width': WIDTH, 'height': height})
    page.goto(url, timeout=180_000)
    if ready: page.wait_for_selector(ready, timeout=240_000)
    page.wait_for_timeout(2500)
    page.screenshot(path=path, type='jpeg', quality=QUALITY)

def serve(run, folder):
    "A server of a page with the dashboard; its process and address."
    code = ['from aead import Dashboard', f'd = Dashboard({str(run)!r})', "d.open('Explorer')",
            'd.state.image = int(next(iter(d.views.values())).table.score.idxmax())', 'd']
    cells = [v4.new_code_cell('\n'.join(code))]
    kernel = {'name': 'python3', 'display_name': 'Python 3', 'language': 'python'}
    (folder/'dashboard.ipynb').write_text(nbformat_text(v4.new_notebook(cells=cells, metadata={'kernelspec': kernel})))
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    command = [sys.executable, '-m', 'voila', 'dashboard.ipynb', '--no-browser', '--Voila.ip=127.0.0.1', f'--port={port}']
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL), f'http://127.0.0.1:{port}/'

def nbformat_text(nb):
    import nbformat
    return nbformat.writes(nb)

def wait(url, seconds=240):
    "Waits until a server answers."
    end = time.time()+seconds
    while time.time()<end:
        try: return urllib.request.urlopen(url, timeout=120).read(1)
        except OSError: time.sleep(.5)
    raise RuntimeError(f'{url} does not answer')

def main(run='runs/demo'):
    "Makes both pictures from a run."
    run = Path(run).resolve()
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as p:
        browser = p.chromium.launch(executable_path=shutil.which('chromium'), args=['--no-sandbox'])
        page = browser.new_page()
        shoot(page, (run/'report.html').as_uri(), images/'report.jpg', 900)
        server,url = serve(run, Path(folder))
        try:
            wait(url)
            shoot(page, url, images/'dashboard.jpg', 740, '.aead-explorer img')
        finally: server.terminate()
        browser.close()

if __name__=='__main__':
    os.environ.setdefault('NO_ALBUMENTATIONS_UPDATE', '1')
    main(*sys.argv[1:2])
