"""Texts that tokenizers stumble over, and real sentences."""

import random

NASTY = (
    "",
    " ",
    "\t\n\r",
    "Hello, WORLD!",
    "déjà-vu ÀÉÎÕÜ ñandú Ångström İstanbul ΑΣ ſ ẞ ŒUVRE",
    "e\u0301 a\u0308\u0323 \u0301lone marks\u0301 q\u0307\u0323",
    "日本語のテスト。中文字符,한국어 테스트 가각힣",
    "\U00020000\U0002f800\uf900 豈",
    "emoji 😀👩‍👩‍👧 fi ﬁ ½ Ⅷ ² ①",
    "zero\u200bwidth\u200djoin\ufeff soft\u00adhyphen",
    "nbsp\u00a0thin\u2009line\u2028para\u2029ideographic\u3000end",
    "control\x00\x01\x1f\x7f\x85chars\x0b\x0c",
    "replacement\ufffdcharacter \ue000private",
    "don't it's 'tis --- ... $5.00 a_b @user #tag <b> [SEP] [CLS] [PAD] ##ing",
    "x" * 100 + " " + "x" * 101,
    "“quotes” «guillemets» ¿que? 、。",
    "עִבְרִית العَرَبِيَّة हिन्दी ไทย",
    "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𝟘𝟙 \U0001f1e9\U0001f1ea \U000e0001",
    "unassigned \u0378 \U0003ffff",
    "a" + " " * 50 + "b",
)


def random_texts(count, *, seed):
    """Short texts of characters that interact."""
    generator = random.Random(seed)
    alphabet = "abAB12 \t.,'!-éÉ\u0301\u00a0\u200b日가Σİ#[]_\u2028"
    return [
        "".join(generator.choice(alphabet) for _ in range(generator.randint(0, 25)))
        for _ in range(count)
    ]


def read_reviews(shared, *, step):
    """Each `step`-th sentence of the film reviews, latin-1."""
    folder = shared / "zoo" / "data" / "rt_polarity"
    lines = []
    for ending in ("neg", "pos"):
        data = (folder / f"rt-polarity.{ending}").read_bytes()
        lines += [line.decode("latin-1") for line in data.split(b"\n") if line]
    return lines[::step]
