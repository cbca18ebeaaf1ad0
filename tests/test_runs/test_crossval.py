"""Cross-validation: tables that grow, baselines, and means over folds."""
from pathlib import Path

import numpy as np, pandas as pd, pytest
from sklearn.metrics import roc_auc_score

from aead.data.catalog import load_catalog
from aead.data.splits import split_catalog
from aead.data.audit import baselines, score_baseline
from aead.runs.crossval import (compare_categories, cross_validate, scores_file, summarize_categories, summarize_folds,
                                unseen_auroc)
from aead.runs.folder import RunFolder
from aead.stats import paired_test

from ..helpers import TINY, make_layout

PLAIN = dict(model='cnn_ae', models={'cnn_ae': TINY['cnn_ae']}, size=32, epochs=1, bs=8)

@pytest.fixture(scope='module')
def tiles(tmp_path_factory): return make_layout(tmp_path_factory.mktemp('mtd'), 'mtd')

@pytest.fixture
def kw(tiles, tmp_path):
    "Arguments for one fold of tiny tiles."
    return dict(table=tmp_path/'t.csv', data=tiles, layout='mtd', folds=(0,), out=tmp_path/'runs', device='cpu')

def test_rows_are_made_once(kw, monkeypatch):
    import aead.runs.crossval as p
    t = cross_validate({'plain': PLAIN}, **kw)
    assert len(t)==1 and t.minutes.ge(0).all()
    assert t.image_auroc.between(0, 1).all() and t.unseen_auroc.between(0, 1).all()
    monkeypatch.setattr(p, 'train_run', lambda *a, **k: pytest.fail('made again'))
    assert cross_validate({'plain': PLAIN}, **kw).equals(t)
    monkeypatch.undo()
    t = cross_validate({'plain': PLAIN, 'nearest neighbour': None}, **{**kw, 'seeds': (0,1)})
    assert t[['variant','seed']].values.tolist()==[['plain',0],['plain',1],['nearest neighbour',0]]

def test_what_was_cut_off_goes_on(kw, monkeypatch):
    import aead.runs.crossval as p
    real = p._keep
    with monkeypatch.context() as m:
        m.setattr(p, '_keep', lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt): cross_validate({'plain': PLAIN}, **kw)
    assert not kw['table'].exists()
    seen = []
    monkeypatch.setattr(p, '_keep', lambda *a: (seen.append(a), real(*a)))
    with monkeypatch.context() as m:
        again = 'aead.learner.AnomalyLearner.fit_one_cycle'
        m.setattr(again, lambda *a, **k: pytest.fail('trained again'), raising=False)
        cross_validate({'plain': PLAIN}, **kw)
    assert len(seen)==1

def test_scores_match_the_table(kw):
    t = cross_validate({'plain': PLAIN, **dict.fromkeys(baselines)}, **{**kw, 'folds': (0,1)})
    s = pd.read_csv(scores_file(kw['table']))
    for r in t.itertuples():
        o = s[(s.variant==r.variant) & (s.fold==r.fold)]
        assert abs(roc_auc_score(o.label, o.score)-r.image_auroc) < 1e-3 and not o.path.str.startswith('/').any()
    m = summarize_folds(kw['table'], n=50).set_index('variant')
    for v,o in t.groupby('variant'): assert abs(m.image_auroc[v]-o.image_auroc.mean()) < 1e-3 and m.folds[v]==2

def test_mean_over_folds_does_not_pool(tmp_path):
    "A shift of all scores of one fold changes nothing."
    rng,n = np.random.default_rng(0),40
    label = (np.arange(n)%4==0).astype(int)
    def scores(f):
        t = pd.DataFrame({'variant':'a', 'split':'grouped', 'fold':f, 'seed':0, 'path':[f'{f}{i}' for i in range(n)]})
        defect,group = np.where(label, 'x', 'good'),[f'{f}{i//2}' for i in range(n)]
        return t.assign(group=group, label=label, defect=defect, score=rng.normal(size=n)+label)
    s = pd.concat([scores(f) for f in (0,1)])
    out = []
    for shift in (0,100):
        s.assign(score=s.score+shift*s.fold).to_csv(tmp_path/'t_scores.csv', index=False)
        pd.DataFrame({'variant':'a', 'split':'grouped', 'fold':[0,1], 'seed':0}).to_csv(tmp_path/'t.csv', index=False)
        out.append(summarize_folds(tmp_path/'t.csv', n=100).iloc[0])
    want = np.mean([roc_auc_score(o.label, o.score) for _,o in s.groupby('fold')])
    assert abs(out[0].image_auroc-want) < 1e-9 and out[0].low < want < out[0].high
    a,b = (o[['image_auroc','low','high']].astype(float) for o in out)
    assert np.allclose(a, b)

@pytest.mark.parametrize('name', sorted(baselines))
def test_baselines_see_a_leak(name, tmp_path):
    "An image that was in training scores lowest."
    df = split_catalog(load_catalog(make_layout(tmp_path, 'mtd'), 'mtd'), 'grouped', 0)
    train = df[df.split=='train'].iloc[[0]].assign(split='test')
    t = score_baseline(name, pd.concat([df, train], ignore_index=True), 32)
    assert t.score.iloc[-1]==t.score.min() and t.score.iloc[-1] < .01*t.score.median()

def test_unseen(rng):
    a,b = rng.normal(size=300),rng.normal(size=200)+1
    assert abs(unseen_auroc(a, b)-roc_auc_score(np.r_[np.zeros(300), np.ones(200)], np.r_[a, b])) < 1e-9
    assert unseen_auroc([], b) is None

BAD = {'folder': ({'data':'nowhere'}, FileNotFoundError), 'layout': ({'layout':'mtdd'}, KeyError),
       'split': ({'splits':('grupped',)}, KeyError)}

@pytest.mark.parametrize('kw2,error', BAD.values(), ids=BAD)
def test_bad_input(kw, kw2, error):
    with pytest.raises(error): cross_validate({'plain': PLAIN}, **{**kw, **kw2})
    with pytest.raises(KeyError, match='nearest neighbour'): cross_validate({'nearest': None}, **kw)
    assert not kw['table'].exists()

# --- several categories

@pytest.fixture(scope='module')
def parts(tmp_path_factory):
    "Two categories, of one and of three channels, as MVTec AD."
    root = tmp_path_factory.mktemp('parts')
    for name,c in (('cap',1),('nut',3)):
        made = make_layout(tmp_path_factory.mktemp(name), 'mvtec', hw=(24,24), c=c, first=100*c)
        (made/'part').rename(root/name)
    return root

@pytest.fixture(scope='module')
def compared(parts, tmp_path_factory):
    "A finished comparison of categories, interrupted once: its arguments and its table."
    import aead.runs.crossval as p
    d = tmp_path_factory.mktemp('compared')
    kw = dict(variants={'plain': PLAIN}, table=d/'t.csv', data=parts, layout='mvtec',
              splits=('published',), out=d/'runs', device='cpu')
    def stop(table, case, *a):
        if case['variant']=='plain all' and case['category']=='nut': raise KeyboardInterrupt
        keep(table, case, *a)
    with pytest.MonkeyPatch.context() as m:
        keep = p._keep
        m.setattr(p, '_keep', stop)
        with pytest.raises(KeyboardInterrupt): compare_categories(**kw)
    assert len(pd.read_csv(d/'t.csv'))==3
    with pytest.MonkeyPatch.context() as m:
        m.setattr('aead.runs.train.train_detector', lambda *a, **k: pytest.fail('trained again'))
        return kw, compare_categories(**kw)

def runs_of(kw): return {k: RunFolder(kw['out']/f'plain-published-0-0-{k}') for k in ('cap','nut','all')}

def test_both_ways_see_the_same_images(compared):
    kw,t = compared
    assert t.variant.tolist()==[f'{v} {w}' for v in kw['variants'] for w in ('each','all') for _ in range(2)]
    r = runs_of(kw)
    whole = r['all'].catalog[['path','label','group','split','category']]
    apart = pd.concat([r[k].catalog[whole.columns] for k in ('cap','nut')], ignore_index=True)
    assert whole.equals(apart) and r['all'].config.data.channels==r['cap'].config.data.channels==3
    s = pd.read_csv(scores_file(kw['table']))
    for _,o in s.groupby('category'):
        seen = [sorted(v.path) for _,v in o.groupby('variant')]
        assert len(seen)==2 and all(v==seen[0] for v in seen) and not o.path.str.startswith('/').any()

def test_rows_are_those_of_the_runs(compared):
    kw,t = compared
    r = runs_of(kw)
    for o in t.itertuples():
        run = r['all' if o.detector=='all' else o.category]
        s = run.scores.query('category==@o.category')
        test,cal = s[s.split=='test'],np.sort(s.score[s.split=='cal'])
        assert abs(roc_auc_score(test.label, test.score)-o.image_auroc) < 1e-4
        far = run.get_detector('cpu').limits.far
        k = int(np.floor(max(far, 1/(len(cal)+1))*(len(cal)+1)+1e-9))          # so many may lie above, the new one too
        flagged = test.score>cal[len(cal)-k]
        assert abs(o.own_threshold-cal[len(cal)-k]) < 1e-4
        assert abs(o.own_detection_rate-flagged[test.label==1].mean()) < 1e-4
        assert abs(o.own_false_alarm_rate-flagged[test.label==0].mean()) < 1e-4
        if o.detector=='each':
            assert o.own_detection_rate==o.detection_rate and o.aupro_30==round(run.metrics['aupro_30'], 4)
        else: assert abs(o.detection_rate-test.decision[test.label==1].mean()) < 1e-4

def test_categories_side_by_side(compared):
    kw,t = compared
    m = summarize_categories(kw['table'], n=50)
    assert m.category.tolist()==['cap','nut','all categories']
    s = pd.read_csv(scores_file(kw['table']))
    for o in m[m.category!='all categories'].itertuples():
        a,b = (s[(s.variant==f'{o.variant} {w}') & (s.category==o.category)] for w in ('all','each'))
        want = roc_auc_score(a.label, a.score)-roc_auc_score(b.label, b.score)
        assert abs(o.difference-want) < 1e-9 and not o.low > want and not o.high < want
    for _,o in m.groupby('variant'): assert abs(o.difference.iloc[2]-o.difference.iloc[:2].mean()) < 1e-9
    first = m.iloc[2]
    assert first.minutes_each==t.minutes[t.variant=='plain each'].sum() and first.minutes_all==t.minutes[2]

def test_tables_of_two_kinds_do_not_mix(compared, parts, tmp_path):
    kw,_ = compared
    with pytest.raises(ValueError, match='of another kind'): cross_validate(**kw)
    more = {**kw, 'categories': ['nut','cap','cap']}
    assert len(compare_categories(**{**kw, 'categories': ['cap','nut']}))==4
    with pytest.raises(ValueError, match='other settings'): compare_categories(**more)     # another order, another model
    alone = {**kw, 'table': tmp_path/'one.csv', 'variants': {'nearest neighbour': None}, 'category': 'nut'}
    assert len(cross_validate(**alone))==1
    assert pd.read_csv(scores_file(tmp_path/'one.csv')).path.str.startswith('nut/').all()
    with pytest.raises(ValueError, match='without --category'): summarize_categories(tmp_path/'one.csv')

def test_categories_by_command(parts, tmp_path, capsys, monkeypatch):
    import aead.runs.crossval as p
    from aead.cli import main
    written = {}
    def page(path, results, rows, more): written.update(path=Path(path), results=results, more=more)
    monkeypatch.setattr(p, 'write_comparison', page)               # the page itself is made in the notebook
    monkeypatch.setattr(p, 'paired_test', lambda a, b, metric, n, seed: paired_test(a, b, metric, 20, seed=seed))
    monkeypatch.setattr(p, 'compare_models', lambda results, n: [])
    def run(*more):
        try: main(['crossval','--data',str(parts),'--recipes','nearest neighbour','--splits','published',
                   '--layout','auto','--out',str(tmp_path/'runs'),'--table',str(tmp_path/'t.csv'), *more])
        except SystemExit as e: return e.code, *capsys.readouterr()
        return 0, *capsys.readouterr()
    code,out,_ = run('--category','all')
    assert code in (0,None) and 'all categories' in out and 'look at' in out
    assert written['path']==tmp_path/'t_categories.html' and len(written['more'])==1
    assert list(written['results'])==['nearest neighbour each','nearest neighbour all']
    for o in written['results'].values(): assert set(o.data)=={'t cap','t nut'}       # never pooled
    assert pd.read_csv(tmp_path/'t_categories.csv').category.tolist()==['cap','nut','all categories']
    code,_,err = run('--category','cap,nuts')
    assert code==2 and "Did you mean 'nut'" in err and 'Traceback' not in err
