"""The natural gradient of TRPO (Schulman et al. 2015, appendix C) without forming a matrix.

Parameters are handled as one flat vector of all their entries. At π = π_old the Hessian H of the
mean KL(π_old‖π) is the Fisher information. Among the steps x with KL ≈ ½ xᵀHx <= δ, the one that
lowers a loss of gradient g the most solves H x = -g up to its length, which makes ½ xᵀHx = δ.
"""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor


def flatten(tensors: Iterable[Tensor]) -> Tensor:
    """All entries as one vector [n]. Gradients flow."""
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def unflatten(vector: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """The inverse of `flatten`: views of `vector` [n], shaped like the tensors of `like`."""
    sizes = [tensor.numel() for tensor in like]
    if vector.shape != (sum(sizes),):
        raise ValueError(f"vector must be [{sum(sizes)}], got {list(vector.shape)}")
    pieces = vector.split(sizes)
    return [piece.view(tensor.shape) for piece, tensor in zip(pieces, like, strict=True)]


def fisher_operator(kl: Tensor, parameters: Sequence[Tensor]) -> Callable[[Tensor], Tensor]:
    """v -> H v, with H the Hessian of `kl`, without forming H (Pearlmutter 1994).

    The gradient of `kl` is taken once, with graph, which is kept; each product is one more backward
    pass, [n] -> [n], and its result has no graph.

    Args:
        kl: a scalar with graph, the mean KL(π_old‖π) in nats. All operations in it must be twice
            differentiable, which fused attention kernels are not: use eager attention.
        parameters: those that π depends on; the KL need not depend on each.
    """
    if kl.ndim:
        raise ValueError(f"kl must be a scalar, got {list(kl.shape)}")
    parameters = list(parameters)
    gradient = flatten(
        torch.autograd.grad(kl, parameters, create_graph=True, materialize_grads=True)
    )

    def product(vector: Tensor) -> Tensor:
        if vector.shape != gradient.shape:
            raise ValueError(f"vector must be {list(gradient.shape)}, got {list(vector.shape)}")
        along = torch.autograd.grad(
            gradient @ vector, parameters, retain_graph=True, materialize_grads=True
        )
        return flatten(along)

    return product


def summed_operator(
    kls: Sequence[Callable[[], Tensor]], parameters: Sequence[Tensor]
) -> Callable[[Tensor], Tensor]:
    """v [n] -> H v [n], with H the Hessian of the sum of several KLs, such as those of
    micro-batches.

    Each of `kls` computes a scalar with graph, its part of the mean. The graph of a single KL is
    kept for all products. Those of several are rebuilt for each product, one after the other, since
    together they would not fit in memory; none give 0.
    """
    if len(kls) == 1:
        return fisher_operator(kls[0](), parameters)

    def product(vector: Tensor) -> Tensor:
        products = [fisher_operator(kl(), parameters)(vector) for kl in kls]
        return sum(products, torch.zeros_like(vector))

    return product


@torch.no_grad()
def conjugate_gradient(
    matvec: Callable[[Tensor], Tensor], b: Tensor, iterations: int = 15, tolerance: float = 1e-10
) -> Tensor:
    """Solve A x = b for symmetric positive definite A (Hestenes & Stiefel 1952), from x = 0. The
    result, x [n], is without gradient.

    Args:
        matvec: v [n] -> A v [n].
        b: [n].
        iterations: the largest number of products; n are enough in exact arithmetic.
        tolerance: stop when the squared norm of the residual is below it.
    """
    if b.ndim != 1:
        raise ValueError(f"b must be a vector, got {list(b.shape)}")
    x = torch.zeros_like(b)
    residual = b.clone()
    direction = residual
    squared_norm = residual @ residual
    for _ in range(iterations):
        if squared_norm < tolerance:
            break
        with torch.enable_grad():  # a Fisher-vector product needs gradients
            product = matvec(direction).detach()
        length = squared_norm / (direction @ product)
        x = x + length * direction
        residual = residual - length * product
        previous, squared_norm = squared_norm, residual @ residual
        direction = residual + squared_norm / previous * direction
    return x


def natural_step_size(delta: float, step: Tensor, hessian_step: Tensor) -> Tensor:
    """sqrt(2 δ / xᵀHx), which scales x to the edge of the trust region ½ xᵀHx = δ.

    ``delta`` is δ in nats, ``step`` and ``hessian_step`` are x and H x, [n]. The result is a
    scalar, and 0 where xᵀHx is not positive: a zero gradient gives no direction to step in.
    """
    if step.ndim != 1 or step.shape != hessian_step.shape:
        raise ValueError(
            f"step and hessian_step must be vectors of one length, got {list(step.shape)} and "
            f"{list(hessian_step.shape)}"
        )
    curvature = step @ hessian_step
    return torch.where(curvature > 0, (2 * delta / curvature).sqrt(), torch.zeros_like(curvature))


def natural_step(
    fisher: Callable[[Tensor], Tensor],
    gradient: Tensor,
    delta: float,
    damping: float = 0.1,
    iterations: int = 15,
) -> Tensor:
    """The step [n] along the natural gradient to the edge of the trust region, without gradient.

    Damping changes only the direction, (H + λI) x = -g, since few samples give an uncertain H. The
    length uses H itself, ½ xᵀHx = δ: with the damped matrix a step would be shorter than δ allows,
    the more the larger λ is than H (Schulman et al. 2015, appendix C, has no damping there).

    Args:
        fisher: v [n] -> H v [n].
        gradient: g [n], of the loss.
        delta: δ, nats.
        damping: λ.
        iterations: of conjugate gradient.
    """
    direction = conjugate_gradient(lambda v: fisher(v) + damping * v, -gradient, iterations)
    return natural_step_size(delta, direction, fisher(direction)) * direction


@torch.no_grad()
def line_search(
    evaluate: Callable[[Tensor], tuple[float, float]],
    step: Tensor,
    loss: float,
    delta: float,
    shrink: float = 0.8,
    tries: int = 10,
) -> float:
    """The first of the fractions 1, 0.8, 0.64, … of `step` that lowers the loss within KL <= δ.

    Args:
        evaluate: a displacement from the old parameters [n] -> (surrogate loss, KL(π_old‖π)) there.
        step: the full displacement [n].
        loss: the surrogate loss without displacement.
        delta: δ, nats.

    Returns:
        The accepted fraction, with which `evaluate` was called last; 0.0 if none is accepted. If
        `evaluate` moves the parameters, set them back then.
    """
    for backtracks in range(tries):
        fraction = shrink**backtracks
        new_loss, kl = evaluate(fraction * step)
        if new_loss < loss and kl <= delta:  # false for NaN
            return fraction
    return 0.0
