"Full disk: at each write of each command in turn the disk becomes full."
import shutil

import pytest

from ..helpers import picture, save
from .campaign import content, half_written, pick, runs_apart, tally
from .child import complaint, run

NOT_NAMED = 'not named'

def written(events, most):
    "Files in the order they are begun; of numbered ones the first two and the last; `most` of them, spread."
    some = list(dict.fromkeys(name for event,name in events if event=='open'))
    numbered = [o for o in some if o[:6].isdigit()]
    some = [o for o in some if o not in numbered[2:-1] and o[0]!='.']
    return some if len(some)<=most else [some[round(k*(len(some)-1)/(most-1))] for k in range(most)]

def fails_well(done, name, file, files, t):
    "One line that names the file, or another one of the command that cannot be written either, and status 2."
    t.add()
    lines = done.text.splitlines()
    if name=='calibrate' and any(o.startswith('warning: the threshold is set') and file in o for o in lines): return      # and the old metrics stay
    wrong = complaint(done, name)
    t.check(not wrong, f'{name} at {file}: {wrong}')
    t.check(wrong or any(o in done.text.splitlines()[-1] for o in files), f'{name} at {file}: {NOT_NAMED}: {done.text.splitlines()[-1:]}')

def test_train(finished, tmp_path):
    "The disk is full at one file after the other; each time the training is resumed, in the end it is the same."
    args,ref,done = finished('cnn_ae')
    out = tmp_path/'run'
    with tally('full disk', 'train', [NOT_NAMED]) as t:
        for k,name in enumerate(written(done.events, pick(2, 99))):
            resume = ['--resume'] if (out/'config.yaml').is_file() else []
            full = run(*args, *resume, '--out', out, folders=[out], full_at=('open', name), full_size=k%2*100)
            fails_well(full, 'train', name, written(done.events, 99), t)
            t.check(not half_written(out), f'train at {name}: {half_written(out)}')
        again = run(*args, '--resume', '--out', out)
        apart = runs_apart(ref, out) if again.status==0 else again.text[-300:]
        t.check(again.status==0 and max(apart.values())==0, f'resumed to another run: {apart}')

COMMANDS = { # arguments by name of the case; R is the run, N a folder of new images, O a folder for results
    'score': 'score --run R --input N --out O/s.csv --maps O/maps',
    'evaluate': 'evaluate --run R',
    'evaluate elsewhere': 'evaluate --run R --data P --layout folder --out O/eval',
    'calibrate': 'calibrate --run R --far 0.3',
    'export': 'export --run R --out O/m.onnx --n 2',
    'compare': 'compare --runs R,S --by run --out O/c.html',
    'compare, table': 'compare --runs R,S --by run --out O/c.csv',
    'benchmark': 'benchmark --models cnn_ae --size 32 --n 2 --bs 2 --out O/b.csv',
    'crossval': 'crossval --data P --recipes fast --size 32 --folds 0 --table O/t.csv --out O/runs',
}

@pytest.mark.parametrize('case', pick(['score'], [*COMMANDS]))
def test_commands(case, finished, parts, tmp_path):
    _,ref,_ = finished('cnn_ae')
    _,other,_ = finished('resnet_ae') if 'compare' in case else finished('cnn_ae')
    for i in range(3): save(tmp_path/'new'/f'{i:02d}.png', picture(i))
    def command(at, **fault):
        at.mkdir(exist_ok=True)
        if not (at/'run').exists(): shutil.copytree(ref, at/'run')
        places = {'R': at/'run', 'S': other, 'N': tmp_path/'new', 'P': parts, 'O': at/'out'}
        words = [str(places.get(o, o)) for o in COMMANDS[case].replace('R,S', f'{at}/run,{other}').split()]
        words = [str(at/'out'/o[2:]) if o.startswith('O/') else o for o in words]
        return run(*words, folders=[at], **fault)
    whole = command(tmp_path/'ref')
    assert whole.status==0, whole.text
    want = content(tmp_path/'ref')
    at = tmp_path/'at'
    with tally('full disk', case, [NOT_NAMED]) as t:
        for k,name in enumerate(written(whole.events, pick(3, 6 if case=='crossval' else 99))):
            full = command(at, full_at=('open', name), full_size=k%2*100)
            fails_well(full, case.split()[0].strip(','), name, written(whole.events, 99), t)
            t.check(not half_written(at), f'{case} at {name}: {half_written(at)}')
        again = command(at)
        t.check(again.status==0 and {*content(at)}=={*want}, f'{case}: not as without a fault: {sorted({*content(at)}^{*want})} {again.text[-200:]}')
