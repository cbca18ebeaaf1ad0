"""`aead.evaluate` against plain counting."""
import numpy as np
import pandas as pd
import pytest

from aead.evaluate import detection_by_size
from aead.metrics import by_size

LIMITS = [('below 0.1 % of the image', 0, .001), ('0.1 to 0.5 %', .001, .005), ('0.5 to 1 %', .005, .01),
          ('1 to 2 %', .01, .02), ('2 to 5 %', .02, .05), ('5 to 10 %', .05, .1), ('above 10 %', .1, 1.1)]


@pytest.mark.parametrize('seed', range(4))
def test_detection_by_size_equals_counting(seed):
    "Areas on the limits, unknown ones, good images; a group of all found, a group that cannot be drawn."
    r = np.random.default_rng(seed)
    n = 60
    t = pd.DataFrame({'group': r.integers(0, 25, n).astype(str), 'label': r.integers(0, 2, n),
                      'decision': r.integers(0, 2, n).astype(bool)})
    areas = r.choice([0, np.nan, 1e-4, .001, .005, .03, .03, .1, 1.], n)
    t.loc[areas == .03, 'decision'] = True
    got = detection_by_size(t, areas)
    rows = [(bool(d), a, g) for d, a, y, g in zip(t.decision, areas, t.label, t.group) if y == 1 and a > 0]
    want = {k: [(d, g) for d, a, g in rows if lo <= a < hi] for k, lo, hi in LIMITS}
    assert list(got) == [k for k, o in want.items() if o]
    for k, o in got.items():
        assert o['n'] == len(want[k]) and o['detection_rate'] == pytest.approx(np.mean([d for d, _ in want[k]]))
        assert ('ci95' in o) == (len({g for _, g in want[k]}) > 1)
        if 'ci95' in o: assert 0 <= o['ci95'][0] <= o['detection_rate'] <= o['ci95'][1] <= 1


def test_detection_by_size_without_a_threshold_or_masks():
    t = pd.DataFrame({'group': ['a', 'b'], 'label': 1, 'decision': None})
    assert detection_by_size(t, [.03, .03]) == {'2 to 5 %': {'n': 2, 'detection_rate': None}}
    assert detection_by_size(t, [np.nan, np.nan]) == {} and by_size([]) == {}
