"""The protocol book says file, block and key of what is wrong."""
import pytest

from data.book import BOOK_PATH, read_book
from data.errors import BookError

GOOD = """[CT_X]
name = "CT x"
modality = "CT"
region = "head"
contrast = "none"
sequences = ["helical"]
indications = ["trauma"]
minutes = 5
"""


def test_the_shipped_book_holds_88_protocols_with_indications_and_minutes():
    book = read_book()
    assert len(book.protocols) == 88
    assert book.protocols["CT_HEAD_WO"].loinc_code == "30799-1"
    assert book.protocols["CT_HEAD_WO"].contrast == "none"


def test_an_added_block_is_in_the_book_and_changes_its_version(tmp_path):
    (tmp_path / "a.toml").write_text(GOOD)
    before = read_book(tmp_path)
    (tmp_path / "b.toml").write_text(GOOD.replace("CT_X", "CT_Y"))
    after = read_book(tmp_path)
    assert set(after.protocols) == {"CT_X", "CT_Y"} and after.version != before.version


@pytest.mark.parametrize("old, new, said", [
    ('contrast = "none"', 'contrast = "maybe"', "contrast"),
    ('minutes = 5', 'minutes = "5"', "minutes"),
    ('minutes = 5', 'minutes = 0', "minutes"),
    ('region = "head"\n', '', "region"),
    ('indications = ["trauma"]', 'indications = []', "indications"),
    ('region = "head"', 'region = "head"\nregoin = "x"', "regoin"),
    ('[CT_X]', '[CT_X', "TOML"),
])
def test_a_wrong_block_is_named_with_its_key(tmp_path, old, new, said):
    (tmp_path / "mine.toml").write_text(GOOD.replace(old, new))
    with pytest.raises(BookError) as error:
        read_book(tmp_path)
    assert "mine.toml" in str(error.value) and said in str(error.value)
    assert said == "TOML" or "[CT_X]" in str(error.value)


def test_the_same_protocol_twice_is_refused(tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.toml").write_text(GOOD)
    with pytest.raises(BookError, match="twice"):
        read_book(tmp_path)


def test_the_book_is_where_the_package_is():
    assert BOOK_PATH.is_dir()
