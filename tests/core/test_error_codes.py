"""Codes of errors: stated wherever an error is raised, in one spelling."""

from tests.support.error_codes import CODE, PASSED_ON, find_raised


def test_every_error_is_raised_with_a_code() -> None:
    without = [str(each) for each in find_raised() if not each.codes]
    assert not without, "\n".join(without)


def test_codes_are_in_snake_case() -> None:
    codes = {code for each in find_raised() for code in each.codes} - {PASSED_ON}
    assert not [code for code in codes if not CODE.fullmatch(code)]
