"""Random numbers: Philox's, the same on every device, and a function of lane, purpose, step and draw alone."""

import importlib.util
import itertools
import logging
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from trainables.sampling.streams import stream, stream_key
from trainables.training import draws as draws_module
from trainables.training.draws import LaneDraws

CPU = torch.device("cpu")

SEEDS = (3, 4, 5)

Kind = Callable[[LaneDraws], torch.Tensor]

KINDS: dict[str, Kind] = {
    "bernoulli": lambda draws: draws.bernoulli(torch.tensor(0.3), 7, 9),
    "uniform": lambda draws: draws.uniform(7, 9),
    "normal": lambda draws: draws.normal(7, 9),
    "beta": lambda draws: draws.beta(torch.full((len(draws._lanes), 1, 1), 0.3), 7),
}


def begun(step: int = 0, seeds: Sequence[int] = SEEDS, purpose: str = "augment") -> LaneDraws:
    draws = LaneDraws(seeds, purpose, CPU)
    draws.begin(step)
    return draws


def philox(counter: Sequence[int], key: Sequence[int]) -> list[int]:
    """Philox4x64-10, as in Salmon et al. (2011)."""
    c, k = list(counter), list(key)
    for _ in range(10):
        one, other = c[0] * 0xD2E7470EE14C6C93, c[2] * 0xCA5A826395121157
        c = [other >> 64 ^ c[1] ^ k[0], other % 2**64, one >> 64 ^ c[3] ^ k[1], one % 2**64]
        k = [(k[0] + 0x9E3779B97F4A7C15) % 2**64, (k[1] + 0xBB67AE8584CAA73B) % 2**64]
    return c


def test_the_words_are_those_of_philox() -> None:
    """The known answers of the Random123 library, then every word of a draw."""
    pi = [0x243F6A8885A308D3, 0x13198A2E03707344, 0xA4093822299F31D0, 0x082EFA98EC4E6C89]
    more_pi = [0x452821E638D01377, 0xBE5466CF34E90C6C]
    for counter, key, answer in (
        ([0] * 4, [0] * 2, "16554d9eca36314c db20fe9d672d0fdc d7e772cee186176b 7e68b68aec7ba23b"),
        ([2**64 - 1] * 4, [2**64 - 1] * 2, "87b092c3013fe90b 438c3c67be8d0224 9cc7d7c69cd777b6 a09caebf594f0ba0"),
        (pi, more_pi, "a528f45403e61d95 38c72dbd566e9788 a5a1610e72fd18b5 57bd43b5e52b7fe6"),
    ):
        assert philox(counter, key) == [int(word, 16) for word in answer.split()]
    draws = begun(step=11)
    draws.words(4)
    words = draws.words(10).numpy().view(np.uint64)
    for lane, seed in enumerate(SEEDS):
        key = [int(half) for half in stream_key(seed, "augment")]
        expected = [word for block in (1, 2, 3) for word in philox([block, 11, 1, 0], key)]
        assert words[lane].tolist() == expected


@pytest.mark.parametrize("kind", KINDS)
def test_a_draw_depends_on_lane_purpose_step_and_number_alone(kind: str) -> None:
    draw = KINDS[kind]
    expected = draw(begun(step=5))
    used = begun(step=4)
    for other in KINDS.values():
        other(used)
    used.begin(5)
    assert torch.equal(draw(used), expected), "not on earlier steps"
    for lane, seed in enumerate(SEEDS):
        assert torch.equal(draw(begun(step=5, seeds=[seed]))[0], expected[lane]), "not on the pack"
        assert torch.equal(draw(begun(step=5).of([lane]))[0], expected[lane])
    for order in itertools.permutations(range(3)):  # nor on the order in which lanes leave
        left, leaving = begun(step=3), list(order)
        left.keep([lane for lane in range(3) if lane != leaving[0]])
        left.begin(4)
        draw(left)
        left.keep([[lane for lane in range(3) if lane != leaving[0]].index(leaving[2])])
        left.begin(5)
        assert torch.equal(draw(left)[0], expected[leaving[2]])
    others = [draw(begun(step=6)), draw(begun(step=5, purpose="dropout")), draw(begun(step=5, seeds=[6, 7, 8]))]
    used.begin(5)
    draw(used)
    others.append(draw(used))
    assert not any(torch.equal(other[lane], expected[lane]) for other in others for lane in range(3))


@pytest.mark.parametrize("kind", KINDS)
def test_a_lane_counts_its_own_draws(kind: str) -> None:
    """Where a method draws for some lanes at one layer and for all at the next."""
    draw = KINDS[kind]
    draws = begun(step=5)
    first = draw(draws.of([0, 2]))
    both = draw(draws)
    last = draw(draws.of([1]))
    for lane, of_the_lane in enumerate(([first[0], both[0]], [both[1], last[0]], [first[1], both[2]])):
        alone = begun(step=5, seeds=[SEEDS[lane]])
        assert all(torch.equal(draw(alone)[0], one) for one in of_the_lane)


@pytest.mark.parametrize("kind", KINDS)
def test_held_numbers_are_the_same_at_the_same_place(kind: str) -> None:
    """A captured step reads them where it has read them before; words are held where a GPU has no Triton."""
    draw = KINDS[kind]
    held, plain = LaneDraws(SEEDS, "augment", CPU), LaneDraws(SEEDS, "augment", CPU)
    held.hold()
    places = set()
    for step in (0, 1, 2, 7):
        for draws in (held, plain):
            draws.begin(step)
        for _ in range(2):
            assert torch.equal(draw(held), draw(plain))
        assert held._held is not None
        places.add(tuple(numbers.data_ptr() for _, numbers in held._held.values()))
    assert len(places) == 1
    held.keep([1])
    held.begin(8)
    assert torch.equal(draw(held)[0], draw(begun(step=8))[1])


@pytest.mark.parametrize("chance", [0, 2**-16, 0.1, 0.5, 0.7, 1])
def test_bernoulli_is_true_as_often_as_asked(chance: float) -> None:
    drawn = begun().bernoulli(torch.full((3, 1, 1), float(chance)), 500, 1000)
    assert drawn.dtype == torch.bool
    assert drawn.shape == (3, 500, 1000)
    for n_true in drawn.sum((1, 2)).tolist():
        assert stats.binomtest(n_true, 500_000, chance).pvalue > 1e-4
    by_row = begun().bernoulli(torch.linspace(0, 1, 500).view(1, 500, 1).expand(3, -1, -1), 500, 1000)
    torch.testing.assert_close(by_row.float().mean(-1), torch.linspace(0, 1, 500).expand(3, -1), atol=0.08, rtol=0)


def test_numbers_have_their_distributions() -> None:
    draws = begun()
    uniform, normal = draws.uniform(500, 801).double(), draws.normal(500, 801).double()  # an odd number of elements
    assert uniform.min() >= 0
    assert uniform.max() < 1
    for lane in range(3):
        u, z = uniform[lane].flatten().numpy(), normal[lane].flatten().numpy()
        assert stats.kstest(u, "uniform").pvalue > 1e-4
        assert stats.kstest(z, "norm").pvalue > 1e-4
        moments = [stats.moment(z, order, center=0) for order in (1, 2, 3, 4)]
        assert moments == pytest.approx([0, 1, 0, 3], abs=0.04)
    for alpha in (0.1, 1.0, 20.0):
        beta = draws.beta(torch.full((3, 1, 1), alpha), 20_000)
        for lane in range(3):
            # In float32, many numbers of a small alpha round to 0 or 1: only above that is the distribution continuous.
            inner = beta[lane][(beta[lane] > 1e-6) & (beta[lane] < 1 - 1e-6)].double().numpy()
            low, high = stats.beta.cdf([1e-6, 1 - 1e-6], alpha, alpha)
            ranks = (stats.beta.cdf(inner, alpha, alpha) - low) / (high - low)
            assert stats.kstest(ranks, "uniform").pvalue > 1e-4


def test_draws_are_independent() -> None:
    """Between steps, lanes, purposes, and the draws of a step, and of the elements beside them."""
    n, drawn = 40_000, []
    for purpose in ("augment", "dropout"):
        for step in (0, 1):
            draws = begun(step, purpose=purpose)
            drawn += [*draws.uniform(1, n).flatten(1), *draws.uniform(1, n).flatten(1)]
            drawn += list(draws.normal(1, n).flatten(1))
    found = np.corrcoef(torch.stack(drawn).double().numpy())
    beside = np.corrcoef([series.roll(shift).double().numpy() for series in drawn[:3] for shift in (0, 1, 2, 4)])
    for correlations in (found, beside):
        assert np.abs(correlations - np.eye(len(correlations))).max() < 4.5 / n**0.5


def test_an_epoch_has_its_own_order() -> None:
    """It is drawn on the host, with a stream of its own."""
    orders = [stream(3, "order", epoch).permutation(50).tolist() for epoch in (0, 1, 1)]
    assert orders[0] != orders[1] == orders[2]


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The kernel, run by Triton's interpreter on tensors of the CPU."""
    pytest.importorskip("triton")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    origin = importlib.util.find_spec("trainables.training.philox")
    assert origin is not None
    assert origin.origin is not None
    spec = importlib.util.spec_from_file_location("interpreted_philox", origin.origin)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.fill_words


@pytest.mark.parametrize("step", [0, 1, 2**40])
def test_a_kernel_draws_the_same_bits(kernel: Any, step: int) -> None:
    on_device, on_host = begun(step), begun(step)
    on_device._fill = kernel
    for n in (4, 1000, 4096):
        assert torch.equal(on_device.words(n), on_host.words(n))
    for draw in KINDS.values():
        assert torch.equal(draw(on_device), draw(on_host))
        assert torch.equal(draw(on_device.of([2, 0])), draw(on_host.of([2, 0])))  # lanes have drawn unequally often


def test_without_a_kernel_it_is_said_once(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trainables.training.philox", None)
    draws_module._kernel.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert [draws_module._kernel(), draws_module._kernel()] == [None, None]
    assert [record.message.startswith("Random numbers are drawn on the CPU") for record in caplog.records] == [True]
    draws_module._kernel.cache_clear()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_a_gpu_draws_the_same() -> None:
    here, there = begun(7), LaneDraws(SEEDS, "augment", torch.device("cuda"))
    there.begin(7)
    assert there._fill is not None, "Triton comes with builds of torch for CUDA"
    assert torch.equal(there.words(10_000).cpu(), here.words(10_000))
    assert torch.equal(there.uniform(90, 90).cpu(), here.uniform(90, 90))
    assert torch.equal(there.bernoulli(torch.tensor(0.3), 90, 90).cpu(), here.bernoulli(torch.tensor(0.3), 90, 90))
    one, other = there.normal(900, 900).cpu(), here.normal(900, 900)
    assert (one != other).float().mean() < 1e-4
    torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)
