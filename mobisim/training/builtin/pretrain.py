"""Pre-trains a built-in backbone: python -m mobisim.training.builtin.pretrain [NAME] [--out DIR].

Generates the stories, makes the word-level tokenizer, trains a small OPT from scratch to predict
the next word, and writes an ordinary Hugging Face directory. Two stages: stories with plain
answers first, from which the polarities are learned fast; then stories with echoes, which make
the backbone carry more than polarities. From echoes alone it takes several times as long.
`builtin` took 13 minutes on one thread of a machine whose two cores were busy with other work.

Axes: B stories of a batch, T positions, V words.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing
from torch.nn import functional
from torch.nn.utils import clip_grad_norm_
from torch.nn.utils.rnn import pad_sequence
from transformers import OPTConfig, OPTForCausalLM, PreTrainedTokenizerFast

from mobisim.training.builtin.language import polar_words, pretraining_text, vocabulary
from mobisim.training.tokens import backbone_directory

SPECIAL_TOKENS = ("<s>", "<pad>", "</s>", "<unk>")  # ids as in OPT
PAD_ID, END_ID, UNKNOWN_ID = 1, 2, 3
QUESTION_MARK = "?"
REPORT_EVERY = 100


@dataclass(frozen=True)
class Stage:
    """A stretch of training with its own text and learning-rate schedule."""

    text_seed: int
    num_texts: int
    echoes: bool
    peak_lr: float


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights; also the widths of the network."""

    stages: tuple[Stage, ...] = (
        Stage(text_seed=7, num_texts=64_000, echoes=False, peak_lr=3e-3),
        Stage(text_seed=8, num_texts=64_000, echoes=True, peak_lr=1.5e-3),
    )
    weight_seed: int = 7
    num_layers: int = 4
    hidden_size: int = 128
    num_heads: int = 4
    ffn_size: int = 512
    num_positions: int = 128
    init_std: float = 0.05
    batch_size: int = 32
    warmup_steps: int = 100
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    # Most words of a story are free choices, from which nothing can be learned.
    telling_weight: float = 10.0


RECIPES = {
    "builtin": Recipe(),
    # Of the same text, for devices with less memory.
    "builtin-small": Recipe(num_layers=3, hidden_size=64, ffn_size=256),
}


def make_tokenizer(recipe: Recipe) -> PreTrainedTokenizerFast:
    """One token per word of the language, and </s> in front of every text, as OPT has it."""
    words = (*SPECIAL_TOKENS, *vocabulary())
    end, unknown = SPECIAL_TOKENS[END_ID], SPECIAL_TOKENS[UNKNOWN_ID]
    tokenizer = Tokenizer(WordLevel({w: i for i, w in enumerate(words)}, unk_token=unknown))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.post_processor = TemplateProcessing(
        single=f"{end} $A", special_tokens=[(end, END_ID)]
    )
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]  # transformers is half typed
        tokenizer_object=tokenizer,
        bos_token=end,
        eos_token=end,
        pad_token=SPECIAL_TOKENS[PAD_ID],
        unk_token=unknown,
        padding_side="right",
        model_max_length=recipe.num_positions,
    )


def make_model(recipe: Recipe, vocab_size: int) -> OPTForCausalLM:
    """An OPT with random weights."""
    torch.manual_seed(recipe.weight_seed)
    return OPTForCausalLM(
        OPTConfig(
            vocab_size=vocab_size,
            hidden_size=recipe.hidden_size,
            word_embed_proj_dim=recipe.hidden_size,
            num_hidden_layers=recipe.num_layers,
            num_attention_heads=recipe.num_heads,
            ffn_dim=recipe.ffn_size,
            max_position_embeddings=recipe.num_positions,
            dropout=0.0,
            init_std=recipe.init_std,
            pad_token_id=PAD_ID,
            bos_token_id=END_ID,
            eos_token_id=END_ID,
        )
    )


class Weights:
    """How much each next word counts: nothing for padding, most where the story decides it."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, telling_weight: float) -> None:
        self.telling_weight = telling_weight
        self.polar_ids = torch.tensor(tokenizer.convert_tokens_to_ids(sorted(polar_words())))
        self.question_id = tokenizer.vocab[QUESTION_MARK]

    def of(self, ids_BT: torch.Tensor) -> torch.Tensor:
        """The weight of predicting each word but the first: (B, T - 1)."""
        in_answer_BT = torch.eq(ids_BT, self.question_id).cumsum(1)[:, :-1] > 0
        next_BT = ids_BT[:, 1:]
        telling_BT = in_answer_BT | torch.isin(next_BT, self.polar_ids)
        weights_BT = torch.where(telling_BT, self.telling_weight, 1.0)
        return weights_BT.masked_fill(next_BT == PAD_ID, 0.0)


def next_word_losses(model: OPTForCausalLM, ids_BT: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of each word but the first, in nats: (B, T - 1)."""
    logits_BTV = model(input_ids=ids_BT, attention_mask=(ids_BT != PAD_ID).long()).logits
    return functional.cross_entropy(
        logits_BTV[:, :-1].transpose(1, 2), ids_BT[:, 1:], reduction="none"
    )


def batches(
    rows: list[list[int]], batch_size: int, rng: np.random.Generator
) -> Iterator[torch.Tensor]:
    """Padded token ids (B, T); rows of a batch are of similar length, batches come shuffled."""
    order = sorted(rng.permutation(len(rows)), key=lambda row: len(rows[row]))
    for start in rng.permutation(range(0, len(rows) - batch_size + 1, batch_size)):
        chosen = [torch.tensor(rows[row]) for row in order[start : start + batch_size]]
        yield pad_sequence(chosen, batch_first=True, padding_value=PAD_ID)


def schedule(warmup_steps: int, num_steps: int) -> Callable[[int], float]:
    """Linear warm-up, then half a cosine down to zero."""

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        return 0.5 + 0.5 * math.cos(math.pi * (step - warmup_steps) / (num_steps - warmup_steps))

    return factor


def train(
    model: OPTForCausalLM, tokenizer: PreTrainedTokenizerFast, stage: Stage, recipe: Recipe
) -> float:
    """Trains the model in place; its last mean loss per word that the story decides, in nats."""
    texts = pretraining_text(stage.text_seed, stage.num_texts, echoes=stage.echoes)
    rows = tokenizer(texts)["input_ids"]
    num_steps = len(rows) // recipe.batch_size
    weights = Weights(tokenizer, recipe.telling_weight)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=stage.peak_lr, betas=(0.9, 0.98), weight_decay=recipe.weight_decay
    )
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, schedule(recipe.warmup_steps, num_steps)
    )
    telling: list[float] = []
    rng = np.random.default_rng(stage.text_seed)
    for step, ids_BT in enumerate(batches(rows, recipe.batch_size, rng), start=1):
        losses_BT, weights_BT = next_word_losses(model, ids_BT), weights.of(ids_BT)
        optimizer.zero_grad()
        torch.autograd.backward((losses_BT * weights_BT).sum() / weights_BT.sum())
        clip_grad_norm_(model.parameters(), recipe.clip_norm)
        optimizer.step()
        scheduler.step()
        telling.append(losses_BT[weights_BT > 1].mean().item())
        if step % REPORT_EVERY == 0:
            say(f"step {step} of {num_steps}: loss {np.mean(telling[-REPORT_EVERY:]):.4f}")
    return float(np.mean(telling[-REPORT_EVERY:]))


def write(
    directory: Path, model: OPTForCausalLM, tokenizer: PreTrainedTokenizerFast, card: str
) -> None:
    """Writes config.json, model.safetensors, the tokenizer and README.md."""
    model.save_pretrained(directory)
    (directory / "generation_config.json").unlink(missing_ok=True)  # nothing here generates
    (directory / "model.safetensors").chmod(0o644)
    tokenizer.save_pretrained(directory)
    (directory / "README.md").write_text(card, encoding="utf-8")


def model_card(
    name: str, recipe: Recipe, model: OPTForCausalLM, losses: list[float], minutes: float
) -> str:
    """The backbone's README."""
    stages = "\n".join(
        f"| {number} | {stage.num_texts:,} | {'with' if stage.echoes else 'without'} echoes "
        f"| {stage.peak_lr} | {loss:.3f} |"
        for number, (stage, loss) in enumerate(zip(recipe.stages, losses, strict=True), start=1)
    )
    return f"""# {name}

A small OPT (decoder, norm first, ReLU), trained from scratch on generated text.

| | |
|---|---|
| blocks, width, heads, feed-forward | {recipe.num_layers}, {recipe.hidden_size}, \
{recipe.num_heads}, {recipe.ffn_size} |
| parameters | {model.num_parameters():,}, float32, embedding tied to the output |
| vocabulary | {model.config.vocab_size} words, {len(SPECIAL_TOKENS)} of them special |
| positions | {recipe.num_positions} |

**Text.** Short stories about a visit, from the grammar in `language.py`; nothing was downloaded.
The stories of the labelled task come from another seed, and none of them is in this text.

**Made by** `python -m mobisim.training.builtin.pretrain {name}`, in {minutes:.0f} minutes on \
{torch.get_num_threads()} thread(s) of a CPU.
Next-word prediction; a word that the story decides (answers, and the verdict of a reaction)
weighs {recipe.telling_weight:g} times the others. Loss in nats per such word, mean of the last \
{REPORT_EVERY} steps:

| stage | stories | answers | peak learning rate | loss |
|---|---|---|---|---|
{stages}

Another machine or release of PyTorch gives other weights of the same quality, so the weights are
kept here and not made anew.

**Use.** For mobisim's own experiments and tests only: it knows this little language and no other.
"""


def say(text: str) -> None:
    """Prints progress at once."""
    print(text, flush=True)  # noqa: T201 (a script)


def main() -> None:
    """Pre-trains and writes a backbone."""
    parser = argparse.ArgumentParser(description="Pre-train a built-in backbone.")
    parser.add_argument("name", nargs="?", default="builtin", choices=RECIPES)
    parser.add_argument("--out", type=Path, help="directory to write")
    asked = parser.parse_args()
    directory: Path = asked.out or backbone_directory(asked.name)
    started = time.monotonic()
    recipe = RECIPES[asked.name]
    tokenizer = make_tokenizer(recipe)
    model = make_model(recipe, len(tokenizer))
    losses = [train(model, tokenizer, stage, recipe) for stage in recipe.stages]
    minutes = (time.monotonic() - started) / 60
    write(directory, model, tokenizer, model_card(asked.name, recipe, model, losses, minutes))
    say(f"wrote {directory} after {minutes:.1f} min")


if __name__ == "__main__":
    main()
