"What the campaigns share: how long they are, what they write down, settings of all families, and when a run folder is whole."
import csv, fcntl, json, os, time
from contextlib import contextmanager
from pathlib import Path

import numpy as np, pandas as pd, torch, yaml
from PIL import Image
from safetensors.torch import load_file

from ..helpers import TINY

LONG = os.environ.get('AEAD_CAMPAIGN')=='long'
page = Path(__file__).resolve().parents[2]/'nbs'/'benchmarks'/'reliability.csv'

def pick(short, long):
    "One of two sizes, by the form of the campaign."
    return long if LONG else short

# -- what was injected, survived and lost

class Tally:
    "Counts of one kind of fault; `lost` are sentences."
    def __init__(self, campaign, case): self.campaign,self.case,self.faults,self.refused,self.lost,self.measured = campaign,case,0,0,[],''
    def add(self, n=1): self.faults += n
    def check(self, ok, sentence):
        if not ok: self.lost.append(sentence)

def _write_row(t, seconds):
    "Puts the row of a tally into the table of the page, over an earlier one; one process at a time."
    with open(__file__, 'rb') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _put_row(t, seconds)

def _put_row(t, seconds):
    rows = []
    if page.is_file():
        with open(page, newline='') as f: rows = [o for o in csv.DictReader(f) if (o['campaign'],o['case'])!=(t.campaign,t.case)]
    lost = min(len(t.lost), t.faults)
    rows.append(dict(campaign=t.campaign, case=t.case, faults=t.faults, survived=t.faults-lost, lost=lost, measured=t.measured or (f'{t.refused} refused' if t.refused else ''), minutes=round(seconds/60, 1)))
    rows.sort(key=lambda o: (o['campaign'], o['case']))
    with open(page, 'w', newline='') as f:
        w = csv.DictWriter(f, list(rows[-1]), lineterminator='\n')
        w.writeheader()
        w.writerows(rows)

@contextmanager
def tally(campaign, case, broken=()):
    """Counts faults, writes the row in the long form, and fails if any was lost.

    Sentences with a text of `broken` in them are faults that are known: counted, written down, not raised."""
    t,start = Tally(campaign, case),time.time()
    try: yield t
    finally:
        if LONG: _write_row(t, time.time()-start)
    new = [o for o in t.lost if not any(k in o for k in broken)]
    assert not new, f'{len(new)} of {t.faults} lost:\n'+'\n'.join(sorted(set(new))[:30])

# -- settings

_head = {'nf': 8, 'depth': 2, 'memory': 8}
FAMILIES = { # what differs from the shared settings, by name of the case
    'cnn_ae': dict(model='cnn_ae', head=_head, data=dict(defects=.5), detect=dict(search=True)),
    'resnet_ae': dict(model='resnet_ae'),
    'vit_ae': dict(model='vit_ae'),
    'diffusion_ae': dict(model='diffusion_ae'),
    'feature_ae': dict(model='feature_ae'),
    'feature_ae, pretrained': dict(model='feature_ae', models={'feature_ae': dict(coder='linear', reductions=[4,8], memory=64)},
                                   head=dict(reads='features', nf=8, unet=4, distances=False, loss={'focal': 10}),
                                   train=dict(copies=2), data=dict(defects=.5)),
}

def settings(family, **more):
    "Settings that train in a moment, as a dict for YAML."
    base = dict(model=family, head=None, loss={'l1': 1}, models=TINY, data=dict(size=32, workers=0, defects=0, augment=True),
                train=dict(epochs=2, bs=8, lr=.005, save_every=0), detect=dict(far=.2, search=False, flips=False))
    for part in (FAMILIES[family], more):
        for k,v in part.items(): base[k] = {**base[k], **v} if k in ('data','train','detect','models') else v
    return base

def write_settings(file, family, **more):
    file.write_text(yaml.safe_dump(settings(family, **more)))
    return file

# -- a whole folder

def _whole_csv(p):
    text = p.read_text(encoding='utf-8')
    rows = list(csv.reader(text.splitlines()))
    assert text.endswith('\n') and len({len(o) for o in rows})==1

def _whole_html(p): assert p.read_text(encoding='utf-8').rstrip().endswith('</html>')

def _whole_image(p):
    with Image.open(p) as im: im.load()

_parsers = {'.yaml': lambda p: yaml.safe_load(p.read_text()) or 1/0, '.json': lambda p: json.loads(p.read_text()), '.csv': _whole_csv,
            '.safetensors': load_file, '.npy': np.load, '.html': _whole_html, '.png': _whole_image, '.jpg': _whole_image,
            '.onnx': lambda p: __import__('onnx').load(p), '.md': lambda p: p.read_text(), '.tex': lambda p: p.read_text()}

def half_written(folder):
    "Files under a folder that cannot be read to their end; hidden ones left out."
    bad = []
    for p in sorted(Path(folder).rglob('*')) if Path(folder).exists() else ():
        if p.is_dir() or any(o.startswith('.') for o in p.relative_to(folder).parts): continue
        try: _parsers[p.suffix](p)
        except Exception as e: bad.append(f'{p.name}: {type(e).__name__} {e}')
    return bad

def leftovers(folder):
    "Hidden files, which a finished run has not got; the lock of its writer may stay."
    return [o.name for o in Path(folder).rglob('.*') if o.name not in ('.lock','.writer')]

def content(folder):
    "Bytes of the files under a folder, by name."
    return {o.relative_to(folder).as_posix(): o.read_bytes() for o in sorted(Path(folder).rglob('*')) if o.is_file()}

_spent = ('seconds','minutes','weights') # times, and the hash of a file whose header has no fixed order

def _numbers(o, name=''):
    "Numbers and texts of nested values, by place; times left out."
    if isinstance(o, dict): return {k2: v2 for k,v in o.items() if k not in _spent for k2,v2 in _numbers(v, f'{name}.{k}').items()}
    if isinstance(o, list): return {k2: v2 for k,v in enumerate(o) for k2,v2 in _numbers(v, f'{name}.{k}').items()}
    return {name: o}

def _apart(a, b):
    if isinstance(a, (int,float)) and isinstance(b, (int,float)): return 0. if a==b or a!=a and b!=b else abs(a-b)
    return 0. if a==b else np.inf

def _tables_apart(a, b):
    a,b = (pd.read_csv(o, keep_default_na=False).drop(columns=list(_spent), errors='ignore') for o in (a,b))
    if list(a)!=list(b) or len(a)!=len(b): return np.inf
    return max([_apart(x, y) for c in a for x,y in zip(a[c].tolist(), b[c].tolist())], default=0.)

def _weights_apart(a, b):
    a,b = load_file(a),load_file(b)
    if {k: v.shape for k,v in a.items()}!={k: v.shape for k,v in b.items()}: return np.inf
    return max(0. if torch.equal(a[k], b[k]) else float((a[k].double()-b[k].double()).abs().max()) for k in a)

def _json_apart(a, b):
    a,b = (_numbers(json.loads(o.read_text())) for o in (a,b))
    return max(_apart(a[k], b[k]) for k in a) if a.keys()==b.keys() else np.inf

def runs_apart(a, b):
    "Largest difference of two runs in each of their files: weights, tables, metrics, maps; infinite where texts differ."
    a,b,out = Path(a),Path(b),{}
    for name in ('catalog.csv','history.csv','scores.csv'): out[name] = _tables_apart(a/name, b/name)
    out['model.safetensors'] = _weights_apart(a/'model.safetensors', b/'model.safetensors')
    for name in ('calibration.json','metrics.json'): out[name] = _json_apart(a/name, b/name)
    ours,theirs = (sorted((o/'maps').glob('[!.]*')) for o in (a,b))
    if [o.name for o in ours]!=[o.name for o in theirs]: out['maps'] = np.inf
    else: out['maps'] = max([float(np.abs(np.load(x)-np.load(y)).max()) for x,y in zip(ours, theirs)], default=0.)
    return out
