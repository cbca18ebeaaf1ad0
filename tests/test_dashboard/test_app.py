"""The dashboard without a browser: values are set, and what the panels show is read."""
import os, signal, sys, time
from types import SimpleNamespace

import numpy as np, pandas as pd, pytest
from PIL import Image

from aead.dashboard.app import Dashboard, create_dashboard, panels
from aead.dashboard.explorer import ExplorerPanel, charts
from aead.dashboard.base import State, to_png
from aead.runs.train import train_run
from aead.dashboard.run_view import RunView, open_panel
from aead.dashboard.training import DataPanel, TrainJob, TrainPanel

from ..helpers import TINY_YAML, make_layout, save

@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    from ..conftest import make_cfg
    d = tmp_path_factory.mktemp('dash')
    make_layout(d/'mtd', 'mtd')
    for k in (0,1): train_run(d/f'run{k}', make_cfg(train=dict(epochs=1, seed=k), data=dict(layout='mtd', path=str(d/'mtd'))))
    return [d/'run0', d/'run1']

@pytest.fixture
def run(runs, tmp_path):
    "A copy of a run, to spoil."
    import shutil
    return shutil.copytree(runs[0], tmp_path/'run')

def table(n=5000):
    rng = np.random.default_rng(0)
    y = np.arange(n)%3==0
    return pd.DataFrame({'path': [f'/nowhere/{i}.png' for i in range(n)], 'label': y.astype(int), 'defect': np.where(y, 'dent', 'good'), 'score': y*1.5+rng.normal(size=n)})

def trouble(d): return {k: d.open(k).trouble.value for k in d.panels if d.open(k).trouble.value}

def test_two_runs(runs):
    d = Dashboard(runs)
    assert trouble(d)=={} and d.tabs.titles==tuple(p.title for p in panels)
    for name in ('run1','run0'):
        d.choice.value = name
        assert trouble(d)=={} and d.state.threshold==d.views[name].threshold
    e = d.open('Explorer')
    for i in range(len(d.views['run0'])):
        d.state.image = i
        r = d.views['run0'].table.loc[i]
        assert f'{r.score:.4g}' in e.caption.value and e.big.value[:4]==b'\x89PNG'
    for what in e.what.options:
        e.what.value = what
        assert ('cnn_ae has no attention' in e.trouble.value) if what=='attention' else e.trouble.value==''
    assert 'images in common' in d.panels['Compare'].text.value

def test_attention_of_a_model_that_has_it(tmp_path):
    from ..conftest import make_cfg
    make_layout(tmp_path/'mtd', 'mtd')
    train_run(tmp_path/'vit', make_cfg(model='vit_ae', train=dict(epochs=1), data=dict(layout='mtd', path=str(tmp_path/'mtd'))))
    e = open_panel(ExplorerPanel, tmp_path/'vit')
    e.state.image = 0
    plain = e.big.value
    e.what.value = 'attention'
    assert e.trouble.value=='' and e.big.value and e.big.value!=plain
    v = e.view
    assert v.error_map(0, 'attention').mean()==pytest.approx(1, abs=1e-4)          # in even shares
    assert v.scale('attention') is v.scale('attention')

def test_one_scale_for_all_images(runs, monkeypatch):
    "The same value has the same colour on every image, whatever else is in its map."
    v = RunView.load(runs[0])
    seen = {}
    for i,top in ((0,1.),(1,100.)):
        m = np.full((32,32), .75*v.heat_max, np.float32); m[0,0] = top*v.heat_max
        monkeypatch.setattr(RunView, 'amap', lambda self, i, m=m: m)
        seen[i] = v.picture(i, 'anomaly map', outline=False)[20,20]
    assert (seen[0]==seen[1]).all() and seen[0].any()

def test_a_threshold_moves_everything(runs):
    d = Dashboard(runs[0])
    t = d.views['run0'].table
    d.state.threshold = float(t.score.median())
    assert d.open('Threshold').slider.value==pytest.approx(t.score.median())
    e = d.open('Explorer')
    e.answer.value = 'missed'
    assert set(e.rows())==set(t.index[(t.label==1)&(t.score<=t.score.median())])
    line = [o for o in e.chart.layout.shapes]
    assert line[0].x0==pytest.approx(t.score.median())

@pytest.mark.parametrize('kind', charts)
def test_every_mark_opens_its_own_image(runs, kind):
    e = open_panel(ExplorerPanel, runs[0])
    e.chart_kind.value = kind
    found = []
    for trace in [o for o in e.chart.data if o.customdata is not None]:
        for j in range(len(trace.customdata)): e._clicked(trace, SimpleNamespace(point_inds=[j]), None); found.append(e.state.image)
    assert sorted(found)==list(e.view.table.index) and e.trouble.value==''

def test_thousands_of_images_that_have_gone():
    d = Dashboard(None, {'many': table()})
    e = d.open('Explorer')
    assert len(e.gallery.rows)==e.n and e.page.max==-(-5000//e.n) and e.trouble.value==''
    for p in (2,100,e.page.max): e.page.value = p; assert e.gallery.rows and e.trouble.value==''
    d.state.image = 7
    e.what.value = 'image'
    assert 'nowhere' in e.trouble.value and 'Traceback' not in e.trouble.value and e.big.value==b''

def test_memory_does_not_grow_with_browsing(tmp_path):
    "Neither widgets nor pictures pile up: after many pages there is as much as after a few."
    import gc, tracemalloc
    from ipywidgets.widgets.widget import _instances
    rng = np.random.default_rng(0)
    paths = [save(tmp_path/f'{i}.png', rng.integers(0, 255, (200,200,3), np.uint8)) for i in range(500)]
    t = pd.DataFrame({'path': [str(o) for o in paths], 'label': [0,1]*250, 'score': rng.normal(size=500)})
    e = open_panel(ExplorerPanel, None, t)
    e.what.value = 'image'
    def browse(pages):
        for p in pages:
            e.page.value = p
            for b in e.gallery.buttons[:3]: b.click()
            if p%10==0: e.chart_kind.value = list(charts)[p//10%3]
        gc.collect()
        return len(_instances), tracemalloc.get_traced_memory()[0]
    tracemalloc.start()
    try: (w0,m0),(w1,m1) = browse(range(1, 27)),browse([*range(27, 42), *range(1, 42)])      # 300 thumbnails fill the store
    finally: tracemalloc.stop()
    v = e.view
    assert e.page.value==41 and e.trouble.value==''
    assert w1==w0 and len(v._thumbnails)==300 and len(v._pictures)<=4 and len(v._seen)<=4
    assert m1-m0 < 3e6, f'{(m1-m0)/1e6:.1f} MB more'              # 500 images of 120 kB are 60 MB, their thumbnails more than 5 MB

def test_thumbnails_are_made_when_looked_at(runs, monkeypatch):
    made = []
    small = RunView._small
    monkeypatch.setattr(RunView, '_small', lambda self, i, side: made.append(i) or small(self, i, side))
    d = Dashboard(runs[0])
    assert made==[]                                                # the overview shows none
    d.open('Explorer')
    assert len(made)==len(set(made))<=ExplorerPanel.n

def test_what_is_missing_is_said(run):
    import shutil
    shutil.rmtree(run/'maps'); (run/'model.safetensors').unlink()
    s = pd.read_csv(run/'scores.csv').drop(columns='mask')
    s.to_csv(run/'scores.csv', index=False)
    d = Dashboard(run)
    assert trouble(d)=={}
    text = d.panels['Overview'].text.value
    for o in ('no model.safetensors','no anomaly map of 1','no mask of 5 of 5'): assert o in text
    e = d.open('Explorer')
    d.state.image = 0
    assert 'no anomaly map of the image, and no model to make one' in e.trouble.value
    for k in ('reconstruction','error: ssim','attention'): e.what.value = k; assert 'needs the run folder with its model' in e.trouble.value
    e.what.value = 'image'
    assert e.trouble.value=='' and e.big.value and 'no anomaly maps' in d.panels['Distributions'].map_text.value

def test_lost_maps_are_made_anew(run):
    import shutil
    v = RunView.load(run)
    kept = v.amap(0)
    shutil.rmtree(run/'maps')
    np.testing.assert_allclose(RunView.load(run).amap(0), kept, rtol=2e-3, atol=2e-3)

def test_missing_columns_are_named(run, tmp_path):
    with pytest.raises(ValueError, match='lack the columns label, score'): Dashboard(None, table(5)[['path']])
    pd.read_csv(run/'scores.csv').drop(columns='score').to_csv(run/'scores.csv', index=False)
    with pytest.raises(ValueError, match='lack the column score'): Dashboard(run)

@pytest.mark.parametrize('panel', panels)
def test_errors_of_callbacks_appear_in_the_panel(panel, monkeypatch):
    p = panel(State(run='a', threshold=.5), Dashboard(None, {'a': table(60)}).views)
    assert p.trouble.value==''
    monkeypatch.setattr(p, 'update', lambda: 1/0)
    for k in p.watches: setattr(p.state, k, {'run': '', 'image': -2, 'threshold': .7}[k])
    assert 'ZeroDivisionError: division by zero' in p.trouble.value and 'role="alert"' in p.trouble.value
    monkeypatch.undo()
    p.state.run = 'a'
    assert p.trouble.value==''

def test_errors_of_buttons_and_clicks_appear_too(runs):
    d = Dashboard(None, {'a': table(60).assign(label=0)})
    t = d.open('Threshold')
    t.best.click()
    assert 'good and of defective' in t.trouble.value
    e = open_panel(ExplorerPanel, runs[0])
    e._clicked(SimpleNamespace(customdata=[[0]]), SimpleNamespace(point_inds=[5]), None)
    assert 'IndexError' in e.trouble.value

@pytest.mark.parametrize('change', [lambda t: t.assign(label=0, defect='good'), lambda t: t.assign(score=1.), lambda t: t[:1], lambda t: t.drop(columns='defect')])
def test_poor_tables_show_what_there_is(change):
    d = Dashboard(None, {'poor': change(table(50))})
    assert trouble(d).keys() <= {'Compare'}                        # a curve needs good and defective images
    d.state.threshold = .5
    assert trouble(d).keys() <= {'Compare'}

def test_names_are_not_markup():
    t = table(30).assign(defect=lambda t: np.where(t.label==1, '<b>x</b>', 'good'))
    d = Dashboard(None, {'<i>a</i>': t, 'b': t.assign(score=-t.score)})
    d.state.image,d.state.threshold = 0,.3
    texts = [d.open('Overview').text, d.open('Explorer').caption, d.open('Distributions').text, d.open('Compare').text, *d.open('Compare').names, d.open('Data').text, d.image]
    for o in texts: assert o.value and '<b>x</b>' not in o.value and '<i>a</i>' not in o.value

def test_runs_of_different_data_are_not_compared(runs):
    d = Dashboard(None, {'a': table(30), 'b': table(30).assign(path=[f'/elsewhere/{i}' for i in range(30)])})
    assert 'no image in common' in d.open('Compare').trouble.value

def test_every_panel_works_alone(runs):
    for p in panels:
        o = open_panel(p, runs)
        assert o.trouble.value=='' and o.widget.children

def test_create_dashboard_displays(runs, monkeypatch):
    shown = []
    import IPython.display
    monkeypatch.setattr(IPython.display, 'display', shown.append)
    create_dashboard(None, {'a': table(30)})
    create_dashboard({'data': {'size': 32}}, {'a': table(30)})
    assert len(shown)==2

def test_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match='not an evaluated run'): Dashboard(tmp_path)
    with pytest.raises(KeyError): Dashboard({'dta': {}}, table(5))

# -- training

def test_a_training_needs_no_script_on_the_path(tmp_path, monkeypatch):
    "Nor a parent that listens to interrupts: a background process may have been told to ignore them."
    monkeypatch.setenv('PATH', '')
    (tmp_path/'tiny.yaml').write_text(TINY_YAML)
    old = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try: job = TrainJob(['--layout','synthetic','--category','brick','--model','cnn_ae','--config',tmp_path/'tiny.yaml','--epochs','100000'], tmp_path/'run')
    finally: signal.signal(signal.SIGINT, old)
    end = time.time()+300
    while job.running and not len(job.history()) and time.time()<end: time.sleep(.05)
    job.stop(); job.process.wait(300)
    assert job.status=='interrupted' and 'interrupted' in job.tail() and len(job.history()) and (tmp_path/'run/checkpoint.safetensors').is_file()

def test_a_training_that_fails_says_why(tmp_path):
    p = TrainPanel(State(), {})
    p.every,p.data.value,p.out.value = .1,str(tmp_path/'none'),str(tmp_path/'run')
    p.start.click(); p.thread.join(300)
    assert p.job.status=='failed' and 'failed' in p.says.value and 'none' in p.printed.value and not p.thread.is_alive()
    monkey = p.out.value
    p.more.value = '--nonsense'; p.start.click(); p.thread.join(300)
    assert 'nonsense' in p.printed.value and p.out.value==monkey

def test_the_log_is_read_from_its_end(tmp_path):
    job = TrainJob.__new__(TrainJob)
    job.log = open(tmp_path/'log', 'w+b')
    job.log.write(b'\n'.join(b'line %d' % i for i in range(100_000))); job.log.flush()
    assert job.tail(2)=='line 99998\nline 99999'

def test_the_preview_draws_what_training_draws(runs):
    from aead.data.defects import add_defects
    d = open_panel(DataPanel, runs[0])
    d.kind.value,d.seed.value,d.image.value = 'spot',5,2
    assert d.trouble.value==''
    good = d._good()
    from aead.data.dataset import ImageDataset
    ds = ImageDataset(good, d.view.config.data.hw)
    (img,_,valid),other = ds.load(2),ds.load(3)[0]
    out,mask = add_defects(img, np.random.default_rng(5), other, 'spot', 1., 1, valid)
    from aead.viz.images import to_rgb
    assert d.shots[1].value==to_png(to_rgb(out)) and d.shots[2].value==to_png(to_rgb(mask.astype(np.float32)))
