"""The convolutional autoencoder: its bottleneck, what each latent sees, and its pixel head."""
import pytest, torch, torch.nn.functional as F
from torch import nn

from aead.models.cnn_ae import cnn_ae, pixel_head

settings = pytest.mark.parametrize('nf,depth,nz', [(4,1,2),(4,2,3),(2,3,5),(2,5,1)])

@settings
def test_bottleneck(nf, depth, nz, pictures):
    s = 2**depth
    for hw in ((64,64),(64,96)):
        z = cnn_ae(nf=nf, depth=depth, nz=nz).encode(pictures(2, 3, hw))
        assert z.shape==(2, nz, hw[0]//s, hw[1]//s)

@settings
def test_forward_is_decode_of_encode(nf, depth, nz, pictures):
    m,x = cnn_ae(nf=nf, depth=depth, nz=nz).eval(),pictures(2, 3, (64,96))
    with torch.no_grad(): assert torch.equal(m.decode(m.encode(x)), m(x))

@settings
def test_all_information_passes_the_bottleneck(nf, depth, nz, pictures, monkeypatch):
    m,x,y = cnn_ae(nf=nf, depth=depth, nz=nz).eval(),pictures(1, 3, (64,70)),pictures(1, 3, (64,70), seed=1)
    z = torch.randn(1, nz, 64//2**depth, -(-70//2**depth))
    with torch.no_grad():
        assert not torch.equal(m(x), m(y))
        monkeypatch.setattr(m, 'encode', lambda x: z)
        assert torch.equal(m(x), m(y))                   # nothing goes around the latent
        assert torch.equal(m(x), m.decode(z)[..., :64, :70])

def field(depth):
    "Side of what one latent sees, by the usual rule: a kernel adds its reach times the stride so far."
    f,jump = 1,1
    for _ in range(depth):
        f += 2*jump                                      # the convolution with stride 2
        jump *= 2
        f += 2*jump                                      # the one after it
    return f

@pytest.mark.parametrize('depth', [1,2,3])
def test_receptive_field(depth, pictures):
    m = cnn_ae(nf=4, depth=depth).eval()
    x = pictures(1, 3, (128,128)).requires_grad_()
    z = m.encode(x)
    at = z.shape[-1]//2
    z[0,:,at,at].sum().backward()
    seen = x.grad.abs().sum((0,1))>0
    rows,cols = seen.any(1).nonzero()[:,0],seen.any(0).nonzero()[:,0]
    assert rows.max()-rows.min()+1==cols.max()-cols.min()+1==field(depth)

def test_a_far_pixel_changes_nothing(pictures):
    m,x = cnn_ae(nf=4, depth=2).eval(),pictures(1, 3, (128,128))
    y = x.clone()
    y[..., 64, 64] = 1-y[..., 64, 64]
    with torch.no_grad(): d = (m(x)-m(y)).abs().sum((0,1))
    near = d[24:104,24:104]
    assert near.max()>0 and d.sum()==near.sum()

def test_small_rests_are_padded_by_the_edge(pictures):
    m,x = cnn_ae(nf=4, depth=3).eval(),pictures(2, 3, (37,42))
    full = F.pad(x, (0,6,0,3), mode='replicate')
    with torch.no_grad(): assert torch.equal(m(x), m(full)[..., :37, :42])

def test_width_doubles_up_to_eight_times():
    m = cnn_ae(nf=2, depth=6, nz=3)
    convs = [o for o in m.encoder.modules() if isinstance(o, nn.Conv2d)]
    assert [o.out_channels for o in convs if o.stride==(2,2)]==[2,4,8,16,16,16] and convs[-1].out_channels==3

def count(ni, nf, depth, nz):
    "Parameters, added up by hand."
    fs = [min(nf*2**i, 8*nf) for i in range(depth)]
    def block(i, o): return 9*i*o+2*o
    down = sum(block(i,o)+block(o,o) for i,o in zip([ni]+fs[:-1], fs))
    up = sum(i*o+o+block(o,o) for i,o in zip(fs[:0:-1], fs[-2::-1]))
    return down + fs[-1]*nz+nz + nz*fs[-1]+fs[-1] + up + 9*nf*4*ni+4*ni

@settings
@pytest.mark.parametrize('ni', [1,3])
def test_parameter_count_by_hand(nf, depth, nz, ni):
    assert cnn_ae(ni, nf, depth, nz).n_params()==count(ni, nf, depth, nz)

def test_default_size(): assert cnn_ae().n_params()==count(3, 32, 4, 16)

@pytest.mark.parametrize('k', ['nf','depth','nz'])
@pytest.mark.parametrize('v', [0, -2, 1.5, '4', None, True])
def test_settings_are_whole_numbers(k, v):
    with pytest.raises(ValueError, match=rf'cnn_ae\.{k}'): cnn_ae(**{k:v})

@pytest.mark.parametrize('no', [1,3,5])
def test_pixel_head_starts_as_repetition(no):
    head,x = pixel_head(6, no),torch.randn(2, 6, 5, 7)
    y = head(x)
    assert y.shape==(2, no, 10, 14)
    assert torch.equal(y, y[..., ::2, ::2].repeat_interleave(2, -1).repeat_interleave(2, -2)) and y.std()>0
    want = F.conv2d(x, head[0].weight[::4], padding=1)       # one of each four kernels: the low-resolution image
    assert torch.allclose(y[..., ::2, ::2], want, atol=1e-6)

def test_pixel_head_learns_to_tell_pixels_apart():
    head,x,y = pixel_head(4, 1),torch.randn(2, 4, 4, 4),torch.randn(2, 1, 8, 8)
    opt = torch.optim.SGD(head.parameters(), .1)
    ((head(x)-y)**2).mean().backward()
    opt.step()
    w = head[0].weight
    assert all(not torch.equal(w[0], w[i]) for i in (1,2,3))
