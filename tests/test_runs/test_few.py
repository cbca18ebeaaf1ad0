"Few good images: what is refused, what is trained, which false-alarm rate is guaranteed, and where that is said."
import json, shutil, warnings
from pathlib import Path

import pandas as pd, pytest

from aead.data.splits import count_held, group_fold, split_catalog
from aead.detect import load_detector
from aead.evaluate import format_metrics
from aead.runs.folder import RunFolder
from aead.runs.score import calibrate_run
from aead.runs.train import train_run

from ..conftest import make_cfg
from ..helpers import dent, fails, picture, save

OLD = Path(__file__).resolve().parent.parent/'run_schema_1'

def folder(root, good, bad=0):
    "A folder of `good` and `bad` pictures."
    for i in range(good): save(root/'good'/f'{i:03d}.png', picture(i))
    for i in range(bad): save(root/'dent'/f'{i:03d}.png', dent(100+i)[0])
    return root

def train(tmp_path, good, bad=0, far=.05):
    "Trains on so many pictures; the run, and the warnings with whether the run was there already."
    data,run,said = folder(tmp_path/'data', good, bad),tmp_path/'run',[]
    cfg = make_cfg(data=dict(path=str(data), layout='folder'), train=dict(epochs=1), detect=dict(far=far))
    with warnings.catch_warnings():
        warnings.simplefilter('always')
        warnings.showwarning = lambda message, *a, **k: said.append((str(message), (run/'catalog.csv').is_file()))
        train_run(run, cfg, device='cpu')
    return RunFolder(run), [o for o in said if 'guaranteed' in o[0]]

@pytest.fixture(scope='module')
def forty(tmp_path_factory):
    "A run from forty good images, too few for the default rate."
    return train(tmp_path_factory.mktemp('forty'), 40, 6)

@pytest.mark.parametrize('good', [1,2,3])
@pytest.mark.parametrize('bad', [0,3], ids=['good only','with defects'])
def test_too_few_are_counted(good, bad, tmp_path):
    text = fails(lambda: train(tmp_path, good, bad))
    for o in (f'{good} good images', 'at least 4', f'add good images of {4-good} more'): assert o in text
    assert not (tmp_path/'run').exists()

def test_four_images_train_and_decide(tmp_path):
    run,said = train(tmp_path, 4, 2)
    m,n = run.metrics,run.metrics['n']
    assert n['train'] and n['val'] and n['cal'] and n['test_good'] and len(said)==1
    assert m['threshold'] is not None and m['guaranteed_false_alarm_rate']==1/(n['cal_groups']+1)
    assert run.scores.decision.notna().all()

def test_every_fold_of_a_few_has_all_it_needs():
    for n in range(5, 30):
        names = [f'{i}.png' for i in range(n)]
        df = pd.DataFrame(dict(path=names, group=names, label=0, defect='good', mask='', split=''))
        folds = [split_catalog(df, 'grouped', k, far=.05) for k in range(5)]
        assert all({'train','val','cal','test'}==set(s.split) for s in folds)
        assert sum((s.split=='test').to_numpy() for s in folds).tolist()==[1]*n
        if {group_fold(g) for g in names}==set(range(5)):                       # nothing to mend
            assert all(((s.split=='test')==[group_fold(g)==k for g in names]).all() for k,s in enumerate(folds))

def test_sixty_images_guarantee_five_percent(tmp_path):
    names = [f'good/{i:03d}.png' for i in range(60)]
    df = pd.DataFrame(dict(path=names, group=names, label=0, defect='good', mask='', split=''))
    for s in (split_catalog(df, 'grouped', k, far=.05) for k in range(5)):
        n = s.split.value_counts()
        assert n.cal==19 if n.train+n.val+n.cal>=42 else n.cal==count_held(60-n.test, far=.05)[1]
        assert n.train>=n.cal
    assert (split_catalog(df, far=.05).split=='cal').sum()==19

def test_large_sets_are_split_as_ever():
    names = [f'tile {i}' for i in range(150)]
    df = pd.DataFrame(dict(path=names, group=names, label=0, defect='good', mask='', split=''))
    for k in range(5):
        s = split_catalog(df, 'grouped', k, far=.05)
        assert s.equals(split_catalog(df, 'grouped', k)) and ((s.split=='test')==[group_fold(g)==k for g in names]).all()

def test_calibration_images_of_a_published_split_stay(tmp_path):
    names = [f'{i}.png' for i in range(60)]
    split = ['train']*40+['val']*5+['cal']*5+['test']*10
    df = pd.DataFrame(dict(path=names, group=names, label=0, defect='good', mask='', split=split))
    assert split_catalog(df, far=.05).split.tolist()==split

def test_the_fallback_is_said_once_and_before_training(forty):
    run,said = forty
    assert len(said)==1 and not said[0][1]
    text = said[0][0]
    n = run.metrics['n']['cal_groups']
    assert f'0.05 cannot be guaranteed from {n} groups' in text and '(--far)' in text and 'more good images' in text

def test_more_images_as_advised_are_enough(forty):
    run,said = forty
    n = 40+int(said[0][0].split('give about ')[1].split()[0])
    df = pd.DataFrame(dict(path=[f'good/{i:03d}.png' for i in range(n+3)], label=0, defect='good', mask='', split=''))
    assert (split_catalog(df.assign(group=df.path), far=.05).split=='cal').sum()==19

def test_the_fallback_stands_wherever_the_rate_does(forty):
    from aead.dashboard.results import metric_row
    from aead.dashboard.run_view import RunView
    run,_ = forty
    m,det = run.metrics,load_detector(run.path, 'cpu')
    rate = m['guaranteed_false_alarm_rate']
    assert m['target_false_alarm_rate']==.05 < rate==det.limits.guaranteed==1/(det.calibration.n_groups+1)
    assert m['threshold']==det.calibration.scores.max() and m['why']=={**m['why'], 'guarantee': det.why}
    assert '0.05 was asked for' in repr(det) and '0.05 was asked for' in format_metrics(m) and 'cannot be' not in format_metrics(m)
    page = (run.path/'report.html').read_text(encoding='utf-8')
    assert 'not the 5 % that was asked for' in page and 'cannot be guaranteed' in page and '(5 % was asked for)' in page
    assert det.why in RunView.load(run.path).missing() and '0.05 was asked for' in metric_row(m, 'false_alarm_rate')[3]

def test_calibration_with_a_rate_that_cannot_be_had(forty, tmp_path):
    run = shutil.copytree(forty[0].path, tmp_path/'run')
    kept = {o: (run/o).read_bytes() for o in ('calibration.json','metrics.json','scores.csv','report.html')}
    text = fails(lambda: calibrate_run(run, far=.01, device='cpu'))
    assert 'cannot be guaranteed' in text and '(--far)' in text and 'at least 99 groups' in text
    assert {o: (run/o).read_bytes() for o in kept}==kept
    det = load_detector(run, 'cpu')
    assert det.calibrate().limits==load_detector(run, 'cpu').limits                      # its own rate falls back again
    assert calibrate_run(run, far=.2, device='cpu').limits.guaranteed==.2 and json.loads((run/'metrics.json').read_text())['guaranteed_false_alarm_rate']==.2

@pytest.mark.parametrize('change,guaranteed', [({}, .1), ({'threshold': None, 'why': 'too few groups'}, None)], ids=['with threshold','without'])
def test_calibration_files_of_early_versions(change, guaranteed, tmp_path):
    run = shutil.copytree(OLD, tmp_path/'run')
    cal = json.loads((run/'calibration.json').read_text())
    assert 'guaranteed' not in cal
    (run/'calibration.json').write_text(json.dumps({**cal, **change}))
    det = load_detector(run, 'cpu')
    assert det.limits.guaranteed==guaranteed and (det.threshold is None)==(guaranteed is None)
    assert det.calibrate().limits.guaranteed==.1 and det.threshold is not None          # and calibrating again gives one
