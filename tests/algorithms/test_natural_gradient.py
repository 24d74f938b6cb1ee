"""Conjugate gradients and the Fisher matrix of a softmax against dense algebra in fp64."""

from __future__ import annotations

import pytest
import torch

from rethink.algorithms.natural_gradient import conjugate_gradients, fisher_of_logits, kl_of_logits


def test_conjugate_gradients_solve_a_dense_system() -> None:
    dice = torch.Generator().manual_seed(0)
    root = torch.randn(7, 7, generator=dice, dtype=torch.float64)
    matrix, target = root @ root.t() + 0.1 * torch.eye(7), torch.randn(7, generator=dice, dtype=torch.float64)

    def product(v: object) -> dict[str, torch.Tensor]:
        image = matrix @ torch.cat([v["a"], v["b"]])  # type: ignore[index]
        return {"a": image[:3], "b": image[3:]}

    found = conjugate_gradients(product, {"a": target[:3], "b": target[3:]}, 20, 1e-24)
    exact = torch.linalg.solve(matrix, target)
    x = torch.cat([found.x["a"], found.x["b"]])
    assert torch.allclose(x, exact, rtol=1e-9)
    assert found.curvature == pytest.approx(float(exact @ matrix @ exact), rel=1e-9)
    assert found.residual < 1e-9
    part = conjugate_gradients(product, {"a": target[:3], "b": target[3:]}, 2)
    y = torch.cat([part.x["a"], part.x["b"]])
    assert part.curvature == pytest.approx(float(y @ matrix @ y), rel=1e-9)
    assert part.residual == pytest.approx(float((target - matrix @ y).norm() / target.norm()), rel=1e-9)


def test_the_fisher_matrix_is_the_hessian_of_the_kl() -> None:
    logits = torch.tensor([[0.3, -1.0, 0.8, 0.1], [2.0, 0.0, -0.5, 1.0]], dtype=torch.float64)
    change = torch.tensor([[1.0, 0.2, -0.4, 0.7], [-0.3, 0.9, 0.1, -2.0]], dtype=torch.float64)
    moved = fisher_of_logits(logits, change)
    for row in range(2):
        hessian = torch.autograd.functional.hessian(
            lambda z, row=row: kl_of_logits(logits[row : row + 1], z[None])[0], logits[row]
        )
        assert torch.allclose(moved[row], hessian @ change[row], atol=1e-12)
    assert kl_of_logits(logits, logits).abs().max() < 1e-15
    p, q = logits.softmax(-1), (logits + change).softmax(-1)
    assert torch.allclose(kl_of_logits(logits, logits + change), (p * (p / q).log()).sum(-1))
