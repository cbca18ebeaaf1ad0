"Trainings in processes of their own, and the preview of synthetic defects."
import os, signal, subprocess, sys, time
from pathlib import Path

import numpy as np, pytest

from aead.data.dataset import ImageDataset
from aead.data.defects import add_defects
from aead.dashboard.base import State, to_png
from aead.dashboard.run_view import open_panel
from aead.dashboard.training import count_images, DataPanel, FolderChooser, pick_of_each, TrainJob, TrainPanel
from aead.viz.images import to_rgb

from ..helpers import TINY_YAML
from .conftest import score_table

def test_a_training_needs_no_script_on_the_path(tmp_path, monkeypatch):
    "Nor a parent that listens to interrupts: a background process may have been told to ignore them."
    monkeypatch.setenv('PATH', '')
    (tmp_path/'tiny.yaml').write_text(TINY_YAML)
    old = signal.signal(signal.SIGINT, signal.SIG_IGN)
    args = ['--layout','synthetic','--category','brick','--model','cnn_ae']
    args += ['--config',tmp_path/'tiny.yaml','--epochs','100000']
    try: job = TrainJob(args, tmp_path/'run')
    finally: signal.signal(signal.SIGINT, old)
    end = time.time()+300
    while job.running and not len(job.history()) and time.time()<end: time.sleep(.05)
    job.stop()
    job.process.wait(300)
    assert job.status=='interrupted' and 'interrupted' in job.tail()
    assert len(job.history()) and (tmp_path/'run/checkpoint.safetensors').is_file()

def test_a_training_that_fails_says_why(tmp_path):
    p = TrainPanel(State(), {})
    p.every,p.data.value,p.out.value = .1,str(tmp_path/'none'),str(tmp_path/'run')
    p.start.click()
    p.thread.join(300)
    assert p.job.status=='failed' and 'failed' in p.says.value and 'none' in p.printed.value and not p.thread.is_alive()
    p.more.value = '--nonsense'
    p.start.click()
    p.thread.join(300)
    assert 'nonsense' in p.printed.value and p.out.value==str(tmp_path/'run')

@pytest.mark.parametrize('status,file,says', [
    ('running', None, ''), ('finished', 'epoch,train_loss,valid_loss,lr,seconds,schema\n', 'nothing was trained by steps'),
    ('finished', 'epoch,train_loss,valid_loss\n0,2.,1.5\n', '1 epochs, last valid loss 1.5')], ids=['not yet','no steps','steps'])
def test_a_history_without_rows_is_no_curve(status, file, says, tmp_path):
    if file: (tmp_path/'history.csv').write_text(file)
    class Job(TrainJob):
        def __init__(self): self.out = tmp_path
        status = property(lambda self: expected)
        def tail(self, n=12): return ''
    expected,p = status,TrainPanel(State(), {})
    p.job = Job()
    p.poll()
    assert says in p.says.value and ('nothing' in p.says.value)==('nothing' in says) and status in p.says.value

def test_the_log_is_read_from_its_end(tmp_path):
    job = TrainJob.__new__(TrainJob)
    job.log = open(tmp_path/'log', 'w+b')
    job.log.write(b'\n'.join(b'line %d' % i for i in range(100_000)))
    job.log.flush()
    assert job.tail(2)=='line 99998\nline 99999'

def test_fields_are_those_of_the_run(runs):
    p = open_panel(TrainPanel, runs[0])
    d = p.view.config.data
    assert (p.data.value, p.layout.value, p.size.value)==(d.path, 'mtd', '32')
    p.size.value = '64'
    p.state.run = ''
    p.state.run = 'run0'
    assert p.size.value=='64'                                      # filled once: what was typed stays

def test_empty_fields_leave_their_options_out():
    p = TrainPanel(State(), {})
    given = p.args()[::2]
    assert given==['--layout','--recipe']
    p.model.value,p.size.value,p.seed.value,p.more.value = 'cnn_ae',' 64 ','3',"--name 'two words'"
    assert p.args()[4:]==['--model','cnn_ae','--size','64','--seed','3','--name','two words']

def test_folders_are_chosen_by_walking(tmp_path):
    for k in ('b','a/deep','.hidden'): (tmp_path/k).mkdir(parents=True)
    (tmp_path/'one.png').touch()
    took = []
    f = FolderChooser(took.append, tmp_path)
    assert [k for k,_ in f.list.options[2:]]==['a','b'] and ' has 1 files' in f.name.value
    f.list.value = str(tmp_path/'a')
    assert [k for k,_ in f.list.options[2:]]==['deep'] and f.list.value==''
    f.list.value = str(tmp_path/'a'/'deep')
    f.take.click()
    assert took==[(tmp_path/'a'/'deep').resolve()]

def test_the_time_of_a_training_is_estimated_without_training(tmp_path):
    p = TrainPanel(State(), {})
    (tmp_path/'tiny.yaml').write_text(TINY_YAML)
    p.layout.value,p.category.value,p.size.value,p.epochs.value = 'synthetic','brick','32','3'
    p.more.value,p.out.value = f'--config {tmp_path}/tiny.yaml --model cnn_ae',str(tmp_path/'run')
    p.how_long.click()
    assert 'Rehearsing' in p.says.value and p.how_long.disabled
    p.rehearsal.join(300)
    assert 'This would take about ' in p.says.value and not p.how_long.disabled
    assert not (tmp_path/'run').exists() and p.job is None

def test_an_estimate_that_fails_says_why(tmp_path):
    p = TrainPanel(State(), {})
    p.data.value,p.out.value = str(tmp_path/'none'),str(tmp_path/'run')
    p.how_long.click()
    assert p.how_long.disabled
    p.rehearsal.join(300)
    assert 'box bad' in p.says.value and 'none' in p.says.value and not p.how_long.disabled
    assert not (tmp_path/'run').exists() and p.job is None

def test_the_command_follows_the_fields():
    p = TrainPanel(State(), {})
    p.data.value,p.out.value = '/my parts','runs/a b'
    assert "aead train --data &#39;/my parts&#39; --layout folder" in p.command.value
    assert "--out &#39;runs/a b&#39;" in p.command.value
    p.more.value = "--name 'open"
    assert 'No closing quotation' in p.trouble.value

def test_pictures_of_each_class_and_split(runs):
    d = open_panel(DataPanel, runs[0])
    of = d.view.images
    shown = {(of.split[i], of.defect[i]) for i in d.shown.rows}
    assert shown==set(zip(of.split, of.defect)) and d.shown.rows==pick_of_each(of)
    assert [o['text'] for o in d.shown.widget.items]==[f'{of.split[i]}, {of.defect[i]}' for i in d.shown.rows]

def test_images_are_counted():
    t = score_table(30).assign(split=['train','test','']*10, group=[i//2 for i in range(30)])
    rows = count_images(t)
    assert [r[0] for r in rows]==['train','test','in no split','all'] and rows[-1]==('all', 20, 10, 30, 15)
    assert all(sum(r[k] for r in rows[:-1])==rows[-1][k] for k in (1,2,3))

def test_the_preview_draws_what_training_draws(runs):
    d = open_panel(DataPanel, runs[0])
    d.kind.value,d.seed.value,d.image.value = 'spot',5,2
    assert d.trouble.value==''
    ds = ImageDataset(d.good_images(), d.view.config.data.hw)
    (img,_,valid),other = ds.load(2),ds.load(3)[0]
    out,mask = add_defects(img, np.random.default_rng(5), other, 'spot', 1., 1, valid)
    assert d.shots[1].value==to_png(to_rgb(out)) and d.shots[2].value==to_png(to_rgb(mask.astype(np.float32)))

@pytest.mark.parametrize('change,line', [(dict(label=1), 'no good image'), ({}, 'nowhere')],
                         ids=['no good image','file lost'])
def test_the_preview_says_what_is_missing(change, line):
    d = open_panel(DataPanel, None, score_table(9).assign(**change))
    assert line in d.says.value and d.trouble.value=='' and not any(o.value for o in d.shots)


_parent = """import sys, time
from aead.dashboard.training import TrainJob
args = '--layout synthetic --category brick --recipe scratch --size 32 --epochs 100000 --device cpu'.split()
print(TrainJob(args, sys.argv[1], keep=sys.argv[2]=='keep').process.pid, flush=True)
time.sleep(600)"""

def is_there(pid):
    "Whether a process runs; a zombie does not."
    try: return Path(f'/proc/{pid}/stat').read_text().rsplit(')', 1)[1].split()[0]!='Z'
    except FileNotFoundError: return False

@pytest.mark.skipif(not Path('/proc').is_dir(), reason='looks at /proc')
@pytest.mark.parametrize('keep', [False, True], ids=['ends','goes on'])
def test_a_training_ends_with_the_process_that_started_it(tmp_path, keep):
    parent = subprocess.Popen([sys.executable, '-c', _parent, str(tmp_path/'run'), 'keep' if keep else 'end'],
                              stdout=subprocess.PIPE, text=True)
    child = int(parent.stdout.readline())
    parent.kill()                                                     # it cannot say goodbye
    parent.wait()
    end = time.time()+60
    while is_there(child) and not keep and time.time()<end: time.sleep(.2)
    if keep: time.sleep(2)
    try: assert is_there(child)==keep
    finally:
        if is_there(child): os.kill(child, signal.SIGKILL)
