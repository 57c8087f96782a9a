"""What is said of a network's errors, and what is said where nothing stands out."""

from made_verdicts import made_verdicts

from atlas.slices.errors import find_errors
from atlas.slices.text import accuracy_sentences, slice_sentence

CLASSES = ("cat, tabby", "dog", "bird", "fish", "frog", "tree")
FACTS = {
    "pictures": 1234, "accuracy": 0.75, "low": 0.72, "high": 0.78, "near_accuracy": 0.9, "mean_rank": 2.34,
    "confusions": [
        {"true_class": 0, "predicted": 1, "pictures": 12.5}, {"true_class": 1, "predicted": 0, "pictures": 1.5}
    ],
    "others": {
        "old": {"pictures": 1234, "only_here": 10.0, "only_there": 41.5, "both": 7.0, "p": 0.0001},
        "new": {"pictures": 1200, "only_here": 5.0, "only_there": 6.0, "both": 7.0, "p": 1.0},
    },
}  # fmt: skip


def test_accuracy_comes_with_its_interval_and_confusions_of_one_picture_are_not_named() -> None:
    assert accuracy_sentences(FACTS, CLASSES) == [
        "right on 75.0% of 1,234 labelled pictures (72.0% to 78.0% with 95 % confidence); the true class is among the "
        "first five of 90.0%, its mean rank is 2.3",
        "most often confused: cat taken for dog (12.5)",
        "errs alone on 10 of 1,234 pictures, @old alone on 41.5, both on 7 (p = 0.0001)",
        "errs alone on 5 of 1,200 pictures, @new alone on 6, both on 7 (p = 1, which is no more than chance)",
    ]
    (none,) = accuracy_sentences({"pictures": 0}, CLASSES)
    assert none == "No labelled picture gave a row, so there is no accuracy."


def test_a_slice_is_told_with_its_confusion_and_that_there_is_none_too() -> None:
    settings = {"grids": (5, 10), "min_count": 8, "seed": 3}
    sentences = []
    for plant in (30, 0):
        verdicts, u, v = made_verdicts(plant=plant)
        sentences.append(slice_sentence(find_errors(verdicts, {}, u, v, **settings)[1], CLASSES))
    assert sentences[0].startswith("more errors than their classes let expect (false discovery rate 5%) in 1 of ")
    assert "pictures wrong" in sentences[0]
    assert "cat taken for dog (" in sentences[0]
    assert sentences[1].startswith("no cell of ")
    assert sentences[1].endswith(" holds more errors than its classes let expect")
    nothing = {"grids": {"5": {"tested": 0, "slices": 0}}, "slices": []}
    assert slice_sentence(nothing, CLASSES).startswith("no cell has enough labelled pictures")
