"""The log-derivative trick, checked by enumeration: ∇ Σ π(τ) R(τ) = E[R(τ) ∇log π(τ)].

    python examples/log_derivative_trick.py

The bundled model may generate two of ten words after "The film is". All 100 responses can be
listed, so both sides are known exactly, and so is the error of the mean of N samples, which
decreases as 1 / √N.

It prints two norms of the gradient. The first is over all weights, and it is the slope along the
gradient: ∇J·∇J / ‖∇J‖ = ‖∇J‖. The second, also the dashed line of the plot, is over the weights of
one layer, because the errors need a gradient for each of the 100 responses, and one of a layer is
enough to see them. It is smaller because it is the norm of a part of the same vector.
"""

from itertools import product
from types import SimpleNamespace

import numpy as np
import torch
from matplotlib.figure import Figure
from torch.nn.utils import parameters_to_vector, vector_to_parameters
from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

from agents import REINFORCE
from agents.evaluation.plots import save_figure
from textenv.lm.loading import hide_progress_bars, load_tokenizer

PROMPT = "The film is"
WORDS = ["not", "so", "very", "good", "great", "beautiful", "funny", "bad", "boring", "terrible"]
analyzer = SentimentIntensityAnalyzer()


def reward(prompt: str, response: str) -> float:
    return analyzer.polarity_scores(response)["compound"]


def main(rollouts: int = 8, rows: int = 2048) -> None:
    hide_progress_bars()
    tokenizer = load_tokenizer("bundled")
    ids = [tokenizer.encode(f" {word}", add_special_tokens=False)[0] for word in WORDS]
    agent = REINFORCE(
        "CausalLMPolicy", "TextGen-v0", n_envs=rows, seed=0, device="cpu",
        env_kwargs={"prompts": [PROMPT], "max_new_tokens": 2, "reward": reward},
        policy_kwargs={"banned_tokens": sorted(set(range(len(tokenizer))) - set(ids))},
    )  # fmt: skip
    samples = torch.cat([agent.collect().actions for _ in range(rollouts)])

    # All responses instead of the sampled ones; their probabilities and their rewards.
    texts = [" ".join(pair) for pair in product(WORDS, WORDS)]
    actions = torch.tensor(list(product(ids, ids)))
    prompt = torch.tensor(tokenizer.encode(PROMPT))
    observations = {"input_ids": torch.cat([prompt.expand(len(actions), -1), actions], dim=1),
                    "prompt_lengths": torch.full((len(actions),), len(prompt))}  # fmt: skip
    rewards = torch.tensor([reward(PROMPT, text) for text in texts])

    def log_probs():
        counted = torch.ones_like(actions, dtype=torch.bool)
        batch = SimpleNamespace(observations=observations, actions=actions, mask=counted)
        return agent.policy.evaluate(batch).log_probs.sum(dim=1)

    def gradient(scalar, parameters):
        return parameters_to_vector(torch.autograd.grad(scalar, parameters, retain_graph=True))

    logs = log_probs()
    probabilities = logs.detach().exp()
    print(f"100 responses, probabilities sum to {probabilities.sum():.6f}. The likeliest:")
    for i in probabilities.argsort(descending=True)[:6]:
        print(f"  {probabilities[i]:.3f}  reward {rewards[i]:+.2f}  {PROMPT} {texts[i]}")

    # The slope of Σ π R along E[R ∇log π], measured by a central difference.
    weights = agent.policy.actor_parameters()
    trick = gradient((probabilities * rewards) @ logs, weights)
    start, step = parameters_to_vector(weights).detach(), 1e-3 * trick / trick.norm()
    values = []
    for there in (start + step, start - step, start):
        vector_to_parameters(there, weights)
        values.append((log_probs().detach().exp() @ rewards).item())
    slope = (values[0] - values[1]) / (2 * step.norm().item())
    print(f"‖E[R ∇log π]‖ = {trick.norm():.4f}; the slope of Σ π R along it {slope:.4f}")

    # R ∇log π of one sample, for each response; only for the weights of one layer, to save time.
    layer = [agent.policy.body.norm.weight]
    each = rewards[:, None] * torch.stack([gradient(one, layer) for one in logs])
    exact = probabilities @ each
    part = gradient((probabilities * rewards) @ logs, layer)
    print(f"its part in the {len(exact)} weights of the last norm layer: {exact.norm():.4f} as a "
          f"sum over responses, {part.norm():.4f} as a part of the whole gradient")  # fmt: skip
    variance = (probabilities @ each.square() - exact.square()).sum().item()
    drawn = [ids.index(one) * len(ids) + ids.index(two) for one, two in samples.tolist()]
    sizes = np.array([4**k for k in range(1, 7) if 4 ** (k + 1) <= len(drawn)])
    expected, errors = np.sqrt(variance / sizes), []
    print("\n     N   error of the mean of N samples   √(variance / N)")
    for size, error in zip(sizes, expected, strict=True):
        means = each[torch.tensor(drawn)].unflatten(0, (-1, int(size))).mean(dim=1)
        errors.append((means - exact).square().sum(dim=1).mean().sqrt().item())
        print(f"{size:6}   {errors[-1]:30.5f}   {error:15.5f}")

    draw(sizes, expected, errors, exact.norm().item())


def draw(sizes: np.ndarray, expected: np.ndarray, errors: list[float], norm: float) -> None:
    figure = Figure(figsize=(5.5, 3.8), layout="constrained")
    axes = figure.subplots()
    axes.loglog(sizes, expected, color="black", label="√(variance / N), exact")
    axes.loglog(sizes, errors, "o", color="tab:orange", label="sampled by the agent")
    axes.axhline(norm, color="grey", linestyle="--", label="norm of the exact gradient (one layer)")
    axes.set(xlabel="samples N", ylabel="distance to the exact gradient")
    print("plot ", save_figure(figure, "runs/log_derivative_trick.png"))


if __name__ == "__main__":
    main()
