"The dashboard without a browser: values are set, and what the panels show is read."
import numpy as np, pytest

from aead.dashboard.app import create_dashboard, Dashboard, panels
from aead.dashboard.run_view import open_panel

from .conftest import score_table, trouble

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

def test_a_threshold_moves_everything(runs):
    d = Dashboard(runs[0])
    t = d.views['run0'].table
    d.state.threshold = float(t.score.median())
    assert d.open('Threshold').slider.value==pytest.approx(t.score.median())
    e = d.open('Explorer')
    e.outcome.value = 'missed'
    assert set(e.rows())==set(t.index[(t.label==1)&(t.score<=t.score.median())])
    assert e.chart.layout.shapes[0].x0==pytest.approx(t.score.median())

poor = {'good images alone': lambda t: t.assign(label=0, defect='good'), 'one score': lambda t: t.assign(score=1.),
        'one image': lambda t: t[:1], 'no classes': lambda t: t.drop(columns='defect')}

@pytest.mark.parametrize('kind', poor)
def test_poor_tables_show_what_there_is(kind):
    d = Dashboard(None, {'poor': poor[kind](score_table(50))})
    assert trouble(d).keys() <= {'Compare'}                        # a curve needs good and defective images
    d.state.threshold = .5
    assert trouble(d).keys() <= {'Compare'}

def test_names_are_not_markup():
    t = score_table(30).assign(defect=lambda t: np.where(t.label==1, '<b>x</b>', 'good'))
    d = Dashboard(None, {'<i>a</i>': t, 'b': t.assign(score=-t.score)})
    d.state.image,d.state.threshold = 0,.3
    compare = d.open('Compare')
    texts = [d.open(k).text for k in ('Overview','Distributions','Compare','Data')]
    overview,explorer = d.open('Overview'),d.open('Explorer')
    texts += [overview.classes, overview.more, explorer.caption, *compare.names, d.image]
    for o in texts: assert o.value and '<b>x</b>' not in o.value and '<i>a</i>' not in o.value

@pytest.mark.parametrize('panel', ['Overview','Threshold','Compare','Data'])
def test_a_click_on_a_picture_opens_it_in_the_explorer(runs, panel):
    d = Dashboard(runs)
    p = d.open(panel)
    d.state.threshold = float(p.view.table.score.min())-1            # all is flagged: images change sides
    gallery = {'Overview': 'examples', 'Threshold': 'changed', 'Data': 'shown'}.get(panel)
    (getattr(p, gallery) if gallery else p.galleries[0]).press(0)
    e = d.panels['Explorer']
    assert d.tabs.titles[d.tabs.selected_index]=='Explorer' and not e.hidden and e.big.value
    name = p.view.images.path[d.state.image].split('/')[-1]
    assert name in e.caption.value and name in d.image.value

def test_every_panel_works_alone(runs):
    for p in panels:
        o = open_panel(p, runs)
        assert o.trouble.value=='' and o.widget.children

def test_create_dashboard_displays(monkeypatch):
    shown = []
    import IPython.display
    monkeypatch.setattr(IPython.display, 'display', shown.append)
    create_dashboard(None, {'a': score_table(30)})
    create_dashboard({'data': {'size': 32}}, {'a': score_table(30)})
    assert len(shown)==2

def test_runs_of_one_name_are_told_apart(run, tmp_path):
    import shutil
    d = Dashboard(run)
    other = shutil.copytree(run, tmp_path/'elsewhere'/'run')
    for _ in range(2): d.add(other)
    assert list(d.views)==['run','run*'] and d.views['run*'].folder==other
    d.add(run)
    assert list(d.views)==['run','run*'] and trouble(d)=={}

def test_refused(tmp_path):
    with pytest.raises(ValueError, match='holds no runs'): Dashboard(tmp_path)
    with pytest.raises(FileNotFoundError, match='there is no folder'): Dashboard(tmp_path/'nowhere')
    with pytest.raises(KeyError): Dashboard({'dta': {}}, score_table(5))
