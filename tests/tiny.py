"""A tiny random OPT with a word-level tokeniser, and a tiny task that its words can express."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import OPTConfig, OPTForCausalLM

NUM_WORDS = 40
SEQUENCE_LENGTH = 12


def save_tokenizer(directory: Path) -> None:
    """Words w0, w1, … as ids from 2 on; 1 pads and 0 is unknown."""
    words = {"<unk>": 0, "<pad>": 1} | {f"w{i}": i + 2 for i in range(NUM_WORDS)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))  # noqa: S106 (no password)
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(directory / "tokenizer.json"))


def opt(**changes: Any) -> OPTForCausalLM:
    """A random OPT of three layers and width 32."""
    sizes: dict[str, Any] = {
        "vocab_size": NUM_WORDS + 2,
        "hidden_size": 32,
        "word_embed_proj_dim": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "ffn_dim": 64,
        "max_position_embeddings": 64,
    }
    torch.manual_seed(0)
    return OPTForCausalLM(OPTConfig(**(sizes | changes)))


def save_backbone(directory: Path) -> Path:
    """The random OPT with its tokeniser, as a folder to name in a scenario."""
    opt().save_pretrained(directory)
    save_tokenizer(directory)
    return directory


def write_task(directory: Path, num_train: int = 44, num_dev: int = 40) -> Path:
    """Sentences of 2 to 14 words in SST-2's layout; the label tells whether w0..w9 outnumber."""
    source = np.random.default_rng(1)
    for name, count in (("train", num_train), ("dev", num_dev)):
        lines = ["sentence\tlabel"]
        for _ in range(count):
            words = source.integers(0, 20, source.integers(2, 15))
            label = int(sum(word < 10 for word in words) * 2 > len(words))
            lines.append(" ".join(f"w{word}" for word in words) + f"\t{label}")
        (directory / f"{name}.tsv").write_text("\n".join(lines) + "\n")
    return directory
