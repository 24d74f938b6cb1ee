"""Worked examples for few-shot prompting, all written for this project, so that none comes from a test set."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Worked:
    """A question with its chain of thought and its answer."""

    question: str
    thought: str
    answer: str


MATH_EN = (
    Worked(
        "A baker puts 6 rolls in each bag. She filled 7 bags and has 5 rolls left over. How many did she bake?",
        "The 7 bags hold 7 * 6 = 42 rolls. Together with the 5 that are left over she baked 42 + 5 = 47 rolls.",
        "47",
    ),
    Worked(
        "A train leaves at 9:40 and needs 85 minutes. How many minutes after 10:00 does it arrive?",
        "From 9:40 to 10:00 there are 20 minutes. Of the 85 minutes, 85 - 20 = 65 remain after 10:00.",
        "65",
    ),
    Worked(
        "If $3x - 4 = 17$, what is $x^2$?",
        "Adding 4 gives $3x = 21$, so $x = 7$ and $x^2 = 49$.",
        "49",
    ),
    Worked(
        "A shirt costs 40 dollars. Its price falls by a quarter, then rises by 10 dollars. What does it cost now?",
        "A quarter of 40 is 10, so the price falls to 30 dollars. Raised by 10 it is 40 dollars again.",
        "40",
    ),
)
MATH_ZH = (
    Worked(
        "一箱有6个苹果，小店卖出7箱后还剩5个苹果。小店原来有多少个苹果？",
        "卖出的苹果有7×6=42个，加上剩下的5个，原来有42+5=47个。",
        "47",
    ),
    Worked("一本书有120页，小红第一天看了四分之一，还剩多少页？", "第一天看了120÷4=30页，还剩120-30=90页。", "90"),
    Worked("甲、乙两数的和是36，甲数是乙数的3倍，乙数是多少？", "和是乙数的3+1=4倍，所以乙数是36÷4=9。", "9"),
)
CHOICE_EN = (
    Worked(
        "Which of these is a noble gas?\n\nA) Nitrogen\nB) Neon\nC) Oxygen\nD) Chlorine",
        "Noble gases have a full outer shell. Of the four only neon has one.",
        "B",
    ),
    Worked(
        "A ball is dropped from rest. Without air resistance, how far has it fallen after 2 s (g = 10 m/s²)?\n\n"
        "A) 5 m\nB) 10 m\nC) 20 m\nD) 40 m",
        "The distance is g t² / 2 = 10 * 4 / 2 = 20 m.",
        "C",
    ),
    Worked(
        "In which organ is bile made?\n\nA) Liver\nB) Stomach\nC) Kidney\nD) Spleen",
        "Bile is made by the cells of the liver and stored in the gall bladder.",
        "A",
    ),
)
CHOICE_ZH = (
    Worked(
        "下列物质中属于单质的是？\n\nA) 水\nB) 二氧化碳\nC) 氧气\nD) 食盐",
        "单质只含一种元素，四项中只有氧气如此。",
        "C",
    ),
    Worked("我国最长的河流是？\n\nA) 长江\nB) 黄河\nC) 珠江\nD) 淮河", "长江全长约六千三百公里，比其他几条都长。", "A"),
)
WSC_ZH = (
    Worked(
        "小明把书还给了小刚，因为他已经看完了。\n上面这段话里，代词“他”指的是“小明”吗？",
        "看完书的人会把书还回去，还书的是小明。",
        "是",
    ),
    Worked(
        "奶奶叫孙女起床，说她上学要迟到了。\n上面这段话里，代词“她”指的是“奶奶”吗？",
        "要去上学的是孙女，不是奶奶。",
        "否",
    ),
)
READING = (
    Worked(
        "The village school had 48 pupils in spring. In autumn 9 left and 14 joined; a second teacher was hired.\n"
        "How many pupils did the school have after the autumn?",
        "48 pupils less 9 are 39; with 14 new ones there are 39 + 14 = 53.",
        "53",
    ),
    Worked(
        "The bridge was begun by Martin Holt in 1871. After his death his sister Clara finished it in 1879.\n"
        "Who finished the bridge?",
        "Martin Holt began it, but it was finished by his sister Clara.",
        "Clara",
    ),
    Worked(
        "In the final the Harriers scored a goal in the 12th minute and another in the 70th; the Swifts scored once.\n"
        "By how many goals did the Harriers win?",
        "The Harriers scored 2 goals and the Swifts 1, so they won by 1.",
        "1",
    ),
)
SHORT = (
    Worked("Which planet is closest to the Sun?", "The first three are Mercury, Venus and Earth.",
           "Mercury"),
    Worked("How many strings does a violin have?", "They are tuned to G, D, A and E.", "4"),
    Worked("Who painted the ceiling of the Sistine Chapel?", "It was painted between 1508 and 1512 for Julius II.",
           "Michelangelo"),
)  # fmt: skip
