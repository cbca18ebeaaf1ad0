"Read-only places, as an ordinary user, and too little memory."
import os, shutil

import pytest

from ..helpers import picture, save
from .campaign import content, half_written, pick, runs_apart, tally
from .child import complaint, run

def set_writable(folder, yes):
    "Allows or forbids its owner to write to a folder and all in it."
    for o in [folder, *folder.rglob('*')]: os.chmod(o, (0o755 if o.is_dir() else 0o644) if yes else (0o555 if o.is_dir() else 0o444))

@pytest.fixture
def read_only():
    "Makes folders read-only until the test ends."
    made = []
    def make(folder):
        folder.mkdir(exist_ok=True)
        made.append(folder)
        set_writable(folder, False)
        return folder
    yield make
    for o in made: set_writable(o, True)

def stamps(folder): return {o: (o.stat().st_mtime_ns, o.stat().st_size) for o in sorted(folder.rglob('*'))}

def test_read_only_data(finished, parts, tmp_path, read_only):
    "Training and scoring work from a folder that cannot be written to, and from a run that cannot be."
    args,ref,_ = finished('cnn_ae')
    data = read_only(shutil.copytree(parts, tmp_path/'parts'))
    own = [data if o==parts else o for o in args]
    with tally('read-only', 'inputs') as t:
        before = stamps(data)
        t.add(2)
        done = run(*own, '--out', tmp_path/'run', ordinary=True)
        t.check(done.status==0 and max(v for k,v in runs_apart(ref, tmp_path/'run').items() if k!='metrics.json')<=1e-6, f'train: {done.text[-300:]}')
        run_folder = read_only(shutil.copytree(ref, tmp_path/'locked'))
        scored = run('score', '--run', run_folder, '--input', data/'dent', '--out', tmp_path/'s.csv', '--maps', tmp_path/'maps', ordinary=True)
        t.check(scored.status==0, f'score: {scored.text[-300:]}')
        t.check(stamps(data)==before and content(run_folder)==content(ref), 'something was written')

LOCKED = { # R is a run, P a folder of parts, L a read-only folder, K a read-only run
    'train': 'train --data P --config C --out L/run', 'train into it': 'train --data P --config C --out L', 'score': 'score --run R --input P/dent --out L/s.csv', 'maps': 'score --run R --input P/dent --out O/s.csv --maps L/maps',
    'evaluate': 'evaluate --run K', 'evaluate elsewhere': 'evaluate --run R --out L/e', 'calibrate': 'calibrate --run K --far 0.3',
    'compare': 'compare --runs R --out L/c.html', 'export': 'export --run R --out L/m.onnx', 'crossval': 'crossval --data P --recipes fast --size 32 --folds 0 --table L/t.csv --out O/runs', 'demo': 'demo --out L/demo', 'benchmark': 'benchmark --models cnn_ae --size 32 --n 2 --bs 2 --out L/b.csv'}

def test_locked_places(finished, parts, tmp_path, read_only):
    "What cannot be written is said in one line, before the work."
    args,ref,_ = finished('cnn_ae')
    locked,run_folder = read_only(tmp_path/'locked'),read_only(shutil.copytree(ref, tmp_path/'kept'))
    places = {'R': ref, 'K': run_folder, 'P': parts, 'L': locked, 'O': tmp_path/'out', 'C': args[args.index('--config')+1]}
    with tally('read-only', 'outputs') as t:
        for case in pick(['train','score','calibrate'], LOCKED):
            t.add()
            words = [os.path.join(places[o.split('/')[0]], *o.split('/')[1:]) if o[0].isupper() else o for o in LOCKED[case].split()]
            done = run(*words, ordinary=True)
            wrong = complaint(done, words[0])
            t.check(not wrong, f'{case}: {wrong}')
            t.check(wrong or 'locked' in done.text or 'kept' in done.text, f'{case}: not named: {done.text[-200:]}')
            t.check(content(run_folder)==content(ref) and not [*locked.iterdir()], f'{case}: something was written')

CRASHES = ['status -11', 'status -6', 'status 127'] # native code that gets no memory; counted as lost

def test_low_memory(finished, parts, tmp_path):
    "With too little memory a command says so, or does its work; never half a file."
    args,ref,_ = finished('cnn_ae')
    save(tmp_path/'new'/'large.png', picture(1, (1500,2000)))
    with tally('low memory', 'train and score', CRASHES) as t:
        for mb in pick([20], [10, 20, 30, 40, 60, 80, 100, 150, 200, 300]):
            out = tmp_path/f'run{mb}'
            t.add(2)
            score = run('score', '--run', ref, '--input', tmp_path/'new', '--out', out/'s.csv', '--maps', out/'maps', memory=mb)
            t.check(score.status==0 or not complaint(score, 'score'), f'score in {mb} MiB: {complaint(score, "score")}')
            train = run(*args, '--out', out/'run', memory=mb)
            same = train.status==0 and max(runs_apart(ref, out/'run').values())<=1e-6
            t.check(same or not complaint(train, 'train'), f'train in {mb} MiB: {complaint(train, "train")}')
            t.check(not half_written(out), f'{mb} MiB: {half_written(out)}')
