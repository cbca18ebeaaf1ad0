"Training by two processes: the same steps as one process takes with the whole batch, one writer, and a clear end if a process is lost."
import json, os, socket, subprocess, sys
from pathlib import Path

import pandas as pd, pytest, torch
from safetensors.torch import load_file

from aead.cli import main
from aead.config import config_from_dict
from aead.learner import Checkpoint
from aead.models.zoo import create_autoencoder
from aead.processes import draw_rows, get_part, is_follower, is_launched, SharedBatchNorm, sharing, weighted_mean
from aead.runs import train

from ..helpers import make_layout, TINY

pytest.importorskip('accelerate')

# What each of the processes does: a run, one that is interrupted in its second epoch and resumed, and one with kept features. The report is left out.
_script = '''
import json, os, sys, time, warnings
warnings.simplefilter('ignore')
import torch
torch.set_num_threads(1)
from pathlib import Path
from aead.config import config_from_dict
from aead.learner import Checkpoint
from aead.processes import get_team
from aead.runs import train
out,cfgs = Path(sys.argv[1]),json.loads(Path(sys.argv[2]).read_text())
first,said = os.environ['RANK']=='0',{}
train.evaluate_run = lambda out, **kwargs: {'pid': os.getpid(), 'lock': (out/'.writer').read_text()}
def run(name, key, **kwargs): return train.train_run(out/name, config_from_dict(cfgs[key]), device='cpu', **kwargs)
for name in ('cnn','features'): said[name] = run(name, name)
said['resumed'] = run('resumed', 'cnn', resume=True)
after,left = Checkpoint.after_batch,[9]
def cut(self):
    after(self)
    left[0] -= self.training
    if not left[0] and first: raise KeyboardInterrupt
Checkpoint.after_batch = cut
try: run('cut', 'cnn')
except (KeyboardInterrupt, ValueError) as e: said['cut'] = [type(e).__name__, str(e), e.process, get_team() is None]
try: run('cut', 'cnn', resume=True)
except ValueError as e: said['again'] = str(e)
(out/f"said-{os.environ['RANK']}.json").write_text(json.dumps(said))
for _ in range(300):                       # the other one has to notice while this one lives
    if first and not (out/'said-1.json').exists(): time.sleep(.1)
'''

def _env(rank, size=2, port=0):
    return {**os.environ, 'RANK': str(rank), 'LOCAL_RANK': str(rank), 'WORLD_SIZE': str(size), 'MASTER_ADDR': '127.0.0.1',
            'MASTER_PORT': str(port), 'AEAD_PROGRESS': 'lines', 'PYTHONPATH': str(Path(__file__).parents[2])}

def _free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]

def _settings(part, model, head, data, **kw):
    base = dict(data=dict(size=32, layout='folder', path=str(part), workers=0, **data), model=model, head=head, loss={'l1': 1},
                models={**TINY, 'feature_ae': dict(TINY['feature_ae'], coder='linear', reductions=[4,8])},
                train=dict(epochs=2, lr=2e-3, fast=False, save_every=0, **kw), detect=dict(far=.2, search=False))
    return base

def _interrupt(out, cfg, left=9):
    "A run that one process begins, interrupted in its second epoch."
    after = Checkpoint.after_batch
    def cut(self):
        nonlocal left
        after(self)
        left -= self.training
        if not left: raise KeyboardInterrupt
    with pytest.MonkeyPatch.context() as m, pytest.raises(KeyboardInterrupt):
        m.setattr(Checkpoint, 'after_batch', cut)
        train.train_run(out, cfg, device='cpu')

@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    "Folders of the same runs by two processes and by one, and what each of the two and the terminal got to know."
    root = tmp_path_factory.mktemp('processes')
    part,port = make_layout(root/'part', 'folder', bad=2),_free_port()
    loss = {'focal': 10, 'dice': {'weight': 1, 'empty': False}}
    cfgs = {'cnn': _settings(part, 'cnn_ae', dict(nf=8, depth=2, gated=True, memory=32, loss=loss), dict(defects=.6, augment=dict(zoom=.2)), bs=3, trim=.1),
            'features': _settings(part, 'feature_ae', dict(reads='features', nf=8, unet=4, distances=False, loss=loss), dict(defects=.75), bs=7, copies=2)}
    (root/'cfgs.json').write_text(json.dumps(cfgs))
    _interrupt(root/'two'/'resumed', config_from_dict(cfgs['cnn']))
    cmd = [sys.executable, '-c', _script, str(root/'two'), str(root/'cfgs.json')]
    ps = [subprocess.Popen(cmd, env=_env(r, port=port), stderr=subprocess.PIPE, text=True) for r in range(2)]
    with pytest.MonkeyPatch.context() as m:                                       # meanwhile, the same by one process
        m.setattr(train, 'evaluate_run', lambda out, **kwargs: {})
        for k,v in cfgs.items(): train.train_run(root/'one'/k, config_from_dict(v), device='cpu')
    errors = [p.communicate(timeout=240)[1] for p in ps]
    assert [p.returncode for p in ps]==[0,0], errors
    return root, [json.loads((root/'two'/f'said-{r}.json').read_text()) for r in range(2)], errors

@pytest.mark.parametrize('name, alone', [('cnn','cnn'), ('features','features'), ('resumed','cnn')], ids=['whole','kept features','resumed'])
def test_same_steps(runs, name, alone):
    "Losses and weights are those of one process, with parts of unequal size and a batch that is smaller than the others in validation."
    a,b = (pd.read_csv(runs[0]/o/'history.csv') for o in (f'one/{alone}', f'two/{name}'))
    assert len(a)==len(b)==2 and (a.lr==b.lr).all()
    for k in ('train_loss','valid_loss'): assert (a[k]-b[k]).abs().max() < 1e-4
    u,v = (load_file(runs[0]/o/'model.safetensors') for o in (f'one/{alone}', f'two/{name}'))
    assert u.keys()==v.keys() and len(u) > 20
    for k in u: torch.testing.assert_close(v[k], u[k], rtol=0, atol=1e-4, msg=k)

def test_one_writer(runs):
    "The first process alone writes and speaks; the others hear what it has in the end."
    root,(first,second),errors = runs
    for k in ('cnn','features','resumed'): assert first[k]==second[k] and first[k]['lock']==str(first[k]['pid'])
    assert 'epoch 2/2' in errors[0] and errors[0].count('16 images observed')==1 and not errors[1].strip()
    assert not [o for o in (root/'two').rglob('.aead-*')] and not [o for o in (root/'two').rglob('*.lock')]

def test_lost_process(runs):
    "If the first process ends, the others end with a line; they do not meet again, but one process can go on with the run."
    root,(first,second),_ = runs
    assert first['cut']==['KeyboardInterrupt', '', 'process 1 of 2', True] and first['again']==second['again']
    assert second['cut'][0]=='ValueError' and 'the first process ended' in second['cut'][1] and second['cut'][2:]==['process 2 of 2', True]

# --- without a second process

def test_parts():
    for n in range(1, 9):
        for size in range(1, 5):
            parts = [get_part(n, r, size) for r in range(size)]
            assert [i for p in parts for i in range(p.low, p.high)]==list(range(n)) and max(p.high-p.low for p in parts)-min(p.high-p.low for p in parts) <= 1

def test_empty_part():
    "A process without a row computes one that does not count, with random numbers of the whole batch."
    torch.manual_seed(0)
    with sharing(get_part(1, 0, 2)):
        assert draw_rows(lambda n: torch.rand(n, 2), 1).shape==(1,2)
        assert weighted_mean(torch.ones(1), torch.ones(1))==1 and torch.isfinite(weighted_mean(torch.ones(1), torch.zeros(1)))

@pytest.mark.parametrize('channels_last', [False, True])
def test_batch_norm(channels_last):
    "As PyTorch's layer, in double precision too, and in evaluation mode."
    a,b,x = torch.nn.BatchNorm2d(4),SharedBatchNorm(4),3+2*torch.randn(5,4,3,3)
    if channels_last: x = x.contiguous(memory_format=torch.channels_last)
    for _ in range(3):
        with sharing(get_part(5, 0, 1)): torch.testing.assert_close(b(x), a(x), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(a.state_dict(), b.state_dict(), rtol=1e-5, atol=1e-5)
    with sharing(get_part(5, 0, 1)): torch.testing.assert_close(b.eval()(x), a.eval()(x))

@pytest.mark.parametrize('name', [o for o in TINY if o!='cnn_ae'])
def test_draws(name, pictures):
    "A model draws for a part of a batch what it draws for the whole: the losses of the parts make that of the batch."
    model,x = create_autoencoder(name, **TINY[name]).eval(),pictures(5)
    if name in ('vit_ae','diffusion_ae'): model.train()
    def loss(x, xr): return (x-xr).square().mean()
    def step(part):
        torch.manual_seed(1)
        rows = slice(part.low, part.high)
        with sharing(part), torch.no_grad(): return model.training_step(x[rows], x[rows], None, loss)*(part.high-part.low)/part.n
    assert abs(sum(step(get_part(5, r, 2)) for r in range(2))-step(get_part(5, 0, 1))) < 1e-5

@pytest.fixture
def launched(monkeypatch):
    "Environment of the first, or another, of several processes."
    def be(rank=0, **kw):
        for k,v in {**{k: v for k,v in _env(rank).items() if k in ('RANK','LOCAL_RANK','WORLD_SIZE','MASTER_ADDR','MASTER_PORT')}, **kw}.items(): monkeypatch.setenv(k, v)
        monkeypatch.setenv('MASTER_PORT', '1')
    return be

def test_launched(launched, monkeypatch):
    assert not is_launched() and not is_follower()
    launched(1)
    assert is_launched() and is_follower()
    monkeypatch.delenv('MASTER_ADDR')
    assert not is_launched()                             # a number alone, as some clusters set it, is no launcher

def test_refused(launched, monkeypatch, tmp_path, capsys):
    "Bad launches end with one line of the first process, and status 2."
    def says(argv, rank=0, **kw):
        launched(rank, **kw)
        with pytest.raises(SystemExit) as e: main(argv)
        assert e.value.code==2
        return capsys.readouterr().err
    train = ['train', '--layout', 'synthetic', '--out', str(tmp_path/'run'), '--device', 'cpu']
    assert 'one process' in says(['evaluate', '--run', 'x']) and not says(['evaluate', '--run', 'x'], 1)
    assert 'unknown option' in says([*train, '--sizes', '3']) and not says([*train, '--sizes', '3'], 1)
    assert 'one machine' in says(train, LOCAL_WORLD_SIZE='1')
    monkeypatch.delenv('LOCAL_WORLD_SIZE')
    monkeypatch.setattr('aead.files.find_spec', lambda name: None)
    line = says(train)
    assert "'.[distributed]'" in line and line.count('\n')==1 and not (tmp_path/'run').exists()
