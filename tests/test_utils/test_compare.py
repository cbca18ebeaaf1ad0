"""Tables of many runs: gathered from any tree, compared on what they share, written for papers."""
import json

import numpy as np, pandas as pd, pytest

from aead.runs.compare import compare_runs
from aead.viz.compare import fig_differences, fig_pairs, plot_pairs
from aead.runs.benchmark import get_costs
from aead.compare import get_differences, get_disagreements, get_pairs
from aead.report.comparison import write_comparison
from aead.metrics import image_metrics
from aead.runs.crossval import cross_validate, scores_file
from aead.compare import compare_models, format_comparison, save_comparison
from aead.runs.folder import load_metrics, load_results
from aead.runs.train import train_run
from aead.stats import paired_test

from ..helpers import TINY, check_static, make_layout

def scores(seed=0, lift=1., n=40, **kw):
    rng = np.random.default_rng(seed)
    y = np.arange(n)%2
    return pd.DataFrame({'path': [f'{i}.png' for i in range(n)], 'label': y, 'defect': np.where(y, 'dent', 'good'), 'group': np.arange(n)//2//2*2+y, 'split': 'test', 'score': lift*y+rng.normal(size=n), **kw})

def write(folder, t, **m):
    folder.mkdir(parents=True)
    t.to_csv(folder/'scores.csv', index=False)
    if m: (folder/'metrics.json').write_text(json.dumps(m))

def test_real_runs(cfg, tmp_path):
    for k in (0,1): train_run(tmp_path/f'run{k}', cfg(train=dict(epochs=1, seed=k), data=dict(category='brick')))
    t = load_results(tmp_path)
    assert set(t.run)=={'run0','run1'} and set(t.seed)=={0,1} and set(t.model)=={'cnn_ae'} and set(t.answer) <= {'accept','reject'}
    m = load_metrics(tmp_path).set_index('run')
    for k,o in t.groupby('run'): assert np.isclose(image_metrics(o.score.to_numpy(), o.label.to_numpy())['image_auroc'], m.image_auroc[k])
    own = json.loads((tmp_path/'run0'/'metrics.json').read_text())
    assert [m.image_auroc_low['run0'], m.image_auroc_high['run0']]==own['ci95']['image_auroc']
    assert set(load_results(tmp_path, None).split)=={'val','cal','test'} and len(load_results(tmp_path/'run0'))==len(t)/2

def test_scores_of_a_protocol(tmp_path):
    d = make_layout(tmp_path/'mtd', 'mtd')
    plain = dict(model='cnn_ae', models={'cnn_ae': TINY['cnn_ae']}, size=32, epochs=1, bs=8)
    cross_validate({'plain': plain, 'nearest neighbour': None}, tmp_path/'t.csv', d, 'mtd', folds=(0,), out=tmp_path/'runs', device='cpu')
    t = load_results(scores_file(tmp_path/'t.csv'))
    assert set(t.model)=={'plain','nearest neighbour'}
    rows = {r['model']: r for r in compare_models(t, n=50)}
    table = pd.read_csv(tmp_path/'t.csv').set_index('variant')
    for k,r in rows.items(): assert abs(r['value']-table.image_auroc[k])<2e-4

def test_what_is_broken_is_named(tmp_path):
    write(tmp_path/'a', scores(), model='x')
    (tmp_path/'a'/'metrics.json').write_text('[1]')
    with pytest.raises(ValueError, match='a/metrics.json is not what aead writes'): load_results(tmp_path)
    (tmp_path/'a'/'metrics.json').unlink()
    assert load_results(tmp_path).model.isna().all()                    # a run that was not evaluated to the end
    write(tmp_path/'b', scores().drop(columns='score'))
    with pytest.raises(ValueError, match='b/scores.csv lacks the column score'): load_results(tmp_path)
    (tmp_path/'b'/'scores.csv').write_bytes(b'\xff\xfe\x00\x01')
    with pytest.raises(ValueError, match='b/scores.csv'): load_results(tmp_path)
    (tmp_path/'b'/'scores.csv').write_text('')
    with pytest.raises(ValueError, match='b/scores.csv'): load_results(tmp_path)

def test_maps_are_not_searched(tmp_path, monkeypatch):
    import os
    write(tmp_path/'r'/'a', scores(), model='x')
    for o in ('maps','data'): (tmp_path/'r'/'a'/o/'deep').mkdir(parents=True)
    seen,real = [],os.scandir
    monkeypatch.setattr(os, 'scandir', lambda p: (seen.append(str(p)), real(p))[1])
    load_results(tmp_path/'r')
    assert seen and not any(o.endswith(('maps','data','deep')) for o in seen)

def test_only_shared_images_count():
    a,b = scores(0, 2.),scores(1, .2)
    rows = compare_models({'a': a, 'b': b[:30]}, n=50)
    assert {r['images'] for r in rows}=={30}
    assert np.isclose(rows[0]['value'], image_metrics(a.score[:30].to_numpy(), a.label[:30].to_numpy())['image_auroc'])

def test_folds_are_averaged_never_pooled():
    a = pd.concat([scores(k, 3., fold=k).assign(score=lambda t: t.score+100*k) for k in (0,1)])
    each = [image_metrics(o.score.to_numpy(), o.label.to_numpy())['image_auroc'] for _,o in a.groupby('fold')]
    assert np.isclose(compare_models({'a': a}, n=20)[0]['value'], np.mean(each))
    pooled = image_metrics(a.score.to_numpy(), a.label.to_numpy())['image_auroc']
    assert abs(pooled-np.mean(each))>.1

def test_one_model_and_equal_models():
    r = compare_models({'a': scores()}, n=20)
    assert len(r)==1 and r[0]['rank']==1 and r[0]['better_than']==[] and r[0]['p_values']=={}
    r = compare_models({'a': scores(), 'b': scores(), 'c': scores(0, 5.)}, n=50)
    assert [o['rank'] for o in r]==[1,2,2] and r[0]['model']=='c'
    assert r[1]['p_values'][r[2]['model']]==1

@pytest.mark.parametrize('change,says', [(lambda t: t.assign(label=0), 'no fold has both'), (lambda t: t.assign(group=t.label), 'cannot be resampled')])
def test_no_figure_without_a_reason(change, says):
    r = compare_models({'a': change(scores())}, n=20)[0]
    assert r['low'] is None and says in r['why']

@pytest.mark.parametrize('kind,part', [('markdown','| model |'), ('latex',r'\begin{tabular}'), ('csv','model,metric')])
def test_tables(kind, part, tmp_path):
    rows = compare_models({'a_1 & b': scores(0, 4.), 'c|d': scores(1, .1)}, n=50)
    text = format_comparison(rows, kind)
    assert part in text and len([o for o in text.splitlines() if '|' in o or '&' in o or ',' in o])>=3
    if kind=='latex': assert r'a\_1 \& b' in text
    if kind=='markdown': assert r'c\|d' in text
    end = {'markdown':'md','latex':'tex','csv':'csv'}[kind]
    save_comparison(rows, tmp_path/f't.{end}')
    assert (tmp_path/f't.{end}').read_text()==text

# --- the page

def called(seed, lift): return scores(seed, lift, 80).assign(group=range(80), decision=lambda t: (t.score>1).astype(int))

def test_differences_of_pairs():
    t = {'a': called(0, .2), 'b': called(1, 3.), 'c': called(2, 1.)}
    d = get_differences(t)
    assert len(d)==3 and d.difference.is_monotonic_decreasing and (d.difference>=0).all()
    auc = {k: image_metrics(o.score.to_numpy(), o.label.to_numpy())['image_auroc'] for k,o in t.items()}
    for r in d.itertuples():
        assert np.isclose(r.difference, auc[r.better]-auc[r.worse]) and r.low<=r.difference<=r.high
        p = paired_test(t[r.better].assign(fold=0), t[r.worse].assign(fold=0))
        assert np.allclose([r.low,r.high,r.p_value], [p['low'],p['high'],p['p_value']])
    ax = fig_differences(d).axes[0]
    assert np.allclose([o.get_xdata()[0] for o in ax.lines[2::2]], d.difference)
    none = get_differences({k: o.assign(group=o.label) for k,o in t.items()})
    assert none.low.isna().all() and len(fig_differences(none).axes[0].lines)==4      # a point a pair, no intervals

def test_disagreements_are_found():
    a,b = called(0, 1.),called(0, 1.)
    b.loc[[4,7],'score'] = [9.,-9.]
    b['decision'] = (b.score>1).astype(int)
    g = get_disagreements({'a': a, 'b': b}, 3)
    want = [f'{i}.png' for i in (4,7) if a.decision[i]!=b.decision[i]]
    assert set(g.path[g.differ])==set(want) and '4.png' in want and g.flagged[list(g.path).index('4.png')]==['b']
    assert not get_disagreements({'a': a.assign(decision=np.nan), 'b': b}).differ.any()

def test_pairs_image_by_image():
    a,b = called(0, 1.),called(1, 1.)
    p = get_pairs(a, b[::-1])
    assert p.path.tolist()==a.path.tolist() and np.allclose(p.y, b.score.rank(pct=True))
    fig,q = fig_pairs(p, ('a','b')),plot_pairs(p, ('a','b'))
    assert sum(len(o.get_offsets()) for o in fig.axes[0].collections)==80==sum(len(o.x) for o in q.data[1:])
    assert fig.axes[0].get_xlabel()=='rank in a' and q.layout.yaxis.title.text=='rank in b'

def test_page_of_runs(cfg, tmp_path):
    "Figures, curves, differences, pictures and costs of real runs; and what is said when parts are lost."
    import shutil
    for k in (0,1): train_run(tmp_path/'runs'/f'run{k}', cfg(train=dict(epochs=1, seed=k), data=dict(category='brick')))
    both = [tmp_path/'runs'/f'run{k}' for k in (0,1)]
    rows = compare_runs(both, out=tmp_path/'c.html')
    page = check_static(tmp_path/'c.html')
    assert {r['model'] for r in rows}=={'run0','run1'} and rows==compare_runs(both)
    for r in rows: assert f'{r["value"]:.3f}' in page and f'{r["low"]:.3f} to {r["high"]:.3f}' in page
    assert not [o for o in ('No curve of the pixels','No costs','no anomaly map','cannot be read here') if o in page]
    assert page.count('class="card"')==8 and page.count('<script')==4 and (tmp_path/'c.html').stat().st_size<10_000_000
    c = get_costs({'x': both[0]}, 3)
    assert c.median_ms[0]>0 and np.isclose(c.file_mib[0], (both[0]/'model.safetensors').stat().st_size/2**20)
    shutil.rmtree(both[1]/'maps'); (both[1]/'curves.csv').unlink(); (both[0]/'model.safetensors').unlink(); (both[1]/'model.safetensors').unlink()
    compare_runs(both, out=tmp_path/'c.html')
    page = (tmp_path/'c.html').read_text()
    assert 'No curve of the pixels for run1' in page and 'no anomaly map' in page and 'No costs' in page
    shutil.rmtree(both[0]/'data'); shutil.rmtree(both[1]/'data')
    compare_runs(both, out=tmp_path/'c.html')
    assert 'the image cannot be read here' in (tmp_path/'c.html').read_text()

def test_page_of_tables(tmp_path):
    "Scores alone: several folds are not drawn as one curve; names of strangers do no harm; one model is no comparison."
    evil = '</script><img src=x onerror=alert(1)>'
    folds = {k: pd.concat([scores(i+s, 2., fold=i) for i in (0,1)]) for k,s in ((evil,0),('b',5))}
    page = write_comparison(tmp_path/'c.html', folds).read_text()
    assert '<img src=x' not in page and 'scores of different folds are never pooled' in page and page.count('<script')==4
    assert 'There is one model' in write_comparison(tmp_path/'c.html', {'a': scores()}).read_text()
    with pytest.raises(ValueError, match="'a' lack the column group"): write_comparison(tmp_path/'c.html', {'a': scores().drop(columns='group'), 'b': scores()})


def test_evaluations_inside_a_run_are_not_runs(tmp_path):
    write(tmp_path/'a', scores(), model='x')
    write(tmp_path/'a'/'eval-other', scores(1), model='x')
    assert set(load_results(tmp_path).run)=={'a'} and len(load_metrics(tmp_path))==1
    assert len(load_results(tmp_path/'a'/'eval-other'))==40

def test_unknown_figures_and_missing_ones():
    for o in (scores(), scores().assign(label=0)):
        with pytest.raises(KeyError, match='unknown figure'): compare_models({'a': o}, 'image_auc')
    rows = compare_models({'a': scores().assign(label=0), 'b': scores().assign(label=0)}, n=20)
    assert [(r['value'], r['rank'], r['p_values']) for r in rows]==[(None, None, {'b': None}), (None, None, {'a': None})]
    for kind in ('markdown','latex'): assert 'no fold has both' in format_comparison(rows, kind)
    assert 'why' not in format_comparison(compare_models({'a': scores()}, n=20))
