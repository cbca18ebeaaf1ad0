"""Nothing lost, nothing mistaken: outputs that would harm inputs, two writers, images known by content, data that moved."""
import os, re, shutil, subprocess, sys
from pathlib import Path

import numpy as np, pandas as pd, pytest
from PIL import Image

from aead import cli
from aead.data.audit import audit_catalog
from aead.detect import load_detector
from aead.files import one_writer
from aead.runs.crossval import cross_validate
from aead.runs.folder import RunFolder
from aead.runs.score import calibrate_run, evaluate_run, score_images
from aead.runs.table import _unique_names
from aead.runs.train import train_run

from ..conftest import make_cfg
from ..helpers import fails, make_layout, picture, save

def settings(path, **kw): return make_cfg(data=dict(layout='folder', path=str(path), category=None), **kw)

@pytest.fixture(scope='module')
def parts(tmp_path_factory): return make_layout(tmp_path_factory.mktemp('parts')/'parts', 'folder')

@pytest.fixture(scope='module')
def trained(parts, tmp_path_factory):
    run = tmp_path_factory.mktemp('runs')/'first'
    train_run(run, settings(parts), device='cpu')
    return run

@pytest.fixture
def run(trained, tmp_path): return shutil.copytree(trained, tmp_path/'run')

@pytest.fixture
def photos(tmp_path):
    for i in range(3): save(tmp_path/'ov'/f'{i:03d}.png', picture(700+i))
    return tmp_path/'ov'

def contents(folder): return {o.name: o.read_bytes() for o in folder.rglob('*') if o.is_file()}

# --- outputs

@pytest.mark.parametrize('maps', ['ov','ov/heat','.'], ids=['the input','inside','around'])
def test_heat_maps_never_lie_among_photographs(run, photos, tmp_path, maps):
    before = contents(photos)
    assert 'lie in each other' in fails(lambda: score_images(run, photos, tmp_path/'s.csv', tmp_path/maps))
    assert contents(photos)==before and not (tmp_path/'s.csv').exists()

def test_heat_maps_replace_nothing_but_heat_maps(run, photos, tmp_path):
    other = save(tmp_path/'heat'/'001.png', picture(1))
    kept = other.read_bytes()
    assert 'is no heat map' in fails(lambda: score_images(run, photos, tmp_path/'s.csv', other.parent))
    assert other.read_bytes()==kept
    other.unlink()
    for _ in range(2): score_images(run, photos, tmp_path/'s.csv', other.parent)
    assert sorted(o.name for o in other.parent.iterdir())==['000.png','001.png','002.png']
    one = photos/'000.png'
    assert 'the folder of the input' in fails(lambda: score_images(run, one, tmp_path/'s.csv', photos))

@pytest.mark.parametrize('out,says', [('ov/000.png', 'must end in .csv'), ('prices.csv', 'not written by this command'),
                                      ('ov', 'must end in .csv'), ('ov/000.png/s.csv', 'is no folder')])
def test_the_table_replaces_nothing_else(run, photos, tmp_path, out, says, monkeypatch):
    (tmp_path/'prices.csv').write_text('part,price\n1,2\n')
    before = contents(tmp_path/'ov'), contents(tmp_path)
    monkeypatch.setattr('aead.runs.score.load_detector', None)                   # it is noticed before the work
    assert says in fails(lambda: score_images(run, photos, tmp_path/out))
    assert (contents(tmp_path/'ov'), contents(tmp_path))==before

def test_no_two_heat_maps_have_one_name(tmp_path):
    names = ['1.jpg','1.bmp','1.jpg.png','1.JPG.png','2.png','a/1.jpg']
    got = [o.as_posix().lower() for o in _unique_names([tmp_path/o for o in names], tmp_path)]
    assert len(set(got))==len(names) and got[4:]==['2.png','a/1.png']

def test_a_table_that_cannot_be_written_is_kept(run, photos, tmp_path, monkeypatch):
    import aead.runs.table as s
    def full(path): raise OSError(28, 'No space left on device', str(path))
    monkeypatch.setattr(s, 'atomic_write', full)
    monkeypatch.setattr(s.tempfile, 'gettempdir', lambda: str(tmp_path))
    with pytest.raises(OSError, match='the scores are kept in'): score_images(run, photos, tmp_path/'s.csv')
    assert len(pd.read_csv(tmp_path/'kept-s.csv'))==3

def test_maps_that_cannot_be_written_cost_no_scores(run, photos, tmp_path, monkeypatch):
    import aead.runs.table as s
    def full(*a): raise OSError(28, 'No space left on device', 'heat')
    monkeypatch.setattr(s, '_heat_png', full)
    with pytest.raises(OSError, match='No space'): score_images(run, photos, tmp_path/'s.csv', tmp_path/'heat')
    assert pd.read_csv(tmp_path/'s.csv').score.notna().all()

@pytest.mark.parametrize('command', ['compare --runs {run} --out {file}', 'benchmark --models cnn_ae --out {file}',
                                     'crossval --data {parts} --table {file}'], ids=lambda o: o.split()[0])
def test_no_command_replaces_a_file_of_another_kind(run, parts, tmp_path, command, capsys):
    file = tmp_path/'mine.csv'
    file.write_text('a,b\n1,2\n')
    with pytest.raises(SystemExit) as e: cli.main(command.format(run=run, file=file, parts=parts).split())
    assert e.value.code==2 and 'not written by this command' in capsys.readouterr().err
    assert file.read_text()=='a,b\n1,2\n'

# --- one writer

_writer = """import sys
from aead.files import one_writer
with one_writer(sys.argv[1]):
    print('here', flush=True)
    sys.stdin.read()"""

def test_two_trainings_do_not_share_a_folder(parts, run):
    p = subprocess.Popen([sys.executable, '-c', _writer, str(run)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert p.stdout.readline()=='here\n'
    says = f'another process (process {p.pid}) is writing to {run}'
    try:
        for f in (lambda: train_run(run, settings(parts), device='cpu'), lambda: train_run(run, resume=True, device='cpu'),
                  lambda: calibrate_run(run, far=.3), lambda: evaluate_run(run, device='cpu')): assert says in fails(f)
    finally: p.kill()                                                   # and leaves its lock behind
    p.wait()
    with one_writer(run): pass

# --- what an image is

def test_other_data_are_compared_by_content(run, parts, tmp_path):
    copy = shutil.copytree(parts, tmp_path/'copy')
    for i,o in enumerate(sorted((copy/'good').iterdir())): o.rename(o.with_name(f'new {i}.png'))
    cat = RunFolder(run).catalog
    n = cat.split.value_counts()
    with pytest.warns(UserWarning, match=f"{n['train']+n['val']} of .* images were used in training and are left out"):
        det = calibrate_run(run, copy, far=.4)
    assert len(det.calibration.scores) == (cat.label==0).sum()-n['train']-n['val']
    with pytest.warns(UserWarning, match='were used in training and are left out'):
        m = evaluate_run(run, copy, device='cpu')
    assert m['n']['test_good']==((cat.split=='test') & (cat.label==0)).sum()

def test_all_images_known_is_an_error(run, parts, tmp_path):
    cat = RunFolder(run).catalog
    for p in cat.path[cat.split=='train']: save(tmp_path/'again'/Path(p).name, np.asarray(Image.open(p)))
    for f in (calibrate_run, evaluate_run):
        assert 'were used in training' in fails(lambda f=f: f(run, tmp_path/'again', device='cpu'))

def test_two_data_sets_of_one_name_have_two_folders(run, tmp_path):
    for d,i in (('a',900),('b',950)):
        for k in range(3): save(tmp_path/d/'new'/'good'/f'{k}.png', picture(i+k))
        evaluate_run(run, tmp_path/d/'new', device='cpu')
    evaluate_run(run, tmp_path/'a'/'new', device='cpu')
    made = sorted(o.name for o in run.iterdir() if o.name.startswith('eval-'))
    assert len(made)==2 and made[0]=='eval-new' and re.fullmatch('eval-new-[0-9a-f]{6}', made[1])

def test_the_audit_is_made_once(run, parts, monkeypatch):
    import aead.runs.score as score
    before = RunFolder(run).metrics['audit']
    calls = []
    monkeypatch.setattr(score, 'audit_catalog', lambda df, **kw: calls.append(1) or audit_catalog(df, **kw))
    calibrate_run(run, far=.4, device='cpu')
    assert not calls and RunFolder(run).metrics['audit']==before
    p = Path(RunFolder(run).catalog.query("split=='test'").path.iloc[0])
    old = p.read_bytes()
    save(p, picture(999))                                                        # the file is another one
    try: calibrate_run(run, far=.3, device='cpu')
    finally: p.write_bytes(old)
    assert len(calls)==1 and RunFolder(run).metrics['audit']['state']!=before['state']

# --- a run and its data can be moved

def test_run_and_data_move_together(parts, tmp_path):
    (tmp_path/'here').mkdir()
    shutil.copytree(parts, tmp_path/'here'/'parts')
    train_run(tmp_path/'here'/'runs'/'first', settings(tmp_path/'here'/'parts'), device='cpu')
    (tmp_path/'here').rename(tmp_path/'there')
    assert evaluate_run(tmp_path/'there'/'runs'/'first', device='cpu')['n']['test_good']

def test_data_that_moved_are_found_when_told(parts, tmp_path):
    data = shutil.copytree(parts, tmp_path/'parts')
    before = train_run(tmp_path/'run', settings(data), device='cpu')
    data.rename(tmp_path/'elsewhere')
    assert 'say where they are now with --data' in fails(lambda: evaluate_run(tmp_path/'run', device='cpu'), FileNotFoundError)
    assert evaluate_run(tmp_path/'run', tmp_path/'elsewhere', device='cpu')['image_auroc']==before['image_auroc']
    assert not list((tmp_path/'run').glob('eval-*'))
    assert evaluate_run(tmp_path/'run', device='cpu')['image_auroc']==before['image_auroc']       # and is remembered

def test_a_calibration_belongs_to_its_weights(trained, parts, run, tmp_path):
    train_run(tmp_path/'other', settings(parts, train=dict(seed=1)), device='cpu')
    shutil.copy(tmp_path/'other'/'calibration.json', run/'calibration.json')
    assert 'belongs to other weights' in fails(lambda: load_detector(run, 'cpu'))
    shutil.copy(trained/'calibration.json', run/'calibration.json')
    calibrate_run(run, far=.4, device='cpu')
    weights = bytearray((run/'model.safetensors').read_bytes())
    weights[-1] ^= 1                                                             # a bit flips on the disk
    (run/'model.safetensors').write_bytes(weights)
    assert 'belongs to other weights' in fails(lambda: load_detector(run, 'cpu'))

# --- resuming

def interrupted(cfg, out, monkeypatch, after=1):
    "A run that stopped after an epoch."
    import aead.learner as learner
    old = learner.train_model
    def stop(cfg, *args, **kw):
        from fastai.callback.core import Callback
        class Stop(Callback):
            order = 1000
            def after_epoch(self):
                if self.epoch+1>=after: raise KeyboardInterrupt
        make = learner.anomaly_learner
        with monkeypatch.context() as m:
            def stopping(*a, **k):
                learn = make(*a, **k)
                learn.add_cb(Stop())
                return learn
            m.setattr(learner, 'anomaly_learner', stopping)
            return old(cfg, *args, **kw)
    with monkeypatch.context() as m:
        m.setattr(learner, 'train_model', stop)
        with pytest.raises(KeyboardInterrupt): train_run(out, cfg, device='cpu')
    return out

def test_a_resumed_run_keeps_its_split(parts, tmp_path, monkeypatch, capsys):
    data = shutil.copytree(parts, tmp_path/'parts')
    run = RunFolder(interrupted(settings(data, train=dict(epochs=2)), tmp_path/'run', monkeypatch))
    before = run.catalog.set_index('path').split
    gone = [p for s in ('train','cal') for p in before.index[before==s][:1]]
    moved = before.index[before=='val'][0]
    for p in gone: Path(p).unlink()
    Path(moved).rename(Path(moved).with_name('renamed.png'))
    for i in range(40): save(data/'good'/f'{i:03d} more.png', picture(800+i))
    capsys.readouterr()
    m = train_run(tmp_path/'run', resume=True, device='cpu')
    said = capsys.readouterr().err
    assert '2 images are gone or have changed' in said and '40 images are new since the run began: not used' in said
    after = run.catalog.set_index('path').split
    assert set(after.index)==set(before.index)-set(gone)-{moved}|{str(Path(moved).with_name('renamed.png'))}
    assert all(after[p]==before[p] for p in after.index if p in before.index) and m['n']['train']==(after=='train').sum()

def test_a_resumed_run_finds_data_that_moved(parts, tmp_path, monkeypatch):
    data = shutil.copytree(parts, tmp_path/'parts')
    cfg = settings(data, train=dict(epochs=2))
    interrupted(cfg, tmp_path/'run', monkeypatch)
    data.rename(tmp_path/'elsewhere')
    assert '--data' in fails(lambda: train_run(tmp_path/'run', resume=True, device='cpu'), FileNotFoundError)
    assert train_run(tmp_path/'run', settings(tmp_path/'elsewhere', train=dict(epochs=2)), True, 'cpu')['n']['test_good']

# --- tables of cross-validation

def test_a_table_of_cross_validation_keeps_what_it_is_about(parts, tmp_path):
    table = tmp_path/'t.csv'
    cross_validate({'nearest neighbour': None}, table, parts, 'folder', folds=(0,))
    other = make_layout(tmp_path/'other', 'folder', bad=2)
    says = fails(lambda: cross_validate({'nearest neighbour': None}, table, other, 'folder', folds=(0,)))
    assert 'with other data (parts-' in says and 'choose another --table' in says
    assert len(cross_validate({'nearest neighbour': None}, table, parts, 'folder', folds=(0,1)))==2

# --- commands

def test_a_table_of_cross_validation_names_images_below_the_data(parts, tmp_path):
    "Behind a link as well: no path of a machine reaches the table."
    (tmp_path/'link').symlink_to(parts)
    tiny = make_cfg(data=dict(layout='folder', category=None))
    variant = dict(model='cnn_ae', size=tiny.data.size, epochs=1, models={'cnn_ae': {'nf': 8, 'depth': 2}}, far=.2)
    cross_validate({'a': variant}, tmp_path/'t.csv', tmp_path/'link', 'folder', ('grouped',), (0,), out=tmp_path/'runs', device='cpu')
    names = pd.read_csv(tmp_path/'t_scores.csv').path
    assert not names.str.startswith('/').any() and names.map(lambda o: (parts/o).is_file()).all()

def test_paths_may_hold_commas(tmp_path):
    for o in ('a', 'b,c'): (tmp_path/o).mkdir()
    assert cli._paths(f'{tmp_path}/a,{tmp_path}/b,c')==[f'{tmp_path}/a', f'{tmp_path}/b,c']

def test_a_reader_that_hangs_up_hears_nothing():
    read,write = os.pipe()
    os.close(read)
    p = subprocess.run([sys.executable, '-m', 'aead', '--help'], stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert p.returncode==141 and p.stderr==''

@pytest.mark.parametrize('error,says', [(OSError(28, 'No space left on device'), 'No space left on device'),
                                        (MemoryError(), 'not enough memory'),
                                        (RuntimeError('could not create a primitive'), 'not enough memory')])
def test_errors_without_a_file_are_one_line(monkeypatch, capsys, error, says):
    monkeypatch.setattr('aead.runs.train.demo_run', lambda *a, **k: (_ for _ in ()).throw(error))
    assert cli.run_command('demo', [])==2
    err = capsys.readouterr().err
    assert err.startswith(f'aead demo: {says}') and 'None' not in err and err.count('\n')==1
