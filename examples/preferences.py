"""From preferences to a reward model, to a policy, and back to what was really meant.

    python examples/preferences.py

A judge who likes cheerful texts compares 2,000 pairs of texts, with the noise of people. A reward
model learns from these comparisons alone, and PPO from the reward model. It knows best what it has
seen: so only half of the pairs are texts of the untouched model, and in the other half one text is
of the agent that the first half has led to (Ziegler et al. 2019, section 2.3). The plot shows the
reward model's score (the proxy) and the judge's own score over the KL: where they part, the policy
has found what the reward model gets wrong (Gao et al. 2023). Both curves are in units of the
deviation among the untouched model's texts.
"""

from pathlib import Path
from tempfile import mkdtemp

import numpy as np
from matplotlib.figure import Figure

from agents import PPO, REINFORCE, Agent
from agents.evaluation.plots import read_progress, save_figure
from agents.evaluation.sampling import sample
from agents.preferences.pairs import Preference, label, sample_pairs
from agents.preferences.reward_model import train_reward_model
from agents.runs import RunRecorder
from textenv.lm.loading import hide_progress_bars

JUDGE = "sentiment"
RUN = Path("runs/preferences")


def learned_from(
    preferences: list[Preference], others: list[Preference], tokens: int
) -> tuple[PPO, Path]:
    """An agent that PPO has trained on a reward model of preferences, and this reward model.

    ``others``: that measure the reward model, and from which nothing is learned.
    """
    model = train_reward_model(preferences, "bundled", eval_preferences=others)
    folder = Path(mkdtemp()) / "reward-model"
    model.save(folder)
    print(f"reward model: {model.accuracy} of {len(others)} other pairs right; a perfect judge "
          f"{model.ceiling:.3f}")  # fmt: skip
    agent = PPO(
        "CausalLMPolicy", "TextGen-v0", seed=0, device="cpu",
        env_kwargs={
            # The judge is only recorded: its weight is 0.
            "reward": {str(folder): 1.0, JUDGE: 0.0}, "reference": "bundled", "kl_coef": 0.05,
        },
    )  # fmt: skip
    agent.learn(tokens, RunRecorder(RUN, overwrite=True), progress_bar=True)
    return agent, folder


def main(
    pairs: int = 2000, tokens: int = 80_000, temperature: float = 0.2, texts: int = 1000
) -> None:
    hide_progress_bars()
    untouched = REINFORCE("CausalLMPolicy", "TextGen-v0", n_envs=8, env_kwargs={"reward": JUDGE})

    def judged(agent: Agent, seed: int) -> list[Preference]:
        """Half of the pairs, of the untouched model and an agent."""
        return label(sample_pairs(untouched, agent, pairs // 2, seed), temperature, seed)

    learned, others = judged(untouched, 0), judged(untouched, 1)
    agent, _ = learned_from(learned, others, tokens // 2)
    learned, others = learned + judged(agent, 2), others + judged(agent, 3)
    _, folder = learned_from(learned, others, tokens)
    plot(str(folder), untouched, texts)


def plot(proxy: str, untouched: Agent, texts: int) -> None:
    """Proxy and judge over the KL of the last run."""
    progress = read_progress(RUN / "progress.csv")
    kl = progress["rollout/kl"]
    figure = Figure(figsize=(5.5, 3.6), layout="constrained")
    axes = figure.subplots()
    last = []
    titles = {proxy: "reward model (what is maximised)", JUDGE: "judge (what is meant)"}
    for name, title in titles.items():
        before = np.array(sample(untouched, texts, seed=4, reward=name).scores)
        curve = (progress[f"rollout/score/{name}"] - before.mean()) / before.std()
        axes.plot(kl, curve, label=title)
        last.append(curve[-1])
    print(f"after {kl[-1]:.1f} nats: proxy {last[0]:+.2f}, judge {last[1]:+.2f} deviations")
    axes.set(xlabel="KL to the untouched model, nats per episode", ylabel="mean score, deviations")
    axes.legend(frameon=False, loc="upper left")
    print("plot ", save_figure(figure, "runs/preferences.png"))


if __name__ == "__main__":
    main()
