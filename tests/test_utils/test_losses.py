"""The contract of an error map, run over every entry of `err_maps`; structural similarity against scikit-image."""
import numpy as np, pytest, torch
from skimage.metrics import structural_similarity

from aead.losses import MapLoss, SSIMloss, blur, err_maps, gaussian_window, l1, l2, masked_mean, ssim, ssim_map

every_map = pytest.mark.parametrize('name', sorted(err_maps))

def noise(*shape, seed=0): return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))

# --- the contract

@every_map
@pytest.mark.parametrize('c', [1,3,5])
@pytest.mark.parametrize('hw', [(24,24),(13,40),(5,5),(1,1)])
def test_shape_and_sign(name, c, hw):
    x,xr = noise(3, c, *hw),noise(3, c, *hw, seed=1)
    m = err_maps[name](x, xr)
    assert m.shape==(3,*hw) and m.dtype==torch.float32
    assert torch.isfinite(m).all() and (m>=0).all() and (m.flatten(1).mean(1)>0).all()

@every_map
@pytest.mark.parametrize('x', [noise(2,3,24,24), torch.zeros(2,3,24,24), torch.ones(2,3,24,24), torch.full((2,1,24,24), .37), (noise(2,3,24,24)>.5).float()])
def test_zero_for_equal_inputs(name, x):
    m = err_maps[name](x, x.clone())
    assert (m>=0).all() and m.max()<=1e-5

@every_map
def test_more_error_gives_more(name):
    x,d = noise(2,3,24,24)*.5+.25,noise(2,3,24,24, seed=1)-.5
    means = [err_maps[name](x, x+s*d).mean().item() for s in (0,.05,.1,.2,.4)]
    assert means==sorted(means) and means[-1]>means[1]>means[0]

@every_map
@pytest.mark.parametrize('kind', ['noise','equal','black','white','far'])
def test_gradients_are_finite(name, kind):
    x = {'black': torch.zeros(2,3,16,16), 'white': torch.ones(2,3,16,16)}.get(kind, noise(2,3,16,16))
    xr = {'equal': x.clone(), 'far': 1e3*noise(2,3,16,16, seed=1)}.get(kind, noise(2,3,16,16, seed=1)).requires_grad_()
    err_maps[name](x, xr).mean().backward()
    assert torch.isfinite(xr.grad).all()
    if kind=='noise': assert (xr.grad.flatten(1).abs().amax(1)>0).all()

@every_map
def test_gradient_is_that_of_the_map(name):
    x,xr = noise(1,2,12,12).double()*.6+.2,noise(1,2,12,12, seed=1).double()*.6+.2
    f = lambda o: err_maps[name](x, o).double().sum()
    xr.requires_grad_()
    g, = torch.autograd.grad(f(xr), xr)
    for at in ((0,0,6,6),(0,1,0,3),(0,0,11,11)):
        e = torch.zeros_like(xr); e[at] = 1e-3
        with torch.no_grad(): want = (f(xr+e)-f(xr-e))/2e-3
        assert abs(g[at]-want) < 2e-2*max(1, abs(want))

@every_map
def test_images_do_not_see_their_neighbours(name):
    x,xr = noise(4,3,20,20),noise(4,3,20,20, seed=1)
    m = err_maps[name](x, xr)
    for i in range(4): assert torch.allclose(err_maps[name](x[i:i+1], xr[i:i+1])[0], m[i], atol=1e-6)
    y = xr.clone(); y[1:] = 1-y[1:]
    assert torch.allclose(err_maps[name](x, y)[0], m[0], atol=1e-6)
    g = xr.clone().requires_grad_()
    err_maps[name](x, g)[2].sum().backward()
    assert not g.grad[[0,1,3]].any() and g.grad[2].any()

@every_map
@pytest.mark.parametrize('a,b', [((2,3,16,16),(2,1,16,16)), ((2,3,16,16),(1,3,16,16)), ((2,3,16,16),(2,3,16,1)), ((3,16,16),(3,16,16)), ((16,16),(16,16)), ((2,3,16,16),(2,3,8,8))])
def test_no_broadcasting(name, a, b):
    with pytest.raises(ValueError) as e: err_maps[name](torch.zeros(a), torch.zeros(b))
    assert str(a) in str(e.value) and str(b) in str(e.value)

@every_map
def test_memory_format_does_not_matter(name):
    x,xr = noise(2,3,20,24),noise(2,3,20,24, seed=1)
    cl = [o.contiguous(memory_format=torch.channels_last) for o in (x,xr)]
    assert torch.allclose(err_maps[name](*cl), err_maps[name](x, xr), atol=1e-6)

@every_map
def test_under_autocast(name):
    "Autocast turns convolutions into bfloat16, in which variances cancel to nothing."
    x = noise(2,3,24,24)*.1+.8
    xr = x+.02*(noise(2,3,24,24, seed=1)-.5)
    with torch.autocast('cpu', torch.bfloat16): m = err_maps[name](x, xr)
    assert m.dtype==torch.float32 and torch.allclose(m, err_maps[name](x, xr), atol=1e-4)

# --- by hand

def test_l1_and_l2_by_hand():
    x,xr = (noise(2,3,5,6, seed=i).numpy() for i in (0,1))
    for f,p in ((l1,1),(l2,2)):
        want = sum(np.abs(x[:,c].astype(float)-xr[:,c])**p for c in range(3))/3
        assert np.abs(f(torch.tensor(x), torch.tensor(xr)).numpy()-want).max()<1e-6

def test_gaussian_window_and_blur():
    g = gaussian_window(11, 1.5)
    want = np.exp(-(np.arange(11)-5)**2/(2*1.5**2))
    assert np.allclose(g, want/want.sum(), atol=1e-7)
    x = noise(2,3,20,17).numpy()
    pad = np.pad(x, ((0,0),(0,0),(5,5),(5,5)), mode='reflect').astype(float)
    w = want/want.sum()
    rows = sum(w[k]*pad[:,:,k:k+20] for k in range(11))
    assert np.abs(blur(torch.tensor(x), g).numpy()-sum(w[k]*rows[...,k:k+17] for k in range(11))).max()<1e-5

# --- structural similarity against scikit-image

def pair(seed):
    "Two images of random content: noise, smooth, dark, bright, binary, inverted; related or not."
    rng = np.random.default_rng(seed)
    h,w,c = rng.integers(14,40),rng.integers(14,40),rng.choice([1,3])
    y,x = np.mgrid[:h,:w]
    wave = .5+.5*np.sin(x/rng.uniform(1,9)+rng.uniform(0,6))*np.cos(y/rng.uniform(1,9))
    a = [rng.random((h,w,c)), wave[...,None]*np.ones(c), .1*rng.random((h,w,c)), .9+.1*rng.random((h,w,c)), (rng.random((h,w,c))>.5).astype(float), np.full((h,w,c), rng.random())][seed%6]
    b = [a+rng.normal(0,.05,a.shape), 1-a, rng.random(a.shape), np.roll(a,1,0), a*.8][(seed//6)%5]
    return a.astype(np.float32),np.clip(b,0,1).astype(np.float32)

def skimage_map(a, b, sigma=1.5):
    return np.stack([structural_similarity(a[...,i].astype(float), b[...,i].astype(float), gaussian_weights=True, sigma=sigma,
                                           use_sample_covariance=False, data_range=1., full=True)[1] for i in range(a.shape[-1])])

def tensors(*xs): return [torch.tensor(o.transpose(2,0,1))[None] for o in xs]

@pytest.mark.parametrize('seed', range(60))
def test_ssim_is_that_of_scikit_image(seed):
    a,b = pair(seed)
    x,y = tensors(a, b)
    want,r = skimage_map(a, b),5
    got = ssim_map(x, y)[0].numpy()
    assert np.abs(got-want)[:,r:-r,r:-r].max()<1e-4 and np.abs(got).max()<=1+1e-5
    inside = slice(r,-r)
    assert np.abs(ssim(x, y)[0].numpy()-np.maximum(1-want.mean(0), 0))[inside,inside].max()<1e-4
    assert torch.allclose(ssim_map(x, y), ssim_map(y, x), atol=5e-5)

@pytest.mark.parametrize('c', [1,3])
def test_ssim_loss(c):
    x,y = noise(3,c,20,20),noise(3,c,20,20, seed=1)
    assert torch.isclose(SSIMloss()(x, y), 1-ssim_map(x, y).mean()) and SSIMloss()(x, x).abs()<1e-6
    assert torch.isclose(SSIMloss(data_range=255.)(x*255, y*255), SSIMloss()(x, y), atol=1e-4)
    assert not torch.isclose(SSIMloss(7)(x, y), SSIMloss(11)(x, y), atol=1e-5)
    for w in (0,1,2,10,-3):
        with pytest.raises(ValueError, match='odd'): SSIMloss(w)

# --- weights and pixels that count

def plain(x, xr, valid, f):
    "Mean over the valid pixels of each image, then over the images."
    m,v = f(x, xr).double().numpy(),valid.numpy()
    return np.mean([m[i][v[i]>0].mean() if v[i].any() else 0. for i in range(len(m))])

def test_map_loss_is_the_weighted_sum():
    x,xr = noise(3,2,20,20),noise(3,2,20,20, seed=1)
    valid = (noise(3,20,20, seed=2)>.3).float(); valid[1,:,:15] = 0
    for v in (None, valid):
        want = sum(w*plain(x, xr, torch.ones_like(valid) if v is None else v, f) for f,w in ((l1,.5),(ssim,2.),(l2,3.)))
        assert abs(MapLoss({'l1':.5, 'ssim':2., l2:3.})(x, xr, v).item()-want)<1e-5

@every_map
def test_the_mean_of_the_map_is_the_loss(name):
    x,xr = noise(3,2,20,20),noise(3,2,20,20, seed=1)
    assert torch.isclose(MapLoss({name:1.})(x, xr), err_maps[name](x, xr).mean())

def test_pixels_that_do_not_count_do_not_matter():
    x,xr,valid = noise(2,1,24,24),noise(2,1,24,24, seed=1),torch.ones(2,24,24)
    valid[:,:8] = 0
    loss,y = MapLoss({'l1':1., 'l2':1.}),xr.clone()
    y[:,:,:8] = 5.
    assert torch.isclose(loss(x, xr, valid), loss(x, y, valid))
    y.requires_grad_(); loss(x, y, valid).backward()
    assert not y.grad[:,:,:8].any() and (y.grad[:,:,8:]!=0).all()

def test_each_image_weighs_the_same():
    m,valid = torch.stack([torch.full((8,8), 1.), torch.full((8,8), 3.)]),torch.ones(2,8,8)
    valid[1,1:] = 0
    assert masked_mean(m, valid)==2 and masked_mean(m)==2
    assert masked_mean(m, torch.zeros(2,8,8))==0                  # nothing counts: no error, no NaN

def test_unknown_maps_are_named():
    with pytest.raises(KeyError, match="'ssim'"): MapLoss({'sim':1.})
