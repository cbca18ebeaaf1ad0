"Runs in folders, compared: a page with all that they hold, and what it says where parts are lost."
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np, pandas as pd, pytest, torch

from aead.runs.compare import compare_runs, read_anomalib_predictions
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

# --- predictions of anomalib's beside a run

@pytest.fixture
def predictions(trained):
    "Predictions for the test images of a run, as a table of anomalib's fields, paths as they are there."
    run = RunFolder(trained/'run0')
    t = run.scores[run.scores.split=='test']
    return pd.DataFrame({'image_path': t.path, 'gt_label': t.label, 'pred_score': t.score.rank(pct=True), 'pred_label': t.decision==1})

def test_predictions_beside_a_run(trained, predictions, tmp_path):
    "The same order of scores is the same AUROC, also where the images lie elsewhere and on Windows; a part will do."
    moved = predictions.assign(image_path=[r'D:\data\\'+'\\'.join(Path(o).parts[-3:]) for o in predictions.image_path])
    for k,t in enumerate((predictions, moved, moved.sample(frac=1, random_state=0))):
        t.to_csv(tmp_path/'padim.csv', index=False)
        rows = {r['model']: r for r in compare_runs([trained/'run0', tmp_path/'padim.csv'])}
        assert rows['padim']['value']==pytest.approx(rows['run0']['value']) and rows['padim']['images']==len(t), k
    few = read_anomalib_predictions(predictions.iloc[::2], trained/'run0', 'few')
    assert len(few)==len(predictions.iloc[::2]) and set(few.model)=={'few'} and set(few.decision)<={0,1}
    compare_runs([trained/'run0', tmp_path/'padim.csv'], out=tmp_path/'c.html')
    assert 'padim' in check_static(tmp_path/'c.html')

def test_predictions_by_pixels(trained, predictions, tmp_path):
    "Files of other names with the same pixels."
    for i,o in enumerate(predictions.image_path): shutil.copy(o, tmp_path/f'{i}.png')
    t = predictions.assign(image_path=[tmp_path/f'{i}.png' for i in range(len(predictions))])
    assert len(read_anomalib_predictions(t, trained/'run0'))==len(t)

def test_predictions_as_batches(trained, predictions):
    "Objects with tensors, as `engine.predict` returns them."
    batches = [SimpleNamespace(image_path=t.image_path.tolist(), pred_score=torch.tensor(t.pred_score.to_numpy()), pred_label=torch.tensor(t.pred_label.to_numpy()),
               gt_label=None) for _,t in predictions.groupby(np.arange(len(predictions))//4)]
    got = read_anomalib_predictions(batches, trained/'run0')
    assert np.allclose(sorted(got.score), sorted(predictions.pred_score)) and got.decision.notna().all()

@pytest.mark.parametrize('change, said', [
    (lambda t: t.drop(columns='pred_score'), 'no column pred_score'), (lambda t: t.assign(gt_label=1-t.gt_label), 'are these the same images'),
    (lambda t: t.assign(pred_score='tensor(0.5)'), 'is no number'), (lambda t: pd.concat([t, t[:1]]), 'twice'),
    (lambda t: t.assign(image_path=[f'x/{i}.bmp' for i in range(len(t))]), 'none of the'), (lambda t: t[:0], 'no predictions')],
    ids=['no score','labels','text','twice','other images','empty'])
def test_predictions_that_do_not_fit(trained, predictions, change, said):
    with pytest.raises(ValueError, match=said) as e: read_anomalib_predictions(change(predictions), trained/'run0')
    assert '\n' not in str(e.value)

def test_predictions_need_a_run(predictions, tmp_path):
    predictions.to_csv(tmp_path/'p.csv', index=False)
    with pytest.raises(ValueError, match='name the run'): compare_runs([tmp_path/'p.csv'])
