"""The memory bank: k-center greedy sampling against brute force, filling, and distances of any number of places."""
from itertools import combinations

import pytest, torch
from einops import rearrange
from safetensors.torch import load_file, save_file

from aead.models.memory import PatchMemory, k_center_greedy

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
