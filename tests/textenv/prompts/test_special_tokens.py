"""Special tokens of prompts, by tokenizers of the public kinds, beside transformers' answer."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from textenv import TextGenEnv
from textenv.prompts.load import encode_prompts, load_prompts

TEXTS = ["Hi", "Hi you", " Hi ", "you\nHi", "héllo", ""]
# As Llama 3, Gemma and Mistral write them; the second leaves the beginning to the tokenizer.
TURNS = (
    "{% for m in messages %}<turn>{{ m.role }}\n{{ m.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<turn>assistant\n{% endif %}"
)
TEMPLATES = {"with its beginning": "{{ bos_token }}" + TURNS, "without it": TURNS}
ADDED = {"neither": "$A", "begin": "<s> $A", "end": "$A </s>", "both": "<s> $A </s>"}
HELLO = [{"role": "user", "content": "Hi"}]


def byte_level():
    """As Llama 3, Qwen and GPT-2: a token for each byte."""
    special = ["<s>", "</s>", "<turn>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = {token: i for i, token in enumerate([*special, *alphabet])}
    backend = Tokenizer(models.BPE(vocab=words, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return backend


def metaspace():
    """As Llama 2 and Mistral with SentencePiece: words begin with "▁", and bytes fall back."""
    words = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), ("<turn>", 0.0), ("▁", -3.0)]
    words += [(f"<0x{byte:02X}>", -20.0) for byte in range(256)]
    words += [(letter, -4.0) for letter in "Hiyouaserntl:"] + [("▁Hi", -2.0), ("▁you", -2.0)]
    backend = Tokenizer(models.Unigram(words, unk_id=0, byte_fallback=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    backend.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    return backend


def prepended():
    """As the fast tokenizer of Llama 2: the normaliser writes the first "▁"."""
    backend = metaspace()
    backend.pre_tokenizer = None
    spaces = normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")
    backend.normalizer = normalizers.Sequence(list(spaces))
    return backend


@pytest.fixture(params=[byte_level, metaspace, prepended], ids=lambda make: make.__name__)
def make(request):
    """``make(added)``: a tokenizer that adds special tokens to a text, as a template says."""

    def build(added, template="with its beginning"):
        backend = request.param()
        ids = [(token, backend.token_to_id(token)) for token in ("<s>", "</s>")]
        backend.post_processor = processors.TemplateProcessing(ADDED[added], None, ids)
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="</s>",
            additional_special_tokens=["<turn>"],
        )  # fmt: skip
        tokenizer.chat_template = TEMPLATES[template]
        return tokenizer

    return build


def ids_of(texts, tokenizer):
    return [each.ids.tolist() for each in encode_prompts(load_prompts(texts), tokenizer)]


@pytest.mark.parametrize("added", ADDED)
def test_a_prompt_is_what_transformers_reads_without_an_end(added, make):
    tokenizer = make(added)
    texts = TEXTS if added in ("begin", "both") else TEXTS[:-1]
    expected = tokenizer(texts)["input_ids"]
    if added in ("end", "both"):
        assert {row.pop() for row in expected} == {tokenizer.eos_token_id}
    assert ids_of(texts, tokenizer) == expected


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("added", ADDED)
def test_a_rendered_prompt_is_what_transformers_makes_of_its_conversation(added, template, make):
    tokenizer = make(added, template)
    whole = tokenizer.apply_chat_template(HELLO, add_generation_prompt=True)["input_ids"]
    text = tokenizer.apply_chat_template(HELLO, add_generation_prompt=True, tokenize=False)
    begins = added in ("begin", "both")
    missing = [tokenizer.bos_token_id] if begins and template == "without it" else []
    assert ids_of([HELLO, text], tokenizer) == [whole, missing + whole]


def test_what_the_user_wrote_stays(make):
    tokenizer = make("both")
    begin, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    ((first, *_, last), twice) = ids_of(["Hi</s>", "<s><s>Hi"], tokenizer)
    assert (first, last) == (begin, end)
    assert twice[:2] == [begin, begin] and twice[2] != begin


def test_a_tokenizer_in_python_that_appends_an_end():
    tokenizer = ByT5Tokenizer()
    hi = [ord("H") + 3, ord("i") + 3]
    assert tokenizer("Hi")["input_ids"] == [*hi, tokenizer.eos_token_id]
    assert ids_of(["Hi", "Hi</s>"], tokenizer) == [hi, [*hi, tokenizer.eos_token_id]]


def test_a_tokenizer_that_has_no_token_for_a_letter():
    backend = Tokenizer(models.BPE(vocab={"<s>": 0, "</s>": 1}, merges=[]))
    backend.post_processor = processors.TemplateProcessing(
        "<s> $A </s>", None, [("<s>", 0), ("</s>", 1)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )
    assert tokenizer("a")["input_ids"] == [0, 1]
    assert ids_of(["<s>", ""], tokenizer) == [[0], [0]]


def test_an_episode_does_not_begin_with_its_end(make):
    tokenizer = make("end")
    env = TextGenEnv(tokenizer=tokenizer, prompts=["Hi"], reward="length", max_new_tokens=2)
    observation, _ = env.reset(seed=0)
    read = observation["input_ids"][: observation["attention_mask"].sum()]
    assert tokenizer.eos_token_id not in read.tolist()


def test_an_empty_prompt_needs_a_token_at_the_beginning(make):
    with pytest.raises(ValueError, match=r"^prompts\[0\] is '', which has no token"):
        ids_of([""], make("end"))
