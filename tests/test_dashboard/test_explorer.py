"Charts, filters and pictures of the explorer; its memory."
import gc, tracemalloc
from types import SimpleNamespace

import numpy as np, pandas as pd, pytest

from aead.dashboard.app import Dashboard
from aead.dashboard.explorer import charts, ExplorerPanel
from aead.dashboard.run_view import open_panel

from ..helpers import save
from .conftest import score_table

@pytest.mark.parametrize('kind', charts)
def test_every_mark_opens_its_own_image(runs, kind):
    e = open_panel(ExplorerPanel, runs[0])
    e.chart_kind.value = kind
    found = []
    for trace in [o for o in e.chart.data if o.customdata is not None]:
        for j in range(len(trace.customdata)):
            e.clicked(trace, SimpleNamespace(point_inds=[j]))
            found.append(e.state.image)
    assert sorted(found)==list(e.view.table.index) and e.trouble.value==''

def test_thousands_of_images_that_have_gone():
    d = Dashboard(None, {'many': score_table()})
    e = d.open('Explorer')
    assert len(e.gallery.rows)==e.n and e.page.max==-(-5000//e.n) and e.trouble.value==''
    for p in (2,100,e.page.max):
        e.page.value = p
        assert e.gallery.rows and e.trouble.value==''
    d.state.image = 7
    e.what.value = 'image'
    assert 'nowhere' in e.trouble.value and 'Traceback' not in e.trouble.value and e.big.value==b''

def test_memory_does_not_grow_with_browsing(tmp_path):
    "Neither widgets nor pictures pile up: after many pages there is as much as after a few."
    from ipywidgets.widgets.widget import _instances
    rng = np.random.default_rng(0)
    paths = [save(tmp_path/f'{i}.png', rng.integers(0, 255, (200,200,3), np.uint8)) for i in range(500)]
    t = pd.DataFrame({'path': [str(o) for o in paths], 'label': [0,1]*250, 'score': rng.normal(size=500)})
    e = open_panel(ExplorerPanel, None, t)
    e.what.value = 'image'
    def browse(pages):
        for p in pages:
            e.page.value = p
            for k in range(min(3, len(e.gallery.rows))): e.gallery.press(k)
            if p%10==0: e.chart_kind.value = list(charts)[p//10%3]
        gc.collect()
        return len(_instances), tracemalloc.get_traced_memory()[0]
    tracemalloc.start()
    try:
        w0,m0 = browse(range(1, 27))                               # 300 thumbnails fill the cache
        w1,m1 = browse([*range(27, 42), *range(1, 42)])
    finally: tracemalloc.stop()
    v = e.view
    assert e.page.value==41 and e.trouble.value==''
    kept = {k: getattr(v, f'_kept_{k}').cache_info().currsize for k in ('thumbnail','image','pass')}
    assert w1==w0 and kept['thumbnail']==300 and kept['image']<=4 and kept['pass']<=4
    # 500 images of 120 kB are 60 MB, their thumbnails more than 5 MB
    assert m1-m0 < 3e6, f'{(m1-m0)/1e6:.1f} MB more'

def test_errors_of_clicks_appear(runs):
    e = open_panel(ExplorerPanel, runs[0])
    e.clicked(SimpleNamespace(customdata=[[0]]), SimpleNamespace(point_inds=[5]))
    assert 'IndexError' in e.trouble.value

@pytest.mark.parametrize('kind', ['found','missed','false alarm','passed'])
def test_outcomes_filter_the_gallery(kind):
    t = score_table(60)
    e = open_panel(ExplorerPanel, None, t)
    e.state.threshold = .7
    e.outcome.value = kind
    want = t[((t.score>.7)==(kind in ('found','false alarm'))) & ((t.label==1)==(kind in ('found','missed')))]
    assert set(e.rows())==set(want.index) and len(want)

def test_images_without_score_come_last_and_only_at_full_range():
    t = score_table(30)
    t.loc[3,'score'] = np.nan
    e = open_panel(ExplorerPanel, None, t.assign(split=np.where(t.score.isna(), 'train', 'test')))
    e.split.value = 'all'
    assert len(e.rows())==30 and np.isnan(e.view.images.score[e.rows()[-1]])
    e.scores.value = (float(t.score.median()), e.scores.max)
    assert not e.view.images.score[e.rows()].isna().any()

def test_the_ring_marks_the_open_image(runs):
    e = open_panel(ExplorerPanel, runs[0])
    for i in (0,3,1):
        e.state.image = i
        ring = e.chart.data[-1]
        marked = [o for o in e.chart.data if o.customdata is not None]
        here = [(o.x[j],o.y[j]) for o in marked for j in np.flatnonzero(np.ravel(o.customdata)==i)]
        assert ring.name=='ring' and list(zip(ring.x, ring.y))==here and len(here)==1
    e.state.image = -1
    assert len(e.chart.data[-1].x)==0

def test_the_legend_follows_view_and_threshold(runs):
    e = open_panel(ExplorerPanel, runs[0])
    assert e.legend.value==''
    e.state.image,top = 0,e.view.heat_max
    for thr in (.5*top, .8*top):
        e.state.threshold = thr
        assert f'threshold {thr:.3g}' in e.legend.value and f'{top/thr:.2g} × or more' in e.legend.value
    e.state.threshold = None
    assert f'{top:.2g} or more' in e.legend.value and 'threshold' not in e.legend.value
    e.what.value = 'error: l1'
    low,high = e.view.scale('l1')
    assert f'{low:.2g}: mean of good images' in e.legend.value and f'{high:.2g} or more' in e.legend.value
    e.what.value = 'image'
    assert e.legend.value=='' and e.big.value
