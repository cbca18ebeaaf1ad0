"Shared by the tests of pictures and charts: tables of results, and a check that a figure can be drawn."
import matplotlib.pyplot as plt, numpy as np, pandas as pd, pytest

@pytest.fixture
def results(rng):
    "Sixty images, half of them with one of three kinds of defects; the threshold is at 4."
    n = 60
    label = np.repeat([0,1], n//2)
    score = rng.normal(3, 1, n) + 2*label
    defect = np.where(label==0, 'good', rng.choice(['crack','dent','hole'], n))
    return pd.DataFrame(dict(path=[f'{i}.png' for i in range(n)], label=label, defect=defect, split='test', score=score,
                             p_value=rng.random(n), decision=(score>4).astype(int)))

@pytest.fixture
def drawn():
    "Draws a figure, checks that pyplot does not know of it, and gives it back."
    def draw(fig):
        fig.canvas.draw()
        assert isinstance(fig, plt.Figure) and not plt.get_fignums()
        assert fig._repr_png_()[:4]==b'\x89PNG'
        return fig
    return draw
