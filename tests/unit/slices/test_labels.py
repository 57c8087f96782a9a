"""Labels become classes by name, spelling, synonym, WordNet id, number or mapping; nothing is guessed."""

import json
from pathlib import Path

import pytest

from atlas.errors import ConfigError
from atlas.networks.zoo import imagenet_classes
from atlas.slices import labels
from atlas.slices.labels import describe_match, mapping_problems, match_labels, plain, read_mapping

CLASSES = ("tabby, tabby cat", "Egyptian cat", "crane", "crane", "dining table, board", "chess board, board")


@pytest.mark.parametrize(
    ("label", "number", "way"),
    [
        ("Egyptian cat", 1, "name"),
        ("egyptian_CAT", 1, "spelling"),
        ("Tabby", 0, "synonym"),
        ("tabby-cat", 0, "synonym"),
        ("animals/cats/tabby", 0, "synonym"),
        ("Dining Table", 4, "synonym"),
        ("crane", None, None),
        ("board", None, None),
        ("cat", None, None),
        ("egyptian", None, None),
    ],
)
def test_a_label_is_matched_by_the_first_way_that_knows_it(label: str, number: int | None, way: str | None) -> None:
    match = match_labels([label], CLASSES)
    assert match.classes == (number,)
    assert match.ways == (way,)


def test_what_could_be_several_classes_is_none_and_is_named() -> None:
    match = match_labels(["crane", "board", "tabby"], CLASSES)
    assert match.classes == (None, None, 0)
    assert match.ambiguous == {"crane": ("crane", "crane"), "board": ("dining table, board", "chess board, board")}
    assert match_labels(["x/crane"], CLASSES).classes == (None,), "its last folder neither"
    assert describe_match(match, [3, 2, 5]) == [
        "1 of 3 is a class of the network (1 by synonym): 5 of 10 pictures",
        "crane, board could be several classes (crane: crane, crane), and so none",
    ]


def test_imagenets_classes_go_by_wordnets_ids_and_lemmas() -> None:
    names = ("n02123045", "val/n02123045", "dining_table", "tiger cat", "tabby cat", "n99999999")
    match = match_labels(names, imagenet_classes())
    assert match.classes == (281, 281, 532, 282, 281, None)
    assert match.ways == ("WordNet id", "WordNet id", "spelling", "name", "synonym", None)
    assert match_labels(["n02123045"], [f"class {number}" for number in range(1000)]).classes == (None,)
    assert "; WordNet ids are matched for ImageNet's classes" in describe_match(match, [1] * 6)[1]


def test_without_timm_wordnets_ids_are_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labels, "imagenet_synsets", lambda: ())
    match = match_labels(["n02123045", "tabby"], imagenet_classes())
    assert match.classes == (None, 281)
    assert "with timm installed" in describe_match(match, [2, 1])[1]


def test_numbers_are_classes_only_where_all_labels_are() -> None:
    assert match_labels(["0", "5"], CLASSES).classes == (0, 5)
    assert match_labels(["0", "5"], CLASSES).ways == ("number", "number")
    assert match_labels(["0", "6"], CLASSES).classes == (None, None)
    assert match_labels(["0", "tabby"], CLASSES).classes == (None, 0)
    assert match_labels(["1", "2"], ["2", "1", "0"]).classes == (1, 0), "a class called so goes before"
    assert not match_labels(["6"], CLASSES).has_classes
    assert not match_labels([], CLASSES).has_classes


def test_one_of_many_labels_that_bears_a_classs_name_is_taken_for_chance() -> None:
    labels = [CLASSES[0], *(f"folder {number}" for number in range(19))]
    match = match_labels(labels, CLASSES)
    assert match.classes[0] == 0
    assert not match.has_classes
    first, second = describe_match(match, [3] * 20)
    assert first == "1 of 20 is a class of the network (1 by name): 3 of 60 pictures"
    assert second == "so few may be chance, and none is used; images.label_classes can say which are classes"
    assert match_labels(labels, CLASSES, {"folder 3": CLASSES[1]}).has_classes, "the mapping says so"
    assert match_labels(labels[:10], CLASSES).has_classes


def test_a_mapping_goes_before_all_else() -> None:
    mapping = {"tabby": 5, "kitten": "Tabby", "sky": None, "many": "crane", "far": 6, "odd": "Egyptian bat"}
    match = match_labels(["tabby", "kitten", "sky", "many", "far", "odd", "crane"], CLASSES, mapping)
    assert match.classes == (5, 0, None, None, None, None, None)
    assert match.ways == ("mapping", "mapping", "mapping", None, None, None, None)
    assert mapping_problems(mapping, [match], [1] * 7) == [
        "images.label_classes: many → crane: several classes have that name: 2 (crane), 3 (crane). Give the number of "
        "one.",
        "images.label_classes: far → 6: the network has no class of that number; they are 0 to 5.",
        "images.label_classes: odd → Egyptian bat: the network has no such class. Near names: Egyptian cat.",
    ]
    assert mapping_problems(mapping, [match], [1, 1, 1, 0, 0, 0, 1]) == [], "no picture has these"
    other = match_labels(match.labels, ("Egyptian bat", *"bcdefgh", "crane"), mapping)
    assert mapping_problems(mapping, [match, other], [1] * 7) == [], "each is a class of one of the networks"


def test_a_mapping_of_other_labels_is_a_mistake() -> None:
    match = match_labels(["cats", "dogs"], CLASSES, {"bird": 1})
    (problem,) = mapping_problems({"bird": 1}, [match], [2, 2])
    assert problem == (
        "images.label_classes: no picture has the label 'bird', or another of it; theirs are cats, dogs."
    )
    (problem,) = mapping_problems({"bird": 1}, [match_labels([], CLASSES)], [])
    assert problem.endswith("; they have no labels.")
    assert mapping_problems({}, [match], [2, 2]) == []


def test_mappings_are_read_from_json_and_csv(tmp_path: Path) -> None:
    csv, as_json = tmp_path / "classes.csv", tmp_path / "classes.json"
    csv.write_text('label,class\nkitten, "tabby, tabby cat"\ndog,207\n\nsky,\n', encoding="utf-8-sig")
    as_json.write_text(json.dumps({"kitten": "tabby, tabby cat", "dog": 207, "sky": None}))
    expected = {"kitten": "tabby, tabby cat", "dog": 207, "sky": None}
    assert read_mapping(str(csv)) == expected
    assert read_mapping(str(as_json)) == expected
    assert read_mapping(expected) == expected
    assert read_mapping(None) == {}


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("a.csv", "a,b,c\n", r"line 1 has 3 columns; a name with a comma needs quotes"),
        ("a.csv", "a,1\na,2\n", r"has two classes for the label 'a'\. Give one"),
        ("a.csv", "label,class\n", r"holds no label\. Expected a JSON object, or CSV"),
        ("a.json", "[1, 2]", r"cannot be read \(it is no object of labels"),
        ("a.json", '{"a": {"b": 1}}', r"cannot be read \(it is no object of labels"),
        ("a.json", '{"a": true}', r"cannot be read \(it is no object of labels"),
        ("a.json", '{"a": 1, "a": 2}', r"has two classes for the label 'a'"),
        ("a.json", "{", r"cannot be read \(Expecting property name"),
    ],
)
def test_a_mapping_that_cannot_be_read_is_told(tmp_path: Path, name: str, text: str, sentence: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=rf"^images\.label_classes: .*{sentence}"):
        read_mapping(str(tmp_path / name))


def test_a_mapping_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^images\.label_classes: there is no file .*no\.csv\. Expected a JSON"):
        read_mapping(str(tmp_path / "no.csv"))


def test_what_no_picture_has_is_not_told_of() -> None:
    match = match_labels(["Egyptian cat", "crane", "zzz"], CLASSES)
    assert describe_match(match, [4, 0, 0]) == ["1 of 1 is a class of the network (1 by name): 4 of 4 pictures"]
    assert describe_match(match, [0, 0, 0]) == []
    labelled = match_labels([f"l{number}" for number in range(7)], CLASSES)
    assert describe_match(labelled, [1] * 7)[1] == (
        "no class: l0, l1, l2, l3, l4 and 2 more; which class each is can be said by images.label_classes"
    )


def test_spellings_are_letters_and_digits() -> None:
    assert plain("Tabby_cat (2)") == plain("tabby-CAT 2") == "tabbycat2"
    assert plain("Löwe.") == "löwe"
