"Overview, threshold and distributions against the table itself."
import json

import numpy as np, pandas as pd, pytest

from aead.dashboard.app import Dashboard
from aead.dashboard.base import State
from aead.dashboard.results import (card_metrics, count_outcomes, defect_rows, DistributionPanel, metric_row,
                                    overview_metrics, OverviewPanel, plot_p_values, plot_rates, telling_images,
                                    ThresholdPanel)
from aead.dashboard.run_view import open_panel, open_views, RunView
from aead.metrics import calculate_precision_recall_f1, METRICS
from aead.runs.folder import RunFolder

from .conftest import score_table

def test_labels_come_from_the_table_of_metrics(runs):
    d = Dashboard(runs)
    assert set(overview_metrics) <= set(METRICS)
    o = d.open('Overview')
    assert all(METRICS[k].label in o.more.value for k in overview_metrics)
    for k in card_metrics: assert METRICS[k].label in o.text.value and METRICS[k].meaning in o.text.value

@pytest.mark.parametrize('seed', range(3))
def test_the_three_images_are_those_farthest_on_their_side(seed):
    rng = np.random.default_rng(seed)
    t = pd.DataFrame({'label': rng.integers(0, 2, 40), 'score': rng.normal(size=40)}, index=rng.permutation(40))
    outcomes = {'surest find': (1,True,max), 'worst miss': (1,False,min), 'worst false alarm': (0,True,max)}
    for thr in (-9., 0., .5, 9.):
        found = telling_images(t, thr)
        for k,(y,flagged,far) in outcomes.items():
            these = t[(t.label==y)&((t.score>thr)==flagged)]
            assert (k in found)==(len(these)>0)
            if k in found: assert t.score[found[k]]==far(these.score) and found[k] in these.index

def test_classes_of_defects_add_up(runs):
    v = Dashboard(runs).views['run0']
    rows,t = defect_rows(v.table, v.threshold, v.metrics),v.table[v.table.label==1]
    assert sum(r[1] for r in rows)==len(t) and sum(r[2] for r in rows)==(t.score>v.threshold).sum()
    assert [r[2]/r[1] for r in rows]==sorted(r[2]/r[1] for r in rows)

def test_warnings_and_leaks_are_boxes():
    m = {'threshold': .5, 'n': {'skipped': 3}, 'audit': {'leaks': 2, 'text': '2 leaks: <a> and b'}}
    o = OverviewPanel(State(run='a'), {'a': RunView(score_table(30), metrics=m)})
    assert o.trouble.value=='' and 'box bad' in o.text.value and '&lt;a&gt;' in o.text.value
    assert '3 images could not be read' in o.text.value and 'box ok' not in o.more.value

def test_without_a_threshold_only_the_surest_find_is_shown():
    o = OverviewPanel(State(run='a'), {'a': RunView(score_table(30))})
    assert [i['title'] for i in o.examples.widget.items]==['surest find'] and 'share' not in o.classes.value

@pytest.mark.parametrize('seed', range(3))
def test_outcomes_agree_with_metrics(seed):
    rng = np.random.default_rng(seed)
    t = pd.DataFrame({'label': rng.integers(0, 2, 50), 'score': rng.integers(0, 9, 50)/4})
    for thr in np.unique(t.score):
        n = count_outcomes(t, thr)
        p = calculate_precision_recall_f1((t.score>thr).to_numpy().astype(float), t.label.to_numpy(), .5)
        assert sum(n.values())==50
        if not n['found']: continue
        assert n['found']/(n['found']+n['false alarm'])==pytest.approx(p['precision'])
        assert n['found']/(n['found']+n['missed'])==pytest.approx(p['recall'])

def test_rates_are_those_of_the_outcomes():
    t = score_table(60)
    fig = plot_rates(t)
    for thr in t.score:
        n = count_outcomes(t, thr)
        at = np.flatnonzero(fig.data[0].x==thr)[-1]
        assert fig.data[0].y[at]==pytest.approx(n['false alarm']/40) and fig.data[1].y[at]==pytest.approx(n['found']/20)

def test_p_values_are_drawn_as_a_distribution_function(rng):
    p = rng.uniform(size=20)
    x,y = (np.array(o) for o in (plot_p_values(p).data[0].x, plot_p_values(p).data[0].y))
    for v in p: assert y[np.flatnonzero(x==v)[0]]==pytest.approx((p<=v).mean())

def test_the_threshold_moves_with_the_state():
    t = score_table(60)
    p = ThresholdPanel(State(run='a', threshold=.5), open_views(None, {'a': t}))
    for thr in (t.score.min(), 1., t.score.max()):
        p.state.threshold = float(thr)
        n = count_outcomes(t, thr)
        assert p.slider.value==pytest.approx(thr) and all(f'>{v}<' in p.text.value for v in n.values())
    assert 'no threshold of its own' in p.note.value

def test_a_run_with_a_narrower_range_fits_the_slider():
    t = score_table(60)
    p = ThresholdPanel(State(run='a', threshold=.5), open_views(None, {'a': t, 'b': t.assign(score=100+t.score/50)}))
    for k in 'bab':
        p.state.run = k
        s = p.view.table.score
        assert p.trouble.value=='' and (p.slider.min, p.slider.max)==pytest.approx((s.min(), s.max()), abs=1e-4)

def test_the_reason_for_no_threshold_is_said():
    v = RunView(score_table(60), metrics={'why': {'false_alarm_rate': 'too few <groups>'}})
    p = ThresholdPanel(State(run='a'), {'a': v})
    assert 'too few &lt;groups&gt;' in p.text.value and p.changed.rows==[]

def test_errors_of_buttons_appear():
    d = Dashboard(None, {'a': score_table(60).assign(label=0)})
    t = d.open('Threshold')
    t.best.click()
    assert 'good and of defective' in t.trouble.value

def test_good_images_alone_have_distributions():
    p = DistributionPanel(State(run='a'), open_views(None, {'a': score_table(60).assign(label=0, p_value=.5)}))
    assert p.trouble.value=='' and 'Overlap' not in p.text.value and len(p.p.data)==2

def test_what_was_asked_for_stands_beside_the_rate():
    m = {'false_alarm_rate': .07, 'target_false_alarm_rate': .05}
    assert metric_row(m, 'false_alarm_rate')[1:]==('<b>0.070</b>', '', 'asked for: at most 0.05')

def test_a_moved_threshold_is_kept_as_a_rate(run):
    "The run is calibrated to the rate; what is flagged stays flagged, and nothing more."
    p = open_panel(ThresholdPanel, run)
    t = p.view.table
    p.state.threshold = float(t.score.quantile(.4))
    flagged,rate = t.path[t.score>p.state.threshold], p.kept_rate()
    assert f'--far {rate:.4g}' in p.keeps.value and not p.keep.disabled
    p.keep.click()
    assert p.trouble.value=='' and p.state.threshold==p.view.threshold!=pytest.approx(t.score.quantile(.4))
    assert json.loads(RunFolder(run).file('calibration.json').read_text())['far']==pytest.approx(rate)
    assert set(p.view.table.path[p.view.table.score>p.state.threshold]) >= set(flagged)

def test_nothing_is_kept_without_a_run():
    p = open_panel(ThresholdPanel, None, score_table(50))
    assert p.keep.disabled
