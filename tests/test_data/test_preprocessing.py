"""Reading every kind of file, and resizing that loses nothing."""
import cv2, numpy as np, pytest, tifffile
from PIL import Image, ImageOps

from aead.data.preprocessing import (read_gray, read_image, read_mask, normalize_image, denormalize_image, fit_box,
                                     resize_boxes, resize_modes, resize_with_aspect_ratio, resize_mask, resize_region,
                                     resize_image, restore_map, local_contrast_normalize, tile_boxes)

pytestmark = pytest.mark.filterwarnings('error')

@pytest.fixture
def rng(): return np.random.default_rng(0)

def ints(rng, shape, dtype): return rng.integers(0, np.iinfo(dtype).max, shape, endpoint=True).astype(dtype)

# --- reading

LOSSLESS = [('png',1,'uint8'), ('png',3,'uint8'), ('png',1,'uint16'), ('png',3,'uint16'), ('bmp',1,'uint8'),
            ('bmp',3,'uint8'), ('webp',3,'uint8'), *[('tif',c,t) for c in (1,2,3,5,8) for t in ('uint8','uint16')]]

def save(path, a):
    "Writes `a`, `h w c`, by another library than reads it where possible."
    if path.suffix=='.tif' and a.shape[2]==1: tifffile.imwrite(path, a[...,0])
    elif path.suffix=='.tif':
        tifffile.imwrite(path, a, photometric='rgb' if a.shape[2]==3 else 'minisblack', planarconfig='contig')
    elif path.suffix=='.webp': Image.fromarray(a).save(path, lossless=True, quality=100)
    else: cv2.imwrite(str(path), a[...,::-1])

@pytest.mark.parametrize('ext,c,dtype', LOSSLESS)
def test_every_level_survives(tmp_path, rng, ext, c, dtype):
    a = ints(rng, (23,31,c), dtype)
    p = tmp_path/f'a.{ext}'
    save(p, a)
    x = read_image(p)
    assert x.dtype==np.float32 and x.flags.c_contiguous and x.shape==a.shape
    assert 0<=x.min() and x.max()<=1
    assert np.array_equal(np.rint(x.astype(float)*np.iinfo(dtype).max), a)

@pytest.mark.parametrize('ext,c,dtype', LOSSLESS)
@pytest.mark.parametrize('part', [0, .02, .3, .6, .9])
def test_truncated_files_name_themselves(tmp_path, rng, ext, c, dtype, part):
    p = tmp_path/f'cut.{ext}'
    save(p, ints(rng, (40,50,c), dtype))
    raw = p.read_bytes()
    p.write_bytes(raw[:int(len(raw)*part)])
    with pytest.raises(ValueError, match=r'cut.*not a readable image \(truncated\?\)') as e: read_image(p)
    assert '\n' not in str(e.value)

@pytest.mark.parametrize('part', [.1, .5, .95])
def test_truncated_jpeg(tmp_path, rng, part):
    p = tmp_path/'a.jpg'
    Image.fromarray(ints(rng, (60,80), 'uint8')).save(p)
    raw = p.read_bytes()
    p.write_bytes(raw[:int(len(raw)*part)])
    with pytest.raises(ValueError, match='a.jpg: not a readable'): read_image(p)
    with pytest.raises(ValueError, match='a.jpg: not a readable'): read_mask(p)

def test_not_images(tmp_path):
    for name,raw in [('a.png',b'hello, world'), ('b.jpg',b'\xff\xd8\xff\xe0'), ('c.tif',b'II*\0'),
                     ('d.tif',b'MM\0*\0\0\0\x08'), ('e.png',b'\x89PNG\r\n\x1a\n')]:
        (tmp_path/name).write_bytes(raw)
        with pytest.raises(ValueError, match=f'{name}: not a readable image'): read_image(tmp_path/name)
    with pytest.raises(FileNotFoundError, match='none.png'): read_image(tmp_path/'none.png')
    with pytest.raises(ValueError, match='a folder'): read_image(tmp_path)

def test_channel_conversion(tmp_path, rng):
    a = ints(rng, (9,8,3), 'uint8')
    save(tmp_path/'rgb.png', a)
    save(tmp_path/'grey.png', a[...,:1])
    save(tmp_path/'five.tif', ints(rng, (9,8,5), 'uint8'))
    assert np.allclose(read_image(tmp_path/'rgb.png', 1)[...,0], a@[.299,.587,.114]/255, atol=1e-4)
    g = read_image(tmp_path/'grey.png', 3)
    assert g.shape==(9,8,3) and (g==g[...,:1]).all() and g.flags.c_contiguous
    for c in (1,3,4):
        with pytest.raises(ValueError, match=f'has 5 channels, {c} asked for'): read_image(tmp_path/'five.tif', c)
    assert read_image(tmp_path/'five.tif', 5).shape==(9,8,5)

def test_gray_reads_any_image(tmp_path, rng):
    for c in (1,2,3,4,5):
        p = tmp_path/f'{c}.tif'
        save(p, a := ints(rng, (9,8,c), 'uint8'))
        x = read_gray(p)
        assert x.shape==(9,8,1) and x.dtype==np.float32
        if c==3: assert np.array_equal(x, read_image(p, 1))
        else: assert np.allclose(x[...,0], a.mean(2)/255, atol=1e-6)

@pytest.mark.parametrize('dtype', ['uint8','uint16'])
@pytest.mark.parametrize('ext', ['png','tif'])
def test_alpha(tmp_path, rng, ext, dtype):
    a = ints(rng, (9,8,4), dtype)
    p = tmp_path/f'a.{ext}'
    def put(a):
        if ext=='png': cv2.imwrite(str(p), a[...,[2,1,0,3]])
        else: tifffile.imwrite(p, a, photometric='rgb', extrasamples=['unassalpha'])
    a[...,3] = np.iinfo(dtype).max
    put(a)
    assert np.array_equal(np.rint(read_image(p)*float(np.iinfo(dtype).max)), a[...,:3])
    a[3,4,3] -= 1
    put(a)
    with pytest.raises(ValueError, match='transparent'): read_image(p)
    with pytest.raises(ValueError, match='transparent'): read_image(p, channels=3)
    assert read_image(p, channels=4).shape==(9,8,4)

def test_fourth_band_is_not_alpha(tmp_path, rng):
    a = ints(rng, (9,8,4), 'uint16')
    tifffile.imwrite(tmp_path/'a.tif', a, photometric='minisblack', planarconfig='contig')
    assert read_image(tmp_path/'a.tif').shape==(9,8,4)

def test_palette_bits_and_transparency(tmp_path, rng):
    idx = rng.integers(0, 4, (9,8)).astype(np.uint8)
    colours = ints(rng, (4,3), 'uint8')
    im = Image.fromarray(idx)
    im.putpalette(colours.ravel().tolist())
    im.save(tmp_path/'p.png')
    assert np.array_equal(np.rint(read_image(tmp_path/'p.png')*255), colours[idx])
    im.save(tmp_path/'p.tif', compression='tiff_lzw')
    assert np.array_equal(np.rint(read_image(tmp_path/'p.tif')*255), colours[idx])
    im.save(tmp_path/'t.png', transparency=0)
    with pytest.raises(ValueError, match='transparent'): read_image(tmp_path/'t.png')
    Image.fromarray(idx>1).save(tmp_path/'one.png')
    assert np.array_equal(read_image(tmp_path/'one.png')[...,0], (idx>1).astype(float))
    Image.fromarray(np.stack([idx, np.full_like(idx, 255)], -1)).save(tmp_path/'la.png')
    assert np.array_equal(np.rint(read_image(tmp_path/'la.png')*255)[...,0], idx)

@pytest.mark.parametrize('ext', ['jpg','png','webp','tif'])
@pytest.mark.parametrize('code', range(1,9))
def test_orientation_is_as_viewers_show_it(tmp_path, rng, ext, code):
    a = cv2.resize(ints(rng, (4,5,3), 'uint8'), (25,20))
    p = tmp_path/f'a.{ext}'
    exif = Image.Exif()
    exif[274] = code
    Image.fromarray(a).save(p, exif=exif, **(dict(lossless=True) if ext=='webp' else {}))
    want = np.asarray(ImageOps.exif_transpose(Image.open(p)).convert('RGB'))/255
    assert np.allclose(read_image(p), want, atol=1e-6)
    assert read_mask(p).shape==want.shape[:2]

@pytest.mark.parametrize('code', [3,6,8])
def test_orientation_at_16_bits(tmp_path, rng, code):
    a = ints(rng, (6,9), 'uint16')
    tifffile.imwrite(tmp_path/'a.tif', a, extratags=[(274,'H',1,code,True)])
    assert np.array_equal(np.rint(read_image(tmp_path/'a.tif')[...,0]*65535.), np.rot90(a, {3:2, 6:-1, 8:1}[code]))

@pytest.mark.parametrize('how', [dict(photometric='minisblack', planarconfig='separate'),
                                 dict(photometric='minisblack'),
                                 dict(imagej=True, metadata={'axes':'CYX'}),
                                 dict(ome=True, metadata={'axes':'CYX'})], ids=['planes','pages','ImageJ','OME'])
def test_planes_and_pages_are_channels(tmp_path, rng, how):
    a = ints(rng, (5,20,30), 'uint16')
    tifffile.imwrite(tmp_path/'a.tif', a, **how)
    assert np.array_equal(np.rint(read_image(tmp_path/'a.tif')*65535.), np.moveaxis(a, 0, -1))

def test_tiff_written_without_a_word(tmp_path, rng):
    a = ints(rng, (20,30,5), 'uint16')
    tifffile.imwrite(tmp_path/'a.tif', a)
    assert np.array_equal(np.rint(read_image(tmp_path/'a.tif')*65535.), a)
    tifffile.imwrite(tmp_path/'movie.tif', ints(rng, (4,3,20,30), 'uint8'), photometric='minisblack')
    with pytest.raises(ValueError, match='movie.tif.*no single image'): read_image(tmp_path/'movie.tif')

@pytest.mark.parametrize('dtype', ['uint8','uint16'])
@pytest.mark.parametrize('c', [1,3])
def test_compressed_tiff(tmp_path, rng, dtype, c):
    a = ints(rng, (20,30,c), dtype)
    p = tmp_path/'lzw.tif'
    cv2.imwrite(str(p), a[...,::-1], [cv2.IMWRITE_TIFF_COMPRESSION, 5])
    assert np.array_equal(np.rint(read_image(p)*float(np.iinfo(dtype).max)), a)

def test_white_is_zero(tmp_path, rng):
    for t in ('uint8','uint16'):
        a = ints(rng, (9,8), t)
        tifffile.imwrite(tmp_path/'a.tif', a, photometric='miniswhite')
        assert np.array_equal(np.rint(read_image(tmp_path/'a.tif')[...,0]*float(np.iinfo(t).max)), np.iinfo(t).max-a)

def test_float_tiff(tmp_path, rng):
    x = rng.random((5,6))
    for a,ok in [(x,1), (x*255,0), (x-.5,0), (np.full((5,6), np.nan),0)]:
        tifffile.imwrite(tmp_path/'f.tif', a.astype(np.float32))
        if ok: assert np.allclose(read_image(tmp_path/'f.tif')[...,0], a)
        else:
            says = r'f.tif: float pixels must be in \[0,1\]'
            with pytest.raises(ValueError, match=says): read_image(tmp_path/'f.tif')
    tifffile.imwrite(tmp_path/'i.tif', np.ones((5,6), np.int32))
    with pytest.raises(ValueError, match='pixels are int32'): read_image(tmp_path/'i.tif')

# --- masks

def test_masks_however_saved(tmp_path):
    m = np.zeros((24,40), np.uint8)
    m[8:16,8:24] = 1
    im = Image.fromarray(m)
    im.putpalette([0,0,0,255,0,0])
    im.save(tmp_path/'palette.png')
    Image.fromarray(m*255).save(tmp_path/'lossy.jpg', quality=60)
    Image.fromarray(m>0).save(tmp_path/'bit.png')
    cv2.imwrite(str(tmp_path/'classes.png'), m*3)
    cv2.imwrite(str(tmp_path/'deep.png'), m.astype(np.uint16)*300)
    cv2.imwrite(str(tmp_path/'colour.png'), np.stack([m*0,m*0,m*9], -1))
    tifffile.imwrite(tmp_path/'m.tif', m.astype(bool))
    for p in tmp_path.iterdir():
        got = read_mask(p, shape=(24,40,3))
        assert got.dtype==np.uint8 and np.array_equal(got, m), p.name
    says = r'bit.png: the mask is 24 x 40 \(height x width\), its image 40 x 24'
    with pytest.raises(ValueError, match=says): read_mask(tmp_path/'bit.png', (40,24))

# --- numbers

@pytest.mark.parametrize('c', [1,3,5])
def test_normalize_and_back(rng, c):
    x = rng.random((7,6,c), dtype=np.float32)
    mean,std = rng.random(c).tolist(),(rng.random(c)+.1).tolist()
    z = normalize_image(x, mean, std)
    assert z.dtype==np.float32 and np.allclose(z[2,3], (x[2,3]-mean)/std, atol=1e-5)
    assert np.allclose(denormalize_image(z, mean, std), x, atol=1e-6)
    assert np.allclose(normalize_image(x, .5, .5), x*2-1, atol=1e-6)
    for bad in [(x, [0]*(c+1), std), (x, mean, [-1.]), (x[...,0], mean, std), ((x*255).astype(np.uint8), mean, std)]:
        with pytest.raises(ValueError): normalize_image(*bad)

# --- sizes

SHAPES = [(7,7,3,3), (7,5,3,4), (5,7,8,3), (3,3,7,7), (1,9,4,4), (9,1,2,5), (12,8,4,4), (13,17,5,6), (6,6,6,6),
          (2,50,9,9)]

def overlaps(i, n, t):
    "Source pixels whose extent overlaps that of pixel `i` of `t`, in exact arithmetic."
    return [j for j in range(n) if j*t<(i+1)*n and (j+1)*t>i*n]

@pytest.mark.parametrize('h,w,th,tw', SHAPES)
def test_mask_is_the_maximum_over_the_footprint(rng, h, w, th, tw):
    for p in (.03,.3,.9):
        m = (rng.random((h,w))<p).astype(np.uint8)
        def any_of(a, b): return max(m[i,j] for i in overlaps(a, h, th) for j in overlaps(b, w, tw))  # noqa: B023
        want = [[any_of(a, b) for b in range(tw)] for a in range(th)]
        assert np.array_equal(resize_mask(m, (th,tw)), want)

def test_one_pixel_survives_anywhere(rng):
    for i,j in rng.integers(0, 1000, (200,2)):
        m = np.zeros((1000,1000), np.uint8)
        m[i,j] = 1
        for mode in ('stretch','pad'):
            assert resize_region(m, (64,64), mode)[i*64//1000,j*64//1000]==1

@pytest.mark.parametrize('mode', resize_modes)
@pytest.mark.parametrize('h,w,th,tw', SHAPES)
@pytest.mark.parametrize('c', [1,3,5])
def test_resize_image_in_every_mode(rng, mode, h, w, th, tw, c):
    x = rng.random((h,w,c), dtype=np.float32)
    m = (rng.random((h,w))<.3).astype(np.uint8)
    y,ym,valid = resize_image(x, m, (th,tw), mode)
    (st,sl,sh,sw),(top,left,nh,nw) = resize_boxes((h,w), (th,tw), mode)
    at = slice(top, top+nh),slice(left, left+nw)
    assert y.shape==(th,tw,c) and y.dtype==np.float32
    assert ym.shape==valid.shape==(th,tw) and ym.dtype==valid.dtype==np.uint8
    assert x.min()-1e-7<=y[valid==1].min() and y.max()<=x.max()
    assert valid.sum()==nh*nw and valid[at].all() and not y[valid==0].any() and not ym[valid==0].any()
    assert np.array_equal(ym[at], resize_mask(m[st:st+sh,sl:sl+sw], (nh,nw)))
    for k in range(c):   # channels do not mix
        assert np.allclose(resize_image(x[...,k:k+1], None, (th,tw), mode)[0][...,0], y[...,k], atol=1e-6)
    assert np.allclose(resize_image(np.ones_like(x), None, (th,tw), mode)[0], valid[...,None])
    back = restore_map(y[...,0], (h,w), mode)
    assert back.shape==(h,w) and np.isfinite(back).all()

def test_shrinking_is_the_mean_over_the_footprint(rng):
    x = rng.random((12,20,5), dtype=np.float32)
    want = x.reshape(4,3,5,4,5).mean((1,3))
    assert np.allclose(resize_image(x, None, (4,5))[0], want, atol=1e-6)
    grown = resize_image(x[:4], None, (8,5))[0]                 # one axis grows, one shrinks
    assert np.allclose(grown[::2].mean(), x[:4].mean(), atol=.05)

def test_valid_is_inside_the_region_of_interest(rng):
    x,roi = np.zeros((50,70,1), np.float32),(rng.random((50,70))<.97).astype(np.uint8)
    for mode in resize_modes:
        _,_,valid = resize_image(x, None, (16,16), mode, roi=roi)
        _,_,inside = resize_image(x, None, (16,16), mode)
        assert np.array_equal(valid, inside & (1-resize_region(1-roi, (16,16), mode)))

def test_no_result_is_a_view_of_its_input(rng):
    x,m = rng.random((8,8,1), dtype=np.float32),np.zeros((8,8), np.uint8)
    for mode in resize_modes:
        y,ym,_ = resize_image(x, m, (8,8), mode)
        assert np.array_equal(x, y) and not np.shares_memory(x, y) and not np.shares_memory(m, ym)
        a = x[...,0]
        assert not np.shares_memory(a, restore_map(a, (8,8), mode))

@pytest.mark.parametrize('h,w', [(10,20),(20,10),(1,500),(500,1),(33,32)])
def test_resize_with_aspect_ratio(rng, h, w):
    for c,dtype in [(1,np.float32),(3,np.uint8),(5,np.float32)]:
        x = (rng.random((h,w,c))*(255 if dtype==np.uint8 else 1)).astype(dtype)
        y = resize_with_aspect_ratio(x, (24,32))
        t,left,nh,nw = fit_box((h,w), (24,32))
        assert y.shape==(24,32,c) and y.dtype==dtype and (nh==24 or nw==32)
        assert abs(t-(24-nh-t))<=1 and abs(left-(32-nw-left))<=1            # centred
        assert abs(nh-nw*h/w)<=max(1, h/w) or 1 in (nh,nw)
    assert resize_with_aspect_ratio(x[...,0], (24,32), fill=.5).shape==(24,32)
    for f in ('edge','reflect'): assert resize_with_aspect_ratio(x, (24,32), fill=f).min()>=x.min()
    for bad in [(x,24), (x,(0,3)), (x,(2.5,3))]:
        with pytest.raises(ValueError, match='height, width'): resize_with_aspect_ratio(*bad)

def test_restore_map_finds_the_place(rng):
    for mode in resize_modes:
        for shape in ((100,200),(200,100),(90,90)):
            i,j = shape[0]//2+5,shape[1]//2-8
            x = np.zeros((*shape,1), np.float32)
            x[i-4:i+4,j-4:j+4] = 1
            back = restore_map(resize_image(x, None, (64,64), mode)[0][...,0], shape, mode)
            ys,xs = np.indices(shape)
            s = back.sum()
            assert abs((back*ys).sum()/s-(i-.5))<.6 and abs((back*xs).sum()/s-(j-.5))<.6, (mode,shape)
    a = np.ones((64,64))
    a[:5] = np.nan
    for mode in resize_modes: assert np.isfinite(restore_map(a, (100,200), mode)).all()
    crop = restore_map(np.ones((64,64)), (100,200), 'crop')
    assert crop[:,:50].sum()==crop[:,150:].sum()==0 and crop[:,50:150].min()==1

# --- local contrast

@pytest.mark.parametrize('c', [1,3,5])
def test_local_contrast(rng, c):
    x = rng.random((60,50,c), dtype=np.float32)
    z = local_contrast_normalize(x, sigma=4)
    assert z.dtype==np.float32 and z.shape==x.shape and abs(z.mean())<.05 and .7<z.std()<1.1
    dim,bright = (local_contrast_normalize(o, sigma=4, eps=1e-4) for o in (x*.5+.2, x))
    assert abs(dim-bright).max()<.01                                                        # light and gain cancel out
    assert np.allclose(local_contrast_normalize(x[...,:1], sigma=4), z[...,:1], atol=1e-4)  # channels are apart
    for s in (1,3,8):
        dot = np.zeros((70,70,1), np.float32)
        dot[0,0] = dot[35,35] = 1
        assert abs(local_contrast_normalize(dot, s, eps=1e-6)).max() <= np.sqrt(2*np.pi)*s

def test_local_contrast_ignores_what_is_not_valid(rng):
    x,v = rng.random((40,40,1), dtype=np.float32),np.ones((40,40), np.uint8)
    v[:10] = 0
    a = local_contrast_normalize(x, 3, valid=v)
    x2 = x.copy()
    x2[:10] = rng.random((10,40,1))*.2
    assert np.allclose(a, local_contrast_normalize(x2, 3, valid=v), atol=2e-3) and (a[:10]==0).all()
    assert np.isfinite(local_contrast_normalize(x, 3, valid=v*0)).all()

# --- tiles

def test_tiles_cover_the_frame_and_overlap(rng):
    for _ in range(200):
        h,w,tile = *rng.integers(8, 700, 2),rng.integers(8, 300)
        boxes = tile_boxes((h,w), int(tile))
        th,tw = min(tile, h),min(tile, w)
        assert all((bh,bw)==(th,tw) and 0<=i<=h-th and 0<=j<=w-tw for i,j,bh,bw in boxes)
        for k,n,side in ((0,h,th), (1,w,tw)):
            starts = sorted({b[k] for b in boxes})
            gaps = np.diff(starts)
            assert starts[0]==0 and starts[-1]==n-side and (gaps<=side-side//4).all()
            assert len(gaps)<=2*(n-side)//max(1, side//2)+1                     # not many more than are needed

@pytest.mark.parametrize('size,tile', [((512,640),256), ((1200,1600),512), ((96,992),64)])
def test_tiles_start_on_the_grid_of_strided_networks(size, tile):
    assert all(i%16==0 and j%16==0 for i,j,_,_ in tile_boxes(size, tile))

def test_fill_black_is_0_and_others_go_on(rng):
    x = rng.random((20,40,3)).astype(np.float32)
    assert np.array_equal(resize_image(x, None, (40,40), 'pad', 'black')[0], resize_image(x, None, (40,40), 'pad')[0])
    for fill in ('edge','reflect'):
        y,_,valid = resize_image(x, None, (40,40), 'pad', fill)
        assert (y[valid==0]>0).all() and np.array_equal(y[10], x[0]) and valid.sum()==20*40

# --- what is too large, and what is not one image

def test_a_huge_picture_is_refused_by_a_setting(tmp_path, monkeypatch):
    Image.new('1', (2000,1100)).save(tmp_path/'a.png')
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 1000)                     # Pillow's own limit does not count
    assert read_image(tmp_path/'a.png').shape==(1100,2000,1) and Image.MAX_IMAGE_PIXELS==1000
    monkeypatch.setenv('AEAD_MAX_MEGAPIXELS', '1')
    with pytest.raises(ValueError, match='has 2 megapixels, and at most 1 are read: set .*AEAD_MAX_MEGAPIXELS to 3'):
        read_image(tmp_path/'a.png')

@pytest.mark.parametrize('n', [2, 3, 4])
def test_pages_are_no_channels(tmp_path, n):
    pages = [Image.fromarray(np.full((20,30), 50*i, np.uint8)) for i in range(n)]
    pages[0].save(tmp_path/'a.tif', save_all=True, append_images=pages[1:])
    with pytest.raises(ValueError, match=f'a stack of {n} pages, not one image'): read_image(tmp_path/'a.tif')
