"""Training: repeatable, exact after an interruption, averaged, clipped, and stopped by a loss that is not finite."""
import json, os
from functools import partial
from pathlib import Path

import numpy as np, pandas as pd, pytest, torch
from fastai.callback.core import Callback
from fastai.torch_core import set_seed
from safetensors import safe_open
from safetensors.torch import load_file

from aead.files import SCHEMA
from aead.config import resolve_config
from aead.data.dataset import to_tensors
from aead.data.loaders import get_dls
from aead.learner import AnomalyLearner, Trim, anomaly_learner, suspicion, train_model
from aead.models.cnn_ae import CNNAutoencoder
from aead.losses import WeightedLoss, l1

from ..helpers import TINY

LOSS = {'l1':1., 'ssim':1.}
N,STEPS = 5,2 # epochs; batches of an epoch: ten images by four, the rest dropped

@pytest.fixture
def settings(cfg):
    "Settings of a short run: `settings(ema=0)`."
    return lambda **kw: cfg(train=dict(epochs=N, bs=4, **kw))

@pytest.fixture
def make(synth, tiny_model):
    "A new learner: `make(path)`, `make(ema=0, clip=0, model=dict(nf=4))`."
    def f(path=None, seed=0, augment=True, model=None, **kw):
        set_seed(seed)
        dls = get_dls(synth, 32, 4, augment=augment, seed=seed, workers=0, device='cpu')
        return anomaly_learner(dls, tiny_model(**{'ni':1, **(model or {})}), **{'lr':5e-3, 'path':path, **kw})
    return f

@pytest.fixture
def run(synth, settings):
    "Trains by settings: `run(path, resume=True, ema=0)`."
    def f(path=None, resume=False, df=None, **kw):
        return train_model(one_channel(settings(**kw)), synth if df is None else df, path, resume, 'cpu')
    return f

def one_channel(cfg):
    cfg.models['cnn_ae'] = {**cfg.models['cnn_ae'], 'ni':1}
    return cfg

def weights(model): return {k:v.clone() for k,v in model.state_dict().items()}
def same(a, b): return a.keys()==b.keys() and all(torch.equal(a[k], b[k]) for k in a)
def valid_batch(learn): return [torch.cat(o) for o in zip(*learn.dls.valid)]

@pytest.fixture
def bf16(monkeypatch):
    "The fast path takes bfloat16, even where the processor has to emulate it."
    monkeypatch.setattr('aead.learner.has_bf16', lambda device: True)

class Spy(Callback):
    "Calls functions at events: `Spy(after_step=f)`; `order` says when among the others."
    def __init__(self, order=50, **events):
        self.order = order
        for k,f in events.items(): setattr(self, k, partial(f, self))

# --- seeds

def test_same_seed_same_weights(run):
    a = weights(run())
    torch.rand(7)
    np.random.rand(3)
    assert same(a, weights(run()))
    b = weights(run(seed=1))
    assert not any(torch.equal(a[k], b[k]) for k in a if k.endswith('0.weight'))
    assert all(torch.isfinite(v).all() and v.dtype in (torch.float32, torch.int64) for v in a.values())

def test_model_comes_back_ready(run):
    m = run()
    assert not m.training and not any(p.grad is not None and not torch.isfinite(p.grad).all() for p in m.parameters())

def test_training_learns(run, tmp_path):
    run(tmp_path)
    h = pd.read_csv(tmp_path/'history.csv')
    assert list(h)[:5]==['epoch','train_loss','valid_loss','lr','seconds'] and set(h.schema)=={SCHEMA}
    assert h.epoch.tolist()==list(range(N)) and h.train_loss.iloc[-1]<h.train_loss[0]
    assert h.lr.max()<=5e-3*(1+1e-9) and h.lr.iloc[-1]<h.lr.max() and np.isfinite(h.to_numpy()).all()

# --- interruptions

def interrupt(monkeypatch, after, error=KeyboardInterrupt):
    "Stops training at the start of batch `after`, training and validation counted together."
    real,n = AnomalyLearner._do_one_batch,[0]
    def f(self):
        n[0] += 1
        if n[0]>after: raise error
        return real(self)
    monkeypatch.setattr(AnomalyLearner, '_do_one_batch', f)

EPOCH = STEPS+1 # batches, with the one of validation

@pytest.fixture
def whole(run, tmp_path):
    "Weights and losses of a run that nothing interrupted."
    w = weights(run(tmp_path/'whole'))
    return w, pd.read_csv(tmp_path/'whole'/'history.csv').drop(columns='seconds')

@pytest.mark.parametrize('after', [0, 1, EPOCH-1, EPOCH, EPOCH+1, 2*EPOCH-1, 3*EPOCH+1, N*EPOCH-1])
def test_resuming_changes_nothing(run, whole, tmp_path, monkeypatch, after):
    with monkeypatch.context() as m, pytest.raises(KeyboardInterrupt):
        interrupt(m, after)
        run(tmp_path)
    done = after//EPOCH
    assert (tmp_path/'checkpoint.safetensors').exists()==(done>0)
    if done: assert len(pd.read_csv(tmp_path/'history.csv'))==done
    torch.rand(3)
    np.random.rand(3)  # another process has other random numbers
    assert same(weights(run(tmp_path, resume=True)), whole[0])
    assert pd.read_csv(tmp_path/'history.csv').drop(columns='seconds').equals(whole[1])
    assert {o.name for o in tmp_path.iterdir()}=={'checkpoint.safetensors','history.csv','whole'}

@pytest.mark.parametrize('after', range(1, N*EPOCH, 2))
def test_resuming_within_an_epoch_changes_nothing(run, whole, tmp_path, monkeypatch, after):
    "With a checkpoint after each batch, no batch that was done is done again."
    with monkeypatch.context() as m, pytest.raises(KeyboardInterrupt):
        interrupt(m, after)
        run(tmp_path, save_every=0)
    torch.rand(3)
    seen,real = [],AnomalyLearner._do_one_batch
    with monkeypatch.context() as m:
        m.setattr(AnomalyLearner, '_do_one_batch', lambda self: (seen.append((self.epoch, self.iter)), real(self))[1])
        assert same(weights(run(tmp_path, resume=True, save_every=0)), whole[0])
    epoch,batch = divmod(after, EPOCH)
    assert seen[0]==(epoch, batch if batch<STEPS else STEPS-1)          # the last batch of an epoch waits for validation
    assert pd.read_csv(tmp_path/'history.csv').drop(columns='seconds').equals(whole[1])

def test_random_numbers_go_on_within_an_epoch(make, tmp_path):
    "A loss that draws them; the rates of the schedule, which are sums of floats, are the same to the bit."
    def loss(x, xr, valid=None): return l1(x+.1*torch.randn_like(x), xr).mean()
    def rates(seen): return Spy(99, after_step=lambda s: seen.append((s.opt.hypers[-1]['lr'], s.opt.hypers[-1]['mom'])))
    plain,parts = [],[]
    whole = make(loss=loss, cbs=rates(plain))
    whole.fit_one_cycle(4)
    def stop(s):
        if s.training and (s.epoch,s.iter)==(2,1): raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path, loss=loss, save_every=0, cbs=[rates(parts), Spy(before_batch=stop)]).fit_one_cycle(4)
    learn = make(tmp_path, loss=loss, cbs=rates(parts))
    torch.rand(9)
    assert (start := learn.resume())==2 and learn.place.batch==1
    learn.fit_one_cycle(4, start_epoch=start)
    assert same(weights(learn.model), weights(whole.model)) and parts==plain

def test_checkpoints_come_by_time(make, tmp_path, monkeypatch):
    "A clock by hand: ten seconds a batch. None comes so often that it takes over 2 % of the time."
    from aead import learner
    def written(every, took=0.):
        now,at = [0.],[]
        def tick(s): now[0] += 10
        def write(self, epoch, begun=None):
            at.append((epoch, begun and begun['batch']))
            now[0] += took
            self.last,self.took = now[0],took
        with monkeypatch.context() as m:
            m.setattr(learner.time, 'time', lambda: now[0])
            m.setattr(learner.Checkpoint, '_write', write)
            learn = make(tmp_path, save_every=every, cbs=Spy(-50, before_batch=tick))
            learn.dls.train.n = 4*30                                    # thirty batches an epoch
            learn.fit_one_cycle(1)
        return at
    assert written(60)==[(0,6),(0,12),(0,18),(0,24),(1,None)]
    assert written(60, took=2)==[(0,6),(0,16),(0,26),(1,None)]          # 2 s, so 100 s apart
    assert written(1e6)==[(1,None)]
    assert written(0, took=2)==[*((0,k) for k in range(1,30)),(1,None)]

def test_two_interruptions(run, whole, tmp_path, monkeypatch):
    for n,resume in ((EPOCH+1,False), (EPOCH+2,True)):
        with monkeypatch.context() as m, pytest.raises(RuntimeError):
            interrupt(m, n, RuntimeError)
            run(tmp_path, resume)
    assert same(weights(run(tmp_path, resume=True)), whole[0])

@pytest.mark.parametrize('k', [1,3])
def test_interrupted_while_writing(run, whole, tmp_path, monkeypatch, k):
    "The disk is full at the k-th checkpoint: the one before is whole."
    real,n = os.replace,[0]
    def full(tmp, path):
        n[0] += Path(path).suffix=='.safetensors'
        if n[0]==k: raise OSError(28, 'No space left on device')
        return real(tmp, path)
    with monkeypatch.context() as m, pytest.raises(OSError):
        m.setattr(os, 'replace', full)
        run(tmp_path)
    assert not [o for o in tmp_path.iterdir() if o.name.startswith('.')]
    assert same(weights(run(tmp_path, resume=True)), whole[0])

def test_resuming_without_average_or_clipping(run, tmp_path, monkeypatch):
    kw = dict(ema=0, clip=0, wd=0, fast=False)
    want = weights(run(**kw))
    with monkeypatch.context() as m, pytest.raises(KeyboardInterrupt):
        interrupt(m, 2*EPOCH+1)
        run(tmp_path, **kw)
    assert same(weights(run(tmp_path, resume=True, **kw)), want)

def test_resuming_a_run_that_has_ended(run, whole, tmp_path, monkeypatch):
    run(tmp_path)
    def never(self): raise AssertionError('trained again')
    monkeypatch.setattr(AnomalyLearner, '_do_one_batch', never)
    assert same(weights(run(tmp_path, resume=True)), whole[0])

def test_resuming_from_nothing_starts(run, whole, tmp_path):
    assert same(weights(run(tmp_path/'new', resume=True)), whole[0])
    assert same(weights(run(None, resume=True)), whole[0])

def test_a_checkpoint_of_another_model_is_refused(make, tmp_path):
    make(tmp_path).fit_one_cycle(1)
    learn = make(tmp_path, model=dict(nf=4))
    before = weights(learn.model)
    with pytest.raises(ValueError, match='does not fit this model'): learn.resume()
    assert same(weights(learn.model), before)

def test_checkpoint_holds_no_code(run, tmp_path):
    run(tmp_path)
    with safe_open(tmp_path/'checkpoint.safetensors', 'pt') as f: meta = json.loads(f.metadata()['run'])
    assert meta['schema']==SCHEMA and meta['epoch']==N and len(meta['history'])==N

# --- losses that are not finite

def bad_loss(good, value):
    "A loss that goes wrong after `good` calls in training."
    f,n = WeightedLoss(LOSS),[0]
    def loss(x, xr, valid=None):
        n[0] += xr.requires_grad
        return f(x, xr, valid)*(value if n[0]>good else 1)
    return loss

@pytest.mark.parametrize('value', [float('nan'), float('inf')])
@pytest.mark.parametrize('good', [0, STEPS, 2*STEPS+1])
def test_a_loss_that_is_not_finite_stops(make, tmp_path, value, good):
    learn = make(tmp_path, loss=bad_loss(good, value))
    epoch,batch = divmod(good, STEPS)
    told = f'the loss became {value} at batch {batch} of epoch {epoch}'
    with pytest.raises(ValueError, match=told) as e: learn.fit_one_cycle(N)
    assert ('nothing was learned' in str(e.value))==(epoch==0)
    assert 'learning rate' in str(e.value) and '\n' not in str(e.value)
    assert all(torch.isfinite(v).all() for v in learn.model.state_dict().values())
    assert (tmp_path/'checkpoint.safetensors').exists()==(epoch>0)
    if epoch:
        t = load_file(tmp_path/'checkpoint.safetensors')
        assert all(torch.isfinite(v).all() for v in t.values() if v.is_floating_point())
        again = make(tmp_path)
        assert again.resume()==epoch

def test_a_validation_loss_that_is_not_finite_stops(make):
    f = WeightedLoss(LOSS)
    learn = make(loss=lambda x,xr,valid=None: f(x, xr, valid)*(1 if xr.requires_grad else float('nan')))
    with pytest.raises(ValueError, match='the loss became nan'): learn.fit_one_cycle(2)

# --- looking changes nothing

def test_lr_find_leaves_no_trace(make, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plain = make()
    plain.fit_one_cycle(2)
    learn = make(tmp_path/'run')
    before,at = weights(learn.model),torch.get_rng_state()
    found = learn.lr_find(show_plot=False, num_it=12)
    assert all(0<o<10 for o in found) and same(weights(learn.model), before)
    assert learn.checkpoint.history==[] and not (tmp_path/'run'/'checkpoint.safetensors').exists()
    torch.set_rng_state(at)
    learn.fit_one_cycle(2)
    assert same(weights(learn.model), weights(plain.model))
    assert [o['valid_loss'] for o in learn.checkpoint.history]==[o['valid_loss'] for o in plain.checkpoint.history]

def test_lr_find_after_training(make, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    learn = make(tmp_path/'run')
    learn.fit_one_cycle(2)
    raw = (tmp_path/'run'/'checkpoint.safetensors').read_bytes()
    before,h = weights(learn.model),list(learn.checkpoint.history)
    avg = {k:v.clone() for k,v in learn.ema.avg.items()}
    learn.lr_find(show_plot=False, num_it=12)
    assert same(weights(learn.model), before) and same(learn.ema.avg, avg) and learn.checkpoint.history==h
    assert (tmp_path/'run'/'checkpoint.safetensors').read_bytes()==raw

@pytest.mark.parametrize('trained', [False,True])
def test_predictions_leave_no_trace(make, tmp_path, bf16, trained):
    learn = make(tmp_path)
    if trained: learn.fit_one_cycle(2)
    before,h = weights(learn.model),list(learn.checkpoint.history)
    raw = trained and (tmp_path/'checkpoint.safetensors').read_bytes()
    preds = learn.get_preds()[0]
    x = valid_batch(learn)[0]
    learn.model.eval()
    assert preds.dtype==torch.float32                        # bfloat16 has no place in NumPy
    with torch.no_grad(): assert torch.allclose(preds, learn.model(x), atol=.05)
    learn.show_results()
    learn.validate()
    assert same(weights(learn.model), before) and learn.checkpoint.history==h
    if trained: assert (tmp_path/'checkpoint.safetensors').read_bytes()==raw

def test_looking_between_two_fits_changes_nothing(make, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    a,b = make(),make()
    for o in (a,b): o.fit_one_cycle(1)
    b.get_preds()
    b.validate()
    b.lr_find(show_plot=False, num_it=5)
    for o in (a,b): o.fit_one_cycle(2)
    assert same(weights(a.model), weights(b.model))

# --- averages

@pytest.mark.parametrize('decay', [0, .5, .9, .999])
def test_the_average_by_hand(make, decay):
    "Double precision, one weight at a time; the decay starts small: (1+n)/(10+n)."
    seen,swaps = [],[]
    def floats(m): return {k:v.double().clone() for k,v in m.state_dict().items() if v.is_floating_point()}
    def close(a, b): return all(torch.allclose(a[k].double(), b[k], atol=1e-5) for k in b)
    spies = [Spy(99, after_step=lambda s: seen.append(floats(s.model))),
             Spy(99, before_validate=lambda s: swaps.append(floats(s.model)))]
    learn = make(ema=decay, cbs=spies)
    avg = floats(learn.model)
    learn.fit_one_cycle(4)
    assert len(seen)==4*STEPS
    at_epoch = []
    for n,w in enumerate(seen, 1):
        d = min(decay, (1+n)/(10+n))
        avg = {k: d*avg[k]+(1-d)*w[k] for k in w}
        if n%STEPS==0: at_epoch.append(avg)
    assert close(learn.ema.avg, avg)
    assert all(close(a, b) for a,b in zip(swaps, at_epoch))                 # validation looks at the average
    best = int(np.argmin([o['valid_loss'] for o in learn.checkpoint.history]))
    assert close(floats(learn.model), at_epoch[best])                       # the best epoch's is kept
    if decay==0: assert close(floats(learn.model), seen[STEPS*(best+1)-1])

def test_training_goes_on_with_the_raw_weights(make):
    "Averaging looks on: the weights that are trained are those of a run without it."
    def train(decay):
        seen = []
        make(ema=decay, cbs=[Spy(99, after_step=lambda s: seen.append(weights(s.model)))]).fit_one_cycle(3)
        return seen
    assert all(same(a, b) for a,b in zip(train(0), train(.99), strict=True))

def test_validation_loss_is_that_of_the_average(make):
    learn = make(fast=False, loss=LOSS)
    learn.fit_one_cycle(3)
    x,_,_,valid = valid_batch(learn)
    with torch.no_grad(): want = WeightedLoss(LOSS)(x, learn.model.eval()(x), valid).item()
    assert abs(min(o['valid_loss'] for o in learn.checkpoint.history)-want)<1e-5

def test_train_loss_is_the_mean_over_images(make):
    seen = []
    learn = make(cbs=[Spy(after_batch=lambda s: seen.append(s.loss.item()) if s.training else None)])
    learn.fit_one_cycle(2)
    kept = [o['train_loss'] for o in learn.checkpoint.history]
    assert np.allclose(kept, np.reshape(seen, (2,STEPS)).mean(1), atol=1e-6)

# --- gradients

def norm(m): return torch.stack([p.grad.norm() for p in m.parameters()]).norm().item()

@pytest.mark.parametrize('clip', [0, .01, 1.])
def test_clipping(make, clip):
    used = []
    learn = make(clip=clip, loss=lambda x,xr,valid=None: 1e3*l1(x, xr).mean(),
                 cbs=Spy(99, before_step=lambda s: used.append(norm(s.model))))
    learn.fit_one_cycle(1)
    assert len(used)==STEPS and min(used)>0
    if clip: assert max(used)<=clip*(1+1e-4) and min(used)>.99*clip
    else: assert min(used)>10

# --- the fast path

def test_without_the_fast_path(make):
    fast,slow = make(fast=True),make(fast=False)
    for o in (fast,slow): o.fit_one_cycle(3)
    a,b = ([o['valid_loss'] for o in learn.checkpoint.history] for learn in (fast,slow))
    assert np.allclose(a, b, rtol=.1) and not any('FastPath' in type(o).__name__ for o in slow.cbs)
    for learn in (fast,slow): assert all(p.dtype==torch.float32 for p in learn.model.parameters())

def test_the_fast_path_computes_the_loss_in_float32(make, bf16):
    seen = []
    def loss(x, xr, valid=None):
        seen.extend([x.dtype, xr.dtype, (x@x.transpose(-1,-2)).dtype])
        return l1(x, xr).mean()
    learn = make(loss=loss)
    learn.fit_one_cycle(1)
    assert set(seen)=={torch.float32} and not torch.is_autocast_enabled('cpu')
    with pytest.raises(ValueError): make(loss=bad_loss(1, float('nan'))).fit_one_cycle(1)
    assert not torch.is_autocast_enabled('cpu')

def test_the_fast_path_sees_the_same_batches(make):
    def train(fast):
        seen = []
        def look(s):
            if s.training: seen.append((s.xb[0].contiguous().clone(), s.yb[0].clone()))
        make(fast=fast, cbs=[Spy(99, before_batch=look)]).fit_one_cycle(2)
        return seen
    fast,slow = train(True),train(False)
    assert len(fast)==2*STEPS
    assert all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a,b in zip(fast, slow, strict=True))

# --- the rest of the door

def test_metrics_see_the_reconstruction(make, bf16):
    seen = []
    def metric(xr, clean, mask, valid):
        seen.append((xr.shape, clean.shape, mask.shape, valid.shape))
        assert xr.dtype==torch.float32
        return (xr-clean).abs().mean()
    make(metrics=metric).fit_one_cycle(1)
    assert set(seen)=={((2,1,32,32),(2,1,32,32),(2,32,32),(2,32,32))}

def test_loss_may_be_weights_or_a_function(make):
    a,b = make(loss={'l1':1.}),make(loss=lambda x,xr,valid=None: l1(x, xr).mean())
    for o in (a,b):
        set_seed(0)
        o.fit_one_cycle(1)
    assert same(weights(a.model), weights(b.model))
    with pytest.raises(KeyError, match="unknown error map or loss 'l3'.*l1"): make(loss={'l3':1.})

def test_history_is_kept_without_a_folder(make, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    learn = make()
    learn.fit_one_cycle(2)
    assert len(learn.checkpoint.history)==2 and not list(tmp_path.iterdir())

@pytest.mark.parametrize('n', [3,4,5])
def test_few_images(run, synth, n):
    "Batch norm needs two images a batch; a handful must still train."
    df = synth[(synth.split!='train') | (synth.groupby('split').cumcount()<n)]
    m = run(df=df)
    assert all(torch.isfinite(v).all() for v in m.state_dict().values())

def test_padding_does_not_enter_the_loss(synth, tiny_model):
    dls = get_dls(synth, (32,64), 4, resize='pad', augment=False, workers=0, device='cpu')
    learn = anomaly_learner(dls, tiny_model(ni=1), {'l1':1.}, fast=False)
    x,_,_,valid = dls.train.one_batch()
    assert 0 < valid.mean() < 1
    seen = []
    f = learn.loss_func
    def loss(x, xr, valid=None):
        seen.append((f(x, xr, valid), ((x-xr).abs().mean(1)*valid).sum()/valid.sum()))
        return seen[-1][0]
    learn.loss_func = loss
    learn.fit_one_cycle(1)
    assert seen and all(torch.isclose(a, b, atol=1e-6) for a,b in seen)

def test_every_epoch_has_its_own_order_and_augmentation(make):
    "As the loader gives them when asked by number; a resumed run asks for the right ones."
    def train(augment):
        seen = []
        def look(s):
            if s.training: seen.append(s.yb[0].clone())
        learn = make(augment=augment, cbs=Spy(99, before_batch=look))
        learn.fit_one_cycle(3)
        return learn,seen
    for augment in (False,True):
        learn,seen = train(augment)
        for k in range(3):
            learn.dls.train.set_epoch(k)
            assert all(torch.equal(a, b[0]) for a,b in zip(seen[k*STEPS:], learn.dls.train))
        assert len({o.numpy().tobytes() for o in seen})==3*STEPS

def test_random_numbers_go_on_where_they_stopped(make, tmp_path):
    "A loss that draws them, as a model with noise or dropout would."
    def loss(x, xr, valid=None): return l1(x+.1*torch.randn_like(x), xr).mean()
    whole = make(loss=loss)
    whole.fit_one_cycle(4)
    def stop(s):
        if s.epoch==2: raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt): make(tmp_path, loss=loss, cbs=Spy(before_epoch=stop)).fit_one_cycle(4)
    learn = make(tmp_path, loss=loss, seed=0)
    torch.rand(9)
    assert (start := learn.resume())==2
    learn.fit_one_cycle(4, start_epoch=start)
    assert same(weights(learn.model), weights(whole.model))

# --- with a head, by steps, with suspects left out

HEADED = dict(head={'nf':8, 'depth':2, 'memory':16}, data=dict(defects=.6))

@pytest.fixture
def run_headed(synth, cfg):
    "Trains a model with a head: `run_headed(path, steps=9)`."
    def f(path=None, resume=False, **kw):
        return train_model(one_channel(cfg(train={'bs':4, 'steps':9, **kw}, **HEADED)), synth, path, resume, 'cpu')
    return f

def test_the_same_seed_gives_the_same_head_and_memory(run_headed):
    a,b,c = (run_headed(seed=s).state_dict() for s in (0,0,1))
    assert all(torch.equal(a[k], b[k]) for k in a) and not all(torch.equal(a[k], c[k]) for k in a)
    assert a['memory.full'] and a['memory.bank'].any(1).all()

def test_steps_count_batches(run_headed, tmp_path, monkeypatch):
    seen = []
    real = AnomalyLearner._do_one_batch
    monkeypatch.setattr(AnomalyLearner, '_do_one_batch', lambda self: (seen.append(self.training), real(self))[1])
    run_headed(tmp_path, steps=9)
    assert sum(seen)==9 and len(pd.read_csv(tmp_path/'history.csv'))==1

def test_passes_longer_than_the_data_resume_exactly(run_headed, tmp_path, monkeypatch):
    "Three passes of four batches each; cut off in the second."
    monkeypatch.setattr('aead.learner.get_passes', lambda t: (3,4))
    whole = run_headed(tmp_path/'a').state_dict()
    real,n = AnomalyLearner._do_one_batch,[0]
    def cut(self):
        n[0] += self.training
        if n[0]==7: raise KeyboardInterrupt
        return real(self)
    with monkeypatch.context() as m:
        m.setattr(AnomalyLearner, '_do_one_batch', cut)
        with pytest.raises(KeyboardInterrupt): run_headed(tmp_path/'b')
    again = run_headed(tmp_path/'b', resume=True).state_dict()
    assert all(torch.equal(whole[k], again[k]) for k in whole)

def test_suspects_stay_left_out_after_resuming(synth, cfg, tmp_path, monkeypatch):
    kw = dict(train=dict(bs=4, epochs=4, trim=.2))
    def train(path, resume=False): return train_model(one_channel(cfg(**kw)), synth, path, resume, 'cpu').state_dict()
    whole = train(tmp_path/'a')
    real = AnomalyLearner._do_one_batch
    def cut(self):
        if self.epoch==2 and self.training: raise KeyboardInterrupt
        return real(self)
    with monkeypatch.context() as m:
        m.setattr(AnomalyLearner, '_do_one_batch', cut)
        with pytest.raises(KeyboardInterrupt): train(tmp_path/'b')
    again = train(tmp_path/'b', True)
    assert all(torch.equal(whole[k], again[k]) for k in whole)

@pytest.mark.parametrize('epoch,batch', [(2,1),(3,0),(3,1)], ids=str)
def test_resuming_does_not_look_for_suspects_again(synth, cfg, tmp_path, monkeypatch, epoch, batch):
    "With eight epochs it looks before the epochs 2, 4 and 6; what it left out then comes with the checkpoint."
    kw = dict(train=dict(bs=4, epochs=8, trim=.2, save_every=0))
    def train(path, resume=False): return train_model(one_channel(cfg(**kw)), synth, path, resume, 'cpu').state_dict()
    whole = train(tmp_path/'a')
    real = AnomalyLearner._do_one_batch
    def cut(self):
        if self.training and (self.epoch,self.iter)==(epoch,batch): raise KeyboardInterrupt
        return real(self)
    with monkeypatch.context() as m:
        m.setattr(AnomalyLearner, '_do_one_batch', cut)
        with pytest.raises(KeyboardInterrupt): train(tmp_path/'b')
    looked,look = [],Trim.look
    monkeypatch.setattr(Trim, 'look', lambda self: (looked.append(self.epoch), look(self))[1])
    again = train(tmp_path/'b', True)
    assert looked==[4,6] and all(torch.equal(whole[k], again[k]) for k in whole)

def test_trim_leaves_out_what_is_odd(synth, tiny_model, tmp_path):
    import cv2
    odd = synth.copy()
    rows = odd.index[odd.split=='train']
    for i in rows[:2]:
        odd.loc[i, 'path'] = str(tmp_path/f'{i}.png')
        cv2.imwrite(odd.path[i], np.random.default_rng(i).integers(0, 2, (32,32), np.uint8)*255)
    set_seed(0)
    learn = anomaly_learner(get_dls(odd, 32, 4, workers=0, device='cpu'), tiny_model(ni=1), lr=5e-3, trim=2/len(rows))
    learn.fit_one_cycle(4, 5e-3)
    assert learn.dls.train.dataset.use==list(range(2, len(rows)))

def test_trim_keeps_a_batch(synth, tiny_model):
    learn = anomaly_learner(get_dls(synth, 32, 4, workers=0, device='cpu'), tiny_model(ni=1), trim=.99)
    learn.fit_one_cycle(2, 5e-3)
    assert len(learn.dls.train.dataset.use)==(synth.split=='train').sum()

def test_without_a_head_defects_are_removed(synth, cfg):
    "Denoising: `clean` is what is to come back."
    m = train_model(one_channel(cfg(train=dict(epochs=1, bs=4), data=dict(defects=1.))), synth, device='cpu')
    assert not m.reconstruct(torch.rand(1,1,32,32)).maps

# --- tiles

def test_training_on_crops(synth, cfg):
    "Batches are crops, and the model learns and remembers at their size; a frame that is one tile trains as without tiles."
    def seen(**data):
        sizes,c = set(),cfg(data={'layout':'csv', 'defects':.5, **data}, train=dict(epochs=1), head={'nf':8, 'depth':2, 'memory':16})
        def watch(m, args): isinstance(m, CNNAutoencoder) and sizes.add(tuple(args[0].shape[-2:]))
        hook = torch.nn.modules.module.register_module_forward_pre_hook(watch)
        try: return sizes,train_model(resolve_config(c, 1), synth, device='cpu')
        finally: hook.remove()
    sizes,model = seen(size=[64,80], tile=32)
    assert sizes=={(32,32)} and model.memory.full
    a,b = seen(size=32, tile=32)[1],seen(size=32)[1]
    assert all(torch.equal(p, q) for p,q in zip(a.state_dict().values(), b.state_dict().values()))

def test_trim_looks_at_every_view(synth, tiny_model):
    dls = get_dls(synth, 64, 4, workers=0, device='cpu', crop=(32,32))
    learn = anomaly_learner(dls, tiny_model(ni=1), lr=5e-3, trim=.3)
    learn.fit(2)
    trim = next(o for o in learn.cbs if isinstance(o, Trim))
    ds = dls.train.dataset
    ds.use = list(range(10))
    found = trim.look()
    with learn.ema.averaged():
        learn.model.eval()
        each = [suspicion(learn.model, torch.stack([to_tensors(x, x, None, v)[0] for x,_,v in ds.views(i)]), torch.ones(4,32,32)).max() for i in range(10)]
    assert torch.allclose(found, torch.stack(each), atol=1e-6)

# --- models with a frozen encoder

@pytest.fixture
def run_features(synth, cfg):
    "Trains a feature autoencoder: `run_features(path, coder='linear', head=None, steps=9)`."
    def f(path=None, resume=False, model=None, head='features', df=None, **train):
        on_features = {'reads':'features', 'nf':8}
        head = {'features': on_features, 'unet': {**on_features, 'unet':4}, 'images': {'nf':8, 'depth':2, 'memory':8}}.get(head)
        models = {'feature_ae': {**TINY['feature_ae'], 'ni':1, **(model or {})}}
        train = {'bs':4, 'epochs':2, 'copies':2, **train}
        c = cfg(model='feature_ae', models=models, head=head, train=train, data=dict(defects=.6))
        return train_model(c, synth if df is None else df, path, resume, 'cpu')
    return f

KINDS = [dict(), dict(model=dict(coder='linear')), dict(head=None), dict(head='images'), dict(trim=.2),
         dict(keep_mb=0, crop=32), dict(head='images', model=dict(coder='linear')),
         dict(head='unet', model=dict(coder='linear')), dict(head='unet', crop=32)]

@pytest.mark.parametrize('kw', KINDS, ids=str)
def test_features_resume_exactly(kw, run_features, tmp_path, monkeypatch):
    "Cut off in the second epoch after a batch; the weights, the banks and the history are those of a whole run."
    kw = {**kw, 'save_every': 0}
    whole = run_features(tmp_path/'a', **kw).state_dict()
    real = AnomalyLearner._do_one_batch
    def cut(self):
        if self.epoch==1 and self.training and self.iter==1: raise KeyboardInterrupt
        return real(self)
    with monkeypatch.context() as m:
        m.setattr(AnomalyLearner, '_do_one_batch', cut)
        with pytest.raises(KeyboardInterrupt): run_features(tmp_path/'b', **kw)
    again = run_features(tmp_path/'b', True, **kw).state_dict()
    assert all(torch.equal(whole[k], again[k]) for k in whole)
    a,b = (pd.read_csv(tmp_path/o/'history.csv').drop(columns='seconds') for o in 'ab')
    assert len(a)==2 and a.equals(b)
    assert same(whole, run_features(tmp_path/'a', True, **kw).state_dict())        # nothing is left to train

@pytest.mark.parametrize('kw', KINDS[:4], ids=str)
def test_features_are_observed_and_the_encoder_stays(kw, run_features):
    m = run_features(**kw)
    body = getattr(m, 'body', m)
    banks = [o for n,o in body.patches.items() if n.startswith('memory')]
    assert banks and all(o.full and o.bank.any(1).all() for o in banks) and not m.training
    set_seed(0)
    fresh = type(body)(**body.settings)
    assert same(weights(fresh.encoder), weights(body.encoder))

def test_a_move_that_is_open_is_left_out_where_it_shows(synth, cfg, monkeypatch):
    "For the U-Net alone. Moves that are given stay; where good images cannot tell, open moves have their defaults."
    from aead import learner
    models = {'feature_ae': {**TINY['feature_ae'], 'ni':1, 'coder':'linear'}}
    head,data = {'reads':'features', 'nf':8, 'unet':4},dict(defects=.5)
    def used(told, **augment):
        seen = {}
        def fit(cfg, dls, *args): seen.update(ds=dls.train.dataset)
        with monkeypatch.context() as m:
            m.setattr(learner, 'tell_moved', lambda model, dls, names: {k: told for k in names})
            m.setattr(learner, '_fit', fit)
            c = cfg(model='feature_ae', models=models, head=head, data=dict(augment=augment, **data), train=dict(copies=1))
            train_model(c, synth, device='cpu')
        moved = [[o.p for o in d.tfm[1:4]] for d in (seen['ds'].ds, seen['ds'].pictures)]
        assert moved[0]==[.5 if augment.get(k) is None else augment[k] for k in ('hflip','vflip','rotate90')]
        return moved[1]
    assert used(1., hflip=None, rotate90=None)==[0,.5,0]
    assert used(.9, hflip=None, rotate90=.25)==[.5,.5,.25]
    models['feature_ae'].update(memory=0, gaussian=False)
    assert used(1., hflip=None, rotate90=None)==[.5,.5,.5]

def test_without_anything_to_train_the_history_has_no_rows(run_features, tmp_path):
    m = run_features(tmp_path, head=None, model=dict(coder='linear'))
    h = pd.read_csv(tmp_path/'history.csv')
    assert h.empty and list(h)==['epoch','train_loss','valid_loss','lr','seconds','schema'] and not m.training
    assert [o.name for o in tmp_path.iterdir()]==['history.csv']
    assert same(weights(m), weights(run_features(tmp_path, True, head=None, model=dict(coder='linear'))))

def test_steps_on_kept_features_count_batches(run_features, tmp_path, monkeypatch):
    seen,real = [],AnomalyLearner._do_one_batch
    monkeypatch.setattr(AnomalyLearner, '_do_one_batch', lambda self: (seen.append(self.training), real(self))[1])
    run_features(tmp_path, steps=9)
    assert sum(seen)==9 and len(pd.read_csv(tmp_path/'history.csv'))==1

def test_features_are_trimmed_before_they_are_learned(run_features, synth, tmp_path, monkeypatch):
    "An image of noise is left out of the banks and of training."
    import cv2
    from aead import learner
    odd = synth.copy()
    rows = odd.index[odd.split=='train']
    odd.loc[rows[0], 'path'] = str(tmp_path/'noise.png')
    cv2.imwrite(odd.path[rows[0]], np.random.default_rng(0).integers(0, 2, (32,32), np.uint8)*255)
    seen,real = [],learner._keep
    monkeypatch.setattr(learner, '_keep', lambda cfg, model, dls, *a: (seen.append(dls.train.dataset.use), real(cfg, model, dls, *a))[1])
    run_features(df=odd, trim=1/len(rows), model=dict(backbone='tf_efficientnet_lite0', pretrained=True, memory=200))
    assert seen==[list(range(1, len(rows)))]

@pytest.mark.parametrize('trim', [.5,.99])
def test_trimming_leaves_an_image(trim, run_features): assert not run_features(trim=trim).training
