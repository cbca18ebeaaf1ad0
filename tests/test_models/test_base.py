"""The contract of a model, run over every entry of `model_registry`."""
import inspect, pickle, re
from copy import deepcopy
from pathlib import Path

import pytest, torch
from fastcore.docments import docments
from safetensors.torch import load_file, save_file

import aead.models.zoo
from aead.runs.benchmark import peak_memory
from aead.config import Registry
from aead.losses import WeightedLoss
from aead.models.base import BaseAutoencoder, Recon, model_registry
from aead.models.zoo import create_autoencoder

from ..helpers import by_size

every_model = pytest.mark.parametrize('name', sorted(model_registry))

def train(model, x, steps=20, lr=5e-3):
    "Losses of a few steps on one batch; leaves the model in evaluation mode."
    loss,opt,out = WeightedLoss({'l1':1., 'ssim':1.}),torch.optim.Adam(model.parameters(), lr),[]
    model.train()
    for _ in range(steps):
        o = model.training_step(x, x, None, loss)
        opt.zero_grad()
        o.backward()
        opt.step()
        out.append(o.item())
    model.eval()
    return out

@pytest.fixture
def trained(tiny_model, pictures):
    "A model after a few steps, so that its buffers are not what they were at the start."
    def make(name, ni=3, hw=(32,32)):
        torch.manual_seed(0)
        m = tiny_model(name, ni=ni)
        train(m, pictures(4, ni, hw), 6)
        return m
    return make

# --- the registry

def test_every_family_is_imported_by_the_zoo():
    zoo,found = Path(aead.models.zoo.__file__),[]
    for f in zoo.parent.glob('[!_]*.py'):
        own = re.findall(r'^@model_registry\s*\n(?:@.*\n)*def (\w+)', f.read_text(), re.M)
        assert set(own) <= set(model_registry)
        assert not own or re.search(rf'\b{f.stem}\b', zoo.read_text()), f'34_models.zoo does not import {f.stem}'
        found += own
    assert {'cnn_ae','resnet_ae','feature_ae','vit_ae','diffusion_ae'} <= set(found)
    assert isinstance(model_registry, Registry) and len(model_registry)

@every_model
def test_builder(name, tiny_model):
    params = inspect.signature(model_registry[name]).parameters
    assert list(params)[0]=='ni' and params['ni'].default==3
    assert all(p.default is not p.empty and p.kind==p.POSITIONAL_OR_KEYWORD for p in params.values())
    m = tiny_model(name)
    assert isinstance(m, BaseAutoencoder) and m.name==name and set(m.settings)==set(params)

@every_model
def test_builder_is_the_classes(name, tiny_model):
    "Signature, defaults and comments of the builder are those of the class; defaults are written once."
    f,cls = model_registry[name],type(tiny_model(name))
    assert f.__name__==name==cls.name and f.__doc__ and inspect.signature(f).return_annotation is cls
    assert inspect.signature(f).parameters==inspect.signature(cls).parameters
    docs = docments(f)
    assert all(docs[k] for k in (*inspect.signature(f).parameters, 'return')), docs

@every_model
def test_by_name_by_builder_and_by_class(name, tiny_model, pictures):
    x,cls,settings = pictures(2),type(tiny_model(name)),tiny_model(name).settings
    def make(f):
        torch.manual_seed(1)
        return f().eval()
    ways = [lambda: create_autoencoder(name, **settings), lambda: create_autoencoder(model_registry[name], **settings),
            lambda: cls(**settings), lambda: cls({'models': {name: settings, 'other': {'x':1}}}),
            lambda: cls.from_config({'data': {}, 'models': {name: settings}}),
            lambda: cls.from_config({name: settings})]
    ms = [make(f) for f in ways]
    with torch.no_grad(): outs = [m(x) for m in ms]
    assert all(torch.equal(outs[0], o) for o in outs) and all(m.settings==settings for m in ms)

@every_model
def test_unknown_settings_are_named(name, tiny_model):
    cls = type(tiny_model(name))
    wrong = {'models': {name: {'nii':3}}}
    for f in (lambda: create_autoencoder(name, nii=3), lambda: cls(nii=3),
              lambda: cls(wrong), lambda: cls.from_config(wrong)):
        with pytest.raises(KeyError, match=f"unknown setting 'nii' of model '{name}'. Did you mean 'ni'"): f()
    with pytest.raises(KeyError, match=f"Did you mean '{name}'"): create_autoencoder(name+'x')

@every_model
def test_settings_lie_over_the_defaults(name, tiny_model):
    defaults = {k:p.default for k,p in inspect.signature(model_registry[name]).parameters.items()}
    cls = type(tiny_model(name))
    for o in (None, {}, {'models': {}}, {'models': None}, {'models': {name: None}}):
        assert cls.from_config(o).settings==defaults
    assert cls.from_config({'models': {name: {'ni':5}}}).settings=={**defaults, 'ni':5}

@every_model
def test_settings_in_the_wrong_place_are_not_passed_over(name, tiny_model):
    cls = type(tiny_model(name))
    with pytest.raises(KeyError, match=rf"config\['models'\]\['{name}'\], got 'ni', 'nf'"):
        cls.from_config({'ni':1, 'nf':8})
    with pytest.raises(ValueError, match=f"settings of model '{name}' must be a table"):
        cls.from_config({'models': {name: 5}})

@every_model
def test_copies_keep_their_settings(name, tiny_model):
    m = tiny_model(name)
    for o in (deepcopy(m), pickle.loads(pickle.dumps(m))): assert o.settings==m.settings and type(o) is type(m)

@every_model
@pytest.mark.parametrize('bad', [0, -1, 1.5, '3', None, True])
def test_channels_are_a_whole_number(name, bad, tiny_model):
    with pytest.raises(ValueError, match='ni'): tiny_model(name, ni=bad)

# --- shapes

@every_model
@pytest.mark.parametrize('b', [1,3])
@pytest.mark.parametrize('hw', [(32,32),(48,64)], ids=by_size)
@pytest.mark.parametrize('ni', [1,3,5])
@pytest.mark.parametrize('mode', ['train','eval'])
def test_keeps_shape(name, b, hw, ni, mode, tiny_model, pictures):
    m = getattr(tiny_model(name, ni=ni), mode)()
    x = pictures(b, ni, hw)
    x0 = x.clone()
    xr = m(x)
    assert xr.shape==x.shape and xr.dtype==torch.float32 and torch.isfinite(xr).all()
    assert torch.equal(x, x0)                      # the images are left alone
    r = m.reconstruct(x)
    assert isinstance(r, Recon) and r.xr.shape==x.shape
    assert all(o.shape==(b,*hw) and torch.isfinite(o).all() for o in r.maps.values())
    assert m.prepare(x).shape==x.shape

@every_model
@pytest.mark.parametrize('mode', ['train','eval'])
def test_sizes_are_handled_or_refused_by_name(name, mode, tiny_model, pictures):
    m,fit = getattr(tiny_model(name), mode)(),0
    for hw in [(i,i) for i in range(1,21)]+[(33,47),(40,9),(9,40),(1,64),(64,1),(31,32)]:
        x = pictures(1, 3, hw)
        try:
            assert m(x).shape==x.shape, hw
            fit += 1
        except ValueError as e:
            assert name in str(e) and f'{hw[0]}×{hw[1]}' in str(e) and '\n' not in str(e), e
    assert fit

@every_model
def test_refuses_what_is_no_batch_of_its_images(name, tiny_model, pictures):
    m = tiny_model(name)
    for x in (pictures(1)[0], pictures(1)[None]):
        with pytest.raises(ValueError, match=f'{name}.*b c h w'): m(x)
    for c in (1,4):
        with pytest.raises(ValueError, match=f'{name}.*{c}'): m(pictures(1, c))

# --- numbers

@every_model
def test_every_parameter_learns(name, tiny_model, pictures):
    m = tiny_model(name).train()
    m.training_step(pictures(4), pictures(4), None, lambda x,xr: ((x-xr)**2).mean()).backward()
    for k,p in m.named_parameters():
        if p.requires_grad: assert p.grad is not None and torch.isfinite(p.grad).all() and p.grad.abs().max()>0, k

@every_model
def test_evaluation_repeats_and_knows_no_neighbours(name, trained, pictures):
    m,x = trained(name),pictures(5, seed=1)
    before = {k:v.clone() for k,v in m.state_dict().items()}
    torch.manual_seed(1)
    with torch.no_grad():
        xr = m(x)
        torch.manual_seed(2)
        assert torch.equal(m(x), xr)
        alone,turned = torch.cat([m(o[None]) for o in x]),m(x.flip(0)).flip(0)
        others = m(torch.cat([x[:1], 1-x[1:]]))[:1]
    for o in (alone, turned): assert torch.allclose(o, xr, atol=1e-5, rtol=0)
    assert torch.allclose(others, xr[:1], atol=1e-5, rtol=0)
    assert all(torch.equal(v, before[k]) for k,v in m.state_dict().items())
    assert (xr[0]-xr[1]).abs().max()>1e-3             # and it does look at its input

@every_model
@pytest.mark.parametrize('given', [False,True])
def test_detection_repeats_and_knows_no_neighbours(name, given, trained, pictures):
    "As above for `reconstruct`: image and the model's own maps, with the noise of a run or the model's choice."
    m,x = trained(name),pictures(5, seed=1)
    noise = m.draw_noise(x.shape[1:], seed=3) if given else None
    def run(x):
        with torch.no_grad(): r = m.reconstruct(x, noise)
        return [r.xr, *r.maps.values()]
    torch.manual_seed(1)
    want = run(x)
    torch.manual_seed(2)
    assert all(map(torch.equal, run(x), want))
    alone = [torch.cat(o) for o in zip(*(run(o[None]) for o in x))]
    turned,others = [o.flip(0) for o in run(x.flip(0))],run(torch.cat([x[:1], 1-x[1:]]))
    for a,b,c,o in zip(alone, turned, others, want):
        for got in (a, b): assert torch.allclose(got, o, atol=1e-5, rtol=0)
        assert torch.allclose(c[:1], o[:1], atol=1e-5, rtol=0)

@every_model
def test_noise_comes_from_the_seed(name, trained, pictures):
    m,x = trained(name),pictures(2, seed=1)
    torch.manual_seed(5)
    a,b,c = (m.draw_noise((3,32,32), seed=o) for o in (1,1,2))
    if a is None: return
    assert a.shape[1:]==(3,32,32) and torch.equal(a, b) and not torch.equal(a, c)
    with torch.no_grad(): assert not torch.equal(m.reconstruct(x, a).xr, m.reconstruct(x, c).xr)

@every_model
def test_validation_loss_repeats(name, trained, pictures):
    m,x,loss = trained(name),pictures(4, seed=1),WeightedLoss({'l1':1., 'ssim':1.})
    with torch.no_grad():
        state = torch.get_rng_state()
        a = m.training_step(x, x, None, loss)
        assert torch.equal(torch.get_rng_state(), state)      # and takes nothing from the training's random numbers
        assert torch.equal(m.training_step(x, x, None, loss), a)

@every_model
def test_training_repeats_from_the_same_seed(name, tiny_model, pictures):
    def run():
        torch.manual_seed(3)
        return train(tiny_model(name), pictures(4), 5)
    assert run()==run()

@every_model
@pytest.mark.parametrize('ni', [1,3,5])
def test_weights_survive_save_and_load(name, ni, trained, tiny_model, pictures, tmp_path):
    m,x = trained(name, ni),pictures(2, ni, seed=1)
    save_file({k:v.contiguous() for k,v in m.state_dict().items()}, tmp_path/'m.safetensors')
    torch.manual_seed(99)
    new = tiny_model(name, ni=ni).eval()
    with torch.no_grad():
        assert not torch.equal(new(x), m(x))
        new.load_state_dict(load_file(tmp_path/'m.safetensors'))
        assert torch.equal(new(x), m(x))

@every_model
@pytest.mark.parametrize('bf16', [False,True])
def test_training_lowers_the_loss(name, bf16, tiny_model, pictures):
    "Plainly, and in bfloat16 and channels last, as the learner trains; the validation loss, which has no chance in it."
    m,x,loss = tiny_model(name).to(memory_format=torch.channels_last),pictures(4),WeightedLoss({'l1':1., 'ssim':1.})
    opt = torch.optim.Adam(m.parameters(), 5e-3)
    def valid():
        with torch.no_grad(): return m.eval().training_step(x, x, None, loss).item()
    first = valid()
    for i in range(160):
        with torch.autocast('cpu', torch.bfloat16, enabled=bf16): o = m.train().training_step(x, x, None, loss)
        opt.zero_grad()
        o.backward()
        opt.step()
        assert torch.isfinite(o)
        if i%20==19 and valid() < .6*first: return
    raise AssertionError(f'from {first} to {valid()} in 160 steps')

@every_model
def test_training_step_compares_with_the_clean_image(name, tiny_model, pictures):
    m,x,y = tiny_model(name).eval(),pictures(2),pictures(2, seed=1)
    if type(m).training_pass is not BaseAutoencoder.training_pass:
        pytest.skip('trains in its own way, with tests of its own')
    seen = []
    with torch.no_grad(): got = m.training_step(x, y, None, lambda a,b: (seen.append((a,b)), ((a-b)**2).mean())[1])
    a,b = seen[0]
    with torch.no_grad(): assert torch.equal(a, m.prepare(y)) and torch.allclose(b, m(m.prepare(x)), atol=1e-6)
    assert got.ndim==0 and torch.isclose(got, ((a-b)**2).mean())

@every_model
def test_the_loss_is_float32_under_autocast(name, tiny_model, pictures):
    m,seen = tiny_model(name).eval(),[]
    def loss(x, xr):
        seen.extend([x.dtype, xr.dtype, (x@x).dtype])
        return (x-xr).abs().mean()
    with torch.no_grad(), torch.autocast('cpu', torch.bfloat16):
        o = m.training_step(pictures(2), pictures(2), None, loss)
    assert set(seen)=={torch.float32} and o.dtype==torch.float32

@every_model
def test_parameter_count(name, tiny_model):
    m = tiny_model(name)
    want = sum(len(p.reshape(-1)) for p in m.parameters() if p.requires_grad)
    assert m.n_params()==want>0
    first = next(p for p in m.parameters() if p.requires_grad)
    first.requires_grad_(False)
    assert m.n_params()==want-first.numel()
    assert m.n_params(trainable=False)==sum(len(p.reshape(-1)) for p in m.parameters())

@every_model
def test_memory_is_counted(name, tiny_model, pictures):
    m,loss = tiny_model(name).eval(),WeightedLoss({'l1':1., 'ssim':1.})
    before = {k:v.clone() for k,v in m.state_dict().items()}
    peak_memory(m, pictures(1))                                                # what is computed once and kept
    one,four,step = peak_memory(m, pictures(1)),peak_memory(m, pictures(4)),peak_memory(m, pictures(4), loss)
    assert pictures(1).numel()*4 < one < four < 4.2*one and step > four       # grows with the images, no faster
    assert one==peak_memory(m, pictures(1)) and not m.training
    assert all(torch.equal(v, before[k]) for k,v in m.state_dict().items())
    assert all(p.grad is None for p in m.parameters())

def test_base_alone_is_no_model():
    with pytest.raises(ValueError, match="BaseAutoencoder is no family.*`name`"): BaseAutoencoder()
