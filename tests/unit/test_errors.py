"""Sentences that several modules have in common: near names, and what is too large."""

import pytest

from atlas.errors import AtlasError, ConfigError, did_you_mean, near_names, too_large

NAMES = ("tabby", "tiger", "tabby cat", "table")


def test_who_may_mend_it_can_be_caught_as_any_error() -> None:
    with pytest.raises(AtlasError, match="no such key"):
        raise ConfigError("no such key")


def test_near_names_come_nearest_first_and_not_too_many() -> None:
    assert near_names("taby", NAMES) == ["tabby"]
    assert near_names("taby", NAMES, count=2) == ["tabby", "table"]
    assert near_names("taby", dict.fromkeys(NAMES), count=3, cutoff=0.8) == ["tabby"]
    assert near_names("tgr", NAMES, cutoff=0.9) == []
    assert near_names("tabby", ()) == []


def test_a_hint_is_a_sentence_behind_another_or_nothing() -> None:
    assert did_you_mean("taby", NAMES) == " Did you mean tabby?"
    assert did_you_mean("taby", iter(NAMES), count=2) == " Did you mean tabby or table?"
    assert did_you_mean("zebra", NAMES) == ""
    assert did_you_mean("tgr", NAMES, cutoff=0.7) == " Did you mean tiger?"
    assert did_you_mean("tgr", NAMES, cutoff=0.8) == ""


def test_what_is_too_large_is_said_with_its_size_and_the_limit() -> None:
    assert too_large("photo", "6,400 pixels", 5000) == (
        "photo has 6,400 pixels, and at most 5,000 are taken. Give it smaller; "
        "networks see a few hundred pixels a side."
    )
