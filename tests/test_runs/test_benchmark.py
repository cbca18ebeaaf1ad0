"What runs cost."
import numpy as np

from aead.runs.benchmark import get_costs

def test_costs_of_runs(detector, tmp_path):
    "A row for each run that has its model."
    for k in 'ab': detector.save(tmp_path/k)
    (tmp_path/'b'/'model.safetensors').unlink()
    c = get_costs({k: tmp_path/k for k in 'abc'}, 3)
    assert c.name.tolist()==['a'] and c.median_ms[0]>0 and c.parameters[0]==detector.graph.model.n_params()
    assert np.isclose(c.file_mib[0], (tmp_path/'a'/'model.safetensors').stat().st_size/2**20)
