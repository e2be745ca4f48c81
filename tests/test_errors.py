import os

import numpy as np
import pytest

from ecood.errors import InputError, check_positive, check_regular, check_share, is_special


def test_what_a_path_is_is_asked_once(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_text("a file")
    (tmp_path / "device").symlink_to("/dev/null")
    asked, stat = [], os.stat
    monkeypatch.setattr(os, "stat", lambda *a, **k: asked.append(a) or stat(*a, **k))
    names = ("pipe", "device", "file", ".", "nothing", "no\0path")
    found = [is_special(tmp_path / name) for name in names]
    assert len(asked) == len(names)
    monkeypatch.undo()
    assert found == [True, True, False, False, False, False]
    with pytest.raises(InputError, match="pipe is no regular file"):
        check_regular(tmp_path / "pipe")
    check_regular(tmp_path / "nothing")


@pytest.mark.parametrize("value", ["0.5", b"0.5", None, [0.5], np.array([0.5]), 0.5j, np.nan, -1])
def test_what_is_no_single_number_is_refused(value):
    with pytest.raises(InputError, match="^x is .*; expected a share"):
        check_share("x", value, "a share", none=True, whole=True)
    with pytest.raises(InputError, match="^x is .*; expected a finite number above 0"):
        check_positive("x", value)


def test_shares_may_be_none_or_the_whole():
    assert check_share("x", np.float32(0.5), "a share") == 0.5
    for number, allowed in ((0, {"none": True}), (1, {"whole": True})):
        assert check_share("x", number, "a share", **allowed) == number
        with pytest.raises(InputError, match=f"x is {number}"):
            check_share("x", number, "a share")
    for number in (10**400, float("inf")):
        with pytest.raises(InputError, match="a finite number"):
            check_positive("x", number)
