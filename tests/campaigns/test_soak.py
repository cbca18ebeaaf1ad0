"Soak and load: memory and open files stay as they are, rows stay in order and what they are one by one."
import json, os, resource, shutil, socket, subprocess, sys, time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx, numpy as np, pandas as pd, pytest

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

def test_dashboard(finished, tmp_path):
    pytest.importorskip('ipywidgets')
    n = pick(30, 2000)
    for name,family in (('first','cnn_ae'),('second','resnet_ae')): shutil.copytree(finished(pick('cnn_ae', family))[1], tmp_path/name)
    with tally('soak', f'{n} interactions with the dashboard') as t:
        t.add(n)
        check_flat(t, readings(run(tmp_path/'first', n, n//20, task='soak:browse')))

PATIENCE = pick(60, 600) # seconds to wait for an answer; a machine may be busy with other things

def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]

@contextmanager
def served(*options):
    "A service in a process of its own; gives its address and process."
    at = f'http://127.0.0.1:{(port := free_port())}'
    p = subprocess.Popen([sys.executable, '-m', 'aead', 'serve', '--port', str(port), *map(str, options)])
    try:
        for _ in range(600):
            with suppress(httpx.TransportError):
                if httpx.get(f'{at}/health').status_code==200: break
            assert p.poll() is None, 'the service ended'
            time.sleep(.1)
        yield at, p.pid
    finally:
        p.terminate()
        try: p.wait(pick(20, PATIENCE))
        except subprocess.TimeoutExpired:
            p.kill()
            raise

def resident(pid): return int(Path(f'/proc/{pid}/statm').read_text().split()[1])*resource.getpagesize()/2**20

def test_service(finished, tmp_path):
    "Uploads and paths, right and wrong, from eight clients at once: each gets its own answer."
    pytest.importorskip('fastapi')
    _,ref,_ = finished('cnn_ae')
    n,folder = pick(160, 10000),many(tmp_path/'parts', 40)
    files = sorted(folder.iterdir())
    want = dict(zip([o.name for o in files], load_detector(ref, 'cpu').predict(files).score))
    def right(client, at, i):
        p,what = files[i%40],i//8%4
        if what<2:
            r = client.post(f'{at}/score', files={'file': (p.name, p.read_bytes())})
            return r.status_code==200 and abs(r.json()['score']-want[p.name])<1e-5
        if what==2:
            r = client.post(f'{at}/paths', json={'paths': [p.name, files[0].name]})
            return r.status_code==200 and [abs(o['score']-want[o['path']])<1e-5 for o in r.json()]==[True]*2
        return client.post(f'{at}/paths', json={'paths': ['../'+p.name]}).status_code==403
    with tally('soak', f'{n} requests to the service') as t, served('--run', ref, '--root', folder, '--seconds', PATIENCE) as (at,pid):
        def client(k, start):
            with httpx.Client(timeout=PATIENCE) as c: return [right(c, at, i) for i in range(start+k, start+n//2, 8)]
        def half(start):
            with ThreadPoolExecutor(8) as pool: found = sum(pool.map(client, range(8), [start]*8), [])
            t.add(len(found))
            for ok in found: t.check(ok, 'an answer is wrong or missing')
            return resident(pid)
        first,last = half(0),half(n//2)
        t.measured = f'memory {100*(last/first-1):+.1f} % ({first:.0f} to {last:.0f} MiB)'
        t.check(last <= LIMIT*first, t.measured)

def test_order_and_batches(finished, tmp_path, monkeypatch):
    "Other batch sizes and more readers give the rows of scoring one by one, in order."
    _,ref,_ = finished('cnn_ae')
    n = pick(200, 10000)
    folder = many(tmp_path/'many', n)
    det = load_detector(ref, 'cpu')
    with tally('load', f'{n} images') as t:
        alone = pd.concat([det.predict(folder/f'{i:05d}.png') for i in range(0, n, pick(4, 1))], ignore_index=True)
        worst = 0.
        for bs,threads in pick([(8,4)], [(1,1),(7,2),(8,4),(64,8)]):
            own = shutil.copytree(ref, tmp_path/f'run{bs}', ignore=shutil.ignore_patterns('maps'))
            settings = load_yaml(own/'resolved.yaml')
            settings['train']['bs'] = bs
            save_yaml(settings, own/'resolved.yaml')
            monkeypatch.setattr(detect, 'count_readers', lambda device, n=threads: n)
            res = score_images(own, folder, tmp_path/f's{bs}.csv', device='cpu')
            t.add(n)
            t.check([os.path.basename(o) for o in res.path]==[f'{i:05d}.png' for i in range(n)], f'batches of {bs}: order')
            some = res.iloc[::pick(4, 1)].reset_index(drop=True)
            apart = np.abs(some.score.astype(float)-alone.score)
            worst = max(worst, apart.max())
            t.check(apart.max() < 1e-4 and (some.decision==alone.decision).all(), f'batches of {bs}: scores differ by {apart.max()}')
        t.measured = f'largest difference of scores {worst:.1g}'
