"""`aead.metrics` against scikit-learn, and against a plain computation that visits every threshold."""
import tracemalloc

import numpy as np
import pandas as pd
import pytest
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from sklearn.metrics import (average_precision_score, f1_score, precision_recall_curve, precision_score, recall_score,
                             roc_auc_score, roc_curve as sk_roc_curve)

from aead import metrics
from aead.metrics import (PixelMetrics, area_under, aupro, calculate_precision_recall_f1, calculate_psnr,
                          calculate_structural_similarity, curve_at, get_steps, image_metrics, iou, per_defect,
                          per_size, pixel_metrics, pr_curve, pro_curve, region_overlap, roc_curve)

PIXEL = 'pixel_auroc', 'pixel_ap', 'pixel_f1_max', 'aupro_30', 'aupimo'


# The plain computation: nothing in it is shared with the package.

def plain_regions(mask):
    "Lists of the pixels of each 8-connected region, by flood fill."
    left, regions = set(zip(*map(list, np.nonzero(mask)))), []
    while left:
        todo, region = [left.pop()], []
        while todo:
            i, j = todo.pop()
            region.append((i, j))
            near = {(i+a, j+b) for a in (-1, 0, 1) for b in (-1, 0, 1)} & left
            left -= near
            todo += near
        regions.append(region)
    return regions


def plain_aupro(maps, masks, valid, limit):
    "Per-region overlap at every distinct value, trapezoids up to the limit, the last one cut."
    keep = [v.astype(bool) for v in valid]
    bad = [(k == 1) & v for k, v in zip(masks, keep)]
    good = np.concatenate([m[v & ~b] for m, b, v in zip(maps, bad, keep)])
    regions = [np.array([m[p] for p in r]) for m, b in zip(maps, bad) for r in plain_regions(b)]
    points = [(0., 0.)]
    for t in np.unique(np.concatenate([m[v] for m, v in zip(maps, keep)]))[::-1]:
        points.append(((good >= t).mean(), np.mean([(r >= t).mean() for r in regions])))
    area = 0.
    for (x0, y0), (x1, y1) in zip(points, points[1:]):
        if x0 >= limit or x1 == x0: continue
        end = min(x1, limit)
        area += (end-x0)*(y0 + y0+(y1-y0)*(end-x0)/(x1-x0))/2
    return area/limit


def sk_f1_max(y, s):
    p, r, _ = precision_recall_curve(y, s)
    return (2*p*r/np.maximum(p+r, 1e-12)).max()


def plain_pixels(maps, masks, valid=None, limit=0.3):
    valid = [np.ones(m.shape, int) for m in maps] if valid is None else valid
    s = np.concatenate([m[v == 1] for m, v in zip(maps, valid)])
    y = np.concatenate([k[v == 1] for k, v in zip(masks, valid)])
    return roc_auc_score(y, s), average_precision_score(y, s), sk_f1_max(y, s), plain_aupro(maps, masks, valid, limit)


def plain_aupimo(maps, masks, valid, rates):
    "For each defective image: overlap at every distinct value, steps in the logarithm of the mean rate of good images."
    keep = [v.astype(bool) for v in valid]
    bad = [(k == 1) & v for k, v in zip(masks, keep)]
    normal = [m[v] for m, b, v in zip(maps, bad, keep) if v.any() and not b.any()]
    found = [m[b] for m, b in zip(maps, bad) if b.any()]
    points = [(0., [0]*len(found))]
    for t in np.unique(np.concatenate([m[v] for m, v in zip(maps, keep)]))[::-1]:
        points.append((np.mean([(o >= t).mean() for o in normal]), [(o >= t).mean() for o in found]))
    points.append((np.inf, points[-1][1]))
    low, high = rates
    area = np.zeros(len(found))
    for (x0, y0), (x1, _) in zip(points, points[1:]):
        a, b = np.clip([x0, x1], low, high)
        area += np.log(b/a)*np.array(y0)
    return area/np.log(high/low)


def both_kinds(masks, valid):
    "Whether some counted pixel is a defect and some is good."
    y = np.concatenate([k[v == 1] for k, v in zip(masks, valid)])
    return 0 < y.sum() < y.size


def random_case(seed):
    "A few small images: ties or not, constant maps, good and all-defect images, sizes alike or not, pixels not valid."
    r = np.random.default_rng(seed)
    n, one = r.integers(1, 5), r.integers(1, 10, 2)
    sizes = [tuple(one) if seed % 2 else tuple(r.integers(1, 10, 2)) for _ in range(n)]
    share = r.choice([0, 0.02, 0.2, 0.5, 1], n, p=[.2, .2, .3, .2, .1])
    masks = [(r.random(s) < p).astype(r.choice(['uint8', 'bool', 'int64'])) for s, p in zip(sizes, share)]
    maps = [r.normal(0, 1, s) + r.choice([0, 1, 3])*k for s, k in zip(sizes, masks)]
    levels = r.choice([0, 1, 2, 5, 1000])
    if levels: maps = [np.round(m*levels/4)*(levels > 1) for m in maps]
    maps = [m.astype(r.choice(['float32', 'float64']) if seed % 3 else 'float32') for m in maps]
    valid = [np.ones(s, 'uint8') if seed % 4 else (r.random(s) < 0.8).astype('uint8') for s in sizes]
    limit = float(r.choice([0.3, 0.05, 0.5, 1]))
    return maps, masks, valid, limit


# Pixels

def test_pixels_equal_plain_computation():
    done = 0
    for seed in range(400):
        maps, masks, valid, limit = random_case(seed)
        if not both_kinds(masks, valid): continue
        m = pixel_metrics(maps, masks, valid, limit)
        name = f'aupro_{100*limit:g}'
        assert list(m) == ['pixel_auroc', 'pixel_ap', 'pixel_f1_max', name, 'aupimo', 'why']
        assert m['aupimo'] is None and list(m['why']) == ['aupimo']     # far too few pixels for a rate of 1e-5
        got = list(m.values())[:4]
        assert all(type(o) is float and 0 <= o <= 1 for o in got)
        np.testing.assert_allclose(got, plain_pixels(maps, masks, valid, limit), atol=1e-9, err_msg=f'seed {seed}')
        done += 1
    assert done > 250


def test_aupimo_equals_plain_computation():
    done = 0
    for seed in range(400):
        maps, masks, valid, _ = random_case(seed)
        rates = [(.2, .7), (.05, 1), (.3, .31)][seed % 3]
        pm = PixelMetrics(rates=rates, size=50+seed % 50).update(maps, masks, valid)
        m = pm.compute()
        normal = [v.sum() for k, v in zip(masks, valid) if v.any() and not (k*v).any()]
        if not both_kinds(masks, valid) or sum(normal)*rates[0] < 1:
            assert m['aupimo'] is None and m['why']['aupimo']
            continue
        want = plain_aupimo(maps, masks, valid, rates)
        np.testing.assert_allclose(pm.aupimos, want, atol=1e-9, err_msg=f'seed {seed}')
        assert m['aupimo'] == pytest.approx(want.mean()) and 'aupimo' not in m['why']
        curve = pm.pimo_at(np.geomspace(*rates, 301)).mean(1)
        np.testing.assert_allclose(curve, want, atol=5e-3)
        done += 1
    assert done > 60


def test_aupimo_counts_only_good_images():
    "Good pixels of a defective image do not count; half of one defect is above all good images, the other at 3 of 8."
    maps, masks = np.zeros((2, 2, 4)), np.zeros((2, 2, 4), int)
    maps[0] = [[9, 8, 7, 0], [0, 0, 0, 0]]                  # a good image
    maps[1], masks[1, 0, :2] = [[99, 7, 50, 50], [50, 50, 50, 50]], 1
    pm = PixelMetrics(rates=(1/8, 1/2)).update(maps, masks)
    assert pm.compute()['aupimo'] == pytest.approx((1+np.log(8/6)/np.log(4))/2)
    assert pm.pimo_at([1/8, 2/8, 3/8]).tolist() == [[.5, .5, 1]]
    assert pixel_metrics(maps, masks)['why'] == {
        'aupimo': 'a false-positive rate of 1e-05 needs 100000 pixels of good images, there are 8'}
    assert pixel_metrics(maps[1:], masks[1:])['why'] == {'aupimo': 'no good images'}
    with pytest.raises(ValueError, match='no PIMO curves: no good images'): PixelMetrics().pimo_at([.1])
    with pytest.raises(ValueError, match=r'rates must be two that ascend in \(0,1\]'): PixelMetrics(rates=(.1, .1))


def test_aupimo_at_the_rates_of_the_paper():
    "The smallest set that has a value: 100,000 pixels of good images, of which 1 to 10 are passed."
    maps, masks = np.zeros((3, 250, 200), np.float32), np.zeros((3, 250, 200), np.uint8)
    maps[0].flat[:12] = np.arange(12, 0, -1)
    masks[2, :3, :3], maps[2, :3, :3] = 1, 8.5               # above 8, so 4 of 100,000 pixels are flagged before
    m = pixel_metrics(maps, masks)
    assert m['aupimo'] == pytest.approx(np.log10(10/4))


def test_streaming_equals_one_call(tmp_path):
    for seed in range(120):
        maps, masks, valid, limit = random_case(seed)
        pm = PixelMetrics(limit, size=1+seed % 40, dir=str(tmp_path))
        for o in zip(maps, masks, valid):
            pm.update(*([i] for i in o))
            pm.compute()                                  # looking does not disturb
        a, b = pm.compute(), pixel_metrics(maps, masks, valid, limit)
        assert a['why'] == b['why'] and list(a) == list(b)
        assert [a[k] for k in a if k != 'why'] == [b[k] for k in b if k != 'why']


def test_arrays_equal_lists():
    r = np.random.default_rng(0)
    maps, masks = r.random((4, 12, 9), dtype=np.float32), r.integers(0, 2, (4, 12, 9))
    assert pixel_metrics(maps, masks) == pixel_metrics(list(maps), [k.tolist() for k in masks])
    assert pixel_metrics(maps, masks) == pixel_metrics(maps[::-1], masks[::-1])


def test_ties_between_close_doubles_are_not_made():
    "Values that only float64 tells apart stay apart."
    maps, masks = np.array([[[1, 1+1e-12]]]), np.array([[[0, 1]]])
    assert pixel_metrics(maps, masks)['pixel_auroc'] == 1
    assert pixel_metrics(maps.astype('float32'), masks)['pixel_auroc'] == 0.5
    mixed = PixelMetrics(size=1).update(maps[:, :, :1].astype('float32'), [[[0]]]).update(maps[:, :, 1:], [[[1]]])
    assert mixed.compute()['pixel_auroc'] == 1


@pytest.mark.parametrize('limit', [0.05, 0.3, 0.5, 1])
def test_constant_map_is_the_diagonal(limit):
    masks = np.zeros((2, 8, 8), int)
    masks[0, 2:4, 2:4] = 1
    m = pixel_metrics(np.full(masks.shape, 7.), masks, limit=limit)
    assert m[f'aupro_{100*limit:g}'] == pytest.approx(limit/2)
    assert m['pixel_auroc'] == 0.5 and m['pixel_ap'] == pytest.approx(masks.mean())


def test_perfect_and_worst_maps():
    masks = np.zeros((2, 8, 8), int)
    masks[0, 2:4, 2:4] = 1
    assert [pixel_metrics(masks*1., masks)[k] for k in PIXEL[:4]] == [1, 1, 1, 1]
    assert [pixel_metrics(-masks, masks)[k] for k in ('pixel_auroc', 'aupro_30')] == [0, 0]


def test_regions_touching_at_a_corner_are_one():
    "One of two pixels found before any good one: half of one region, or one region of two."
    mask, apart = np.zeros((1, 4, 9), int), np.zeros((1, 4, 9), int)
    mask[0, 1, 1] = mask[0, 2, 2] = apart[0, 1, 1] = apart[0, 2, 3] = 1
    small = mask.copy()
    small[0, 2, 2:6] = 1   # a long tail, hanging on the corner
    amap = np.zeros(mask.shape)
    amap[0, 1, 1] = 1
    assert len(region_overlap(amap, mask, .5)) == 1 and len(region_overlap(amap, apart, .5)) == 2
    assert region_overlap(amap, small, .5)['overlap'].tolist() == [1/5]
    assert pro_curve(PixelMetrics().update(amap, small).steps)[1][3] == pytest.approx(1/5)


def test_small_regions_weigh_as_much_as_large_ones():
    mask = np.zeros((1, 20, 20), int)
    mask[0, :10, :10] = 1
    mask[0, 15, 15] = 1
    amap = np.zeros(mask.shape)
    amap[0, :10, :10] = 1
    assert pro_curve(PixelMetrics().update(amap, mask).steps)[1].tolist() == pytest.approx([0, 0, .5, .5, 1, 1])


def test_invalid_pixels_are_as_if_cut_away():
    r = np.random.default_rng(3)
    maps, masks = r.random((3, 10, 10)), (r.random((3, 10, 10)) < 0.3).astype(int)
    valid = np.zeros_like(masks)
    valid[:, 2:9, 1:7] = 1
    cut = np.s_[:, 2:9, 1:7]
    broken = np.where(valid == 1, maps, np.nan)
    assert pixel_metrics(broken, masks, valid) == pixel_metrics(maps[cut], masks[cut])
    pd.testing.assert_frame_equal(region_overlap(broken, masks, .5, valid), region_overlap(maps[cut], masks[cut], .5))
    assert iou(broken, masks, .5, valid) == iou(maps[cut], masks[cut], .5)


def test_caller_may_reuse_the_array():
    r = np.random.default_rng(5)
    maps, masks = r.random((6, 8, 8), dtype=np.float32), (r.random((6, 8, 8)) < 0.1).astype(int)
    masks[::2] = 0
    pm, room = PixelMetrics(), np.empty((1, 8, 8), np.float32)
    for m, k in zip(maps, masks):
        room[0] = m
        pm.update(room, k[None])
    assert pm.compute() == pixel_metrics(maps, masks)


MAPS, ZERO = np.random.default_rng(0).random((2, 5, 5)), np.zeros((2, 5, 5), int)
NO_METRIC = {'no defects': ((MAPS, ZERO), 'no defect pixels'), 'no goods': ((MAPS, ZERO+1), 'no good pixels'),
             'no masks': ((MAPS, None), 'no images with masks'), 'no images': (([], []), 'no images with masks'),
             'nothing valid': ((MAPS, ZERO+1, ZERO), 'no defect pixels')}


@pytest.mark.parametrize('args, why', NO_METRIC.values(), ids=NO_METRIC)
def test_metrics_that_cannot_be_computed_say_why(args, why):
    assert pixel_metrics(*args) == {**dict.fromkeys(PIXEL), 'why': dict.fromkeys(PIXEL, why)}
    assert aupro(*args) is None


def changed(a, value, *places):
    "A copy of `a` with another value at some places."
    a = a.copy()
    for p in places: a[p] = value
    return a


NAN, INF = changed(MAPS, np.nan, (1, 2, 3), (1, 4, 4)), changed(MAPS, -np.inf, (0, 0, 1))
PIXEL_ERRORS = {
    'mask of another size': ((MAPS, ZERO[:, :4]), r'image 0: map \(5, 5\), mask \(4, 5\)'),
    'a mask short': ((MAPS, ZERO[:1]), '2 maps, 1 masks'),
    'valid of another size': ((MAPS, ZERO, ZERO[:, 1:]), r'valid \(4, 5\)'),
    'one image': ((MAPS[0], ZERO[0]), r'map \(5,\)'),
    'a channel': ((MAPS[:, None], ZERO[:, None]), r'map \(1, 5, 5\)'),
    'nan': ((NAN, ZERO), r'image 1: 2 values are NaN or infinite, the first at \[2, 3\]'),
    'infinite': ((INF, ZERO), r'image 0: 1 values'),
    'mask of 255': ((MAPS, ZERO+255), r'0 and 1 only, got \[255\]'),
    'mask of halves': ((MAPS, ZERO-.5), '0 and 1 only'),
    'complex': ((MAPS.astype(complex), ZERO), 'must be numbers'),
    'limit of 0': ((MAPS, ZERO, None, 0), r'limit must be in \(0,1\]'),
    'limit above 1': ((MAPS, ZERO, None, 1.1), r'limit must be in \(0,1\]')}


@pytest.mark.parametrize('args, text', PIXEL_ERRORS.values(), ids=PIXEL_ERRORS)
def test_pixel_errors_are_one_clear_line(args, text):
    with pytest.raises(ValueError, match=text): pixel_metrics(*args)


def test_a_refused_update_adds_nothing():
    r = np.random.default_rng(2)
    maps, masks = r.random((3, 6, 6)), r.integers(0, 2, (3, 6, 6))
    pm = PixelMetrics().update(maps[:1], masks[:1])
    nan = maps.copy()
    nan[2, 0, 0] = np.nan
    with pytest.raises(ValueError): pm.update(nan, masks)
    assert pm.compute() == pixel_metrics(maps[:1], masks[:1])


@pytest.mark.parametrize('share', [0, .002, .3])
def test_large_sets_equal_scikit_learn(share, monkeypatch):
    "Spans that are counted and spans that are sorted; large regions at borders, negative values, ties."
    r = np.random.default_rng(0)
    maps = r.normal(0, 1, (6, 96, 96)).astype(np.float32)
    maps[0] = np.round(maps[0]*8)/8
    maps[4:] = 1+r.random((2, 96, 96))/128                  # all 16 high bits alike
    masks = np.zeros(maps.shape, np.uint8)
    masks[1, :, :40] = masks[2, 60:] = 1
    masks[3:5] = r.random((2, 96, 96)) < share
    maps += masks
    monkeypatch.setattr(metrics, 'n_window', 3000)
    monkeypatch.setattr(metrics, 'n_run', 5000)
    pm = PixelMetrics(size=20000, rates=(1e-3, 1e-2)).update(maps, masks)
    assert len({o.is_dense for o in pm.store.walk()}) == 1+(share < .1)
    m, y, s = pm.compute(), masks.ravel(), maps.ravel()
    want = roc_auc_score(y, s), average_precision_score(y, s), sk_f1_max(y, s)
    assert [m[k] for k in PIXEL[:3]] == pytest.approx(want, abs=1e-9)
    st, at = pm.steps, np.linspace(0, 1, 50)
    assert m['aupro_30'] == pytest.approx(area_under(*pro_curve(st), .3), abs=1e-9)
    assert pm.pro_at(at) == pytest.approx(curve_at(*pro_curve(st), at), abs=1e-9)
    whole = get_steps(s[y == 1], [np.sort(s[y == 0])])
    for k in ('value', 'tp', 'fp', 'over'): assert (getattr(st, k) == getattr(whole, k)).all()


def test_doubles_that_are_no_floats_are_counted_exactly():
    r = np.random.default_rng(0)
    maps = r.choice(1+np.arange(5)*1e-12, (3, 30, 30))
    masks = (r.random(maps.shape) < .2).astype(int)
    masks[2] = 0
    maps += masks*1e-12
    pm = PixelMetrics(size=500, rates=(.01, .5)).update(maps[:1], masks[:1]).update(maps[1:], masks[1:])
    pm.update(np.ones((1, 9, 9), np.float32), np.zeros((1, 9, 9), int))
    m, ones = pm.compute(), [np.ones((30, 30))]*3+[np.ones((9, 9))]
    maps, masks = [*maps, np.ones((9, 9))], [*masks, np.zeros((9, 9), int)]
    assert [m[k] for k in PIXEL[:4]] == pytest.approx(plain_pixels(maps, masks), abs=1e-9)
    assert m['aupimo'] == pytest.approx(plain_aupimo(maps, masks, ones, (.01, .5)).mean())


def test_memory_does_not_grow_with_defects(monkeypatch):
    "Neither with their pixels, nor where all of them are tied."
    r = np.random.default_rng(0)
    maps, mask = r.random((4, 128, 128), dtype=np.float32), np.zeros((4, 128, 128), np.uint8)
    mask[:2, :100] = 1
    maps[3] = .5
    monkeypatch.setattr(metrics, 'n_run', 2**16)
    def peak(n):
        pm = PixelMetrics(size=2**17)
        tracemalloc.start()
        for _ in range(n): pm.update(maps, mask)
        pm.compute()
        out = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return out
    few, many = peak(8), peak(32)
    assert many < 1.2*few, (few, many)


def test_memory_does_not_grow_with_good_pixels():
    r = np.random.default_rng(0)
    maps, mask = r.random((4, 256, 256), dtype=np.float32), np.zeros((4, 256, 256), np.uint8)
    mask[0, :20, :20] = 1
    pm = PixelMetrics(size=2**18)
    tracemalloc.start()
    for _ in range(25): pm.update(maps, mask)
    m, peak = pm.compute(), tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert pm.n_good*4 > 25e6 and peak < 10e6
    assert m['pixel_auroc'] == pytest.approx(pixel_metrics(maps, mask)['pixel_auroc'])


def test_curves_have_every_corner():
    r = np.random.default_rng(1)
    for levels in (3, 1000):
        s, y = np.round(r.random(60)*levels), np.arange(60) < 20
        st = get_steps(s[y], [np.sort(s[~y])])
        fpr, tpr = roc_curve(st)
        x, t, _ = sk_roc_curve(y, s, drop_intermediate=False)
        assert {*zip(x.round(9), t.round(9))} >= {*zip(fpr.round(9), tpr.round(9))}
        assert (fpr[0], tpr[0], fpr[-1], tpr[-1]) == (0, 0, 1, 1)
        assert (np.diff(fpr) >= 0).all() and (np.diff(tpr) >= 0).all()
        p, q, _ = precision_recall_curve(y, s)
        assert {*zip(q.round(9), p.round(9))} >= {*zip(*(o.round(9) for o in pr_curve(st)))}


# Images

def test_images_equal_scikit_learn():
    for seed in range(300):
        r = np.random.default_rng(seed)
        n = r.integers(2, 60)
        y = r.random(n) < r.random()
        if y.all() or not y.any(): continue
        s = r.normal(0, 1, n)+y
        if seed % 3: s = np.round(s*r.choice([0, 1, 2]))
        m = image_metrics(s, y, far=0.1)
        fpr, tpr, _ = sk_roc_curve(y, s, drop_intermediate=False)
        want = [roc_auc_score(y, s), average_precision_score(y, s), sk_f1_max(y, s), ((tpr+1-fpr)/2).max(),
                tpr[fpr <= 0.1].max()]
        keys = ['image_auroc', 'image_ap', 'image_f1_max', 'image_balanced_accuracy_max', 'image_detection_at_far_10']
        assert list(m) == [*keys, 'why'] and all(type(m[k]) is float and 0 <= m[k] <= 1 for k in keys)
        np.testing.assert_allclose([m[k] for k in keys], want, atol=1e-9)


def test_image_edge_cases():
    assert image_metrics([2, 2, 2], [0, 1, 0])['image_auroc'] == 0.5
    for labels, why in [([0, 0], 'no defective images'), ([1, 1], 'no good images'), ([], 'no images')]:
        m = image_metrics(np.arange(len(labels)), labels)
        assert set(m['why'].values()) == {why} and m['why'].keys() == m.keys()-{'why'} and m['image_auroc'] is None
    a = image_metrics(pd.Series([.1, .4, .3]), pd.Series([0, 1, 0]))
    assert a == image_metrics(np.float32([.1, .4, .3]), [False, True, False])


IMAGE_ERRORS = {
    'nan': (([1, np.nan, np.inf], [0, 1, 0]), '2 values are NaN or infinite, the first at 1'),
    'a label short': (([1, 2], [0]), r'\(2,\) and \(1,\)'),
    'label of 2': (([1, 2], [0, 2]), r'labels must hold 0 and 1 only, got \[2\]'),
    'two axes': (([[1, 2]], [[0, 1]]), '`n` each'),
    'text': ((['a', 'b'], [0, 1]), 'must be numbers')}


@pytest.mark.parametrize('args, text', IMAGE_ERRORS.values(), ids=IMAGE_ERRORS)
def test_image_errors(args, text):
    with pytest.raises(ValueError, match=text): image_metrics(*args)


def test_each_defect_against_all_normals():
    r = np.random.default_rng(0)
    c = r.choice(['good', 'crack', 'blowhole'], 80)
    y, s = (c != 'good').astype(int), r.random(80)
    m = per_defect(s, y, c)
    assert list(m) == ['blowhole', 'crack']
    for k, o in m.items():
        keep = (c == k) | (y == 0)
        assert o == dict(image_auroc=pytest.approx(roc_auc_score(y[keep], s[keep])), n=(c == k).sum(),
                         image_ap=pytest.approx(average_precision_score(y[keep], s[keep])))
    assert per_defect([1, 2], [1, 1], ['a', 'a'])['a'] == dict(image_auroc=None, image_ap=None, n=2,
        why=dict(image_auroc='no good images', image_ap='no good images'))
    with pytest.raises(ValueError, match='one per image'): per_defect(s, y, c[1:])


# At a threshold

def test_region_overlap_iou_and_size():
    for seed in range(60):
        maps, masks, valid, _ = random_case(seed)
        if seed % 2: maps = [np.round(m, 1) for m in maps]          # some values are the threshold itself
        t = region_overlap(maps, masks, .3, valid)
        bad = [(k == 1) & (v == 1) for k, v in zip(masks, valid)]
        regions = ((i, m, p) for i, (m, b) in enumerate(zip(maps, bad)) for p in plain_regions(b))
        want = sorted((i, len(p), np.mean([m[q] > .3 for q in p])) for i, m, p in regions)
        assert len(t) == len(want)
        if want: np.testing.assert_allclose(sorted(map(tuple, t.to_numpy().tolist())), want)
        flagged = [(m > .3) & (v == 1) for m, v in zip(maps, valid)]
        either = sum((c | b).sum() for c, b in zip(flagged, bad))
        got = iou(maps, masks, .3, valid)
        assert got == (pytest.approx(sum((c & b).sum() for c, b in zip(flagged, bad))/either) if either else None)
        sizes = per_size(maps, masks, .3, valid, edges=(2, 5))
        assert set(sizes) <= {'1-1', '2-4', '5+'} and sum(o['n'] for o in sizes.values()) == len(t)
        if '1-1' in sizes: assert sizes['1-1']['detection_rate'] == sizes['1-1']['overlap']
    with pytest.raises(ValueError, match='masks are needed'): iou(maps, None, 1)
    with pytest.raises(ValueError, match='edges must ascend'): per_size(maps, masks, 1, edges=(9, 3))


def test_precision_recall_f1_equals_scikit_learn():
    for seed in range(60):
        r = np.random.default_rng(seed)
        p, y = np.round(r.random((5, 4)), 1), (r.random((5, 4)) < r.choice([0, .3, 1])).astype(int)
        t = r.choice([0, .3, .5, 2])
        c, v = (p > t).ravel(), y.ravel()
        want = dict(precision=precision_score(v, c, zero_division=0), recall=recall_score(v, c, zero_division=0),
                    f1=f1_score(v, c, zero_division=0))
        assert calculate_precision_recall_f1(p, y, t) == pytest.approx(want)
    for args in [([.1], [0, 1]), ([], []), ([np.nan], [0]), ([.1], [255])]:
        with pytest.raises(ValueError): calculate_precision_recall_f1(*args)


def test_the_threshold_itself_is_not_flagged():
    "One rule everywhere: a value above the threshold is a defect."
    maps, masks = np.array([[[.5, .5, .7]]]), np.array([[[1, 0, 0]]])
    assert calculate_precision_recall_f1(maps, masks, .5) == dict(precision=0, recall=0, f1=0)
    assert calculate_precision_recall_f1(maps, masks, .4)['recall'] == 1
    for thr, overlap, union in [(.5, 0, 0), (.4, 1, 1/3)]:
        assert region_overlap(maps, masks, thr)['overlap'].tolist() == [overlap] and iou(maps, masks, thr) == union
        assert per_size(maps, masks, thr)['1-15']['detection_rate'] == overlap


# Two images

@pytest.mark.parametrize('shape', [(32, 24), (32, 24, 1), (32, 24, 3), (7, 7), (20, 20, 5)], ids=str)
def test_similarity_equals_scikit_image(shape):
    r = np.random.default_rng(0)
    x = r.random(shape, dtype=np.float32)
    xr = np.clip(x+r.normal(0, .1, shape), 0, 1).astype(np.float32)
    want = structural_similarity(x, xr, data_range=1, channel_axis=-1 if len(shape) == 3 else None)
    assert calculate_structural_similarity(x, xr) == pytest.approx(want, abs=1e-4)
    assert calculate_psnr(x, xr) == pytest.approx(peak_signal_noise_ratio(x, xr, data_range=1), abs=1e-4)
    assert calculate_structural_similarity(x, x) == pytest.approx(1)
    assert type(calculate_structural_similarity(x, xr)) is float
    assert calculate_psnr(x, x) == float('inf')


@pytest.mark.parametrize('shape', [(3, 3), (3, 50), (4, 4, 3), (6, 9), (5, 5, 1)], ids=str)
def test_similarity_of_small_images(shape):
    x = np.random.default_rng(0).random(shape)
    assert calculate_structural_similarity(x, x) == pytest.approx(1)
    assert -1 <= calculate_structural_similarity(x, 1-x) < 0.5


def test_similarity_of_integers_is_that_of_their_floats():
    r = np.random.default_rng(0)
    a, b = r.integers(0, 256, (2, 16, 16), dtype=np.uint8)
    assert calculate_structural_similarity(a, b) == pytest.approx(calculate_structural_similarity(a/255, b/255))
    assert calculate_psnr(a.astype(np.uint16)*257, b/255) == pytest.approx(calculate_psnr(a, b))


GREY = np.random.default_rng(0).random((8, 8))
TWO_ERRORS = {
    'another shape': (GREY, GREY[1:], 'differ in shape'),
    'values up to 255': (GREY*255, GREY*255, r'must be in \[0,1\]'),
    'values below 0': (GREY-1, GREY, r'must be in \[0,1\]'),
    'nan': (GREY*np.nan, GREY, 'NaN'),
    'a batch': (GREY[None, None], GREY[None, None], 'one image'),
    'channels first': (np.ones((3, 8, 8)), np.ones((3, 8, 8)), 'c h w'),
    'two rows': (GREY[:2], GREY[:2], '3 by 3')}


@pytest.mark.parametrize('a, b, text', TWO_ERRORS.values(), ids=TWO_ERRORS)
def test_two_image_errors(a, b, text):
    with pytest.raises(ValueError, match=text): calculate_structural_similarity(a, b)
