"""Pre-trains the built-in backbone: python -m mobisim.training.builtin.pretrain [--out DIR].

Generates the stories, makes the word-level tokenizer, trains a small OPT from scratch to predict
the next word, and writes an ordinary Hugging Face directory.

Axes: B stories of a batch, T positions.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing
from transformers import OPTConfig, OPTForCausalLM, PreTrainedTokenizerFast

from mobisim.training.builtin.language import polar_words, pretraining_text, vocabulary

BEGIN, PAD, END, UNKNOWN = SPECIAL_TOKENS = ("<s>", "<pad>", "</s>", "<unk>")  # ids as in OPT
PAD_ID, END_ID = SPECIAL_TOKENS.index(PAD), SPECIAL_TOKENS.index(END)
NOT_A_TARGET = -100


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights."""

    text_seed: int = 7
    weight_seed: int = 7
    num_texts: int = 96_000
    num_layers: int = 4
    hidden_size: int = 128
    num_heads: int = 4
    ffn_size: int = 512
    num_positions: int = 128
    norm_first: bool = True
    init_std: float = 0.05
    batch_size: int = 32
    epochs: int = 1
    warmup_steps: int = 100
    lr: float = 2e-3
    weight_decay: float = 0.01
    polar_weight: float = 10.0
    clip: float = 1.0


def make_tokenizer() -> PreTrainedTokenizerFast:
    """One token per word of the language, and </s> in front of every text, as OPT has it."""
    tokenizer = Tokenizer(
        WordLevel({w: i for i, w in enumerate((*SPECIAL_TOKENS, *vocabulary()))}, unk_token=UNKNOWN)
    )
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.post_processor = TemplateProcessing(f"{END} $A", special_tokens=[(END, END_ID)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END,
        eos_token=END,
        pad_token=PAD,
        unk_token=UNKNOWN,
        padding_side="right",
    )


def make_model(recipe: Recipe, vocab_size: int) -> OPTForCausalLM:
    """An OPT with random weights."""
    torch.manual_seed(recipe.weight_seed)
    config = OPTConfig(
        vocab_size=vocab_size,
        hidden_size=recipe.hidden_size,
        word_embed_proj_dim=recipe.hidden_size,
        num_hidden_layers=recipe.num_layers,
        num_attention_heads=recipe.num_heads,
        ffn_dim=recipe.ffn_size,
        max_position_embeddings=recipe.num_positions,
        do_layer_norm_before=recipe.norm_first,
        dropout=0.0,
        attention_dropout=0.0,
        layerdrop=0.0,
        init_std=recipe.init_std,
        pad_token_id=PAD_ID,
        bos_token_id=END_ID,
        eos_token_id=END_ID,
    )
    return OPTForCausalLM(config)


def batches(
    rows: list[list[int]], recipe: Recipe, rng: np.random.Generator
) -> Iterator[torch.Tensor]:
    """Padded token ids (B, T) of one pass; rows of a batch have similar length, batches mix."""
    order = sorted(rng.permutation(len(rows)), key=lambda i: len(rows[i]))
    starts = range(0, len(rows) - recipe.batch_size + 1, recipe.batch_size)
    for start in rng.permutation(starts):
        chosen = [torch.tensor(rows[i]) for i in order[start : start + recipe.batch_size]]
        yield torch.nn.utils.rnn.pad_sequence(chosen, batch_first=True, padding_value=PAD_ID)


def next_word_losses(model: OPTForCausalLM, ids_BT: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of every word but the first, in nats: (B, T - 1), zero at padding."""
    real_BT = ids_BT != PAD_ID
    logits_BTV = model(input_ids=ids_BT, attention_mask=real_BT.long()).logits
    return torch.nn.functional.cross_entropy(
        logits_BTV[:, :-1].transpose(1, 2), ids_BT[:, 1:], ignore_index=PAD_ID, reduction="none"
    )


def polar_weights(recipe: Recipe) -> torch.Tensor:
    w = torch.ones(4 + len(vocabulary()))
    w[PAD_ID] = 0
    voc = vocabulary()
    for x in polar_words():
        w[4 + voc.index(x)] = recipe.polar_weight
    return w


def lr_factor(step: int, warmup: int, total: int) -> float:
    """Linear warm-up, then half a cosine down to zero."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))


def train(model: OPTForCausalLM, rows: list[list[int]], recipe: Recipe) -> float:
    """Trains the model in place; the mean loss of the last hundred steps."""
    total = recipe.epochs * (len(rows) // recipe.batch_size)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe.lr, betas=(0.9, 0.98), weight_decay=recipe.weight_decay
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: lr_factor(step, recipe.warmup_steps, total)
    )
    rng = np.random.default_rng(recipe.text_seed)
    losses: list[float] = []
    weight_V = polar_weights(recipe)
    qid = 4 + vocabulary().index("?")
    started = time.perf_counter()
    for _ in range(recipe.epochs):
        for ids_BT in batches(rows, recipe, rng):
            each = next_word_losses(model, ids_BT)
            w = weight_V[ids_BT[:, 1:]]
            pol = w > 1
            ans = (ids_BT == qid).cumsum(1)[:, :-1] > 0
            w = torch.where(ans & (w > 0), recipe.polar_weight, w)
            loss = (each * w).sum() / w.sum()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
            optimizer.step()
            schedule.step()
            losses.append(each[pol].mean().item())
            if len(losses) % 100 == 0:
                mean = float(np.mean(losses[-100:]))
                print(
                    f"step {len(losses)}/{total}  loss {mean:.4f}  {time.perf_counter() - started:.0f} s",
                    flush=True,
                )
    return float(np.mean(losses[-100:]))
