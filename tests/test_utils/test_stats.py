"""Intervals, tests and ranks against plain computations, on random inputs; what they say when nothing can be said."""
import numpy as np, pandas as pd, pytest
from scipy import stats as st
from sklearn.metrics import roc_auc_score

from aead.metrics import PixelMetrics, image_metrics, pixel_metrics
from aead.stats import (PixelHistograms, delong_test, friedman_nemenyi, group_interval, holm, pair_scores, paired_test,
                        resample_groups, why_no_interval)

def table(rng, n=60, k=3, p=.4):
    "Scores of `n` images in groups of about `k`; defects come by group and by image."
    g = rng.integers(0, max(2, n//k), n)
    y = ((g%3==0) & (rng.random(n)<.8)) | (rng.random(n)<p/4)
    y[:2],g[:2] = [0,1],[1000,1001]
    y[2:4],g[2:4] = [0,1],[1002,1003]
    score = y+rng.normal(size=n)
    return pd.DataFrame({'path': [f'{i}.png' for i in range(n)], 'group': g, 'label': y.astype(int), 'score': score})

def win(y, s):
    "Whether each defective image scores above each good one; ties count one half."
    bad,good = s[y==1][:,None],s[y==0]
    return (bad>good)+.5*(bad==good)

def auc(d):
    "AUROC by pairs; None without both kinds."
    y,s = d.label.to_numpy(),d.score.to_numpy()
    return {'auc': win(y, s).mean() if 0<y.sum()<len(y) else None}

def logit(p): return np.log(p/(1-p))

@pytest.mark.parametrize('seed', range(20))
def test_a_draw_holds_whole_groups_of_both_kinds(seed):
    t = table(np.random.default_rng(seed))
    bad,size = t.groupby('group').label.max(),t.groupby('group').size()
    for d in resample_groups(t, 20, seed):
        n = t.group.iloc[d].value_counts()
        times = n/size[n.index]
        assert (times==times.round()).all()
        assert times[bad[times.index]==1].sum()==(bad==1).sum() and times[bad[times.index]==0].sum()==(bad==0).sum()

@pytest.mark.parametrize('seed', range(10))
def test_interval_on_the_logit_scale(seed):
    t = table(np.random.default_rng(seed), 90)
    lo,hi = group_interval(t, auc, 300, seed=seed)['auc']
    v,draws = auc(t)['auc'],[auc(t.iloc[d])['auc'] for d in resample_groups(t, 300, seed)]
    m = min((t.groupby('group').label.max()==b).sum() for b in (0,1))
    half = st.t.ppf(.975, m-1)*np.std(draws, ddof=1)*np.sqrt(m/(m-1))/(v*(1-v))
    assert np.isclose(v, roc_auc_score(t.label, t.score))
    assert np.isclose(logit(hi)-logit(v), half) and np.isclose(logit(v)-logit(lo), half) and 0<lo<v<hi<1
    narrow = group_interval(t, auc, 300, .5, seed)['auc']
    assert lo<narrow[0]<v<narrow[1]<hi

def test_equal_draws_that_differ_by_rounding_give_no_interval():
    t = pd.DataFrame({'group': range(12), 'label': np.arange(12)%2, 'score': 1.})
    def f1(d): return {'f1': image_metrics(d.score.to_numpy(), d.label.to_numpy())['image_f1_max']}
    assert group_interval(t, f1)=={}

def test_nothing_can_be_said():
    t = table(np.random.default_rng(0))
    assert group_interval(t[t.label==0], auc)=={}
    assert group_interval(t[:0], auc)=={} and why_no_interval(t[:0])=='no images'
    one = t.assign(group=t.label)                       # one group of each kind
    assert group_interval(one, auc)=={} and 'cannot be resampled' in why_no_interval(one)
    assert group_interval(t, lambda d: {'same': .5})=={}
    same = t.assign(score=1.)                           # all scores equal: every draw gives one half
    assert group_interval(same, auc)=={}

@pytest.mark.parametrize('m', [2,5,20])
def test_a_perfect_metric_gets_a_bound(m):
    t = pd.DataFrame({'group': range(2*m), 'label': np.repeat([0,1], m), 'score': np.repeat([0.,1.], m)})
    assert np.allclose(group_interval(t, auc)['auc'], st.binomtest(m, m).proportion_ci(.95, 'exact'))
    worst = t.assign(score=-t.score)
    assert np.allclose(group_interval(worst, auc)['auc'], st.binomtest(0, m).proportion_ci(.95, 'exact'))

@pytest.mark.parametrize('seed', range(100))
def test_delong_by_pairs(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(8, 60))
    y = np.r_[0,0,1,1,rng.integers(0, 2, n)]
    a,b = ((rng.integers(0, 6, n+4) if seed%2 else rng.normal(size=n+4))+y*rng.random() for _ in 'ab')
    t = delong_test(y, a, b)
    assert np.isclose(t['difference'], roc_auc_score(y, a)-roc_auc_score(y, b))
    d = win(y, a)-win(y, b)
    assert np.isclose(t['se'], np.sqrt(d.mean(1).var(ddof=1)/y.sum()+d.mean(0).var(ddof=1)/(1-y).sum()))
    swapped = delong_test(y, b, a)
    assert np.isclose(swapped['difference'], -t['difference']) and np.isclose(swapped['p_value'], t['p_value'])

@pytest.mark.parametrize('bad', [dict(labels=[0,1,1]), dict(labels=[0,0,0,1]), dict(a=[1,2,3])],
                         ids=['a label short','one defect','a score short'])
def test_delong_refuses(bad):
    with pytest.raises(ValueError): delong_test(**{**dict(labels=[0,0,1,1], a=[1,2,3,4], b=[1,2,3,4]), **bad})

@pytest.mark.parametrize('metric', ['image_auroc','image_ap'])
def test_paired_bootstrap_by_hand(metric):
    rng = np.random.default_rng(1)
    a = pd.concat([table(rng, 50).assign(fold=k) for k in (0,1)], ignore_index=True)
    b = a.assign(score=a.score+rng.normal(size=len(a)))
    t = paired_test(a, b, metric, n=200, seed=3)
    def value(d, c): return image_metrics(d[c].to_numpy(), d.label.to_numpy())[metric]
    def mean(d): return np.mean([value(o, 'score_a')-value(o, 'score_b') for _,o in d.groupby('fold')])
    d = pair_scores(a, b)
    assert np.isclose(t['difference'], mean(d)) and t['method']=='bootstrap of groups'
    m = min((d.groupby('group').label.max()==k).sum() for k in (0,1))
    se = np.std([mean(d.iloc[i]) for i in resample_groups(d, 200, 3)], ddof=1)*np.sqrt(m/(m-1))
    assert np.isclose((t['high']-t['low'])/2, st.t.ppf(.975, m-1)*se)

def test_paired_test_says_why_not(rng):
    t = table(rng)
    good = t[t.label==0]
    assert paired_test(good, good)['difference'] is None and 'good and defective' in paired_test(good, good)['why']
    one = t.assign(group=t.label)
    r = paired_test(one, one.assign(score=-one.score))
    assert r['p_value'] is None and 'cannot be resampled' in r['why'] and r['difference'] is not None
    with pytest.raises(KeyError, match='image_auroc'): paired_test(t, t, 'auroc')
    with pytest.raises(ValueError, match='disagree on the label'): paired_test(t, t.assign(label=1-t.label))

def test_order_of_rows_does_not_matter(rng):
    a = table(rng)
    b = a.assign(score=a.score+rng.normal(size=len(a)))
    assert paired_test(a, b.sample(frac=1, random_state=0))==paired_test(a, b)

@pytest.mark.parametrize('seed', range(20))
def test_holm_by_steps(seed):
    "The `i`-th smallest of `n` p-values counts `n-i` times, and never less than the one before."
    rng = np.random.default_rng(seed)
    p = rng.random(rng.integers(1, 9))**2
    want,last = np.empty(len(p)),0.
    for i,k in enumerate(np.argsort(p)):
        last = max(last, min(1., p[k]*(len(p)-i)))
        want[k] = last
    assert np.allclose(holm(p), want)
    assert np.allclose(holm([*p, None, np.nan])[:len(p)], want) and np.isnan(holm([*p, None, np.nan])[len(p):]).all()

@pytest.mark.parametrize('seed', range(20))
def test_friedman_by_hand(seed):
    rng = np.random.default_rng(seed)
    n,k = int(rng.integers(3, 12)),int(rng.integers(3, 7))
    v = pd.DataFrame(rng.integers(0, 5, (n,k)) if seed%2 else rng.normal(size=(n,k)))
    r = friedman_nemenyi(v)
    ranks = (-v).rank(axis=1).to_numpy()
    chi = n*(n*((ranks.mean(0)-(k+1)/2)**2).sum())*(k-1)/((ranks-(k+1)/2)**2).sum()        # with ties
    assert np.isclose(r['p_value'], st.f.sf((n-1)*chi/(n*(k-1)-chi), k-1, (k-1)*(n-1)))
    assert np.allclose(list(r['ranks'].values()), (-v).rank(axis=1).mean())
    p = r['p_values'].to_numpy()
    assert np.allclose(p, p.T) and np.allclose(np.diag(p), 1)
    far = np.abs(np.subtract.outer(*2*[np.array(list(r['ranks'].values()))]))
    assert ((p<.05)==(far>r['critical_difference'])).all()

def test_ranks_refuse():
    with pytest.raises(ValueError, match='missing'): friedman_nemenyi(pd.DataFrame([[1,2,3],[1,2,np.nan]]))
    with pytest.raises(ValueError, match='at least two data sets'): friedman_nemenyi(pd.DataFrame([[1,2,3]]))

@pytest.mark.parametrize('seed', range(5))
def test_pixel_intervals_as_by_drawing_maps(seed):
    rng = np.random.default_rng(seed)
    n = 20
    t = pd.DataFrame({'group': np.arange(n)//2, 'label': (np.arange(n)//2%2)})
    hw = [tuple(rng.integers(10, 24, 2)) for _ in range(n)]            # of different sizes
    masks = [np.zeros(o, int) for o in hw]
    for m,y in zip(masks, t.label):
        if y: m[2:6,2:8] = m[8:9,1:3] = 1
    maps = [rng.normal(size=o)*(1+2*(seed%2))+m*rng.gamma(2) for o,m in zip(hw, masks)]
    exact,h = pixel_metrics(maps, masks),PixelHistograms().update(maps, masks)
    def two(d):
        m = pixel_metrics([maps[i] for i in d.index], [masks[i] for i in d.index])
        return {k: m[k] for k in ('pixel_auroc','aupro_30')}
    want,got = group_interval(t, two, 300),h.interval(t, exact)
    for k in want: assert np.allclose(got[k], want[k], atol=.01), (k, got[k], want[k])

def test_intervals_of_aupimo_as_by_drawing_maps():
    "Good images of different sizes, whose rates are averaged; rates that so few pixels can tell."
    rng,rates = np.random.default_rng(0),(.01, .2)
    t = pd.DataFrame({'group': np.arange(32)//2, 'label': np.arange(32)//2%2})
    masks = [np.zeros((20,o), int) for o in rng.integers(16, 30, 32)]
    for m,y in zip(masks, t.label):
        if y: m[2:6,2:8] = 1
    maps = [rng.normal(size=m.shape)+m*rng.gamma(4, .4) for m in masks]
    def pimo(d):
        pm = PixelMetrics(rates=rates).update([maps[i] for i in d.index], [masks[i] for i in d.index])
        return {'aupimo': pm.compute()['aupimo']}
    want,exact = group_interval(t, pimo, 100)['aupimo'],{**pimo(t), 'pixel_auroc': None, 'aupro_30': None}
    h = PixelHistograms().update(maps, masks)
    got = h.interval(t, exact, 100, rates=rates)
    assert list(got)==['aupimo'] and np.allclose(got['aupimo'], want, atol=.02), (got, want)
    assert 'aupimo' not in h.interval(t, {**exact, 'aupimo': None}, 10)

def test_pixel_histograms_leave_out_what_is_not_valid(rng):
    m,mask,valid = rng.normal(size=(1,8,8)),np.zeros((1,8,8), int),np.ones((1,8,8), int)
    mask[0,:2],valid[0,:,:4] = 1,0
    good,bad,share = PixelHistograms().update(m, mask, valid).rows[0]
    assert (good.sum(), bad.sum()) == (24, 8) and np.isclose(share.sum(), 1)
    with pytest.raises(ValueError, match='finite'): PixelHistograms().update(m*np.nan, mask)

def test_several_folds_are_not_pooled(rng):
    "Each fold has a model and a scale of its own, so DeLong's test, which would pool the scores, is for one fold only."
    n = 60
    y,fold = np.arange(n)%2,np.arange(n)//30
    t = pd.DataFrame({'path': [f'{i}.png' for i in range(n)], 'group': np.arange(n), 'label': y, 'fold': fold})
    a,b = (t.assign(score=(y*lift+rng.normal(size=n))*10.**fold) for lift in (2., 1.))
    whole,single = paired_test(a, b, n=200),paired_test(a[fold==0], b[fold==0], n=200)
    assert whole['method']=='bootstrap of groups' and single['method']=='DeLong'
    scaled = [o.assign(score=o.score/10.**fold) for o in (a, b)]
    assert paired_test(*scaled, n=200)['p_value']==pytest.approx(whole['p_value'], abs=1e-12)       # the scale of a fold does not matter
