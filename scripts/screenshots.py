"""Takes the pictures of report and dashboard that README and the pages show, in headless Chromium.

`python scripts/screenshots.py runs/demo runs/second`: the first run is shown, the second one is compared with it; both
have the same test images, such as `aead demo --out runs/demo` and
`aead train --layout synthetic --recipe scratch --size 64 --epochs 6 --out runs/second`.
Needs what `make test-browser` installs: chromium, playwright, voila. The pictures go to `nbs/images`."""
import os, shutil, socket, subprocess, sys, tempfile, time, urllib.request
from pathlib import Path

import nbformat, nbformat.v4 as v4
from playwright.sync_api import sync_playwright

images = Path(__file__).resolve().parent.parent/'nbs'/'images'
WIDTH = 1280 # of the window, pixels
TALL = 1000 # of a picture of the dashboard, pixels at most
LARGE = 150_000 # of a picture, bytes at most

def save(page, path, height):
    "A picture of the top of the page, in the best quality that is small enough."
    page.set_viewport_size({'width': WIDTH, 'height': height})
    page.wait_for_timeout(1500)
    for quality in (90,85,80,75,70,60,50):
        page.screenshot(path=path, type='jpeg', quality=quality)
        if path.stat().st_size<=LARGE: break
    print(f'{path.name}: {path.stat().st_size/1000:.0f} kB, quality {quality}')

def serve(runs, folder):
    "A server of a page with the dashboard; its process and address. No path of this machine is in the pictures."
    (folder/'runs').mkdir()
    for o in runs: (folder/'runs'/o.name).symlink_to(o)
    cell = v4.new_code_cell(f"from aead.dashboard.app import Dashboard\nDashboard({[f'runs/{o.name}' for o in runs]})")
    kernel = {'name': 'python3', 'display_name': 'Python 3', 'language': 'python'}
    nbformat.write(v4.new_notebook(cells=[cell], metadata={'kernelspec': kernel}), folder/'dashboard.ipynb')
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    command = [sys.executable, '-m', 'voila', 'dashboard.ipynb', '--no-browser', '--Voila.ip=127.0.0.1', f'--port={port}']
    server = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return server,f'http://127.0.0.1:{port}/'

def wait(url, seconds=240):
    "Waits until a server answers."
    end = time.time()+seconds
    while time.time()<end:
        try: return urllib.request.urlopen(url, timeout=120).read(1)
        except OSError: time.sleep(.5)
    raise RuntimeError(f'{url} does not answer')

def turn(page, title):
    "Opens a tab."
    page.locator('.jupyter-widget-tab .lm-TabBar-tabLabel', has_text=title).click()
    page.wait_for_selector(f'.aead-{title.lower()}', state='visible')
    page.wait_for_timeout(4000)

def open_image(page):
    "In the explorer, the image with the second highest score."
    page.locator('.aead-explorer .aead-thumbnails button').nth(1).click()
    page.wait_for_timeout(2000)

def move_slider(page):
    "In the panel on the threshold, below the run's own, so that some images change sides."
    b = page.locator('.aead-threshold .noUi-base').first.bounding_box()
    page.mouse.click(b['x']+.24*b['width'], b['y']+b['height']/2)
    page.wait_for_timeout(2000)

shots = {'Overview': None, 'Explorer': open_image, 'Threshold': move_slider, 'Compare': None}

def shoot_dashboard(page, url):
    "A picture of each panel."
    page.goto(url, timeout=180_000)
    page.wait_for_selector('.aead-overview .card', timeout=240_000)
    for title,act in shots.items():
        page.set_viewport_size({'width': WIDTH, 'height': TALL})
        turn(page, title)
        if act: act(page)
        end = page.evaluate("document.querySelector('.jupyter-widget-tab').getBoundingClientRect().bottom")
        save(page, images/f'dashboard_{title.lower()}.jpg', min(TALL, round(end)+12))
    shutil.copy(images/'dashboard_explorer.jpg', images/'dashboard.jpg')

def main(*runs):
    "Takes all pictures."
    runs = [Path(o).resolve() for o in runs or ('runs/demo',)]
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as p:
        arguments = ['--no-sandbox', '--disable-dev-shm-usage']
        browser = p.chromium.launch(executable_path=shutil.which('chromium'), args=arguments)
        page = browser.new_page()
        page.goto((runs[0]/'report.html').as_uri(), timeout=180_000)
        save(page, images/'report.jpg', 900)
        server,url = serve(runs, Path(folder))
        try:
            wait(url)
            shoot_dashboard(page, url)
        finally: server.terminate()
        browser.close()

if __name__=='__main__':
    os.environ.setdefault('NO_ALBUMENTATIONS_UPDATE', '1')
    main(*sys.argv[1:])
