"""Words beside a number: which leave it as it is, which multiply it, which name what it is given to."""

from __future__ import annotations

import re

SCALES = {
    "tens": 10,
    **dict.fromkeys(("dozen", "dozens"), 12),
    **dict.fromkeys(("hundred", "hundreds"), 100),
    **dict.fromkeys(("thousand", "thousands"), 1000),
    **dict.fromkeys(("lakh", "lakhs"), 10**5),
    **dict.fromkeys(("million", "millions"), 10**6),
    **dict.fromkeys(("crore", "crores"), 10**7),
    **dict.fromkeys(("billion", "billions"), 10**9),
    **dict.fromkeys(("trillion", "trillions"), 10**12),
    **dict.fromkeys(("万", "萬"), 10**4),
    **dict.fromkeys(("亿", "億"), 10**8),
    "百": 100,
    "千": 1000,
}
"""Words right after a number that multiply it."""
COUNTS = {
    word: value
    for value, word in enumerate(
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
        "seventeen eighteen nineteen".split()
    )
} | {
    word: 10 * value
    for value, word in enumerate("twenty thirty forty fifty sixty seventy eighty ninety".split(), start=2)
}
PARTS = (
    "third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth fifteenth sixteenth "
    "seventeenth eighteenth nineteenth twentieth thirtieth fortieth fiftieth sixtieth seventieth eightieth ninetieth "
    "hundredth thousandth millionth billionth half quarter"
).split()
"""What a number in words is a number of (five ninths), in the singular."""
# Words beside a number that make it another number, a condition, a guess or no answer at all.
_CHANGING = (
    frozenset(
        """
    no not non nor neither never none nothing nobody nope nah without except excepting excluding excluded barring
    isnt arent wasnt werent doesnt dont didnt cant cannot couldnt wouldnt shouldnt wont aint
    wrong incorrect false untrue mistake mistaken error erroneous invalid impossible undefined unknown unsure
    uncertain guess guessed guessing maybe perhaps probable likely unlikely questionable doubtful doubt fake rejected
    retracted discarded reject discard disregard extraneous spurious inadmissible forbidden tbd todo pending dubious
    ignore ignored instead rather wait correction sorry oops hmm unless otherwise else
    however though although but yet unclear missing undetermined depends varies variable contradiction contradicts
    fails failed assume assumes assumed let alleged joking kidding lie lies random placeholder nonsense anything
    whatever
    than less lesser fewer least most greater higher lower smaller larger bigger above below beneath under over beyond
    exceeding exceeds exceed within between from to through thru until till up down upward upwards onward onwards
    minimum maximum max bound bounded inclusive exclusive and or xor any nearly almost about around approximate approx
    roughly circa ca ish give take estimated estimate estimation rounded rounding round roundish
    minus plus multiplied multiply multiplying divided divide dividing added add adding subtracted subtract
    subtracting product quotient remainder modulo mod modulus power powers powered exponent exponents exponential
    exponentiated
    raised squared cubed cube root sqrt radical factorial choose permute log ln lg logarithm exp sin cos tan sine
    cosine tangent cot csc cosec arcsin arccos arctan sinh cosh tanh floor ceiling ceil inverse inverted reciprocal
    opposite negative negatives negated neg absolute abs conjugate imaginary complex infinity infinite inf nan null
    percent too permille permil promille promil mille bps basis double doubled doubling triple tripled
    quadruple quadrupled quintuple twice thrice halved halve halves quartered fold folds repeating repeated
    repeats recurring recurs recur periodic ellipsis etc binary octal hex hexadecimal decimal base radix roman
    notation into by as if iff when whenever where whereas given provided assuming suppose supposing supposedly then
    while once because since so hence thus therefore implies is was were are be been being equals equal equaling
    equalling equality means mean becomes became has have had does do did can could may might must shall should will
    would seem seems seemed look looks appear appears after before off shy short debt deficit overdrawn loss bc bce
    alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho sigma tau upsilon phi chi
    psi omega score scores gross grand myriad bn mn mil mio mrd couple pair nil
    january february march april may june july august september october november december
    monday tuesday wednesday thursday friday saturday sunday
    tysiąc tysiące tysięcy milion milionów
    mil millones millon millón mille milliard milliards milliarde milliarden millionen tausend hundert dutzend
    douzaine douzaines docena docenas ciento cientos cien centaine centaines moins menos weniger mehr mas más mal
    fois veces vez hoch carré cuadrado quadrat ou oder und et nicht pas kein keine ohne sans über unter wenn falls si
    demi demie medio media halb halbe tiers
    """.split()
    )
    | {form for word in PARTS for form in (word, word + "s")}
    | {f"{word}s" for word in COUNTS}
    | set(COUNTS)
)
_MANNER = frozenset(
    "exactly precisely only daily weekly biweekly monthly yearly hourly quarterly annually family jelly".split()
)
_ABBREVIATED = frozenset(
    "lbs hrs mins secs kgs yds pcs pts mph kph kmh rpm fps ppm ppb kwh hz khz mhz ghz kpa mpa pa nm um µm μm dm cc cl "
    "dl kn kj kv mv kw mw db gb mb kb tb usd eur gbp cny rmb hkd jpy inr rs cm mm km kg mg ml oz lb ft in yd mi hr "
    "sq cu gal qt pt tsp tbsp ms ns ct pp am pm of on at an us my he we it our its his her their".split()
)
_LETTERS = frozenset("m g s h l L N W J V A".split())
_ALPHABET = "abcdefghijklmnopqrstuvwxyz"
_RUSSIAN = re.compile(
    r"тысяч|милли|сотен|сотн|дюжин|десят|полов|трет|четверт|процент|минус|плюс|мень|менее|больш|более|кроме|пример"
    r"|около|почти|умнож|делен|делит|квадрат|куб|степен|корен|(?:или|и|не|нет|до|от|раз|раза|как|если|где|сто)$"
)
_EASTERN_UNITS = re.compile(
    "(?:平方|立方)?(?:千米|千克|千瓦|千卡|公里|厘米|毫米|分米|米|メートル)|立方体|ドル|円|人民币"
)
_EASTERN_CHANGING = re.compile(
    "[非不没無无未否错錯误誤约約概左上下以超过多余餘几幾半负負减減加乘除方根模或且和与與及到至如若当可能许比折成的倒共"
    "零〇一二两三四五六七八九十百千万萬亿億兆]|分之|ない|만|천|백|억|이상|이하|미만|초과|아니|반|쯤|정도|약"
)
_EASTERN = re.compile("[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+")


def is_eastern(word: str) -> bool:
    """Whether a word is Chinese, Japanese or Korean."""
    return _EASTERN.fullmatch(word) is not None


MAX_WORDS = 10
"""Words after a number."""


def is_plain_word(word: str) -> bool:
    """Whether a word beside a number leaves it as it is: `apples`, `per`, `kg`; not `million`, `wrong`, `xy`."""
    lower = word.lower()
    if lower in _CHANGING or lower in SCALES or lower.endswith(("n't", "n’t")):
        return False
    if lower.endswith("ly") and len(lower) > 3 and lower not in _MANNER:
        return False  # exactly or nearly, hopefully or impossibly: mostly a doubt
    if re.fullmatch("(?:sin|cos|tan|cot|csc|log|exp|sqrt)[xyznt]", lower) and lower != "cost":
        return False
    if lower in _ABBREVIATED or re.fullmatch(r"[A-Z]{2,4}s", word):
        return True
    if _EASTERN.fullmatch(word):
        return len(word) <= MAX_WORDS and not _EASTERN_CHANGING.search(_EASTERN_UNITS.sub("", word))
    if len(word) < 3 or (word.isupper() and len(word) < 4):
        return False
    if word.isascii():
        # Letters in their order are variables, and so is what cannot be spoken.
        return lower not in _ALPHABET and re.search("[aeiouy]", lower) is not None
    if all("\u0400" <= char <= "\u052f" for char in lower):
        return _RUSSIAN.match(lower) is None
    return all(char < "\u0250" or char in "'’" for char in lower)


def are_plain_words(words: list[str]) -> bool:
    """Whether what follows a number says only what it counts: `apples a day`, `km / h`, `of the cake`."""
    if len(words) > MAX_WORDS:
        return False
    return all(_fits(word, words, place) for place, word in enumerate(words))


def _fits(word: str, words: list[str], place: int) -> bool:
    word = word.partition("^")[0]  # cm^2
    lower = word.lower()
    before = words[place - 1].lower() if place else ""
    after = words[place + 1].lower() if place + 1 < len(words) else ""
    if word == "/":
        return bool(before) and bool(after)
    if lower in ("times", "time"):  # "5 times" counts, "5 times the price" multiplies
        return after in ("", "a", "an", "per", "each", "every") and not before
    if lower == "square" and not after:
        return True
    if lower in ("more", "square", "cubic", "sq", "cu", "of", "per", "the"):
        return len(after) > 2 or after in _ABBREVIATED or after in ("m", "g", "s", "h", "l")
    if lower in ("a", "an"):
        return len(after) > 1
    if lower == "for":
        return after in ("each", "every", "the")
    if lower == "percentage":
        return after in ("point", "points")
    if len(word) == 1 and not _EASTERN.fullmatch(word):
        return (
            word in _LETTERS
            and before in ("", "/", "per", "square", "cubic", "sq", "cu")
            and (after == "/" or len(after) != 1)
        )
    return is_plain_word(word)


def read_count(words: list[str]) -> int | None:
    """The number in English words or in digits; None where the words are none."""
    if len(words) == 1 and words[0].isascii() and words[0].isdigit() and len(words[0]) < 60:
        return int(words[0])
    total = part = 0
    words = [word.lower() for word in words if word.lower() not in ("and", "a")]
    for word in words:
        if word in COUNTS:
            part += COUNTS[word]
        elif word in ("hundred", "dozen"):
            part = max(part, 1) * SCALES[word]
        elif word in SCALES:
            total, part = total + max(part, 1) * SCALES[word], 0
        else:
            return None
    return total + part if words else None


_GREEK = r"\\(?:alpha|beta|gamma|delta|epsilon|theta|lambda|mu|nu|rho|sigma|tau|phi|varphi|psi|omega|ell|Delta|Omega)"
_LETTER = rf"(?:[A-Za-z]|{_GREEK}(?![A-Za-z]))"
_VARIABLE = re.compile(
    rf"(?:m?\s*(?:\\angle|∠|\\overline|\\triangle|△)\s*)?(?:\{{?\s*[A-Z]{{1,4}}\s*\}}?|{_LETTER})"
    r"(?:_(?:\w|\{\s*\w{1,12}\s*\}))?'{0,2}"
    r"(?:\(\s*(?:-?\d[\d./, ]{0,20}|[A-Za-z]|[A-Za-z]{2,20})\s*\))?"
    rf"|\|\s*[A-Z]{{2}}\s*\||\\(?:sin|cos|tan|cot|sec|csc)\s*(?:{_LETTER}|[{{(]\s*{_LETTER}\s*[)}}]|(?:\\angle|∠)?\s*[A-Z]{{1,3}})"
)
_ASKED = re.compile(r"\\(?:lim|int|sum|prod|max|min|gcd|lcm|det|sup|inf|oint|iint)(?![A-Za-z])[^<>≈≠]*")


def is_name(text: str) -> bool:
    r"""Whether a text names something that a number can be given to: `x`, `f(2)`, `\angle ABC`, `total cost`.

    `2x`, `x + y`, `xy`, `x^2`, `n!`, `half of x` name nothing: what equals them is not the answer.
    """
    text = text.strip().rstrip(":").strip()
    if _VARIABLE.fullmatch(text) or _ASKED.fullmatch(text):
        return True
    words = text.replace("\n", " ").split()
    if not 0 < len(words) <= MAX_WORDS or not re.fullmatch(r"[A-Za-z' ]+", " ".join(words)):
        return False
    if words[-1] in ("square", "cube") and "of" not in words:
        return False  # of the answer, or a figure
    named = [word for word in words if len(word) > 1]
    return any(len(word) > 2 for word in named) and all(is_plain_word(word) for word in named)
