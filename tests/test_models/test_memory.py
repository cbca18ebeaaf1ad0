"""What good patches look like: k-center greedy sampling, samples, banks and Gaussians against other implementations."""
from itertools import combinations

import numpy as np, pytest, torch
from einops import rearrange
from safetensors.torch import load_file, save_file
from scipy.spatial.distance import mahalanobis
from sklearn.covariance import ledoit_wolf
from torch import nn

from aead.models.memory import (
    PatchGaussian, PatchMemory, PatchSample, PositionGaussian, k_center_greedy, shrunk_covariance)
from aead.runs.benchmark import peak_memory

from ..helpers import fails

def radius(x, i): return torch.cdist(x, x[i]).amin(1).max() # how far a point may be from the nearest chosen one

def as_map(f): return rearrange(f, 'n c -> 1 c 1 n')

def filled(f, n):
    "A bank of `n` places, filled with `f`."
    m = PatchMemory(f.shape[1], n)
    m.fit(f)
    return m

# --- k-center greedy

@pytest.mark.parametrize('k', [1,2,5,40])
def test_points_are_chosen_once_and_in_order(k):
    x = torch.randn(40, 3)
    i = k_center_greedy(x, k)
    assert len(i)==k==len(i.unique()) and torch.equal(k_center_greedy(x, 40)[:k], i)
    assert i[0]==(x-x.mean(0)).norm(dim=1).argmin()

def test_each_next_point_is_the_farthest():
    x = torch.randn(60, 4)
    i = k_center_greedy(x, 12)
    for n in range(1, 12):
        d = torch.cdist(x, x[i[:n]]).amin(1)
        assert torch.isclose(d[i[n]], d.max(), atol=1e-5)

@pytest.mark.parametrize('k', [2,3])
@pytest.mark.parametrize('seed', range(5))
def test_at_most_twice_the_best_radius(k, seed):
    "The guarantee of the greedy choice, against every choice there is."
    x = torch.randn(12, 2, generator=torch.Generator().manual_seed(seed))
    best = min(radius(x, list(o)) for o in combinations(range(12), k))
    assert best <= radius(x, k_center_greedy(x, k)) <= 2*best+1e-5

def test_fewer_points_than_asked_for(): assert sorted(k_center_greedy(torch.randn(5, 2), 9).tolist())==[0,1,2,3,4]

# --- the bank

def test_an_empty_bank_says_so():
    m = PatchMemory(4, 10)
    assert not m.full and m.bank.shape==(10,4) and not list(m.parameters())
    m.fit(torch.randn(30, 4))
    assert m.full

def test_features_are_standardised():
    f = torch.randn(200, 3)*torch.tensor([1.,10.,100.])+5
    m = filled(f, 50)
    assert torch.allclose(m.mean, f.mean(0)) and torch.allclose(m.std, f.std(0))
    far = filled(f*1000-3, 50)                                # neither scale nor offset of a channel matters
    assert torch.allclose(m.bank, far.bank, atol=1e-4)

@pytest.mark.parametrize('n', [1,7,20,50])
def test_a_bank_that_is_too_large_repeats(n):
    f = torch.randn(20, 3)
    m = filled(f, n)
    rows = m.bank.unique(dim=0)
    assert len(rows)==min(n, 20) and torch.isfinite(m.bank).all()
    if n>=20: assert m(as_map(f)).abs().max() < 1e-3

def test_a_constant_channel_divides_by_no_zero():
    f = torch.cat([torch.randn(30, 2), torch.ones(30, 1)], 1)
    assert torch.isfinite(filled(f, 10)(as_map(f))).all()

@pytest.mark.parametrize('shape', [(1,1,1), (2,3,5), (3,25,29)], ids=str)
def test_distances_are_those_of_brute_force(shape):
    "Also for more places than are compared at a time."
    b,h,w = shape
    m,f = filled(torch.randn(300, 6), 40),torch.randn(b, 6, h, w)
    got = m(f)
    z = (rearrange(f, 'b c h w -> (b h w) c')-m.mean)/m.std
    want = torch.cdist(z.double(), m.bank.double(), compute_mode='donot_use_mm_for_euclid_dist').amin(1).float()
    assert got.shape==(b,h,w) and got.dtype==torch.float32
    assert torch.allclose(got.flatten(), want, atol=1e-5)

def test_near_patches_are_not_lost_in_rounding():
    "Far from the origin, a single-precision product would be off by more than the distance itself."
    f = torch.randn(50, 8)
    m = filled(f, 50)
    m.bank.add_(1000)
    z = (m.bank[:1]+torch.tensor([.01, *[0.]*7]))*m.std+m.mean
    assert torch.allclose(m(as_map(z)), torch.tensor(.01), atol=2e-3)

def test_images_do_not_see_each_other():
    m,f = filled(torch.randn(100, 5), 30),torch.randn(3, 5, 7, 9)
    assert torch.allclose(torch.cat([m(o[None]) for o in f]), m(f), atol=1e-6)

def test_what_is_remembered_is_saved_with_the_weights(tmp_path):
    m,f = filled(torch.randn(100, 5), 30),torch.randn(1, 5, 4, 4)
    save_file(m.state_dict(), tmp_path/'m.safetensors')
    new = PatchMemory(5, 30)
    new.load_state_dict(load_file(tmp_path/'m.safetensors'))
    assert new.full and torch.equal(new(f), m(f))

# --- k-center greedy on many points

def exact_k_center(x, k):
    "The greedy choice with all distances at hand."
    d = torch.cdist(x.double(), x.double(), compute_mode='donot_use_mm_for_euclid_dist')
    chosen = [int((x-x.mean(0)).square().sum(1).argmin())]
    for _ in range(k-1): chosen.append(int(d[chosen].amin(0).argmax()))
    return torch.tensor(chosen)

@pytest.mark.parametrize('seed', range(4))
@pytest.mark.parametrize('shape', [(300,8), (1000,64)], ids=str)
def test_covers_as_well_as_the_exact_choice(shape, seed):
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    a,b = (radius(x, f(x, 50)) for f in (k_center_greedy, exact_k_center))
    assert torch.isclose(a, b, rtol=.02)

def test_points_that_are_equal_are_not_chosen_before_others():
    x = torch.randn(20, 4).repeat(10, 1)+1000
    assert len(x[k_center_greedy(x, 20)].unique(dim=0))==20

@pytest.mark.parametrize('dim', [2,8])
def test_projections_are_those_of_the_seed(dim):
    x = torch.randn(200, 32)
    a,b,c = (k_center_greedy(x, 30, dim, seed) for seed in (0,0,1))
    assert torch.equal(a, b) and not torch.equal(a, c) and len(a.unique())==30

def test_memory_does_not_grow_with_the_number_chosen():
    "Memory for the points and a few rows of numbers, whether ten or a thousand points are chosen."
    x = torch.randn(4000, 16)
    few,many = (peak_memory(Chooser(k), x) for k in (10,1000))
    assert many < 1.1*few+16*1000 and many < 3*x.numel()*4

class Chooser(nn.Module):
    "Chooses points in place of a reconstruction, so that its memory can be measured."
    def __init__(self, k):
        super().__init__()
        self.k,self.prepare = k,nn.Identity()
    def reconstruct(self, x): return k_center_greedy(x, self.k)

# --- samples

def test_a_sample_is_bounded_and_all_of_few_rows():
    s = PatchSample(50)
    for _ in range(20): s.add(torch.randn(30, 3))
    assert s.rows.shape==(50,3)
    few = PatchSample(50)
    for o in (x := torch.arange(12.)[:,None]).split(5): few.add(o)
    assert torch.equal(few.rows.sort(0).values, x)

@pytest.mark.parametrize('bs', [1,7,200])
def test_a_sample_depends_on_neither_batches_nor_chance(bs):
    x = torch.randn(200, 3)
    a,b = PatchSample(20, seed=3),PatchSample(20, seed=3)
    a.add(x)
    for o in x.split(bs): b.add(o)
    assert torch.equal(a.rows.sort(0).values, b.rows.sort(0).values)
    other = PatchSample(20, seed=4)
    other.add(x)
    assert not torch.equal(other.rows.sort(0).values, a.rows.sort(0).values)

def test_a_sample_is_uniform():
    "Each of 40 rows, added in two parts, is as often among 10."
    x,counts = torch.arange(40.)[:,None],torch.zeros(40)
    for seed in range(1000):
        s = PatchSample(10, seed)
        for o in x.split(25): s.add(o)
        counts[s.rows[:,0].long()] += 1
    assert ((counts-250)**2/250).sum()/.75 < 75                  # chi-square with 39 degrees of freedom, p < 0.001 above 72

def test_an_empty_sample_says_so():
    s = PatchSample()
    assert 'no patch' in fails(lambda: s.rows)
    s.add(torch.zeros(0, 4))
    assert 'no patch' in fails(lambda: s.rows)

# --- passing over one's own part, reweighting

def test_patches_of_the_owner_are_passed_over():
    f,owner = torch.randn(90, 5),torch.arange(90)//30
    m = PatchMemory(5, 60)
    m.fit(f, owner)
    z = torch.randn(3, 5, 4, 7)
    got = m(z, torch.tensor([0,2,9]))
    for i,part in enumerate((0,2,9)):
        rows = (rearrange(z[i], 'c h w -> (h w) c')-m.mean)/m.std
        want = torch.cdist(rows, m.bank[m.owner!=part]).amin(1)
        assert torch.allclose(got[i].flatten(), want, atol=1e-4)
    assert torch.equal(got[2], m(z[2:])[0])                      # a part that is not in the bank
    known = m.owner
    m.owner = None
    assert torch.equal(m(z, torch.tensor([0,2,9])), m(z)) and len(known)==60

def test_a_part_that_owns_the_whole_bank():
    m = PatchMemory(3, 10)
    m.fit(torch.randn(40, 3), torch.zeros(40))
    assert torch.isfinite(m(torch.randn(1,3,2,2), torch.tensor([0]))).all()

@pytest.mark.parametrize('k', [1,3,9])
def test_reweighting_is_equation_7(k):
    "By hand: 1 - exp(d(m, m*)) / sum over m* and its neighbours of exp(d(m, .)), distances over the root of the channels."
    m = PatchMemory(6, 40, neighbours=k)
    m.fit(torch.randn(200, 6))
    z = torch.randn(2, 6, 3, 5)
    rows = (rearrange(z, 'b c h w -> (b h w) c')-m.mean)/m.std
    for got,o in zip(m(z).flatten(), rows.double().numpy()):
        bank = m.bank.double().numpy()
        d = np.linalg.norm(bank-o, axis=1)
        i = d.argmin()
        near = np.argsort(np.linalg.norm(bank-bank[i], axis=1))[1:k+1]
        e = np.exp(d[[i, *near]]/6**.5)
        assert np.isclose(got, d[i]*(1-e[0]/e.sum()), atol=1e-4)

@pytest.mark.parametrize('n,k', [(3,3), (5,9)])
def test_too_few_patches_for_the_neighbours(n, k): assert f'no {k} neighbours' in fails(lambda: PatchMemory(4, n, neighbours=k))

# --- Gaussians

@pytest.mark.parametrize('n,d', [(20,5), (10,30), (500,12)])
@pytest.mark.parametrize('seed', range(3))
def test_covariance_is_sklearns(n, d, seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n,d))@rng.normal(size=(d,d))+rng.normal(size=d)
    want,_ = ledoit_wolf(x)
    assert np.allclose(shrunk_covariance(torch.tensor(x)), want, rtol=1e-8, atol=1e-10)

def test_many_covariances_at_once():
    x = torch.randn(4, 30, 5)*torch.rand(4, 1, 5)
    assert torch.allclose(shrunk_covariance(x), torch.stack([shrunk_covariance(o) for o in x]))

@pytest.mark.parametrize('x', [torch.zeros(10,3), torch.ones(1,3), torch.eye(2)[:,:1].expand(2,3)], ids=['empty','one row','equal columns'])
def test_covariance_of_little(x):
    g = PatchGaussian(3)
    g.fit(x)
    assert torch.isfinite(shrunk_covariance(x)).all() and torch.isfinite(g(torch.rand(1,3,2,2))).all()

def test_gaussian_is_scipys_mahalanobis():
    f = torch.randn(300, 7)@torch.randn(7, 7)+3
    g,z = PatchGaussian(7),torch.randn(2, 7, 4, 5)*3
    g.fit(f)
    mean,inverse = f.mean(0).double().numpy(),np.linalg.inv(shrunk_covariance(f).numpy())
    want = [mahalanobis(o, mean, inverse)/7**.5 for o in rearrange(z, 'b c h w -> (b h w) c').double().numpy()]
    assert np.allclose(g(z).flatten(), want, rtol=1e-3)

def test_gaussian_gives_about_one_for_good_patches():
    f,g = torch.randn(3000, 7)*torch.rand(7)+3,PatchGaussian(7)
    g.fit(f)
    assert g(as_map(f)).square().mean().item()==pytest.approx(1, abs=.05)

@pytest.mark.parametrize('dim', [3,6,20])
def test_gaussians_of_places_against_a_loop(dim):
    f,z = torch.randn(25, 6, 3, 4)*torch.rand(6, 3, 4)+torch.randn(6, 3, 4),torch.randn(2, 6, 3, 4)
    g = PositionGaussian(6, (3,4), dim)
    g.fit(f)
    got,d = g(z),min(dim, 6)
    for i in range(3):
        for j in range(4):
            rows,at = f[:,:,i,j]@g.mix.T,z[:,:,i,j]@g.mix.T
            inverse = np.linalg.inv(shrunk_covariance(rows).numpy())
            want = [mahalanobis(o, rows.mean(0).numpy(), inverse)/d**.5 for o in at.numpy()]
            assert np.allclose(got[:,i,j], want, rtol=1e-3)
    assert torch.allclose(g.mix@g.mix.T, torch.eye(d), atol=1e-5)

def test_places_have_one_size():
    g = PositionGaussian(4, (3,5))
    assert '(3, 5)' in fails(lambda: g(torch.rand(1,4,5,3)))

@pytest.mark.parametrize('make', [lambda: PatchGaussian(6), lambda: PositionGaussian(6, (3,4), 4)], ids=['all','places'])
def test_gaussians_are_saved_and_see_one_image_at_a_time(make, tmp_path):
    g,f = make(),torch.randn(30, 6, 3, 4)
    g.fit(f if g.mean.ndim==2 else rearrange(f, 'b c h w -> (b h w) c'))
    save_file(g.state_dict(), tmp_path/'g.safetensors')
    new = make()
    new.load_state_dict(load_file(tmp_path/'g.safetensors'))
    assert torch.equal(new(f), g(f)) and torch.allclose(torch.cat([g(o[None]) for o in f]), g(f), atol=1e-5)
