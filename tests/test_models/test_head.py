"""The defect head on every family: what it adds, and what it leaves alone."""
import pytest, torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from aead.runs.benchmark import peak_memory
from aead.config import make_config
from aead.learner import StepLoss
from aead.losses import MaskLoss, WeightedLoss
from aead.models.base import model_registry
from aead.models.head import (
    GatedBlock, HeadedAutoencoder, ImageGate, get_body, instance_normalize, window_contrast_normalize)
from aead.models.zoo import build_model
from aead.viz.explain import visualize_attention_maps

from ..helpers import TINY, by_setting, by_size

every_model = pytest.mark.parametrize('name', sorted(model_registry))
loss = StepLoss(WeightedLoss({'l1':1.}), MaskLoss({'focal':10., 'dice':1.}), None)

@pytest.fixture
def headed(tiny_model):
    "Makes a family with a small head."
    def make(name='cnn_ae', ni=3, **kw):
        torch.manual_seed(0)
        return HeadedAutoencoder(tiny_model(name, ni=ni), **{'nf':8, 'depth':3, **kw})
    return make

def corrupted(x, seed=0):
    "Images with a bright square each, and its mask."
    g = torch.Generator().manual_seed(seed)
    y,mask = x.clone(),torch.zeros_like(x[:,0])
    for i,(r,c) in enumerate(torch.randint(0, x.shape[-1]-10, (len(x),2), generator=g).tolist()):
        y[i,:,r:r+9,c:c+9] = 1
        mask[i,r:r+9,c:c+9] = 1
    return y, mask

@every_model
@pytest.mark.parametrize('gated', [False,True])
@pytest.mark.parametrize('ni,hw', [(1,(32,32)),(3,(32,48)),(5,(40,33))], ids=str)
def test_maps(name, ni, hw, gated, headed, pictures):
    m,x = headed(name, ni, memory=20, gated=gated).eval(),pictures(3, ni, hw)
    with torch.no_grad():
        m.remember([(x, torch.ones(3,*hw))])
        plain,r = m.body.reconstruct(x),m.reconstruct(x)
        assert torch.equal(r.xr, plain.xr) and set(r.maps)-set(plain.maps)=={'head','memory'}
        one = m.reconstruct(x[1:2]).maps
        for k in ('head','memory'):
            assert r.maps[k].shape==(3,*hw) and r.maps[k].isfinite().all() and r.maps[k].dtype==torch.float32
            assert torch.allclose(one[k], r.maps[k][1:2], atol=1e-4)      # independent of the other images

@every_model
@pytest.mark.parametrize('gated', [False,True])
def test_learns_to_mark_and_leaves_the_body_alone(name, gated, headed, pictures):
    m,x = headed(name, gated=gated),pictures(8)
    y,mask = corrupted(x)
    opt = torch.optim.Adam(m.parameters(), 5e-3)
    def apart():
        with torch.no_grad(): z = m.eval().reconstruct(y).maps['head']
        return (z[mask>0].mean()-z[mask==0].mean()).item()
    m.train()
    o = m.training_step(y, x, mask, loss)
    assert o.isfinite() and o.ndim==0
    o.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in m.head.parameters())
    before = apart()
    for _ in range(60):
        o = m.train().training_step(y, x, mask, loss)
        opt.zero_grad()
        o.backward()
        opt.step()
    assert apart() > before+1

@every_model
def test_the_head_sends_no_gradient_to_the_body(name, headed, pictures):
    "The body learns as without a head."
    m,x = headed(name).eval(),pictures(2)
    y,mask = corrupted(x)
    def grads(step):
        m.zero_grad()
        step(y, x, mask, loss).backward()
        return {k: p.grad for k,p in m.body.named_parameters() if p.grad is not None}
    alone,beside = grads(m.body.training_step),grads(m.training_step)
    assert alone.keys()==beside.keys() and all(torch.allclose(g, beside[k], atol=1e-6) for k,g in alone.items())
    assert any(p.grad.any() for p in m.head.parameters())

@every_model
def test_is_the_body_in_all_else(name, headed, pictures):
    m,x = headed(name).eval(),pictures(2)
    assert (m.name,m.settings,m.stride,m.min_size)==(name,m.body.settings,m.body.stride,m.body.min_size)
    assert m.prepare is m.body.prepare
    with torch.no_grad(): assert torch.equal(m(x), m.body(x))
    a,b = m.draw_noise((3,32,32), 1),m.body.draw_noise((3,32,32), 1)
    assert a is None and b is None or torch.equal(a, b)
    assert get_body(m) is m.body and get_body(m.body) is m.body
    with pytest.raises(AttributeError, match="'HeadedAutoencoder' object has no attribute 'no_such_thing'"):
        m.no_such_thing # noqa: B018 (reading it is the test)
    assert m.n_params()==m.body.n_params()+sum(p.numel() for p in m.head.parameters())
    assert peak_memory(m, x) >= peak_memory(m.body, x)

def test_weights_lie_under_body_head_and_memory(headed):
    m = headed(memory=5)
    assert list(dict.fromkeys(k.split('.')[0] for k in m.state_dict()))==['body','head','memory']

def test_attention_of_the_body_is_shown(headed, pictures):
    m,x = headed('vit_ae'),pictures(1)[0]
    a,b = (visualize_attention_maps(o, x) for o in (m, m.body))
    assert len(a.axes)==len(b.axes)

@pytest.mark.parametrize('gated', [False,True])
def test_weights_survive_with_the_memory(gated, headed, pictures, tmp_path):
    m,x = headed(memory=12, gated=gated).eval(),pictures(4)
    m.remember([(x, torch.ones(4,32,32))])
    save_file({k:v.contiguous() for k,v in m.state_dict().items()}, tmp_path/'m.safetensors')
    new = headed(memory=12, gated=gated).eval()
    new.load_state_dict(load_file(tmp_path/'m.safetensors'))
    with torch.no_grad(): a,b = m.reconstruct(x).maps,new.reconstruct(x).maps
    assert a.keys()==b.keys() and all(torch.equal(a[k], b[k]) for k in a)
    assert bool(new.memory.full)

def test_memory_does_not_depend_on_batches_and_skips_padding(headed, pictures):
    x,valid = pictures(6),torch.ones(6,32,32)
    valid[:,:,16:] = 0
    banks = []
    for bs in (1,4,6):
        m = headed(memory=10).eval()
        m.remember([(x[i:i+bs], valid[i:i+bs]) for i in range(0, 6, bs)], n=64)
        banks.append(m.memory.bank.clone())
    assert all(torch.allclose(banks[0], o, atol=1e-4) for o in banks[1:])
    assert banks[0].shape==(10,16)
    few = torch.zeros(6,32,32)
    few[0,:4,:8] = 1                                                     # two patches
    m = headed(memory=10).eval()
    m.remember([(x, few)])
    assert len(m.memory.bank.unique(dim=0))==2

@pytest.mark.parametrize('window', [3,7,15])
def test_local_contrast_against_pooling(window, pictures):
    x = pictures(2, 3, (30,41)).double()
    def mean(o): return F.avg_pool2d(F.pad(o, (window//2,)*4, mode='replicate'), window, 1)
    d = x-mean(x)
    assert torch.allclose(window_contrast_normalize(x, window), d/((mean(d*d)).sqrt()+.02), atol=1e-6)

@pytest.mark.parametrize('gain,offset', [(.2,.1),(.5,.5),(1,0)])
def test_exposure_does_not_matter(gain, offset, pictures):
    x = pictures(2)
    assert torch.allclose(instance_normalize(gain*x+offset)[0], instance_normalize(x)[0], atol=1e-4)

def with_busy_gates(m, seed=0):
    "`m` with gates that do something."
    torch.manual_seed(seed)
    for o in m.modules():
        if not isinstance(o, ImageGate): continue
        torch.nn.init.normal_(o.turn.weight, std=.3)
        torch.nn.init.normal_(o.turn.bias, std=.3)
    return m.eval()

@pytest.mark.parametrize('shape', [(1,4,4),(5,8,6),(16,33,7)], ids=by_size)
def test_gate_by_hand(shape, rng):
    g = with_busy_gates(ImageGate(shape[0]))
    f = torch.tensor(rng.normal(size=(3,*shape)), dtype=torch.float32)
    with torch.no_grad():
        for got,o in zip(g(f), f):
            look = torch.cat([o.mean((1,2)), (o.var((1,2), correction=0)+1e-4).sqrt()])
            h = g.read.weight@look+g.read.bias
            scale,shift = (g.turn.weight@torch.where(h>0, h, .1*h)+g.turn.bias).split(shape[0])
            assert torch.allclose(got, o*(1+scale.tanh())[:,None,None]+shift[:,None,None], atol=1e-5)

def test_one_odd_image_does_not_run_away():
    "A chain of gates grows with what it is given, not with its powers."
    torch.manual_seed(0)
    gates = torch.nn.Sequential(*[ImageGate(8) for _ in range(6)])
    for o in gates: torch.nn.init.normal_(o.turn.weight, std=.1)
    f = torch.randn(1,8,8,8)
    with torch.no_grad(): assert gates(1e3*f).abs().max() < 1e6

@pytest.mark.parametrize('ni,no,stride', [(4,4,1),(4,8,1),(4,4,2),(3,8,2)])
def test_gated_block_is_its_shortcut_where_the_convolutions_are_silent(ni, no, stride, rng):
    b = GatedBlock(ni, no, stride).eval()
    torch.nn.init.zeros_(b.two[1].weight)
    f = torch.tensor(rng.normal(size=(2,ni,8,12)), dtype=torch.float32)
    with torch.no_grad():
        want = f if (ni,stride)==(no,1) else b.short[2](F.conv2d(F.avg_pool2d(f, stride), b.short[1].weight))
        assert torch.allclose(b(f), F.leaky_relu(want, .1), atol=1e-6) and b(f).shape==(2,no,8//stride,12//stride)

def test_gates_look_at_the_whole_image_and_at_no_other(headed, pictures):
    m,x = with_busy_gates(headed(gated=True).head),pictures(2)
    with torch.no_grad():
        far = x[:1].clone()
        far[...,-4:,-4:] = 1                          # the other corner changes
        a,b = (m(o, o)[0,:4,:4] for o in (x[:1], far))
        assert not torch.allclose(a, b, atol=1e-4)
        assert torch.allclose(m(x, x)[:1], m(x[:1], x[:1]), atol=1e-5)

def test_plain_heads_have_the_weights_they_had(headed):
    "Runs made before there were gates load."
    norm = ['1.weight','1.bias','1.running_mean','1.running_var','1.num_batches_tracked']
    two = [f'{i}.{k}' for i in (0,1) for k in ('0.weight', *norm)]
    want = {f'{part}.{k}' for part in ('stem.1','downs.0','downs.1','ups.0','ups.1') for k in two}
    want |= {f'{part}.{k}' for part in ('narrow.0','narrow.1','out') for k in ('weight','bias')}
    assert set(headed(depth=3).head.state_dict())==want

@pytest.mark.parametrize('gated', [False,True])
@pytest.mark.parametrize('empty', [0.,.5,1.])
def test_empty_images(empty, gated, headed):
    m,x = with_busy_gates(headed(gated=gated)),torch.full((2,3,32,32), empty)
    with torch.no_grad(): assert all(o.isfinite().all() for o in m.reconstruct(x).maps.values())

@pytest.mark.parametrize(
    'kw', [dict(nf=0), dict(depth=1.5), dict(weight=-1), dict(weight=float('inf'))], ids=by_setting)
def test_bad_settings(kw, headed):
    with pytest.raises(ValueError, match=f'head.{next(iter(kw))}'): headed(**kw)

@every_model
def test_from_settings(name, pictures):
    head = {'nf':8, 'depth':2, 'memory':5, 'gated':True}
    cfg = make_config(model=name, models={name: TINY[name]}, head=head, defects=.5)
    m = build_model(cfg)
    assert isinstance(m, HeadedAutoencoder) and m.memory.bank.shape==(5,16)
    assert any(isinstance(o, ImageGate) for o in m.head.modules())
    plain = build_model(make_config(model=name, models={name: TINY[name]}, defects=.5))
    assert not isinstance(plain, HeadedAutoencoder)
    with pytest.raises(ValueError, match='data.defects'): build_model(make_config(model=name, head=True))
