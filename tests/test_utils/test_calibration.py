"""p-values against a plain computation, thresholds against p-values, and the guarantee by simulation."""
import json

import numpy as np, pandas as pd, pytest

from aead.calibration import Calibration, benjamini_hochberg, cost_thresholds, get_answers

def plain_p(s, scores, groups):
    "The definition: each group has one vote, shared by its images; the new image votes for itself."
    votes = 0.
    for g in set(groups):
        own = [x for x,h in zip(scores, groups) if h==g]
        votes += sum(x>=s for x in own)/len(own)
    return min(1., (1+votes)/(len(set(groups))+1))

def random_case(seed):
    "Scores with ties, groups of uneven size."
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 60))
    groups = [f'g{i}' for i in rng.integers(0, rng.integers(1, n+1), n)]
    scores = rng.normal(size=n) if seed%3 else rng.integers(0, max(2, n//3), n).astype(float)
    return scores,groups,rng

@pytest.mark.parametrize('seed', range(60))
def test_p_values_by_hand(seed):
    scores,groups,rng = random_case(seed)
    cal = Calibration(scores, groups)
    new = np.concatenate([scores, scores-1e-9, scores+1e-9, rng.normal(0, 3, 20), [-np.inf, np.inf]])
    p = cal.p_value(new)
    assert p.shape==new.shape and np.allclose(p, [plain_p(s, scores, groups) for s in new], atol=1e-12)
    assert (p>0).all() and (p<=1).all() and p[-1]==1/(len(set(groups))+1) and np.isclose(p[-2], 1)
    order = np.argsort(new)
    assert (np.diff(p[order])<=0).all()                    # a higher score is never more usual

def test_any_shape_and_any_order():
    scores,groups,rng = random_case(4)
    cal,new = Calibration(scores, groups),rng.normal(size=(3,4))
    assert cal.p_value(new).shape==(3,4) and cal.p_value(new[0,0]).shape==()
    i = rng.permutation(len(scores))
    again = Calibration(scores[i], np.array(groups)[i])
    assert np.allclose(again.p_value(new), cal.p_value(new), atol=1e-12)
    for far in (.1,.3,.6): assert again.threshold(far)==cal.threshold(far)

@pytest.mark.parametrize('seed', range(60))
def test_threshold_and_p_value_agree(seed):
    scores,groups,rng = random_case(seed)
    cal,n = Calibration(scores, groups),len(set(groups))
    new = np.concatenate([scores, scores+1e-7, scores-1e-7, rng.normal(0, 2, 50)])
    p = np.array([plain_p(s, scores, groups) for s in new])
    for far in [.01,.05,.1,.2,.25,1/3,.5,.9,*(k/(n+1) for k in range(1, n+1))]:
        thr,why = cal.threshold(far)
        if far < 1/(n+1)-1e-12:
            assert thr is None and f'{n} groups' in why
            continue
        assert why=='' and thr in scores
        assert (p[new>thr] <= far+1e-8).all()               # what is flagged is that unusual
        assert (p[new<=thr] > far+1e-10).all()              # and nothing that unusual passes: the lowest threshold

def enough(k, far):
    "Whether `k` groups of one image give a threshold."
    return Calibration(np.arange(k), np.arange(k)).threshold(far)[0] is not None

@pytest.mark.parametrize('far', [.01,.02,.03,.05,.07,.1,.15,.2,.3,1/3,.5,.9])
def test_the_number_of_groups_that_it_asks_for_is_enough(far):
    _,why = Calibration([1.], ['a']).threshold(far)
    if not why: assert far>=.5
    else:
        n = int(why.rsplit('at least ')[1].split()[0])
        assert enough(n, far) and not enough(n-1, far)

@pytest.mark.parametrize('far', [.05,.1,.2])
@pytest.mark.parametrize('linked', [False,True], ids=['sizes unrelated to scores','larger groups score lower'])
def test_the_guarantee(far, linked, trials=1500):
    "Parts differ, and parts with many photographs differ more: an image of a new part is flagged at most that often."
    rng,wrong,naive = np.random.default_rng(1),[],[]
    for _ in range(trials):
        size = rng.integers(1, 9, 20)
        level = rng.normal(0, 1, 20) + (-.5*size if linked else 0)
        scores = np.concatenate([rng.normal(m, .2, k) for m,k in zip(level, size)])
        groups = np.repeat(np.arange(20), size)
        old,new = groups<19,scores[groups==19]
        cal = Calibration(scores[old], groups[old])
        thr,_ = cal.threshold(far)
        wrong.append((new>thr).mean())
        naive.append((new>np.quantile(scores[old], 1-far)).mean())
        assert wrong[-1]==(cal.p_value(new)<=far+1e-9).mean()
    se = np.std(wrong)/trials**.5
    assert far-.06-4*se <= np.mean(wrong) <= far+4*se
    if linked: assert np.mean(naive) > far+4*se             # counting images instead of parts breaks it

@pytest.mark.parametrize('n,far', [(4,.2),(9,.1),(19,.05),(19,.1),(99,.05)])
def test_the_guarantee_is_exact_for_single_images(n, far, trials=4000):
    rng = np.random.default_rng(0)
    draws = rng.normal(size=(trials, n+1))
    rate = np.mean([o[n] > Calibration(o[:n], np.arange(n)).threshold(far)[0] for o in draws])
    assert abs(rate-far) < 4*(far*(1-far)/trials)**.5

@pytest.mark.parametrize('seed', range(5))
def test_survives_json(seed):
    scores,groups,rng = random_case(seed)
    cal = Calibration(scores, groups)
    again = Calibration(**json.loads(json.dumps(cal.to_dict())))
    new = np.concatenate([scores, rng.normal(size=30)])
    assert np.array_equal(again.p_value(new), cal.p_value(new)) and again.threshold(.5)==cal.threshold(.5)
    assert again.n_groups==len(set(groups))

cannot = {'none': ([],[]), 'no group': ([1.],[]), 'one group short': ([1.,2.],['a']), 'two axes': ([[1.]],[['a']]),
          'nan': ([1.,np.nan],['a','b']), 'infinite': ([np.inf],['a'])}

@pytest.mark.parametrize('scores,groups', cannot.values(), ids=cannot)
def test_scores_that_cannot_calibrate(scores, groups):
    with pytest.raises(ValueError, match='calibration'): Calibration(scores, groups)

@pytest.mark.parametrize('far', [0,1,-.1,1.5,float('nan')])
def test_rates_out_of_range(far):
    with pytest.raises(ValueError, match='between 0 and 1'): Calibration([1.,2.], ['a','b']).threshold(far)

def test_the_detector_keeps_the_same_guarantee(detector, synth):
    df = detector.predict(synth[synth.split=='cal'])
    g = synth.group[synth.split=='cal'].tolist()
    assert np.allclose(df.p_value, [plain_p(s, df.score, g) for s in df.score], atol=1e-9)
    assert detector.calibration.n_groups==len(set(g)) and detector.threshold in detector.calibration.scores
    d = detector.decide(np.linspace(df.score.min()-1, df.score.max()+1, 101))
    assert ((d.decision==1)==(d.p_value<=.2+1e-9)).all() and set(d.decision)=={0,1}

# --- answers, batches, costs

@pytest.mark.parametrize('seed', range(20))
@pytest.mark.parametrize('inspect', [None,.3], ids=['two answers','with inspection'])
def test_answers_are_those_of_the_decisions(seed, inspect):
    scores,groups,rng = random_case(seed)
    cal,far = Calibration(scores, groups),.2
    new = np.concatenate([scores, rng.normal(0, 2, 20)])
    thr,_ = cal.threshold(far)
    p = cal.p_value(new)
    decision = pd.array([None]*len(new) if thr is None else new>thr, dtype='Int64')
    got = get_answers(decision, p, inspect)
    for d,q,a in zip(decision, p, got):
        unusual = inspect is not None and q<=inspect+1e-12
        assert a==('reject' if d is not pd.NA and d else 'inspect' if unusual else None if d is pd.NA else 'accept')
    if thr is not None: assert got.tolist()==cal.answers(new, far, inspect).tolist()

def step_up(p, fdr):
    "The largest `k` for which the `k`-th smallest p-value is at most `k/n` of the rate."
    o = np.sort(p)
    k = np.flatnonzero(o <= fdr*np.arange(1, len(p)+1)/len(p))
    return p <= o[k[-1]] if len(k) else np.zeros(len(p), bool)

@pytest.mark.parametrize('seed', range(50))
def test_benjamini_hochberg_by_steps(seed):
    rng = np.random.default_rng(seed)
    p = np.r_[rng.random(30), rng.random(rng.integers(0, 20))*.05]
    for fdr in (.05,.2,.5): assert benjamini_hochberg(p, fdr).tolist()==step_up(p, fdr).tolist()

def cheapest(df, miss, alarm, share, inspection):
    "The lowest cost of all pairs of thresholds."
    s,y,out = df.score.to_numpy(),df.label.to_numpy(),[]
    at = np.r_[-np.inf, s]
    for lo in at:
        for hi in at[at>=lo]:
            seen = (s>lo)&(s<=hi)
            inspected = share*seen[y==1].mean()+(1-share)*seen[y==0].mean()
            out.append(share*miss*(s[y==1]<=lo).mean()+(1-share)*alarm*(s[y==0]>hi).mean()+inspection*inspected)
    return min(out)

@pytest.mark.parametrize('seed', range(20))
def test_costs_of_all_pairs_of_thresholds(seed):
    rng = np.random.default_rng(seed)
    y = np.arange(16)%2
    few = pd.DataFrame({'score': rng.integers(0, 9, 16)+3.*y, 'label': y, 'group': range(16)})
    prices = dict(miss=rng.uniform(1, 50), alarm=rng.uniform(0, 3), share=rng.uniform(.05, .5))
    prices['inspection'] = rng.uniform(0, 1)
    assert np.isclose(cost_thresholds(few, **prices)['cost'], cheapest(few, **prices), atol=1e-9)

@pytest.mark.parametrize('budget', [0,.1,.5])
def test_a_budget_is_kept(budget):
    rng = np.random.default_rng(0)
    few = pd.DataFrame({'score': rng.normal(size=40)+np.arange(40)%2, 'label': np.arange(40)%2, 'group': range(40)})
    best = cost_thresholds(few, 100, 1, .2, budget=budget)
    flagged = few.score>best['reject']
    share = .2*flagged[few.label==1].mean()+.8*flagged[few.label==0].mean()
    assert np.isclose(best['flagged'], share) and best['flagged']<=budget+1e-9
