"""A custom reward in five lines, a custom environment in five more, and a minute of PPO.

    python examples/custom_reward.py

The reward is for alliteration: with four words that begin with the same letter as the last word of
the prompt, the score is 1.
"""

import gymnasium as gym
from matplotlib.figure import Figure

from agents import PPO
from agents.evaluation import evaluate_text
from agents.evaluation.plots import read_progress, save_figure
from agents.runs import RunRecorder
from textenv.lm.loading import hide_progress_bars


def alliteration(prompt: str, response: str) -> float:
    letter = prompt.split()[-1][0].lower()
    words = response.lower().split()
    hits = sum(word.startswith(letter) for word in words)
    return min(hits / 4, 1.0)


gym.register(
    id="Alliteration-v0",
    entry_point="textenv:TextGenEnv",
    vector_entry_point="textenv:TextGenVectorEnv",
    kwargs={"reward": alliteration, "no_stop_penalty": 0.5},  # sentences should end
)


def main(tokens: int = 40_000, episodes: int = 256) -> None:
    hide_progress_bars()
    agent = PPO(
        "CausalLMPolicy", "Alliteration-v0", seed=0, device="cpu", n_envs=128,
        env_kwargs={"reference": "bundled", "kl_coef": 0.02},
        # The presets were chosen for sentiment. Here few episodes have a score, so that the
        # gradient is smaller than their epsilon, and more steps are needed.
        learning_rate=1e-3, adam_epsilon=1e-5, n_epochs=2,
    )  # fmt: skip
    results = {"before": evaluate_text(agent, agent.env, episodes)}
    recorder = RunRecorder("runs/alliteration", overwrite=True)  # log, completions, checkpoints
    agent.learn(tokens, recorder, progress_bar=True)
    results["after"] = evaluate_text(agent, agent.env, episodes)
    for name, result in results.items():
        print(f"\n{name}: score {result.scores.mean():.2f}, KL {result.kls.mean():z.1f} nats")
        for i in range(6):
            print(f"  {result.scores[i]:5.2f}  {result.prompts[i]} |{result.responses[i]}")

    progress = read_progress("runs/alliteration/progress.csv")
    figure = Figure(figsize=(5.5, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.plot(progress["time/total_timesteps"], progress["rollout/score_mean"], color="tab:blue")
    axes.set(xlabel="tokens", ylabel="score, mean of a rollout", title="Learning to alliterate")
    print("plot ", save_figure(figure, "runs/custom_reward.png"))


if __name__ == "__main__":
    main()
