"""What scoring costs by each engine: python scripts/scale.py FOLDER writes rows into nbs/benchmarks/scoring_costs.csv.

FOLDER keeps the images and the runs, so that rows can be made later and one by one. Each engine is a process of its own; its
rate is set beside that of the model alone and of decoding alone, which are measured in turns in one process."""
import argparse, json, re, subprocess, sys, tempfile, threading, time, urllib.request
from pathlib import Path

import numpy as np, pandas as pd

root = Path(__file__).resolve().parent.parent
table = root/'nbs'/'benchmarks'/'scoring_costs.csv'
recipes = {'fast': {}, 'default': {'steps': 200}, 'scratch': {'steps': 200}}      # how long they learned does not change the costs
engines = 'local, 2 workers','local, 0 workers','onnxruntime','openvino','served','ray, 2 actors'
size,n_images = 256,160

def make_images(folder):
    "Images to score: JPEG files of the embedded bricks, grey, 384 px."
    from PIL import Image
    from aead.data.synthetic import make_synthetic
    from aead.data.preprocessing import read_image, resize_image
    df = make_synthetic(folder/'data', textures='brick')
    (folder/'images').mkdir(exist_ok=True)
    for i,path in enumerate(np.resize(df.path[df.split=='test'].to_numpy(), n_images)):
        image = resize_image(read_image(path), None, (384,384))[0]
        Image.fromarray((image[...,0]*255).astype('uint8')).save(folder/'images'/f'{i:04d}.jpg', quality=92)
    return df

def make_runs(folder):
    "The runs that score, and their exports; those that are there are kept."
    from aead.export import export_run
    from aead.runs.train import train_run
    from aead.config import make_config
    for recipe,settings in recipes.items():
        run = folder/recipe
        if not (run/'metrics.json').exists():
            train_run(run, make_config(recipe, layout='synthetic', category='brick', size=size, **settings))
        if not (folder/f'{recipe}.onnx').exists(): export_run(run, folder/f'{recipe}.onnx')

def list_files(folder): return pd.DataFrame({'path': sorted(map(str, (folder/'images').iterdir())), 'mask': ''})

def rate(f, n, turns=3):
    "Images a second of `f`, which scores `n`: the median of some turns."
    seconds = []
    for _ in range(turns):
        start = time.perf_counter()
        f()
        seconds.append(time.perf_counter()-start)
    return n/float(np.median(seconds))

def say(**row): print(json.dumps(row), flush=True)

def local(folder, recipe, workers):
    "Detector in this process; the model alone and decoding alone in turns with it."
    from aead.detect import load_detector
    from aead.data.dataset import read_batches
    import torch
    det,df = load_detector(folder/recipe),list_files(folder)
    say(ready=True)
    batches = [(b[0], b[3]) for _,b in read_batches(det.dataset(df[:48]), det.bs)]
    @torch.no_grad()
    def model():
        for x,valid in batches: det.graph(x, valid), det.kind and det.kind.kind(x, valid)
    def decode():
        for _ in read_batches(det.dataset(df), det.bs): pass
    def whole():
        for _ in det.scan(df, workers=workers): pass
    for f in (model, decode): f()
    turns = [(rate(model, 48, 1), rate(decode, len(df), 1), rate(whole, len(df), 1)) for _ in range(3)]
    alone,decoded,rates = np.median(turns, axis=0)
    share = np.median([w/min(m, d) for m,d,w in turns])
    say(rate=rates, model_alone=alone, decoding_alone=decoded, share=share)

def exported(folder, recipe, providers):
    "The ONNX file in this process, without PyTorch."
    from aead.exported import load_exported, run_session
    from aead.data.preprocessing import read_image
    det,df = load_exported(folder/f'{recipe}.onnx', providers=providers),list_files(folder)
    say(ready=True)
    x = np.random.default_rng(0).random((8, det.channels, *det.hw), np.float32)
    valid = np.ones((8, *det.hw), np.float32)
    def model(): run_session(det.session, x, valid, det.outputs, 8)
    def whole():
        for _ in det.scan(df, read_image): pass
    model()
    turns = [(rate(model, 8, 3), rate(whole, len(df), 1)) for _ in range(3)]
    alone,rates = np.median(turns, axis=0)
    say(rate=rates, model_alone=alone, share=np.median([w/m for m,w in turns]))

def served(folder, recipe):
    "The service; this process is its client, with two requests under way."
    from concurrent.futures import ThreadPoolExecutor
    port = 8977
    command = [sys.executable, '-m', 'aead', 'serve', '--run', str(folder/recipe), '--port', str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            while not answers(f'http://127.0.0.1:{port}/health'): time.sleep(.1)
            say(ready=True)
            files = list_files(folder).path.tolist()
            with ThreadPoolExecutor(2) as pool: say(rate=rate(lambda: list(pool.map(lambda o: post(port, o), files)), len(files)))
        finally: server.terminate()

def answers(url):
    try: return urllib.request.urlopen(url, timeout=5).status==200
    except OSError: return False

def post(port, file):
    import httpx
    with open(file, 'rb') as f: r = httpx.post(f'http://127.0.0.1:{port}/score', files={'file': f}, timeout=60)
    r.raise_for_status()

def by_ray(folder, recipe):
    "A cluster of two actors on this machine: the time of a short run is taken from that of a long one, after a first one."
    from aead.cluster import connect_ray, score_dataset
    with connect_ray(None), tempfile.TemporaryDirectory() as out:
        say(ready=True)
        def seconds(n, name):
            lists = Path(out)/f'{name}.txt'
            lists.write_text('\n'.join(np.resize(list_files(folder).path, n)))
            start = time.perf_counter()
            score_dataset(folder/recipe, lists, Path(out)/name, address='auto', actors=2, part=20)
            return time.perf_counter()-start
        seconds(40, 'first')
        few,more = seconds(40, 'few'),seconds(1640, 'more')
    each = (more-few)/1600
    say(rate=1/each, start_of_actors=few-40*each)

def child(folder, recipe, engine):
    if engine.startswith('local'): local(folder, recipe, int(engine.split()[1]))
    elif engine=='served': served(folder, recipe)
    elif engine.startswith('ray'): by_ray(folder, recipe)
    else: exported(folder, recipe, 'cpu' if engine=='onnxruntime' else engine)

def family_memory(pid):
    "MiB of a process and of those that it started; pages that several of them share count once."
    parents = {}
    for p in Path('/proc').glob('[0-9]*'):
        try: parents[int(p.name)] = int((p/'stat').read_text().rsplit(')')[1].split()[1])
        except (OSError, IndexError): pass
    mine = {pid}
    for _ in range(6): mine |= {p for p,o in parents.items() if o in mine}
    total = 0
    for p in mine:
        try: total += int(re.search(r'^Pss: +(\d+)', (Path('/proc')/str(p)/'smaps_rollup').read_text(), re.M)[1])
        except (OSError, TypeError): pass
    return total/1024

def measure(folder, recipe, engine):
    "A row of the table."
    command = [sys.executable, __file__, str(folder), '--child', recipe, engine]
    start,row,peak,done = time.perf_counter(),{},0,threading.Event()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) as p:
        def watch():
            nonlocal peak
            while not done.wait(.2): peak = max(peak, family_memory(p.pid))
        threading.Thread(target=watch, daemon=True).start()
        for line in p.stdout:
            if not line.startswith('{'): continue
            found = json.loads(line)
            if found.pop('ready', False): row['start_s'] = time.perf_counter()-start
            row |= found
        done.set()
    if p.returncode: raise SystemExit(f'{recipe} by {engine} failed')
    return {'recipe': recipe, 'engine': engine, **row, 'peak_mib': peak}

def main():
    args = argparse.ArgumentParser(description=__doc__)
    args.add_argument('folder', type=Path)
    args.add_argument('--child', nargs=2, metavar=('RECIPE','ENGINE'))
    given = args.parse_args()
    if given.child: return child(given.folder, *given.child)
    given.folder.mkdir(parents=True, exist_ok=True)
    if not (given.folder/'images').exists(): make_images(given.folder)
    make_runs(given.folder)
    done = pd.read_csv(table) if table.exists() else pd.DataFrame({'recipe': [], 'engine': []})
    for recipe in recipes:
        for engine in engines:
            if ((done.recipe==recipe) & (done.engine==engine)).any(): continue
            done = pd.concat([done, pd.DataFrame([measure(given.folder, recipe, engine)])], ignore_index=True)
            done.round(3).to_csv(table, index=False)
            print(done.iloc[-1].to_dict(), flush=True)

if __name__=='__main__': main()
