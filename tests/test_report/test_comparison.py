"""The page of a comparison: of runs, and of tables alone."""
import shutil

import numpy as np, pandas as pd, pytest

from aead.report.comparison import write_comparison
from aead.runs.benchmark import get_costs
from aead.runs.compare import compare_runs
from aead.runs.train import train_run

from ..helpers import check_static, made_up_scores as scores

def test_page_of_runs(cfg, tmp_path):
    "Figures, curves, differences, pictures and costs of real runs; and what is said when parts are lost."
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
