"""Files of libvirt are changed where they must be, and nowhere else."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segue.core.confedit import Value, edited, read
from segue.errors import HostSetupError

FILE = """\
# Master libvirt daemon configuration file
#listen_tls = 0

unix_sock_group = "libvirt"   # who may
   auth_unix_ro = 'none'
a_setting_of_the_future = [ "one",
  "two", ]
max_clients = 5000
"""


def test_only_what_is_meant_differs():
    after = edited("f", FILE, {"max_clients": 20, "listen_tls": 1, "tls_allowed_dn_list": ("*OU=libvirt*",)})
    assert after == FILE.replace("5000", "20") + 'listen_tls = 1\ntls_allowed_dn_list = ["*OU=libvirt*"]\n'


def test_what_is_so_already_is_not_written_again():
    wanted: dict[str, Value] = {"unix_sock_group": "libvirt", "a_setting_of_the_future": ("one", "two"), "auth_unix_ro": "none"}
    assert edited("f", FILE, wanted) == FILE


def test_a_file_without_its_last_newline_and_an_empty_one_are_files():
    assert edited("f", "a = 1", {"b": 2}) == "a = 1\nb = 2\n"
    assert edited("f", "", {"b": 2}) == "b = 2\n"


@pytest.mark.parametrize(
    "text", ['listen_tls = 1\nauth_tls = "no', "listen_tls =\n", "listen_tls = 1\nlisten_tls = 0\n", "key\n", "a = [ 'x',\n"]
)
def test_half_a_setting_is_an_error_with_its_line_and_nothing_is_returned(text):
    with pytest.raises(HostSetupError, match=r"/etc/libvirt/libvirtd.conf cannot be understood") as caught:
        edited("/etc/libvirt/libvirtd.conf", text, {"listen_tls": 1})
    assert "left as it is" in caught.value.message


NAMES = st.from_regex(r"[a-z][a-z_0-9]{0,12}", fullmatch=True)
VALUES = st.one_of(
    st.integers(0, 70_000),
    st.text("abc *=/.:-_", max_size=12),
    st.lists(st.text("abcOU=*", min_size=1, max_size=8), max_size=3).map(tuple),
)


@settings(max_examples=30)
@given(st.dictionaries(NAMES, VALUES, max_size=6), st.dictionaries(NAMES, VALUES, max_size=4))
def test_every_setting_is_read_back_and_a_second_time_changes_nothing(before, wanted):
    text = edited("f", "# a comment\n", before)
    after = edited("f", text, wanted)
    assert read("f", after) == before | wanted
    assert edited("f", after, wanted) == after
    assert after.startswith("# a comment\n")
