import pytest
import torch

from zoo.training.optim import LAMB, piecewise_linear


def test_warm_up_is_hos():
    value = piecewise_linear({5000: 1.0})
    for step in (0, 1, 2500, 4999, 5000, 5001, 800_000):
        assert value(step) == pytest.approx(min(step / 5000, 1))


def test_the_post_authors_schedule():
    value = piecewise_linear({40_000: 0.1, 4000: 1.0, 20_000: 0.5})
    expected = {0: 0, 2000: 0.5, 4000: 1, 12_000: 0.75, 20_000: 0.5, 30_000: 0.3, 40_000: 0.1}
    assert {step: value(step) for step in expected} == pytest.approx(expected)
    assert value(10**6) == pytest.approx(0.1)


def test_a_point_at_zero():
    assert piecewise_linear({0: 1.0})(0) == 1.0
    value = piecewise_linear({0: 0.5, 10: 1.0})
    assert [value(0), value(5), value(20)] == [0.5, 0.75, 1.0]


@pytest.mark.parametrize("points", [{}, {-1: 1.0}, {5: -0.1}])
def test_schedule_mistakes(points):
    with pytest.raises(ValueError, match="lr_schedule="):
        piecewise_linear(points)


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_lamb_equals_the_algorithm(decay):
    """Against algorithm 2 of the paper, written with one weight at a time."""
    g = torch.Generator().manual_seed(0)
    params = [
        torch.nn.Parameter(torch.randn(s, generator=g, dtype=torch.float64))
        for s in [(4, 3), (4,), (2, 3, 3, 3), (2, 2)]
    ]
    with torch.no_grad():
        params[3].zero_()
    expected = [p.detach().clone() for p in params]
    moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in expected]
    optimizer = LAMB(params, lr=0.01, betas=(0.9, 0.99), eps=1e-6, weight_decay=decay)
    for step in range(1, 6):
        for i, p in enumerate(params):
            p.grad = torch.randn(p.shape, generator=g, dtype=torch.float64)
            m, v = moments[i]
            m, v = 0.9 * m + 0.1 * p.grad, 0.99 * v + 0.01 * p.grad**2
            moments[i] = (m, v)
            update = (m / (1 - 0.9**step)) / ((v / (1 - 0.99**step)) ** 0.5 + 1e-6)
            update = update + decay * expected[i]
            if p.ndim > 1 and expected[i].norm() > 0:
                update = update * expected[i].norm() / update.norm()
            expected[i] = expected[i] - 0.01 * update
        optimizer.step()
    for p, q in zip(params, expected, strict=True):
        torch.testing.assert_close(p.detach(), q, rtol=1e-10, atol=1e-12)


def test_lamb_resumes_exactly():
    def run(split):
        torch.manual_seed(0)
        net = torch.nn.Linear(3, 2)
        optimizer = LAMB(net.parameters(), lr=0.1)
        for i in range(6):
            if i == split:
                state = optimizer.state_dict()
                optimizer = LAMB(net.parameters(), lr=0.5)
                optimizer.load_state_dict(state)
            optimizer.zero_grad()
            x = torch.randn(4, 3, generator=torch.Generator().manual_seed(i))
            net(x).square().sum().backward()
            optimizer.step()
        return net.weight.detach()

    assert torch.equal(run(3), run(None))
