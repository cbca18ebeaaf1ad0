"The comparison of runs in the dashboard against the tables of the runs."
import numpy as np, pytest

from aead.dashboard.app import Dashboard
from aead.dashboard.base import State
from aead.dashboard.compare import ComparePanel
from aead.dashboard.run_view import RunView

from .conftest import score_table

def panel(thr=(.7,.7), **tables):
    "A panel over tables with a threshold each."
    views = {k: RunView(t, metrics={} if o is None else {'threshold': o}) for (k,t),o in zip(tables.items(), thr)}
    return ComparePanel(State(run=next(iter(views)), threshold=thr[0]), views)

def two(n=60):
    t = score_table(n)
    noise = np.random.default_rng(1).normal(size=n)
    return t,t.assign(score=t.score+noise).sample(frac=1, random_state=0)      # in another order

def test_runs_of_different_data_are_not_compared():
    elsewhere = score_table(30).assign(path=[f'/elsewhere/{i}' for i in range(30)])
    d = Dashboard(None, {'a': score_table(30), 'b': elsewhere})
    assert 'no image in common' in d.open('Compare').trouble.value

def test_the_images_shown_are_those_that_disagree():
    a,b = two()
    c = panel(a=a, b=b)
    sa,sb = (o.set_index('path').score for o in (a,b))
    differ = (sa>.7)!=(sb[sa.index]>.7)
    assert f'differ on {differ.sum()} images' in c.note.value
    apart = (sa.rank(pct=True)-sb.rank(pct=True)[sa.index]).abs()[differ].sort_values(ascending=False, kind='stable')
    for v,g in zip(c.views.values(), c.galleries): assert [v.name(i) for i in g.rows]==apart.index[:8].tolist()

def test_buttons_say_class_and_rank():
    a,b = two()
    c = panel(a=a, b=b)
    for v,g in zip(c.views.values(), c.galleries):
        rank = v.table.score.rank(pct=True)
        assert [o['text'] for o in g.widget.items]==[f'{v.table.defect[i]} {rank[i]:.0%}' for i in g.rows]

@pytest.mark.parametrize('thr', [(None,.7),(None,None)], ids=['one without threshold','none has one'])
def test_without_decisions_ranks_are_compared(thr):
    a,b = two()
    c = panel(thr, a=a, b=b)
    assert c.trouble.value=='' and 'do not differ' in c.note.value and len(c.galleries[0].rows)==8

def test_an_image_opens_in_its_own_run():
    a,b = two()
    c = panel((.7,.9), a=a, b=b)
    for i,(run,thr) in enumerate((('a',.7),('b',.9))):
        c.state.threshold = .7
        c.state.run = 'a'
        c.galleries[i].press(0)
        assert (c.state.run, c.state.threshold, c.state.image)==(run, thr, c.galleries[i].rows[0])

def test_three_runs_have_three_differences():
    a,b = two()
    c = panel((.7,.7,.7), a=a, b=b, c=a.assign(score=-a.score))
    c.runs.value = ('a','b','c')
    assert c.trouble.value=='' and c.text.value.count(' less ')==3

def test_identical_runs_have_no_difference():
    a,b = two()
    c = panel((.7,.7,.7), a=a, b=a, c=b)
    assert 'No difference: a and b give every image the same score' in c.text.value
    assert ' less ' not in c.text.value and c.note.value=='' and c.galleries[0].rows==[]
    c.runs.value = ('a','b','c')
    assert c.trouble.value=='' and 'No difference' in c.text.value and c.text.value.count(' less ')==3
    c.runs.value = ('a','c')
    assert 'No difference' not in c.text.value and c.text.value.count(' less ')==1

def test_one_run_asks_for_another():
    c = panel((.7,), a=score_table(60))
    assert c.trouble.value=='' and 'a comparison needs two' in c.text.value and c.chart.data

def test_no_run_chosen():
    a,b = two()
    c = panel(a=a, b=b)
    c.runs.value = ()
    assert 'choose runs' in c.text.value and c.chart.data==() and c.note.value==''
