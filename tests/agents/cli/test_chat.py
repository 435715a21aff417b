"""``--chat``: saved with a run, so that every later command has it."""

from __future__ import annotations

import json
import re
import shutil

import pytest
from transformers import AutoTokenizer

from agents.cli import main

PROMPTS = {"[a b]", "[c]", "[b a c a]"}  # of `small`, as the template of `chat_model` writes them


@pytest.fixture
def chat_model(model_folder, tmp_path):
    """A tiny model whose tokenizer has a chat template."""
    folder = tmp_path / "model"
    shutil.copytree(model_folder, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = "{% for m in messages %}{{ '[' + m['content'] + ']' }}{% endfor %}"
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def prompts_of():
    """The prompts of the episodes that a run has saved after learning."""

    def read(run):
        with open(run / "episodes_after.jsonl", encoding="utf-8") as lines:
            return {json.loads(line)["prompt"] for line in lines}

    return read


def test_evaluate_and_resume_have_it(chat_model, small, tmp_path, printed, prompts_of, read_table):
    run, other = tmp_path / "run", tmp_path / "other.txt"
    options = ["--model", chat_model, "--chat", "--agent", "reinforce", "--output", str(run)]
    text = printed("train", *small, *options)
    assert json.loads((run / "settings.json").read_text())["options"]["chat"] is True
    assert prompts_of(run) and prompts_of(run) <= PROMPTS
    again = read_table(printed("evaluate", str(run), "--device", "cpu"))
    assert again == {key: [cells[1]] for key, cells in read_table(text).items()}
    other.write_text("a\n")
    text = printed("evaluate", str(run), "--device", "cpu", "--prompts", str(other))
    assert " a  ▸ " in text and "[a]" not in text  # as it was asked, not as the model reads it
    page = run.parent / "page.html"
    main(["report", str(run), "--device", "cpu", "--heat-maps", "1", "--output", str(page)])
    asked = re.findall(r'<p class="prompt">(.*?)</p>', page.read_text())
    assert len(asked) > 3 and set(asked) <= {prompt.strip("[]") for prompt in PROMPTS}
    (run / "episodes_after.jsonl").unlink()
    main(["train", "--resume", str(run), "--total-timesteps", "150", "--device", "cpu"])
    assert prompts_of(run) and prompts_of(run) <= PROMPTS


def test_compare_has_it(chat_model, small, tmp_path, prompts_of):
    options = [*small, "--model", chat_model, "--agents", "reinforce", "--seeds", "2"]
    main(["compare", *options, "--chat", "--output", str(tmp_path / "runs")])
    for seed in (0, 1):
        run = tmp_path / "runs" / f"reinforce-{seed}"
        assert prompts_of(run) and prompts_of(run) <= PROMPTS


def test_a_model_without_a_template_is_refused_in_one_sentence(small, tmp_path):
    with pytest.raises(
        SystemExit, match=r"^The tokenizer '.*tiny' has no chat template, which prompts\[0\], a "
    ):
        main(["train", *small, "--chat", "--output", str(tmp_path / "run")])
