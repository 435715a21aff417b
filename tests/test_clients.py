"""The page of other clients: each block runs as a script, and the checks after it hold."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "examples" / "clients.md").read_text()
BLOCKS = re.findall(r"^```python\n(.+?)^```", PAGE, re.DOTALL | re.MULTILINE)

# What a video of the page shows: the text grows.
VIDEO = """
import glob
from moviepy import VideoFileClip

def check(folder, columns, rows):
    [file] = glob.glob(f"{folder}/*.mp4")
    with VideoFileClip(file) as video:
        frames = list(video.iter_frames())
        assert video.w == 672 * columns and video.h == 128 * rows, video.size
    assert len(frames) >= 24, len(frames)
    assert (frames[0] < 100).sum() < (frames[-2] < 100).sum()
"""
# The blocks in the order of the page; what must be true after each; what it needs but does not
# import.
CHECKS = {
    "gymnasium": """
        numbers = [value for key, value in info.items() if key != "episode"]
        assert len(numbers) == 4 and all(value.shape == () for value in numbers)
        assert truncated == (info["episode"]["l"] == 12 and not terminated)
    """,
    "gymnasium vector": """
        assert terminated.all() and observation["input_ids"].shape[0] == 2
        assert infos["score"].dtype == torch.float64 and infos["response_length"].max() <= 8
    """,
    "gymnasium videos": VIDEO + "check('runs/video', 1, 1)\ncheck('runs/videos', 2, 2)",
    "gymnasium window": """
        import pygame
        assert type(env).__name__ == "HumanRendering" and not pygame.display.get_init()
    """,
    "stable-baselines3 with the cache": """
        assert model.num_timesteps == 384 and -4 < mean < 1
    """,
    "stable-baselines3": """
        assert agent.num_timesteps >= 500 and -1 <= mean <= 1
    """,
    "stable-baselines3 video": VIDEO + "check('runs/sb3', 2, 2)",
    "sb3-contrib": """
        assert agent.num_timesteps == 256 and "train/policy_objective" in agent.logger.name_to_value
    """,
    "torchrl": """
        assert rollout["next", "done"].sum() >= 2 and rollout["next", "score"].shape == (20,)
        done = data["next", "done"][..., 0]
        scores, rewards = data["next", "score"].flatten(), data["next", "reward"].flatten()
        assert done.any() and torch.equal(scores.float(), rewards.float())
    """,
    "tianshou": """
        assert result.train_step == 512 and result.update_step == 4
        assert sum(p.grad is not None for p in ppo.parameters()) == 2
    """,
    "minari": """
        assert dataset.total_episodes == 4
        finals = [episode.infos["score"][-1] for episode in dataset]
        assert finals == [episode.rewards[-1] for episode in dataset]
        lengths = [episode.infos["score_length(8)"][-1] for episode in dataset]
        sentiments = [episode.infos["score_sentiment"][-1] for episode in dataset]
        assert finals == [a + 0.5 * b for a, b in zip(lengths, sentiments)] and min(lengths) > 0
    """,
    "gem": """
        assert info["reply"].startswith("\\nAt turn 1, you guessed 5") and reward == 0.0
    """,
    "textarena": """
        assert replies and all("[GAME]" in reply for reply in replies)
    """,
    "reasoning-gym": """
        assert terminated and info["turns"] == 2 and reward == 0.9 == info["score"]
    """,
    "cleanrl": "assert np.mean(envs.return_queue) > 0.8",
}
NEEDS = {
    "gymnasium": ("array_api_compat",),
    "gymnasium vector": ("array_api_compat",),
    "gymnasium videos": ("moviepy",),
    "gymnasium window": ("pygame",),
    "stable-baselines3 video": ("moviepy",),
    "minari": ("h5py", "jax"),
}
SLOW = {"cleanrl"}  # it learns
# What starts no processes, and changes nothing in this one.
HERE = {
    "gymnasium", "gymnasium vector", "stable-baselines3 with the cache", "stable-baselines3",
    "sb3-contrib",
}  # fmt: skip


def test_every_block_of_the_page_has_its_checks():
    assert len(BLOCKS) == len(CHECKS)


@pytest.mark.parametrize(
    ("name", "block"),
    [
        pytest.param(name, block, id=name, marks=[pytest.mark.slow] if name in SLOW else [])
        for name, block in zip(CHECKS, BLOCKS, strict=False)
    ],
)
def test_a_client_drives_the_environments(
    name, block, tmp_path, monkeypatch, skip_without_packages
):
    skip_without_packages(block, *NEEDS.get(name, ()))
    # Clients that start processes import the script in each of them.
    checks = textwrap.indent("import torch\n" + textwrap.dedent(CHECKS[name]), "    ")
    script = f'{block}\n\nif __name__ == "__main__":\n{checks}\n'
    if name in HERE:
        (tmp_path / "client.py").write_text(script)
        monkeypatch.chdir(tmp_path)
        with torch.random.fork_rng(devices=[]):
            runpy.run_path(str(tmp_path / "client.py"), run_name="__main__")
        return
    run(script, tmp_path)


# Eight tokens as two turns of four.
TURNS = {
    "respond": "lambda episode: ' and'", "max_turns": "2", "max_turn_tokens": "4",
    "max_new_tokens": "8",
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gymnasium vector", "stable-baselines3", "torchrl", "cleanrl"])
def test_a_client_drives_dialogues(name, tmp_path, skip_without_packages):
    block = dict(zip(CHECKS, BLOCKS, strict=True))[name]
    skip_without_packages(block, *NEEDS.get(name, ()))
    arguments = ", ".join(f"{key}={value}" for key, value in TURNS.items())
    entries = ", ".join(f'"{key}": {value}' for key, value in TURNS.items())
    turns = block.replace("max_new_tokens=8", arguments)
    turns = turns.replace('"max_new_tokens": 8', entries)
    assert turns != block
    checks = CHECKS[name] if name == "torchrl" else ""
    checks = textwrap.indent("import torch\n" + textwrap.dedent(checks), "    ")
    run(f'{turns}\n\nif __name__ == "__main__":\n{checks}\n', tmp_path)


def run(script: str, folder: Path) -> None:
    """Run a script in a process of its own."""
    (folder / "client.py").write_text(script)
    done = subprocess.run(
        [sys.executable, "client.py"],
        cwd=folder, capture_output=True, text=True, timeout=300,
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(ROOT),
            "SDL_VIDEODRIVER": "dummy",
            "MINARI_DATASETS_PATH": str(folder / "datasets"),
        },
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    assert "render_mode" not in done.stderr, done.stderr[-4000:]
