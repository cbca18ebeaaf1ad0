"""Tables of scores, compared on the images that they share, and written for papers."""
import numpy as np, pandas as pd, pytest

from aead.compare import (compare_models, format_comparison, get_differences, get_disagreements, get_pairs,
                          save_comparison)
from aead.metrics import image_metrics
from aead.stats import paired_test

from ..helpers import made_up_decisions, made_up_scores as scores

def auroc(t): return image_metrics(t.score.to_numpy(), t.label.to_numpy())['image_auroc']

def test_only_shared_images_count():
    a,b = scores(0, 2.),scores(1, .2)
    rows = compare_models({'a': a, 'b': b[:30]}, n=50)
    assert {r['images'] for r in rows}=={30}
    assert np.isclose(rows[0]['value'], auroc(a[:30]))

def test_folds_are_averaged_never_pooled():
    a = pd.concat([scores(k, 3., fold=k) for k in (0,1)])
    a['score'] += 100*a.fold
    each = [auroc(o) for _,o in a.groupby('fold')]
    assert np.isclose(compare_models({'a': a}, n=20)[0]['value'], np.mean(each))
    assert abs(auroc(a)-np.mean(each))>.1

def test_one_model_and_equal_models():
    r = compare_models({'a': scores()}, n=20)
    assert len(r)==1 and r[0]['rank']==1 and r[0]['better_than']==[] and r[0]['p_values']=={}
    r = compare_models({'a': scores(), 'b': scores(), 'c': scores(0, 5.)}, n=50)
    assert [o['rank'] for o in r]==[1,2,2] and r[0]['model']=='c'
    assert r[1]['p_values'][r[2]['model']]==1

def test_the_best_are_named_first():
    lifts,rng = {'poor': 0, 'best': 9, 'fair': 3, 'good': 6},np.random.default_rng(0)
    y = np.arange(60)%2
    t = {k: scores(n=60).assign(score=y*lift+rng.normal(size=60)) for k,lift in lifts.items()}
    order = compare_models(t, n=50)
    assert [r['model'] for r in order]==['best','good','fair','poor'] and order[0]['better_than'][-1]=='poor'
    for r in order: assert r['better_than']==[o['model'] for o in order if o['model'] in r['better_than']]

def test_two_groups_give_a_metric_but_neither_interval_nor_test():
    t = scores().assign(group=lambda o: o.label)
    r = compare_models({'a': t, 'b': t.assign(score=0.)})[0]
    assert r['value'] is not None and (r['low'], r['p_values'])==(None, {'b': None})

@pytest.mark.parametrize('change,says', [(lambda t: t.assign(label=0), 'no fold has both'),
                                         (lambda t: t.assign(group=t.label), 'cannot be resampled'),
                                         (lambda t: t.assign(score=1.), 'every draw gives the same value')],
                         ids=['good images only','two groups','equal scores'])
def test_no_interval_without_a_reason(change, says):
    r = compare_models({'a': change(scores())}, n=20)[0]
    assert r['low'] is None and says in r['why']

def test_unknown_metrics_and_missing_ones():
    for o in (scores(), scores().assign(label=0)):
        with pytest.raises(KeyError, match='unknown metric'): compare_models({'a': o}, 'image_auc')
    rows = compare_models({'a': scores().assign(label=0), 'b': scores().assign(label=0)}, n=20)
    found = [(r['value'], r['rank'], r['p_values']) for r in rows]
    assert found==[(None, None, {'b': None}), (None, None, {'a': None})]
    for kind in ('markdown','latex'): assert 'no fold has both' in format_comparison(rows, kind)
    assert 'why' not in format_comparison(compare_models({'a': scores()}, n=20))

@pytest.mark.parametrize('kind,part', [('markdown','| model |'), ('latex',r'\begin{tabular}'), ('csv','model,metric')],
                         ids=['markdown','latex','csv'])
def test_tables(kind, part, tmp_path):
    rows = compare_models({'a_1 & b': scores(0, 4.), 'c|d': scores(1, .1)}, n=50)
    text = format_comparison(rows, kind)
    assert part in text and len([o for o in text.splitlines() if '|' in o or '&' in o or ',' in o])>=3
    if kind=='latex': assert r'a\_1 \& b' in text
    if kind=='markdown': assert r'c\|d' in text
    end = {'markdown':'md','latex':'tex','csv':'csv'}[kind]
    save_comparison(rows, tmp_path/f't.{end}')
    assert (tmp_path/f't.{end}').read_text()==text

def test_differences_of_pairs():
    t = {'a': made_up_decisions(0, .2), 'b': made_up_decisions(1, 3.), 'c': made_up_decisions(2, 1.)}
    d = get_differences(t)
    assert len(d)==3 and d.difference.is_monotonic_decreasing and (d.difference>=0).all()
    for r in d.itertuples():
        assert np.isclose(r.difference, auroc(t[r.better])-auroc(t[r.worse])) and r.low<=r.difference<=r.high
        p = paired_test(t[r.better].assign(fold=0), t[r.worse].assign(fold=0))
        assert np.allclose([r.low,r.high,r.p_value], [p['low'],p['high'],p['p_value']])
    assert get_differences({k: o.assign(group=o.label) for k,o in t.items()}).low.isna().all()

def test_disagreements_are_found():
    a,b = made_up_decisions(0, 1.),made_up_decisions(0, 1.)
    b.loc[[4,7],'score'] = [9.,-9.]
    b['decision'] = (b.score>1).astype(int)
    g = get_disagreements({'a': a, 'b': b}, 3)
    want = [f'{i}.png' for i in (4,7) if a.decision[i]!=b.decision[i]]
    assert set(g.path[g.differ])==set(want) and '4.png' in want and g.flagged[list(g.path).index('4.png')]==['b']
    assert not get_disagreements({'a': a.assign(decision=np.nan), 'b': b}).differ.any()

def test_disagreements_by_run():
    "Rows are those of each run's own table, in whatever order; ranks count the shared images alone."
    a = made_up_decisions(0, 1.)
    b = made_up_decisions(1, 1.)[10:].sample(frac=1, random_state=0).drop(columns='decision')
    g = get_disagreements({'a': a, 'b': b}, None)
    assert set(g.path)==set(b.path) and not g.differ.any()
    for r in g.itertuples():
        assert a.path[r.rows['a']]==b.path[r.rows['b']]==r.path
        assert r.decisions['a']==a.decision[r.rows['a']] and np.isnan(r.decisions['b'])
        assert np.isclose(r.ranks['a'], (a.score[10:]<=a.score[r.rows['a']]).mean())
        assert np.isclose(r.apart, abs(r.ranks['a']-r.ranks['b']))

def test_pairs_image_by_image():
    a,b = made_up_decisions(0, 1.),made_up_decisions(1, 1.)
    p = get_pairs(a, b[::-1])
    assert p.path.tolist()==a.path.tolist() and np.allclose(p.y, b.score.rank(pct=True))
