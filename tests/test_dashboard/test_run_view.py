"A run as panels read it: scales, caches, and what is missing."
import gc, shutil, weakref

import numpy as np, pandas as pd, pytest

from aead.dashboard.app import Dashboard
from aead.dashboard.explorer import ExplorerPanel
from aead.dashboard.run_view import open_panel, RunView, spread_out
from aead.runs.train import train_run

from ..conftest import make_cfg
from ..helpers import make_layout
from .conftest import score_table, trouble

def test_attention_of_a_model_that_has_it(tmp_path):
    data = dict(layout='mtd', path=str(make_layout(tmp_path/'mtd', 'mtd')))
    train_run(tmp_path/'vit', make_cfg(model='vit_ae', train=dict(epochs=1), data=data))
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
        m = np.full((32,32), .75*v.heat_max, np.float32)
        m[0,0] = top*v.heat_max
        monkeypatch.setattr(RunView, 'amap', lambda self, i, m=m: m)
        seen[i] = v.picture(i, 'anomaly map', outline=False)[20,20]
    assert (seen[0]==seen[1]).all() and seen[0].any()

def test_an_image_passes_the_model_once(runs, monkeypatch):
    v,n = RunView.load(runs[0]),[]
    for k in ('l1','ssim'): v.scale(k)                             # these look at other images
    old = RunView._pass
    monkeypatch.setattr(RunView, '_pass', lambda self, i: n.append(i) or old(self, i))
    for k in ('reconstruction','error: l1','error: ssim'): v.picture(0, k)
    assert n==[0]

def test_caches_are_bounded_and_go_with_their_view(runs):
    v = RunView.load(runs[0])
    for i in range(len(v)):
        v.thumbnail(i)
        v.picture(i, 'reconstruction')
    sizes = {k: getattr(v, f'_kept_{k}').cache_info() for k in ('thumbnail','image','pass')}
    assert {k: o.maxsize for k,o in sizes.items()}=={'thumbnail': 300, 'image': 4, 'pass': 4}
    assert sizes['image'].currsize==4 and sizes['thumbnail'].currsize==len(v)
    gone = weakref.ref(v)
    del v
    gc.collect()
    assert gone() is None

def test_thumbnails_are_made_when_looked_at(runs, monkeypatch):
    made = []
    small = RunView._small
    monkeypatch.setattr(RunView, '_small', lambda self, *a: made.append(a) or small(self, *a))
    d = Dashboard(runs[0])
    assert len(made)<=3                                            # the overview shows three
    made.clear()
    d.open('Explorer')
    assert 0<len(made)==len(set(made))<=ExplorerPanel.n

def test_what_is_missing_is_said(run):
    shutil.rmtree(run/'maps')
    (run/'model.safetensors').unlink()
    pd.read_csv(run/'scores.csv').drop(columns='mask').to_csv(run/'scores.csv', index=False)
    d = Dashboard(run)
    assert trouble(d)=={}
    text = d.panels['Overview'].more.value
    for o in ('no model.safetensors','no anomaly map of 1','no mask of 5 of 5'): assert o in text
    e = d.open('Explorer')
    d.state.image = 0
    assert 'no anomaly map of the image, and no model to make one' in e.trouble.value
    for k in ('reconstruction','error: ssim','attention'):
        e.what.value = k
        assert 'needs the run folder with its model' in e.trouble.value
    e.what.value = 'image'
    assert e.trouble.value=='' and e.big.value and 'no anomaly maps' in d.panels['Distributions'].map_text.value

def test_lost_maps_are_made_anew(run):
    v = RunView.load(run)
    kept = v.amap(0)
    shutil.rmtree(run/'maps')
    np.testing.assert_allclose(RunView.load(run).amap(0), kept, rtol=2e-3, atol=2e-3)

def test_missing_columns_are_named(run):
    with pytest.raises(ValueError, match='lack the columns label, score'): Dashboard(None, score_table(5)[['path']])
    pd.read_csv(run/'scores.csv').drop(columns='score').to_csv(run/'scores.csv', index=False)
    with pytest.raises(ValueError, match='lack the column score'): Dashboard(run)

@pytest.mark.parametrize('n,most', [(1,6),(6,6),(7,6),(100,6),(3,1)])
def test_spread_out(n, most):
    rows = spread_out(range(10, 10+n), most)
    assert len(rows)==min(n, most) and len(set(rows))==len(rows) and rows[0]==10 and (most==1 or rows[-1]==9+n)

def test_images_that_were_trained_on_come_last(runs):
    v = RunView.load(runs[0])
    assert set(v.images.split[:len(v)])=={'test'} and 'train' in set(v.images.split[len(v):])
    assert list(v.table.index)==list(range(len(v))) and v.images.path.is_unique
