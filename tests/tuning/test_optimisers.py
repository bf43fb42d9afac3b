"""Optimisers against torch where it is installed, and against hand calculation."""

import numpy as np
import pytest

from lpcompile.tuning.optimisers import Schedule, clip_norm, optimiser

ARRAYS = {"a": (3, 4), "b": (5,)}


def draws(steps: int) -> tuple[dict[str, np.ndarray], list[dict[str, np.ndarray]]]:
    rng = np.random.default_rng(0)
    start = {k: rng.normal(size=s).astype(np.float32) for k, s in ARRAYS.items()}
    return start, [
        {k: rng.normal(size=s).astype(np.float32) for k, s in ARRAYS.items()} for _ in range(steps)
    ]


@pytest.mark.parametrize("name", ["adam", "sgd", "nesterov"])
@pytest.mark.parametrize("decay", [0.0, 0.03])
def test_steps_are_those_of_torch(name: str, decay: float) -> None:
    torch = pytest.importorskip("torch")
    values, gradients = draws(12)
    theirs = {k: torch.tensor(v.copy(), requires_grad=True) for k, v in values.items()}
    make = {
        "adam": lambda p: torch.optim.Adam(p, lr=0.05, weight_decay=decay),
        "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=decay),
        "nesterov": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=decay, nesterov=True),
    }
    oracle = make[name](theirs.values())
    ours = optimiser(name, weight_decay=decay, decayed=frozenset(values))
    for step in gradients:
        for k, tensor in theirs.items():
            tensor.grad = torch.tensor(step[k])
        oracle.step()
        ours.step(values, step, 0.05)
    for k, value in values.items():
        np.testing.assert_allclose(value, theirs[k].detach().numpy(), rtol=2e-5, atol=2e-6)


def test_the_first_step_of_adam_is_the_rate_against_the_sign() -> None:
    value = {"a": np.zeros(3, np.float32)}
    optimiser("adam").step(value, {"a": np.array([3e-4, -20, 1], np.float32)}, 0.1)
    np.testing.assert_allclose(value["a"], [-0.1, 0.1, -0.1], rtol=1e-4)


def test_two_steps_with_momentum_by_hand() -> None:
    for name, wanted in (("sgd", -(1 + 1.9) * 0.1), ("nesterov", -(1.9 + 1 + 0.9 * 1.9) * 0.1)):
        value = {"a": np.zeros(1, np.float32)}
        method = optimiser(name, momentum=0.9)
        for _ in range(2):
            method.step(value, {"a": np.ones(1, np.float32)}, 0.1)
        assert value["a"][0] == pytest.approx(wanted, rel=1e-6)


def test_weight_decay_is_for_named_arrays_only() -> None:
    values = {"w": np.ones(1, np.float32), "b": np.ones(1, np.float32)}
    zero = {k: np.zeros(1, np.float32) for k in values}
    optimiser("sgd", weight_decay=0.5, decayed=frozenset({"w"})).step(values, zero, 0.1)
    assert (values["w"][0], values["b"][0]) == (pytest.approx(0.95), 1.0)


@pytest.mark.parametrize("name", ["adam", "sgd"])
def test_a_restored_state_goes_on_bit_for_bit(name: str) -> None:
    values, gradients = draws(6)
    whole, broken = ({k: v.copy() for k, v in values.items()} for _ in range(2))
    one, first, second = (optimiser(name) for _ in range(3))
    for step in gradients:
        one.step(whole, step, 0.01)
    for step in gradients[:3]:
        first.step(broken, step, 0.01)
    second.restore(first.state())
    for step in gradients[3:]:
        second.step(broken, step, 0.01)
    for k, value in whole.items():
        np.testing.assert_array_equal(value, broken[k])


def test_the_rate_rises_then_falls_along_a_cosine() -> None:
    schedule = Schedule(peak=2.0, total=20, warm_up=0.2)
    assert [schedule.rate(i) for i in range(4)] == [0.5, 1.0, 1.5, 2.0]
    assert schedule.rate(4) == 2.0
    assert schedule.rate(12) == pytest.approx(1.0)
    assert schedule.rate(19) == pytest.approx(1 + np.cos(np.pi * 15 / 16))
    assert Schedule(2.0, 20, "constant", 0.0).rate(19) == 2.0


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="option 'optimiser' is one of adam, sgd, nesterov, not 'adagrad'"):
        optimiser("adagrad")
    with pytest.raises(ValueError, match="option 'schedule' is one of cosine, constant"):
        Schedule(1.0, 1, "step")
    with pytest.raises(ValueError, match="option 'warm-up' is a share"):
        Schedule(1.0, 1, warm_up=1.0)


def test_clipping_keeps_the_direction_of_all_arrays_together() -> None:
    gradients = {"a": np.array([3.0], np.float32), "b": np.array([4.0], np.float32)}
    assert clip_norm(gradients, 0.0) == 5
    assert clip_norm(gradients, 1.0) == 5
    assert (gradients["a"][0], gradients["b"][0]) == (pytest.approx(0.6), pytest.approx(0.8))
    assert clip_norm(gradients, 2.0) == pytest.approx(1.0)
    assert gradients["a"][0] == pytest.approx(0.6)
