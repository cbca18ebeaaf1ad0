"""Contracts run over every error map, loss and mask loss; values against NumPy, SciPy, scikit-image and torchvision."""
import math
from functools import partial

import numpy as np, pytest, torch, torch.nn.functional as F
from scipy import ndimage
from skimage.metrics import structural_similarity
from torch import nn
from torchvision.ops import sigmoid_focal_loss

from aead import losses as module
from aead.losses import (DiceLoss, FocalLoss, MSSSIMLoss, PerceptualLoss, SSIMloss, WeightedLoss, blur, charbonnier,
                         enlarge, err_maps, gaussian_window, gms, grad_magnitude, gradient_error, image_pyramid, l1, l2,
                         losses, mask_losses, masked_mean, msgms, ssim, ssim_map)
from aead.models.encoders import get_encoder

from ..helpers import by_setting, by_size

every_map = pytest.mark.parametrize('name', sorted(err_maps))
every_loss = pytest.mark.parametrize('name', sorted(losses))
every_mask_loss = pytest.mark.parametrize('name', sorted(mask_losses))
blind = 'gms','msgms' # see edges only: no error between images of one pixel

def noise(*shape, seed=0): return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))

# --- the contract

@every_map
@pytest.mark.parametrize('c', [1,3,5])
@pytest.mark.parametrize('hw', [(24,24),(13,40),(5,5),(1,1)], ids=by_size)
def test_shape_and_sign(name, c, hw):
    x,xr = noise(3, c, *hw),noise(3, c, *hw, seed=1)
    m = err_maps[name](x, xr)
    assert m.shape==(3,*hw) and m.dtype==torch.float32
    assert torch.isfinite(m).all() and (m>=0).all()
    assert (m.flatten(1).mean(1)>0).all() or hw==(1,1) and name in blind

IMAGES = {'noise': noise(2,3,24,24), 'black': torch.zeros(2,3,24,24), 'white': torch.ones(2,3,24,24),
          'grey': torch.full((2,1,24,24), .37), 'binary': (noise(2,3,24,24)>.5).float()}

@every_map
@pytest.mark.parametrize('x', IMAGES.values(), ids=IMAGES)
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
@pytest.mark.parametrize('c,hw', [(1,(7,9)),(3,(9,8))], ids=['grey','colour'])
def test_gradient_is_that_of_the_map(name, c, hw):
    "In float64, which the maps leave as it is."
    x,xr = noise(2,c,*hw).double(),noise(2,c,*hw, seed=1).double().requires_grad_()
    assert err_maps[name](x, xr).dtype==torch.float64
    assert torch.autograd.gradcheck(lambda o: err_maps[name](x, o), xr, eps=1e-6, atol=1e-5, fast_mode=True)

@every_map
def test_images_do_not_see_their_neighbours(name):
    x,xr = noise(4,3,20,20),noise(4,3,20,20, seed=1)
    m = err_maps[name](x, xr)
    for i in range(4): assert torch.allclose(err_maps[name](x[i:i+1], xr[i:i+1])[0], m[i], atol=1e-6)
    y = xr.clone()
    y[1:] = 1-y[1:]
    assert torch.allclose(err_maps[name](x, y)[0], m[0], atol=1e-6)
    g = xr.clone().requires_grad_()
    err_maps[name](x, g)[2].sum().backward()
    assert not g.grad[[0,1,3]].any() and g.grad[2].any()

UNLIKE = {'channels': ((2,3,16,16),(2,1,16,16)), 'batch': ((2,3,16,16),(1,3,16,16)), 'one image': ((3,16,16),(3,16,16)),
          'size': ((2,3,16,16),(2,3,8,8))}
BROADCAST = {'width': ((2,3,16,16),(2,3,16,1)), 'plane': ((16,16),(16,16)), **UNLIKE}

@every_map
@pytest.mark.parametrize('a,b', BROADCAST.values(), ids=BROADCAST)
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
    a = [rng.random((h,w,c)), wave[...,None]*np.ones(c), .1*rng.random((h,w,c)), .9+.1*rng.random((h,w,c)),
         (rng.random((h,w,c))>.5).astype(float), np.full((h,w,c), rng.random())][seed%6]
    b = [a+rng.normal(0,.05,a.shape), 1-a, rng.random(a.shape), np.roll(a,1,0), a*.8][(seed//6)%5]
    return a.astype(np.float32),np.clip(b,0,1).astype(np.float32)

def skimage_map(a, b, sigma=1.5):
    kw = dict(gaussian_weights=True, sigma=sigma, use_sample_covariance=False, data_range=1., full=True)
    channels = [(a[...,i].astype(float), b[...,i].astype(float)) for i in range(a.shape[-1])]
    return np.stack([structural_similarity(p, q, **kw)[1] for p,q in channels])

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

@pytest.mark.parametrize('seed', range(12))
def test_ssim_of_random_sizes_channels_and_windows(seed):
    rng = np.random.default_rng(seed)
    c,sigma = int(rng.integers(1,6)),float(rng.uniform(.6,2.2))
    r = int(3.5*sigma+.5)                                         # what scikit-image cuts the window to
    def image(): return rng.random((int(rng.integers(2*r+3,50)), int(rng.integers(2*r+3,50)), c)).astype(np.float32)
    a,b = image(),image()
    b = np.clip(a+.3*np.resize(b, a.shape)-.15, 0, 1)
    got = ssim_map(*tensors(a, b), window_size=2*r+1, sigma=sigma)[0].numpy()
    assert np.abs(got-skimage_map(a, b, sigma))[:,r:-r,r:-r].max()<1e-4

# --- error maps against NumPy and SciPy

def test_charbonnier_by_hand():
    x,xr = (noise(2,3,5,6, seed=i).double() for i in (0,1))
    for eps in (1e-6,1e-3,.5,7.):
        want = (((x-xr)**2+eps**2).sqrt()-eps).mean(1)
        assert (charbonnier(x, xr, eps)-want).abs().max()<1e-12
    assert torch.allclose(charbonnier(x, xr, 1e-9), l1(x, xr), atol=1e-8)
    tiny = charbonnier(torch.zeros(1,1,1,1), torch.full((1,1,1,1), 1e-5)).item()
    assert abs(tiny/(1e-10/2e-3)-1)<1e-3                          # d²/2eps, lost if float32 values were subtracted

def np_gms(a, b, c=.0026):
    "`h w`, float64, with SciPy's own Prewitt filters, which sum over three pixels."
    m,n = (np.hypot(*(ndimage.prewitt(o, axis=i, mode='mirror')/3 for i in (0,1))) for o in (a,b))
    return 1-(2*m*n+c)/(m**2+n**2+c)

def np_half(a):
    a = np.pad(a, [(0,n%2) for n in a.shape], mode='edge')
    return (a[::2,::2]+a[1::2,::2]+a[::2,1::2]+a[1::2,1::2])/4

def np_msgms(a, b, scales=4):
    maps,hw = [],a.shape
    for i in range(scales):
        if i:
            if min(-(-n//2) for n in a.shape)<8: break
            a,b = np_half(a),np_half(b)
        at = np.meshgrid(*((np.arange(n)+.5)/2**i-.5 for n in hw), indexing='ij')
        maps.append(ndimage.map_coordinates(np_gms(a, b), at, order=1, mode='nearest'))
    return np.mean(maps, 0)

@pytest.mark.parametrize('seed', range(30))
def test_gradient_similarity_is_that_of_scipy(seed):
    a,b = pair(seed)
    x,y = tensors(a, b)
    for f,want in ((gms,np_gms),(msgms,np_msgms)):
        channels = zip(*(o.astype(float).transpose(2,0,1) for o in (a,b)))
        want = np.mean([want(p, q) for p,q in channels], 0)
        assert np.abs(f(x, y)[0].numpy()-want).max()<2e-4
        assert np.abs(f(x.double(), y.double())[0].numpy()-want).max()<3e-5       # what stands under the root

def test_gradient_similarity_does_not_see_brightness():
    x = noise(2,3,40,33)*.5
    for f in (gms,msgms):
        assert f(x, x+.4).max()<1e-5 and f(x, 1-x).max()<1e-5
        assert f(x, .5*x).mean()>.05

def test_scales_of_gradient_similarity():
    assert [len(list(image_pyramid(noise(1,1,h,99), 4, 8))) for h in (1,7,14,15,28,29,56,57,200)]==[1,1,1,2,2,3,3,4,4]
    x,y = noise(1,1,64,64),noise(1,1,64,64, seed=1)
    assert not torch.allclose(msgms(x, y, scales=2), msgms(x, y), atol=1e-3)
    edge = torch.zeros(1,1,32,32)
    edge[...,15:] = 1
    assert torch.allclose(grad_magnitude(edge)[0,0,9], F.pad(torch.ones(2), (14,16)), atol=1e-5)

@pytest.mark.parametrize('hw', [(1,1),(13,40),(64,57)], ids=by_size)
def test_pyramid_is_that_of_numpy_and_is_enlarged_to_size(hw):
    x = noise(2,3,*hw)
    want = x[1,2].double().numpy()
    for i,o in enumerate(image_pyramid(x, 4, 1)):
        assert np.abs(o[1,2].numpy()-want).max()<1e-6 and enlarge(o, i, hw).shape==x.shape
        want = np_half(want)
    assert torch.equal(enlarge(x, 0, hw), x)

def test_gradient_error_is_that_of_the_map():
    x,xr = noise(2,3,20,24),noise(2,3,20,24, seed=1)
    e = gradient_error(x, xr, .0026)
    assert e.shape==(2,1,20,24) and torch.equal(e[:,0], gms(x, xr)) and e.min()>=0 and e.max()<=1

OUT_OF_RANGE = [(charbonnier,dict(eps=0)),(charbonnier,dict(eps='a')),(charbonnier,dict(eps=math.nan)),(gms,dict(c=-1)),
                (msgms,dict(c=True)),(msgms,dict(scales=0)),(msgms,dict(scales=1.5)),(ssim,dict(window_size=4)),
                (ssim,dict(window_size=11.)),(ssim,dict(sigma=0))]
@pytest.mark.parametrize('f,settings', OUT_OF_RANGE, ids=by_setting)
def test_settings_out_of_range(f, settings):
    (k,v), = settings.items()
    with pytest.raises(ValueError, match=k) as e: f(noise(1,1,16,16), noise(1,1,16,16), **settings)
    assert repr(v) in str(e.value) and '\n' not in str(e.value)

# --- the contract of a loss of whole images

class Tiny(nn.Module):
    "An encoder whose output would change in training mode."
    def __init__(self, ni=3):
        super().__init__()
        def conv(i, o): return nn.Sequential(nn.Conv2d(i, o, 3, 2, 1), nn.BatchNorm2d(o), nn.GELU(), nn.Dropout(.5))
        self.a,self.b = conv(ni, 6),conv(6, 8)
    def forward(self, x): return [f := self.a(x), self.b(f)]

def make(name, c=3, **kw):
    "A loss by name, with the settings that it cannot do without here."
    torch.manual_seed(0)
    need = {'perceptual': dict(encoder=Tiny(c), ni=c)}
    return losses[name](**need.get(name, {}), **kw)

@every_loss
@pytest.mark.parametrize('c', [1,3,5])
@pytest.mark.parametrize('hw', [(48,48),(13,40),(5,5),(1,1)], ids=by_size)
def test_a_loss_is_a_number(name, c, hw):
    x,xr,loss = noise(3, c, *hw),noise(3, c, *hw, seed=1),make(name, c)
    v = loss(x, xr)
    assert isinstance(loss, nn.Module) and v.shape==() and v.dtype==torch.float32 and torch.isfinite(v) and v>0
    assert loss(x, x.clone()).abs()<1e-6
    per_image = torch.stack([loss(x[i:i+1], xr[i:i+1]) for i in range(3)])
    assert torch.isclose(per_image.mean(), v, atol=1e-6)

@every_loss
def test_more_error_costs_more(name):
    x,d,loss = noise(2,3,48,48)*.5+.25,noise(2,3,48,48, seed=1)-.5,make(name)
    vs = [loss(x, x+s*d).item() for s in (0,.05,.1,.2,.4)]
    assert vs==sorted(vs) and vs[-1]>vs[1]>vs[0]>-1e-6

@every_loss
@pytest.mark.parametrize('kind', ['noise','equal','black','white','negative','flat','far'])
def test_gradients_of_losses_are_finite(name, kind):
    x,y = noise(2,3,48,48),noise(2,3,48,48, seed=1)
    x = {'black': torch.zeros_like(x), 'white': torch.ones_like(x)}.get(kind, x)
    xr = {'equal': x, 'negative': 1-x, 'flat': torch.full_like(x, .5), 'far': 1e3*y}.get(kind, y)
    xr = xr.clone().requires_grad_()
    make(name)(x, xr).backward()
    assert torch.isfinite(xr.grad).all()
    if kind in ('noise','negative'): assert (xr.grad.flatten(1).abs().amax(1)>0).all()

@every_loss
def test_gradient_is_that_of_the_loss(name):
    x,xr,loss = noise(1,3,23,24).double(),noise(1,3,23,24, seed=1).double().requires_grad_(),make(name).double()
    assert torch.autograd.gradcheck(lambda o: loss(x, o), xr, eps=1e-6, atol=1e-6, fast_mode=True)

@every_loss
def test_losses_under_autocast_and_channels_last(name):
    x,loss = noise(2,3,48,48)*.1+.8,make(name)
    xr = x+.02*(noise(2,3,48,48, seed=1)-.5)
    want = loss(x, xr)
    with torch.autocast('cpu', torch.bfloat16): got = loss(x, xr)
    assert got.dtype==torch.float32 and torch.isclose(got, want, atol=1e-6)
    last = [o.contiguous(memory_format=torch.channels_last) for o in (x,xr)]
    assert torch.isclose(loss(*last), want, atol=1e-6)

@every_loss
@pytest.mark.parametrize('a,b', UNLIKE.values(), ids=UNLIKE)
def test_losses_do_not_broadcast(name, a, b):
    with pytest.raises(ValueError) as e: make(name)(torch.zeros(a), torch.zeros(b))
    assert str(a) in str(e.value) and str(b) in str(e.value)

# --- multi-scale structural similarity

W = np.array([.0448,.2856,.3001,.2363,.1333])

def np_ms_ssim(a, b):
    "Of one channel, float64, with SciPy's Gaussian; also the lowest of the means that are multiplied."
    def blurred(o): return ndimage.gaussian_filter(o, 1.5, truncate=3.5, mode='mirror')
    means = []
    for _ in range(5):
        ma,mb = blurred(a),blurred(b)
        cs = (2*(blurred(a*b)-ma*mb)+.0009)/(blurred(a*a)-ma**2+blurred(b*b)-mb**2+.0009)
        light = (2*ma*mb+.0001)/(ma**2+mb**2+.0001)
        means.append((cs.mean(), (light*cs).mean()))
        if min(-(-n//2) for n in a.shape)<11: break
        a,b = np_half(a),np_half(b)
    n = len(means)
    m = np.array([o[0] for o in means[:-1]]+[means[-1][1]])
    return np.prod(np.maximum(m, 0)**(W[:n]/W[:n].sum())), m.min()

@pytest.mark.parametrize('shape', [(14,30),(21,21),(37,52),(64,48),(81,90),(170,163)], ids=by_size)
def test_ms_ssim_is_that_of_scipy(shape):
    checked = 0
    for seed in range(4 if shape[0]>100 else 10):
        rng = np.random.default_rng(seed)
        a = ndimage.gaussian_filter(rng.random((*shape,2)), (1+seed%3,1+seed%3,0))
        a = (a-a.min())/np.ptp(a)
        b = [a+rng.normal(0,.05+.1*(seed%4),a.shape), a**2, np.roll(a,1,0)][seed%3]
        want = [np_ms_ssim(a[...,i], b[...,i]) for i in (0,1)]
        if min(o[1] for o in want)<.01: continue
        checked += 1
        assert abs(1-MSSSIMLoss()(*tensors(a, b)).item()-np.mean([o[0] for o in want]))<1e-5
    assert checked>2

def test_ms_ssim_of_one_scale_is_ssim():
    for h in (3,11,20):
        x = noise(2,1,h,40)
        y = x*.8+.1
        assert torch.isclose(MSSSIMLoss()(x, y), SSIMloss()(x, y), atol=1e-5)
    x = noise(2,1,21,40)
    assert not torch.isclose(MSSSIMLoss()(x, x*.5), SSIMloss()(x, x*.5), atol=1e-4)

def test_ms_ssim_keeps_positive():
    v = torch.linspace(-1, 1, 20001, dtype=torch.float64, requires_grad=True)
    f = module._keep_positive(v)
    g, = torch.autograd.grad(f.sum(), v)
    assert (f>0).all() and (f.diff()>0).all() and torch.equal(f[v>.01], v[v>.01])
    assert (g>0).all() and g.max()<=1 and g.diff().abs().max()<.05        # the same slope on both sides
    with torch.no_grad(): assert (f.diff()/v.diff()-g[1:]).abs().max()<.05

def test_ms_ssim_leads_from_the_negative_to_the_image():
    x = F.interpolate(noise(2,1,12,12), size=48, mode='bilinear')
    xr = (1-x).requires_grad_()
    opt,loss = torch.optim.Adam([xr], .05),MSSSIMLoss()
    vs = []
    for _ in range(60):
        opt.zero_grad()
        v = loss(x, xr)
        v.backward()
        opt.step()
        vs.append(v.item())
    assert vs[0]>.95 and vs[-1]<.2

def test_ms_ssim_settings():
    x,y = noise(1,2,50,50),noise(1,2,50,50)*.7
    assert torch.isclose(MSSSIMLoss(data_range=255.)(x*255, y*255), MSSSIMLoss()(x, y), atol=1e-5)
    assert not torch.isclose(MSSSIMLoss(7)(x, y), MSSSIMLoss()(x, y), atol=1e-4)
    for kw in (dict(window_size=10),dict(window_size=1),dict(data_range=0)):
        with pytest.raises(ValueError, match=next(iter(kw))): MSSSIMLoss(**kw)

# --- features

@pytest.fixture(scope='module')
def vgg():
    torch.manual_seed(0)
    return get_encoder('vgg16')

def test_perceptual_loss_of_vgg16(vgg, tmp_path):
    "From a file, against its layers one by one."
    from safetensors.torch import save_file
    torch.manual_seed(1)
    vgg.mean.copy_(torch.rand(3))
    vgg.std.copy_(torch.rand(3)+.5)
    save_file(vgg.state_dict(), tmp_path/'vgg.safetensors')
    x,xr = noise(2,3,32,32),noise(2,3,32,32, seed=1)
    def features(o):
        fs,o = [],(o-vgg.mean[:,None,None])/vgg.std[:,None,None]
        for i,layer in enumerate(vgg.net.features):
            o = layer(o)
            if i in (3,8,15,22): fs.append(o)
        return fs
    loss = PerceptualLoss(weights=tmp_path/'vgg.safetensors')
    each = [((a-b)**2).mean() for a,b in zip(features(x), features(xr))]
    assert torch.isclose(loss(x, xr), sum(each)/4, rtol=1e-4)
    two = PerceptualLoss([3,8], weights=str(tmp_path/'vgg.safetensors'))
    assert torch.isclose(two(x, xr), sum(each[:2])/2, rtol=1e-4)
    grey,greyr = x[:,:1],xr[:,:1]
    assert torch.isclose(loss(grey, greyr), loss(grey.expand(-1,3,-1,-1), greyr.expand(-1,3,-1,-1)))
    file = tmp_path/'vgg.safetensors'
    with pytest.raises(ValueError, match='rising whole numbers'): PerceptualLoss([3,99], weights=file)

def test_perceptual_loss_is_never_random(monkeypatch):
    asked = []
    monkeypatch.setattr(module, 'get_encoder', lambda *a, **kw: (asked.append((a,kw)), nn.Identity())[1])
    for kw in (dict(),dict(encoder='resnet18'),dict(weights='f.pth'),dict(encoder=Tiny())): PerceptualLoss(**kw)
    want = [(True,None),(True,None),(False,'f.pth'),(False,None)]
    assert [(o[1]['pretrained'],o[1]['weights']) for o in asked]==want
    assert [o[0][2] for o in asked]==[(3,8,15,22),None,(3,8,15,22),None]

def test_perceptual_loss_without_a_network(monkeypatch):
    from aead.models import encoders
    def fail(name): raise OSError(f"the weights of '{name}' could not be downloaded")
    monkeypatch.setattr(encoders, 'download_weights', fail)
    for kw in (dict(),dict(encoder='resnet18', layers=[1,2])):
        with pytest.raises(OSError, match='could not be downloaded'): PerceptualLoss(**kw)
        terms = {'l1':1, 'perceptual':{'weight':.1, **kw}}
        with pytest.raises(OSError, match='could not be downloaded'): WeightedLoss(terms)
    with pytest.raises(FileNotFoundError, match='none.pth'): PerceptualLoss(weights='none.pth')
    with pytest.raises(KeyError, match='resnet18'): PerceptualLoss(encoder='resnet81')
    with pytest.raises(ValueError, match='no weights to download'): PerceptualLoss(encoder=lambda x: [x])

def test_perceptual_loss_is_frozen():
    enc = Tiny()
    loss = PerceptualLoss(encoder=enc)
    before = {k:v.clone() for k,v in loss.state_dict().items()}
    x,xr = noise(2,3,16,16).requires_grad_(),noise(2,3,16,16, seed=1).requires_grad_()
    v = loss.train()(x, xr)
    v.backward()
    assert x.grad is None and xr.grad.abs().max()>0
    assert not any(o.training for o in loss.modules()) and not any(o.requires_grad for o in loss.parameters())
    assert nn.ModuleList([loss]).train()[0].encoder.training is False
    assert torch.equal(loss(x, xr), v) and all(torch.equal(o, before[k]) for k,o in loss.state_dict().items())
    assert enc.training and all(o.requires_grad for o in enc.parameters())        # the original goes on learning

def test_perceptual_channels():
    x = noise(2,5,16,16)
    loss = PerceptualLoss(encoder=Tiny())
    for c in (2,5):
        with pytest.raises(ValueError, match=f'3 channels, or 1 to repeat, got {c}'): loss(x[:,:c], x[:,:c])
    assert PerceptualLoss(encoder=Tiny(5), ni=5)(x, 1-x)>0
    grey = PerceptualLoss(encoder=get_encoder('resnet10t', 1, [0]))             # an encoder knows its own channels
    assert grey(x[:,:1], 1-x[:,:1])>0

def test_perceptual_error_map():
    x = noise(2,3,32,32)
    xr = x.clone()
    xr[0,:,8:14,20:26] = 1-xr[0,:,8:14,20:26]
    loss = make('perceptual')
    m = loss.error_map(x, xr)
    assert m.shape==(2,32,32) and (m>=0).all() and m[1].max()<1e-9
    at = divmod(m[0].argmax().item(), 32)
    assert 6<=at[0]<16 and 18<=at[1]<28 and m[0,24:].max()<1e-9
    assert torch.isclose(m.mean(), loss(x, xr), rtol=.1)

# --- the contract of a loss on maps and masks

def logits(*shape, seed=0, scale=3.): return scale*torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
def rare(*shape, share=.1, seed=5): return (noise(*shape, seed=seed)<share).float()

@every_mask_loss
def test_mask_loss(name):
    loss = mask_losses[name]()
    z,y = logits(3,12,15),rare(3,12,15)
    v = loss(z, y)
    assert isinstance(loss, nn.Module) and v.shape==() and v>0
    assert torch.isclose(torch.stack([loss(z[i:i+1], y[i:i+1]) for i in range(3)]).mean(), v, atol=1e-6)
    for t in (y.bool(),y.to(torch.uint8),y.double()): assert torch.isclose(loss(z, t).float(), v)
    worse = [loss(k*(2*y-1), y).item() for k in (200,5,1,0,-1,-5,-200)]
    assert worse==sorted(worse) and worse[0]<1e-6
    with torch.autocast('cpu', torch.bfloat16): assert torch.isclose(loss(z, y), v)
    assert loss(z.bfloat16(), y).dtype==torch.float32

@every_mask_loss
@pytest.mark.parametrize('scale', [0,1,30,1e4])
@pytest.mark.parametrize('pixels', [0,1,'all'])
def test_mask_gradients_are_finite(name, scale, pixels):
    "No defect, one pixel in sixteen thousand, nothing but defect."
    y = torch.zeros(2,128,128)
    if pixels==1: y[1,3,4] = 1
    if pixels=='all': y += 1
    z = logits(2,128,128, scale=scale).requires_grad_()
    v = mask_losses[name]()(z, y)
    v.backward()
    assert torch.isfinite(v) and torch.isfinite(z.grad).all()
    if scale==1: assert z.grad.any() and (z.grad[y==1]<=0).all() and (z.grad[y==0]>=0).all()

@every_mask_loss
def test_mask_gradcheck_and_valid(name):
    loss,y,valid = mask_losses[name](),rare(2,6,7, share=.4),rare(2,6,7, share=.7, seed=9)
    z = logits(2,6,7).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda o: loss(o, y, valid), z, atol=1e-7)
    other = torch.where(valid>0, z, -z+7).detach().requires_grad_()
    assert torch.isclose(loss(other, torch.where(valid>0, y, 1-y), valid), loss(z, y, valid))
    loss(other, y, valid).backward()
    assert not other.grad[valid==0].any() and other.grad[valid>0].all()
    assert torch.isclose(loss(z, y, torch.ones_like(y)), loss(z, y)) and torch.isfinite(loss(z, y, torch.zeros_like(y)))

@every_mask_loss
def test_mask_shapes(name):
    for a,b in (((2,4,4),(2,1,4,4)),((2,1,4,4),(2,1,4,4)),((2,4,4),(1,4,4)),((4,4),(4,4))):
        with pytest.raises(ValueError, match='b h w'): mask_losses[name]()(torch.zeros(a), torch.zeros(b))

@pytest.mark.parametrize('gamma', [0,.5,1,2.,5.])
@pytest.mark.parametrize('alpha', [.1,.25,.5,.9])
def test_focal_is_its_equation(gamma, alpha):
    z,y = logits(3,9,8).double(),rare(3,9,8, share=.3)
    p = 1/(1+np.exp(-z.numpy()))
    pt,at = np.where(y.numpy()>0, p, 1-p),np.where(y.numpy()>0, alpha, 1-alpha)
    want = (-at*(1-pt)**gamma*np.log(pt)).mean()
    assert abs(FocalLoss(gamma, alpha)(z, y).item()-want)<1e-6*max(1, want)
    assert abs(FocalLoss(gamma, alpha)(z.float(), y).item()-want)<1e-5*max(1, want)

def test_focal_closed_forms():
    z,y,valid = logits(2,9,8),rare(2,9,8),torch.ones(2,9,8)
    assert torch.isclose(FocalLoss(0, .5)(z, y), F.binary_cross_entropy_with_logits(z, y)/2)
    valid[:,:,4:] = 0
    assert torch.isclose(FocalLoss(0, .5)(z, y, valid), F.binary_cross_entropy_with_logits(z[...,:4], y[...,:4])/2)
    assert torch.isclose(FocalLoss(2, .25)(torch.zeros(1,3,3), torch.ones(1,3,3)), torch.tensor(.0625*math.log(2)))
    certain = FocalLoss()(torch.full((1,3,3), 8.), torch.ones(1,3,3)).item()
    assert abs(certain/(.25*math.exp(-24))-1)<2e-3  # p_t is nearly 1 in float32; (1-p_t)² log p_t is not 0

@pytest.mark.parametrize('gamma', [0,1,2.,5.])
@pytest.mark.parametrize('scale', [1,30,1e4])
def test_focal_is_that_of_torchvision(gamma, scale):
    "Value and gradient, with pixels that do not count."
    y,valid = rare(3,12,15),rare(3,12,15, share=.7, seed=9)
    z,ref = (logits(3,12,15, scale=scale).double().requires_grad_() for _ in range(2))
    a,b = FocalLoss(gamma, .25)(z, y, valid),masked_mean(sigmoid_focal_loss(ref, y.double(), .25, gamma), valid)
    a.backward()
    b.backward()
    assert torch.isclose(a, b, rtol=1e-9) and torch.allclose(z.grad, ref.grad, rtol=1e-6, atol=1e-12)

@pytest.mark.parametrize('gamma', [.1,.5,.9])
def test_focal_gradient_of_certain_pixels_is_finite(gamma):
    "Where torchvision's is not a number: a power below 1 has no derivative at 0."
    y = rare(3,12,15, share=.5)
    for scale in (17,40,1e4):
        z = (scale*(2*y-1)).requires_grad_()
        FocalLoss(gamma)(z, y).backward()
        assert torch.isfinite(z.grad).all()

def test_dice_is_its_equation():
    z,y = logits(3,9,8).double(),rare(3,9,8, share=.3).double()
    p,s = z.sigmoid(),2.5
    want = np.mean([1-(2*(p[i]*y[i]).sum()+s)/((p[i]**2).sum()+y[i].sum()+s) for i in range(3)])
    assert abs(DiceLoss(s)(z, y).item()-want)<1e-9

WRONG = [(FocalLoss,dict(gamma=-1)),(FocalLoss,dict(gamma='2')),(FocalLoss,dict(alpha=0)),(FocalLoss,dict(alpha=1.)),
         (DiceLoss,dict(smooth=0))]

@pytest.mark.parametrize('cls,kw', WRONG, ids=by_setting)
def test_mask_settings(cls, kw):
    with pytest.raises(ValueError, match=next(iter(kw))): cls(**kw)

@pytest.mark.parametrize('loss,side,start', [(FocalLoss(),1,-4.),(DiceLoss(),8,-1.)], ids=['focal','dice'])
def test_a_defect_is_found(loss, side, start):
    "A logistic regression learns it from one pixel in a thousand with focal loss, from one in sixteen with Dice."
    x,y = noise(8,32,32),torch.zeros(8,32,32)
    y[:,9:9+side,9:9+side] = 1
    x[y==1] += 2
    w = torch.tensor([0.,start], requires_grad=True)
    opt = torch.optim.Adam([w], .2)
    for _ in range(200):
        opt.zero_grad()
        loss(w[0]*x+w[1], y).backward()
        opt.step()
    z = (w[0]*x+w[1]).detach()
    assert z[y==1].min()>z[y==0].max() and z[y==1].mean()>0>z[y==0].mean()

# --- weights and pixels that count

def plain(x, xr, valid, f):
    "Mean over the valid pixels of each image, then over the images."
    m,v = f(x, xr).double().numpy(),valid.numpy()
    return np.mean([m[i][v[i]>0].mean() if v[i].any() else 0. for i in range(len(m))])

def test_weighted_loss_is_the_weighted_sum():
    x,xr = noise(3,2,24,24),noise(3,2,24,24, seed=1)
    valid = (noise(3,24,24, seed=2)>.3).float()
    valid[1,:,:15] = 0
    whole = make('perceptual', 2)
    for v in (None, valid):
        ones = torch.ones_like(valid) if v is None else valid
        maps = {l1:.5, ssim:2., l2:3., partial(msgms, scales=1):.7}
        want = sum(w*plain(x, xr, ones, f) for f,w in maps.items())
        y = torch.where(ones[:,None]>0, xr, x)
        want += .3*MSSSIMLoss(7)(x, y).item() + 4*whole(x, y).item()
        loss = WeightedLoss({'l1':.5, 'ssim':2, l2:3., 'msgms':{'weight':.7, 'scales':1},
                             'ms_ssim':{'weight':.3, 'window_size':7}, whole:4})
        assert abs(loss(x, xr, v).item()-want)<1e-5

@every_map
def test_the_mean_of_the_map_is_the_loss(name):
    x,xr = noise(3,2,20,20),noise(3,2,20,20, seed=1)
    assert torch.isclose(WeightedLoss({name:1.})(x, xr), err_maps[name](x, xr).mean())

@pytest.mark.parametrize('names', [('l1','l2','charbonnier'),tuple(losses)], ids=['maps','losses'])
def test_pixels_that_do_not_count_do_not_matter(names):
    x,xr,valid = noise(2,3,48,48),noise(2,3,48,48, seed=1),torch.ones(2,48,48)
    valid[:,:16] = 0
    y = xr.clone()
    y[:,:,:16] = 5.
    for k in names:
        loss = WeightedLoss({make(k) if k in losses else k: 1.})
        assert torch.isclose(loss(x, xr, valid), loss(x, y, valid))
        g, = torch.autograd.grad(loss(x, y.requires_grad_(), valid), y)
        assert not g[:,:,:16].any() and (g[:,:,16:]!=0).float().mean()>.99 and torch.isfinite(g).all()

@every_map
def test_map_gradients_with_padding(name):
    "Where the padding begins, and where nothing counts, as everywhere."
    x,xr,valid = noise(2,3,24,24),noise(2,3,24,24, seed=1).requires_grad_(),torch.zeros(2,24,24)
    valid[0,:,:10] = 1
    v = WeightedLoss({name:1.})(x, xr, valid)
    v.backward()
    assert torch.isfinite(v) and torch.isfinite(xr.grad).all() and xr.grad[0].any() and not xr.grad[1].any()

def test_each_image_weighs_the_same():
    m,valid = torch.stack([torch.full((8,8), 1.), torch.full((8,8), 3.)]),torch.ones(2,8,8)
    valid[1,1:] = 0
    assert masked_mean(m, valid)==2 and masked_mean(m)==2
    assert masked_mean(m, torch.zeros(2,8,8))==0                  # nothing counts: no error, no NaN
    for a,b in (((2,8,8),(2,1,8,8)),((2,8,8),(8,8)),((2,1,8,8),(2,1,8,8)),((),None)):
        with pytest.raises(ValueError, match='b h w'): masked_mean(torch.zeros(a), b and torch.zeros(b))

def test_weighted_loss_is_a_module():
    loss = WeightedLoss({'l1':1, make('perceptual'):.1, 'ms_ssim':.5})
    assert any(isinstance(o, PerceptualLoss) for o in loss.modules())
    assert {p.device.type for p in loss.to('meta').parameters()}=={'meta'}
    assert not any(p.requires_grad for p in loss.parameters()) and not loss.train().losses[0].training

UNKNOWN = "unknown setting '{}' of loss '{}'"
WEIGHT = "the weight of loss '{}' must be a number above 0, got {}"
BAD_WEIGHTS = {
    'name': ({'sim':1.}, KeyError, "unknown error map or loss 'sim'. Did you mean 'ssim'"),
    'loss': ({'percetual':1.}, KeyError, "Did you mean 'perceptual'"),
    'eps': ({'charbonnier':{'weight':1, 'epsilon':1}}, KeyError, "of loss 'charbonnier'. Did you mean 'eps'"),
    'window': ({'ms_ssim':{'weight':1, 'window':7}}, KeyError, "of loss 'ms_ssim'. Did you mean 'window_size'"),
    'image': ({'l1':{'weight':1, 'x':1}}, KeyError, UNKNOWN.format('x', 'l1')),
    'module': ({SSIMloss():{'weight':1, 'window_size':7}}, KeyError, UNKNOWN.format('window_size', 'SSIMloss')),
    'no scales': ({'msgms':{'weight':1, 'scales':0}}, ValueError, "scales must be a whole number of at least 1, got 0"),
    'even': ({'ms_ssim':{'weight':1, 'window_size':8}}, ValueError, "window_size must be odd and at least 3, got 8"),
    'no weight': ({'ms_ssim':{'window_size':7}}, ValueError, WEIGHT.format('ms_ssim', None)),
    'map zero': ({l1:0}, ValueError, WEIGHT.format('l1', 0)), 'zero': ({'l1':0}, ValueError, WEIGHT.format('l1', 0)),
    'negative': ({'l1':{'weight':-1}}, ValueError, "got -1"), 'text': ({'l1':'1'}, ValueError, "got '1'"),
    'bool': ({'l1':True}, ValueError, "got True"), 'infinite': ({'l1':math.inf}, ValueError, "got inf"),
    'empty': ({}, ValueError, "at least one term")}

@pytest.mark.parametrize('weights,error,text', BAD_WEIGHTS.values(), ids=BAD_WEIGHTS)
def test_weights_that_will_not_do(weights, error, text):
    with pytest.raises(error) as e: WeightedLoss(weights)
    assert text in str(e.value) and '\n' not in str(e.value)

def test_a_name_or_the_thing_itself():
    x,y = noise(1,2,40,40),noise(1,2,40,40, seed=1)
    vs = [WeightedLoss({k:1})(x, y) for k in ('ms_ssim',MSSSIMLoss,MSSSIMLoss())]
    vs += [WeightedLoss({MSSSIMLoss:{'weight':1, 'window_size':11}})(x, y)]
    assert all(torch.equal(v, vs[0]) for v in vs)
    a,b = (WeightedLoss({k:{'weight':2, 'eps':.1}})(x, y) for k in (charbonnier,'charbonnier'))
    assert torch.equal(a, b)

def test_settings_are_not_changed():
    w = {'charbonnier':{'weight':2, 'eps':.1}, 'l1':1}
    WeightedLoss(w)
    assert w=={'charbonnier':{'weight':2, 'eps':.1}, 'l1':1}

def test_every_family_of_losses_has_its_own_names():
    assert not set(err_maps)&set(losses) and not set(losses)&set(mask_losses)
