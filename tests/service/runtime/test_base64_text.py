import base64
import random
import textwrap
from urllib.parse import quote

import pytest

from service.runtime import base64_text
from service.runtime.base64_text import decode_base64

# Every byte, so that both alphabets differ.
BYTES = bytes(range(256)) * 3


@pytest.mark.parametrize("length", [0, 1, 2, 3, 4, 5, 766, 767, 768])
def test_accepts_the_variants_of_clients(length):
    data = BYTES[-length:] if length else b""
    text = base64.b64encode(data).decode()
    mime = base64.encodebytes(data).decode()
    variants = [
        text,
        mime,
        mime.replace("\n", "\r\n"),
        textwrap.indent(mime, "    "),
        f"  {text}\n",
        text.rstrip("="),
        base64.urlsafe_b64encode(data).decode(),
        base64.urlsafe_b64encode(data).decode().rstrip("="),
        f"data:image/png;base64,{text}",
        f"data:image/png;charset=utf-8;base64,{mime}",
        f"DATA:image/png;base64,{quote(mime, safe='')}",
    ]
    assert [decode_base64(variant) for variant in variants] == [data] * len(variants)


def test_steps_do_not_depend_on_line_breaks(monkeypatch):
    monkeypatch.setattr(base64_text, "_STEP", 8)
    rng = random.Random(0)
    for length in range(60):
        text = base64.b64encode(BYTES[:length]).decode()
        text = "".join(each + rng.choice(["", "", "\n", "\r\n"]) for each in text)
        assert decode_base64(text) == BYTES[:length]
        assert decode_base64(f"data:;base64,{quote(text, safe='')}") == BYTES[:length]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("?", "expected base64"),
        ("QUJ?RA==", "expected base64"),
        ("QUJDR", "cut off"),
        ("QUJD====", "cut off"),
        ("QQ==QUJD", "padding before its end"),
        ("QUJD RA==", "a space"),
        ("ab-/", "one alphabet"),
        ("QUJDñ", "not ASCII"),
        ("QUJD\0RA==", "expected base64"),
    ],
)
def test_rejects_text_that_is_not_base64(text, message):
    with pytest.raises(ValueError, match=message):
        decode_base64(text)
