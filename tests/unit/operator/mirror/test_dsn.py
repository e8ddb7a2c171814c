from __future__ import annotations

import pytest

from presence_operator.mirror.dsn import Dsn, DsnError


def test_an_address_names_user_password_host_port_and_database() -> None:
    dsn = Dsn.parse("mysql://mirror:s3cret@dolt.beads.svc:3307/beads")
    assert (dsn.user, dsn.password, dsn.host, dsn.port, dsn.database) == (
        "mirror", "s3cret", "dolt.beads.svc", 3307, "beads",
    )  # fmt: skip


def test_the_port_is_3306_when_none_is_named() -> None:
    assert Dsn.parse("mysql://beads@dolt/beads").port == 3306


def test_a_password_may_be_percent_encoded_or_hold_an_at_sign_as_it_is() -> None:
    assert Dsn.parse("mysql://u:a%2Fb%40c@h/d").password == "a/b@c"
    assert Dsn.parse("mysql://u:a/b@c#d@h/d").password == "a/b@c#d"


def test_an_ipv6_host_stands_in_brackets() -> None:
    dsn = Dsn.parse("mysql://u:p@[fd00::1]:3306/d")
    assert dsn.host == "fd00::1"
    assert str(dsn) == "mysql://u@[fd00::1]:3306/d"


def test_no_text_form_shows_the_password() -> None:
    dsn = Dsn.parse("mysql://u:hunter2@h/d")
    assert "hunter2" not in f"{dsn} {dsn!r}"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("postgres://u:hunter2@h/d", "begin with mysql://"),
        ("dolt.example:3306", "begin with mysql://"),
        ("mysql://h/d", "names no user"),
        ("mysql://u:hunter2@/d", "names no host"),
        ("mysql://u:hunter2@h", "names no database"),
        ("mysql://u:hunter2@h:http/d", "right host and port"),
        ("mysql://u:hunter2@h:0/d", "port 0"),
        ("mysql://u:hunter2@h/d?tls=maybe", "off, verify, insecure"),
        ("mysql://u:hunter2@h/d?sslmode=require", "unknown option 'sslmode'"),
        ("mysql://u:hunter2@h/d?ca=/nowhere/ca.pem", "is no file"),
    ],
)
def test_a_wrong_address_is_explained_without_its_password(text: str, says: str) -> None:
    with pytest.raises(DsnError) as error:
        Dsn.parse(text)
    assert says in str(error.value)
    assert "hunter2" not in str(error.value)


def test_tls_verifies_unless_told_otherwise() -> None:
    verify = Dsn.parse("mysql://u@h/d?tls=verify").ssl_context()
    insecure = Dsn.parse("mysql://u@h/d?tls=insecure").ssl_context()
    assert verify is not None
    assert verify.check_hostname
    assert insecure is not None
    assert not insecure.check_hostname
    assert Dsn.parse("mysql://u@h/d").ssl_context() is None
