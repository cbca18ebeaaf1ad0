"Soak and load: memory and open files stay as they are, rows stay in order and what they are one by one."
import json, os, shutil
from functools import partial

import numpy as np, pandas as pd, pytest

import aead.detect as detect
from aead.detect import load_detector
from aead.files import load_yaml, save_yaml
from aead.runs.score import score_images

from ..helpers import picture, save
from .campaign import pick, tally
from .child import run

def readings(done):
    "What a child told of itself."
    assert done.status==0, done.text[-500:]
    return pd.DataFrame([json.loads(o) for o in done.text.splitlines() if o.startswith('{"memory"')])

LIMIT = pick(1.1, 1.05) # times the memory after the warm-up

def check_flat(t, told):
    "After a fifth as warm-up, memory hardly grows and no file stays open."
    start = told.iloc[len(told)//5:]
    grown,files = start.memory.iloc[-3:].min()/start.memory.iloc[0], start.files.iloc[-1]-start.files.iloc[0]
    t.measured = f'memory {100*(grown-1):+.1f} % ({start.memory.iloc[0]:.0f} to {start.memory.iloc[-1]:.0f} MiB), open files {files:+d}'
    t.check(grown <= LIMIT, t.measured)
    t.check(files <= 0, t.measured)

def many(folder, n, sz=32):
    "`n` images, no two alike."
    for i in range(n): save(folder/f'{i:05d}.png', picture(i, (sz,sz)))
    return folder

def test_scoring(finished, tmp_path):
    _,ref,_ = finished('cnn_ae')
    n = pick(300, 20000)
    with tally('soak', f'{n} images scored') as t:
        many(tmp_path/'one', min(n, 500))
        for i in range(500, n): os.link(tmp_path/'one'/f'{i%500:05d}.png', tmp_path/'one'/f'{i:05d}.png')
        t.add(n)
        check_flat(t, readings(run(ref, tmp_path/'one', tmp_path/'s.csv', n//20, task='soak:score')))
        t.check(len(pd.read_csv(tmp_path/'s.csv'))==n, 'rows are missing')

GROWS = ['memory +'] # about 30 kB an interaction, without an end in 3,000; counted as lost

def test_dashboard(finished, tmp_path):
    pytest.importorskip('ipywidgets')
    n = pick(30, 2000)
    for name,family in (('first','cnn_ae'),('second','resnet_ae')): shutil.copytree(finished(pick('cnn_ae', family))[1], tmp_path/name)
    with tally('soak', f'{n} interactions with the dashboard', GROWS) as t:
        t.add(n)
        check_flat(t, readings(run(tmp_path/'first', n, n//20, task='soak:browse')))

def test_order_and_batches(finished, tmp_path, monkeypatch):
    "Other batch sizes and more readers give the rows of scoring one by one, in order."
    _,ref,_ = finished('cnn_ae')
    n = pick(200, 10000)
    folder = many(tmp_path/'many', n)
    det = load_detector(ref, 'cpu')
    with tally('load', f'{n} images') as t:
        alone = pd.concat([det.predict(folder/f'{i:05d}.png') for i in range(0, n, pick(4, 1))], ignore_index=True)
        read,worst = detect.read_batches,0.
        for bs,threads in pick([(8,4)], [(1,1),(7,2),(8,4),(64,8)]):
            own = shutil.copytree(ref, tmp_path/f'run{bs}', ignore=shutil.ignore_patterns('maps'))
            settings = load_yaml(own/'resolved.yaml')
            settings['train']['bs'] = bs
            save_yaml(settings, own/'resolved.yaml')
            monkeypatch.setattr(detect, 'read_batches', partial(read, threads=threads))
            res = score_images(own, folder, tmp_path/f's{bs}.csv', device='cpu')
            monkeypatch.setattr(detect, 'read_batches', read)
            t.add(n)
            t.check([os.path.basename(o) for o in res.path]==[f'{i:05d}.png' for i in range(n)], f'batches of {bs}: order')
            some = res.iloc[::pick(4, 1)].reset_index(drop=True)
            apart = np.abs(some.score.astype(float)-alone.score)
            worst = max(worst, apart.max())
            t.check(apart.max() < 1e-4 and (some.decision==alone.decision).all(), f'batches of {bs}: scores differ by {apart.max()}')
        t.measured = f'largest difference of scores {worst:.1g}'
