"Checks and builds the documentation site: `make docs`. With `--check`, only what needs no Quarto; `tests/test_docs.py` runs that as well."
import ast, importlib, inspect, os, re, shutil, subprocess, sys, textwrap
from dataclasses import is_dataclass
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import yaml

root = Path(__file__).resolve().parent.parent
nbs = root/'nbs'
repo = 'https://github.com/aead/aead'

def _visible(p): return not any(o.startswith(('_','.')) for o in p.relative_to(nbs).parts)
def notebooks(): return sorted(o for o in nbs.rglob('*.ipynb') if _visible(o))
def _read(nb):
    import nbformat
    return nbformat.read(nb, 4)
def _module(nb):
    "The module that a notebook exports, or None."
    first = _read(nb).cells[0].source
    return first.split()[-1] if first.startswith('#| default_exp') else None

# --- names

# Modules that are being rewritten; what they lack is passed over until they are merged. To be emptied then.
later = ('aead.models.head.','aead.scoring.pools','aead.curves.','aead.report.','aead.protocol.','aead.dashboard.','aead.visualization.','aead.data.defects.')

def _plain(o):
    "The function behind a method, a property or a command."
    if isinstance(o, (staticmethod,classmethod)): o = o.__func__
    if isinstance(o, property): o = o.fget
    return o if inspect.isfunction(o) else None

def _returns(f):
    "Whether `f` gives something back."
    tree = ast.parse(textwrap.dedent(inspect.getsource(f)))
    own = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)]
    inner = {id(n) for o in own[1:] for n in ast.walk(o)}
    return any(isinstance(n, (ast.Yield,ast.YieldFrom)) or isinstance(n, ast.Return) and n.value is not None and not (isinstance(n.value, ast.Constant) and n.value.value is None)
               for n in ast.walk(tree) if id(n) not in inner)

def _last_words(f):
    "The comment at the end of a signature, which says what comes back where no type does."
    src = re.search(r"^\s*(?:async )?def .*?(?:\)|\]|\w)\s*:\s*#\s*([^\n]+)$", inspect.getsource(f).split('"')[0], re.S|re.M)
    return src[1] if src else None

_shape = re.compile(r'`[^`]*`|\bscalar|\bshape|\btensors? by name')

def _lacks(f, name, bases=()):
    "What is missing about one function; `bases` are the same method of the classes above, which may have said it."
    from fastcore.docments import docments
    above,last = [docments(o, full=True, returns=True) for o in bases],_last_words(f) if inspect.isfunction(f) else None
    src = inspect.getsource(f) if inspect.isfunction(f) else ''
    for k,v in docments(f, full=True, returns=True).items():
        said = v['docment'] or next((o[k]['docment'] for o in above if k in o and o[k]['docment']), None)
        said = said or (last if k=='return' or '->' in (last or '') else None)                 # `b n d -> b n d` says both
        said = said or (k=='return' and (inspect.getdoc(f) or '').startswith('Yields')) or re.search(rf'\*\*{k}\s*#\s*\S', src)     # docments does not look at `**kwargs`
        tensor = re.search(r'\b(Tensor|ndarray)\b', str(v['anno'])) is not None
        if k in ('self','cls'): continue
        if k=='return' and not said and (inspect.isclass(f) or f.__name__=='__init__' or not _returns(f)): continue
        if not said: yield f'{name}: {"what it returns" if k=="return" else f"argument {k}"} is not documented'
        elif tensor and not _shape.search(str(said)): yield f'{name}: {k} is a tensor or an array, and its shape is not given: {said}'

def _class_lacks(cls, name):
    "What is missing about a class and its public methods. What fastai calls at an event, and `forward`, need no sentence of their own."
    if not cls.__dict__.get('__doc__'): yield f'{name}: no docstring'
    if is_dataclass(cls): yield from _lacks(cls, name)
    for k,o in list(vars(cls).items()):
        f = _plain(o)
        if f is None or (k.startswith('_') and k!='__init__') or (is_dataclass(cls) and k=='__init__'): continue
        bases = [g for b in cls.__mro__[1:] if b.__module__.startswith('aead') and (g := _plain(vars(b).get(k)))]
        spoken = inspect.getdoc(f) or any(map(inspect.getdoc, bases)) or k in ('__init__','forward') or k.startswith(('before_','after_'))
        if not spoken: yield f'{name}.{k}: no docstring'
        yield from _lacks(f, f'{name}.{k}', bases)

def _value_lacks(m, nb, n):
    "A public value has a comment where it is made, or is named on its page."
    lines = inspect.getsource(m).splitlines()
    made = [o for i,l in enumerate(lines) if re.match(rf'(\S*,)?{n}\b.*=', l) for o in (l, lines[i-1] if lines[i-1].startswith('#') and '%%' not in lines[i-1] else '')]
    page = '\n'.join(c.source for c in _read(nb).cells if c.cell_type=='markdown')
    if not any('#' in l for l in made) and f'`{n}' not in page: yield f'{m.__name__}.{n}: neither a comment where it is made nor a word about it on its page'

def undocumented():
    "One line for each thing that is missing about a public name."
    out = []
    for nb in notebooks():
        if (name := _module(nb)) in (None,'all'): continue
        m = importlib.import_module(f'aead.{name}')
        for n in getattr(m, '__all__', []):
            o = getattr(m, n)
            if inspect.isclass(o) and o.__module__==m.__name__: out += [] if hasattr(o, '_fields') and o.__doc__ else _class_lacks(o, f'{m.__name__}.{n}')
            elif inspect.isfunction(o): out += ([] if inspect.getdoc(o) else [f'{m.__name__}.{n}: no docstring']) + list(_lacks(o, f'{m.__name__}.{n}'))
            elif not callable(o): out += _value_lacks(m, nb, n)
    return [o for o in out if not o.startswith(later)]

# --- links

def slug(heading):
    "The anchor that Pandoc gives a heading."
    s = re.sub(r'!?\[([^\]]*)\]\([^)]*\)', r'\1', heading)
    s = re.sub(r'[^\w\s.-]', '', re.sub(r'[`*]', '', s)).strip().lower()
    return re.sub(r'^[^a-z]+', '', re.sub(r'\s+', '-', s))

def _markdown(file): return [c.source for c in _read(file).cells if c.cell_type=='markdown'] if file.suffix=='.ipynb' else [file.read_text(encoding='utf-8')]
def _prose(text): return re.sub(r'`[^`\n]*`', '', re.sub(r'```.*?```', '', text, flags=re.S))
def anchors(file):
    "Anchors of a notebook's page (its title has none, its public names have) or of a Markdown file."
    level = '##+' if file.suffix=='.ipynb' else '#+'
    heads = [slug(h) for t in _markdown(file) for h in re.findall(rf'^{level} +(.+?)(?: *\{{.*\}})?$', re.sub(r'```.*?```', '', t, flags=re.S), re.M)]
    m = _module(file) if file.suffix=='.ipynb' else None
    return {*heads, *(n.lower() for n in (getattr(importlib.import_module(f'aead.{m}'), '__all__', []) if m else []))}

def broken_links():
    "One line for each link of a notebook, README or CONTRIBUTING to a file or an anchor that there is not. Links to the network are not followed, but for those to this repository."
    out = []
    for f in [*notebooks(), root/'README.md', root/'CONTRIBUTING.md']:
        for link in re.findall(r'\]\(([^)\s]+)\)', '\n'.join(map(_prose, _markdown(f)))):
            where = f'{f.relative_to(root).as_posix()}: {link}'
            if m := re.match(rf'{repo}/(?:blob|tree)/main/([^#]+)', link):
                if not (root/m[1]).exists(): out.append(where)
            if re.match(r'[a-z]+:', link): continue
            path,_,anchor = link.partition('#')
            to = (f.parent/unquote(path)).resolve() if path else f
            if not to.exists(): out.append(where)
            elif anchor and to.suffix in ('.ipynb','.md') and anchor not in anchors(to): out.append(f'{where} (no such heading)')
            elif nbs in f.parents and nbs not in to.parents: out.append(f'{where} (not part of the site; link to {repo}/blob/main/…)')
    return out

def sidebar():
    "The pages in the order of the sidebar."
    def walk(o):
        if isinstance(o, str): yield o
        elif isinstance(o, list): yield from (p for x in o for p in walk(x))
        else: yield from walk([v for k,v in o.items() if k in ('href','contents')])
    return list(walk(yaml.safe_load((nbs/'sidebar.yml').read_text())['website']['sidebar']['contents']))

def sidebar_gaps():
    "What the sidebar leaves out, has twice, or has that there is not; and stages out of order."
    there,listed = [o.relative_to(nbs).as_posix() for o in notebooks()],sidebar()
    stages = [o for o in listed if re.match(r'\d', o)]
    return ([f'{o} is not in nbs/sidebar.yml' for o in there if o not in listed] + [f'nbs/sidebar.yml has {o}, which is not there' for o in listed if o not in there] +
            [f'nbs/sidebar.yml has {o} more than once' for o in sorted(set(listed)) if listed.count(o)>1] + ([] if stages==sorted(stages) else ['nbs/sidebar.yml does not have the stages in their order']))

# --- pages

def hold_offline(nb):
    "Tables as raw blocks: at the sight of `text/html` Quarto gives the page scripts from the network, and so it does for widgets."
    nb.metadata.pop('widgets', None)
    for o in (o for c in nb.cells for o in c.get('outputs', []) if 'data' in o):
        html = o['data'].pop('text/html', None)
        if html and 'text/markdown' not in o['data']: o['data']['text/markdown'] = f"```{{=html}}\n{''.join(html)}\n```"

def _methods():
    "A processor that gives each public method with a docstring, defined in the body of a class, an entry after the class's own; nbdev does so for patched ones only."
    from nbdev.process import Processor
    from execnb.nbio import mk_cell
    class methods(Processor):
        def begin(self):
            cells = self.nb.cells
            shown = set(re.findall(r'^show_doc\(([\w.]+)', '\n'.join(c.source for c in cells), re.M))
            classes = {n.name: n for c in cells if c.cell_type=='code' for n in c.parsed_() or () if isinstance(n, ast.ClassDef)}
            for i in reversed(range(len(cells))):
                name = re.fullmatch(r'show_doc\((\w+)\)', cells[i].source)
                if not name or name[1] not in classes: continue
                own = [f for f in classes[name[1]].body if isinstance(f, ast.FunctionDef) and f.name[0]!='_' and ast.get_docstring(f) and not any('property' in ast.dump(d) for d in f.decorator_list)]
                cells[i+1:i+1] = [mk_cell(f'show_doc({name[1]}.{f.name})') for f in own if f'{name[1]}.{f.name}' not in shown]
    return methods

def process(dest, run=True):
    "Writes the notebooks to `dest` as Quarto gets them; `run` makes the signatures and tables of all public names, which takes some twenty seconds."
    from execnb.nbio import read_nb, write_nb
    from nbdev.process import NBProcessor
    from nbdev.processors import FilterDefaults, add_show_docs, exec_show_docs
    procs = [p for o in FilterDefaults().procs() if run or o is not exec_show_docs for p in ((o, _methods()) if o is add_show_docs else (o,))]
    was,flag = os.getcwd(),os.environ.get('IN_TEST')
    os.chdir(root); os.environ['IN_TEST'] = '1'
    try:
        for f in notebooks():
            nb = read_nb(f)
            NBProcessor(nb=nb, procs=procs).process()
            hold_offline(nb)
            to = Path(dest)/f.relative_to(nbs)
            to.parent.mkdir(parents=True, exist_ok=True); write_nb(nb, to)
    finally:
        os.chdir(was); os.environ.pop('IN_TEST')
        if flag is not None: os.environ['IN_TEST'] = flag
    return Path(dest)

def missing_from_pages(dest):
    "Public functions, classes and methods without an entry on the page of their module, and outputs that would load something from the network."
    out = []
    for f in notebooks():
        page = _read(dest/f.relative_to(nbs))
        shown = set(re.findall(r'^show_doc\(([\w.]+)', '\n'.join(c.source for c in page.cells), re.M))
        if (name := _module(f)) not in (None,'all'):
            m = importlib.import_module(f'aead.{name}')
            own = [n for n in getattr(m, '__all__', []) if (inspect.isfunction(o := getattr(m, n)) or inspect.isclass(o)) and o.__module__==m.__name__ and not hasattr(o, '_fields')]
            own += [f'{n}.{k}' for n in own if inspect.isclass(c := getattr(m, n)) for k,f in vars(c).items()
                    if k[0]!='_' and inspect.isfunction(f) and f.__doc__ and f.__module__==m.__name__ and f.__qualname__==f'{n}.{k}']
            out += [f'aead.{name}.{n} has no entry on the page of {f.name}' for n in own if n not in shown]
        for c in page.cells:
            for o in c.get('outputs', []):
                odd = set(o.get('data', {}))-{'text/plain','text/markdown','image/png','image/jpeg','image/svg+xml'}
                if odd or '<script' in str(o): out.append(f'{f.name}: an output of kind {", ".join(sorted(odd)) or "script"}, which does not hold without network')
    return out

class _Page(HTMLParser):
    "Anchors, links, and what a page loads."
    def __init__(self, text): super().__init__(); self.ids,self.links,self.loads = set(),[],[]; self.feed(text)
    def handle_starttag(self, tag, attrs):
        a = dict(attrs)
        self.ids |= {a[k] for k in ('id','name') if a.get(k)}
        if tag=='a' and a.get('href'): self.links.append(a['href'])
        if tag in ('script','img','iframe','source','video','audio') and a.get('src'): self.loads.append(a['src'])
        if tag=='link' and a.get('href') and set((a.get('rel') or '').split()) & {'stylesheet','icon','preload','modulepreload','shortcut'}: self.loads.append(a['href'])

def _far(url): return re.match(r'(https?:)?//', url) is not None

def broken_site(site):
    "One line for each dead link or anchor of a built site, and for each thing that it would load from the network."
    site,out = Path(site).resolve(),[]
    pages = {p: _Page(p.read_text(encoding='utf-8')) for p in sorted(site.rglob('*.html')) if 'site_libs' not in p.parts}
    if not pages: return [f'no pages in {site}']
    for p,page in pages.items():
        at = p.relative_to(site).as_posix()
        out += [f'{at} loads {o}' for o in page.loads if _far(o)]
        for o in page.links + [o for o in page.loads if not _far(o)]:
            u = urlsplit(o)
            if u.scheme or u.netloc: continue
            to = ((site if u.path.startswith('/') else p.parent)/unquote(u.path).lstrip('/')).resolve() if u.path else p
            to = to/'index.html' if to.is_dir() else to
            if not to.exists(): out.append(f'{at}: {o}')
            elif u.fragment and to in pages and unquote(u.fragment) not in pages[to].ids: out.append(f'{at}: {o} (no such anchor)')
    for c in site.rglob('*.css'):
        out += [f'{c.relative_to(site).as_posix()} loads {o}' for o in re.findall(r'''(?:@import\s*(?:url\()?|url\()\s*["']?((?:https?:)?//[^"')\s]+)''', c.read_text(encoding='utf-8', errors='replace'))]
    return sorted(set(out))

def check():
    "All that needs no Quarto, but for the pages."
    return [*undocumented(), *broken_links(), *sidebar_gaps()]

def build():
    "Makes `_docs`; returns what is wrong with it."
    from nbdev.quarto import refresh_quarto_yml
    proc = root/'_proc'
    shutil.rmtree(proc, ignore_errors=True)
    os.chdir(root); refresh_quarto_yml()                                # writes nbs/nbdev.yml from settings.ini
    shutil.copytree(nbs, proc, ignore=shutil.ignore_patterns('*.ipynb','.*','__pycache__'))
    process(proc)
    if wrong := missing_from_pages(proc): return wrong
    subprocess.run(['quarto','render','--no-cache'], cwd=proc, check=True)
    shutil.rmtree(root/'_docs', ignore_errors=True)
    shutil.move(proc/'_docs', root/'_docs')
    return broken_site(root/'_docs')

def main(args):
    "Exit status: 1, and a line for each fault, if there is one; 2 without Quarto."
    wrong = check()
    if not wrong and '--check' not in args:
        if not shutil.which('quarto'): print('the sources are in order, but the site needs Quarto: install it from https://quarto.org and run this again'); return 2
        wrong = build()
    print('\n'.join(wrong) or 'nothing is undocumented, no link is dead')
    return int(bool(wrong))

if __name__=='__main__':
    sys.path.insert(0, str(root))
    sys.exit(main(sys.argv[1:]))
