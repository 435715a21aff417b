"""A tiny random model of every kind of causal language model that transformers maps.

Each kind is built with few layers and a small vocabulary, and is then tried as a policy: what it
gives on `act`, on `evaluate` and as a gradient is compared with plain forward passes of its own.

    python tests/textenv/lm/zoo.py

prints which kinds are served and which are refused, as Markdown.
"""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
import transformers
from gymnasium import spaces
from torch import Tensor
from transformers import AutoModelForCausalLM, PretrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from agents.policies import CausalLMPolicy
from textenv.lm.parts import unwrapped
from textenv.lm.support import check_supported

LIMIT = 30_000_000  # parameters; a larger model would take too long
TOLERANCE = 1e-4  # nats, and for gradients a share of the largest entry
VOCABULARY = 40
PROMPT_LENGTHS, NEW_TOKENS = torch.tensor([2, 5, 3]), 4
LENGTH = 10  # one column more than the longest episode
CHANGE = 1e-3  # nats by which the first token has to change the last log-probabilities

# Settings of the small models. Each configuration takes those that it has.
_SIZES = {
    16: "hidden_size n_embd d_model emb_dim dim embedding_size embed_dim embedding_dim "
    "hidden_size_global input_embedding_size word_embed_proj_dim qk_head_dim index_head_dim "
    "moe_intermediate_size shared_expert_intermediate_size shared_intermediate_size "
    "moe_shared_expert_intermediate_size shared_experts_intermediate_size "
    "expert_ffn_hidden_size dense_intermediate_size intermediate_size_mlp router_hidden_size "
    "mamba_d_head mamba_head_dim image_size",
    32: "intermediate_size n_inner ffn_dim dff dim_ff d_inner ffn_hidden_size feed_forward_size "
    "decoder_ffn_dim encoder_ffn_dim",
    8: "head_dim swa_head_dim kv_channels attention_head_size dim_head v_head_dim "
    "qk_rope_head_dim qk_nope_head_dim linear_key_head_dim linear_value_head_dim linear_head_dim "
    "kv_lora_rank q_lora_rank o_lora_rank laurel_rank hidden_size_per_layer_input "
    "query_pre_attn_scalar mamba_d_state ssm_state_size state_size patch_size",
    4: "rotary_dim num_experts num_local_experts n_routed_experts moe_num_experts",
    2: "num_hidden_layers n_layer n_layers num_layers depth decoder_layers encoder_layers "
    "num_decoder_layers num_encoder_layers num_attention_heads n_head n_heads num_heads "
    "attention_heads decoder_attention_heads encoder_attention_heads index_n_heads "
    "num_decoder_attention_heads num_encoder_attention_heads swa_num_attention_heads "
    "num_experts_per_tok moe_topk moe_k zero_expert_num eos_token_id "
    "linear_num_key_heads linear_num_value_heads linear_num_heads mamba_n_heads mamba_num_heads",
    1: "num_key_value_heads swa_num_key_value_heads n_group topk_group n_shared_experts "
    "first_k_dense_replace mamba_expand expand mamba_n_groups n_groups bos_token_id",
    0: "pad_token_id num_kv_shared_layers",
    64: "max_position_embeddings n_positions n_ctx max_seq_len context_length "
    "max_target_positions max_source_positions",
    VOCABULARY: "vocab_size vocab_size_per_layer_input",
}
SMALL = {name: size for size, names in _SIZES.items() for name in names.split()}
SMALL["is_decoder"] = True
# Names of settings whose number is a length at which a model begins to behave in another way.
WINDOWS = re.compile("window|local|chunk|original_max|block_size|topk|context_left")
HYBRID = ["linear_attention", "hybrid"] * 3
SHARED = {  # the last two layers take the keys and values of the first two, as in Gemma 3n
    "num_hidden_layers": 4,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "num_kv_shared_layers": 2,
}
# What a class of configurations needs in addition, so that it can be built or shows all its layers.
SPECIAL: dict[str, dict[str, Any]] = {
    "BambaConfig": {"mamba_d_head": 8, "attn_layer_indices": [1]},
    "BltConfig": {"encoder_hash_byte_group_vocab": 100},
    "CodeGenConfig": {"n_head": 4, "num_attention_heads": 4},  # a multiple of its four partitions
    "CohereCompassTextConfig": {
        "rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 10000.0}}
    },
    "DbrxAttentionConfig": {"clip_qkv": 8.0, "rope_theta": 10000.0, "kv_n_heads": 1},
    "Dots3NoteTextConfig": {
        "head_dim": 16,
        **dict.fromkeys(("swa_num_attention_heads", "swa_num_key_value_heads"), 2),
        **dict.fromkeys(("swa_q_lora_rank", "swa_kv_lora_rank"), 8),
        **dict.fromkeys(("swa_qk_nope_head_dim", "swa_v_head_dim"), 8),
        "swa_head_dim": 16,
    },
    "Dots3NoteVisionConfig": {"adapter_in_dim": 16, "adapter_out_dim": 16, "per_layer_config": {}},
    "Dots3NoteAudioConfig": {"adapter_input_size": 16, "adapter_out_dim": 16},
    "FalconH1Config": {"mamba_d_ssm": 16, "mamba_d_head": 8},
    "Gemma3nTextConfig": SHARED | {"activation_sparsity_pattern": [0.0] * 4},
    "Gemma4TextConfig": SHARED | {"global_head_dim": 16},
    "Gemma4UnifiedTextConfig": SHARED | {"global_head_dim": 16},
    "GPTNeoConfig": {"attention_types": [[["global", "local"], 1]]},
    "GraniteMoeHybridConfig": {"mamba_d_head": 8},
    "JambaConfig": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "Lfm2Config": {"layer_types": ["conv", "full_attention"]},
    "Lfm2MoeConfig": {"layer_types": ["conv", "full_attention"]},
    "MiniCPM3Config": {"dim_model_base": 16},
    "MiniMaxM3VLTextConfig": {"layer_types": ["full_attention", "minimax_m3_sparse"]},
    "Qwen4ExpTextConfig": {
        "indexer_n_heads": 2,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 8,
        "indexer_budget": 16,
        "indexer_compress_ratio": 2,
        "ngram_vocab_size_base": 100,
        "split_ngram_parts": 1,
    },
    "RecurrentGemmaConfig": {"num_hidden_layers": 3},
    "ReformerConfig": {
        "axial_pos_shape": [8, 8],
        "axial_pos_embds_dim": [8, 8],
        "attn_layers": ["local", "lsh"],
        "num_buckets": 2,
    },
    "XmodConfig": {"default_language": "en_XX"},
    "ZambaConfig": {"num_hidden_layers": 6, "layers_block_type": HYBRID},
    "Zamba2Config": {"num_hidden_layers": 6, "layers_block_type": HYBRID},
    "ZayaConfig": {"num_experts_per_tok": 1},
}

# What became of each kind with this version of transformers.
VERSION = "5.23.0"
SERVED = frozenset(
    """
    afmoe apertus arcee aria_text axk1 beam bert-generation biogpt bitnet codegen cohere cohere2
    cohere2_moe cohere_compass_text ctrl cwm dbrx deepseek_v2 deepseek_v3 diffllama doge dots1
    emu3 ernie4_5 ernie4_5_moe exaone4 exaone_moe falcon flex_olmo flint fuyu gemma gemma2 gemma3
    gemma3_text gemma3n_text gemma4 gemma4_text gemma4_unified gemma4_unified_text git glm glm4
    glm4_moe glm4_moe_lite got_ocr2 gpt-sw3 gpt2 gpt_bigcode gpt_neo gpt_neox gpt_neox_japanese
    gpt_oss gptj granite granite_swa granitemoe granitemoe_swa granitemoeshared helium hrm_text
    hunyuan_v1_dense hunyuan_v1_moe hy_v3 hyperclovax internlm3 iquestcoder jais2 jetmoe kolibri1
    laguna llama longcat_flash mellum mimo_v2_flash minicpm3 minimax_m2 ministral ministral3
    mistral mixtral moshi moss_transcribe_diarize mpt nanochat nemotron olmo olmo2 olmo3 olmoe opt
    persimmon phi phi3 phi4_multimodal phimoe qwen2 qwen2_moe qwen3 qwen3_moe seed_oss smollm3
    solar_open stablelm starcoder2 vaultgemma whisper xglm youtu
    """.split()
)
REFUSED = frozenset(
    """
    axk2 bailing_hybrid bamba bart bert big_bird bigbird_pegasus blenderbot blenderbot-small bloom
    blt camembert cpmant data2vec-text deepseek_v32 deepseek_v4 dots3_note dots3_note_text electra
    ernie falcon_h1 falcon_mamba glm_moe_dsa granitemoehybrid hy_v4 inkling2_text inkling_text
    jamba kimi_linear lfm2 lfm2_moe lfm3 llama4 llama4_text mamba mamba2 marian mbart
    megatron-bert minimax minimax_m3_vl_text mllama modernbert-decoder mvp nemotron_h olmo_hybrid
    openai-gpt pegasus plbart prophetnet qwen3_5 qwen3_5_moe qwen3_5_moe_text qwen3_5_text
    qwen3_next qwen4_exp qwen4_exp_text recurrent_gemma reformer rembert roberta
    roberta-prelayernorm roc_bert roformer rwkv trocr xlm xlm-roberta xlm-roberta-xl xlnet xlstm
    xmod zamba zamba2 zaya
    """.split()
)
CODES = "it writes several audio codes at each step; AutoModelForCausalLM cannot build it"
ASSISTANT = "it reads the keys and values of another model, not token ids alone"
NOT_BUILT = {
    "gemma3n": "its images need the package timm; its text model is gemma3n_text",
    "gemma4_assistant": ASSISTANT,
    "gemma4_unified_assistant": ASSISTANT,
    "musicgen": CODES,
    "musicgen_melody": CODES,
}


class NotBuilt(Exception):
    """There is no small model of a kind; the message says why."""


@dataclass(frozen=True)
class Outcome:
    """What became of a kind.

    Attributes:
        verdict: "served", "refused", "not built", or one of the two that must not be: "wrong"
            (used, but differing from the plain forward pass) and "crashed".
        reason: why, for every verdict but "served".
        error: the largest difference from plain forward passes.
    """

    verdict: str
    reason: str = ""
    error: float = float("nan")


def kinds() -> list[str]:
    """Every kind that the installed transformers maps to a causal language model."""
    return sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def small_config(config_class: Any, window: int | None = None) -> PretrainedConfig:
    """A configuration with the small settings that its class has, and those of its parts.

    Args:
        config_class: of transformers.
        window: the value of every setting that is a length at which a model begins to behave in
            another way, such as a sliding window; None keeps them beyond the longest episode.
    """
    special = SPECIAL.get(config_class.__name__, {})
    default = config_class()
    settings = {
        name: value
        for name, value in SMALL.items()
        if has(default, name) and settable(config_class, name)
    }
    if settings.get("num_key_value_heads") and not grouped(default):
        settings["num_key_value_heads"] = settings["num_attention_heads"]
    for name, part in vars(default).items():
        if isinstance(part, PretrainedConfig):
            settings[name] = small_config(type(part), window)
        elif window and isinstance(part, int) and part >= 16 and WINDOWS.search(name):
            settings[name] = window
    settings |= special
    # Two layers may not show every type of layer that the kind has.
    types = list(dict.fromkeys(getattr(default, "layer_types", None) or ()))
    fixed = not settable(config_class, "layer_types")
    if len(types) > 1 and not fixed and not {"layer_types", "layers_block_type"} & special.keys():
        settings |= {"num_hidden_layers": len(types), "layer_types": types}
    return config_class(**settings)


def has(config: PretrainedConfig, name: str) -> bool:
    """Whether a configuration has a setting, be it one that differs between its layers."""
    if any(isinstance(part, PretrainedConfig) for part in vars(config).values()):
        return name in vars(config)  # its parts have the other settings
    try:
        return hasattr(config, name)
    except Exception:  # some refuse to name one value for all layers
        return True


def settable(config_class: Any, name: str) -> bool:
    """Whether a setting is no property that is worked out from others."""
    name = config_class.attribute_map.get(name, name)
    return not isinstance(getattr(config_class, name, None), property)


def grouped(config: PretrainedConfig) -> bool:
    """Whether heads share keys and values."""
    try:
        return config.num_key_value_heads != config.num_attention_heads
    except Exception:  # the setting is missing, or differs between layers
        return False


def build(kind: str, window: int | None = None) -> Any:
    """A small model of a kind, with large random weights, in ``eval`` mode.

    Raises:
        NotBuilt: there is none, or it has no plain forward pass over token ids.
    """
    try:
        config = small_config(CONFIG_MAPPING[kind], window)
        with torch.device("meta"):
            size = sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters())
        if size > LIMIT:
            raise NotBuilt(f"the small model has {size / 1e6:.0f} M parameters")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
            randomize(model)
        model(input_ids=torch.arange(3, 9)[None], use_cache=False).logits[0, -1].log_softmax(-1)
    except NotBuilt:
        raise
    except Exception as error:
        raise NotBuilt(f"{type(error).__name__}: {first_line(error)}") from error
    return model


@torch.no_grad()
def randomize(model: Any) -> None:
    """Weights far larger than a trained model's, so that a slip of one column or position shows."""
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.normal_(0, 0.3)
        else:  # biases and norms, which begin at 0 or 1
            parameter.add_(0.3 * torch.randn_like(parameter))


def first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0][:160]


def try_kind(kind: str, window: int | None = None) -> Outcome:
    """Build a kind, and compare what the policy gives with plain forward passes."""
    try:
        model = build(kind, window)
    except NotBuilt as error:
        return Outcome("not built", str(error))
    return try_model(model)


def try_model(model: Any) -> Outcome:
    """Whether a model is served, and rightly; or else how it is refused."""
    try:
        check_supported(model, LENGTH)
    except ValueError as error:
        verdict = "refused" if type(unwrapped(model)).__name__ in str(error) else "crashed"
        return Outcome(verdict, str(error))
    except Exception as error:
        return Outcome("crashed", f"{type(error).__name__}: {first_line(error)}")
    try:
        difference = largest_error(model)
    except Exception as error:
        return Outcome("crashed", f"served, but {type(error).__name__}: {first_line(error)}")
    if difference <= TOLERANCE:
        return Outcome("served", error=difference)
    return Outcome("wrong", f"differs by {difference:.2g}", difference)


def largest_error(model: Any) -> float:
    """The largest difference of log-probabilities and gradients from plain forward passes."""
    vocabulary = unwrapped(model).get_output_embeddings().weight.shape[0]
    policy = CausalLMPolicy(
        spaces.Dict(
            {
                "input_ids": spaces.Box(0, vocabulary - 1, (LENGTH,), int),
                "attention_mask": spaces.MultiBinary(LENGTH),
            }
        ),
        spaces.Discrete(vocabulary),
        model=model,
    )
    policy.generator.manual_seed(0)
    sampled, ids, actions = act(policy, deterministic=False)
    greedy, _, _ = act(policy, deterministic=True)
    assert_sensitive(model, ids[0, : PROMPT_LENGTHS[0] + NEW_TOKENS])

    observations = {"input_ids": ids, "prompt_lengths": PROMPT_LENGTHS}
    mask = torch.ones_like(actions, dtype=torch.bool)
    batch = SimpleNamespace(observations=observations, actions=actions, mask=mask)
    ours = policy.evaluate(batch).log_probs
    plain = torch.stack(
        [
            plain_log_probs(model, row[: prompt + NEW_TOKENS])[prompt - 1 : -1]
            .gather(1, taken[:, None])
            .squeeze(1)
            for row, prompt, taken in zip(ids, PROMPT_LENGTHS.tolist(), actions, strict=True)
        ]
    )
    of_ours, of_plain = gradient(model, ours.sum()), gradient(model, plain.sum())
    of_gradient = (of_ours - of_plain).abs().max() / of_plain.abs().max().clamp(min=1)
    of_log_probs = (ours - plain).detach().abs().max()
    return float(torch.stack([of_log_probs, of_gradient, *sampled, *greedy]).max())


def gradient(model: Any, value: Tensor) -> Tensor:
    """By all parameters that learn, in one row."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    parts = torch.autograd.grad(value, parameters, allow_unused=True, materialize_grads=True)
    return torch.cat([part.flatten() for part in parts])


@torch.no_grad()
def act(policy: CausalLMPolicy, deterministic: bool) -> tuple[list[Tensor], Tensor, Tensor]:
    """Let a policy write; errors of its log-probabilities at each step, the rows, the actions.

    A greedy token that is less likely than another one counts by what it lacks.
    """
    generator = torch.Generator().manual_seed(1)
    rows, vocabulary = len(PROMPT_LENGTHS), policy.sampling.vocabulary
    ids = torch.randint(vocabulary, (rows, LENGTH), generator=generator)
    ids[:, 1] = SMALL["pad_token_id"]  # in the middle of a row it is a token like every other
    lengths, state = PROMPT_LENGTHS.clone(), None
    errors, taken = [], []
    for _ in range(NEW_TOKENS):
        mask = torch.arange(LENGTH) < lengths[:, None]
        observation = {"input_ids": ids.clone(), "attention_mask": mask}
        actions, log_probs, _, state = policy.act(observation, state, deterministic=deterministic)
        plain = torch.stack(
            [
                plain_log_probs(policy.model, row[:length])[-1]
                for row, length in zip(ids, lengths, strict=True)
            ]
        )
        wanted = plain.gather(1, actions[:, None])[:, 0]
        errors.append((log_probs - wanted).abs().max())
        if deterministic:
            errors.append((plain.amax(1) - wanted).max())
        ids[torch.arange(rows), lengths] = actions
        lengths += 1
        taken.append(actions)
    return errors, ids, torch.stack(taken, dim=1)


def plain_log_probs(model: Any, ids: Tensor) -> Tensor:
    """Of all tokens after each token of one row ``[L]``, by the model itself: ``[L, V]``."""
    return model(input_ids=ids[None], use_cache=False).logits[0].float().log_softmax(-1)


@torch.no_grad()
def assert_sensitive(model: Any, ids: Tensor) -> None:
    """A prediction that is certain, or that no earlier token changes, would show nothing.

    Raises:
        AssertionError: the model's prediction after the last token is such a one.
    """
    other = ids.clone()
    other[0] = (ids[0] + 1) % 30
    last, changed = plain_log_probs(model, ids)[-1], plain_log_probs(model, other)[-1]
    assert -(last.exp() * last).sum() > 0.1, "the last token has no entropy"
    assert (last - changed).abs().max() > CHANGE, "the first token has no influence on the last"


REASONS = {  # a part of the message of a refusal, and the words for all of that reason
    "layers of the types": "Layers other than attention over all earlier tokens",
    "differ by": "Decoding from the row cache would not give their own log-probabilities: they are "
    "not causal, find positions in another way, or have a head that is more than a linear map",
    "cannot be driven": "Their body does not accept the masks, positions, or keys and values of "
    "the row cache",
}


def report() -> str:
    """What became of every kind, as Markdown."""
    outcomes = {kind: try_kind(kind) for kind in kinds()}

    def names(verdict: str, part: str = "") -> list[str]:
        return [k for k, o in outcomes.items() if o.verdict == verdict and part in o.reason]

    counts = {v: len(names(v)) for v in ("served", "refused", "not built", "wrong", "crashed")}
    lines = [
        "# `python tests/textenv/lm/zoo.py`",
        f"transformers {transformers.__version__} maps {len(outcomes)} kinds of causal language "
        f"models: {', '.join(f'{number} {verdict}' for verdict, number in counts.items())}. Each "
        "was built with small random weights and compared with plain forward passes of its own: "
        "log-probabilities, greedy text and gradients.",
        f"## Served, right to {TOLERANCE:g}",
        listed(names("served")),
        "## Refused with an error",
        *(f"{words}: {listed(names('refused', part))}" for part, words in REASONS.items()),
        "Episodes longer than a sliding window that a model uses are refused whatever its kind.",
    ]
    grouped_by_reason = {k for part in REASONS for k in names("refused", part)}
    others = {
        "Refused for other reasons": [k for k in names("refused") if k not in grouped_by_reason],
        "Not built": names("not built"),
        "Wrong or crashed": [*names("wrong"), *names("crashed")],
    }
    for title, some in others.items():
        rows = [f"- `{k}`: {NOT_BUILT.get(k, outcomes[k].reason)}" for k in some]
        lines += [f"## {title}", "\n".join(rows)] if rows else []
    return "\n\n".join(lines)


def listed(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names) + "."


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    print(report())
