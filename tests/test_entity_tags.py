import pytest

from tf_finetune import entity_tags


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("O O", set()),
        ("B-A", {("A", 0, 1)}),
        ("O B-A I-A O", {("A", 1, 3)}),
        ("B-A B-A I-A", {("A", 0, 1), ("A", 1, 3)}),
        ("B-A I-B O", {("A", 0, 1), ("B", 1, 2)}),
        ("I-A I-A O I-B", {("A", 0, 2), ("B", 3, 4)}),
        ("", set()),
    ],
)
def test_names_are_found_as_in_conll(tags, expected):
    assert entity_tags.find_entities(tags.split()) == expected


def test_only_bio_tags_mark_names():
    assert entity_tags.are_bio(("B-LOC", "I-LOC", "O"))
    assert not entity_tags.are_bio(("NOUN", "VERB", "O"))
    assert not entity_tags.are_bio(("O", "I-LOC"))
    assert not entity_tags.are_bio(("B-LOC", "O", "S-LOC"))
