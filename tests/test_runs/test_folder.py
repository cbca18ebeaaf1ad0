"""Run folders: old ones still load and score alike; settings that were asked for are never rewritten."""
import json, shutil
from pathlib import Path

import numpy as np, pandas as pd, pytest

from aead.config import config_to_dict
from aead.data.synthetic import make_synthetic
from aead.detect import load_detector
from aead.files import load_yaml, save_yaml
from aead.runs.folder import RunFolder
from aead.runs.score import calibrate_run, score_images
from aead.runs.train import train_run

from ..conftest import make_cfg

OLD = Path(__file__).resolve().parent.parent/'run_schema_1' # made by version 0.1.0: head, memory bank, flips, a searched way of scoring

@pytest.fixture(scope='module')
def brick(tmp_path_factory): return make_synthetic(tmp_path_factory.mktemp('brick'), textures=('brick',))

def test_a_run_of_schema_1_scores_as_it_did(brick):
    det,then = load_detector(OLD, 'cpu'),pd.read_csv(OLD/'scores.csv')
    root = Path(brick.path[0]).parents[3]
    assert Path(root, then.path[0]).is_file()
    now = det.predict([str(root/p) for p in then.path])
    assert np.abs(now.score-then.score).max() < 1e-6 and np.abs(now.p_value-then.p_value).max() < 1e-12
    assert now.decision.tolist()==then.decision.tolist() and now.answer.tolist()==then.answer.tolist()
    assert (det.limits.far, det.limits.inspect)==(.1, .3)

def test_a_run_of_schema_1_is_recalibrated_in_place(tmp_path):
    run = shutil.copytree(OLD, tmp_path/'run')
    asked = (run/'config.yaml').read_bytes()
    (run/'scores.csv').unlink()
    det = calibrate_run(run, far=.2, inspect=.5, device='cpu')
    again = load_detector(run, 'cpu')
    assert again.limits==det.limits and again.limits.far==.2 and (run/'config.yaml').read_bytes()==asked

def test_a_run_of_a_later_schema_says_so(tmp_path):
    run = shutil.copytree(OLD, tmp_path/'run')
    save_yaml({**load_yaml(run/'config.yaml'), 'schema': 3}, run/'resolved.yaml')
    with pytest.raises(ValueError, match='update aead'): load_detector(run)

def test_asked_and_resolved_settings_are_two_files(tmp_path):
    cfg = make_cfg(data=dict(category='brick', size=None), train=dict(epochs=1, bs=None))
    train_run(tmp_path/'run', cfg, device='cpu')
    run = RunFolder(tmp_path/'run')
    before = (run.path/'config.yaml').read_bytes()
    assert run.asked==cfg and run.asked.data.size is None
    assert run.config.data.size==64 and run.config.train.bs and run.config.models['cnn_ae']['ni']==1
    calibrate_run(run.path, far=.3, device='cpu')
    assert (run.path/'config.yaml').read_bytes()==before
    assert json.loads((run.path/'calibration.json').read_text())['far']==.3
    assert config_to_dict(run.config)['detect']['far']==.2          # what training used

def test_files_that_are_missing_or_broken_are_named(tmp_path):
    run = RunFolder(shutil.copytree(OLD, tmp_path/'run'))
    with pytest.raises(FileNotFoundError, match='metrics.json is missing'): run.file('metrics.json')
    (run.path/'metrics.json').write_text('{"a"')
    with pytest.raises(ValueError, match='evaluate the run again'): print(run.metrics)
    with pytest.raises(FileNotFoundError, match='no run folder'): RunFolder(tmp_path/'nowhere')
    with pytest.raises(FileNotFoundError, match='no image or folder'): score_images(run.path, tmp_path/'none.png', tmp_path/'s.csv')
