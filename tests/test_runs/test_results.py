"""Tables of many runs, gathered from any tree of folders."""
import json

import numpy as np, pandas as pd, pytest

from aead.compare import compare_models
from aead.metrics import image_metrics
from aead.runs.crossval import cross_validate, scores_file
from aead.runs.folder import load_metrics, load_results
from aead.runs.train import train_run

from ..helpers import TINY, few_embedded_images, made_up_scores as scores, make_layout

def write(folder, t, **m):
    folder.mkdir(parents=True)
    t.to_csv(folder/'scores.csv', index=False)
    if m: (folder/'metrics.json').write_text(json.dumps(m))

def test_real_runs(cfg, tmp_path, monkeypatch):
    few_embedded_images(monkeypatch, 'brick')
    for k in (0,1): train_run(tmp_path/f'run{k}', cfg(train=dict(epochs=1, seed=k), data=dict(category='brick')))
    t = load_results(tmp_path)
    assert set(t.run)=={'run0','run1'} and set(t.seed)=={0,1} and set(t.model)=={'cnn_ae'}
    each = pd.concat(pd.read_csv(tmp_path/f'run{k}'/'scores.csv') for k in (0,1))
    assert set(each.answer[each.odd!=1]) <= {'accept','reject'} and 'accept' not in set(each.answer[each.odd==1])
    m = load_metrics(tmp_path).set_index('run')
    for k,o in t.groupby('run'):
        assert np.isclose(image_metrics(o.score.to_numpy(), o.label.to_numpy())['image_auroc'], m.image_auroc[k])
    own = json.loads((tmp_path/'run0'/'metrics.json').read_text())
    assert [m.image_auroc_low['run0'], m.image_auroc_high['run0']]==own['ci95']['image_auroc']
    assert set(load_results(tmp_path, None).split)=={'val','cal','test'}
    assert len(load_results(tmp_path/'run0'))==len(t)/2

def test_scores_of_a_cross_validation(tmp_path):
    d = make_layout(tmp_path/'mtd', 'mtd')
    plain = dict(model='cnn_ae', models={'cnn_ae': TINY['cnn_ae']}, size=32, epochs=1, bs=8)
    variants = {'plain': plain, 'nearest neighbour': None}
    cross_validate(variants, tmp_path/'t.csv', d, 'mtd', folds=(0,), out=tmp_path/'runs', device='cpu')
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

def test_evaluations_inside_a_run_are_not_runs(tmp_path):
    write(tmp_path/'a', scores(), model='x')
    write(tmp_path/'a'/'eval-other', scores(1), model='x')
    assert set(load_results(tmp_path).run)=={'a'} and len(load_metrics(tmp_path))==1
    assert len(load_results(tmp_path/'a'/'eval-other'))==40
