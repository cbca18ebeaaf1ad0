"What runs in a process of its own: soaks, which tell their memory and open files now and then, and the embedded images."
import gc, itertools, json, os, resource
from pathlib import Path

def tell():
    "Prints resident memory in MiB and the number of open files."
    gc.collect()
    with open('/proc/self/statm') as f: resident = int(f.read().split()[1])*resource.getpagesize()/2**20
    print(json.dumps({'memory': round(resident, 1), 'files': len(os.listdir('/proc/self/fd'))}), flush=True)

def score(run, folder, out, every):
    "Scores all images of a folder in one go, and tells after every so many."
    import aead.runs.score as score
    plain,done = score.show_progress,itertools.count()
    def watched(batches, n):
        for b in plain(batches, n):
            for _ in b.rows:
                if next(done)%int(every)==0: tell()
            yield b
    score.show_progress = watched
    score.score_images(run, folder, out, device='cpu')
    tell()

def browse(run, n, every):
    "Does what people do with a dashboard, `n` times."
    from aead.dashboard.app import Dashboard
    d = Dashboard([run, str(Path(run).parent/'second')])
    names = list(d.choice.options)
    e = d.open('Explorer')
    for i in range(int(n)):
        if i%int(every)==0: tell()
        rows = len(d.views[names[0]])
        what = i%10
        if what<4: d.state.image = i%rows
        elif what<6: d.state.threshold = float(d.views[names[0]].table.score.quantile((i*7%100)/100))
        elif what==6: e.what.value = e.what.options[i//10%len(e.what.options)]
        elif what==7: e.chart_kind.value = e.chart_kind.options[i//10%len(e.chart_kind.options)]
        elif what==8: e.outcome.value = e.outcome.options[i//10%len(e.outcome.options)]
        else: d.open(d.tabs.titles[i//10%len(d.tabs.titles)])
        if i%100==99: d.choice.value = names[i//100%2]
    tell()

def make_parts(out):
    "Writes a few of the embedded images."
    from aead.data.synthetic import make_synthetic
    make_synthetic(out, 'brick', n_shots=1, n_regions=6)
