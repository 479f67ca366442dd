"""Which passwords are accepted. A login accepts any text, because a wrong one is simply not the password."""

import unicodedata
from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr

SHORTEST = 8
LONGEST = 128
"""Characters. NIST SP 800-63B-4 asks for at least 64. A limit keeps requests small."""

_LONGEST_GIVEN = 1000

# The most frequent ones of that length in lists of leaked passwords. NIST asks for such a list; a long one would
# refuse little more, as logins are limited (`limits.py`).
_COMMON = frozenset(
    """
    00000000 01234567 0123456789 10203040 11111111 1111111111 11223344 12121212 123123123 12341234 12344321
    12345678 123456789 1234567890 1234567a 123456abc 123abc123 123qwe123 123qweasd 147258369 1q2w3e4r
    1q2w3e4r5t 1qaz2wsx 1qazxsw2 22222222 55555555 66666666 77777777 789456123 87654321 88888888 987654321
    9876543210 99999999 a1234567 a12345678 aa123456 aaaaaaaa abc12345 abc123456 abcd1234 abcdefgh admin123
    administrator adminadmin asdf1234 asdfasdf asdfghjk asdfghjkl azertyuiop baseball basketball blink182
    changeme charlie1 computer dragon123 eventshop eventshop1 football football1 goodluck iloveyou iloveyou1
    internet jennifer killer123 letmein1 letmein123 liverpool liverpool1 michael1 michelle midnight minecraft
    monkey123 mustang1 myspace1 p@ssw0rd p@ssword passw0rd passport password password! password01 password1
    password12 password123 password1234 pokemon1 princess princess1 q1w2e3r4 q1w2e3r4t5 qazwsxedc qwe123456
    qwer1234 qwerasdf qwerqwer qwerty12 qwerty123 qwerty1234 qwertyui qwertyuiop samantha secret123 shadow12
    starwars sunshine sunshine1 superman superman1 test1234 testtest trustno1 victoria welcome1 welcome123
    whatever zaq12wsx zxcvbnm1 zxcvbnm123
    """.split()  # noqa: SIM905 - a list literal would be three times as long
)


def _text(password: SecretStr) -> SecretStr:
    # Python's JSON reader, which names the fields that are wrong, takes it.
    if any(unicodedata.category(char) == "Cs" for char in password.get_secret_value()):
        raise ValueError("must not contain half a character (a lone surrogate)")
    return password


def _bounded(password: SecretStr) -> SecretStr:
    # Not by Field: of a secret, Pydantic's message would say "at least 1 item after validation".
    if not 1 <= len(password) <= _LONGEST_GIVEN:
        raise ValueError(f"must have 1 to {_LONGEST_GIVEN} characters")
    return password


def _acceptable(password: SecretStr) -> SecretStr:
    given = password.get_secret_value()
    if not SHORTEST <= len(given) <= LONGEST:
        raise ValueError(f"must have {SHORTEST} to {LONGEST} characters, and has {len(given)}")
    if any(unicodedata.category(char) == "Cc" for char in given):
        raise ValueError("must not contain control characters, like U+0000 or a line break")
    if len(set(given)) == 1:
        raise ValueError("must not be one character repeated")
    if given.casefold() in _COMMON:
        raise ValueError("is one of the most common passwords; choose another")
    return password


NewPassword = Annotated[
    SecretStr,
    Field(
        description=f"{SHORTEST} to {LONGEST} characters, none of them a control character; no common password",
        examples=["correct horse battery staple"],
        json_schema_extra={
            "minLength": SHORTEST,
            "maxLength": LONGEST,
            "pattern": r"^[^\x00-\x1f\x7f-\x9f]*$",
        },
    ),
    AfterValidator(_acceptable),
    AfterValidator(_text),
]

GivenPassword = Annotated[
    SecretStr,
    Field(json_schema_extra={"minLength": 1, "maxLength": _LONGEST_GIVEN}),
    AfterValidator(_bounded),
    AfterValidator(_text),
]
