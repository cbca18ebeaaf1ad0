"Small folders in every layout: smooth random pictures, some with a bright square, and what the tests of commands share."
import csv, json, re
from pathlib import Path

import cv2, numpy as np, pandas as pd, pytest, tifffile, torch, yaml
from PIL import Image

from aead.data.synthetic import make_synthetic, plan_synthetic, synthetic_images

N_TRAIN,N_GOOD,N_BAD = 24,6,5 # pictures to train on, good and defective ones to test

def picture(i, hw=(40,48), c=1, dtype=np.uint8):
    "Picture number `i`: smoothed noise in the middle of the range, `h w`, or `h w c` for several channels."
    x = np.random.default_rng(i).normal(size=(*hw, c)).astype(np.float32)
    x = np.stack([cv2.GaussianBlur(x[...,k], (0,0), 2) for k in range(c)], -1)
    x = np.clip(0.4 + 0.2*x/x.std()/2, 0, 0.75)
    x = x if dtype==np.float32 else (x*np.iinfo(dtype).max).astype(dtype)
    return x[...,0] if c==1 else x

def dent(i, hw=(40,48), c=1, dtype=np.uint8):
    "Picture number `i` with a bright square, and its mask `h w` of 0 and 255."
    x,mask = picture(i, hw, c, dtype),np.zeros(hw, np.uint8)
    r = np.random.default_rng(1000+i)
    top,left = (r.integers(2, n-12) for n in hw)
    mask[top:top+10,left:left+10] = 255
    x[mask>0] = 1 if dtype==np.float32 else np.iinfo(dtype).max
    return x, mask

def save(path, a):
    "Writes `a`, `h w` or `h w c` in RGB order; TIFF for what PNG cannot hold."
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix=='.tif': tifffile.imwrite(path, a, photometric='rgb' if a.ndim==3 and a.shape[2]==3 else 'minisblack', **({'planarconfig':'contig'} if a.ndim==3 else {}))
    else: assert cv2.imwrite(str(path), a[...,::-1] if a.ndim==3 else a)
    return path

PLACES = { # folders of training, good and bad pictures, folder of the masks, and the end of their names; by layout
    'mvtec': ('part/train/good', 'part/test/good', 'part/test/dent', 'part/ground_truth/dent', '_mask.png'),
    'btad': ('01/train/ok', '01/test/ok', '01/test/ko', '01/ground_truth/ko', '.png'),
    'visa': (*['part/Data/Images/Normal']*2, 'part/Data/Images/Anomaly', 'part/Data/Masks/Anomaly', '.png'),
    'mtd': (*['MT_Free/Imgs']*2, *['MT_Crack/Imgs']*2, '.png'),
    'csv': (*['images']*3, 'defects', '.png'),
    'folder': ('good', 'good', 'dent', 'masks/dent', '.png'),
}

def _places(layout, ext):
    "`(kind, i) -> path` of pictures, `i -> path` of masks; kinds are train, good, bad."
    *folders,masks,end = PLACES.get(layout, PLACES['folder'])
    at = dict(zip(('train','good','bad'), folders))
    if layout=='mtd': ext = 'jpg'
    def stem(i): return f'exp{1+i%2}_num_{1000*(1+i//2)+i%2}' if layout=='mtd' else f'{i:03d}'
    return lambda kind,i: f'{at[kind]}/{stem(i)}.{ext}', lambda i: f'{masks}/{stem(i)}{end}'

def make_layout(root, layout, bad=N_BAD, masks=True, hw=(40,48), c=1, dtype=np.uint8, ext='png', first=0):
    "A folder in `layout`; pictures are numbered on through train, good and bad, from `first`."
    root = Path(root)
    at,mask_at = _places(layout, ext)
    rows = []
    for i in range(N_TRAIN+N_GOOD):
        kind = 'train' if i<N_TRAIN else 'good'
        save(root/at(kind, i), picture(first+i, hw, c, dtype))
        rows.append((at(kind, i), 0, 'good', '', kind))
    for i in range(N_TRAIN+N_GOOD, N_TRAIN+N_GOOD+bad):
        x,m = dent(first+i, hw, c, dtype)
        save(root/at('bad', i), x)
        if masks: save(root/mask_at(i), m)
        rows.append((at('bad', i), 1, 'dent', mask_at(i) if masks else '', 'bad'))
    if layout=='csv': write_csv(root/'catalog.csv', ['path','label','defect','mask','group'], [(p,y,d,m,f'part {i//2}' if not y else f'bad {i}') for i,(p,y,d,m,_) in enumerate(rows)])
    if layout=='visa': write_csv(root/'split_csv'/'1cls.csv', ['object','split','label','image','mask'], [('part', 'train' if k=='train' else 'test', 'normal' if not y else 'anomaly', p, m) for p,y,_,m,k in rows])
    return root

def few_embedded_images(monkeypatch, *textures):
    "From here on the embedded data set in a run has a part of its textures and regions, and smaller images."
    monkeypatch.setattr('aead.runs.folder.make_synthetic', lambda path: make_synthetic(path, textures, sz=32, n_shots=1, n_regions=20))

def fails(f, error=ValueError):
    "The message of the error that `f` raises, which is one line."
    with pytest.raises(error) as e: f()
    text = str(e.value.args[0])
    assert '\n' not in text and len(text)<600
    return text

def write_csv(path, head, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, 'w', newline='') as f: csv.writer(f).writerows([head, *rows])
    return path

TINY = { # settings of models that train in a moment, by name
    'cnn_ae': {'nf': 8, 'depth': 2},
    'feature_ae': {'backbone': 'test_efficientnet', 'pretrained': False, 'nz': 8, 'nf': 8, 'memory': 32},
    'resnet_ae': {'backbone': 'test_resnet', 'depth': 2, 'nf': 8},
    'vit_ae': {'image_size': 32, 'dim': 48, 'depth': 1, 'heads': 3, 'mlp_dim': 64, 'decoder_dim': 32, 'decoder_heads': 2},
    'diffusion_ae': {'dim': 16, 'dim_mults': [1,2], 'patch': 2, 'timesteps': 100, 'start': 0.3, 'draws': 1},
}
TINY_YAML = yaml.safe_dump({'model': 'cnn_ae', 'head': None, 'loss': {'l1': 1, 'ssim': 1}, 'data': {'size': 32, 'workers': 0, 'defects': 0, 'augment': True}, 'models': TINY, 'train': {'epochs': 2, 'bs': 8, 'lr': 0.005}, 'detect': {'far': 0.2, 'search': False, 'flips': False}})

def by_size(hw):
    "Id of a parameter: `32x48`."
    return 'x'.join(map(str, hw))

def by_setting(o):
    "Id of a parameter: a function's name, or settings as `depth 2 nf 8`."
    return o.__name__ if callable(o) else ' '.join(f'{k} {v!r}' for k,v in o.items()) or 'defaults'

def field_cases(values):
    "Parameters `section, field, value` of values by field (`data.size`), with ids as `data.size 7`."
    return [pytest.param(*k.split('.'), v, id=f'{k} {v!r}') for k,vs in values.items() for v in vs]

def check_error(f, kind, *parts):
    "Calling `f` raises an error of this kind, with all the parts in its message."
    text = fails(f, kind)
    assert all(o in text for o in parts), text

KEYS = 'image_auroc image_ap image_f1_max pixel_auroc pixel_ap pixel_f1_max aupro_30 aupimo false_alarm_rate detection_rate target_false_alarm_rate'.split()

def check_figures(m):
    "Each figure is in [0,1], or null with a reason."
    for k in KEYS:
        assert k in m
        assert m[k] is not None and 0 <= m[k] <= 1 or m[k] is None and m['why'][k], k
    assert {'threshold','size','why','ci95','per_defect','per_size','n','schema'} <= set(m)
    assert not [k for k in m['why'] if m.get(k) is not None]
    for k,(lo,hi) in m['ci95'].items(): assert 0 <= lo <= m[k] <= hi <= 1, k

def check_static(file):
    "An HTML file that loads nothing."
    t = Path(file).read_text(encoding='utf-8')
    assert t.lstrip().lower().startswith('<!doctype html') and t.rstrip().endswith('</html>')
    assert not [o for o in re.findall(r'''(?:src|href|data|poster|action)\s*=\s*["']?([^"'\s>]*)''', t) if not o.startswith(('data:','#'))]
    assert not re.findall(r'@import|url\(\s*["\']?(?!data:|#)\w|<link|<iframe|fetch\(|XMLHttpRequest', t)
    return t

def made_up_scores(seed=0, lift=1., n=40, **kw):
    "A table of scores of `n` images, every second one defective, two images a group; `kw` are more columns."
    rng = np.random.default_rng(seed)
    y = np.arange(n)%2
    t = pd.DataFrame({'path': [f'{i}.png' for i in range(n)], 'label': y, 'defect': np.where(y, 'dent', 'good'), 'split': 'test'})
    return t.assign(group=np.arange(n)//2//2*2+y, score=lift*y+rng.normal(size=n), **kw)

def made_up_decisions(seed, lift):
    "The same for 80 independent images, with decisions."
    return made_up_scores(seed, lift, 80).assign(group=range(80), decision=lambda t: (t.score>1).astype(int))

# --- tests of data: random pixels, a tiny folder in each layout, catalogs

def draw(path, i, hw=(20,24), c=3):
    "Writes image number `i`, random pixels."
    path.parent.mkdir(parents=True, exist_ok=True)
    a = np.random.default_rng([i, len(path.name)]).integers(0, 256, (*hw,c), dtype=np.uint8)
    Image.fromarray(a if c==3 else a[...,0]).save(path)
    return str(path)

def draw_mask(path, i, hw=(20,24), v=255):
    "Writes mask number `i`, a small rectangle of value `v`."
    path.parent.mkdir(parents=True, exist_ok=True)
    m = np.zeros(hw, np.uint8)
    m[2+i%7:9+i%7, i%11:i%11+3+i%4] = 1
    Image.fromarray(m*v).save(path)
    return m

# --- folders; each function returns `{path: (defect, mask or None)}`, the truth

def like_mvtec(root, good='good', bad=('crack','dent'), mask='{}_mask.png', v=255):
    truth = {}
    for i in range(16):
        truth[draw(root/'nut'/('train' if i<12 else 'test')/good/f'{i:03d}.png', i)] = 'good',None
    for k,d in enumerate(bad):
        for i in range(3): # the same stems in each class: masks must not be mixed up
            p = root/'nut'/'test'/d/f'{i:03d}.png'
            m = draw_mask(root/'nut'/'ground_truth'/d/mask.format(p.stem), 3*k+i, v=v)
            truth[draw(p, 20+10*k+i)] = d, m
    return truth

def like_btad(root): return like_mvtec(root, 'ok', ('ko',), '{}.png')

def like_visa(root):
    truth,rows,data = {},[],Path('nut')/'Data'
    for i in range(16):
        p = data/'Images'/'Normal'/f'{i:04d}.JPG'
        truth[draw(root/p, i)] = 'good',None
        rows.append(('nut', 'train' if i<12 else 'test', 'normal', p.as_posix(), ''))
    for i in range(4):
        p,m = data/'Images'/'Anomaly'/f'{i:03d}.JPG',data/'Masks'/'Anomaly'/f'{i:03d}.png'
        truth[draw(root/p, 30+i)] = 'anomaly', draw_mask(root/m, i, v=i+1)
        rows.append(('nut', 'test', 'anomaly', p.as_posix(), m.as_posix()))
    (root/'split_csv').mkdir()
    t = pd.DataFrame(rows, columns=['object','split','label','image','mask'])
    t.to_csv(root/'split_csv'/'1cls.csv', index=False)
    return truth

def like_mtd(root):
    truth,n = {},0
    for t in range(12): # tiles of their own sizes, far apart in number, at three exposures
        hw = (30+6*t, 40+5*(t%4))
        for e in (1,3,6):
            n += 1
            truth[draw(root/'MT_Free'/'Imgs'/f'exp{e}_num_{1000*t+n}.jpg', n, hw, 1)] = 'good',None
    for t in range(3):
        p = root/'MT_Crack'/'Imgs'/f'exp2_num_{50_000+1000*t}.jpg'
        truth[draw(p, 90+t, (32,44), 1)] = 'crack', draw_mask(p.with_suffix('.png'), t, (32,44))
    draw_mask(root/'MT_Free'/'Imgs'/'exp1_num_1.png', 0, (30,40), 0)
    return truth

def like_folder(root):
    truth = {draw(root/'good'/f'sub{i%2}'/f'{i:02d}.png', i): ('good',None) for i in range(14)}
    for i in range(2): # masks beside their images
        truth[draw(root/'crack'/f'{i}.jpg', 40+i)] = 'crack', draw_mask(root/'crack'/f'{i}.png', i)
    for i in range(2): # masks in a folder of their own
        m = draw_mask(root/'ground_truth'/'dent'/f'{i}_mask.png', 4+i)
        truth[draw(root/'dent'/f'{i}.png', 50+i)] = 'dent', m
    truth[draw(root/'hole'/'7.bmp', 60)] = 'hole',None
    (root/'.hidden').mkdir()
    draw(root/'.hidden'/'x.png', 0)
    (root/'notes.txt').write_text('not an image')
    return truth

def mask_of(root, p):
    "Where `like_folder` puts the mask of `p`."
    p = Path(p)
    return p.with_suffix('.png') if p.suffix=='.jpg' else root/'ground_truth'/'dent'/f'{p.stem}_mask.png'

def like_csv(root):
    truth = like_folder(root)
    rows = [dict(path=Path(p).relative_to(root).as_posix(), label=int(d!='good'), defect=d, group=f'part{i//2}',
                 mask='' if m is None else mask_of(root, p).relative_to(root).as_posix())
            for i,(p,(d,m)) in enumerate(truth.items())]
    pd.DataFrame(rows).to_csv(root/'catalog.csv', index=False)
    return truth

def like_synthetic(root):
    "The truth comes from the plan, not from what was written."
    kw = dict(textures='brick', sz=48, n_shots=1, n_regions=12)
    make_synthetic(root, **kw)
    plan = plan_synthetic(**kw)
    made = zip(plan.itertuples(), synthetic_images(plan, 48))
    return {str(root/o.path): (o.defect, m if o.label else None) for o,(_,m) in made}

# --- public data sets

def blot(path, i, hw=(16,16), v=255):
    "The same as `draw_mask`, for tiny images."
    return draw_mask(path, i, hw, v)

def _tiny(path, i): return draw(path, i, (16,16))

def like_mpdd(root): return like_mvtec(root)

def like_mvtec_loco(root):
    "Two categories, one with a blank in its name; two masks an image."
    truth = {}
    for c in ('juice bottle','screw_bag'):
        for s,n in (('train',6),('validation',6),('test',2)):
            for i in range(n): truth[_tiny(root/c/s/'good'/f'{i:03d}.png', len(truth))] = 'good',None
        for j,d in enumerate(('logical_anomalies','structural_anomalies')):
            for i in range(2):
                masks = root/c/'ground_truth'/d/f'{i:03d}'
                m = blot(masks/'000.png', i+j, v=1) | blot(masks/'001.png', i+j+3, v=200)
                truth[_tiny(root/c/'test'/d/f'{i:03d}.png', len(truth))] = d, m
    (root/'juice bottle'/'Thumbs.db').write_bytes(b'x')
    return truth

def like_mvtec_ad2(root):
    "One category; scenes under two lights, and images without labels."
    truth,c = {},root/'fruit_jelly'
    for i in range(6):
        truth[_tiny(c/'train'/'good'/f'{i:03d}_regular.png', i)] = 'good',None
        truth[_tiny(c/'validation'/'good'/f'{i:03d}_regular.png', 10+i)] = 'good',None
        _tiny(c/'test_private'/f'{i:03d}_regular.png', 20+i)
        _tiny(c/'test_private_mixed'/f'{i:03d}_mixed.png', 30+i)
    for i,light in [(i, o) for i in range(2) for o in ('regular','underexposed')]:
        name = f'{i:03d}_{light}'
        truth[_tiny(c/'test_public'/'good'/f'{name}.png', 40+len(truth))] = 'good',None
        m = blot(c/'test_public'/'ground_truth'/'bad'/f'{name}_mask.png', i)
        truth[_tiny(c/'test_public'/'bad'/f'{name}.PNG', 80+len(truth))] = 'bad', m
    return truth

def like_ksdd2(root):
    truth = {}
    for s,first in (('train',10000),('test',20000)):
        for i in range(first, first+10):
            bad = i%5==4
            blot(root/s/f'{i}_GT.png', i, v=255*bad)
            truth[_tiny(root/s/f'{i}.png', i)] = ('defect', blot(root/s/f'{i}_GT.png', i)) if bad else ('good',None)
    blot(root/'train'/'10004_GT (copy).png', 10004)
    (root/'train'/'.DS_Store').write_bytes(b'x')
    return truth

def like_dagm(root):
    truth = {}
    for c,s,i in [(c, s, i) for c in (1,10) for s in ('Train','Test') for i in range(1, 8)]:
        at = root/f'Class{c}'/s
        m = blot(at/'Label'/f'{i:04d}_label.PNG', i) if i%3==0 else None
        truth[_tiny(at/f'{i:04d}.PNG', 100*c+i)] = 'good' if m is None else 'defect', m
    for o in root.glob('Class*/*/Label'): (o/'Labels.txt').write_text('1\n')
    return truth

def _iad_view(at, part, view, kind, i):
    "Draws a view of a part: its entry in the list, and its mask or None."
    name = f"{part}/{at.name}_{part[-4:]}_{part.split('/')[0]}_C{view}_20230101.jpg"
    mask = name.replace('.jpg', '_mask.png') if kind!='OK' else None
    _tiny(at/name, i)
    return dict(category=at.name, anomaly_class=kind, image_path=name, mask_path=mask), mask and blot(at/mask, view)

def like_real_iad(root):
    "Six good parts and a defective one in each category, from two sides; the defect shows on one of them."
    truth,parts = {},[('train' if i<5 else 'test', f'OK/S{i:04d}', v, 'OK') for i in range(6) for v in (1,2)]
    for c in ('audiojack','toy_brick'):
        at,lists = root/'realiad_512'/c,{'train': [], 'test': []}
        for split,part,view,kind in [*parts, *(('test', 'NG/AK/S0006', v, k) for v,k in ((1,'AK'),(2,'OK')))]:
            entry,m = _iad_view(at, part, view, kind, len(truth))
            lists[split].append(entry)
            truth[str(at/entry['image_path'])] = 'good' if m is None else kind, m
        draw(root/'realiad_256'/c/'OK'/'S0000'/'small.jpg', 0, (8,8))
        file = root/'realiad_jsons'/'realiad_jsons'/f'{c}.json'
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({'meta': {'prefix': f'{c}/', 'normal_class': 'OK'}, **lists}))
    return truth

def like_deeppcb(root):
    "Six boards of two pairs."
    truth,lists,data = {},{'trainval': [], 'test': []},root/'PCBData'
    types = ('open','short','mousebite','spur','copper','pin-hole')
    for b,i in [(b, i) for b in range(6) for i in range(2)]:
        group,number = f'{10*b:05d}',f'{10*b:05d}{i:03d}'
        at,m = data/f'group{group}'/group,np.zeros((16,16), np.uint8)
        boxes = [(2, 3, 5+i, 9, b+1), (8, 8, 12, 14, 1+(b+i)%6)]
        for x1,y1,x2,y2,_ in boxes: m[y1:y2,x1:x2] = 1
        kinds = {types[o[4]-1] for o in boxes}
        truth[_tiny(at/f'{number}_temp.jpg', len(truth))] = 'good',None
        truth[_tiny(at/f'{number}_test.jpg', len(truth))] = kinds.pop() if len(kinds)==1 else 'several', m
        file = at.with_name(f'{group}_not')/f'{number}.txt'
        file.parent.mkdir(exist_ok=True)
        file.write_text('\n'.join((',' if b%2 else ' ').join(map(str, o)) for o in boxes)+'\n')
        lists['test' if i else 'trainval'].append(f'group{group}/{group}/{number}.jpg group{group}/{group}_not/{number}.txt')
    for k,o in lists.items(): (data/f'{k}.txt').write_text('\n'.join(o)+'\n')
    return truth

def like_elpv(root):
    truth,lines = {},[]
    for i,p in enumerate([0., 1/3, 2/3, 1., 0., 0., 0., 0., 0., 0.]):
        truth[_tiny(root/'images'/f'cell{i:04d}.png', i)] = ('good' if p<.5 else 'likely' if p<1 else 'certain'), None
        lines.append(f"images/cell{i:04d}.png  {p:<18}  {'mono' if i%2 else 'poly'}")
    (root/'labels.csv').write_text('\n'.join(lines)+'\n')
    return truth

generators = dict(synthetic=like_synthetic, mvtec=like_mvtec, btad=like_btad, visa=like_visa, mtd=like_mtd,
                  folder=like_folder, csv=like_csv, auto=like_folder, mpdd=like_mpdd, mvtec_loco=like_mvtec_loco,
                  mvtec_ad2=like_mvtec_ad2, ksdd2=like_ksdd2, dagm=like_dagm, real_iad=like_real_iad,
                  deeppcb=like_deeppcb, elpv=like_elpv)

# --- catalogs and tensors

def whole(s):
    "No part is in two of train, val, cal, or in one of them and in test."
    for g,o in s.groupby('group').split: assert len(set(o)-{''})<=1 or set(o)=={'test',''}, g

def table(paths, masks=None, split='train'):
    "A catalog of good images, each a group of its own."
    paths = [str(o) for o in paths]
    masks = masks or ['']*len(paths)
    return pd.DataFrame(dict(path=paths, label=0, defect='good', mask=masks, group=paths, split=split))

def same(a, b):
    "Whether two items or batches are equal, tensor by tensor."
    return len(a)==len(b) and all(torch.equal(o, p) for o,p in zip(a, b))
