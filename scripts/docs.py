"""Checks and builds the documentation site: `make docs`. With `--check`, only what needs no Quarto; `tests/test_docs.py` runs that as well.

What is checked: each public name says what it is, what it takes and what it gives, with the shape of each tensor; links between pages,
and from them into this repository, lead somewhere; the sidebar has every page; a page loads nothing from the network."""
import ast, importlib, inspect, os, re, shutil, subprocess, sys, textwrap
from configparser import ConfigParser
from dataclasses import is_dataclass
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pages, yaml

root = Path(__file__).resolve().parent.parent
nbs = root/'nbs'

def setting(key):
    "A value of `settings.ini`."
    cfg = ConfigParser(delimiters=['='], interpolation=None)
    cfg.read(root/'settings.ini', encoding='utf-8')
    return cfg['DEFAULT'].get(key, '').strip()

repo = setting('git_url') # address of the repository; empty until it is known
site_url = os.environ.get('SITE_URL', '') # where the site will be published; empty for a copy on disk

def notebooks():
    "The pages' sources; scratch begins with an underscore."
    return sorted(o for o in nbs.rglob('*.ipynb') if not any(p.startswith(('_','.')) for p in o.relative_to(nbs).parts))

def read(nb):
    import nbformat
    return nbformat.read(nb, 4)

@cache
def module_name(nb):
    "The module that a notebook exports, such as `models.cnn_ae`, or None; `all` has no names of its own."
    first = read(nb).cells[0].source
    name = first.split()[-1] if first.startswith('#| default_exp') else None
    return None if name=='all' else name

def own_names(name):
    "A module, and its public names with what they stand for."
    m = importlib.import_module(f'aead.{name}')
    return m, {n: getattr(m, n) for n in getattr(m, '__all__', [])}

def is_tuple(o): return inspect.isclass(o) and hasattr(o, '_fields')
def is_own(o, m): return (inspect.isfunction(o) or inspect.isclass(o)) and o.__module__==m.__name__

# --- names

def get_function(o):
    "The function behind a method or a property, or None."
    if isinstance(o, (staticmethod,classmethod)): o = o.__func__
    if isinstance(o, property): o = o.fget
    return o if inspect.isfunction(o) else None

def returns(f):
    "Whether `f` gives something back: it yields, or returns something else than None, outside of the functions within it."
    tree = ast.parse(textwrap.dedent(inspect.getsource(f)))
    inner = {id(n) for o in [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)][1:] for n in ast.walk(o)}
    def gives(n):
        if isinstance(n, (ast.Yield,ast.YieldFrom)): return True
        return isinstance(n, ast.Return) and n.value is not None and getattr(n.value, 'value', n.value) is not None
    return any(gives(n) for n in ast.walk(tree) if id(n) not in inner)

def said_last(f):
    "The comment at the end of a signature, which says what comes back where no type does."
    found = re.search(r'^\s*def .*?(?:\)|\]|\w)\s*:\s*#\s*([^\n]+)$', inspect.getsource(f).split('"')[0], re.S|re.M)
    return found[1] if found else ''

shape = re.compile(r'`[^`]*`|\bscalar|\bshape|\btensors? by name')

def function_lacks(f, name, above=()):
    "What is missing about a function or a dataclass; `above` are the same method of the classes above, which may have said it."
    from fastcore.docments import docments
    def docs(o): return docments(o, full=True, returns=True)
    plain,above = inspect.isfunction(f),[docs(o) for o in above]
    last,source = (said_last(f), inspect.getsource(f)) if plain else ('','')
    for k,v in docs(f).items():
        if k in ('self','cls'): continue
        said = v['docment'] or next((o[k]['docment'] for o in above if k in o and o[k]['docment']), None)
        if not said and (k=='return' or '->' in last): said = last                                   # `b n d -> b n d` says both
        if not said and k=='return': said = (inspect.getdoc(f) or '').startswith('Yields')
        if not said and re.search(rf'\*\*{k}\s*#\s*\S', source): continue                            # docments does not look there
        if not said and k in getattr(f, '__settings__', ()): continue                                # its docstring lists them
        if not said and k=='return' and (not plain or f.__name__=='__init__' or not returns(f)): continue
        if not said: yield f"{name}: {'what it returns' if k=='return' else f'argument {k}'} is not documented"
        elif re.search(r'\b(Tensor|ndarray)\b', str(v['anno'])) and not shape.search(str(said)):
            yield f'{name}: {k} is a tensor or an array, and its shape is not given: {said}'

def class_lacks(cls, name):
    "What is missing about a class and its public methods. What fastai calls at an event, and `forward`, need no sentence of their own."
    if not cls.__dict__.get('__doc__'): yield f'{name}: no docstring'
    if is_dataclass(cls): yield from function_lacks(cls, name)
    for k,o in list(vars(cls).items()):
        f = get_function(o)
        if f is None or (k[0]=='_' and k!='__init__') or (k=='__init__' and is_dataclass(cls)): continue
        above = [g for b in cls.__mro__[1:] if b.__module__.startswith('aead') and (g := get_function(vars(b).get(k)))]
        silent = k in ('__init__','forward') or k.startswith(('before_','after_'))
        if not silent and not any(map(inspect.getdoc, [f, *above])): yield f'{name}.{k}: no docstring'
        yield from function_lacks(f, f'{name}.{k}', above)

def value_lacks(m, nb, n):
    "A public value has a comment where it is made, or is named on its page."
    lines = inspect.getsource(m).splitlines()
    made = [i for i,line in enumerate(lines) if re.match(rf'(\S*,)?{n}\b.*=', line)]
    spoken = any('#' in lines[i] or re.match(r'#(?! %%)', lines[i-1]) for i in made)
    if not spoken and f'`{n}' not in '\n'.join(markdown(nb)): yield f'{m.__name__}.{n}: neither a comment where it is made nor a word about it on its page'

def undocumented():
    "One line for each thing that is missing about a public name."
    out = []
    for nb,name in ((o, n) for o in notebooks() if (n := module_name(o))):
        m,names = own_names(name)
        for n,o in names.items():
            at = f'{m.__name__}.{n}'
            if is_tuple(o): out += [] if o.__doc__ else [f'{at}: no docstring']
            elif inspect.isclass(o) and is_own(o, m): out += class_lacks(o, at)
            elif inspect.isfunction(o): out += [*([] if inspect.getdoc(o) else [f'{at}: no docstring']), *function_lacks(o, at)]
            elif not callable(o): out += value_lacks(m, nb, n)
    return out

# --- links

def markdown(file):
    "The texts of a notebook or a Markdown file."
    if file.suffix!='.ipynb': return [file.read_text(encoding='utf-8')]
    return [c.source for c in read(file).cells if c.cell_type=='markdown']

def without_fences(text): return re.sub(r'```.*?```', '', text, flags=re.S)

def slug(heading):
    "The anchor that Pandoc gives a heading."
    s = re.sub(r'!?\[([^\]]*)\]\([^)]*\)', r'\1', heading)
    s = re.sub(r'[^\w\s.-]', '', re.sub(r'[`*]', '', s)).strip().lower()
    return re.sub(r'^[^a-z]+', '', re.sub(r'\s+', '-', s))

def anchors(file):
    "Anchors of a notebook's page (its title has none, its public names have) or of a Markdown file."
    level = '##+' if file.suffix=='.ipynb' else '#+'
    heads = {slug(h) for t in markdown(file) for h in re.findall(rf'^{level} +(.+?)(?: *\{{.*\}})?$', without_fences(t), re.M)}
    name = module_name(file) if file.suffix=='.ipynb' else None
    return heads | ({n.lower() for n in wanted_entries(name)} if name else set())

def link_fault(f, link):
    "What is wrong with a link in file `f`, or None. Links to the network are not followed, but for those to this repository."
    if repo and (here := re.match(rf'{repo}/(?:blob|tree)/main/([^#]+)', link)): return None if (root/here[1]).exists() else 'no such file'
    if re.match(r'[a-z]+:', link): return None
    path,_,anchor = link.partition('#')
    to = (f.parent/unquote(path)).resolve() if path else f
    if not to.exists(): return 'no such file'
    if anchor and to.suffix in ('.ipynb','.md') and anchor not in anchors(to): return 'no such heading'
    if nbs in f.parents and nbs not in to.parents: return f'not part of the site; link to {repo}/blob/main/…' if repo else 'not part of the site'

def broken_links():
    "One line for each dead link of a notebook, README or CONTRIBUTING."
    out = []
    for f in [*notebooks(), root/'README.md', root/'CONTRIBUTING.md']:
        text = re.sub(r'`[^`\n]*`', '', without_fences('\n'.join(markdown(f))))
        links = re.findall(r'\]\(([^)\s]+)\)', text)
        out += [f'{f.relative_to(root).as_posix()}: {o} ({fault})' for o in links if (fault := link_fault(f, o))]
    return out

def sidebar():
    "The pages in the order of the sidebar."
    def walk(o):
        if isinstance(o, str): return [o]
        parts = o if isinstance(o, list) else [v for k,v in o.items() if k in ('href','contents')]
        return [p for x in parts for p in walk(x)]
    return walk(yaml.safe_load((nbs/'sidebar.yml').read_text())['website']['sidebar']['contents'])

def sidebar_gaps():
    "What the sidebar leaves out, has twice, or has that there is not; and stages out of order."
    there,listed = [o.relative_to(nbs).as_posix() for o in notebooks()],sidebar()
    stages = [o for o in listed if re.match(r'\d', o)]
    return [f'nbs/sidebar.yml {o}' for o in (
        *(f'lacks {o}' for o in there if o not in listed), *(f'has {o}, which is not there' for o in listed if o not in there),
        *(f'has {o} more than once' for o in sorted(set(listed)) if listed.count(o)>1),
        *(() if stages==sorted(stages) else ['does not have the stages in their order']))]

# --- pages

def hold_offline(nb):
    "Tables as raw blocks: at the sight of `text/html`, or of widgets, Quarto gives a page scripts from the network."
    nb.metadata.pop('widgets', None)
    for o in (o for c in nb.cells for o in c.get('outputs', []) if 'data' in o):
        html = o['data'].pop('text/html', None)
        if html and 'text/markdown' not in o['data']: o['data']['text/markdown'] = f"```{{=html}}\n{''.join(html)}\n```"

def localize(text, depth):
    """The links that nbdev made of names in backticks: within the site; none within another link, nor where the name has no entry.
    `depth` is that of the page's folder."""
    from nbdev.config import get_config
    site,found,mark = re.escape(get_config().doc_host+get_config().doc_baseurl),[],re.compile('\0(\\d+)\0')
    def local(m): return f"[`{m[1]}`]({'../'*depth}{m[2]}.html#{m[3]})" if m[3] in {o.lower() for o in wanted_entries(m[2])} else f'`{m[1]}`'
    if not repo: text = re.sub(r'\[source\]\([^)]*\)(\{[^}]*\})?', '', text)         # nbdev links every name to its source
    text = re.sub(rf'\[`([^`\n]+)`\]\({site}/([\w.]+)\.html#([\w.]+)\)', lambda m: found.append(m) or f'\0{len(found)-1}\0', text)
    text = re.sub(r'\[[^\[\]\n]*\]\(', lambda outer: mark.sub(lambda i: f'`{found[int(i[1])][1]}`', outer[0]), text)
    return mark.sub(lambda i: local(found[int(i[1])]), text)

def method_entries():
    "A processor: entries for the methods that a class defines in its body and describes. nbdev makes them for patched ones only."
    from execnb.nbio import mk_cell
    from nbdev.process import Processor
    def described(f): return isinstance(f, ast.FunctionDef) and f.name[0]!='_' and ast.get_docstring(f) and 'property' not in map(ast.unparse, f.decorator_list)
    class methods(Processor):
        def begin(self):
            cells = self.nb.cells
            classes = {n.name: n for c in cells if c.cell_type=='code' for n in c.parsed_() or () if isinstance(n, ast.ClassDef)}
            shown = entries(cells)
            for i in reversed(range(len(cells))):
                name = re.fullmatch(r'show_doc\((\w+)\)', cells[i].source)
                if not name or name[1] not in classes: continue
                new = [f'{name[1]}.{f.name}' for f in classes[name[1]].body if described(f)]
                cells[i+1:i+1] = [mk_cell(f'show_doc({o})') for o in new if o not in shown]
    return methods

def entries(cells): return set(re.findall(r'^show_doc\(([\w.]+)', '\n'.join(c.source for c in cells), re.M))

def metric_labels():
    "Names of the metrics for people."
    from aead.metrics import METRICS
    return {k: m.label for k,m in METRICS.items()}

def process(dest, run=True):
    "Writes the notebooks to `dest` as Quarto gets them; `run` makes the signatures of all public names, which takes some twenty seconds."
    import traitlets.traitlets, typing_extensions
    from execnb.nbio import read_nb, write_nb
    from nbdev.process import NBProcessor
    from nbdev.processors import FilterDefaults, add_show_docs, exec_show_docs
    traitlets.traitlets.Self = typing_extensions.Self              # only type checkers know it there, and signatures of Python 3.11.2 ask for it
    procs = [o for o in FilterDefaults().procs() if run or o is not exec_show_docs]
    after = procs.index(add_show_docs)+1
    procs[after:after] = [pages.entry_order(), method_entries()]
    was,flag = os.getcwd(),os.environ.get('IN_TEST')
    os.chdir(root)
    os.environ['IN_TEST'] = '1'
    try:
        for f in notebooks():
            nb = read_nb(f)
            pages.join_alternatives(nb)
            NBProcessor(nb=nb, procs=procs).process()
            hold_offline(nb)
            pages.fold_tests(nb, tutorial=f.parent.name=='tutorials')
            pages.tidy_tables(nb)
            if f.parent.name=='benchmarks': pages.plain_headings(nb, metric_labels())
            pages.size_pictures(nb)
            depth = len(f.relative_to(nbs).parts)-1
            for c in nb.cells:
                if c.cell_type=='markdown': c.source = localize(c.source, depth)
                for d in (o['data'] for o in c.get('outputs', []) if 'text/markdown' in o.get('data', {})):
                    d['text/markdown'] = pages.plain_signature(localize(''.join(d['text/markdown']), depth))
            to = Path(dest)/f.relative_to(nbs)
            to.parent.mkdir(parents=True, exist_ok=True)
            write_nb(nb, to)
    finally:
        os.chdir(was)
        os.environ.pop('IN_TEST')
        if flag is not None: os.environ['IN_TEST'] = flag
    return Path(dest)

@cache
def wanted_entries(name):
    "Public functions and classes of a module, and the methods that they describe."
    m,names = own_names(name)
    own = {n: o for n,o in names.items() if is_own(o, m) and not is_tuple(o)}
    def described(k, f): return k[0]!='_' and inspect.isfunction(f) and f.__doc__ and f.__module__==m.__name__
    return [*own, *(f'{n}.{k}' for n,c in own.items() if inspect.isclass(c) for k,f in vars(c).items() if described(k, f) and f.__qualname__==f'{n}.{k}')]

def has_script(data):
    "Whether an output would run a script in a page: not one that only speaks of it, in code."
    text = re.sub(r'^```python\n.*?^```|`[^`\n]*`', '', ''.join(data.get('text/markdown', '')), flags=re.S|re.M)
    return '<script' in text or any('<script' in ''.join(data.get(k, '')) for k in ('text/html','image/svg+xml'))

def output_faults(data):
    "What an output holds that a page without network cannot show."
    kinds = {'text/plain','text/markdown','image/png','image/jpeg','image/svg+xml'}
    return [*sorted(set(data)-kinds), *(['a script'] if has_script(data) else [])]

def page_faults(dest):
    """Public names without an entry on the page of their module, texts of a notebook that its page lacks, links and types of None in signatures,
    and outputs that would load something from the network."""
    out = []
    for f in notebooks():
        page,name = read(Path(dest)/f.relative_to(nbs)),module_name(f)
        if name: out += [f'aead.{name}.{n} has no entry on the page of {f.name}' for n in wanted_entries(name) if n not in entries(page.cells)]
        out += [f'{f.name}: not on its page: {o}' for o in pages.lost_texts(read(f), page)]
        for d in (o.get('data', {}) for c in page.cells for o in c.get('outputs', [])):
            if odd := output_faults(d): out.append(f"{f.name}: an output with {', '.join(odd)}, which does not hold without network")
            text = ''.join(d.get('text/markdown', ''))
            if pages.plain_signature(text)!=text: out.append(f'{f.name}: a signature with links or a type of None: {text.split("###")[-1][:40].strip()}')
    return out

def silent_pictures():
    "The cells that show a picture without a text alternative."
    found = [(f, c) for f in notebooks() for c in read(f).cells if pages.lacks_alternative(c)]
    linked = [(f, o) for f in notebooks() for o in re.findall(r'!\[\s*\]\(([^)]*)\)', '\n'.join(markdown(f)))]
    return [*(f'{f.name}: cell {c.id} has a picture, and no fig-alt' for f,c in found), *(f'{f.name}: {o} has no words' for f,o in linked)]

class Page(HTMLParser):
    "Anchors, links, and what a page loads."
    def __init__(self, text):
        super().__init__()
        self.ids,self.links,self.loads = set(),[],[]
        self.feed(text)
    def handle_starttag(self, tag, attrs):
        a = {k: v for k,v in attrs if v}
        self.ids |= {a[k] for k in ('id','name') if k in a}
        if tag=='a' and 'href' in a: self.links.append(a['href'])
        if tag in ('script','img','iframe','source','video','audio') and 'src' in a: self.loads.append(a['src'])
        if tag=='link' and 'href' in a and set(a.get('rel', '').split()) & {'stylesheet','icon','preload','modulepreload'}: self.loads.append(a['href'])

def is_far(url): return re.match(r'(https?:)?//', url) is not None

def url_fault(site, pages, p, url):
    "What is wrong with a local address on page `p`, or None. Addresses that begin with a slash count from where the site is published."
    u = urlsplit(url)
    if u.scheme or u.netloc: return None
    path = u.path.removeprefix(urlsplit(site_url).path.rstrip('/')) if u.path.startswith('/') else u.path
    to = ((site if path.startswith('/') else p.parent)/unquote(path).lstrip('/')).resolve() if path else p
    to = to/'index.html' if to.is_dir() else to
    if not to.exists(): return 'no such file'
    if u.fragment and to in pages and unquote(u.fragment) not in pages[to].ids: return 'no such anchor'

def site_faults(site):
    "One line for each dead link or anchor of a built site, and for each thing that it would load from the network."
    site = Path(site).resolve()
    pages = {p: Page(p.read_text(encoding='utf-8')) for p in sorted(site.rglob('*.html')) if 'site_libs' not in p.parts}
    if not pages: return [f'no pages in {site}']
    out,far = [],r'''(?:@import\s*(?:url\()?|url\()\s*["']?((?:https?:)?//[^"')\s]+)'''
    for p,page in pages.items():
        at = p.relative_to(site).as_posix()
        out += [f'{at} loads {o}' for o in page.loads if is_far(o)]
        out += [f'{at}: {o} ({fault})' for o in (*page.links, *page.loads) if (fault := url_fault(site, pages, p, o))]
    for c in site.rglob('*.css'): out += [f'{c.relative_to(site).as_posix()} loads {o}' for o in re.findall(far, c.read_text(encoding='utf-8', errors='replace'))]
    return sorted(set(out))

# --- all together

def check():
    "All that needs no Quarto, but for the pages."
    return [*undocumented(), *broken_links(), *sidebar_gaps()]

def drop_addresses(file):
    "Takes the address that nbdev knows of the site, and that of the repository while it is not known, out of Quarto's settings."
    lines = file.read_text(encoding='utf-8').splitlines()
    keep = [o for o in lines if 'site-url' not in o and (repo or 'repo-' not in o)]
    if site_url: keep = [line for o in keep for line in ([o, f'  site-url: "{site_url}"'] if o.startswith('website:') else [o])]
    file.write_text('\n'.join(keep)+'\n', encoding='utf-8')

def build():
    "Makes `_docs` and returns its faults. `nbdev_docs` would do much the same, but also write README.md in its own way."
    from nbdev.quarto import refresh_quarto_yml
    proc = root/'_proc'
    shutil.rmtree(proc, ignore_errors=True)
    os.chdir(root)
    refresh_quarto_yml()                                # writes nbs/nbdev.yml from settings.ini
    drop_addresses(nbs/'nbdev.yml')
    shutil.copytree(nbs, proc, ignore=shutil.ignore_patterns('*.ipynb', '.*', '__pycache__'))
    process(proc)
    if faults := page_faults(proc): return faults
    subprocess.run(['quarto','render','--no-cache'], cwd=proc, check=True)
    shutil.rmtree(root/'_docs', ignore_errors=True)
    shutil.move(proc/'_docs', root/'_docs')
    return site_faults(root/'_docs')

def main(args):
    "Exit status: 1, and a line for each fault, if there is one; 2 without Quarto."
    faults = check()
    if not faults and '--check' not in args:
        if not shutil.which('quarto'):
            print('the sources are in order, but the site needs Quarto: install it from https://quarto.org and run this again')
            return 2
        faults = build()
    print('\n'.join(faults) or 'nothing is undocumented, no link is dead')
    return int(bool(faults))

if __name__=='__main__':
    sys.path.insert(0, str(root))
    sys.exit(main(sys.argv[1:]))
