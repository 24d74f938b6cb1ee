r"""Units of measurement, of money, and things that are counted: one spelling for each, and how they convert.

A unit is text: names from the table below with powers, products and quotients (`m/s^2`, `N*m`), or a thing in the
singular (`apple`). Two units of one kind convert exactly (90 minutes are 1.5 hours).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from functools import cache

from rethink.tasks.words import is_eastern, is_plain_word

# kind, unit, how many of the kind's first unit it is, names. Names with capitals are case-sensitive.
_TABLE = """
m     m      1            m meter meters metre metres 米
m     cm     1/100        cm centimeter centimeters centimetre centimetres 厘米
m     mm     1/1000       mm millimeter millimeters millimetre millimetres 毫米
m     dm     1/10         dm decimeter decimeters decimetre decimetres 分米
m     km     1000         km kilometer kilometers kilometre kilometres 千米 公里
m     um     1/1000000    um µm μm micrometer micrometers micrometre micrometres micron microns
m     nm     1/1000000000 nm nanometer nanometers nanometre nanometres
m     in     127/5000     in inch inches
m     ft     381/1250     ft foot feet
m     yd     1143/1250    yd yds yard yards
m     mi     201168/125   mi mile miles
m^2   ha     10000        ha hectare hectares
m^2   acre   316160658/78125 acre acres
m^3   l      1/1000       l L liter liters litre litres 升
m^3   ml     1/1000000    ml mL milliliter milliliters millilitre millilitres cc 毫升
m^3   dl     1/10000      dl dL deciliter deciliters
m^3   cl     1/100000     cl cL centiliter centiliters
gal   gal    1            gal gallon gallons
gal   qt     1/4          qt quart quarts
gal   pt     1/8          pt pint pints
gal   cup    1/16         cup cups
gal   tbsp   1/256        tbsp tablespoon tablespoons
gal   tsp    1/768        tsp teaspoon teaspoons
s     s      1            s sec secs second seconds 秒
s     ms     1/1000       ms millisecond milliseconds
s     us     1/1000000    us µs μs microsecond microseconds
s     ns     1/1000000000 ns nanosecond nanoseconds
s     min    60           min mins minute minutes 分钟
s     h      3600         h hr hrs hour hours 小时
s     day    86400        day days 天
s     week   604800       week weeks wk wks
month month  1            month months 个月
month year   12           year years yr yrs 年
month decade 120          decade decades
month century 1200        century centuries
g     g      1            g gram grams gramme grammes 克
g     kg     1000         kg kgs kilogram kilograms kilo kilos 千克 公斤
g     mg     1/1000       mg milligram milligrams
g     ug     1/1000000    ug µg μg microgram micrograms
g     t      1000000      t tonne tonnes 吨
ton   ton    1            ton tons
lb    lb     1            lb lbs
lb    oz     1/16         oz ounce ounces
pound pound  1            pound pounds
N     N      1            N newton newtons 牛
N     kN     1000         kN kilonewton kilonewtons
J     J      1            J joule joules
J     kJ     1000         kJ kilojoule kilojoules
J     MJ     1000000      MJ megajoule megajoules
J     Wh     3600         Wh watt-hour watt-hours
J     kWh    3600000      kWh kilowatt-hour kilowatt-hours
cal   cal    1            cal calorie calories
cal   kcal   1000         kcal kilocalorie kilocalories
eV    eV     1            eV electronvolt electronvolts
eV    keV    1000         keV
eV    MeV    1000000      MeV
J/s   W      1            W watt watts
J/s   mW     1/1000       mW milliwatt milliwatts
J/s   kW     1000         kW kilowatt kilowatts
J/s   MW     1000000      MW megawatt megawatts
hp    hp     1            hp horsepower
Pa    Pa     1            Pa pascal pascals
Pa    hPa    100          hPa hectopascal hectopascals
Pa    kPa    1000         kPa kilopascal kilopascals
Pa    MPa    1000000      MPa megapascal megapascals
Pa    bar    100000       bar bars
atm   atm    1            atm atmosphere atmospheres
psi   psi    1            psi
mmHg  mmHg   1            mmHg torr
Hz    Hz     1            Hz hertz
Hz    kHz    1000         kHz kilohertz
Hz    MHz    1000000      MHz megahertz
Hz    GHz    1000000000   GHz gigahertz
V     V      1            V volt volts
V     mV     1/1000       mV millivolt millivolts
V     kV     1000         kV kilovolt kilovolts
A     A      1            A amp amps ampere amperes
A     mA     1/1000       mA milliamp milliamps milliampere milliamperes
ohm   ohm    1            ohm ohms Ω
ohm   kohm   1000         kohm kohms kΩ kilohm kilohms kiloohm kiloohms
ohm   Mohm   1000000      Mohm MΩ megohm megohms megaohm megaohms
C     C      1            C coulomb coulombs
C     mC     1/1000       mC millicoulomb millicoulombs
C     uC     1/1000000    uC µC μC microcoulomb microcoulombs
F     F      1            F farad farads
F     uF     1/1000000    uF µF μF microfarad microfarads
F     nF     1/1000000000 nF nanofarad nanofarads
F     pF     1/1000000000000 pF picofarad picofarads
H     H      1            H henry henries henrys
Wb    Wb     1            Wb weber webers
T     T      1            T tesla teslas
K     K      1            K kelvin kelvins
mol   mol    1            mol mole moles mols
mol   mmol   1/1000       mmol millimole millimoles
M     M      1            M molar
cd    cd     1            cd candela candelas
lm    lm     1            lm lumen lumens
lx    lx     1            lx lux
dB    dB     1            dB decibel decibels
Bq    Bq     1            Bq becquerel becquerels
byte  byte   1            byte bytes B
byte  KB     1000         KB kB kilobyte kilobytes
byte  MB     1000000      MB megabyte megabytes
byte  GB     1000000000   GB gigabyte gigabytes
byte  TB     1000000000000 TB terabyte terabytes
bit   bit    1            bit bits
deg   degree 1            degree degrees deg 度
degC  celsius 1           celsius centigrade
degF  fahrenheit 1        fahrenheit
rad   rad    1            rad rads radian radians
sr    sr     1            sr steradian steradians
$     dollar 1            dollar dollars usd USD buck bucks 美元
$     cent   1/100        cent cents ¢
€     euro   1            euro euros eur EUR 欧元
£     gbp    1            gbp GBP quid
£     penny  1/100        penny pence
yuan  yuan   1            yuan rmb RMB cny CNY renminbi 元 块 人民币
yen   yen    1            yen jpy JPY 円 日元
rupee rupee  1            rupee rupees inr INR Rs rs
won   won    1            krw KRW 원
ruble ruble  1            ruble rubles rouble roubles rub RUB
peso  peso   1            peso pesos
franc franc  1            franc francs chf CHF
unit  unit   1            unit units
"""
_ROWS = [line.split() for line in _TABLE.strip().splitlines()]
_NAMES = {name: unit for _, unit, _, *names in _ROWS for name in names}
_LOWER = {name.lower(): unit for name, unit in _NAMES.items() if len(name) > 1 and name.lower() not in _NAMES}
_SIZES = {unit: (kind, Fraction(size)) for kind, unit, size, *_ in _ROWS}
_COMPOUND = {
    "mph": "mi/h", "kmh": "km/h", "kph": "km/h", "kmph": "km/h", "rpm": "revolution/min", "mps": "m/s", "fps": "ft/s",
    "sqft": "ft^2", "sqm": "m^2", "sqcm": "cm^2", "sqkm": "km^2", "sqmi": "mi^2",
}  # fmt: skip
MONEY = {"¤": "dollar", "€": "euro", "£": "gbp", "¥": "yuan", "₹": "rupee", "₩": "won", "₽": "ruble"}
"""Units of signs of money; a dollar sign is written as ¤, since dollar signs enclose mathematics."""
_POWERS = {"square": 2, "sq": 2, "cubic": 3, "cu": 3}
_AFTER = {"squared": 2, "cubed": 3}
_ALIKE = [{"pound", "lb"}, {"pound", "gbp"}, {"degree", "celsius"}, {"degree", "fahrenheit"}, {"yuan", "yen"}]
"""Units with names that do not tell them apart."""
_JOINED = frozenset(
    "cm mm km kg mg ml mL lb lbs oz ft mph kph kmh hr hrs min mins sec secs kwh kWh pcs usd cents Hz kHz MHz GHz kN kJ "
    "kW kPa nm µm μm ms in USD mol rad Ω kΩ MΩ".split()
)
NEEDED = frozenset("K C F T M H B t rad".split())
"""Units that the gold must have too: their letters may be thousands or variables, and radians are a choice."""
_IRREGULAR = {"people": "person", "men": "man", "women": "woman", "children": "child", "mice": "mouse", "dice": "die"}
_FILLERS = frozenset("each total left remaining altogether overall apiece only more extra per away together".split())


def _base(word: str) -> str | None:
    """A unit of the table by one of its names."""
    plain = word.rstrip(".")
    found = _NAMES.get(plain) or _COMPOUND.get(plain.lower().replace(".", ""))
    if found is None and (len(plain) > 2 or plain.lower() in _NAMES) and len(plain) > 1:
        found = _NAMES.get(plain.lower()) or _LOWER.get(plain.lower())
    return found


def is_unit(word: str) -> bool:
    """Whether a word is a unit of measurement that has more than one letter."""
    return len(word) > 1 and _base(word) is not None


def joined_unit(word: str) -> bool:
    """Whether a word may follow its number without a space: `5cm`, `5元`; `5x`, `5m` and `5pi` are products."""
    return word in _JOINED or word.lower() in _JOINED or is_eastern(word)


def measured(words: Sequence[str]) -> str | None:
    """The unit of measurement that words are, as a whole; None where one of them is none."""
    tops: list[str] = []
    below = False
    power = 0
    for word in words:
        name, _, raised = word.partition("^")
        lower = name.lower()
        if lower in ("/", "per"):
            if below or not tops or power:
                return None
            below = True
        elif lower in _POWERS and not raised:
            power = _POWERS[lower]
        elif lower in _AFTER and tops and "^" not in tops[-1]:
            tops[-1] += f"^{_AFTER[lower]}"
        elif (unit := _base(name)) is not None:
            exponent = power or int(raised or 1)
            whole = unit if exponent == 1 else f"{unit}^{exponent}"
            tops.append(f"/{whole}" if below else whole)
            power = 0
        elif lower in ("degree", "degrees"):
            continue
        else:
            return None
    tops = tops[1:] if len(tops) > 1 and tops[0] == "degree" else tops  # degrees Celsius
    if not tops or power or (below and not tops[-1].startswith("/")) or len(tops) > 4:
        return None
    return "*".join(tops).replace("*/", "/")


def unit_of(words: Sequence[str]) -> str | None:
    """One spelling of the unit or the thing that words are; None where they are none alone (`red apples`)."""
    found = measured(words)
    if found is not None or len(words) != 1:
        return found
    return thing(words[0])


def thing(word: str) -> str | None:
    """What is counted, in the singular; None if the word is a variable, or does not name what is counted."""
    lower = word.lower().rstrip(".")
    if len(lower) < 3 or not lower.isalpha() or lower in _FILLERS or not is_plain_word(lower) or is_eastern(lower):
        return None
    if lower in _IRREGULAR:
        return _IRREGULAR[lower]
    if lower.endswith("ies") and len(lower) > 4:
        return lower[:-3] + "y"
    if lower.endswith(("ches", "shes", "sses", "xes", "zes")):
        return lower[:-2]
    return lower[:-1] if lower.endswith("s") and not lower.endswith("ss") else lower


@cache
def _size(unit: str) -> tuple[frozenset[tuple[str, int]], Fraction]:
    """The kinds that a unit is made of, with their powers, and its size."""
    kinds: Counter[str] = Counter()
    size = Fraction(1)
    for name, power in _powers(unit):
        kind, own = _SIZES.get(name, (name, Fraction(1)))
        for base, dimension in _powers(kind):
            kinds[base] += power * dimension
        size *= own**power
    return frozenset((kind, power) for kind, power in kinds.items() if power), size


def _powers(unit: str) -> list[tuple[str, int]]:
    """`m/s^2` as m to the power of 1 and s to the power of -2."""
    parts = [(part[0], *part.lstrip("*/").partition("^")) for part in re.findall(r"[*/]?[^*/]+", unit)]
    return [(name, int(raised or 1) * (-1 if sign == "/" else 1)) for sign, name, _, raised in parts]


def in_units(ours: str, gold: str) -> Fraction | None:
    """The answer's unit in units of the gold answer; None if they do not measure the same."""
    if ours == gold or any({ours, gold} <= alike for alike in _ALIKE):
        return Fraction(1)
    kinds, size = _size(ours)
    other, whole = _size(gold)
    return size / whole if kinds == other else None


_PART = re.compile(r"\s*(?:,\s*)?(?:and\s+)?(\d{1,9}(?:\.\d{1,9})?)\s*-?\s*([A-Za-z]{1,12})\.?(?![A-Za-z^/])", re.ASCII)


def read_compound(text: str) -> tuple[Fraction, str] | None:
    """The value, and the first unit, of `1 hour 30 minutes` or `5 ft 6 in`; None for everything else."""
    at, value, first, last = 0, Fraction(0), "", Fraction(0)
    count = 0
    while at < len(text):
        found = _PART.match(text, at)
        if found is None or count > 4:
            return None
        number, unit = Fraction(found.group(1)), _base(found.group(2))
        unit = "min" if first == "h" and found.group(2) == "m" else unit
        size = None if unit is None else in_units(unit, first or unit)
        if unit is None or size is None or (first and (size >= last or number * size >= last)):
            return None
        if not first and "." in found.group(1):
            return None
        first = first or unit
        value, last, at, count = value + number * size, size, found.end(), count + 1
    return (value, first) if count > 1 else None


_UNIT = re.compile(
    r"(?<=[\d})])\s*((?:(?:square|cubic|sq|cu)\.?\s+)?[A-Za-zµμΩ]+(?:\s*/\s*[A-Za-z]+|\s+per\s+[A-Za-z]+)?"
    r"(?:\s*\^\s*\{?[23]\}?)?)\s*\.?\s*$"
)
_VARIABLE = re.compile(r"(?<![\\A-Za-z])[A-Za-z](?![A-Za-z])")


def split_unit(text: str) -> tuple[str, str | None]:
    """An expression and the unit after it, in one spelling (`5 meters^2` -> `5`, `m^2`); (text, None) without one."""
    found = _UNIT.search(text)
    if found is None or not re.search(r"\d", text[: found.start()]):
        return text, None
    words = re.findall(r"[A-Za-zµμΩ]+(?:\^[23])?|/", re.sub(r"[\s{}]*\^[\s{}]*", "^", found.group(1)))
    unit, rest = unit_of(words), text[: found.start()].strip()
    # A letter right after the number is a variable (5x), a word a unit; "5 m" with a space could be either.
    spaced = text[found.start() : found.start(1)] != ""
    letter = len(words[0].partition("^")[0]) == 1
    if unit is None or (letter and (not spaced or words[0][0] not in "mgshlL" or _VARIABLE.search(rest))):
        return text, None
    return rest, unit
