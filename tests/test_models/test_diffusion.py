"""Diffusion without a network: closed forms against chains, samplers on mixtures whose best denoiser is a formula; and
one small network that learns a ring."""
import math
from functools import partial

import numpy as np, pytest, torch
from scipy import stats
from torch import nn

from aead.models.diffusion import (
    DiffusionSampler, Schedule, gaussian_noise, get_target, get_x0_noise, multiscale_noise, noises, predictions,
    schedules, time_steps)

from ..helpers import by_size, check_error

every_schedule = pytest.mark.parametrize('kind', sorted(schedules))
every_noise = pytest.mark.parametrize('noise', sorted(noises))
every_prediction = pytest.mark.parametrize('predict', list(predictions))

def gen(seed=0): return torch.Generator().manual_seed(seed)
def sampler(denoise, schedule, seed=None, noise='gaussian'):
    return DiffusionSampler(denoise, schedule, noise, None if seed is None else gen(seed))

# --- schedules and the forward process

@every_schedule
@pytest.mark.parametrize('n', [1,2,10,100,1000,4000])
def test_schedule(kind, n):
    betas,s = schedules[kind](n),Schedule(n, kind)
    assert betas.shape==(n,) and betas.dtype==torch.float64
    assert ((betas>0) & (betas<1)).all() and (betas.diff()>=0).all()
    assert s.alphas_cumprod.shape==(n+1,) and s.abar[0]==1 and s.alphas_cumprod[0]==1 and (np.diff(s.abar)<0).all()
    assert torch.allclose(s.alpha**2+s.sigma**2, torch.ones(n+1), atol=1e-6)
    assert torch.allclose(s.alphas_cumprod.double(), torch.tensor(s.abar, dtype=torch.float64), rtol=1e-6, atol=0)
    if n>=100: assert s.abar[-1] < 1e-4

def test_linear_is_that_of_the_paper():
    assert torch.allclose(schedules['linear'](1000), torch.linspace(1e-4, 2e-2, 1000, dtype=torch.float64), atol=1e-15)
    assert Schedule(1000, 'linear').abar[-1]==pytest.approx(4.0358e-5, rel=1e-3)                    # as is known for it
    assert math.log(Schedule(250, 'linear').abar[-1])==pytest.approx(math.log(4.0358e-5), rel=.05) # the same end

def test_cosine_is_that_of_the_paper():
    def f(u): return math.cos((u+.008)/1.008*math.pi/2)**2
    s = Schedule(1000, 'cosine')
    for t in (1,10,500,900,990): assert s.abar[t]==pytest.approx(f(t/1000)/f(0), rel=1e-9)

@every_schedule
@pytest.mark.parametrize('n', [10,300])
def test_closed_form_is_the_chain_in_mean_and_variance(kind, n):
    s,mean,var = Schedule(n, kind),1.,0.
    for t,b in enumerate(schedules[kind](n).tolist(), 1):
        mean,var = math.sqrt(1-b)*mean, (1-b)*var+b
        assert s.alpha[t].item()==pytest.approx(mean, rel=1e-5) and s.sigma[t].item()**2==pytest.approx(var, rel=1e-5)

@every_schedule
def test_closed_form_is_the_chain_in_draws(kind):
    n,m,x0 = 20,40000,torch.tensor([.5,-1.,2.])
    s,x,g = Schedule(n, kind),None,gen()
    x = x0.expand(m, 3)
    for t,b in enumerate(schedules[kind](n).tolist(), 1):
        x = math.sqrt(1-b)*x + math.sqrt(b)*torch.randn(m, 3, generator=g)
        once = s.q_sample(x0.expand(m, 3), torch.full((m,), t), torch.randn(m, 3, generator=g))
        for o in (x, once):
            assert torch.allclose(o.mean(0), s.alpha[t]*x0, atol=.03)
            assert torch.allclose(o.var(0), (s.sigma[t]**2).expand(3), atol=.03)

def test_every_image_has_its_own_step():
    s,x0,noise,t = Schedule(100),torch.randn(5,2,3,4),torch.randn(5,2,3,4),torch.tensor([0,1,50,99,100])
    x = s.q_sample(x0, t, noise)
    for i in range(5): assert torch.allclose(x[i], s.abar[t[i]]**.5*x0[i]+(1-s.abar[t[i]])**.5*noise[i], atol=1e-6)
    assert torch.equal(x[0], x0[0])

def test_snr():
    s = Schedule(100, 'linear')
    t = torch.arange(1, 101)
    assert torch.allclose(s.snr(t), torch.tensor([a/(1-a) for a in s.abar[1:]]), rtol=1e-4)
    assert s.snr(torch.tensor([0])).isinf().all()
    assert (s.snr(t).diff()<0).all()

def test_tables_follow_the_model_and_are_not_saved():
    s = nn.Sequential(Schedule(10))
    assert s.state_dict()=={} and s.to('meta')[0].alpha.device.type=='meta' and not list(s.parameters())

# --- predictions

@every_schedule
@every_prediction
def test_a_perfect_network_is_understood(kind, predict):
    s = Schedule(1000, kind)
    t = torch.tensor([1,2,100,500,800])
    x0,noise = (torch.randn(5, 4, generator=gen(i)) for i in (1,2))
    a,b = get_x0_noise(s, get_target(s, x0, noise, t, predict), s.q_sample(x0, t, noise), t, predict)
    assert torch.allclose(a, x0, atol=1e-4) and torch.allclose(b, noise, atol=1e-3)

def test_velocity_is_the_derivative_along_the_angle():
    s,x0,noise,t = Schedule(1000),torch.randn(1,4),torch.randn(1,4),torch.tensor([400])
    phi = math.atan2(s.sigma[400], s.alpha[400])
    def at(p): return math.cos(p)*x0+math.sin(p)*noise
    assert torch.allclose(get_target(s, x0, noise, t, 'v'), (at(phi+1e-3)-at(phi-1e-3))/2e-3, atol=1e-3)

# --- one step back

def test_posterior_is_that_of_the_paper():
    n = 50
    s,betas = Schedule(n, 'linear'),schedules['linear'](n).tolist()
    x,x0 = torch.randn(3),torch.randn(3)
    for t in range(1, n+1):
        b,at,as_ = betas[t-1],s.abar[t],s.abar[t-1]
        mean,var = s.posterior(x, x0, t, t-1)
        want = math.sqrt(as_)*b/(1-at)*x0 + math.sqrt(1-b)*(1-as_)/(1-at)*x              # equation 7 of Ho et al.
        assert torch.allclose(mean, want, atol=1e-5) and var==pytest.approx((1-as_)/(1-at)*b, rel=1e-9, abs=1e-15)

@pytest.mark.parametrize('t,s_', [(30,29),(30,10),(40,1)])
def test_posterior_by_bayes(t, s_):
    "Draw step `s`, then step `t` from it; among those, the regression of one on the other is the posterior."
    s,m,x0 = Schedule(40),200000,.7
    xs = s.abar[s_]**.5*x0+(1-s.abar[s_])**.5*torch.randn(m, generator=gen(1), dtype=torch.float64)
    r = s.abar[t]/s.abar[s_]
    xt = r**.5*xs+(1-r)**.5*torch.randn(m, generator=gen(2), dtype=torch.float64)
    slope,cut = np.polyfit(xt, xs, 1)
    (m0,var),(m1,_) = (s.posterior(torch.tensor(o), torch.tensor(x0), t, s_) for o in (0.,1.))
    assert cut==pytest.approx(m0.item(), abs=.01) and slope==pytest.approx((m1-m0).item(), abs=.01)
    assert np.var(xs.numpy()-slope*xt.numpy()-cut)==pytest.approx(var, rel=.02)

@every_schedule
@pytest.mark.parametrize('n', [20,1000])
def test_ddim_with_eta_1_is_ddpm_step_by_step(kind, n):
    s,x = Schedule(n, kind),torch.randn(64, 2, generator=gen())
    f,g = mixture().denoise(s),gen(1)
    y = x.clone()
    for t in range(n, 0, -1):
        z,tt = torch.randn(x.shape, generator=g),torch.full((64,), t)
        same = s.ddpm_step(y, f(y, tt), t, t-1, z)
        assert torch.allclose(s.ddim_step(y, f(y, tt), t, t-1, 1., z), same, atol=1e-5, rtol=0), t # from the same place
        x,y = s.ddim_step(x, f(x, tt), t, t-1, 1., z),same
        assert torch.allclose(x, y, atol=1e-4, rtol=0)                                             # and along all steps

@pytest.mark.parametrize('steps', [1,7,20])
def test_samplers_agree_at_eta_1(steps):
    s = Schedule(20)
    f,x = mixture().denoise(s),torch.randn(32, 2, generator=gen())
    if steps==20: assert torch.allclose(sampler(f, s, 3).ddim(x, 20, 1.), sampler(f, s, 3).ddpm(x), atol=1e-4)
    ts,y,g = time_steps(20, steps),x,gen(3)
    for t,u in zip(ts, ts[1:]): y = s.ddpm_step(y, f(y, torch.full((32,), t)), t, u, torch.randn(x.shape, generator=g))
    assert torch.allclose(sampler(f, s, 3).ddim(x, steps, 1.), y, atol=1e-4)

@every_schedule
def test_a_right_guess_leads_along_the_noise(kind):
    s,x0,noise = Schedule(100, kind),torch.randn(4),torch.randn(4)
    def at(t): return s.abar[t]**.5*x0+(1-s.abar[t])**.5*noise
    for t,u in ((90,50),(50,3),(3,0),(20,60)): assert torch.allclose(s.ddim_step(at(t), x0, t, u), at(u), atol=1e-4)

# --- mixtures

class Mixture:
    "Round normal distributions in `d` dimensions, and the mean of what was diffused, given what one sees."
    def __init__(self, w, m, v): self.w,self.m,self.v = (torch.tensor(o, dtype=torch.float64) for o in (w,m,v))
    def draw(self, n, g):
        k = torch.multinomial(self.w, n, True, generator=g)
        return (self.m[k]+self.v[k,None]**.5*torch.randn(n, self.m.shape[1], generator=g, dtype=torch.float64)).float()
    def denoise(self, schedule):
        def f(x, t):
            left = torch.tensor([schedule.abar[int(t[0])]], dtype=torch.float64)
            x,a,s = x.double(),left.sqrt(),(1-left).sqrt()
            var = a*a*self.v+s*s                                             # of each component, seen through the noise
            d = x[:,None]-a*self.m                                           # `b k d`
            lik = (self.w.log()-x.shape[1]/2*var.log()-(d**2).sum(2)/(2*var)).softmax(1)
            return (lik[...,None]*(self.m+(a*self.v/var)[:,None]*d)).sum(1).float()
        return f

def mixture(): return Mixture([.25,.45,.3], [[-1.2,-1.],[1.2,-.5],[-.2,1.4]], [.04,.06,.03])

def energy(a, b):
    "Energy distance of two samples."
    def within(o): return torch.cdist(o, o).sum()/(len(o)*(len(o)-1))
    return (2*torch.cdist(a, b).mean()-within(a)-within(b)).item()

def test_the_formula_is_the_best_guess():
    "No linear change of it comes closer to the truth (so the tests below rest on the right denoiser)."
    m,s,t = mixture(),Schedule(100),torch.full((20000,), 40)
    x0,noise = m.draw(20000, gen()),torch.randn(20000, 2, generator=gen(1))
    x = s.q_sample(x0, t, noise)
    guess = m.denoise(s)(x, t)
    def err(o): return ((o-x0)**2).mean().item()
    others = [guess*1.03, guess*.97, guess+.05, .95*guess+.05*x, m.denoise(s)(x, t-8), m.denoise(s)(x, t+8)]
    assert err(guess) < min(map(err, others))

@every_schedule
@pytest.mark.parametrize('walk', ['ddpm','ddim','eta'])
def test_samplers_give_a_mixture_back(kind, walk):
    m,s,n = mixture(),Schedule(500, kind),3000
    f,x = m.denoise(s),torch.randn(n, 2, generator=gen())
    x = {'ddpm': lambda: sampler(f, s, 1).ddpm(x), 'ddim': lambda: sampler(f, s).ddim(x, 250),
         'eta': lambda: sampler(f, s, 1).ddim(x, 250, .5)}[walk]()
    k = torch.cdist(x.double(), m.m).argmin(1)                               # the components are far apart
    for i in range(3):
        part = x[k==i].double()
        assert len(part)/n==pytest.approx(m.w[i].item(), abs=.03)
        assert torch.allclose(part.mean(0), m.m[i], atol=.03)
        assert part.var(0).mean().item()==pytest.approx(m.v[i].item(), rel=.1)
    assert energy(x, m.draw(n, gen(5))) < .004
    for o in (0,1): assert stats.ks_2samp(x[:,o], m.draw(n, gen(6))[:,o]).statistic < .05

def test_the_distances_tell():
    m = mixture()
    a = m.draw(3000, gen(5))
    assert energy(m.draw(3000, gen(7)), a) < .004
    other = Mixture([.35,.35,.3], m.m.tolist(), m.v.tolist())
    assert energy(m.draw(3000, gen(7))+.1, a) > .004 and energy(other.draw(3000, gen(7)), a) > .004

def test_partial_noise_and_back_keeps_the_component():
    m,s = mixture(),Schedule(200)
    x0 = m.draw(500, gen())
    x = s.q_sample(x0, torch.full((500,), 50), torch.randn(500, 2, generator=gen(1)))
    def near(o): return torch.cdist(o.double(), m.m).argmin(1)
    for y in (sampler(m.denoise(s), s).ddim(x, 10, start=50), sampler(m.denoise(s), s, 2).ddpm(x, start=50)):
        assert (near(y)==near(x0)).float().mean() > .95
        assert (y-x0).norm(dim=1).median() < .7*(x-x0).norm(dim=1).median()

# --- inversion

def there_and_back(steps, refine, kind='cosine', stop=None):
    m,s = mixture(),Schedule(400, kind)
    x0,f = m.draw(300, gen(2)),m.denoise(s)
    z = sampler(f, s).invert(x0, steps, stop, refine)
    return (sampler(f, s).ddim(z, steps, start=stop)-x0).norm(dim=1).mean().item(), z

@every_schedule
def test_inversion_error_at_50_and_100_steps(kind):
    (e50,_),(e100,z) = (there_and_back(n, 1, kind) for n in (50,100))
    assert e100 <= e50/2 and e50 < .05, (e50, e100)
    assert z.mean().abs() < .15 and z.std().item()==pytest.approx(1, abs=.15)      # noise, as it should be
    (p50,_),(p100,_) = (there_and_back(n, 0, kind) for n in (50,100))
    assert p100 < p50/1.6 and e100 < p100, (p50, p100)                           # the plain inversion is of first order

def test_more_passes_come_closer():
    errs = [there_and_back(40, r)[0] for r in (0,1,2,8)]
    assert errs==sorted(errs, reverse=True) and errs[-1] < 1e-3, errs

def test_inversion_may_stop_early():
    e,z = there_and_back(20, 1, stop=100)
    assert e < .01 and z.std() < 1.2

def test_inversion_is_deterministic_and_needs_no_noise():
    torch.manual_seed(1)
    a = there_and_back(10, 1)[1]
    state = torch.get_rng_state()
    torch.manual_seed(2)
    assert torch.equal(there_and_back(10, 1)[1], a)
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state)

# --- steps

@pytest.mark.parametrize('start', [1,2,3,7,10,250,1000])
def test_time_steps(start):
    for steps in {1, 2, 3, start//2, start-1, start} - {0}:
        if steps>start: continue
        ts = time_steps(start, steps)
        d = -np.diff(ts)
        assert ts[0]==start and ts[-1]==0 and len(ts)==steps+1 and d.min()>=1 and d.max()-d.min()<=1

def test_samplers_take_the_steps_asked_for():
    seen = []
    def f(x, t):
        seen.append(t.tolist())
        return x
    x,s = torch.randn(2, 3),Schedule(12)
    sampler(f, s).ddim(x, 3)
    assert seen==[[12,12],[8,8],[4,4]]
    seen.clear()
    sampler(f, s).ddim(x, 2, start=6)
    assert seen==[[6,6],[3,3]]
    seen.clear()
    sampler(f, s).ddpm(x, start=4)
    assert seen==[[4,4],[3,3],[2,2],[1,1]]
    seen.clear()
    sampler(f, s).invert(x, 3, refine=0)
    assert seen==[[1,1],[4,4],[8,8]]

def test_noise_comes_from_the_generator():
    s,x,f = Schedule(10),torch.randn(4, 3),lambda x,t: .5*x
    state = torch.get_rng_state()
    for walk in (lambda seed: sampler(f, s, seed).ddpm(x), lambda seed: sampler(f, s, seed).ddim(x, 5, 1.)):
        assert torch.equal(walk(1), walk(1)) and not torch.equal(walk(1), walk(2))
    assert torch.equal(sampler(f, s).ddim(x, 5), sampler(f, s).ddim(x, 5)) and torch.equal(torch.get_rng_state(), state)

def test_samplers_take_other_noise():
    s,f,x = Schedule(10),lambda x,t: .5*x,torch.zeros(1, 1, 8, 8)
    a = sampler(f, s, 0, 'multiscale').ddpm(x)
    assert torch.equal(a, sampler(f, s, 0, multiscale_noise).ddpm(x)) and not torch.equal(a, sampler(f, s, 0).ddpm(x))

# --- noises

@every_noise
@pytest.mark.parametrize('hw', [(16,16),(33,17),(1,5),(40,70)], ids=by_size)
def test_noise_has_mean_0_and_variance_1_in_every_pixel(noise, hw):
    z = noises[noise]((2000,1,*hw), gen()).double()
    assert z.shape==(2000,1,*hw) and z.isfinite().all()
    assert z.mean(0).abs().max() < 5/2000**.5 and (z.var(0)-1).abs().max() < 6*(2/2000)**.5
    assert z.mean().abs() < .06 and abs(z.var().item()-1) < .06
    assert stats.kurtosis(z[:,0,0,0])==pytest.approx(0, abs=.5)             # and it is normal

@every_noise
def test_noise_channels_and_images_are_independent(noise):
    z = noises[noise]((600,3,16,16), gen())
    assert (z[:,0]*z[:,1]).mean().abs() < .03 and (z[:-1,0]*z[1:,0]).mean().abs() < .03

@every_noise
def test_noise_is_its_generators(noise):
    f,shape,state = noises[noise],(2,3,12,20),torch.get_rng_state()
    assert torch.equal(f(shape, gen(1)), f(shape, gen(1))) and not torch.equal(f(shape, gen(1)), f(shape, gen(2)))
    assert torch.equal(torch.get_rng_state(), state) and f(shape, gen()).dtype==torch.float32
    torch.manual_seed(3)
    a = f(shape)
    torch.manual_seed(3)
    assert torch.equal(f(shape), a)  # without one, the global

def test_multiscale_reaches_far():
    "Neighbours 8 pixels apart look alike in one and not in the other; some of it is still new in every pixel."
    z,w = multiscale_noise((400,1,64,64), gen()),gaussian_noise((400,1,64,64), gen())
    def near(o, d): return (o[...,d:]*o[...,:-d]).mean().item()
    assert near(z, 8) > .3 and abs(near(w, 8)) < .02
    assert near(z, 1) > near(z, 8) > near(z, 32) > -.05 and near(z, 1) < .95
    one = multiscale_noise((1,1,8,8), gen(), octaves=1)
    assert one.std() > 0 and torch.equal(one, gaussian_noise((1,1,8,8), gen()))

def test_multiscale_is_the_same_under_autocast():
    with torch.autocast('cpu', torch.bfloat16): a = multiscale_noise((2,1,32,32), gen())
    assert torch.equal(a, multiscale_noise((2,1,32,32), gen()))

# --- errors

def test_errors():
    s,x,f = Schedule(20),torch.zeros(2, 1, 4, 4),lambda x,t: x
    check_error(lambda: Schedule(20, 'cosin'), KeyError, "noise schedule 'cosin'", "Did you mean 'cosine'", 'linear')
    for o in (0, -1, 2.5, '3', None, True): check_error(partial(Schedule, o), ValueError, 'timesteps', f'got {o!r}')
    for o in (0, -1, 2.5, None, True):
        check_error(partial(sampler(f, s).ddim, x, o), ValueError, 'steps must be a whole number of at least 1')
    check_error(lambda: sampler(f, s).ddim(x, 21), ValueError, '21 steps', 'take steps=20 or fewer')
    check_error(lambda: sampler(f, s).ddim(x, 6, start=5), ValueError, '6 steps', 'take steps=5 or fewer')
    check_error(lambda: sampler(f, s).invert(x, 21), ValueError, 'take steps=20 or fewer')
    for o in (0, 21, 2.5):
        walk = sampler(f, s)
        for g in (partial(walk.ddim, x, 1, start=o), partial(walk.ddpm, x, start=o), partial(walk.invert, x, 1, stop=o)):
            check_error(g, ValueError, 'a step from 1 to 20', f'got {o!r}')
    for o in (-.1, 1.1): check_error(partial(sampler(f, s).ddim, x, 5, o), ValueError, 'eta must be from 0 to 1')
    check_error(lambda: sampler(f, s, noise='gausian').ddim(x, 5, 1.), KeyError, "Did you mean 'gaussian'")
    check_error(lambda: sampler(f, s, noise='perlin').ddpm(x), KeyError, 'multiscale')
    t = torch.tensor([1,2])
    check_error(lambda: get_target(s, x, x, t, 'nose'), KeyError, "prediction 'nose'", "Did you mean 'noise'")
    check_error(lambda: get_x0_noise(s, x, x, t, 'x_0'), KeyError, "Did you mean 'x0'")

# --- with training

class Net(nn.Module):
    def __init__(self, nf=128):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(10, nf), nn.SiLU(), nn.Linear(nf, nf), nn.SiLU(), nn.Linear(nf, 2))
    def forward(self, x, t):
        u = t[:,None]/100*math.pi*torch.tensor([.5,1,2,4])
        return self.layers(torch.cat([x, u.sin(), u.cos()], 1))

def ring(n, g=None):
    k = torch.randint(6, (n,), generator=g)*math.pi/3
    return torch.stack([k.cos(), k.sin()], 1)+.08*torch.randn(n, 2, generator=g)

@pytest.mark.parametrize('predict', ['noise','v'])
def test_a_small_network_learns_a_ring(predict):
    s,net = Schedule(100),Net()
    opt = torch.optim.Adam(net.parameters(), 3e-3)
    sched = torch.optim.lr_scheduler.CosineAnnealingLR(opt, 1500)
    for _ in range(1500):
        x0,t,noise = ring(256),torch.randint(1, 101, (256,)),torch.randn(256, 2)
        loss = ((net(s.q_sample(x0, t, noise), t)-get_target(s, x0, noise, t, predict))**2).mean()
        opt.zero_grad()
        loss.backward()
        opt.step()
        sched.step()
    def f(x, t): return get_x0_noise(s, net(x, t), x, t, predict)[0].clamp(-1.5, 1.5)
    x,data = torch.randn(1500, 2, generator=gen()),ring(1500, gen(1))
    with torch.no_grad(): walks = [sampler(f, s, 2).ddpm(x), sampler(f, s).ddim(x, 50)]
    missing = data[(data-torch.tensor([1.,0.])).norm(dim=1)>.5]               # a ring without one of its six spots
    for y in walks: assert energy(y, data) < .02 < .03 < energy(missing, data), energy(y, data)
