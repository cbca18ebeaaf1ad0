"""The dashboard without a browser: values are set, and what the panels show is read."""
import numpy as np, pandas as pd, pytest
from PIL import Image

from aead.dashboard import ComparePanel, Dashboard, DistributionPanel, ExplorerPanel, OverviewPanel, RunView, State, ThresholdPanel, create_dashboard, panels
from aead.runs import train_run

from ..makers import make_layout

@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    from ..conftest import make_cfg
    d = tmp_path_factory.mktemp('dash')
    make_layout(d/'mtd', 'mtd')
    for k in (0,1): train_run(d/f'run{k}', make_cfg(train=dict(epochs=1, seed=k), data=dict(layout='mtd', path=str(d/'mtd'))))
    return [d/'run0', d/'run1']

def table(n=5000):
    rng = np.random.default_rng(0)
    y = np.arange(n)%3==0
    return pd.DataFrame({'path': [f'/nowhere/{i}.png' for i in range(n)], 'label': y.astype(int), 'defect': np.where(y, 'dent', 'good'), 'score': y*1.5+rng.normal(size=n)})

def quiet(d): return {k: o.trouble.value for k,o in d.panels.items() if o.trouble.value}

def test_two_runs(runs):
    d = Dashboard(runs)
    assert quiet(d)=={} and d.tabs.titles==tuple(p.title for p in panels)
    for name in ('run1','run0'):
        d.choice.value = name
        assert quiet(d)=={} and d.state.threshold==d.views[name].threshold
    e = d.panels['Explorer']
    for i in range(len(d.views['run0'])):
        d.state.image = i
        r = d.views['run0'].table.loc[i]
        assert f'{r.score:.4g}' in e.caption.value and e.big.value[:4]==b'\x89PNG'
    for what in e.what.options: e.what.value = what; assert quiet(d)=={}
    assert 'images in common' in d.panels['Compare'].text.value

def test_a_threshold_moves_everything(runs):
    d = Dashboard(runs[0])
    t = d.views['run0'].table
    d.state.threshold = float(t.score.median())
    assert d.panels['Threshold'].slider.value==pytest.approx(t.score.median())
    d.panels['Explorer'].answer.value = 'missed'
    rows = d.panels['Explorer'].rows()
    assert set(rows)==set(t.index[(t.label==1)&(t.score<=t.score.median())])

def test_thousands_of_images_that_have_gone():
    d = Dashboard(None, {'many': table()})
    e = d.panels['Explorer']
    assert len(e.buttons)==e.n and e.page.max==-(-5000//e.n) and quiet(d)=={}
    for p in (2,100,e.page.max): e.page.value = p; assert e.buttons and quiet(d)=={}
    d.state.image = 7
    assert 'nowhere' in e.trouble.value and 'Traceback' not in e.trouble.value
    assert len(d.views['many']._kept) <= 300

def test_thumbnails_do_not_pile_up(runs, monkeypatch):
    v = RunView.load(runs[0])
    monkeypatch.setattr(RunView, 'picture', lambda self, i, *a, **k: np.zeros((8,8,3), np.uint8))
    for i in range(1000): v.thumbnail(i)
    assert len(v._kept)==300 and 999 in v._kept

@pytest.mark.parametrize('change', [lambda t: t.assign(label=0, defect='good'), lambda t: t.assign(score=1.), lambda t: t[:1], lambda t: t.drop(columns='defect')])
def test_poor_tables_show_what_there_is(change):
    d = Dashboard(None, {'poor': change(table(50))})
    assert quiet(d).keys() <= {'Compare'}                        # a curve needs good and defective images
    d.state.threshold = .5
    assert quiet(d).keys() <= {'Compare'}

def test_names_are_not_markup():
    t = table(30).assign(defect=lambda t: np.where(t.label==1, '<b>x</b>', 'good'))
    d = Dashboard(None, {'<i>a</i>': t, 'b': t.assign(score=-t.score)})
    d.state.image,d.state.threshold = 0,.3
    for k in ('Threshold','Compare'): assert '<b>x</b>' not in d.panels[k].text.value and '<i>a</i>' not in d.panels[k].text.value

def test_create_dashboard_displays(runs, monkeypatch):
    shown = []
    import IPython.display
    monkeypatch.setattr(IPython.display, 'display', shown.append)
    create_dashboard(None, {'a': table(30)})
    create_dashboard({'data': {'size': 32}}, {'a': table(30)})
    assert len(shown)==2

def test_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match='not an evaluated run'): Dashboard(tmp_path)
    with pytest.raises(ValueError, match='lack the columns label, score'): Dashboard(None, table(5)[['path']])
    with pytest.raises(KeyError): Dashboard({'dta': {}}, table(5))
