"""The vision transformer autoencoder: masked patches stay masked, both ways of attention agree, no seams."""
import pytest, torch, torch.nn.functional as F
from einops import rearrange

from aead.models.vit_ae import (
    Attention, PatchEmbedding, Positions, TransformerEncoder, ViTAutoencoder, assign_patches, blockiness, plan_passes,
    rollout, sincos_grid, vit_ae)

from ..helpers import by_setting, by_size

small = dict(image_size=32, dim=24, depth=2, heads=3, mlp_dim=32, decoder_dim=16, decoder_heads=2)
def l2(x, xr): return ((x-xr)**2).mean()

@pytest.fixture
def make():
    "Makes a small model in evaluation mode."
    return lambda **kw: vit_ae(**{**small, **kw}).eval()

# --- parts

def test_names_and_signatures_of_the_plan(pictures):
    t = PatchEmbedding(32, 8, 3, 20)(pictures(2))
    assert t.shape==(2,16,20) and TransformerEncoder(20, 2, 4, 40, 0.)(t).shape==t.shape
    m = ViTAutoencoder({'models': {'vit_ae': small}})
    assert m(pictures(1)).shape==(1,3,32,32) and m.settings['dim']==24

def test_a_token_is_a_linear_map_of_its_patch(pictures):
    e,x = PatchEmbedding(32, 8, 3, 20),pictures(2)
    w = rearrange(e.proj.weight, 'd (p q c) -> d c p q', p=8, q=8)
    want = F.conv2d(4*x-2, w, e.proj.bias, stride=8) + e.pos.grid
    assert torch.allclose(e(x), rearrange(want, 'b d h w -> b (h w) d'), atol=1e-5)

@pytest.mark.parametrize('dim', [4,6,7,32])
def test_positions_differ_and_interpolate(dim):
    p = Positions(8, dim)
    own = p(8, 8)[0]
    assert own.shape==(64,dim) and (torch.cdist(own, own)+9*torch.eye(64)).min()>1e-3
    assert torch.equal(p(8, 8), rearrange(p.grid, 'b d h w -> b (h w) d'))
    for h,w in ((16,16),(5,11),(1,3)): assert p(h, w).shape==(1,h*w,dim) and torch.isfinite(p(h, w)).all()
    up = rearrange(p(16, 16), '1 (h w) d -> h w d', h=16)
    assert (up[::2,::2]-rearrange(own, '(h w) d -> h w d', h=8))[2:-2,2:-2].abs().max()<.3
    p(5, 11).sum().backward()
    assert p.grid.grad.abs().min()>0 and sincos_grid(3, 5, dim).shape==(dim,3,5)

@pytest.mark.parametrize('n', [1,9,64])
@pytest.mark.parametrize('heads', [1,4])
def test_fast_attention_is_attention(n, heads):
    a,x = Attention(16, heads, dropout=.5).eval(),torch.randn(3, n, 16)
    q,k,v = rearrange(a.qkv(x), 'b n (k h d) -> k b h n d', k=3, h=heads)
    w = (q@k.transpose(-1,-2)/(16/heads)**.5).softmax(-1)
    assert torch.allclose(a.weights(x), w, atol=1e-6) and torch.allclose(w.sum(-1), torch.ones(3,heads,n), atol=1e-5)
    assert torch.allclose(a(x), a.out(rearrange(w@v, 'b h n d -> b n (h d)')), atol=1e-5)
    with torch.autocast('cpu', torch.bfloat16):
        low = a(x)
        assert torch.allclose(low.float(), a(x.float()).float()) and a.weights(x).dtype==torch.float32
    assert torch.allclose(low.float(), a(x), atol=.05)

def test_attention_maps_are_those_of_the_forward_pass(make, pictures, monkeypatch):
    m,x = make(),pictures(2, hw=(32,40))
    seen,plain = [],Attention.forward
    monkeypatch.setattr(Attention, 'forward', lambda self, t: (seen.append(self.weights(t)), plain(self, t))[1])
    with torch.no_grad(): m.encode(x)
    monkeypatch.undo()
    with torch.no_grad(): maps = m.attention_maps(x)
    assert maps.shape==(2,2,3,20,20) and torch.allclose(maps, torch.stack(seen, 1), atol=1e-6)

def test_training_and_detection_compute_no_attention_weights(make, pictures, monkeypatch):
    def never(*a): raise AssertionError('weights were computed')
    monkeypatch.setattr(Attention, 'weights', never)
    m = make().train()
    m.training_step(pictures(2), pictures(2), None, l2)
    m.eval().reconstruct(pictures(2))
    m(pictures(2))

def test_rollout_by_matrices(make, pictures):
    maps = torch.rand(2,3,4,5,5).softmax(-1)
    r = rollout(maps)
    for b in range(2):
        want = torch.eye(5)
        for i in range(3): want = (maps[b,i].mean(0)+torch.eye(5))/2@want
        assert torch.allclose(r[b], want, atol=1e-6)
    assert torch.allclose(rollout(torch.eye(5).expand(1,3,4,5,5)), torch.eye(5))    # each attends to itself only
    m,x = make(),pictures(2, hw=(30,37))
    with torch.no_grad(): a,b = m.attention_rollout(x),m.attention_rollout(x, (29,36))
    assert a.shape==b.shape==(2,30,37) and b[0,29,36]==b[0].max() and not torch.equal(a, b)
    with torch.no_grad(): want = rollout(m.attention_maps(x))[:,3*5+4]*20
    assert torch.allclose(b[:,::8,::8].flatten(1), want, atol=1e-5)

# --- what is hidden

@pytest.mark.parametrize('passes', [2,3,4,5,7])
@pytest.mark.parametrize('ratio', [.1,.5,.75,.9])
@pytest.mark.parametrize('hw', [(4,4),(4,9),(7,5)], ids=by_size)
def test_passes_cover_every_patch(passes, ratio, hw):
    seen,weight = plan_passes(*hw, passes, ratio, 4)
    n = hw[0]*hw[1]
    assert len(seen)==passes and all(0<len(s)<n and len(set(s.tolist()))==len(s) for s in seen)
    assert torch.allclose(weight.sum(0), torch.ones(4*hw[0],4*hw[1]), atol=1e-6) and weight.min()==0
    per_patch = rearrange(weight, 'n (h p) (w q) -> n (h w) (p q)', p=4, q=4)
    for s,w in zip(seen, per_patch):
        assert w[s].max()==0 and w[[i for i in range(n) if i not in s]].min()>0
    g = assign_patches(*hw, passes)
    assert set(g.flat)==set(range(passes)) and (g[1:]!=g[:-1]).all() and (g[:,1:]!=g[:,:-1]).all()

def test_weights_are_continuous_across_neighbours():
    _,w = plan_passes(8, 8, 4, .5, 16)
    for o in (w, w.mT): assert (o[:,8::16,1:]-o[:,8::16,:-1]).abs().max()<.15    # away from where four patches meet

@pytest.mark.parametrize('kw', [{}, dict(patch_size=4), dict(passes=2), dict(passes=5, mask_ratio=.8),
                                dict(mask_ratio=.25), dict(ni=1, decoder_depth=2)], ids=by_setting)
@pytest.mark.parametrize('hw', [(32,32),(45,58),(25,33)], ids=by_size)
def test_a_patch_never_sees_itself(kw, hw, make, pictures):
    m = make(**kw)
    p,x = m.stride,pictures(1, m.settings['ni'], hw)
    rows,cols = -(-hw[0]//p),-(-hw[1]//p)
    with torch.no_grad():
        xr,fwd = m.reconstruct(x).xr,m(x)
        for i,j in {(0,0),(1,2),(rows-1,cols-1),(rows-1,0),(0,cols-1),(rows//2,cols//2)}:   # corners may be padded
            at,y = (..., slice(i*p,i*p+p), slice(j*p,j*p+p)),x.clone()
            y[at] = torch.rand_like(y[at])
            yr = m.reconstruct(y).xr
            assert torch.equal(yr[at], xr[at])
            assert not torch.equal(yr, xr) and not torch.equal(m(y)[at], fwd[at])

@pytest.mark.parametrize('hw', [(32,32),(29,27)], ids=by_size)
def test_the_gradient_to_its_own_patch_is_zero(hw, make, pictures):
    m,x = make(),pictures(1, 3, hw).requires_grad_()
    for i,j in ((0,0),(2,1),(3,3)):
        at = (..., slice(8*i,8*i+8), slice(8*j,8*j+8))
        g, = torch.autograd.grad(m.reconstruct(x).xr[at].pow(2).sum(), x)
        assert g[at].abs().max()==0 and g.abs().max()>0
        g, = torch.autograd.grad(m(x)[at].pow(2).sum(), x)
        assert g[at].abs().max()>0

def test_a_patch_never_sees_itself_in_half_precision_and_channels_last(make, pictures):
    m,x = make().to(memory_format=torch.channels_last),pictures(2).contiguous(memory_format=torch.channels_last)
    y = x.clone()
    y[...,8:16,16:24] = 0
    with torch.no_grad(), torch.autocast('cpu', torch.bfloat16): a,b = m.reconstruct(x).xr,m.reconstruct(y).xr
    assert torch.equal(a[...,8:16,16:24], b[...,8:16,16:24]) and not torch.equal(a, b)
    with torch.no_grad(): assert (a-m.reconstruct(x).xr).abs().max()<.1

def test_hidden_tokens_are_one_vector(make, pictures):
    m,x = make(),pictures(2)
    seen = torch.tensor([[0,5,15],[3,5,6]])
    with torch.no_grad(): z = rearrange(m.encode_visible(x, seen), 'b d h w -> b (h w) d')
    for b in range(2):
        for i in range(16): assert torch.equal(z[b,i], m.hidden) == (i not in seen[b])
    with torch.no_grad(): assert torch.allclose(m.encode_visible(x, torch.arange(16)), m.encode(x), atol=1e-5)

# --- the model

@pytest.mark.parametrize('p,hw', [(8,(32,32)),(8,(24,64)),(4,(20,32)),(16,(32,48))], ids=str)
def test_latent_is_a_grid(p, hw, make, pictures):
    m,x = make(patch_size=p, passes=3),pictures(2, 3, hw)
    with torch.no_grad():
        z = m.encode(x)
        assert z.shape==(2,24,hw[0]//p,hw[1]//p) and torch.equal(m.decode(z), m(x))

@pytest.mark.parametrize('p', [1,2,5,6,7,10])
def test_patches_of_any_side(p, make, pictures):
    m = make(image_size=6*p, patch_size=p, passes=3)
    x = pictures(1, 3, (5*p,6*p+1))
    assert m(x).shape==m.reconstruct(x).xr.shape==x.shape
    m.train().training_step(x, x, None, l2).backward()
    assert all(o.grad is not None and o.grad.any() for o in m.parameters())

@pytest.mark.parametrize('b,hw', [(1,(32,32)),(3,(24,24)),(2,(41,30))], ids=str)
def test_training_step(b, hw, make, pictures):
    m,x,y,seen = make(),pictures(b, 3, hw),pictures(b, 3, hw, seed=1),[]
    def loss(a, r):
        seen.append((a, r))
        return l2(a, r)
    with torch.no_grad():
        got = m.training_step(x, y, None, loss)
        assert torch.equal(seen[0][0], y) and torch.equal(seen[0][1], m.reconstruct(x).xr) and got==l2(*seen[0])
        assert m.training_step(x, y, None, l2)==got                       # evaluation repeats, whatever the generator
    m.train()
    torch.manual_seed(3)
    first = m.training_step(x, y, None, loss)
    torch.manual_seed(3)
    same = m.training_step(x, y, None, loss)
    other = m.training_step(x, y, None, loss)
    assert first==same!=other and all(r.shape==a.shape and r.dtype==torch.float32 for a,r in seen)
    first.backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() and p.grad.any() for p in m.parameters())

@pytest.mark.parametrize('ratio,kept', [(.1,14),(.5,8),(.75,4),(.9,2)])
def test_training_encodes_only_what_is_in_sight(ratio, kept, make, pictures, monkeypatch):
    m,sizes = make(mask_ratio=ratio).train(),[]
    plain = m.encode_visible
    monkeypatch.setattr(m, 'encode_visible', lambda x, seen: (sizes.append(seen), plain(x, seen))[1])
    m.training_step(pictures(6), pictures(6), None, l2)
    s, = sizes
    assert s.shape==(6,kept) and all(len(set(o.tolist()))==kept for o in s)
    assert kept==14 or len({tuple(sorted(o.tolist())) for o in s})>1             # each image its own

def test_reconstruct_repeats_and_knows_no_neighbours(make, pictures):
    m,x = make(),pictures(5)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    with torch.no_grad(): a,b = m.reconstruct(x),m.reconstruct(x, None)
    assert torch.equal(a.xr, b.xr) and a.maps=={} and m.draw_noise((3,32,32)) is None
    assert torch.equal(torch.get_rng_state(), state)
    with torch.no_grad():
        alone = torch.cat([m.reconstruct(o[None]).xr for o in x])
        turned = m.reconstruct(x.flip(0)).xr.flip(0)
    assert torch.allclose(alone, a.xr, atol=1e-5) and torch.allclose(turned, a.xr, atol=1e-5)

def fit(m, x, steps=60, lr=4e-3):
    opt = torch.optim.AdamW(m.parameters(), lr)
    m.train()
    for _ in range(steps):
        loss = m.training_step(x, x, None, lambda a,r: (a-r).abs().mean())
        opt.zero_grad()
        loss.backward()
        opt.step()
    return m.eval()

def test_learns_hidden_and_whole_images_without_seams():
    t = torch.linspace(0, 12, 32)
    g = torch.Generator().manual_seed(0)
    def wave(angle, phase): return .5+.4*torch.sin(t[:,None]*torch.cos(angle)+t*torch.sin(angle)+phase)
    x = torch.stack([wave(a, c) for a,c in 6.28*torch.rand(24, 2, generator=g)])[:,None]
    m = fit(vit_ae(ni=1, image_size=32, dim=48, depth=2, heads=3, mlp_dim=96, decoder_dim=48, decoder_heads=2), x, 130)
    flat = (x-x.mean((2,3), keepdim=True)).abs().mean()
    with torch.no_grad(): xr,fwd = m.reconstruct(x).xr,m(x)
    assert (x-xr).abs().mean()<.55*flat and (x-fwd).abs().mean()<.55*flat
    assert .7<blockiness(x, 8)<1.3 and blockiness(fwd, 8)<1.3 and blockiness(xr, 8)<1.3
    first = torch.tensor(assign_patches(4, 4, 4)).repeat_interleave(8, 0).repeat_interleave(8, 1)
    with torch.no_grad():
        each = [m.decode(m.encode_visible(x, s)) for s in plan_passes(4, 4, 4, .5, 8)[0]]
    unweighted = sum((first==i)*o for i,o in enumerate(each))
    assert blockiness(unweighted, 8)>blockiness(xr, 8)

def test_blockiness_by_hand():
    x = torch.zeros(1,1,4,4)
    x[...,2:] = 1
    x = x + torch.arange(4)*.1
    assert blockiness(x.mT+x, 2)==pytest.approx(1.1/.1)
    assert blockiness(torch.arange(16.)[None,None,None].expand(1,1,16,16)+torch.arange(16.)[:,None], 4)==1

# --- settings

REFUSED = [
    (dict(patch_size=7), 'vit_ae.patch_size must divide image_size 32, got 7; the nearest that do: 4, 8'),
    (dict(patch_size=40), 'vit_ae.patch_size must divide image_size 32, got 40; the nearest that do: 32'),
    (dict(heads=5), 'vit_ae.heads must divide dim 24, got 5; the nearest that do: 4, 6'),
    (dict(decoder_heads=3), 'vit_ae.decoder_heads must divide decoder_dim 16, got 3; the nearest that do: 2, 4'),
    (dict(patch_size=32), 'vit_ae.patch_size must be at most half of image_size'),
    (dict(passes=8), 'vit_ae.passes must be from 2 to 7 with 4×4 patches, got 8'),
    (dict(passes=1), 'vit_ae.passes must be from 2 to 7'),
    (dict(mask_ratio=0), 'vit_ae.mask_ratio must be a number from 0.1 to 0.9, got 0'),
    (dict(mask_ratio='half'), 'vit_ae.mask_ratio must be a number'),
    (dict(dropout=1), 'vit_ae.dropout must be a number from 0 to 0.9, got 1')]
WHOLE = ('ni','image_size','patch_size','dim','depth','heads','mlp_dim','passes','decoder_dim','decoder_depth',
         'decoder_heads')
REFUSED += [({k:v}, f'vit_ae.{k} must be a whole number') for k in WHOLE for v in (0,1.5,'4',None)]

@pytest.mark.parametrize('kw,says', REFUSED, ids=[by_setting(kw) for kw,_ in REFUSED])
def test_settings_that_cannot_be(kw, says, make):
    with pytest.raises(ValueError) as e: make(**kw)
    assert says in str(e.value) and '\n' not in str(e.value)

@pytest.mark.parametrize('p,passes,least', [(8,4,24),(8,2,16),(4,7,16)])
def test_small_images_are_refused_by_name(p, passes, least, make, pictures):
    m = make(patch_size=p, passes=passes)
    for f in (m, m.reconstruct, m.attention_maps, m.train()._reconstruct_masked):
        assert len(f(pictures(1, 3, (least,least))))
        with pytest.raises(ValueError, match=f'vit_ae.*at least {least} px.*{least-1}×40'):
            f(pictures(1, 3, (least-1,40)))

def test_the_classes_check_what_divides():
    with pytest.raises(ValueError, match='patch_size must divide image_size 30, got 8; the nearest that do: 6, 10'):
        PatchEmbedding(30, 8, 1, 4)
    with pytest.raises(ValueError, match='heads must divide dim 20, got 3; the nearest that do: 2, 4'):
        TransformerEncoder(20, 1, 3, 8)

def test_dropout_drops_only_in_training(make, pictures):
    m,x = make(dropout=.5),pictures(2)
    with torch.no_grad():
        assert torch.equal(m(x), m(x))
        m.train()
        assert not torch.equal(m(x), m(x))

def test_weights_fit_any_image_size(make, pictures):
    a,b = make(),make()
    b.load_state_dict(a.state_dict())
    x = pictures(1, 3, (48,72))
    with torch.no_grad(): assert torch.equal(a.reconstruct(x).xr, b.reconstruct(x).xr)
