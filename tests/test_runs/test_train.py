"""What a training says before and after, and the time that it took over interruptions."""
import json, os

import pytest, torch
from safetensors.torch import load_file

from aead.detect import load_detector
from aead.runs import train as page
from aead.runs.crossval import cross_validate
from aead.runs.folder import RunFolder
from aead.runs.score import evaluate_run, find_report
from aead.runs.train import estimate_training, train_run

from ..conftest import make_cfg
from ..helpers import make_layout

def settings(path, defects=0., **kw):
    return make_cfg(data=dict(layout='folder', path=str(path), category=None, defects=defects), **kw)

@pytest.fixture(scope='module')
def parts(tmp_path_factory): return make_layout(tmp_path_factory.mktemp('parts')/'parts', 'folder')

def weights(run): return load_file(run/'model.safetensors')
def same(a, b): return a.keys()==b.keys() and all(torch.equal(a[k], b[k]) for k in a)

def test_before_training_it_says_what_is_trained_on_what(parts, tmp_path, capsys):
    train_run(tmp_path/'run', settings(parts), device='cpu')
    said = capsys.readouterr().err
    n = RunFolder(tmp_path/'run').catalog.split.value_counts()
    model = load_detector(tmp_path/'run', 'cpu').graph.model
    assert f"cnn_ae at 32×32 px: {n['train']} images to train, {n['val']} val, {n['cal']} cal in {n['cal']} groups, {n['test']} test" in said
    assert f"cnn_ae: {sum(o.numel() for o in model.parameters()):,} parameters, in 3 epochs" in said
    assert f"a false-alarm rate of at most 0.2 can be guaranteed, from the {n['cal']} groups of good images in cal" in said
    assert 'how long' not in said and 'trained and calibrated' not in said

def test_a_rate_that_cannot_be_guaranteed_is_not_said_to_be(parts, tmp_path, capsys):
    with pytest.warns(UserWarning, match='0.01 cannot be guaranteed from .* ask for at least .* or give'):
        train_run(tmp_path/'run', settings(parts, detect=dict(far=.01)), device='cpu')
    assert 'can be guaranteed, from' not in capsys.readouterr().err

def test_an_estimate_changes_nothing(parts, tmp_path, capsys, monkeypatch):
    cfg = settings(parts, defects=.5, head={'nf':8, 'depth':2})
    train_run(tmp_path/'a', cfg, device='cpu')
    assert 'how long' not in capsys.readouterr().err
    monkeypatch.setattr(page, '_least_work', 0)
    train_run(tmp_path/'b', cfg, device='cpu', estimate=True)
    said = capsys.readouterr().err
    assert 'estimating how long it will take' in said and ' in all, calibration and evaluation included' in said
    assert same(weights(tmp_path/'a'), weights(tmp_path/'b'))

def test_short_work_is_not_estimated(parts, tmp_path, capsys):
    train_run(tmp_path/'run', settings(parts), device='cpu', estimate=True)
    assert 'how long' not in capsys.readouterr().err

def test_an_estimate_without_a_run(parts, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = estimate_training(settings(parts), 'cpu')
    assert 0 < found.low < found.seconds < found.high and {'training','scoring','calibrating','observing'} & set(found.stages.stage)
    assert not list(tmp_path.iterdir())
    with pytest.raises(FileNotFoundError): estimate_training(settings(tmp_path/'none'), 'cpu')

def interrupt(out, cfg, monkeypatch):
    "A training that is interrupted in its second epoch, after it has taken a hundred seconds by its clock."
    from aead.learner import AnomalyLearner
    real = AnomalyLearner._do_one_batch
    def cut(self):
        if self.epoch==1: raise KeyboardInterrupt
        return real(self)
    with monkeypatch.context() as m, pytest.raises(KeyboardInterrupt):
        m.setattr(AnomalyLearner, '_do_one_batch', cut)
        m.setattr(page.Stopwatch, 'seconds', property(lambda self: self.before+100.))
        train_run(out, cfg, resume=(out/'config.yaml').is_file(), device='cpu')

def test_a_resumed_run_shows_its_whole_time(parts, tmp_path, monkeypatch, capsys):
    out = tmp_path/'run'
    for k in (1,2):
        interrupt(out, settings(parts), monkeypatch)
        assert json.loads((out/'spent.json').read_text())['seconds']==100*k
    capsys.readouterr()
    m = train_run(out, resume=True, device='cpu')
    seconds = json.loads((out/'calibration.json').read_text())['seconds']
    assert 200 < seconds < 400 and m['minutes']==round(seconds/60, 2)==json.loads((out/'metrics.json').read_text())['minutes']
    assert ', 3 min of them before it was resumed' in capsys.readouterr().err
    whole = page.describe_time(60*m['minutes'])
    assert f'trained and calibrated in {whole}' in (out/'report.html').read_text()
    assert not (out/'spent.json').exists() and not (out/'checkpoint.safetensors').exists()
    assert evaluate_run(out, device='cpu')['minutes']==m['minutes']

def test_what_fails_before_training_leaves_no_clock(parts, tmp_path):
    with pytest.raises((ValueError, KeyError)): train_run(tmp_path/'run', settings(parts, model='cnn_aee'), device='cpu')
    assert not (tmp_path/'run').exists()

def test_the_clock_is_kept_in_the_course_of_a_training(parts, tmp_path, monkeypatch):
    "A process that is killed keeps what it took until some seconds before."
    from aead import learner
    saved,every = [],learner.Every
    monkeypatch.setattr(learner, 'Every', lambda f: every(f, 0))
    monkeypatch.setattr(page.Stopwatch, 'save', lambda self: saved.append(self.seconds))
    train_run(tmp_path/'run', settings(parts), device='cpu')
    assert len(saved)>=3 and saved==sorted(saved)

def test_the_report_is_found(parts, tmp_path):
    run,other = tmp_path/'run',make_layout(tmp_path/'other', 'folder', first=500)
    train_run(run, settings(parts), device='cpu')
    assert find_report(run)==run/'report.html'
    evaluate_run(run, other, device='cpu')
    assert find_report(run, other)==run/'eval-other'/'report.html'
    evaluate_run(run, other, out=tmp_path/'here', device='cpu')
    assert find_report(run, other, tmp_path/'here')==tmp_path/'here'/'report.html'
    os.remove(run/'report.html')
    assert find_report(run) is None

def test_cross_validation_says_where_it_is(parts, tmp_path, capsys):
    def run(folds): return cross_validate({'nearest neighbour': None}, tmp_path/'t.csv', parts, 'folder', folds=folds)
    run((0,1))
    said = capsys.readouterr().err
    assert 'case 1 of 2: nearest neighbour, split grouped, fold 0, seed 0\n' in said
    assert 'case 2 of 2: nearest neighbour, split grouped, fold 1, seed 0, about ' in said
    run((0,1,2))
    said = capsys.readouterr().err
    assert f"2 of 3 cases are in {tmp_path/'t.csv'} already" in said and 'case 1 of 1: nearest neighbour, split grouped, fold 2' in said
