"""A classifier is found in a folder, as a live model, in a pipeline and by a hub id."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers

import textenv.lm.classifier
from textenv.lm.loading import load_tokenizer
from textenv.rewards import resolve_reward, score_episodes
from textenv.rewards.classifier_reward import ClassifierReward
from textenv.sharing import in_spec


@pytest.fixture
def folder(tokenizer, tmp_path, make_bert):
    make_bert().save_pretrained(tmp_path / "judge")
    tokenizer.save_pretrained(tmp_path / "judge")
    return tmp_path / "judge"


def test_every_form_of_a_model_gives_the_same_scores(folder, tokenizer, episodes, make_bert):
    expected = score_episodes(ClassifierReward(make_bert(), tokenizer), episodes)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    pipeline = transformers.pipeline("text-classification", model=model, tokenizer=tokenizer)
    for source in [str(folder), folder, model, pipeline, ClassifierReward(model, tokenizer)]:
        reward = resolve_reward(source, device="cpu")
        assert reward.name == str(folder)
        assert score_episodes(reward, episodes) == pytest.approx(expected, abs=1e-6)


def test_a_name_of_a_reward_wins_over_a_folder_of_that_name(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    folder.rename("length")
    for name in ("length", "length(20)", " length "):
        assert not isinstance(resolve_reward(name).function, ClassifierReward)
    for path in ("./length", Path("length"), str(Path("length").resolve())):
        assert isinstance(resolve_reward(path).function, ClassifierReward)
    # A specification that is written as JSON tells them apart as well.
    assert in_spec("reward", Path("length")) == "./length" != in_spec("reward", "length")


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"cannot be loaded as a sequence-classification model"):
        resolve_reward(tmp_path)


def test_a_model_without_a_trained_head_is_refused(folder, make_bert):
    make_bert().bert.save_pretrained(folder)
    with pytest.raises(ValueError, match=r"lacks the weights \['classifier.bias', .*: choose a"):
        resolve_reward(folder)


def test_weights_that_would_have_to_be_unpickled_are_refused(folder, make_bert):
    (folder / "model.safetensors").unlink()
    torch.save(make_bert().state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"cannot be loaded as a sequence-classification model"):
        resolve_reward(folder)


def test_a_live_model_from_nowhere_needs_its_tokenizer(make_bert):
    with pytest.raises(
        ValueError,
        match=r"is a BertForSequenceClassification whose tokenizer is unknown: "
        r"pass ClassifierReward\(model, tokenizer\) instead",
    ):
        resolve_reward(make_bert())


def test_a_model_without_tokenizer_beside_it_is_refused(folder):
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    for file in folder.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(ValueError, match=r"where no tokenizer can be loaded .*: pass Classifier"):
        resolve_reward(model)
    with pytest.raises(ValueError, match=r"^reward=.* has no tokenizer beside the model"):
        resolve_reward(folder)


def test_the_tokenizer_of_another_model_is_refused(folder):
    load_tokenizer("bundled").save_pretrained(folder)
    with pytest.raises(ValueError, match=r"knows 10 tokens, and its tokenizer has 1536: it is"):
        resolve_reward(folder)


def test_a_pipeline_for_something_else_is_refused(tokenizer, make_bert):
    model = transformers.BertModel(make_bert().config)
    pipeline = transformers.pipeline("feature-extraction", model=model, tokenizer=tokenizer)
    with pytest.raises(ValueError, match=r"pipeline for 'feature-extraction': pass one for 'text-"):
        resolve_reward(pipeline)


def test_a_hub_id_is_looked_up(monkeypatch, tokenizer, episodes, make_bert):

    requests = []

    def load_classifier(source, device):
        requests.append((source, device))
        return make_bert(), tokenizer

    monkeypatch.setattr(textenv.lm.classifier, "load_classifier", load_classifier)
    reward = resolve_reward("some-owner/some.model", device="cpu")
    assert reward.name == "some-owner/some.model"
    assert score_episodes(reward, episodes).shape == (3,)
    assert requests == [("some-owner/some.model", "cpu")]
