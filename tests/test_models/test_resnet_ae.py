"""The ResNet autoencoder: shapes, what passes the bottleneck, weights, and reconstruction of features."""
import pytest, timm, torch, torch.nn.functional as F
from safetensors.torch import load_file, save_file
from skimage import data
from torch import nn

from aead.learner import anomaly_learner
from aead.data.loaders import get_dls
from aead.losses import err_maps
from aead.models.resnet_ae import Decoder, ResBlock, feature_distance, resnet_ae
from aead.models.zoo import create_autoencoder

from ..helpers import by_size, fails

SMALL = dict(backbone='test_resnet', nf=8)

def mse(x, xr): return ((x-xr)**2).mean()

def small(**kw): return resnet_ae(**{**SMALL, **kw})

@pytest.fixture(scope='module')
def textures():
    "Crops of three photographs, `3 n 1 48 48`."
    x = torch.stack([torch.tensor(o()/255, dtype=torch.float32) for o in (data.brick, data.grass, data.gravel)])
    return x.unfold(1, 48, 36).unfold(2, 48, 36).flatten(1, 2)[:,:,None].contiguous()

@pytest.fixture(scope='module')
def weights(textures, tmp_path_factory):
    "File of a small network that has learned to tell the three textures apart."
    torch.manual_seed(0)
    net = timm.create_model('test_resnet', in_chans=1, num_classes=3)
    opt = torch.optim.AdamW(net.parameters(), 3e-3)
    for _ in range(40):
        y = torch.randint(3, (12,))
        x = textures[y, torch.randint(textures.shape[1], (12,))]*(.7+.6*torch.rand(12,1,1,1))
        F.cross_entropy(net(x), y).backward()
        opt.step()
        opt.zero_grad()
    file = tmp_path_factory.mktemp('weights')/'textures.safetensors'
    save_file(net.state_dict(), file)
    return file

@pytest.fixture
def features(weights):
    "Makes a model that reconstructs features, with its weights loaded."
    def make(load=True, **kw):
        m = small(**{**dict(ni=1, depth=3, target='features', weights=str(weights)), **kw})
        if load: m.load_pretrained()
        return m
    return make

# --- shapes

@pytest.mark.parametrize('backbone,depth', [
    ('test_resnet',1), ('test_resnet',5), ('resnet10t',2), ('convnext_atto',2), ('vgg16',2),
    ('mobilenetv3_small_050',4)])
@pytest.mark.parametrize('ni', [1,5])
def test_any_pyramid_will_do(backbone, depth, ni, pictures):
    m = small(ni=ni, backbone=backbone, depth=depth).eval()
    for hw in ((64,96),(70,65)):
        x = pictures(2, ni, hw)
        with torch.no_grad(): assert m(x).shape==x.shape
    with torch.no_grad(): assert m.encode(pictures(1, ni, (64,128))).shape==(1, 16, 64//m.stride, 128//m.stride)

def test_default_shapes(pictures):
    m,x = resnet_ae(ni=1).eval(),pictures(1, 1, (128,128))
    with torch.no_grad(): fs,z = m.features(x),m.encode(x)
    assert [tuple(f.shape[1:]) for f in fs]==[(64,64,64), (64,32,32), (128,16,16), (256,8,8)] and z.shape==(1,16,8,8)

@pytest.mark.parametrize('depth', [1,3])
def test_all_information_passes_the_bottleneck(depth, pictures, monkeypatch):
    m = small(depth=depth).eval()
    x,y = pictures(1, 3, (64,70)),pictures(1, 3, (64,70), seed=1)
    with torch.no_grad():
        z = torch.randn_like(m.encode(F.pad(x, (0,-70%m.stride,0,0))))
        assert not torch.equal(m(x), m(y)) and torch.equal(m(x), m.decode(m.encode(m.pad(x)))[..., :70])
        monkeypatch.setattr(m, 'encode', lambda x: z)
        assert torch.equal(m(x), m(y))

def test_decoder_hands_out_every_scale():
    hs = Decoder(4, 8, [1,2,8])(torch.rand(2, 4, 3, 5))
    assert [tuple(h.shape) for h in hs]==[(2,8,24,40), (2,8,12,20), (2,32,3,5)]

def test_residual_block_starts_near_its_input():
    b = ResBlock(4).eval()
    nn.init.zeros_(b.conv2.weight)
    x = torch.rand(1, 4, 6, 6)
    assert torch.equal(b(x), x)

@pytest.mark.parametrize('depth', [2,4])
def test_small_images_are_refused_with_a_depth_that_fits(depth, pictures):
    m = small(depth=depth)
    assert m.stride==2**depth and m.min_size==2**(depth+1)
    text = fails(lambda: m(pictures(1, 3, (m.min_size-1, 64))))
    assert text==(f"resnet_ae with these settings needs images of at least {m.min_size} px a side, "
                  f"got {m.min_size-1}×64; use a larger size or depth={depth-1}")
    assert 'at least' in fails(lambda: m(pictures(1, 3, (2,2)))) and 'b c h w' in fails(lambda: m(torch.rand(3,64,64)))

# --- settings

@pytest.mark.parametrize('kw,want', [
    (dict(depth=0), 'resnet_ae.depth'), (dict(depth='4'), 'resnet_ae.depth'), (dict(depth=6), 'take depth=5'),
    (dict(nf=0), 'resnet_ae.nf'), (dict(nz=0), 'resnet_ae.nz'),
    (dict(scales=0), 'resnet_ae.scales'), (dict(scales=9), 'take scales=4'),
    (dict(backbone='vgg16', depth=5), 'take depth=4'), (dict(backbone='vgg16', depth=1), 'take depth=2'),
    (dict(backbone='test_vit', depth=2), 'halve it further'),
    (dict(target='features'), "weights='FILE.safetensors' or pretrained=True"),
    (dict(pretrained='yes'), 'must be true or false'), (dict(pretrained=True, weights='a'), 'not both')], ids=str)
def test_bad_settings(kw, want): assert want in fails(lambda: small(**kw))

@pytest.mark.parametrize('kw,want', [
    (dict(backbone='resnet81'), "'resnet18'"), (dict(backbone=None), 'unknown encoder'),
    (dict(target='feature'), "'features'")], ids=str)
def test_unknown_names(kw, want): assert want in fails(lambda: small(**kw), KeyError)

# --- weights

def test_pixels_start_from_a_file(weights):
    m,x = small(ni=1, weights=str(weights)),torch.rand(2,1,32,32)
    assert not m.ready and 'load_pretrained()' in fails(lambda: m.training_step(x, x, None, mse))
    m.load_pretrained()
    w = load_file(weights)
    assert all(torch.equal(v, w[k]) for k,v in m.encoder.net.state_dict().items()) and m.ready and m.encoder.mean.any()
    m.train().training_step(x, x, None, mse).backward()
    assert all(p.grad is not None for p in m.encoder.parameters())       # and they are trained on

def test_weights_are_loaded_once(weights, tmp_path):
    file = tmp_path/'w.safetensors'
    file.write_bytes(weights.read_bytes())
    m = small(ni=1, weights=str(file))
    m.load_pretrained()
    file.unlink()
    with torch.no_grad(): m.encoder.net.state_dict()['layer1.0.conv1.weight'].zero_()
    m.load_pretrained()
    assert not m.encoder.net.state_dict()['layer1.0.conv1.weight'].any()

@pytest.mark.parametrize('target', ['pixels','features'])
def test_wrong_weights_leave_the_model_as_it_was(target, tmp_path):
    save_file(timm.create_model('resnet10t').state_dict(), tmp_path/'w.safetensors')
    m = small(weights=str(tmp_path/'w.safetensors'), target=target)
    before = {k:v.clone() for k,v in m.state_dict().items()}
    assert "It fits 'resnet10t'" in fails(m.load_pretrained) and not m.ready
    assert all(torch.equal(v, before[k]) for k,v in m.state_dict().items())
    assert 'none.pth' in fails(small(weights='none.pth').load_pretrained, FileNotFoundError)

@pytest.mark.parametrize('target', ['pixels','features'])
def test_a_saved_model_needs_no_file(target, weights, pictures, tmp_path):
    file = tmp_path/'w.safetensors'
    file.write_bytes(weights.read_bytes())
    m = small(ni=1, weights=str(file), target=target).eval()
    m.load_pretrained()
    save_file({k:v.contiguous() for k,v in m.state_dict().items()}, tmp_path/'m.safetensors')
    file.unlink()
    new = create_autoencoder('resnet_ae', **m.settings).eval()
    new.load_state_dict(load_file(tmp_path/'m.safetensors'))
    new.load_pretrained()                                                # nothing to do
    x = pictures(2, 1, (40,37))
    with torch.no_grad(): a,b = m.reconstruct(x),new.reconstruct(x)
    assert torch.equal(a.xr, b.xr) and a.maps.keys()==b.maps.keys()
    assert all(torch.equal(a.maps[k], b.maps[k]) for k in a.maps)

def test_the_encoder_of_a_run_is_a_file_of_weights(features, tmp_path):
    "A model trained on pixels lends its encoder to one of features."
    m = small(ni=1, depth=3)
    save_file({f'model.{k}':v.contiguous() for k,v in m.state_dict().items()}, tmp_path/'model.safetensors')
    f = features(weights=str(tmp_path/'model.safetensors'))
    assert all(torch.equal(v, m.encoder.state_dict()[k]) for k,v in f.encoder.state_dict().items())

def test_pretrained_without_a_network_is_an_error(monkeypatch):
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', True)
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_CACHE', '/nowhere')
    m = resnet_ae(backbone='test_resnet', pretrained=True)                # making it asks for nothing
    assert 'could not be downloaded' in fails(m.load_pretrained, OSError) and not m.ready

# --- features

def test_feature_distance_by_hand(pictures):
    f,g = torch.rand(2,3,4,5)+.1,torch.rand(2,3,4,5)
    cos = (f*g).sum(1)/f.norm(dim=1)/g.norm(dim=1)
    want = (1-cos + ((f-g)**2).mean(1)/(f**2).mean((1,2,3))[:,None,None])/2
    assert torch.allclose(feature_distance(f, g), want, atol=1e-5)
    assert feature_distance(f, f).abs().max()<1e-6 and torch.allclose(feature_distance(100*f, 100*g), want, atol=1e-5)
    assert torch.isfinite(feature_distance(0*f, 0*f)).all()
    assert torch.allclose(feature_distance(f, g)[:1], feature_distance(f[:1], g[:1]))

@pytest.mark.parametrize('ni,depth,scales', [(1,1,None), (3,3,None), (5,3,1), (1,4,4), (1,2,2)])
@pytest.mark.parametrize('hw', [(64,64), (37,50)], ids=by_size)
def test_feature_maps(ni, depth, scales, hw, features, pictures, weights, tmp_path):
    if ni!=1: save_file(timm.create_model('test_resnet').state_dict(), weights := tmp_path/'w.safetensors')
    m = features(ni=ni, depth=depth, scales=scales, weights=str(weights)).eval()
    x = pictures(2, ni, hw)
    with torch.no_grad(): r = m.reconstruct(x)
    n = scales or min(3, depth)
    assert list(r.maps)==[f'feature_{i+1}' for i in range(n)]+['feature'] and r.xr.shape==x.shape
    for o in r.maps.values():
        assert o.shape==(2,*hw) and o.min()>=0 and torch.isfinite(o).all() and o.dtype==torch.float32
    assert torch.allclose(r.maps['feature'], sum(r.maps[f'feature_{i+1}'] for i in range(n))/n)
    with torch.no_grad(): assert torch.equal(m(x), r.xr)

def test_names_of_maps_are_free(): assert not any(k.startswith('feature') for k in err_maps)

def test_every_trainable_parameter_learns_and_no_other(features, pictures):
    m,x = features().train(),pictures(4, 1)
    m.training_step(x, x, None, mse).backward()
    for k,p in m.named_parameters():
        assert p.requires_grad!=k.startswith('encoder.'), k
        assert p.grad is not None and p.grad.abs().max()>0 if p.requires_grad else p.grad is None, k

def test_the_image_teaches_the_features_nothing(features, pictures):
    "Whatever the loss of the image, everything but the image's own head gets the same gradient."
    m,x,grads = features().train(),pictures(4, 1),[]
    others = {k:p for k,p in m.named_parameters() if p.requires_grad and not k.startswith('head.')}
    for loss in (mse, lambda x,xr: 100*(x-xr).abs().mean()):
        m.zero_grad()
        m.training_step(x, x, None, loss).backward()
        grads.append({k:p.grad.clone() for k,p in others.items()})
    assert all(torch.equal(v, grads[1][k]) for k,v in grads[0].items())

def test_step_is_distance_plus_loss(features, pictures):
    m,x,y = features().eval(),pictures(2, 1),pictures(2, 1, seed=1)
    with torch.no_grad():
        f,(fr,xr) = m.features(y),m._decode_features(m.encode(x))
        want = sum(feature_distance(*o).mean() for o in zip(f, fr))/3 + mse(y, xr)
        assert torch.isclose(m.training_step(x, y, None, mse), want)
        assert torch.equal(m.training_step(x, y, None, mse), m.training_step(x, y, None, mse))

def test_unloaded_features_are_not_trained(features):
    m,x = features(load=False),torch.rand(2,1,32,32)
    assert 'load_pretrained()' in fails(lambda: m.training_step(x, x, None, mse))

def test_a_network_of_ones_own_is_frozen_too(pictures):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Conv2d(1, 4, 3, 2, 1)
            self.b = nn.Sequential(nn.Conv2d(4, 6, 3, 2, 1), nn.BatchNorm2d(6))
        def forward(self, x): return [a := self.a(x), self.b(a)]
    m,x = small(ni=1, backbone=Two(), depth=2, target='features'),pictures(2, 1)
    m.train().training_step(x, x, None, mse).backward()
    assert m.ready and list(m.reconstruct(x).maps)==['feature_1','feature_2','feature']
    assert not m.encoder.net.b[1].training

def test_encoder_stays_as_it_is_through_the_trainer(features, synth):
    "Weights and batch statistics, after optimiser steps with weight decay, averaged weights, and the fast path."
    m = features()
    before = {k:v.clone() for k,v in m.encoder.state_dict().items()}
    dls = get_dls(synth, (32,32), 8, 'stretch', 1, True, 0, 0, 'cpu')
    learn = anomaly_learner(dls, m, lr=5e-3)
    learn.fit_one_cycle(3, 5e-3)
    assert all(torch.equal(v, before[k]) for k,v in learn.model.encoder.state_dict().items())
    h = learn.checkpoint.history
    assert h[-1]['valid_loss'] < h[0]['valid_loss']

def test_a_foreign_patch_shows_in_the_features(features, textures):
    torch.manual_seed(0)
    gravel,m,steps = textures[2],features(),80
    opt = torch.optim.AdamW([p for p in m.train().parameters() if p.requires_grad], 1e-2)
    cycle,losses = torch.optim.lr_scheduler.OneCycleLR(opt, 1e-2, steps),[]
    for _ in range(steps):
        x = gravel[torch.randperm(len(gravel))[:12]]
        loss = m.training_step(x, x, None, mse)
        loss.backward()
        opt.step()
        opt.zero_grad()
        cycle.step()
        losses.append(loss.item())
    assert losses[-1] < .5*losses[0]
    x,there = gravel[::4].clone(),torch.zeros(48, 48, dtype=torch.bool)
    there[12:36,12:36] = True
    x[..., 12:36, 12:36] = textures[0,::4,:,:24,:24]
    with torch.no_grad(): maps,clean = m.eval().reconstruct(x).maps,m.reconstruct(gravel[::4]).maps
    def ratio(e): return (e[:,there].mean()/e[:,~there].mean()).item()
    assert ratio(maps['feature_3'])>1.2*ratio(clean['feature_3']) and ratio(maps['feature_3'])>1.2
