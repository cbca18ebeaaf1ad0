"Looks into a model: residuals by scale, the path from noise, attention."
import numpy as np, pytest, torch

from aead.models.base import model_registry
from aead.models.vit_ae import vit_ae
from aead.viz.explain import (fig_denoising, fig_residuals, get_denoising, get_residuals, plot_denoising, plot_residuals,
                              visualize_attention_maps)

def state(model): return {k: v.clone() for k,v in model.state_dict().items()}

def untouched(model, before):
    "The model is in training mode, as it was, with the same weights and without gradients."
    same = all(torch.equal(v, before[k]) for k,v in model.state_dict().items())
    return model.training and same and all(p.grad is None for p in model.parameters())

# --- every family

@pytest.fixture
def model(request, tiny_model): return tiny_model(request.param, ni=1).train()

every_family = pytest.mark.parametrize('model', list(model_registry), indirect=True, ids=str)

@every_family
def test_residuals_of_every_family(model, pictures, drawn):
    x,before = pictures(1, 1)[0],state(model)
    r = get_residuals(model, x)
    assert len(r['maps']['gradients'])==3                                                # 32, 16, 8 pixels
    assert all(o.shape==(32,32) for o in r['maps']['gradients'].values())
    drawn(fig_residuals(r))
    assert len(plot_residuals(r).data)==sum(map(len, r['maps'].values()))
    assert untouched(model, before)

@every_family
def test_path_from_noise_of_every_family(model, pictures, drawn, request):
    x,before = pictures(1, 1)[0],state(model)
    if request.node.callspec.params['model']=='diffusion_ae':
        w = get_denoising(model, x, steps=4)
        drawn(fig_denoising(w))
        assert w['t'][-1]==0 and len(plot_denoising(w).frames)==5
    else:
        with pytest.raises(ValueError, match='does not walk out of noise'): get_denoising(model, x)
    assert untouched(model, before)

@every_family
def test_attention_of_every_family(model, pictures, drawn, request):
    x,before = pictures(1, 1)[0],state(model)
    if request.node.callspec.params['model']=='vit_ae': drawn(visualize_attention_maps(model, x))
    else:
        with pytest.raises(ValueError, match='has no attention to show'): visualize_attention_maps(model, x)
    assert untouched(model, before)

# --- residuals

@pytest.mark.parametrize('vmax,limits', [(None, [(0,.8),(0,.8),(0,5)]), ({'gradients': 2.}, [(0,2),(0,2),(0,5)])], ids=['shared','fixed'])
def test_scale_of_residuals(vmax, limits):
    maps = {'gradients': {'1/1': np.full((8,8), .2), '1/2': np.full((8,8), .8)}, 'feature': {'feature_1': np.full((8,8), 5.)}}
    fig = fig_residuals({'image': np.zeros((8,8,1)), 'xr': np.zeros((8,8,1)), 'maps': maps}, vmax)
    shown = [ax for ax in fig.axes if ax.images and ax.get_title() not in ('image','reconstruction','')]
    assert [ax.images[0].get_clim() for ax in shown]==limits

# --- attention

@pytest.fixture(params=[1,3], ids=['grey','colour'])
def transformer(request):
    c = request.param
    return vit_ae(ni=c, image_size=32, patch_size=8, dim=32, depth=2, heads=2, mlp_dim=32, decoder_dim=16, decoder_heads=2).train(), c

def titles(fig): return [o.get_title() for o in fig.axes if o.get_title()]

def test_attention_figure(transformer):
    "A panel for image, roll-out and each layer and head; sizes that patches do not divide; the model is left as it was."
    m,c = transformer
    x,before = torch.rand(c, 30, 37),state(m)
    assert len(titles(visualize_attention_maps(m, x)))==2+4
    assert len(titles(visualize_attention_maps(m, x[None], layer=1, at=(29,36))))==2+2
    assert untouched(m, before)

@pytest.mark.parametrize('wrong', [dict(layer=2),dict(head=-1),dict(at=(30,0))], ids=str)
def test_attention_that_is_not_there(transformer, wrong):
    m,c = transformer
    with pytest.raises(ValueError, match='must be'): visualize_attention_maps(m, torch.rand(c, 30, 37), **wrong)
    assert m.training
