"""The mathematics of policy gradients: plain tensors in, plain tensors out.

    advantages        what Ψ_t is: returns, baselines, GAE, group-relative, leave-one-out
    surrogates        per-step losses whose gradient is the policy gradient; sampled KLs
    critic_losses     per-step losses of the value function
    reductions        how per-step losses become one number
    natural_gradient  Fisher-vector product, conjugate gradient, line search

Notation: B rows of T steps; `mask` [B, T] is True where a step counts; log-probs and KLs are in
nats; a step is one token when the environment is text. Surrogates and critic losses are losses to
minimise and keep the shape of their input: the reduction is a separate call. The modules are the
public names; use them as in `surrogates.clipped(...)` and `reductions.token_mean(...)`.
"""

from agents.functional import advantages, critic_losses, natural_gradient, reductions, surrogates

__all__ = ["advantages", "critic_losses", "natural_gradient", "reductions", "surrogates"]
