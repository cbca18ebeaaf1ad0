"""The head on features: what it reads, what it leaves alone, and training on images and on what was read."""
import pytest, torch
from safetensors.torch import load_file, save_file

from aead.config import make_config
from aead.learner import StepLoss
from aead.losses import MaskLoss, WeightedLoss
from aead.models.feature_ae import FeatureAutoencoder, feature_ae
from aead.models.feature_head import FeatureHead, HeadedFeatures, image_channels
from aead.models.head import get_body
from aead.models.zoo import build_model

from ..helpers import TINY, by_setting, by_size, fails

coders = pytest.mark.parametrize('coder', ['conv','linear'])
READS = [{}, dict(errors=False), dict(distances=False), dict(image=False), dict(errors=False, distances=False, image=False)]

def observe(m, x):
    m.observe(lambda n=None: [(x[:n], torch.ones_like(x[:n,0]), torch.arange(len(x))[:n])])
    return m

@pytest.fixture
def headed(pictures):
    "Makes a feature autoencoder with a small head; it has observed eight images."
    def make(ni=1, body=None, hw=(48,64), **kw):
        torch.manual_seed(0)
        m = HeadedFeatures(feature_ae(**{**TINY['feature_ae'], 'ni': ni, **(body or {})}), **{'nf': 8, **kw}).eval()
        return observe(m, pictures(8, ni, hw, seed=5))
    return make

def loss_on(x):
    "The losses of a batch of which all pixels count."
    return StepLoss(WeightedLoss({'l1':1.}), MaskLoss({'focal':10., 'dice':1.}), torch.ones_like(x[:,0]))

def corrupted(x):
    "Images with a bright square each, and its mask."
    y,mask = x.clone(),torch.zeros_like(x[:,0])
    for i in range(len(x)):
        y[i,:,8+i:20+i,16:28] = 1
        mask[i,8+i:20+i,16:28] = 1
    return y, mask

# --- the network

@pytest.mark.parametrize('n', [1,2,4])
@pytest.mark.parametrize('beside', [[0,0,0,0],[7,0,2,1]], ids=['features alone','maps beside'])
def test_any_number_of_levels(n, beside):
    "An output for each level but the coarsest, at its resolution."
    channels,beside,sides = [3,4,5,6][:n],beside[:n],[16,8,4,2][:n]
    head = FeatureHead(channels, beside, nf=4).eval()
    outs = head([torch.randn(2, c+e, k, 2*k) for c,e,k in zip(channels, beside, sides)])
    assert [tuple(o.shape) for o in outs]==[(2,k,2*k) for k in sides[:max(1, n-1)]]
    assert all(o.dtype==torch.float32 for o in outs)

def test_defects_are_rare_at_the_start():
    outs = FeatureHead([3,4,5], [0,0,0]).eval()([torch.zeros(1, c, k, k) for c,k in ((3,8),(4,4),(5,2))])
    assert len(outs)==2 and all(o.sigmoid().mean() < .3 for o in outs)

@pytest.mark.parametrize('up', [1,2,4])
def test_image_channels(up, pictures):
    x = pictures(2, 3, (16,24))
    z = image_channels(x, up)
    assert z.shape==(2, 2*up**2, 16//up, 24//up) and z.abs().max() <= 5
    assert torch.allclose(image_channels(x[:1], up), z[:1], atol=1e-6)
    assert torch.isfinite(image_channels(torch.zeros(1,3,16,24), up)).all()

# --- what it reads

@pytest.mark.parametrize('kw', READS, ids=by_setting)
@pytest.mark.parametrize('ni', [1,3])
def test_reads_what_it_is_told_to(ni, kw, headed, pictures):
    m,x = headed(ni, **kw),pictures(2, ni, (48,64))
    kw = {**dict(errors=True, distances=True, image=True), **kw}
    with torch.no_grad(): inputs,r = m.read(x),m.reconstruct(x)
    n = 2*kw['distances']
    want = [c+e for c,e in zip(m.body.channels, (n+2*16*kw['image'], n, 0))]       # the image in grey
    assert [o.shape[1] for o in inputs]==want and r.maps['head'].shape==r.maps['head_8'].shape==(2,48,64)
    with torch.no_grad(): levels = m.body.scaled(x)
    assert all(torch.equal(a[:,:b.shape[1]], b) for a,b in zip(inputs, levels))

def test_distances_leave_the_own_part_out(headed, pictures):
    m,x = headed(body=dict(memory=8000)),pictures(8, 1, (48,64), seed=5)
    with torch.no_grad(): every,own = m.read(x),m.read(x, torch.arange(8))
    c = m.body.channels[0]+2*16                                         # features and image come first
    assert list(m.body.patches)[0]=='memory_4' and every[0][:,c].max() < .01 < own[0][:,c].mean()
    assert torch.equal(every[0][:,c+1:], own[0][:,c+1:])                  # Gaussian

@coders
@pytest.mark.parametrize('keep', [None, [], ['gaussian_8'], ['feature_16','memory_8']], ids=str)
def test_maps_that_are_kept(coder, keep, headed, pictures):
    m,x = headed(body=dict(coder=coder, keep=keep)),pictures(2, 1, (48,64))
    with torch.no_grad(): a,b = m.reconstruct(x),m.body.reconstruct(x)
    assert list(a.maps)==[*b.maps, 'head', 'head_8'] and torch.allclose(a.xr, b.xr, atol=1e-5)
    assert all(torch.allclose(a.maps[k], b.maps[k], atol=1e-5) for k in b.maps)

@coders
@pytest.mark.parametrize('hw', [(32,32),(33,47),(70,50)], ids=by_size)
def test_an_image_alone_and_in_a_batch(coder, hw, headed, pictures):
    m,x = headed(body=dict(coder=coder)),pictures(3, 1, hw)
    with torch.no_grad(): r,one = m.reconstruct(x),m.reconstruct(x[1:2])
    for k,o in r.maps.items():
        assert o.shape==(3,*hw) and o.isfinite().all() and torch.allclose(one.maps[k][0], o[1], atol=1e-5, rtol=1e-5), k

@pytest.mark.parametrize('v', [0.,.5,1.])
def test_constant_images(v, headed):
    with torch.no_grad(): r = headed().reconstruct(torch.full((2,1,48,64), v))
    assert all(o.isfinite().all() for o in (r.xr, *r.maps.values()))

def test_is_the_body_in_all_else(headed, pictures):
    m,x = headed(),pictures(2, 1, (48,64))
    assert (m.name,m.settings,m.stride,m.min_size)==('feature_ae',m.body.settings,m.body.stride,m.body.min_size)
    with torch.no_grad():
        assert torch.equal(m(x), m.body(x)) and torch.equal(m.encode(x), m.body.encode(x))
        assert torch.equal(m.decode(m.encode(x)), m.body.decode(m.body.encode(x)))

def test_weights_survive(headed, pictures, tmp_path):
    m,x = headed(),pictures(2, 1, (48,64))
    save_file({k:v.contiguous() for k,v in m.state_dict().items()}, tmp_path/'m.safetensors')
    torch.manual_seed(9)
    new = HeadedFeatures(feature_ae(**m.settings), nf=8).eval()
    new.load_state_dict(load_file(tmp_path/'m.safetensors'))
    with torch.no_grad(): a,b = m.reconstruct(x).maps,new.reconstruct(x).maps
    assert a.keys()==b.keys() and all(torch.equal(a[k], b[k]) for k in a)

# --- training

@coders
def test_every_parameter_learns_and_the_encoder_does_not(coder, headed, pictures):
    m,x = headed(body=dict(coder=coder)).train(),pictures(4, 1, (48,64))
    y,mask = corrupted(x)
    m.training_step(y, x, mask, loss_on(x)).backward()
    for k,p in m.named_parameters():
        assert p.requires_grad!=k.startswith('body.encoder.')
        if p.requires_grad: assert p.grad is not None and p.grad.isfinite().all() and p.grad.any(), k
        else: assert p.grad is None, k
    assert not m.body.encoder.training

def test_the_head_sends_no_gradient_to_the_body(headed, pictures):
    m,x = headed(body=dict(noise=0.)),pictures(4, 1, (48,64))
    y,mask = corrupted(x)
    levels = m.body.scaled(y)
    loss = loss_on(x)
    m.training_step(y, x, mask, loss).backward()
    beside = {k:p.grad.clone() for k,p in m.body.coder.named_parameters()}
    m.zero_grad()
    back,xr = m.body.coder.decode(m.body.coder.encode(levels))
    m.body.coder_loss(levels, back, xr, x, mask, loss).backward()
    assert all(torch.allclose(p.grad, beside[k], atol=1e-6) for k,p in m.body.coder.named_parameters())

@coders
def test_a_step_is_the_same_on_what_was_read(coder, headed, pictures):
    m,x = headed(body=dict(coder=coder)),pictures(4, 1, (50,64))
    (y,mask),loss = corrupted(x),loss_on(x)
    with torch.no_grad():
        assert torch.isclose(m.training_step(y, x, mask, loss), m.learn(m.read(y), x, mask, loss), atol=1e-6)
        double = HeadedFeatures(m.body, nf=8, weight=2.).eval()
        double.head.load_state_dict(m.head.state_dict())
        one,two = (o.learn(o.read(y), x, mask, loss) for o in (m, double))
        body = 0 if coder=='linear' else 2*one-two
        assert torch.isclose(two-body, 2*(one-body), atol=1e-4)

def test_learns_to_mark(headed, pictures):
    m,x = headed(body=dict(coder='linear')),pictures(8, 1, (48,64))
    y,mask = corrupted(x)
    inputs,opt = m.read(y),torch.optim.Adam(m.head.parameters(), 1e-2)
    for _ in range(40):
        o = m.train().learn(inputs, x, mask, loss_on(x))
        opt.zero_grad()
        o.backward()
        opt.step()
    with torch.no_grad(): z = m.eval().reconstruct(y).maps['head']
    assert z[mask>0].mean() > z[mask==0].mean()+2

# --- settings

@pytest.mark.parametrize('weight', [0, -1, float('inf'), '1'])
def test_bad_weights(weight, headed): assert 'head.weight' in fails(lambda: headed(weight=weight))

def test_the_body_is_found():
    m = HeadedFeatures(feature_ae(**TINY['feature_ae']), nf=8)
    assert get_body(m) is m.body

def run_of(model, **head): return make_config(model=model, models={model: TINY[model]}, head={'reads':'features', **head}, defects=.5)

def test_from_the_settings_of_a_run():
    m = build_model(run_of('feature_ae', nf=6, weight=.5, errors=False, distances=False, image=False))
    assert isinstance(m, HeadedFeatures) and isinstance(m.body, FeatureAutoencoder) and m.weight==.5
    assert m.head.outs[0].in_channels==6 and not (m.errors or m.distances or m.image)

@pytest.mark.parametrize('model', ['cnn_ae','resnet_ae'])
def test_other_families_have_no_features(model):
    assert "head.reads='images'" in fails(lambda: build_model(run_of(model)))
