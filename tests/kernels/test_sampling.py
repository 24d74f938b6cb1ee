"""What is drawn has the probabilities it should, and is reported with them."""

from collections.abc import Iterator, Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from rethink.kernels.sampling import BLOCK, sample, uniforms

DRAWS = 20_000


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Products this small only wait for each other on more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def logits_of(size: int, seed: int = 0, spread: float = 1.5) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed)) * spread


def draw(logits_V: Tensor, temperature: float, top_p: float, top_k: int, numbers: np.ndarray) -> tuple[Tensor, ...]:
    batch = logits_V.expand(len(numbers), -1)
    return sample(batch, temperature, top_p, top_k, torch.from_numpy(numbers))


def truncated(logits_V: Tensor, temperature: float, top_p: float, top_k: int) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities before and after top-k and then top-p, written as the definition says."""
    whole = (logits_V.double() / temperature).softmax(-1).numpy()
    order = np.argsort(-whole, kind="stable")
    kept = order[:top_k] if top_k else order
    if top_p < 1:
        shares = whole[kept] / whole[kept].sum()
        number = int(np.argmax(np.cumsum(shares) >= top_p - 1e-12)) + 1  # the smallest set that reaches top_p
        kept = kept[:number]
    cut = np.zeros_like(whole)
    cut[kept] = whole[kept]
    return whole, cut / cut.sum()


def p_value(tokens: Tensor, expected_V: np.ndarray) -> float:
    """Of a chi-square test; rare tokens are counted together."""
    counts = np.bincount(tokens.numpy(), minlength=len(expected_V)).astype(float)
    expected = expected_V * len(tokens)
    rare = expected < 10
    if rare.any():
        counts, expected = (
            np.append(counts[~rare], counts[rare].sum()),
            np.append(expected[~rare], expected[rare].sum()),
        )
    kept = expected > 0
    assert counts[~kept].sum() == 0
    return float(stats.chisquare(counts[kept], expected[kept]).pvalue)


CASES = [(1.0, 1.0, 0), (0.7, 1.0, 0), (1.0, 0.8, 0), (1.0, 1.0, 5), (0.7, 0.9, 7), (1.3, 0.5, 40)]


@pytest.mark.parametrize(("temperature", "top_p", "top_k"), CASES)
@pytest.mark.parametrize("size", [13, BLOCK, 3 * BLOCK + 8])
def test_draws_follow_the_distribution(size: int, temperature: float, top_p: float, top_k: int) -> None:
    logits = logits_of(size)
    tokens, *_ = draw(logits, temperature, top_p, top_k, uniforms(range(DRAWS), [3] * DRAWS))
    _, expected = truncated(logits, temperature, top_p, top_k)
    assert set(tokens.unique().tolist()) <= set(np.flatnonzero(expected).tolist())
    assert p_value(tokens, expected) > 1e-3


def test_the_test_of_the_distribution_can_fail() -> None:
    logits = logits_of(13)
    tokens, *_ = draw(logits, 0.9, 1.0, 0, uniforms(range(DRAWS), [3] * DRAWS))
    assert p_value(tokens, truncated(logits, 1.0, 1.0, 0)[0]) < 1e-6


def test_draws_of_one_sample_over_positions_follow_the_distribution() -> None:
    logits = logits_of(13)
    tokens, *_ = draw(logits, 1.0, 1.0, 0, uniforms([7] * DRAWS, range(DRAWS)))
    assert p_value(tokens, truncated(logits, 1.0, 1.0, 0)[0]) > 1e-3


def pairs(first: Sequence[float], second: Sequence[float]) -> float:
    """p-value of independence of two rows of numbers, by an 8 x 8 table."""
    table, *_ = np.histogram2d(np.asarray(first), np.asarray(second), bins=8, range=[[0, 1], [0, 1]])
    return float(stats.chisquare(table.ravel()).pvalue)


def test_uniforms_are_uniform_and_neighbours_independent() -> None:
    numbers = uniforms(range(DRAWS + 1), [0] * (DRAWS + 1))
    assert stats.kstest(numbers, "uniform").pvalue > 1e-3
    assert pairs(numbers[:-1], numbers[1:]) > 1e-3  # neighbouring seeds
    assert pairs(numbers, uniforms(range(DRAWS + 1), [1] * (DRAWS + 1))) > 1e-3  # neighbouring positions
    # seed s at position p + 1 is not seed s + 1 at position p
    assert not set(numbers[1:]) & set(uniforms(range(DRAWS), [1] * DRAWS))


def test_uniforms_take_any_seed_and_depend_on_nothing_else() -> None:
    seeds = [0, -1, 2**63, 2**64 - 1, 2**64, 12345678901234567890123]
    together = uniforms(seeds, [5, 4, 3, 2, 1, 0])
    alone = [uniforms([seed], [place])[0] for seed, place in zip(seeds, [5, 4, 3, 2, 1, 0], strict=True)]
    assert together.tolist() == alone
    assert ((together > 0) & (together < 1)).all()


@pytest.mark.parametrize(("temperature", "top_p", "top_k"), [*CASES, (0.0, 1.0, 0), (0.0, 0.5, 3)])
def test_a_row_does_not_depend_on_the_batch(temperature: float, top_p: float, top_k: int) -> None:
    rows = torch.stack([logits_of(150, seed) for seed in range(9)])
    numbers = torch.from_numpy(uniforms(range(9), [2] * 9))
    whole = sample(rows, temperature, top_p, top_k, numbers)
    for i in (0, 4, 8):
        alone = sample(rows[i : i + 1], temperature, top_p, top_k, numbers[i : i + 1])
        assert alone[0] == whole[0][i]
        torch.testing.assert_close(torch.cat(alone[1:]), torch.stack([whole[1][i], whole[2][i]]), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("temperature", "top_p", "top_k"), CASES)
def test_reported_logprobs_are_those_before_and_after_truncation(temperature: float, top_p: float, top_k: int) -> None:
    logits = logits_of(150)
    tokens, logprobs, sampled = draw(logits, temperature, top_p, top_k, uniforms(range(300), [0] * 300))
    whole, cut = truncated(logits, temperature, top_p, top_k)
    np.testing.assert_allclose(logprobs.numpy(), np.log(whole[tokens.numpy()]), rtol=0, atol=2e-6)
    np.testing.assert_allclose(sampled.numpy(), np.log(cut[tokens.numpy()]), rtol=0, atol=2e-6)


def test_greedy_takes_the_first_of_the_most_likely_and_reports_temperature_one() -> None:
    logits = torch.tensor([[0.0, 2.0, 2.0, 1.0], [5.0, 2.0, 2.0, 1.0]])
    tokens, logprobs, sampled = sample(logits, 0.0, 0.3, 2, torch.tensor([0.99, 0.01]))
    assert tokens.tolist() == [1, 0]
    torch.testing.assert_close(logprobs, logits.log_softmax(-1)[[0, 1], [1, 0]])
    assert sampled.tolist() == [0, 0]


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
def test_logits_are_left_as_they_were(temperature: float) -> None:
    logits = logits_of(70)[None].repeat(2, 1)
    before = logits.clone()
    sample(logits, temperature, 1.0, 0, torch.tensor([0.2, 0.8]))
    sample(logits, temperature, 0.9, 3, torch.tensor([0.2, 0.8]))
    assert torch.equal(logits, before)


def test_ties_at_the_edge_of_top_k_and_top_p_keep_the_lower_ids() -> None:
    numbers = uniforms(range(500), [0] * 500)
    tokens, *_ = draw(torch.zeros(6), 1.0, 1.0, 2, numbers)
    assert set(tokens.tolist()) == {0, 1}
    tokens, *_ = draw(torch.zeros(8), 1.0, 0.3, 0, numbers)
    assert set(tokens.tolist()) == {0, 1, 2}
    tokens, _, sampled = draw(logits_of(6), 1.0, 1e-9, 0, numbers)
    assert set(tokens.tolist()) == {int(logits_of(6).argmax())}
    assert sampled.abs().max() == 0


def test_top_k_beyond_the_vocabulary_cuts_nothing() -> None:
    numbers = uniforms(range(200), [0] * 200)
    _, logprobs, sampled = draw(logits_of(6), 1.0, 1.0, 100, numbers)
    torch.testing.assert_close(logprobs, sampled, rtol=0, atol=1e-6)


@given(
    size=st.integers(1, 3 * BLOCK),
    seed=st.integers(0, 1000),
    number=st.one_of(
        st.floats(1e-300, 1 - 2**-53), st.sampled_from([2**-54, 2**-30, 1 - 2**-30, 1 - 2**-53, np.nextafter(0, 1)])
    ),
    holes=st.booleans(),
)
@settings(max_examples=100, deadline=None, derandomize=True)
def test_any_number_draws_a_token_that_can_be_drawn(size: int, seed: int, number: float, holes: bool) -> None:
    """Also where whole blocks have no weight: exp underflows to 0 for tokens far below the best."""
    logits = logits_of(size, seed)
    if holes:
        impossible = torch.rand(size, generator=torch.Generator().manual_seed(seed)) < 0.7
        impossible[: 2 * BLOCK] |= seed % 2 == 0
        impossible[int(logits.argmax())] = False
        logits = logits.masked_fill(impossible, -1e4)
    for cut in ((1.0, 0), (0.9, 0), (1.0, 4)):
        tokens, logprobs, sampled = sample(logits[None], 1.0, *cut, torch.tensor([number], dtype=torch.float64))
        assert logits[tokens[0]] > -1e4
        assert torch.isfinite(logprobs).all()
        assert logprobs[0] <= sampled[0] + 1e-6 <= 2e-6


@given(seed=st.integers(0, 1000), number=st.floats(1e-6, 1 - 1e-6), size=st.integers(1, 200))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_draw_is_the_inverse_of_the_cumulative_distribution(seed: int, number: float, size: int) -> None:
    logits = logits_of(size, seed)
    tokens, *_ = draw(logits, 1.0, 1.0, 0, np.array([number]))
    cumulative = np.concatenate(([0.0], np.cumsum(logits.double().softmax(-1).numpy())))
    token = int(tokens[0])
    assert cumulative[token] - 1e-6 <= number <= cumulative[token + 1] + 1e-6


@pytest.mark.parametrize(
    ("temperature", "top_p", "top_k"), [(0.6, 0.95, 0), (1.0, 0.3, 0), (1.0, 1.0, 50), (0.8, 0.9, 9)]
)
@pytest.mark.parametrize("spread", [0.0, 0.5, 6.0])
def test_candidates_are_enough(spread: float, temperature: float, top_p: float, top_k: int) -> None:
    """Draws are those of the whole vocabulary in order, although only what could be kept is sorted; with many ties."""
    rows = torch.stack([(logits_of(3000, seed, spread) * 4).round() / 4 for seed in range(8)])
    rows[3, 17] = 40.0  # one row with a single candidate beside others with many
    numbers = uniforms(range(8), [1] * 8)
    tokens, *_ = sample(rows, temperature, top_p, top_k, torch.from_numpy(numbers))
    for row, number, token in zip(rows, numbers, tokens.tolist(), strict=True):
        cut = truncated(row, temperature, top_p, top_k)[1]
        order = np.argsort(-cut, kind="stable")
        # The engine sums in fp32, and rounding decides whether one token more is in the nucleus.
        near = np.searchsorted(np.cumsum(cut[order]), [number - 5e-4, number + 5e-4])
        assert token in order[int(near[0]) : int(near[1]) + 1]
