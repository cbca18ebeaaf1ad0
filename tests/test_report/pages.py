"What the tests of pages share: what a run has, made up, and a reader that checks a page."
import json, re
from functools import cache
from html.parser import HTMLParser

import numpy as np, pandas as pd

from aead.report.interactive import make_picture

# A name that would do harm if it were not escaped.
EVIL = '"\'><script>alert(1)</script><img src=x onerror=alert(1)>&amp; $x$ \udcff 裂纹'
VOID = ('img','meta','input') # elements without an end tag

PLOTS = [('application/json','page-figures'), ('text/plain','page-plotly'), (None,None)]
LIVE = [PLOTS[0], ('application/json','page-rows'), *PLOTS[1:]] # with a slider

class Page(HTMLParser):
    "Checks that tags nest, and collects what is on the page."
    def __init__(self, text):
        super().__init__()
        self.open,self.seen,self.attrs,self.text = [],[],[],''
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, name, attrs):
        self.seen.append(name)
        self.attrs.append((name, dict(attrs)))
        if name not in VOID: self.open.append(name)

    def handle_endtag(self, name): assert self.open.pop()==name
    def handle_data(self, s): self.text += s

def read(page, name):
    "The data of a script."
    return json.loads(re.search(f'id="{name}">(.*?)</script>', page, re.S)[1])

def titles(page): return re.findall('<h2>(.*?)</h2>', page)

def check(page):
    "Well formed, self-contained, with no scripts but its own, and contents that lead to every section."
    o = Page(page)
    scripts = [(at.get('type'), at.get('id')) for k,at in o.attrs if k=='script']
    assert scripts in ([], PLOTS, LIVE, PLOTS[-1:])
    assert not [at for k,at in o.attrs if k=='script' and set(at)-{'type','id'}]
    assert 'link' not in o.seen and 'iframe' not in o.seen
    for k,at in o.attrs:
        assert not [a for a in at if a.startswith('on')]
        if k=='img': assert at['alt'] and at['src'].startswith('data:image/')
        if k=='a': assert at['href'].startswith(('#','data:text/csv;'))
    ids = [at['id'] for _,at in o.attrs if 'id' in at]
    assert len(ids)==len(set(ids))
    sections = [at['id'] for k,at in o.attrs if k=='section']
    links = [at['href'][1:] for k,at in o.attrs if k=='a' and at['href'][0]=='#']
    assert links[:len(sections)]==sections and set(links)==set(sections)
    assert '@import' not in page and 'url(' not in page
    return o

def scores(n=40, seed=0):
    rng = np.random.default_rng(seed)
    label = np.repeat([0,1], n//2)
    s = rng.normal(3,1,n)+3*label
    t = pd.DataFrame({'path': [f'/x/y/{i}.png' for i in range(n)], 'label': label})
    t = t.assign(defect=np.where(label==0,'good','crack'), group='', split='test')
    return t.assign(score=s, p_value=rng.random(n), decision=(s>5).astype(int))

def metrics(**kw):
    n = dict(test_good=20, test_defective=20, train=100, val=10, cal=30, cal_groups=12, skipped=0)
    return {**dict(image_auroc=.97, image_ap=.95, pixel_auroc=None, false_alarm_rate=.05, detection_rate=.9,
                   target_false_alarm_rate=.05, threshold=5., size=[64,64], why={'pixel_auroc':'no masks'},
                   ci95={'image_auroc':[.9,.99]}, per_defect={'crack':{'image_auroc':.97,'n':20}}, n=n,
                   heat_max=8.), **kw}

@cache
def picture(sz=(32,48), seed=0, side=384, lacks=()):
    "A picture of noise with a square defect; `lacks` names the panels that are missing."
    rng = np.random.default_rng(seed)
    mask = np.zeros(sz, np.uint8)
    mask[5:20,5:20] = 1
    panels = {k: np.uint8(255*rng.random((*sz,3))) for k in ('image','reconstruction','heat map')}
    return make_picture({k: None if k in lacks else o for k,o in panels.items()}, mask, side)

def pictures(n=40, **kw): return {i: picture(seed=i, **kw) for i in range(n)}
