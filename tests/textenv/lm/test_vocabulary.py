"""A model and a tokenizer that do not belong together are refused by a token that differs."""

from __future__ import annotations

import copy
import json
import re

import pytest
import torch
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from textenv import AdaptiveKL
from textenv.lm import load_model, load_tokenizer
from textenv.lm.vocabulary import check_same_tokenizer, own_tokenizer

DIFFERS = (
    r"was made for another tokenizer than the environment's: 'A' is id 34 in the environment and "
    r"has id 35 there \(2 of 259 tokens differ\)\. Give the environment tokenizer='{}'"
)


@pytest.fixture(scope="session")
def other_tokenizer(tokenizer):
    """The tokenizer with "A" and "B" exchanged: as many tokens, and all but two of the same id."""
    data = json.loads(tokenizer.backend_tokenizer.to_str())
    vocabulary = data["model"]["vocab"]
    vocabulary["A"], vocabulary["B"] = vocabulary["B"], vocabulary["A"]
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(data)), eos_token="<end>", pad_token="<end>"
    )


@pytest.fixture
def save(tmp_path, make_model):
    """A folder with a tiny model and, where one is given, a tokenizer beside it."""

    def write(name, tokenizer=None, model=None):
        folder = tmp_path / name
        (model or make_model(seed=3)).save_pretrained(folder)
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)
        return str(folder)

    return write


class Policy:
    """No more of a policy than what is bound."""

    action_record = None

    def __init__(self, model):
        self.model = model


@pytest.mark.parametrize("num_envs", [2, None])
def test_a_reference_of_another_tokenizer_is_refused(num_envs, make_small, save, other_tokenizer):
    folder = save("other", other_tokenizer)
    for reference in (folder, load_model(folder)):
        with pytest.raises(ValueError, match="^The reference " + DIFFERS.format(re.escape(folder))):
            make_small(num_envs, reference=reference)


def test_the_bundled_reference_needs_the_bundled_tokenizer(make_small):
    with pytest.raises(
        ValueError,
        match=r"The reference was made for another tokenizer .* Give the environment "
        r"tokenizer='bundled', or take a model of the environment's tokenizer",
    ):
        make_small(reference="bundled")
    assert make_small(tokenizer="bundled", reference="bundled").task.reference is not None


@pytest.mark.parametrize("num_envs", [2, None])
@pytest.mark.parametrize("with_reference", [False, True])
def test_a_policy_of_another_tokenizer_is_refused(
    num_envs, with_reference, make_small, make_model, save, other_tokenizer
):
    env = make_small(num_envs, reference=make_model() if with_reference else None)
    folder = save("other", other_tokenizer)
    with pytest.raises(ValueError, match="^The policy " + DIFFERS.format(re.escape(folder))):
        env.bind(Policy(load_model(folder)))


def test_the_same_tokenizer_passes(make_small, save, tokenizer):
    reference, model = save("reference", tokenizer), load_model(save("policy", tokenizer))
    env = make_small(reference=reference)
    env.bind(Policy(model))
    again = make_small(tokenizer=reference, reference=reference)
    again.bind(Policy(model))
    assert again.shaping.policy.model is model


def test_a_model_whose_tokenizer_is_unknown_passes(make_small, make_model, save, other_tokenizer):
    bare = load_model(save("bare"))
    assert own_tokenizer(bare) is None and own_tokenizer(make_model()) is None
    for reference in (bare, make_model()):
        env = make_small(reference=reference)
        env.bind(Policy(load_model(save("bare"))))
    env.bind(Policy(None))
    env.bind(None)
    # Nothing is downloaded to find out.
    model = make_model()
    model.config.name_or_path = "some-owner/some-model"
    assert own_tokenizer(model) is None


def test_tokens_that_were_added_later_may_differ(make_small, make_model, save, tokenizer):
    longer = copy.deepcopy(tokenizer)
    longer.add_tokens(["<think>", "<answer>"])
    model = make_model(vocab_size=261)
    own, added = load_model(save("own", tokenizer, model)), load_model(save("added", longer, model))
    make_small(tokenizer=longer, reference=own)
    make_small(tokenizer=tokenizer, reference=added)
    swapped = copy.deepcopy(tokenizer)
    swapped.add_tokens(["<answer>", "<think>"])
    make_small(tokenizer=swapped, reference=added)


def test_a_token_that_the_model_lacks_is_named(make_model, save, tokenizer):
    data = json.loads(tokenizer.backend_tokenizer.to_str())
    data["model"]["vocab"]["abc"] = 259
    longer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(data)), eos_token="<end>"
    )
    model = load_model(save("own", tokenizer, make_model(vocab_size=260)))
    with pytest.raises(ValueError, match=r"'abc' is id 259 in the environment and has no id at al"):
        check_same_tokenizer(longer, model, "The policy")
    # The other way round every token of the environment is known there.
    check_same_tokenizer(tokenizer, load_model(save("longer", longer)), "The policy")


def test_a_model_remembers_where_it_came_from(make_model, save, tokenizer, tmp_path, monkeypatch):
    folder = save("model", tokenizer)
    model = load_model(folder)
    assert model.loaded_from == folder and load_tokenizer(folder).loaded_from == folder
    assert own_tokenizer(model).get_vocab() == tokenizer.get_vocab()
    assert own_tokenizer(model) is own_tokenizer(model)  # read once
    assert own_tokenizer(load_model("bundled")).loaded_from == "bundled"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert own_tokenizer(load_model("~/model")).get_vocab() == tokenizer.get_vocab()


def test_adapters_of_peft_belong_to_the_tokenizer_of_their_base(
    make_small, make_model, save, tokenizer, other_tokenizer
):
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(target_modules=["q_proj", "v_proj"])
    env = make_small(reference=make_model(), kl_coef=AdaptiveKL())
    env.bind(Policy(peft.get_peft_model(load_model(save("same", tokenizer)), config)))
    wrapped = peft.get_peft_model(load_model(save("other", other_tokenizer)), config)
    with pytest.raises(ValueError, match=r"The policy was made for another tokenizer"):
        env.bind(Policy(wrapped))
    assert next(wrapped.parameters()).device == torch.device("cpu")
