"Commands in forked children that are killed, starved or locked out on purpose."
import ctypes, importlib, io, multiprocessing, os, resource, signal, sys, threading, time
from collections import namedtuple
from functools import lru_cache

Done = namedtuple('Done', 'status text seconds events')
Done.__doc__ = "Exit status (-9: killed), what was printed, seconds of computing, and the writing events in watched folders, `(event, file)` (None: killed)."

_preload = ['aead.all', 'aead.cli', 'aead.runs.train', 'aead.runs.crossval', 'aead.export', 'aead.exported', 'tests.campaigns.child', 'timm', 'torch._dynamo',
            'plotly.graph_objects', 'plotly.io', 'matplotlib.backends.backend_agg', 'PIL.JpegImagePlugin', 'einops._torch_specific']
_writes = os.O_WRONLY|os.O_RDWR|os.O_CREAT

def _is_write(event, args):
    "Whether an audit event changes the file system, and the file that it is about."
    if event=='open': return bool(args[2]&_writes) and not os.path.isdir(args[0]), args[0]     # a folder: a nameless file, to try it
    return event in ('os.rename','os.remove','os.mkdir'), args[0] if args else None

def _target(file, known):
    "The name of a file; of a temporary one of `atomic_write`, that of the file which it shall become."
    frame = sys._getframe()
    while file not in known and frame:
        if frame.f_code.co_name=='atomic_write': known[file] = str(frame.f_locals['path'])
        frame = frame.f_back
    return os.path.basename(known.get(file, file))

def _list_writes(folders, at):
    "Lists writing events in `folders`, and calls `at[n]` before event number `n`, or before the first event `n` of its kind."
    seen,folders,inside,known = [],tuple(map(str, folders)),threading.local(),{}
    def hook(event, args):
        if event not in ('open','os.rename','os.remove','os.mkdir') or getattr(inside, 'on', False): return
        writes,file = _is_write(event, args)
        if not writes or isinstance(file, int) or not os.fspath(file).startswith(folders): return
        inside.on = True
        try:
            this = event,_target(os.fspath(file), known)
            for k in (len(seen), this):
                if k in at: at.pop(k)()
            seen.append(this)
        finally: inside.on = False
    sys.addaudithook(hook)
    return seen

def _die(): os.kill(os.getpid(), signal.SIGKILL)
def _fill_disk(size): resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

def address_space():
    "Address space of this process, bytes."
    with open('/proc/self/statm') as f: return int(f.read().split()[0])*resource.getpagesize()

def _limit_memory(more): resource.setrlimit(resource.RLIMIT_AS, (address_space()+int(more*2**20), resource.RLIM_INFINITY))

def _become_ordinary():
    "Gives up all rights of root; who owns a file must keep to its permissions from then on."
    class Header(ctypes.Structure): _fields_ = [('version', ctypes.c_uint32), ('pid', ctypes.c_int)]
    class Data(ctypes.Structure): _fields_ = [(o, ctypes.c_uint32) for o in ('effective','permitted','inheritable')]
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.capset(ctypes.byref(Header(0x20080522, 0)), (Data*2)()): raise OSError(ctypes.get_errno(), 'capset')

def _call(task, args):
    "Status of a command, or of a function `module:name` of the campaigns."
    if task!='aead':
        module,name = task.split(':')
        return getattr(importlib.import_module(f'tests.campaigns.{module}'), name)(*args) or 0
    from aead.cli import main
    try: return main(list(args)) or 0
    except SystemExit as e: return e.code or 0

def _serve(task, args, output, report, folders, kill_at, full_at, full_size, memory, ordinary):
    "What the child does: faults are laid out, then the command runs."
    os.dup2(output.fileno(), 1)
    os.dup2(output.fileno(), 2)
    sys.stdout = io.TextIOWrapper(os.fdopen(1, 'wb', 0), write_through=True)
    sys.stderr = io.TextIOWrapper(os.fdopen(2, 'wb', 0), write_through=True)
    at = {}
    if kill_at is not None: at[kill_at] = _die
    if full_at is not None: at[full_at] = lambda: _fill_disk(full_size)
    if ordinary: _become_ordinary()
    seen = _list_writes(folders, at)
    if memory is not None: _limit_memory(memory)
    try: status = _call(task, args)
    except BaseException:
        import traceback
        traceback.print_exc()
        status = 1
    report.send((time.thread_time(), seen))
    os._exit(status)

@lru_cache
def forker():
    "The process that has imported the library and forks a child for each command, ready."
    ctx = multiprocessing.get_context('forkserver')
    ctx.set_forkserver_preload(_preload)
    p = ctx.Process(target=time.sleep, args=(0,))
    p.start()
    p.join()
    return ctx

def _read_all(fd, into):
    while some := os.read(fd, 2**16): into.append(some)

def _receive(connection, into):
    try: into.append(connection.recv())
    except EOFError: pass

def _kill_after(p, seconds):
    "Kills a child when its main thread has computed for so many seconds, however busy the machine is."
    while p.is_alive():
        try:
            with open(f'/proc/{p.pid}/schedstat') as f: spent = int(f.read().split()[0])/1e9
        except (OSError, IndexError): return
        if spent >= seconds: return p.kill()
        time.sleep(.004)

def run(*args, task='aead', folders=(), kill_after=None, kill_at=None, full_at=None, full_size=0, memory=None, ordinary=False, timeout=900):
    """Runs `aead` with `args` in a child.

    `folders` are watched: at writing event `kill_at` in them, a number or `(event, file)`, the child is killed; at `full_at` the disk becomes full (files end at
    `full_size` bytes).
    `kill_after` kills it after so many seconds of computing; `memory` is what it may take beyond what it has, MiB; `ordinary`: it has no rights of root."""
    ctx = forker()
    (out_r,out_w),(rep_r,rep_w) = ctx.Pipe(False),ctx.Pipe(False)
    faults = (kill_at, full_at, full_size, memory, ordinary)
    p = ctx.Process(target=_serve, args=(task, tuple(map(str, args)), out_w, rep_w, tuple(map(str, folders)), *faults), daemon=True)
    p.start()
    out_w.close(), rep_w.close()
    said = []
    reader = threading.Thread(target=_read_all, args=(out_r.fileno(), said))
    reader.start()
    box = []
    reporter = threading.Thread(target=_receive, args=(rep_r, box))
    reporter.start()
    if kill_after is not None: _kill_after(p, kill_after)
    p.join(timeout)
    stuck = p.is_alive()
    if stuck: p.kill()
    p.join()
    reader.join()
    reporter.join()
    assert not stuck, f"no end after {timeout} s: {args}"
    return Done(p.exitcode, b''.join(said).decode(errors='replace'), *(box[0] if box else (None, None)))

def complaint(done, name):
    "What is wrong with how a command refused: status 2 and one line of its own, no traceback; '' if nothing is."
    mine = [o for o in done.text.splitlines() if o.startswith(f'aead {name}: ')]
    if 'Traceback' in done.text: return f"traceback: {done.text.strip().splitlines()[-1]}"
    if done.status!=2: return f'status {done.status}: {done.text[-200:]!r}'
    return '' if len(mine)==1 and len(mine[0])<800 else f'{len(mine)} lines: {done.text[-300:]!r}'
