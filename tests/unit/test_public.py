"""What ``import atlas`` gives: the public names, each imported when it is first used."""

import importlib

import pytest

import atlas


@pytest.mark.parametrize("name", atlas.__all__)
def test_a_public_name_is_what_its_module_holds(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(vars(atlas), name, raising=False)
    module, attribute = atlas._SOURCES[name]
    assert getattr(atlas, name) is getattr(importlib.import_module(module), attribute)
    assert name in vars(atlas), "from now on it is found at once"


def test_all_names_are_listed() -> None:
    assert set(atlas.__all__) == set(atlas._SOURCES)
    assert set(atlas.__all__) <= set(dir(atlas))
    assert list(atlas.__all__) == sorted(atlas.__all__, key=lambda name: (name.lower() == name, name))


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'atlas' has no attribute 'opn_run'"):
        atlas.opn_run  # noqa: B018
