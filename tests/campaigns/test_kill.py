"Kill: SIGKILL at random moments; what is resumed ends as if nothing had happened."
import os, signal, subprocess, sys, time

import numpy as np, pytest

from ..helpers import picture, save
from .campaign import FAMILIES, content, half_written, leftovers, pick, runs_apart, tally
from .child import run

LOCKS = {'.lock','.writer'}

def moments(n, done, seed):
    "`n` moments to kill at: over the whole run, over its training, and before events that write."
    rng = np.random.default_rng(seed)
    kinds = [('kill_after', done.seconds), ('kill_at', len(done.events)), ('kill_after', done.seconds/3)]
    for i in range(n):
        name,end = kinds[i%3]
        at = (i//3+rng.uniform())/np.ceil(n/3)*end                  # spread, and random within its part
        yield {name: int(at) if name=='kill_at' else round(float(at), 3)}

def go_on(args, out, **fault):
    "Begins or resumes a training."
    resume = ['--resume'] if (out/'config.yaml').is_file() else []
    return run(*args, *resume, '--out', out, folders=[out], **fault)

def kill_and_resume(args, out, some, t):
    "Kills a training at some moments, one after the other, and lets it end; counts kills."
    for fault in some:
        done = go_on(args, out, **fault)
        if done.status==0: continue                                     # it was faster
        t.check(done.status==-9, f'{fault}: {done.text[-300:]!r}')
        t.add()
        t.check(not half_written(out), f'{fault}: half-written {half_written(out)}')
    done = go_on(args, out)
    t.check(done.status==0, f'{some}: does not resume: {done.text[-300:]!r}')
    return done.status==0

@pytest.mark.parametrize('family', pick(['cnn_ae'], [*FAMILIES]))
def test_trainings_resume_to_the_same(family, finished, tmp_path):
    args,ref,done = finished(family)
    n = pick(3, 20)
    with tally('kill', f'train {family}') as t:
        todo,worst = list(moments(n, done, 0)),0.
        order = np.random.default_rng(1).permutation(n)
        for k in range(0, n, 3):
            out = tmp_path/f'run{k}'
            some = [todo[i] for i in order[k:k+3]]
            if not kill_and_resume(args, out, some, t): continue
            apart = runs_apart(ref, out)
            worst = max(worst, *apart.values())
            t.check(max(apart.values())<=1e-6, f'{some}: differs: {apart}')
            t.check({o.name for o in out.iterdir()}-LOCKS=={o.name for o in ref.iterdir()}-LOCKS and not leftovers(out), f'{some}: other files: {leftovers(out)}')
        t.measured = f'largest difference {worst:.1g}'
        t.check(t.faults>=n//2, f'only {t.faults} kills')

@pytest.fixture(scope='module')
def killed_late(finished, tmp_path_factory):
    "A training that was killed before its last line of history, before its calibration and among its anomaly maps; and the uninterrupted one."
    args,ref,done = finished('cnn_ae')
    out = tmp_path_factory.mktemp('late')/'run'
    last = max(i for i,o in enumerate(done.events) if o==('open', 'history.csv'))
    some = [dict(kill_at=o) for o in (last, ('os.rename', 'calibration.json'), ('os.rename', '000001.npy'))]
    with tally('kill', 'after training') as t: assert kill_and_resume(args, out, some, t)
    return ref, out

def test_late_kills(killed_late): assert max(runs_apart(*killed_late).values())==0

def test_no_temporary_file_stays(killed_late): assert not leftovers(killed_late[1])

def test_score_is_whole_or_absent(finished, tmp_path):
    _,ref,_ = finished('cnn_ae')
    for i in range(12): save(tmp_path/'new'/f'{i:02d}.png', picture(i))
    def score(out, **fault): return run('score', '--run', ref, '--input', tmp_path/'new', '--out', out/'s.csv', '--maps', out/'maps', folders=[out], **fault)
    done = score(tmp_path/'ref')
    assert done.status==0, done.text
    want,n = content(tmp_path/'ref'),pick(3, 20)
    old = want['s.csv'].replace(b'00.png', b'zz.png')
    with tally('kill', 'score') as t:
        for i,fault in enumerate(moments(n, done, 2)):
            out = tmp_path/f'out{i}'
            if i%2:
                out.mkdir()
                (out/'s.csv').write_bytes(old)
            if score(out, **fault).status==0: continue
            t.add()
            there = (out/'s.csv').read_bytes() if (out/'s.csv').exists() else None
            t.check(there in (want['s.csv'], old if i%2 else None), f'{fault}: {there}')
            t.check(not half_written(out/'maps'), f'{fault}: {half_written(out/"maps")}')
            again = score(out)
            have = {k: v for k,v in content(out).items() if not os.path.basename(k).startswith('.')}
            t.check(again.status==0 and have==want, f'{fault}: other results {again.text[-200:]}')

def test_embedded_images_are_whole(tmp_path):
    "What was killed while it wrote the embedded data set is made again, the same to the byte."
    def make(out, **fault): return run(out, task='soak:make_parts', folders=[tmp_path], **fault)
    done = make(tmp_path/'ref')
    want = content(tmp_path/'ref')
    assert done.status==0 and want, done.text
    with tally('kill', 'writing the embedded images') as t:
        for i,fault in enumerate(moments(pick(3, 20), done, 3)):
            out = tmp_path/f'out{i}'
            if make(out, **fault).status==0: continue
            t.add()
            again = make(out)
            t.check(again.status==0 and content(out)==want, f'{fault}: other images {again.text[-200:]}')
            t.check(not [o for o in tmp_path.iterdir() if o.name[0]=='.'], f'{fault}: left behind {[o.name for o in tmp_path.iterdir()]}')

def test_the_real_command(finished, tmp_path):
    "The command in a process of its own is killed when its first checkpoint is there."
    args,ref,_ = finished('cnn_ae')
    out = tmp_path/'run'
    with tally('kill', 'the command itself') as t, open(tmp_path/'said.txt', 'wb') as said:
        p = subprocess.Popen([sys.executable, '-m', 'aead', *map(str, args), '--out', str(out)], stdout=said, stderr=said)
        while p.poll() is None and not (out/'checkpoint.safetensors').is_file(): time.sleep(.02)
        p.send_signal(signal.SIGKILL)
        assert p.wait()==-9
        t.add()
        t.check(not half_written(out), f'{half_written(out)}')
        done = go_on(args, out)
        t.check(done.status==0 and max(runs_apart(ref, out).values())<=1e-6, f'differs: {done.text[-300:]}')
