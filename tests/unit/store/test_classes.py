"""The classes of a network, by their names."""

import pytest

from atlas.errors import ConfigError
from atlas.store.classes import class_number


def test_classes_are_found_as_people_write_them() -> None:
    classes = ("tabby, tabby cat", "Lynx", "lynx", "7")
    assert class_number("tabby, tabby cat", classes) == 0
    assert class_number("Tabby", classes) == 0
    assert class_number("lynx", classes) == 2, "as it is written comes first"
    assert class_number("LYNX", classes) == 1
    assert class_number("7", classes) == 3
    with pytest.raises(ConfigError, match=r"has no class 'lynz' among its 4\. Near names: .*[Ll]ynx"):
        class_number("lynz", classes)
