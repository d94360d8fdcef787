import io
import json

import pytest

from fleetcast.proof.rows import Row, total
from fleetcast.proof.table import as_json, broken, print_table

GOOD = Row("nats-server killed", times=2, acked=1200, events=3400, worst_heal=1.25)
COLUMNS = ("lost", "twice", "reordered", "false_resets", "unhealed", "cut", "died")


def bad(column: str) -> Row:
    return Row("consume killed", times=1, acked=10, notes=["car-1: [1/2] is gone"], **{column: 3})


def test_all_kept_is_not_broken() -> None:
    assert not broken([GOOD, Row("at the end")])


@pytest.mark.parametrize("column", COLUMNS)
def test_each_column_alone_is_a_broken_promise(column: str) -> None:
    assert broken([GOOD, bad(column)])
    assert not bad(column).clean


def test_nothing_proved_is_broken() -> None:
    assert broken([])
    assert broken([Row("nothing acknowledged", times=1)])
    assert broken([Row("nothing tried", acked=10)])


def test_the_sum_has_the_worst_heal_and_every_count() -> None:
    whole = total([GOOD, bad("lost"), bad("twice"), Row("at the end", worst_heal=None)])
    assert (whole.times, whole.acked, whole.events, whole.lost, whole.twice) == (4, 1220, 3400, 3, 3)
    assert whole.worst_heal == 1.25
    assert total([Row("not measured")]).worst_heal is None


@pytest.mark.parametrize("column", COLUMNS)
def test_the_table_is_for_a_person(column: str) -> None:
    file = io.StringIO()
    print_table([GOOD, bad(column)], file)
    text = file.getvalue()
    assert "PROMISES WERE BROKEN" in text
    assert "consume killed: car-1: [1/2] is gone" in text
    assert ("3 not" if column == "unhealed" else " 3 ") in text
    file = io.StringIO()
    print_table([GOOD], file)
    assert "every promise kept" in file.getvalue()
    assert "1,200" in file.getvalue()
    assert "1.2 s" in file.getvalue()


def test_json_is_for_a_program() -> None:
    said = as_json([GOOD, bad("lost")], 5)
    assert "\n" not in said
    read = json.loads(said)
    assert (read["seed"], read["kept"]) == (5, False)
    assert [row["fault"] for row in read["rows"]] == ["nats-server killed", "consume killed", "all"]
    assert read["rows"][-1]["lost"] == 3
    assert json.loads(as_json([GOOD], 5))["kept"] is True
