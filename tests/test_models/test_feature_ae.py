"""The feature autoencoder: what it observes, its maps, its training, and what must not change them."""
import pickle

import numpy as np, pytest, torch
from safetensors.torch import load_file, save_file

from aead.config import make_config
from aead.models.base import model_registry
from aead.models.encoders import get_encoder
from aead.models.feature_ae import (
    ChannelScale, FeatureCoder, LinearCoder, feature_ae, feature_error, joined, outside, patches_of)
from aead.models.head import instance_normalize
from aead.models.memory import Moments
from aead.models.zoo import build_model, create_autoencoder

from ..helpers import TINY, by_setting, by_size, fails

coders = pytest.mark.parametrize('coder', ['conv','linear'])
NAMES = ['feature_4','feature_8','feature_16','memory_4','gaussian_4','memory_8','gaussian_8']

def small(**kw): return feature_ae(**{**TINY['feature_ae'], 'ni': 1, **kw})

def mae(x, xr): return (x-xr).abs().mean()

def feed(x, bs=4, valid=None, owner=None):
    "The function of images that `observe` takes."
    valid = torch.ones_like(x[:,0]) if valid is None else valid
    owner = torch.arange(len(x)) if owner is None else owner
    def images(n=None):
        end = len(x) if n is None else min(n, len(x))
        for k in range(0, end, bs): yield x[k:min(k+bs, end)], valid[k:min(k+bs, end)], owner[k:min(k+bs, end)]
    return images

@pytest.fixture
def observed(pictures):
    "Makes a model that has observed twelve images."
    def make(**kw):
        torch.manual_seed(0)
        m = small(**kw).eval()
        m.observe(feed(pictures(12, m.settings['ni'], (48,64), seed=5)))
        return m
    return make

def maps(m, x):
    with torch.no_grad(): r = m.reconstruct(x)
    return {'xr': r.xr, **r.maps}

# --- the pieces

def fitted(f, bs=None, valid=None):
    "A `ChannelScale` of features `b c h w`."
    moments,valid = Moments(),torch.ones_like(f[:,0]) if valid is None else valid
    for o,v in zip(f.split(bs or len(f)), valid.split(bs or len(f))): moments.add(o, v)
    scale = ChannelScale(f.shape[1])
    scale.fit(moments)
    return scale

@pytest.mark.parametrize('bs', [1,3,7])
def test_scale_does_not_depend_on_batches(bs):
    f = torch.randn(7, 5, 6, 4)*torch.tensor([.01,1,10,100,3])[:,None,None]+50
    scale = fitted(f, bs)
    rows = f.double().transpose(0, 1).flatten(1)
    assert torch.allclose(scale.mean.double(), rows.mean(1), rtol=1e-6)
    assert torch.allclose(scale.std.double(), rows.std(1, correction=0), rtol=1e-4)

def test_padding_counts_in_no_statistics(pictures):
    "Channels are standardised by the places of the picture alone."
    x = pictures(8, 1, (64,96))
    valid = torch.ones_like(x[:,0])
    valid[:,:,64:] = 0
    m = small().eval()
    m.observe(feed(x, valid=valid))
    for scale,f in zip(m.scales, m.levels(x)):
        inside = f[..., :f.shape[-1]*2//3].double()
        assert torch.allclose(scale.mean.double(), inside.mean((0,2,3)), atol=1e-5)
        assert torch.allclose(scale.std.double(), inside.std((0,2,3), correction=0).clamp_min(1e-4), atol=1e-5)

@pytest.mark.parametrize('names', [['memory_8'], ['head','feature_16','gaussian_4'], ['head']], ids=str)
def test_a_pruned_model_is_the_one_that_its_settings_make(names, observed, pictures):
    m,x = observed(),pictures(2, 1, (48,64))
    want = maps(m, x)
    settings = m.prune(names)
    got = maps(m, x)
    assert list(got)==['xr', *settings['keep']] and set(settings['keep'])==set(names)-{'head'}
    assert all(torch.equal(got[n], want[n]) for n in got)
    again = feature_ae(**{**m.settings, **settings})
    again.load_state_dict(m.state_dict())
    assert all(torch.equal(o, got[n]) for n,o in maps(again.eval(), x).items())

def test_a_silent_channel_divides_by_no_zero():
    scale = fitted(torch.zeros(2, 2, 3, 3))
    assert torch.isfinite(scale(torch.rand(1, 2, 3, 3))).all()

def test_feature_error_by_hand():
    f,g = torch.randn(2, 6, 4, 5),torch.randn(2, 6, 4, 5)
    cos = (f*g).sum(1)/f.norm(dim=1)/g.norm(dim=1)
    assert torch.allclose(feature_error(f, g), (1-cos+((f-g)**2).mean(1))/2, atol=1e-5)
    assert feature_error(f, f).abs().max() < 1e-6 and torch.isfinite(feature_error(0*f, 0*f)).all()
    assert feature_error(f.bfloat16(), g.bfloat16()).dtype==torch.float32

@pytest.mark.parametrize('channels,sides', [([4],[3]), ([2,3],[8,4]), ([3,4,5],[16,8,4]), ([1,2,3,4],[16,8,4,2])], ids=str)
@pytest.mark.parametrize('kind', [FeatureCoder,LinearCoder])
def test_coders_give_levels_and_image_back(kind, channels, sides):
    levels = [torch.randn(2, c, n, 2*n) for c,n in zip(channels, sides)]
    coder = kind(channels, ni=3, up=4, nz=5).eval()
    back,image = coder.decode(coder.encode(levels))
    assert [o.shape for o in back]==[o.shape for o in levels] and image.shape==(2, 3, 4*sides[0], 8*sides[0])

def test_linear_coder_is_principal_components():
    "Its error is that of numpy's components of the joined levels, and the image is the least-squares one."
    rng = np.random.default_rng(0)
    rows = torch.tensor(rng.normal(size=(400, 7))@rng.normal(size=(7, 7)), dtype=torch.float32)
    pixels = rows@torch.randn(7, 4)+.5
    coder = LinearCoder([4,3], ni=1, up=2, nz=3)
    coder.fit(rows, pixels)
    _,_,v = np.linalg.svd(rows.numpy(), full_matrices=False)
    got,want = (coder.axes.T@coder.axes).numpy(),v[:3].T@v[:3]
    assert np.allclose(got, want, atol=1e-4)
    z = np.c_[rows.numpy()@coder.axes.numpy().T, np.ones(400)]
    fit = np.linalg.lstsq(z, pixels.numpy(), rcond=None)[0]
    assert np.allclose(z@coder.image.numpy().T, z@fit, atol=.05)

def test_joined_levels_are_those_at_their_own_size():
    f = [torch.rand(1,2,8,8), torch.rand(1,3,4,4)]
    assert torch.equal(joined(f)[:,:2], f[0]) and joined(f).shape==(1,5,8,8)
    assert torch.allclose(torch.nn.functional.avg_pool2d(joined([f[0], torch.ones(1,3,4,4)])[:,2:], 2), torch.ones(1,3,4,4))

def test_patches_are_means_of_what_is_there():
    f = [torch.rand(1,2,6,6), torch.ones(1,1,3,3)]
    p = patches_of(f)
    assert torch.allclose(p[0,:2,0,0], f[0][0,:,:2,:2].mean((1,2))) and torch.allclose(p[0,2], torch.ones(6,6))

@pytest.mark.parametrize('hw', [(4,4),(8,8),(16,16)], ids=by_size)
def test_outside_against_a_loop(hw, rng):
    mask = torch.tensor(rng.random((3,32,32)) > .995).float()
    got,k = outside(mask, hw),32//hw[0]
    for b in range(3):
        for i in range(hw[0]):
            for j in range(hw[1]):
                near = mask[b, max(0,(i-1)*k):(i+2)*k, max(0,(j-1)*k):(j+2)*k]
                assert got[b,i,j]==(0 if near.any() else 1)

# --- settings

@pytest.mark.parametrize('kw,want', [
    (dict(reductions=[4,12]), 'each twice the one before'), (dict(reductions=[]), 'each twice'),
    (dict(reductions=8), 'each twice'), (dict(reductions=[64]), 'no features at reduction 64'),
    (dict(noise=1), 'feature_ae.noise'), (dict(memory=-1), 'feature_ae.memory'), (dict(nz=0), 'feature_ae.nz'),
    (dict(memory=4, neighbours=4), 'no 4 neighbours'), (dict(position=4), 'feature_ae.hw'),
    (dict(pretrained=True, backbone='test_efficientnet'), None)], ids=str)
def test_bad_settings(kw, want):
    if want: assert want in fails(lambda: small(**kw))
    else: assert not small(**kw).ready                                   # making it loads nothing

@pytest.mark.parametrize('kw,want', [
    (dict(coder='linea'), "'linear'"), (dict(keep=['memry_8']), "'memory_8'"), (dict(backbone='resnet81'), "'resnet18'"),
    (dict(keep=['memory_4'], memory=0), 'memory_4')], ids=str)
def test_unknown_names(kw, want): assert want in fails(lambda: small(**kw), KeyError)

@pytest.mark.parametrize('reductions', [(2,), (8,), (2,4), (4,8,16), (2,4,8,16,32)], ids=str)
@coders
def test_any_reductions(coder, reductions, pictures):
    m,x = small(reductions=reductions, coder=coder).eval(),pictures(6, 1, (64,96))
    m.observe(feed(x))
    got = maps(m, x)
    finer = reductions[:max(1, len(reductions)-1)]
    assert set(got)=={'xr', *(f'feature_{r}' for r in reductions), *(f'{k}_{r}' for k in ('memory','gaussian') for r in finer)}
    assert all(o.shape==(6,64,96) and o.isfinite().all() for n,o in got.items() if n!='xr') and got['xr'].shape==x.shape

def test_keep_leaves_the_other_maps_out(observed, pictures):
    x = pictures(2, 1, (48,64))
    whole,some = maps(observed(), x),maps(observed(keep=['feature_8','gaussian_4']), x)
    assert set(some)=={'xr','feature_8','gaussian_4'} and all(torch.equal(some[k], whole[k]) for k in some)

def test_position_follows_the_size_of_a_run(pictures):
    settings = {**TINY['feature_ae'], 'position': 6}
    m = build_model(make_config(model='feature_ae', models={'feature_ae': settings}, size=(40,64))).eval()
    x = pictures(12, 3, (40,64))
    m.observe(feed(x))
    got = maps(m, x)
    assert got['position_8'].shape==(12,40,64) and got['position_8'].isfinite().all()
    assert 'cannot take features' in fails(lambda: m.reconstruct(pictures(1, 3, (64,64))))

def test_it_is_a_family(): assert model_registry['feature_ae'] is feature_ae

# --- the encoder

def test_levels_are_the_encoders(pictures):
    "Folding changes nothing; the weights are those of the package."
    m = feature_ae(ni=3, memory=0, gaussian=False)
    m.load_pretrained()
    net = get_encoder('tf_efficientnet_lite0', 3, m.layers, pretrained=True).eval().net
    x = pictures(2, 3, (64,96))
    with torch.no_grad():
        for a,b in zip(m.eval().levels(x), net(instance_normalize(x)[0])): assert torch.allclose(a, b, atol=1e-3*b.abs().max().item())

def test_pretrained_weights_are_loaded_once_and_saved(tmp_path, pictures):
    m = feature_ae(ni=1, memory=8, nz=8, nf=8)
    assert 'load_pretrained()' in fails(lambda: m.train().training_step(pictures(1,1), pictures(1,1), None, mae))
    m.load_pretrained()
    save_file({k:v.contiguous() for k,v in m.state_dict().items()}, tmp_path/'m.safetensors')
    new = create_autoencoder('feature_ae', **m.settings)
    new.load_state_dict(load_file(tmp_path/'m.safetensors'))
    with torch.no_grad(): next(new.encoder.parameters()).zero_()
    new.load_pretrained()                                                # nothing to do
    assert new.ready and not next(new.encoder.parameters()).any()

def test_the_encoder_stays_frozen_in_training_mode(pictures):
    m = small().train()
    before = {k:v.clone() for k,v in m.encoder.state_dict().items()}
    m.training_step(pictures(4,1), pictures(4,1), None, mae).backward()
    assert not m.encoder.training and all(torch.equal(v, before[k]) for k,v in m.encoder.state_dict().items())
    assert all(p.grad is None for p in m.encoder.parameters())
    assert all(p.grad is not None and p.grad.any() for p in m.coder.parameters())

# --- observing

@coders
@pytest.mark.parametrize('bs', [1,5,12])
def test_observing_does_not_depend_on_batches(coder, bs, pictures):
    x = pictures(12, 1, (48,64), seed=5)
    states = []
    for k in (4, bs):
        torch.manual_seed(0)
        m = small(coder=coder).eval()
        m.observe(feed(x, k))
        states.append(m.state_dict())
    a,b = states
    assert all(torch.allclose(a[k].float(), b[k].float(), atol=1e-3, rtol=1e-3) for k in a if 'axes' not in k and 'image' not in k)

@coders
def test_observing_again_is_the_same(coder, observed, pictures):
    m = observed(coder=coder)
    before = {k:v.clone() for k,v in m.state_dict().items()}
    m.observe(feed(pictures(12, 1, (48,64), seed=5)))
    assert all(torch.equal(v, before[k]) for k,v in m.state_dict().items())

def test_padding_is_no_patch(pictures):
    "Whatever lies outside the valid pixels, deep inside it, leaves the banks as they are but for the border."
    x,valid = pictures(8, 1, (64,128)),torch.ones(8,64,128)
    valid[:,:,64:] = 0
    m = small(memory=500, reductions=[4]).eval()
    m.observe(feed(x, valid=valid))
    assert len(m.patches['memory_4'].bank.unique(dim=0)) <= 8*16*16
    few = torch.zeros(8,64,128)
    few[0,:4,:8] = 1
    m.observe(feed(x, valid=few))
    assert len(m.patches['memory_4'].bank.unique(dim=0))==2               # two places

def test_the_sample_is_bounded(pictures):
    x = pictures(12, 1, (48,64))
    m = small(memory=400, reductions=[4]).eval()
    m.observe(feed(x), n=50)
    assert len(m.patches['memory_4'].bank.unique(dim=0)) <= 50

def test_owners_patches_are_passed_over(observed, pictures):
    m,x = observed(memory=10000),pictures(12, 1, (48,64), seed=5)
    with torch.no_grad():
        levels = m.scaled(x)
        every,others = m.distances(levels),m.distances(levels, torch.arange(12))
    assert every['memory_4'].max() < 1e-2                                 # the bank holds all patches
    assert every['memory_8'].max() < 1                                    # and what 64 components of them leave out
    for n in ('memory_4','memory_8'):
        assert (others[n] > every[n]+.01).float().mean() > .9
    assert torch.equal(every['gaussian_8'], others['gaussian_8'])

def test_suspects_stand_out(pictures):
    m,x = feature_ae(ni=1, memory=200),pictures(12, 1, (48,64), seed=5)
    m.load_pretrained()
    m.eval().observe(feed(x))
    odd = x[:3].clone()
    odd[..., 16:32, 16:40] = torch.rand(3, 1, 16, 24)
    one = torch.ones(12,48,64)
    normal,s = m.suspicion(x, one, torch.arange(12)),m.suspicion(odd, one[:3], torch.arange(3))
    assert s.min() > normal.max()
    hidden = one[:3].clone()
    hidden[:, 8:40, 8:48] = 0                                            # what does not count, does not show
    assert (m.suspicion(odd, hidden, torch.arange(3)) < s).all()

def test_suspicion_needs_distances(pictures):
    m = small(memory=0, gaussian=False).eval()
    assert 'gaussian' in fails(lambda: m.suspicion(pictures(1,1), torch.ones(1,32,32), torch.arange(1)))

# --- maps

@coders
@pytest.mark.parametrize('kw', [{}, dict(neighbours=3), dict(ni=3)], ids=by_setting)
def test_an_image_alone_and_in_a_batch(coder, kw, observed, pictures):
    m = observed(coder=coder, **kw)
    x = pictures(5, m.settings['ni'], (48,64), seed=1)
    whole = maps(m, x)
    assert list(whole)==['xr', *NAMES]
    for i in range(5):
        for k,o in maps(m, x[i:i+1]).items(): assert torch.allclose(o[0], whole[k][i], atol=1e-5, rtol=1e-5), k
    assert all(torch.equal(o, whole[k]) for k,o in maps(m, x).items())

@coders
@pytest.mark.parametrize('hw', [(32,32),(33,47),(61,50),(100,37)], ids=by_size)
def test_maps_have_the_images_size(coder, hw, observed, pictures):
    m,x = observed(coder=coder),pictures(2, 1, hw)
    got = maps(m, x)
    assert got.pop('xr').shape==x.shape
    assert all(o.shape==(2,*hw) and o.isfinite().all() and o.dtype==torch.float32 and o.min() >= 0 for o in got.values())

@coders
@pytest.mark.parametrize('v', [0.,.5,1.])
def test_constant_images(coder, v, observed):
    x = torch.full((2,1,48,64), v)
    assert all(o.isfinite().all() for o in maps(observed(coder=coder), x).values())
    m = small(coder=coder).eval()
    m.observe(feed(x))                                                   # and nothing else was observed
    assert all(o.isfinite().all() for o in maps(m, x).values())

@coders
def test_what_was_observed_is_saved(coder, observed, pictures, tmp_path):
    m,x = observed(coder=coder, neighbours=2, position=4, hw=(48,64)),pictures(2, 1, (48,64), seed=1)
    save_file({k:v.contiguous() for k,v in m.state_dict().items()}, tmp_path/'m.safetensors')
    new = create_autoencoder('feature_ae', **m.settings).eval()
    new.load_state_dict(load_file(tmp_path/'m.safetensors'))
    a,b = maps(m, x),maps(new, x)
    assert a.keys()==b.keys() and all(torch.equal(a[k], b[k]) for k in a)
    copy = maps(pickle.loads(pickle.dumps(m)), x)
    assert all(torch.equal(a[k], copy[k]) for k in a)

def test_exposure_does_not_matter(observed, pictures):
    m,x = observed(),pictures(2, 1, (48,64), seed=1)
    a,b = maps(m, x),maps(m, .5*x+.3)
    assert all(torch.allclose(a[k], b[k], atol=1e-2, rtol=1e-2) for k in NAMES)

# --- training

def test_places_of_defects_do_not_teach(observed, pictures):
    m,x = observed().train(),pictures(4, 1, (48,64))
    mask = torch.zeros(4,48,64)
    mask[:, 20:24, 20:24] = 1
    levels = m.read(x)
    back = [f.clone() for f in levels]
    for f,k in zip(back, (4,8,16)): f[:,:,20//k:-(-24//k),20//k:-(-24//k)] += 5
    assert m.coder_loss(levels, back, x, x, mask, mae).abs() < 1e-5 < m.coder_loss(levels, back, x, x, 0*mask, mae)
    assert torch.isfinite(m.coder_loss(levels, back, x, x, 0*mask+1, mae))   # a defect everywhere

def test_the_image_teaches_the_features_nothing(pictures):
    m,x,grads = small(noise=0.).train(),pictures(4, 1),[]
    others = {k:p for k,p in m.coder.named_parameters() if not k.startswith('to_image')}
    for loss in (mae, lambda x,xr: 100*((x-xr)**2).mean()):
        m.zero_grad()
        m.training_step(x, x, None, loss).backward()
        grads.append({k:p.grad.clone() for k,p in others.items()})
    assert all(torch.equal(v, grads[1][k]) for k,v in grads[0].items())

def test_a_step_is_the_same_on_what_was_read(pictures):
    "`learn` of the features of good images is `training_step` of the images."
    m,x = small().eval(),pictures(4, 1, (48,40))
    with torch.no_grad():
        assert torch.isclose(m.learn(m.read(x), x, torch.zeros(4,48,40), mae), m.training_step(x, x, None, mae), atol=1e-6)
