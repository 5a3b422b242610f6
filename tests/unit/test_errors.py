from __future__ import annotations

import pytest

from mobisim.errors import InputError, InvariantError, MobisimError, nearest, unknown_name


def test_an_input_error_says_where_expected_got_and_what_to_do() -> None:
    """In this order, one line each, indented below the place."""
    error = InputError(
        "no such layer", where="a.yaml:3: taps", expected="1 to 24", got="99", hint="take fewer"
    )
    assert str(error) == (
        "a.yaml:3: taps\n  no such layer\n  expected: 1 to 24\n  got: 99\n  take fewer"
    )


def test_an_input_error_without_a_place_is_not_indented() -> None:
    """There is nothing to stand below."""
    assert str(InputError("no task 'x'", got="nothing")) == "no task 'x'\ngot: nothing"


def test_an_error_can_be_placed_elsewhere() -> None:
    """Everything but the place stays."""
    error = InputError("bad", where="seed", expected="e", got="g", hint="h").placed(
        "a.yaml:1: seed"
    )
    assert (error.where, error.message) == ("a.yaml:1: seed", "bad")
    assert (error.expected, error.got, error.hint) == ("e", "g", "h")


def test_an_invariant_error_names_its_number_and_says_whose_fault_it_is() -> None:
    """A user must not look for the mistake in a scenario."""
    text = str(InvariantError(3, "causes come before effects", "span: kind=step"))
    assert text.startswith("invariant I3 is broken: causes come before effects\n  span: kind=step")
    assert "a defect of mobisim" in text


@pytest.mark.parametrize(
    ("error", "code"), [(InputError("x"), 2), (InvariantError(1, "r", "e"), 1)], ids=["in", "inv"]
)
def test_exit_codes(error: MobisimError, code: int) -> None:
    """2 for what the user gave, 1 for what mobisim did."""
    assert error.exit_code == code


def test_the_nearest_name_is_found_and_a_far_one_is_not() -> None:
    """A guess must be worth making."""
    known = ["jetson-xavier-nx", "pixel-8"]
    assert (nearest("jetson-xavier", known), nearest("zzz", known)) == ("jetson-xavier-nx", None)


def test_an_unknown_name_comes_with_a_guess_or_with_the_list() -> None:
    """Whichever helps."""
    known = ["beta", "alpha"]
    assert "did you mean 'alpha'?" in str(unknown_name("thing", "alpa", known))
    assert "known: alpha, beta" in str(unknown_name("thing", "zzzz", known))
