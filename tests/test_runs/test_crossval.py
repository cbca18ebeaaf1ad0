"""Cross-validation: tables that grow, baselines, and means over folds."""
import numpy as np, pandas as pd, pytest
from sklearn.metrics import roc_auc_score

from aead.data.catalog import load_catalog
from aead.data.splits import split_catalog
from aead.data.audit import baselines, score_baseline
from aead.runs.crossval import cross_validate, scores_file, summarize_folds, unseen_auroc

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
