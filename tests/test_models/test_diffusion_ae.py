"""The diffusion autoencoder: its network, noise as an input, the objective of the papers, and what it refuses."""
import math
from functools import partial

import pytest, torch
from torch import nn

from aead.runs.benchmark import peak_memory
from aead.losses import l1, l2, ssim
from aead.models.diffusion import DiffusionSampler, get_target, noises, predictions, schedules
from aead.models.diffusion_ae import DiffusionAutoencoder, PixelAttention, TimeBlock, UNet, diffusion_ae, time_features

from ..helpers import by_size, check_error

TINY = dict(dim=8, dim_mults=[1,2], patch=2, timesteps=40, steps=3)
every_prediction = pytest.mark.parametrize('predict', list(predictions))
every_noise = pytest.mark.parametrize('noise', sorted(noises))
every_width = pytest.mark.parametrize('ni', [1,3,5])

def tiny(**kw): return diffusion_ae(**{**TINY, **kw}).eval()
def mse(x, xr): return l2(x, xr).mean()
def l1_ssim(x, xr): return l1(x, xr).mean()+ssim(x, xr).mean()

# --- the network

@every_width
@pytest.mark.parametrize('patch', [1,2,4])
@pytest.mark.parametrize('mults', [(1,),(1,2),[1,2,3],(2,1)], ids=str)
def test_unet_keeps_shape(ni, patch, mults):
    net = UNet(8, ni, mults, patch)
    assert net.stride==patch*2**(len(mults)-1)
    for hw in ((32,32),(48,32),(21,27)):
        y = net(torch.rand(2, ni, *hw), torch.tensor([1,40]))
        assert y.shape==(2, ni, *hw) and y.isfinite().all()

def test_unet_has_the_signature_of_the_plan():
    net = UNet(16)
    assert net.stride==8 and len(net.down)==4 and [o.conv2.out_channels for o in net.down]==[16,32,64,128]
    assert net(torch.rand(1,3,32,32), torch.tensor([5])).shape==(1,3,32,32)
    assert len([o for o in net.modules() if isinstance(o, PixelAttention)])==1

def test_unet_knows_the_step_and_every_image_has_its_own():
    net,x = UNet(8, 1, (1,2)).eval(),torch.rand(3,1,16,16)
    with torch.no_grad():
        a,b = net(x, torch.tensor([1,50,900])),net(x, torch.tensor([1,500,900]))
        assert torch.allclose(a[[0,2]], b[[0,2]], atol=1e-6) and (a[1]-b[1]).abs().max()>1e-4
        assert torch.allclose(net(x[1:2], torch.tensor([50])), a[1:2], atol=1e-6)

def test_attention_sees_the_whole_image_and_blocks_do_not():
    x = torch.rand(1,16,12,12)
    y = x.clone()
    y[...,0,0] += 1
    def far(f): return (f(x)-f(y))[...,8:,8:].abs().max().item()
    a,b = PixelAttention(16),TimeBlock(16, 16, 4)
    a.norm = b.norm1 = b.norm2 = nn.Identity()                 # normalisation sees all of it, too
    assert far(a)>0 and far(lambda o: b(o, torch.zeros(1,4)))==0

def test_attention_by_hand():
    m,x = PixelAttention(8),torch.randn(2,8,3,5)
    q,k,v = (m.qkv.weight[8*i:8*i+8,:,0,0] for i in range(3))
    f = m.norm(x).flatten(2)                                    # `b c n`
    out = []
    for h in range(4):
        at = slice(2*h, 2*h+2)
        w = torch.softmax((q[at]@f).transpose(1,2)@(k[at]@f)/2**.5, -1)
        out.append((v[at]@f)@w.transpose(1,2))
    assert torch.allclose(m(x), x+m.out(torch.cat(out, 1).reshape(x.shape)), atol=1e-5)

def test_time_features():
    f = time_features(torch.tensor([0,3,700]), 16)
    assert f.shape==(3,16) and torch.equal(f[0], torch.tensor([0.]*8+[1.]*8)) and f.abs().max()<=1
    assert f[1,0]==pytest.approx(math.sin(3)) and f[2,15]==pytest.approx(math.cos(700*10**(-4*7/8)), abs=1e-4)
    every = time_features(torch.arange(1001), 48)
    d = torch.cdist(every, every)+torch.eye(1001)*9
    assert d.min()>.01                                          # no two steps look alike

def test_the_network_sees_thousandths_whatever_the_timesteps(monkeypatch):
    for n in (40,1000):
        m,seen = tiny(timesteps=n),[]
        def forward(x, t, seen=seen):
            seen.append(t)
            return x
        monkeypatch.setattr(m.unet, 'forward', forward)
        m.denoise(torch.zeros(2,3,16,16), torch.tensor([n//2,n]))
        assert torch.allclose(seen[0].float(), torch.tensor([500.,1000.]))

# --- the interface

def test_settings():
    s = DiffusionAutoencoder.from_config({}).settings
    assert s['timesteps']==1000 and s['steps']<=10
    m = DiffusionAutoencoder({'models': {'diffusion_ae': {'timesteps': 60, 'start': .5, 'dim_mults': [1,2]}}})
    assert m.timesteps==60==m.schedule.timesteps and m.start==30 and m.settings['dim']==s['dim']
    for k in (dict(dim_mults=(1,2)), dict(dim_mults=[1,2])): assert len(tiny(**k).unet.down)==2
    torch.manual_seed(0)
    a = tiny(dim_mults=(1,2))
    torch.manual_seed(0)
    b = tiny(dim_mults=[1,2])
    assert all(torch.equal(p, q) for p,q in zip(a.state_dict().values(), b.state_dict().values()))

def test_weights_hold_no_tables():
    assert not [k for k in tiny().state_dict() if not k.startswith('unet.')]

@every_width
def test_encode_is_the_identity_and_forward_decodes(ni, pictures):
    m,x = tiny(ni=ni),pictures(2, ni, (20,28))
    with torch.no_grad():
        assert m.encode(x) is x and torch.equal(m(x), m.decode(m.encode(x))) and torch.equal(m(x), m.reconstruct(x).xr)
        assert torch.equal(m(x), m.reconstruct(x, m.draw_noise((ni,20,28), 0)).xr)
        assert m(x).min()>=0 and m(x).max()<=1

@every_prediction
@every_noise
def test_reconstruction_by_hand(predict, noise, pictures):
    m,x = tiny(predict=predict, noise=noise, draws=3, start=.6),pictures(2)
    with torch.no_grad():
        z,xrs = m.draw_noise((3,32,32), 4),[]
        assert z.shape==(3,3,32,32)
        for n in z:
            xt = m.schedule.abar[24]**.5*(2*x-1)+(1-m.schedule.abar[24])**.5*n
            xrs.append((DiffusionSampler(m.denoise, m.schedule).ddim(xt, 3, start=24)+1)/2)
        r = m.reconstruct(x, z)
    assert m.start==24 and torch.allclose(r.xr, sum(xrs)/3, atol=1e-5)
    assert list(r.maps)==['draws']
    assert torch.allclose(r.maps['draws'], sum((x-o).abs().mean(1) for o in xrs)/3, atol=1e-5)
    assert (r.maps['draws']>=(x-r.xr).abs().mean(1)-1e-6).all()   # no less than the error of the mean

def test_ten_steps_at_most_by_default():
    m,n = diffusion_ae(ni=1, dim=8, dim_mults=[1,2]).eval(),[]
    f = m.unet.forward
    m.unet.forward = lambda x,t: (n.append(len(x)), f(x, t))[1]
    with torch.no_grad(): m(torch.rand(2,1,32,32))
    assert m.steps<=10 and n==[2]*m.steps*m.draws

@every_noise
def test_independent_of_batch_and_order(noise, pictures):
    m,x = tiny(noise=noise),pictures(5)
    with torch.no_grad():
        r = m.reconstruct(x)
        perm = torch.tensor([3,0,4,1,2])
        p,one = m.reconstruct(x[perm]),m.reconstruct(x[2:3])
    for got,i in ((p, perm), (one, slice(2,3))):
        assert torch.allclose(got.xr, r.xr[i], atol=1e-5)
        assert torch.allclose(got.maps['draws'], r.maps['draws'][i], atol=1e-5)

@every_noise
def test_noise_is_an_input_and_the_global_generator_is_left_alone(noise, pictures):
    m,x = tiny(noise=noise),pictures(3)
    state = torch.get_rng_state()
    with torch.no_grad():
        xr = m(x)
        assert torch.equal(m(x), xr) and torch.equal(m.training_step(x, x, None, mse), m.training_step(x, x, None, mse))
        assert not torch.equal(m.reconstruct(x, m.draw_noise(x.shape[1:], 1)).xr, xr)
        m.sample((1,3,16,16), 4)
        m.sample((1,3,16,16))
    assert torch.equal(torch.get_rng_state(), state)
    a,b,c = (m.draw_noise((3,8,8), seed) for seed in (5,5,6))
    assert torch.equal(a, b) and not torch.equal(a, c)

def test_one_image_of_noise_for_all(pictures):
    m,x = tiny(),pictures(1).expand(4,-1,-1,-1)
    with torch.no_grad(): xr = m(x)
    assert torch.allclose(xr, xr[:1].expand_as(xr), atol=1e-6)

def test_more_noise_changes_more(pictures):
    m,x = tiny(),pictures(2)
    with torch.no_grad():
        near = [((tiny_at(m, s)(x)-x).abs().mean()).item() for s in (.075,.3,1.)]
    assert near==sorted(near)

def tiny_at(m, start):
    m2 = tiny(start=start)
    m2.load_state_dict(m.state_dict())
    return m2

@pytest.mark.parametrize('hw', [(21,30),(9,64),(33,17)], ids=by_size)
def test_odd_sizes(hw, pictures):
    m,x = tiny(),pictures(2, 3, hw)
    with torch.no_grad():
        r = m.reconstruct(x)
        assert r.xr.shape==x.shape and r.maps['draws'].shape==(2,*hw) and r.xr.isfinite().all()
        assert m.sample((1,3,*hw), 3).shape==(1,3,*hw) and m.training_step(x, x, None, mse).isfinite()

# --- samples

def test_sample(pictures):
    m = tiny()
    a = m.sample((2,3,16,20))
    assert a.shape==(2,3,16,20) and a.min()>=0 and a.max()<=1 and not a.requires_grad
    assert torch.equal(a, m.sample((2,3,16,20))) and torch.equal(a, m.sample((2,3,16,20), 40))
    assert torch.equal(a, m.sample([2,3,16,20], timesteps=None, seed=0))
    b = m.sample((2,3,16,20), 8)
    assert not torch.equal(a, b) and torch.equal(b, m.sample((2,3,16,20), 8))
    assert not torch.equal(b, m.sample((2,3,16,20), 8, seed=1))

@pytest.mark.parametrize('timesteps,calls', [(None,40),(40,40),(8,8),(1,1)])
def test_sample_takes_as_many_steps(timesteps, calls):
    m,seen = tiny(),[]
    f = m.unet.forward
    m.unet.forward = lambda x,t: (seen.append(t[0].item()), f(x, t))[1]
    m.sample((1,3,8,8), timesteps)
    assert len(seen)==calls and seen[0]==1000 and seen==sorted(seen, reverse=True)

def test_learns_two_grey_levels_and_samples_them_back():
    "Flat images, dark or bright: samples are one or the other, in the right shares."
    torch.manual_seed(0)
    m = diffusion_ae(ni=1, dim=16, dim_mults=[1], patch=4, timesteps=100, predict='x0').train()
    opt = torch.optim.Adam(m.parameters(), 4e-3)
    sched = torch.optim.lr_scheduler.CosineAnnealingLR(opt, 200)
    for _ in range(200):
        x = (.2+.6*(torch.rand(32,1,1,1)<.5)).expand(32,1,8,8).contiguous()
        o = m.training_step(x, x, None, mse)
        opt.zero_grad()
        o.backward()
        opt.step()
        sched.step()
    y = m.eval().sample((128,1,8,8), 25)
    level,flat = y.mean((1,2,3)),y.std((1,2,3)).median()
    near = torch.minimum((level-.2).abs(), (level-.8).abs())
    bright = (level>.5).float().mean()
    assert near.median()<.08 and flat<.12 and .25 < bright < .75, (near.median(), flat, bright)

# --- what it minimises

@every_prediction
@pytest.mark.parametrize('schedule', sorted(schedules))
@pytest.mark.parametrize('mode', ['train','eval'])
def test_l2_is_the_objective_of_the_papers(predict, schedule, mode, pictures):
    m,x = getattr(tiny(predict=predict, schedule=schedule, max_weight=None, timesteps=1000), mode)(),pictures(6)
    torch.manual_seed(3)
    with torch.no_grad():
        got = m.training_step(x, x, None, mse)
        torch.manual_seed(3)
        t,noise = m.draw_training(x)
        out = m.run_net(m.schedule.q_sample(2*x-1, t, noise), t)
        want = ((out-get_target(m.schedule, 2*x-1, noise, t, predict))**2).mean()
    assert torch.isclose(got, want, rtol=1e-4), (got, want)

@every_prediction
@pytest.mark.parametrize('cap', [.5,5.,100.,None])
def test_weight_and_its_limit_at_every_step(predict, cap, pictures):
    m,n = tiny(predict=predict, max_weight=cap, timesteps=1000),1000
    s,t = m.schedule,torch.arange(1, n+1)
    x0,noise,out = (torch.randn(n,3,2,2, generator=torch.Generator().manual_seed(i)) for i in range(3))
    x0 = x0.clamp(-1, 1)
    a,b = m.weigh(x0, s.q_sample(x0, t, noise), out, t)
    assert a.isfinite().all() and b.isfinite().all() and (a>=-1e-6).all()   # also where hardly any image is left
    snr = torch.tensor([o/(1-o) for o in s.abar[1:]])
    w = {'noise': snr, 'v': 1+snr, 'x0': torch.ones(n)}[predict].clamp_max(math.inf if cap is None else cap)
    assert torch.allclose((a/(x0+1).clamp_min(1e-6)).amax((1,2,3))**2, w, rtol=1e-3, atol=1e-9)
    err = ((a-b)**2).mean((1,2,3))
    want = ((out-get_target(s, x0, noise, t, predict))**2).mean((1,2,3))
    full = {'noise': snr, 'v': 1+snr, 'x0': torch.ones(n)}[predict]
    assert torch.allclose(err, want*w/full, rtol=2e-2, atol=1e-6)
    if cap==5. and predict=='noise':                                                # min-SNR-5 of Hang et al.
        assert torch.allclose(err, want*(5/snr).clamp_max(1), rtol=2e-2, atol=1e-6)

@every_prediction
def test_a_restorer_is_asked_for_the_clean_image(predict, pictures, monkeypatch):
    "A network that knows the clean image has no loss, one that gives the corrupted image back has."
    m,x,y = tiny(predict=predict),pictures(4),pictures(4, seed=1)
    def net(x0):
        def f(xt, t):
            t = (t*m.timesteps/1000).round().long()
            a,s = m.schedule.at(t, xt)
            return {'x0': x0, 'noise': (xt-a*x0)/s, 'v': a*(xt-a*x0)/s-s*x0}[predict]
        return f
    loss = {}
    for k,o in (('clean',y),('corrupted',x)):
        monkeypatch.setattr(m.unet, 'forward', net(2*o-1))
        loss[k] = m.training_step(x, y, None, mse).item()
    assert loss['clean'] < 1e-6 and loss['corrupted'] > 1e-2

def test_steps_of_a_batch(pictures):
    m,x = tiny(timesteps=100).train(),pictures(10)
    ts = torch.stack([m.draw_training(x)[0] for _ in range(400)])
    assert ts.min()==1 and ts.max()==100
    assert (torch.bincount(ts.flatten(), minlength=101)[1:]-40).abs().max() < 30         # every step is equally likely
    assert ((ts.sort(1).values.diff()-10).abs()<=1).all()                                # and spread over the batch
    t,noise = m.eval().draw_training(x)
    assert t.tolist()==list(range(6,101,10)) and torch.equal(m.draw_training(x)[1], noise)
    assert m.draw_training(x[:1])[0].tolist()==[51]

def test_training_draws_from_the_global_generator(pictures):
    m,x = tiny().train(),pictures(2)
    torch.manual_seed(5)
    a = m.training_step(x, x, None, mse)
    b = m.training_step(x, x, None, mse)
    torch.manual_seed(5)
    assert torch.equal(m.training_step(x, x, None, mse), a) and not torch.equal(a, b)

@every_width
@every_prediction
def test_learns_under_autocast_and_channels_last(ni, predict, pictures):
    m = tiny(ni=ni, predict=predict, noise='multiscale').train().to(memory_format=torch.channels_last)
    x = pictures(4, ni).contiguous(memory_format=torch.channels_last)
    seen = []
    def loss(a, b):
        seen.extend([a.dtype, b.dtype, (a@a.transpose(2,3)).dtype])
        return l1_ssim(a, b)
    with torch.autocast('cpu', torch.bfloat16):
        o = m.training_step(x, x, None, loss)
        r = m.eval().reconstruct(x)
    o.backward()
    assert set(seen)=={torch.float32} and o.dtype==torch.float32 and r.xr.dtype==r.maps['draws'].dtype==torch.float32
    assert all(p.grad.isfinite().all() and p.grad.abs().max()>0 for p in m.parameters())
    with torch.no_grad(): assert (r.xr-m(x)).abs().max() < .2                            # bfloat16 is less exact

@every_prediction
@pytest.mark.parametrize('loss', [mse, l1_ssim])
def test_training_lowers_the_loss(predict, loss, pictures):
    m,x = tiny(predict=predict, dim=16),pictures(8)
    with torch.no_grad(): before = m.training_step(x, x, None, loss)
    opt = torch.optim.Adam(m.parameters(), 5e-3)
    m.train()
    for _ in range(40):
        o = m.training_step(x, x, None, loss)
        opt.zero_grad()
        o.backward()
        opt.step()
    with torch.no_grad(): assert m.eval().training_step(x, x, None, loss) < .9*before

def test_peak_memory_is_counted(pictures):
    m = tiny()
    assert 0 < peak_memory(m, pictures(1)) < peak_memory(m, pictures(1), mse)

# --- errors

def test_errors(pictures):
    check_error(lambda: tiny(steps=11), ValueError,
                'diffusion_ae.steps must be at most 10', 'start=0.25 of 40 timesteps', 'got 11')
    check_error(lambda: tiny(timesteps=8), ValueError, 'diffusion_ae.steps must be at most 2', 'got 3')
    for k in ('ni','timesteps','steps','draws','dim','patch'):
        for v in (0, -1, 1.5, '3', None, True):
            check_error(partial(tiny, **{k: v}), ValueError, f'diffusion_ae.{k} must be a whole number', repr(v))
    for v in (0, -.5, 1.01, '0.5', None, True, math.nan):
        check_error(partial(tiny, start=v), ValueError, 'diffusion_ae.start must be a number from 0.025 to 1', repr(v))
    for v in (0, -1, 'five', math.nan):
        check_error(partial(tiny, max_weight=v), ValueError, 'diffusion_ae.max_weight', repr(v))
    for v,near in ((12,16),(1,8),(100,96)):
        check_error(partial(tiny, dim=v), ValueError, 'diffusion_ae.dim must be a multiple of 8', f'take {near}')
    for v in ((), [], [0], [1,'2'], [1.5], 3, None, 'abc', [True]):
        check_error(partial(tiny, dim_mults=v), ValueError,
                    'diffusion_ae.dim_mults must be one or more whole numbers', repr(v))
    check_error(lambda: tiny(schedule='sigmoid'), KeyError, 'diffusion_ae.schedule', 'cosine, linear'.split(', ')[0])
    check_error(lambda: tiny(schedule='lineal'), KeyError, "Did you mean 'linear'")
    check_error(lambda: tiny(noise='multi_scale'), KeyError, "Did you mean 'multiscale'")
    check_error(lambda: tiny(predict='x_0'), KeyError, "Did you mean 'x0'")
    for k in ('schedule','noise','predict'): check_error(partial(tiny, **{k: None}), KeyError, f'diffusion_ae.{k}')
    m,x = tiny(),pictures(2)
    check_error(lambda: m(x[...,:7]), ValueError, 'diffusion_ae', 'at least 8 px', '32×7')
    check_error(lambda: m.reconstruct(x[...,:7]), ValueError, 'at least 8 px')
    check_error(lambda: m.training_step(x[...,:7], x[...,:7], None, mse), ValueError, 'at least 8 px')
    for v in (torch.zeros(3,32,32), torch.zeros(1,1,32,32), torch.zeros(2,3,16,32)):
        check_error(partial(m.reconstruct, x, v), ValueError, '`n c h w`', str(tuple(v.shape)))
    check_error(lambda: m.sample((1,3,16,16), 41), ValueError, 'take steps=40 or fewer')
    for v in (0, -1, 2.5): check_error(partial(m.sample, (1,3,16,16), v), ValueError, 'steps must be a whole number')
    check_error(lambda: m.sample((1,1,16,16)), ValueError, 'made for 3 channels')
    check_error(lambda: m.sample((3,16,16)), ValueError, 'b c h w')
    check_error(lambda: m.sample((1,3,4,16)), ValueError, 'at least 8 px')
    for v in (0, 12.0, None): check_error(partial(UNet, v), ValueError, 'UNet.dim')
