"""The ResNet autoencoder: shapes, what passes the bottleneck, settings, and weights."""
import pytest, timm, torch, torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn

from aead.config import make_config
from aead.models.resnet_ae import Decoder, ResBlock, ResNetAutoencoder, resnet_ae
from aead.models.zoo import build_model, create_autoencoder

from ..helpers import fails

SMALL = dict(backbone='test_resnet', nf=8)

def mse(x, xr): return ((x-xr)**2).mean()

def small(**kw): return resnet_ae(**{**SMALL, **kw})

@pytest.fixture(scope='module')
def weights(tmp_path_factory):
    "File of the weights of a small network."
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp('weights')/'small.safetensors'
    save_file(timm.create_model('test_resnet', in_chans=1).state_dict(), file)
    return file

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
    (dict(backbone='vgg16', depth=5), 'take depth=4'), (dict(backbone='vgg16', depth=1), 'take depth=2'),
    (dict(backbone='test_vit', depth=2), 'halve it further'),
    (dict(pretrained='yes'), 'must be true or false'), (dict(pretrained=True, weights='a'), 'not both')], ids=str)
def test_bad_settings(kw, want): assert want in fails(lambda: small(**kw))

@pytest.mark.parametrize('kw,want', [
    (dict(backbone='resnet81'), "'resnet18'"), (dict(backbone=None), 'unknown encoder'),
    (dict(width=8), "setting 'width'")], ids=str)
def test_unknown_names(kw, want): assert want in fails(lambda: small(**kw), KeyError)

@pytest.mark.parametrize('kw', [dict(target='features'), dict(target='pixels'), dict(scales=2)], ids=str)
def test_settings_that_have_gone_name_what_took_their_place(kw):
    "By builder, by class, by name, and from the settings of a run."
    asked = dict(model='resnet_ae', models={'resnet_ae': kw})
    for f in (lambda: resnet_ae(**kw), lambda: ResNetAutoencoder(**kw), lambda: create_autoencoder('resnet_ae', **kw),
              lambda: ResNetAutoencoder(asked), lambda: build_model(make_config(**asked))):
        assert f"'{next(iter(kw))}' any more" in (text := fails(f, KeyError)) and "take model 'feature_ae'" in text

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

def test_wrong_weights_leave_the_model_as_it_was(tmp_path):
    save_file(timm.create_model('resnet10t').state_dict(), tmp_path/'w.safetensors')
    m = small(weights=str(tmp_path/'w.safetensors'))
    before = {k:v.clone() for k,v in m.state_dict().items()}
    assert "It fits 'resnet10t'" in fails(m.load_pretrained) and not m.ready
    assert all(torch.equal(v, before[k]) for k,v in m.state_dict().items())
    assert 'none.pth' in fails(small(weights='none.pth').load_pretrained, FileNotFoundError)

def test_a_saved_model_needs_no_file(weights, pictures, tmp_path):
    file = tmp_path/'w.safetensors'
    file.write_bytes(weights.read_bytes())
    m = small(ni=1, weights=str(file)).eval()
    m.load_pretrained()
    save_file({k:v.contiguous() for k,v in m.state_dict().items()}, tmp_path/'m.safetensors')
    file.unlink()
    new = create_autoencoder('resnet_ae', **m.settings).eval()
    new.load_state_dict(load_file(tmp_path/'m.safetensors'))
    new.load_pretrained()                                                # nothing to do
    x = pictures(2, 1, (40,37))
    with torch.no_grad(): a,b = m.reconstruct(x),new.reconstruct(x)
    assert torch.equal(a.xr, b.xr) and not a.maps and not b.maps

def test_the_encoder_of_a_run_is_a_file_of_weights(tmp_path):
    "A trained model lends its encoder to another."
    m = small(ni=1, depth=3)
    save_file({f'model.{k}':v.contiguous() for k,v in m.state_dict().items()}, tmp_path/'model.safetensors')
    new = small(ni=1, depth=3, weights=str(tmp_path/'model.safetensors'))
    new.load_pretrained()
    assert all(torch.equal(v, m.encoder.state_dict()[k]) for k,v in new.encoder.state_dict().items())

def test_pretrained_without_a_network_is_an_error(monkeypatch):
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', True)
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_CACHE', '/nowhere')
    m = resnet_ae(backbone='test_resnet', pretrained=True)                # making it asks for nothing
    assert 'could not be downloaded' in fails(m.load_pretrained, OSError) and not m.ready
