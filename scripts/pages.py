"""What becomes of a notebook's cells on their way to the site, beyond what nbdev does. `scripts/docs.py` calls these, on notebooks as nbdev reads them.

- Entries of names that one cell exports stand in the order of the cell.
- Signatures hold no links, and no type of None.
- A cell of tests alone is folded (in a tutorial it is left out). A cell that uses private names is left out, or folded if it has an output.
- A tutorial folds its helper functions, and the code that draws its figures.
- Tables of benchmarks have headings in words.
- A picture has the width at which its labels are as large as the text, and its text alternative in one line, as Quarto reads it."""
import ast, json, re

ENLARGE = 1.6 # labels of 8 points become as large as the text
COLUMN = 860 # width of the text, pixels; as in nbs/_quarto.yml
PIXELS = 3 # the most that one pixel of a small image grows to

def parse(cell):
    "The statements of a code cell, without its directives and magics."
    code = '\n'.join(o for o in cell.source.splitlines() if not o.startswith(('#|','%','!')))
    try: return ast.parse(code).body
    except SyntaxError: return []

def outputs(cell): return cell.get('outputs') or []
def is_code(cell): return cell.cell_type=='code'
def is_entry(cell): return is_code(cell) and re.search(r'^show_doc\(', cell.source, re.M) is not None

def add_option(cell, name, value):
    "Writes an option of Quarto's at the top of a cell, unless the cell has it."
    if not re.search(rf'^#\| *{name}:', cell.source, re.M): cell.source = f'#| {name}: {value}\n{cell.source}'

# --- entries and signatures

def entry_order():
    "A processor: entries in the order in which the cell above defines the names; nbdev writes them from last to first."
    from nbdev.process import Processor
    class order(Processor):
        def begin(self):
            cells,i = self.nb.cells,0
            while i < len(cells):
                stop = i
                while stop < len(cells) and getattr(cells[stop], 'has_sd', False): stop += 1
                cells[i:stop] = cells[i:stop][::-1]
                i = max(stop, i+1)
    return order

def mark_entry(text):
    "The heading of an entry, with a class for the style sheet in place of nbdev's rule above it."
    return re.sub(r'\A---\n+((?:\[source\][^\n]*\n+)?### +\S+)[ \t]*$', r'\1 {.entry}', text, count=1, flags=re.M)

def plain_signature(text):
    "An entry's Markdown: nothing within code is a link, since it would be shown as written; a default of None has no type."
    def plain(block): return re.sub(r'\[(`[^`\n]*`)\]\([^)\n]*\)', r'\1', block[0]).replace(':NoneType=None', '=None')
    return re.sub(r'^```python\n.*?^```', plain, mark_entry(text), flags=re.S|re.M)

# --- tests

def is_test(s):
    "Whether a statement only tests: `test_…(…)`, an assertion, or a block of such."
    if isinstance(s, ast.Assert): return True
    if isinstance(s, (ast.For,ast.With,ast.If)): return all(map(is_test, [*s.body, *getattr(s, 'orelse', [])]))
    if not (isinstance(s, ast.Expr) and isinstance(s.value, ast.Call)): return False
    f = s.value.func
    return getattr(f, 'id', getattr(f, 'attr', '')).startswith('test_')

def private_names(statements):
    "Names with one underscore in front that the statements use or import."
    nodes = [n for s in statements for n in ast.walk(s)]
    names = [getattr(n, 'id', None) or getattr(n, 'attr', None) or getattr(n, 'name', None) for n in nodes]
    return {o for o in names if isinstance(o, str) and re.match(r'_[^_]', o)}

def fold(cell, summary):
    add_option(cell, 'code-summary', json.dumps(summary))
    add_option(cell, 'code-fold', 'true')

def is_helper(s): return isinstance(s, ast.FunctionDef) and not s.decorator_list

def draws(body): return any(isinstance(n, ast.Name) and n.id=='plt' for s in body for n in ast.walk(s))

def summary(cell, tutorial):
    "What a folded cell is called; None: it stays open, and an empty text: it is left out."
    body,shows = parse(cell),bool(outputs(cell))
    if not body or is_entry(cell): return None
    if private_names(body): return 'Code' if shows else ''
    if all(map(is_test, body)) and not shows: return '' if tutorial else 'Tests'
    if tutorial and pictures(cell) and draws(body): return 'Code of the figure'
    if tutorial and all(map(is_helper, body)) and not shows: return 'Helper'

def fold_tests(nb, tutorial=False):
    "Folds or removes the cells that a reader of the site does not look for."
    kept,last = [],None
    for c in nb.cells:
        said = summary(c, tutorial) if is_code(c) else None
        if said=='': continue
        if said=='Tests' and last=='Tests': kept[-1].source += f'\n\n{c.source}'        # one place to open, not two
        else:
            if said: fold(c, said)
            kept.append(c)
        last = said
    nb.cells = kept

# --- tables

HEADINGS = {'low': 'from', 'high': 'to', 'auroc_low': 'from', 'auroc_high': 'to', 'aupro_30': 'AUPRO', 'unseen_auroc': 'AUROC, new against known good parts',
            'worst_class': 'hardest defect', 'median_ms': 'ms an image', 'images_per_second': 'images a second', 'folder_per_second': 'images a second, from files',
            'scoring_mib': 'MiB to score', 'training_mib': 'MiB to train', 'file_mib': 'MiB on disk', 'lr': 'learning rate', 'most': 'most in a run'}

def merge_headings(html):
    "Tables with one row of headings: pandas writes the names of the index into a second one. Rows with spans stay."
    def one(head):
        rows = re.findall(r'<tr[^>]*>(.*?)</tr>', head[0], re.S)
        named = [re.findall(r'<th>(.*?)</th>', o, re.S) for o in rows]
        if len(rows)!=2 or len(named[0])!=len(named[1]) or 'span' in head[0]: return head[0]
        cells = ''.join(f'<th>{low or top}</th>' for top,low in zip(*named))
        return f'<thead><tr>{cells}</tr></thead>'
    return re.sub(r'<thead>.*?</thead>', one, html, flags=re.S)

def tidy_tables(nb):
    "pandas' tables without its style sheet and its second row of headings."
    for d in (o['data'] for c in filter(is_code, nb.cells) for o in outputs(c) if '<table' in ''.join(o.get('data', {}).get('text/markdown', ''))):
        html = re.sub(r'<style scoped>.*?</style>\n?', '', ''.join(d['text/markdown']), flags=re.S)
        d['text/markdown'] = merge_headings(html)

def plain_heading(name, labels):
    "What a column is, in words; `labels` are those of the metrics."
    if name in HEADINGS: return HEADINGS[name]
    if name in labels: return labels[name]
    if m := re.fullmatch(r'auroc_(\w+)', name): return f'AUROC, {m[1]}'
    return name.replace('_', ' ') if re.fullmatch(r'[a-z]+(_[a-z]+)+', name) and name[-3:]!='_ae' else name

def plain_headings(nb, labels):
    "Tables with headings in words. Names of columns belong on the page of a function, results are read by anybody."
    for o in (o for c in filter(is_code, nb.cells) for o in outputs(c)):
        html = ''.join(o.get('data', {}).get('text/markdown', ''))
        if '<table' in html:
            o['data']['text/markdown'] = re.sub(r'<th([^>]*)>([^<]+)</th>', lambda m: f'<th{m[1]}>{plain_heading(m[2], labels)}</th>', html)

# --- pictures

def join_alternatives(nb):
    "`#| fig-alt:` may go on in further lines that begin with `#|` and two blanks; for nbdev and Quarto it is one line, in quotation marks."
    def one(m):
        text = ' '.join(re.sub(r'^#\|', '', o).strip() for o in m[0].splitlines())
        return '#| fig-alt: '+json.dumps(text.partition(':')[2].strip().strip('"'), ensure_ascii=False)
    for c in filter(is_code, nb.cells): c.source = re.sub(r'^#\| *fig-alt:.*(?:\n#\|  .*)*', one, c.source, flags=re.M)

def pictures(cell):
    "Kind and content of each picture that a cell shows; a picture in two kinds counts once."
    found = []
    for o in outputs(cell):
        data = o.get('data', {})
        kinds = [k for k in ('image/svg+xml','image/png','image/jpeg') if k in data]
        if kinds: found.append((kinds[0], o))
    return found

def png_size(data):
    "Width and height of a PNG or JPEG in base64, pixels."
    import base64, io
    from PIL import Image
    return Image.open(io.BytesIO(base64.b64decode(''.join(data)))).size

def set_width(svg):
    "An SVG that is as wide as it should be shown; matplotlib's points are 4/3 of a pixel."
    width,height = (float(re.search(rf'<svg\b[^>]*\b{o}="([\d.]+)pt"', svg)[1])*4/3 for o in ('width','height'))
    wide = min(COLUMN, round(width*ENLARGE))
    head = re.search(r'<svg\b[^>]*>', svg, re.S)[0]
    new = re.sub(r'\bwidth="[\d.]+pt"', f'width="{wide}"', head)
    return svg.replace(head, re.sub(r'\bheight="[\d.]+pt"', f'height="{round(wide*height/width)}"', new), 1)

def size_pictures(nb):
    "Pictures of one kind, as wide as they should be shown."
    for c in filter(is_code, nb.cells):
        for kind,o in pictures(c):
            for other in {'image/png','image/jpeg'}-{kind}: o['data'].pop(other, None)
            if kind=='image/svg+xml':
                svg = ''.join(o['data'][kind])
                if re.search(r'<svg\b[^>]*\bwidth="[\d.]+pt"', svg): o['data'][kind] = set_width(svg)
            elif not o.get('metadata', {}).get(kind):
                w,h = png_size(o['data'][kind])
                wide = min(COLUMN, PIXELS*w) if w < 200 else min(COLUMN, round(ENLARGE*w))
                o['metadata'] = {**o.get('metadata', {}), kind: {'width': wide, 'height': round(h*wide/w)}}

def lacks_alternative(cell):
    "Whether a cell shows a picture and no words for those who do not see it."
    return bool(is_code(cell) and pictures(cell)) and not re.search(r'^#\| *fig-alt: *\S', cell.source, re.M)

# --- what must not get lost

def words(text):
    "A text without what processing may change in it: links, and blanks."
    text = re.sub(r'\[((?:[^\[\]]|\[[^\[\]]*\])*)\]\([^)\n]*\)', r'\1', re.sub(r'\[(`[^`\n]*`)\]\([^)\n]*\)', r'\1', text))
    return ' '.join(text.split())

def lost_texts(source, page):
    "The beginnings of the Markdown cells of a notebook that its page lacks. The title's cell goes into the page's head, title and description alone."
    import yaml
    there = {words(c.source) for c in page.cells if c.cell_type=='markdown'}
    head = next((c.source for c in page.cells if c.cell_type=='raw'), '')
    front = yaml.safe_load(head.strip().strip('-')) or {}
    texts = [c.source for c in source.cells if c.cell_type=='markdown' and c.source.strip()]
    title = next((o for o in texts if o.startswith('# ')), None)
    said = words(f"# {front.get('title', '')} > {front.get('description', '')}") if title and '>' in title else words(f"# {front.get('title', '')}")
    if title and words(title)!=said: yield words(title)[:80]
    yield from (words(o)[:80] for o in texts if o is not title and words(o) not in there)
