"""The dashboard and the report in a real browser.

JupyterLab, Notebook and Voilà show the dashboard; clicks and sliders reach the kernel, and the page shows what comes back."""
import json, statistics, time, urllib.request

import pandas as pd, pytest

from ..helpers import TINY_YAML

paths = {'lab': '/lab/tree/{}.ipynb?reset', 'notebook': '/notebooks/{}.ipynb', 'voila': '/voila/render/{}.ipynb'}

def run_all(page, url, name):
    "Runs all cells, once the kernel is there: before that, Jupyter would ask which kernel to take."
    page.wait_for_function("window.jupyterapp && document.querySelector('.jp-Notebook .jp-Cell')")
    end = time.time()+120
    while time.time()<end:
        mine = [o for o in json.load(urllib.request.urlopen(f'{url}/api/sessions')) if o['path']==f'{name}.ipynb']
        if mine and mine[0]['kernel']['execution_state']=='idle' and mine[0]['kernel']['connections']: break
        page.wait_for_timeout(300)
    page.wait_for_timeout(500)
    page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells') }")      # not waited for here

@pytest.fixture
def show(request, page):
    "Opens a notebook in one of the front ends, runs it where that is needed, and waits for the dashboard."
    def show(front, name, more=''):
        url = request.getfixturevalue('voila' if front=='voila' else 'jupyter')
        page.goto(url+paths[front].format(name)+(more and '?'+more))
        if front!='voila': run_all(page, url, name)
        page.wait_for_selector('.aead-overview table', timeout=240_000)       # the kernel imports PyTorch
        return page
    return show

def turn(page, title):
    "Opens a tab of the dashboard."
    page.locator('.jupyter-widget-tab .lm-TabBar-tabLabel', has_text=title).click()
    page.wait_for_selector(f'.aead-{title.lower()}', state='visible')

def marks(page, chart='explorer'):
    page.wait_for_selector(f'.aead-{chart} .points path')
    return page.locator(f'.aead-{chart} .points path.point')

def click_mark(page, i):
    "Clicks in the middle of a mark, as a hand does: plotly listens to the mouse above the chart, not to the marks."
    b = marks(page).nth(i).bounding_box()
    page.mouse.move(b['x']+b['width']/2, b['y']+b['height']/2)
    page.mouse.click(b['x']+b['width']/2, b['y']+b['height']/2)

def wait_until(page, f, seconds=60):
    "Waits until `f` is true; the kernel may take its time."
    end = time.time()+seconds
    while not f() and time.time()<end: page.wait_for_timeout(200)
    assert f()

def wait_text(page, selector, text):
    "Waits until an element shows the text."
    page.wait_for_function("([s, t]) => document.querySelector(s)?.innerText.includes(t)", arg=[selector, text])

# The address of the picture that the explorer shows, or false.
picture = """() => {
    const i = document.querySelector('.aead-picture')
    return i && i.complete && i.naturalWidth>0 && getComputedStyle(i).display!='none' && i.src
}"""

def read_run(folder):
    "Metrics, and scores of the test images."
    t = pd.read_csv(folder/'scores.csv')
    return json.loads((folder/'metrics.json').read_text()),t[t.split=='test']

@pytest.mark.parametrize('front', paths)
def test_dashboard(place, show, front):
    "Overview, a click on a mark, the threshold, another run: what the page shows is what the run's files say."
    m,t = read_run(place/'runs/run0')
    page = show(front, 'small')
    assert f"{m['image_auroc']:.3f}" in page.inner_text('.aead-overview')

    turn(page, 'Explorer')
    assert marks(page).count()==len(t)
    for i in (3, len(t)-2):
        click_mark(page, i)
        wait_text(page, '.aead-caption', 'score')
        page.wait_for_function(picture)
        page.wait_for_timeout(500)
        text = page.inner_text('.aead-caption')
        shown = t[[f'{s:.4g}' in text and p.split('/')[-1] in text for s,p in zip(t.score, t.path)]]
        assert len(shown)>=1 and shown.defect.iloc[0] in text
    page.locator('.aead-explorer .widget-toggle-buttons button', has_text='ROC').click()
    wait_text(page, '.aead-explorer .js-plotly-plot', 'detection rate')
    before = page.inner_text('.aead-caption')
    click_mark(page, 0)
    page.wait_for_function("t => document.querySelector('.aead-caption').innerText != t", arg=before)

    turn(page, 'Threshold')
    page.wait_for_selector('.aead-threshold table')
    page.wait_for_timeout(1500)                                 # the slider has the range of the run
    b = page.locator('.aead-threshold .noUi-base').first.bounding_box()
    page.mouse.click(b['x']+.3*b['width'], b['y']+b['height']/2)      # arrow keys belong to the cells of a notebook
    def follows():
        thr = float(page.locator('.aead-threshold .widget-readout').first.inner_text())
        rates = [f'{(t.score[t.label==y]>thr).mean():.3f}' for y in (0,1)]
        text = page.inner_text('.aead-threshold')
        return thr<m['threshold']-.1*t.score.std() and all(o in text for o in rates) and 'images change sides' in text
    wait_until(page, follows)
    page.locator('.aead-threshold button', has_text='the run’s own').click()
    wait_text(page, '.aead-threshold', 'no image changes sides')

    turn(page, 'Overview')
    page.locator('.widget-dropdown select').first.select_option('run1')
    wait_text(page, '.aead-overview', f"{read_run(place/'runs/run1')[0]['image_auroc']:.3f}")
    for k in ('Distributions','Compare','Data','Train'):
        turn(page, k)
        page.wait_for_timeout(1500)
        assert not page.locator(f'.aead-{k.lower()} [role=alert]').count(), page.inner_text(f'.aead-{k.lower()}')
    page.wait_for_selector('.aead-compare', state='attached')

# Elements of a panel that reach beyond its right edge; charts and wide tables scroll in themselves.
too_wide = """k => {
    const p = document.querySelector('.aead-'+k), right = p.getBoundingClientRect().right
    const beyond = o => { const r = o.getBoundingClientRect(); return o.offsetParent && r.width && r.right > right+2 }
    const all = [...p.querySelectorAll('*')].filter(o => !o.closest('.aead-chart *, .noUi-base, pre *, .aead-scroll *'))
    return all.filter(beyond).map(o => o.className+' '+(o.innerText ?? '').slice(0,40))
}"""
panels = 'Overview','Explorer','Threshold','Distributions','Compare','Data','Train'
widths = {'lab': (1280,1920), 'notebook': (820,1280), 'voila': (390,820,1280,1920)}       # JupyterLab's own bars need room

@pytest.mark.parametrize('front', paths)
def test_nothing_is_cut_off(show, front):
    "From a telephone to a large screen no panel is wider than its place, and nothing is wrong in the console."
    page = show(front, 'small')
    for k in panels:
        turn(page, k)
        page.wait_for_timeout(2000)
        for width in widths[front]:
            page.set_viewport_size({'width': width, 'height': 900})
            page.wait_for_timeout(300)
            wide = page.evaluate(too_wide, k.lower())
            assert not wide, f'{k} at {width}: {wide[:5]}'
        page.set_viewport_size({'width': 1280, 'height': 900})
    ours = [o for o in page.said if any(k in o for k in ('anywidget','aead','plotly','Uncaught','TypeError'))]
    assert not ours, ours

# Texts of the dashboard whose contrast with what lies behind them is below 4.5; colours as the browser computed them.
hard_to_read = """() => {
    const c = document.createElement('canvas').getContext('2d', {willReadFrequently: true})
    const rgba = s => {
        c.clearRect(0, 0, 1, 1); c.fillStyle = '#000'; c.fillStyle = s; c.fillRect(0, 0, 1, 1)
        const d = c.getImageData(0, 0, 1, 1).data
        return [d[0], d[1], d[2], d[3]/255]
    }
    const over = (a, b) => [0, 1, 2].map(i => a[i]*a[3]+b[i]*(1-a[3]))
    const behind = e => {
        const all = []
        for (let o = e; o; o = o.parentElement) all.push(rgba(getComputedStyle(o).backgroundColor))
        return all.reverse().reduce((b, a) => over(a, b), [255, 255, 255])
    }
    const light = v => v.map(x => x/255).map(x => x<=.03928 ? x/12.92 : ((x+.055)/1.055)**2.4)
        .reduce((s, x, i) => s+x*[.2126, .7152, .0722][i], 0)
    const contrast = e => {
        const b = behind(e), s = getComputedStyle(e)
        const [x, y] = [light(over(rgba(e.closest('svg') ? s.fill : s.color), b)), light(b)].sort((p, q) => q-p)
        return (x+.05)/(y+.05)
    }
    const texts = document.createTreeWalker(document.querySelector('.aead'), NodeFilter.SHOW_TEXT), found = []
    for (let t; t = texts.nextNode();) {
        const e = t.parentElement
        if (!t.data.trim() || e.closest('style, option, :disabled') || !e.checkVisibility()) continue
        const k = contrast(e)
        found.push([k, t.data.trim().slice(0, 40)])
    }
    return {n: found.length, hard: found.filter(o => o[0]<4.5)}
}"""
# VS Code shows widgets in a page of its own, which has these variables and this attribute; its colours of "Dark+".
vscode = """() => {
    document.body.dataset.vscodeThemeKind = 'vscode-dark'
    const s = document.documentElement.style
    const colours = {foreground: '#cccccc', 'editor-background': '#1e1e1e', 'panel-border': '#80808059',
                     'input-background': '#3c3c3c'}
    for (const [k, v] of Object.entries(colours)) s.setProperty('--vscode-'+k, v)
    for (const o of [document.documentElement, document.body, ...document.querySelectorAll('.jp-Cell')])
        o.style.background = '#1e1e1e'
}"""

@pytest.mark.parametrize('theme', ['light','dark'])
@pytest.mark.parametrize('front', [*paths,'vscode'])
def test_texts_can_be_read(show, front, theme, tmp_path_factory):
    "In the light and the dark theme every text of every panel, charts included, has a contrast of at least 4.5."
    if (front,theme)==('vscode','light'): pytest.skip('the colours of VS Code are set for its dark theme')
    page = show('voila' if front=='vscode' else front, 'small', f'theme={theme}' if front=='voila' else '')
    if front in ('lab','notebook'):
        name = f'JupyterLab {theme.title()}'
        page.evaluate("t => { window.jupyterapp.commands.execute('apputils:change-theme', {theme: t}) }", name)
        page.wait_for_timeout(2000)
    if front=='vscode': page.evaluate(vscode)
    for k in panels:
        turn(page, k)
        page.wait_for_timeout(1500)
        if k=='Explorer': page.locator('.aead-explorer .aead-thumbnails button').first.click()
        page.wait_for_timeout(500)
        page.screenshot(path=tmp_path_factory.getbasetemp()/f'{k.lower()}-{front}-{theme}.png')
        found = page.evaluate(hard_to_read)
        assert found['n']>15 and not found['hard'], f"{k}: {found['hard'][:5]}"
    text = page.evaluate("() => getComputedStyle(document.querySelector('.aead-overview')).color")
    bright = sum(map(float, text[text.index('(')+1:-1].split(',')[:3]))>382
    assert bright==(theme=='dark')

@pytest.mark.parametrize('front', ['lab','voila'])
def test_a_picture_of_the_overview_opens_in_the_explorer(place, show, front):
    "A click on the surest find opens its image in the explorer, with a legend of its colours."
    m,t = read_run(place/'runs/run0')
    page = show(front, 'small')
    page.wait_for_selector('.aead-overview .aead-thumbnails button')
    titles = page.locator('.aead-overview .aead-thumbnails strong').all_inner_texts()
    flagged,bad = t.score>m['threshold'],t.label==1
    kinds = {'surest find': bad&flagged, 'worst miss': bad&~flagged, 'worst false alarm': ~bad&flagged}
    assert titles==[k for k,o in kinds.items() if o.any()]
    s = t.score[kinds[titles[0]]]
    path = t.path[s.idxmin() if titles[0]=='worst miss' else s.idxmax()]
    page.locator('.aead-overview .aead-thumbnails button').first.click()
    page.wait_for_selector('.aead-explorer', state='visible')
    wait_until(page, lambda: path.split('/')[-1] in page.inner_text('.aead-caption'), 20)
    page.wait_for_function(picture)
    assert f"threshold {m['threshold']:.3g}" in page.inner_text('.aead-explorer .legend + p')

def test_training(place, show):
    "A training is started and stopped from the page."
    page = show('voila', 'small')
    turn(page, 'Train')
    def fill(name, value):
        f = page.locator('.aead-train .widget-text', has=page.locator(f'label:text-is("{name}")')).locator('input')
        f.fill(value)
        f.press('Enter')
        f.blur()
    (place/'tiny.yaml').write_text(TINY_YAML)
    more = '--config tiny.yaml --model cnn_ae'
    for k,v in (('size','32'),('epochs','100000'),('more',more),('run folder','runs/new')): fill(k, v)
    page.locator('.aead-train button', has_text='start').click()
    running = "() => /running, \\d+ epochs/.test(document.querySelector('.aead-train').innerText)"
    page.wait_for_function(running, timeout=120_000)
    page.locator('.aead-train button', has_text='stop').click()
    wait_text(page, '.aead-train', 'interrupted')
    assert (place/'runs/new/checkpoint.safetensors').is_file()
    assert page.locator('.aead-train .scatterlayer .point').count()>0

# Whether the explorer shows another picture, of 512 pixels.
changed = """old => {
    const i = document.querySelector('.aead-picture')
    return i && i.src!=old && i.complete && i.naturalWidth==512
}"""

@pytest.mark.parametrize('front', ['lab','voila'])
def test_thumbnails_are_clicked_and_stepped_through(place, show, front, tmp_path_factory):
    "A click on a picture opens it; arrow keys go to its neighbours, over the end of the page; the slider stays as it was."
    m,t = read_run(place/'runs/run0')
    page = show(front, 'small')
    turn(page, 'Explorer')
    page.wait_for_selector('.aead-explorer .aead-thumbnails button')
    names = [o.split('/')[-1] for o in t.sort_values('score', ascending=False, kind='stable').path]
    def opened(k): wait_until(page, lambda: names[k] in page.inner_text('.aead-caption'), 20)
    page.locator('.aead-explorer .aead-thumbnails button img').nth(10).click()
    opened(10)
    for k in (11, 12): # the thirteenth image is on the second page
        page.keyboard.press('ArrowRight')
        opened(k)
    page.keyboard.press('ArrowLeft')
    opened(11)
    page.wait_for_function("() => document.querySelectorAll('.aead-explorer .aead-thumbnails button.open').length==1")
    for width in (820, 1280, 1920):
        page.set_viewport_size({'width': width, 'height': 1000})
        page.wait_for_timeout(500)
        page.screenshot(path=tmp_path_factory.getbasetemp()/f'explorer-{front}-{width}.png')
        box,room = page.locator('.aead-picture').bounding_box(),page.locator('.aead-explorer').bounding_box()
        assert box['width']>150 and box['x']+box['width'] <= room['x']+room['width']+2
    turn(page, 'Threshold')
    page.wait_for_timeout(1500)
    turn(page, 'Overview')
    turn(page, 'Threshold')
    assert float(page.locator('.aead-threshold .widget-readout').first.inner_text())==pytest.approx(m['threshold'], rel=1e-3)
    wait_text(page, '.aead-threshold', 'no image changes sides')

def test_clicks_are_quick(show, capsys):
    "From the click on a mark to the picture of 512 pixels on the page; the aim is a median under 200 ms."
    page = show('lab', 'large')
    turn(page, 'Explorer')
    n,took = marks(page).count(),[]
    for i in [k%n for k in range(1, 33, 2)]:
        old = page.evaluate(picture)
        b = marks(page).nth(i).bounding_box()
        page.mouse.move(b['x']+b['width']/2, b['y']+b['height']/2)
        page.wait_for_timeout(150)
        start = time.perf_counter()
        page.mouse.click(b['x']+b['width']/2, b['y']+b['height']/2)
        try: page.wait_for_function(changed, arg=old or '', timeout=5000)
        except Exception: continue                              # the image that is open already
        took.append(1000*(time.perf_counter()-start))
    spread = f'median of {len(took)}; {min(took):.0f} to {max(took):.0f}'
    with capsys.disabled():
        print(f'\na click on a mark shows its image of 512 px after {statistics.median(took):.0f} ms ({spread})')
    assert len(took)>=10 and statistics.median(took) < 1000

# --- the report of a run: a file, no server

@pytest.fixture
def visit(browser):
    "Opens a page of a folder without a network; whatever its console says, or it asks for, ends the test."
    opened = []
    def visit(file, width=1280, scheme='light'):
        context = browser.new_context(viewport={'width': width, 'height': 900}, color_scheme=scheme, offline=True)
        page,said = context.new_page(),[]
        page.set_default_timeout(60_000)
        page.on('console', lambda m: said.append(m.text) if m.type in ('error','warning') else None)
        page.on('pageerror', lambda e: said.append(str(e)))
        page.on('request', lambda r: said.append(r.url) if not r.url.startswith(('file:','data:','blob:')) else None)
        page.goto(file.as_uri())
        page.wait_for_function("document.querySelectorAll('.plot').length == document.querySelectorAll('.plot.drawn').length")
        opened.append((context, said))
        return page
    yield visit
    for context,said in opened:
        context.close()
        assert said==[]

@pytest.fixture(scope='session')
def report_file(place): return place/'runs/run0/report.html'

@pytest.fixture(scope='session')
def comparison_file(place):
    from aead.runs.compare import compare_runs
    compare_runs([place/'runs/run0', place/'runs/run1'], out=place/'comparison.html')
    return place/'comparison.html'

@pytest.fixture(params=['report','comparison'])
def any_page(request): return request.getfixturevalue(f'{request.param}_file')

def test_report_from_disk(place, visit, report_file):
    "The metrics are there, every picture that is shown is there, and every plot is drawn."
    page = visit(report_file)
    m = json.loads((place/'runs/run0/metrics.json').read_text())
    assert f"{m['image_auroc']:.3f}" in page.inner_text('body')
    assert page.evaluate("[...document.images].every(o => o.complete && o.naturalWidth>0) && document.images.length>3")
    assert page.locator('.plot .canvas .main-svg').count()>=4

def test_report_answers(place, visit, report_file):
    "The slider of a report moves counts, images and plots; a click on the ROC curve moves the slider."
    m,t = read_run(place/'runs/run0')
    good,defective = t.score[t.label==0],t.score[t.label==1]
    page = visit(report_file)
    page.wait_for_selector('#plot-roc .points path.point')
    def says(thr):
        said = page.inner_text('#scores output')
        found = f'{(defective>thr).sum()} of {len(defective)} defective images are found' in said
        return found and f'{(good>thr).sum()} of {len(good)} good images are flagged' in said
    wait_until(page, lambda: says(m['threshold']), 5)
    cuts = sorted(set(t.score))
    move = "v => { const s = document.getElementById('live-slider'); s.value = v; s.dispatchEvent(new Event('input')) }"
    for n in (0, len(cuts)//2, len(cuts)):
        page.evaluate(move, n)
        thr = cuts[n-1] if n else -float('inf')
        wait_until(page, lambda thr=thr: says(thr), 5)
        assert page.inner_text('#live-pass')==str((good<=thr).sum())
        assert page.inner_text('#live-miss')==str((defective<=thr).sum())
        moved = ((t.score>thr)!=(t.score>m['threshold'])).sum()
        assert page.inner_text('#live-moved-said').startswith(f'{moved} image') and page.locator('#live-moved img').count()==min(moved, 6)
    page.evaluate("document.getElementById('plot-roc').scrollIntoView({block: 'center'})")
    page.wait_for_timeout(300)
    b = page.locator('#plot-roc .points path.point').nth(len(good)//2).bounding_box()
    page.mouse.move(b['x']+b['width']/2, b['y']+b['height']/2)
    page.wait_for_timeout(300)
    page.mouse.click(b['x']+b['width']/2, b['y']+b['height']/2)
    wait_until(page, lambda: int(page.input_value('#live-slider'))<len(cuts), 5)
    page.locator('#live-back').click()
    wait_until(page, lambda: says(m['threshold']), 5)
    assert 'No image changes sides' in page.inner_text('#live-moved-said') and page.locator('#live-moved img').count()==0

def test_report_gives_the_command(place, visit, report_file):
    "The rate of a moved threshold, given to the calibration, flags what the page flags, and ties."
    from aead.runs.folder import RunFolder
    m,t = read_run(place/'runs/run0')
    c = RunFolder(place/'runs/run0').get_detector('cpu').calibration
    page = visit(report_file)
    assert page.inner_text('#live-command')=='aead calibrate --run run0 --far 0.1'
    cuts = sorted(set(t.score))
    for n in (len(cuts)*3//4, len(cuts)//2):
        page.evaluate("v => { const s = document.getElementById('live-slider'); s.value = v; s.dispatchEvent(new Event('input')) }", n)
        wait_until(page, lambda: '--far 0.1' not in page.inner_text('#live-command')+' ' or page.locator('#live-keeps').is_visible(), 5)
        flagged = t.score>cuts[n-1]
        text = page.inner_text('#live-command')
        if 'No rate' in text: continue
        far = float(text.split('--far ')[1])
        kept = t.score>c.threshold(far)[0]
        assert kept[flagged].all() and set(t.p_value[kept])==set(t.p_value[flagged])

def opened(page): return page.evaluate("document.querySelector('.large').open")

def longest(page):
    "Id of the longest gallery that is not folded, and the names in it."
    names = {k: page.locator(f'#{k} .card small').all_text_contents() for k in ('found','missed','alarms')}
    key = max(names, key=lambda k: len(names[k]))
    assert len(names[key])>7
    return key, names[key]

def test_report_shows_pictures_large(visit, report_file, tmp_path_factory):
    "A click opens a picture, arrow keys go through the gallery and turn its pages, Escape goes back to the last one."
    page = visit(report_file)
    key,names = longest(page)
    gallery = page.locator(f'#{key}')
    def shown(k): return names[k] in page.inner_text('.large .words') and f'{k+1} of {len(names)}' in page.inner_text('.large .place')
    assert gallery.locator('.card:visible').count()==6
    gallery.locator('.strip').nth(1).click()
    assert opened(page) and shown(1)
    panels = page.evaluate("[...document.querySelectorAll('.large .view')].map(o => o.getBoundingClientRect().width)")
    assert len(panels)==3 and min(panels)>2*page.evaluate("document.querySelector('.strip').clientWidth")/3
    page.screenshot(path=tmp_path_factory.getbasetemp()/'report-large.png')
    for k in range(2, 8):
        page.keyboard.press('ArrowRight')
        assert shown(k)
    page.keyboard.press('ArrowLeft')
    assert shown(6)
    before = page.locator('.large .view svg:visible').count()
    page.keyboard.press('o')
    assert page.locator('.large .view svg:visible').count()==0<before
    page.keyboard.press('End')
    assert shown(len(names)-1) and page.locator('.large .next').is_disabled()
    page.keyboard.press('Home')
    for _ in range(6): page.keyboard.press('ArrowRight')
    page.keyboard.press('Escape')
    assert not opened(page) and gallery.locator('.card:visible small').first.text_content()==names[6]
    assert page.evaluate("document.activeElement.closest('.card').querySelector('small').textContent")==names[6]

def test_report_turns_pages(visit, report_file):
    "Every image of a gallery is on one page, and none on two."
    page = visit(report_file)
    key,names = longest(page)
    seen = []
    while True:
        seen += page.locator(f'#{key} .card:visible small').all_text_contents()
        following = page.locator(f'#{key} .pager button').last
        if not following.is_enabled(): break
        following.click()
    assert seen==names and len(names)>6

def test_report_points_open_their_image(visit, report_file):
    "A mark under the mouse shows its image beside the plot, a click shows it large."
    page = visit(report_file)
    page.wait_for_selector('#plot-scores .points path.point')
    page.evaluate("document.getElementById('plot-scores').scrollIntoView({block: 'center'})")
    page.wait_for_timeout(300)
    # the last mark of the last row is drawn above all others
    b = page.locator('#plot-scores .points path.point').last.bounding_box()
    page.mouse.move(b['x']+b['width']/2, b['y']+b['height']/2)
    page.wait_for_selector('#plot-scores .hovertext')
    name = page.inner_text('#seen small')
    assert name in page.locator('#plot-scores .hovertext').first.text_content()
    page.mouse.click(b['x']+b['width']/2, b['y']+b['height']/2)
    wait_until(page, lambda: opened(page), 5)
    assert name in page.inner_text('.large .words')

# Elements that reach beyond the right edge of the window, but for those in a plot.
beyond = """() => [...document.querySelectorAll('main *, nav *')].filter(o => !o.closest('svg, .canvas') && o.offsetParent
    && o.getBoundingClientRect().width && o.getBoundingClientRect().right > innerWidth+1).map(o => o.outerHTML.slice(0, 80))"""

@pytest.mark.parametrize('width', [390,820,1280,1920])
def test_report_fits_the_window(visit, any_page, width, tmp_path_factory):
    "Nothing is wider than the window; the contents are at the side of a wide one and folded above a narrow one."
    page = visit(any_page, width)
    page.wait_for_timeout(500)
    page.screenshot(path=tmp_path_factory.getbasetemp()/f'{any_page.stem}-{width}.png', full_page=True)
    assert page.evaluate('document.documentElement.scrollWidth <= innerWidth') and page.evaluate(beyond)==[]
    nav,main = page.locator('.contents').bounding_box(),page.locator('main').bounding_box()
    assert page.evaluate("document.querySelector('.contents details').open")==(width>=1100)
    if width>=1100: assert nav['x']+nav['width']<=main['x']
    else: assert nav['y']+nav['height']<=main['y'] and nav['height']<60

def test_report_contents_follow(visit, report_file):
    "The section in sight is marked, at the side and in the line above a narrow page."
    for width in (1280, 390):
        page = visit(report_file, width)
        for key in ('metrics','missed'):
            page.evaluate("k => document.getElementById(k).scrollIntoView()", key)
            page.wait_for_function("k => document.querySelector('.contents [aria-current=true]')?.hash == '#'+k", arg=key)
        if width==390: assert page.inner_text('.contents summary b').startswith('Missed')

# Texts whose contrast to their ground is too low: computed colours, the nearest ground that is not transparent.
pale = """() => {
    const rgb = s => s.match(/[\\d.]+/g).map(Number)
    const light = c => c.slice(0, 3).map(v => v/255).map(v => v <= .03928 ? v/12.92 : ((v+.055)/1.055)**2.4)
        .reduce((s, v, i) => s + v*[.2126,.7152,.0722][i], 0)
    const ground = o => { for (; o; o = o.parentElement) {
        const c = rgb(getComputedStyle(o).backgroundColor)
        if (c.length < 4 || c[3] > .9) return c } return [255,255,255] }
    const contrast = (a, b) => { const [x, y] = [light(a), light(b)].sort((p, q) => q-p); return (x+.05)/(y+.05) }
    const isText = o => o.getClientRects().length && [...o.childNodes].some(n => n.nodeType===3 && n.textContent.trim())
    const all = [...document.querySelectorAll('body *')].filter(o => isText(o) && !o.closest('.hoverlayer, :disabled, .dot'))
    const color = o => rgb(getComputedStyle(o)[o.closest('svg') ? 'fill' : 'color'])
    return all.filter(o => contrast(color(o), ground(o)) < 4.5).map(o => o.outerHTML.slice(0, 120))
}"""

@pytest.mark.parametrize('scheme', ['light','dark'])
def test_report_is_readable(visit, any_page, scheme, tmp_path_factory):
    "Every text, those of the plots as well, has a contrast of at least 4.5; the page follows the scheme."
    page = visit(any_page, scheme=scheme)
    page.wait_for_timeout(500)
    page.screenshot(path=tmp_path_factory.getbasetemp()/f'{any_page.stem}-{scheme}.png', full_page=True)
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (ground=='rgb(255, 255, 255)')==(scheme=='light')
    assert page.evaluate(pale)==[]
    page.evaluate("document.querySelector('h1').style.color = '#777'")
    assert page.evaluate(pale)!=[]                                              # the test can fail

def test_report_scores_are_saved(place, visit, report_file):
    "Without a network, the link saves the table of the test images."
    m,t = read_run(place/'runs/run0')
    page = visit(report_file)
    with page.expect_download() as d: page.locator('.save').click()
    saved = pd.read_csv(d.value.path())
    assert d.value.suggested_filename.endswith('-scores.csv')
    assert saved.score.tolist()==pytest.approx(t.score.tolist()) and set(saved.outcome)<={'found','missed','false alarm','passed'}

# What is seen, of some parts of a page.
seen_parts = """() => Object.fromEntries([['contents', '.contents'], ['pager', '.pager'], ['slider', '#live-slider'], ['settings', '#settings pre'],
    ['plotly', '.canvas'], ['picture', '.plot > img'], ['command', '#live-command']].map(([k, s]) =>
    [k, [...document.querySelectorAll(s)].filter(o => o.checkVisibility()).length]))"""

def test_report_on_paper(visit, report_file, tmp_path):
    "Nothing is folded, all misses are there, plots are pictures, and what only a mouse can use is left out."
    page = visit(report_file, scheme='dark')
    screen = page.evaluate(seen_parts)
    assert screen['contents']==1 and screen['settings']==screen['picture']==0 and screen['slider']==1 and screen['plotly']>=4
    page.pdf(path=tmp_path/'report.pdf')                        # unfolds for the printer, and folds again
    assert page.evaluate(seen_parts)['settings']==0
    page.emulate_media(media='print', color_scheme='dark')
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    paper = page.evaluate(seen_parts)
    assert paper['contents']==paper['pager']==paper['slider']==paper['plotly']==0
    assert paper['settings']==paper['command']==1 and paper['picture']==screen['plotly']
    for key in ('missed','alarms'):
        assert page.locator(f'#{key} .card:visible').count()==page.locator(f'#{key} .card').count()
    assert page.locator('#found .card:visible').count()==min(12, page.locator('#found .card').count())
    assert page.evaluate("getComputedStyle(document.body).backgroundColor")=='rgb(255, 255, 255)'

def test_report_without_scripts(browser, report_file):
    "All cards, a picture of every plot, and nothing that would not answer."
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(report_file.as_uri())
    assert page.locator('.plot > img:visible').count()==page.locator('.plot').count()>=4
    assert page.locator('#found .card:visible').count()==page.locator('#found .card').count()
    assert page.locator('.live:visible').count()==0 and page.locator('#live-command:visible').count()==1
    context.close()

def test_comparison_points_open_their_image(visit, comparison_file):
    "A mark of the comparison shows the image as both runs see it."
    page = visit(comparison_file)
    page.wait_for_selector('#plot-pairs .points path.point')
    page.evaluate("document.getElementById('plot-pairs').scrollIntoView({block: 'center'})")
    page.wait_for_timeout(300)
    b = page.locator('#plot-pairs .points path.point').last.bounding_box()
    page.mouse.move(b['x']+b['width']/2, b['y']+b['height']/2)
    page.wait_for_selector('#plot-pairs .hovertext')
    assert page.inner_text('#seen small') in page.locator('#plot-pairs .hovertext').first.text_content()
    page.mouse.click(b['x']+b['width']/2, b['y']+b['height']/2)
    wait_until(page, lambda: opened(page), 5)
    names = page.locator('.large .panel figcaption').all_text_contents()
    assert names[0]=='image' and {o.split(':')[0] for o in names[1:]}=={'run0','run1'}
