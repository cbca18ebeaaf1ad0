"What of the documentation can be checked without Quarto: every public name documented, links alive, all pages in the sidebar, pages that hold without network."
import shutil, sys
from pathlib import Path

import numpy as np, pytest
from torch import Tensor

root = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.skipif(not (root/'nbs').is_dir(), reason='the notebooks are not here (tests of an installed wheel)')

@pytest.fixture(scope='module')
def docs():
    "The module `scripts/docs.py`."
    for o in ('nbdev','nbformat'): pytest.importorskip(o)
    sys.path.insert(0, str(root/'scripts'))
    try: import docs
    finally: sys.path.pop(0)
    return docs

# --- the sources

def test_every_public_name_is_documented(docs): assert docs.undocumented() == []
def test_no_link_is_dead(docs): assert docs.broken_links() == []
def test_sidebar_has_every_page_once(docs): assert docs.sidebar_gaps() == []

def test_pages_have_an_entry_for_each_name_and_hold_without_network(docs, tmp_path): assert docs.page_faults(docs.process(tmp_path, run=False)) == []

def test_quarto_settings_hold_without_network(docs):
    import yaml
    html = yaml.safe_load((root/'_quarto.yml').read_text())['format']['html']
    assert html['html-math-method']=='mathml' and '$web-font-path: false' in (root/'nbs'/html['theme'][1]).read_text()

# --- that the checks find what they look for

def documented(x, # `b c h w`
               n:int=1, # copies
               **kw # for `print`
              ): # shaped as `x`
    "Says it."
    return x

def silent(x, n=1): return x
def shapeless(x:np.ndarray # an image
             )->Tensor: # another
    "Says half of it."
    return x

class Loud:
    "A class."
    def __init__(self, a): self.a = a
    def run(self, b # a number
           ): return b

def test_lacks(docs):
    assert list(docs.function_lacks(documented, 'f')) == []
    assert [o.split(': ')[1] for o in docs.function_lacks(silent, 'f')] == ['argument x is not documented', 'argument n is not documented', 'what it returns is not documented']
    assert [o.split(' is ')[0] for o in docs.function_lacks(shapeless, 'f')] == ['f: x', 'f: return']
    assert [o.split(': ')[0] for o in docs.class_lacks(Loud, 'Loud')] == ['Loud.__init__', 'Loud.run', 'Loud.run']

@pytest.mark.parametrize('heading,anchor', [('Recommendations','recommendations'), ('From the command line','from-the-command-line'), ('What a p-value says','what-a-p-value-says'),
                                            ('`cnn_ae`, and why','cnn_ae-and-why'), ('2. See [this](x.ipynb)','see-this')])
def test_slug(docs, heading, anchor): assert docs.slug(heading)==anchor

@pytest.fixture
def copy(docs, tmp_path, monkeypatch):
    "A small project of two pages, in place of this one."
    import nbformat as nf
    (tmp_path/'nbs'/'a').mkdir(parents=True)
    def write(name, *texts): nf.write(nf.v4.new_notebook(cells=[nf.v4.new_markdown_cell(o) for o in texts]), tmp_path/'nbs'/name)
    write('index.ipynb', '# Home', '## Here\n\n[a page](a/page.ipynb), [its part](a/page.ipynb#a-part), [here](#here), `[no](link.ipynb)`')
    write('a/page.ipynb', '# Page', '## A part\n\n[home](../index.ipynb)')
    for o in ('README.md','CONTRIBUTING.md'): (tmp_path/o).write_text('# Home\n\n[there](nbs/index.ipynb#here), [home](#home)')
    (tmp_path/'nbs'/'sidebar.yml').write_text('website: {sidebar: {contents: [index.ipynb, {section: A, contents: [a/page.ipynb]}]}}')
    monkeypatch.setattr(docs, 'root', tmp_path)
    monkeypatch.setattr(docs, 'nbs', tmp_path/'nbs')
    return tmp_path, write

def test_dead_links_are_found(docs, copy):
    d,write = copy
    assert docs.broken_links()==[] and docs.sidebar_gaps()==[]
    write('a/page.ipynb', f'[gone](gone.ipynb), [a title](../index.ipynb#home), [out](../../README.md), [file]({docs.repo}/blob/main/nothing.md), [far](https://quarto.org)')
    assert [o.split(': ')[1].split('#')[0].split(' ')[0] for o in docs.broken_links() if 'page.ipynb: ' in o]==['gone.ipynb', '../index.ipynb', '../../README.md', f'{docs.repo}/blob/main/nothing.md']
    write('b.ipynb', '# B')
    (d/'nbs'/'sidebar.yml').write_text('website: {sidebar: {contents: [index.ipynb, index.ipynb, 20_x.ipynb, 10_y.ipynb]}}')
    assert len(docs.sidebar_gaps())==6

def test_built_sites_are_checked(docs, tmp_path):
    (tmp_path/'site_libs').mkdir()
    head = '<!doctype html><html><head><link rel="stylesheet" href="site_libs/s.css"></head>'
    def page(body): return f'{head}<body>{body}</body></html>'
    (tmp_path/'site_libs'/'s.css').write_text('@font-face{src:url("./f.woff")} @font-face{src:url(data:font/woff;base64,AA)}')
    (tmp_path/'index.html').write_text(page('<h1 id="top">Home</h1><a href="b.html#part">b</a><a href="#top">up</a><a href="https://quarto.org">far</a>'))
    (tmp_path/'b.html').write_text(page('<h2 id="part">B</h2><a href="./">home</a>'))
    assert docs.site_faults(tmp_path)==[]
    (tmp_path/'b.html').write_text(page('<a href="c.html">c</a><a href="index.html#nowhere">n</a><img src="gone.png"><script src="https://cdn.example/x.js"></script>'))
    (tmp_path/'site_libs'/'s.css').write_text('@import"https://fonts.example/css";')
    wrong = docs.site_faults(tmp_path)
    assert len(wrong)==6 and sum('loads' in o for o in wrong)==2      # and index.html links to a part that b.html has no more
    shutil.rmtree(tmp_path/'site_libs')
    assert docs.site_faults(tmp_path/'nothing')==[f"no pages in {tmp_path/'nothing'}"]

def test_tables_bring_no_scripts(docs):
    import nbformat as nf
    out = nf.v4.new_output('display_data', data={'text/html': '<table></table>', 'text/plain': 'a'})
    nb = nf.v4.new_notebook(cells=[nf.v4.new_code_cell('x', outputs=[out])], metadata={'widgets': {}})
    docs.hold_offline(nb)
    assert set(nb.cells[0].outputs[0].data)=={'text/plain','text/markdown'} and '<table>' in nb.cells[0].outputs[0].data['text/markdown'] and 'widgets' not in nb.metadata

def test_names_link_within_the_site(docs):
    "nbdev links names to the site's address on the network, also within links, and to names that have no entry."
    def url(m, n): return f'https://docs.invalid/aead/{m}.html#{n}'
    text = f"[`cnn_ae`]({url('models.cnn_ae','cnn_ae')}), [`_maker`]({url('data.synthetic','_maker')}), [see [`cnn_ae`]({url('models.cnn_ae','cnn_ae')}) and [`csv`]({url('data.catalog','csv')})](../x.ipynb)"
    assert docs.localize(text, 1)=='[`cnn_ae`](../models.cnn_ae.html#cnn_ae), `_maker`, [see `cnn_ae` and `csv`](../x.ipynb)'
