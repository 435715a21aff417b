from __future__ import annotations

import warnings

import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from textenv.rewards import RewardError, resolve_reward, score_episodes
from textenv.rewards.classifier import ClassifierReward

WORDS = ["[PAD]", "[UNK]", "[CLS]", "good", "bad", "sea", "sky", "write", "about", "it"]


@pytest.fixture
def tokenizer():
    backend = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing("[CLS] $A", None, [("[CLS]", 2)])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]"
    )


def make_bert(labels=("NEGATIVE", "POSITIVE", "NEUTRAL"), **config):
    torch.manual_seed(0)
    return transformers.BertForSequenceClassification(
        transformers.BertConfig(
            vocab_size=len(WORDS),
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            max_position_embeddings=8,
            initializer_range=0.2,  # Not so small, or so large, that all texts score alike.
            id2label=dict(enumerate(labels)),
            **config,
        )
    ).eval()


def make_gpt2(pad_token_id):
    torch.manual_seed(0)
    return transformers.GPT2ForSequenceClassification(
        transformers.GPT2Config(
            vocab_size=len(WORDS),
            n_positions=8,
            n_embd=16,
            n_layer=1,
            n_head=2,
            initializer_range=1.0,
            num_labels=1,
            pad_token_id=pad_token_id,
            bos_token_id=2,
            eos_token_id=2,
        )
    ).eval()


@torch.no_grad()
def logits_of(model, *ids):
    """The logits of a single text, without padding."""
    return model(torch.tensor([ids])).logits[0].double()


@pytest.fixture
def episodes(make_episodes):
    return make_episodes("good", "bad sky it", "", prompt="write sea ")


CLS, GOOD, BAD, SEA, SKY, WRITE, IT = (
    WORDS.index(word) for word in ["[CLS]", "good", "bad", "sea", "sky", "write", "it"]
)
FULL_IDS = [
    [CLS, WRITE, SEA, GOOD],
    [CLS, WRITE, SEA, BAD, SKY, IT],
    [CLS, WRITE, SEA],
]


def test_the_default_is_the_probability_of_positive_of_the_full_text(tokenizer, episodes):
    model = make_bert()
    expected = [logits_of(model, *ids).softmax(-1)[1].item() for ids in FULL_IDS]
    assert len({round(score, 4) for score in expected}) == 3  # Mixed-up texts would be noticed.
    scores = score_episodes(ClassifierReward(model, tokenizer), episodes)
    assert scores == pytest.approx(expected, abs=1e-6)


def test_the_response_alone(tokenizer, episodes):
    model = make_bert()
    expected = [logits_of(model, CLS, *ids[3:]).softmax(-1)[1].item() for ids in FULL_IDS]
    scores = score_episodes(ClassifierReward(model, tokenizer, text="response"), episodes)
    assert scores == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("labels", "label", "index"),
    [
        (("NEGATIVE", "POSITIVE", "NEUTRAL"), None, 1),
        (("positive", "negative"), None, 0),
        (("toxic", "fine"), None, 1),
        (("toxic", "fine"), "toxic", 0),
        (("toxic", "fine"), 0, 0),
    ],
)
def test_the_label(labels, label, index, tokenizer, episodes):
    model = make_bert(labels)
    expected = [logits_of(model, *ids).softmax(-1)[index].item() for ids in FULL_IDS]
    scores = score_episodes(ClassifierReward(model, tokenizer, label), episodes)
    assert scores == pytest.approx(expected, abs=1e-6)


def test_the_logit_of_a_label(tokenizer, episodes):
    model = make_bert()
    expected = [logits_of(model, *ids)[2].item() for ids in FULL_IDS]
    reward = ClassifierReward(model, tokenizer, label="NEUTRAL", activation="logit")
    assert score_episodes(reward, episodes) == pytest.approx(expected, abs=1e-5)


def test_labels_that_do_not_exclude_each_other_have_sigmoids(tokenizer, episodes):
    model = make_bert(("toxic", "rude"), problem_type="multi_label_classification")
    expected = [logits_of(model, *ids)[1].sigmoid().item() for ids in FULL_IDS]
    scores = score_episodes(ClassifierReward(model, tokenizer), episodes)
    assert scores == pytest.approx(expected, abs=1e-6)


def test_a_single_label_gives_its_logit_or_sigmoid(tokenizer, episodes):
    model = make_bert(("reward",))
    logits = torch.cat([logits_of(model, *ids) for ids in FULL_IDS])
    scores = score_episodes(ClassifierReward(model, tokenizer), episodes)
    assert scores == pytest.approx(logits.tolist(), abs=1e-5)
    scores = score_episodes(ClassifierReward(model, tokenizer, activation="probability"), episodes)
    assert scores == pytest.approx(logits.sigmoid().tolist(), abs=1e-6)


@pytest.mark.parametrize("pad_token_id", [None, 0, 5])
def test_padding_does_not_change_the_score_of_a_model_built_on_a_decoder(
    pad_token_id, tokenizer, episodes
):
    # The model looks for its config's padding token, whatever the tokenizer pads with.
    model = make_gpt2(pad_token_id)
    expected = [logits_of(model, *ids).item() for ids in FULL_IDS]
    assert len({round(score, 4) for score in expected}) == 3
    scores = score_episodes(ClassifierReward(model, tokenizer), episodes)
    assert scores == pytest.approx(expected, abs=1e-5)


def test_a_tokenizer_without_padding_token_is_enough(tokenizer, episodes):
    model = make_gpt2(pad_token_id=None)
    tokenizer.pad_token = None
    expected = [logits_of(model, *ids).item() for ids in FULL_IDS]
    scores = score_episodes(ClassifierReward(model, tokenizer), episodes)
    assert scores == pytest.approx(expected, abs=1e-5)


def test_batches_have_the_given_size_and_change_nothing(tokenizer, make_episodes):
    model = make_bert()
    episodes = make_episodes("good", "bad", "sea it", "sky", "it")
    sizes = []
    model.register_forward_hook(lambda module, inputs, output: sizes.append(len(output.logits)))
    at_once = score_episodes(ClassifierReward(model, tokenizer), episodes)
    in_pairs = score_episodes(ClassifierReward(model, tokenizer, batch_size=2), episodes)
    assert sizes == [5, 2, 2, 1]
    assert in_pairs == pytest.approx(at_once, abs=1e-6)


def test_dropout_and_gradients_are_off(tokenizer, episodes):
    model = make_bert().train()
    requires_grad = []
    model.register_forward_hook(
        lambda module, inputs, output: requires_grad.append(output.logits.requires_grad)
    )
    reward = ClassifierReward(model, tokenizer)
    assert score_episodes(reward, episodes).tolist() == score_episodes(reward, episodes).tolist()
    assert requires_grad == [False, False]


@pytest.mark.parametrize(("max_length", "kept"), [(None, 8), (3, 3)])
def test_a_text_that_is_too_long_loses_its_beginning(max_length, kept, tokenizer, make_episodes):
    model = make_bert()
    episodes = make_episodes("bad sky it sea good", prompt="write write write write ")
    words = [WRITE, WRITE, BAD, SKY, IT, SEA, GOOD][-(kept - 1) :]
    expected = logits_of(model, CLS, *words).softmax(-1)[1].item()
    reward = ClassifierReward(model, tokenizer, max_length=max_length)
    with pytest.warns(UserWarning, match=rf"reads {kept} tokens at most, and a text has 10"):
        scores = score_episodes(reward, episodes)
    assert scores == pytest.approx([expected], abs=1e-6)


def test_the_users_tokenizer_is_left_as_it_was(tokenizer, make_episodes):
    tokenizer.truncation_side, tokenizer.padding_side = "right", "left"
    reward = ClassifierReward(make_bert(), tokenizer, max_length=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        score_episodes(reward, make_episodes("good bad sea", "it"))
    assert (tokenizer.truncation_side, tokenizer.padding_side) == ("right", "left")
    assert tokenizer("good bad sea")["input_ids"] == [CLS, GOOD, BAD, SEA]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"label": "happy"}, r"label='happy' is not a label .* \['NEGATIVE', 'POSITIVE', 'NEUTRAL"),
        ({"label": 3}, r"label=3 is not a label of the model: .* or its number, 0 to 2"),
        ({"label": -1}, r"label=-1 is not a label of the model"),
        ({"activation": "softmax"}, r"activation='softmax' is unknown: use 'logit'"),
        ({"text": "prompt"}, r"text='prompt' is unknown: use 'full' or 'response'"),
        ({"batch_size": 0}, r"batch_size=0 is too small: use at least 1"),
        ({"max_length": 0}, r"max_length=0 is too small: use at least 1, or None"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message, tokenizer):
    with pytest.raises(ValueError, match=message):
        ClassifierReward(make_bert(), tokenizer, **arguments)


def test_an_error_of_the_model_surfaces(tokenizer, episodes):
    def fail(module, inputs):
        raise RuntimeError("out of memory")

    model = make_bert()
    model.register_forward_pre_hook(fail)
    with pytest.raises(RewardError, match=r"reward '.*Bert.*' raised RuntimeError: out of memory"):
        score_episodes(ClassifierReward(model, tokenizer), episodes)


# --- by folder, as a model, as a pipeline -----------------------------------------------------


@pytest.fixture
def folder(tokenizer, tmp_path):
    make_bert().save_pretrained(tmp_path / "judge")
    tokenizer.save_pretrained(tmp_path / "judge")
    return tmp_path / "judge"


def test_every_form_of_a_model_gives_the_same_scores(folder, tokenizer, episodes):
    expected = score_episodes(ClassifierReward(make_bert(), tokenizer), episodes)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    pipeline = transformers.pipeline("text-classification", model=model, tokenizer=tokenizer)
    for source in [str(folder), folder, model, pipeline, ClassifierReward(model, tokenizer)]:
        reward = resolve_reward(source, device="cpu")
        assert reward.name == str(folder)
        assert score_episodes(reward, episodes) == pytest.approx(expected, abs=1e-6)


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"cannot be loaded as a sequence-classification model"):
        resolve_reward(tmp_path)


def test_a_model_without_a_trained_head_is_refused(folder):
    make_bert().bert.save_pretrained(folder)
    with pytest.raises(ValueError, match=r"lacks the weights \['classifier.bias', .*: choose a"):
        resolve_reward(folder)


def test_weights_that_would_have_to_be_unpickled_are_refused(folder):
    (folder / "model.safetensors").unlink()
    torch.save(make_bert().state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"cannot be loaded as a sequence-classification model"):
        resolve_reward(folder)


def test_a_live_model_from_nowhere_needs_its_tokenizer():
    with pytest.raises(
        ValueError,
        match=r"is a BertForSequenceClassification that does not know its tokenizer: "
        r"pass ClassifierReward\(model, tokenizer\) instead",
    ):
        resolve_reward(make_bert())


def test_a_model_without_tokenizer_beside_it_is_refused(folder):
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    for file in folder.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(ValueError, match=r"where no tokenizer can be loaded .*: pass Classifier"):
        resolve_reward(model)
    with pytest.raises(ValueError, match=r"cannot be loaded .*there is no tokenizer beside the"):
        resolve_reward(folder)


def test_a_pipeline_for_something_else_is_refused(tokenizer):
    model = transformers.BertModel(make_bert().config)
    pipeline = transformers.pipeline("feature-extraction", model=model, tokenizer=tokenizer)
    with pytest.raises(ValueError, match=r"pipeline for 'feature-extraction': pass one for 'text-"):
        resolve_reward(pipeline)


def test_a_hub_id_is_looked_up(monkeypatch, tokenizer, episodes):
    import textenv.lm.classifier

    requests = []

    def load_classifier(source, device):
        requests.append((source, device))
        return make_bert(), tokenizer

    monkeypatch.setattr(textenv.lm.classifier, "load_classifier", load_classifier)
    reward = resolve_reward("some-owner/some.model", device="cpu")
    assert reward.name == "some-owner/some.model"
    assert score_episodes(reward, episodes).shape == (3,)
    assert requests == [("some-owner/some.model", "cpu")]
