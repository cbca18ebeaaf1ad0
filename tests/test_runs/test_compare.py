"Runs in folders, compared: a page with all that they hold, and what it says where parts are lost."
import shutil

import pytest

from aead.runs.compare import compare_runs
from aead.runs.folder import RunFolder
from aead.runs.train import train_run

from ..conftest import make_cfg
from ..helpers import check_static, few_embedded_images

@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    "Two tiny runs on brick."
    d = tmp_path_factory.mktemp('compare')
    with pytest.MonkeyPatch.context() as m:
        few_embedded_images(m, 'brick')
        for k in (0,1): train_run(d/f'run{k}', make_cfg(train=dict(epochs=1, seed=k), data=dict(category='brick')))
    return d

@pytest.fixture
def both(trained, tmp_path):
    "A copy of them, to break."
    shutil.copytree(trained, tmp_path/'runs')
    return [tmp_path/'runs'/f'run{k}' for k in (0,1)]

def page(both, tmp_path):
    rows = compare_runs(both, out=tmp_path/'c.html')
    return rows, check_static(tmp_path/'c.html')

def test_page_of_runs(both, tmp_path):
    "Metrics, curves, differences, images and costs."
    rows,text = page(both, tmp_path)
    assert {r['model'] for r in rows}=={'run0','run1'} and rows==compare_runs(both)
    for r in rows: assert f'{r["value"]:.3f}' in text and f'{r["low"]:.3f} to {r["high"]:.3f}' in text
    assert not [o for o in ('No curve of the pixels','No costs','no anomaly map','cannot be read here') if o in text]
    shared = (RunFolder(both[0]).scores.split=='test').sum()                # each can be opened
    assert text.count('class="card"')==shared and text.count('<script')==3 and (tmp_path/'c.html').stat().st_size<10_000_000

def test_what_is_lost_is_named(both, tmp_path):
    shutil.rmtree(both[1]/'maps')
    (both[1]/'curves.csv').unlink()
    for o in both: (o/'model.safetensors').unlink()
    text = page(both, tmp_path)[1]
    assert 'No curve of the pixels for run1' in text and 'no anomaly map' in text and 'No costs' in text
    for o in both: shutil.rmtree(o/'data')
    assert 'None of the images can be read here' in page(both, tmp_path)[1]

def test_by_model_or_by_run(both, tmp_path):
    "A folder with runs in it is compared by model: of one family, there is nothing to compare."
    assert len(compare_runs(both))==2 and len(compare_runs([both[0].parent], by='run'))==2
    rows = compare_runs([both[0].parent], out=tmp_path/'c.html')
    assert [r['model'] for r in rows]==['cnn_ae'] and 'There is one model' in (tmp_path/'c.html').read_text()

def test_a_run_that_was_not_evaluated_is_named(both):
    "Not: the models have no image in common."
    (both[1]/'metrics.json').unlink()
    with pytest.raises(FileNotFoundError, match='run1 is not an evaluated run: metrics.json is missing'): compare_runs(both)

def test_two_runs_of_one_name(both, tmp_path):
    "Each is a model of its own, with its own maps; a run that is given twice is one."
    for k,o in enumerate(both): shutil.copytree(o, tmp_path/f'day{k}'/'run')
    same = [tmp_path/f'day{k}'/'run' for k in (0,1)]
    rows = compare_runs(same, out=tmp_path/'c.html')
    assert {r['model'] for r in rows}=={'day0/run','day1/run'} and 'no anomaly map' not in (tmp_path/'c.html').read_text()
    want = {r['value'] for r in compare_runs(both)}
    assert {r['value'] for r in rows}==want
    assert len(compare_runs([same[0], same[0]]))==1 and len(compare_runs([tmp_path/'day0',tmp_path/'day1'], by='run'))==2
