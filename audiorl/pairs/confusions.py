"""What is mistaken for what: English homophones, letters of like sounds, number words."""

from __future__ import annotations

# Words of one sound, or nearly, in most English accents. English only: other languages have no list here.
_ENGLISH_HOMOPHONES = """
there their they're|to too two|its it's|your you're|hear here|know no|new knew|right write rite|one won
for four fore|by buy bye|our hour are|or oar ore|be bee|see sea|some sum|sun son|way weigh|wait weight|week weak
wear where ware|whether weather|which witch|who's whose|would wood|through threw|then than|accept except
affect effect|ate eight|allowed aloud|bare bear|berry bury|blew blue|board bored|brake break|bread bred|cell sell
cent sent scent|cite site sight|coarse course|complement compliment|council counsel|days daze|dear deer
desert dessert|die dye|fair fare|find fined|flour flower|great grate|hair hare|hall haul|heal heel|heard herd
higher hire|him hymn|hole whole|knight night|lead led|made maid|mail male|main mane|meat meet|morning mourning
none nun|pail pale|pain pane|pair pear|passed past|patience patients|peace piece|peak peek|plain plane
principal principle|rain reign|raise rays|read red|real reel|road rode|role roll|sail sale|scene seen|sew so
steal steel|stair stare|stationary stationery|suite sweet|tail tale|threw through|throne thrown|tide tied|time thyme
vain vein|waist waste|war wore|we wee|were we're|while wile|wrap rap|yoke yolk|an and|and end|let's lets
"""


def _groups(table: str) -> dict[str, tuple[str, ...]]:
    others: dict[str, tuple[str, ...]] = {}
    for group in (line.split() for line in table.replace("\n", "|").split("|")):
        for word in group:
            found = (*others.get(word, ()), *(other for other in group if other != word))
            others[word] = tuple(dict.fromkeys(found))
    return others


# word -> words that sound like it, lower case
HOMOPHONES: dict[str, tuple[str, ...]] = _groups(_ENGLISH_HOMOPHONES)

# Letters whose sounds differ in one feature (voice, place, height). Scripts that are not here have no neighbours: a
# Chinese character, for example, does not show its sound.
_LETTERS = """
b p|d t|g k|v f|s z|m n|l r|a e|e i|i y|o u|a o|c k|w v|h j
б п|д т|г к|в ф|з с|ж ш|м н|л р|а о|е и|у ю|ы и|ц ч
β π|δ τ|γ κ|μ ν|λ ρ|α ε|ο ω|η ι|σ ζ|φ θ
か が|き ぎ|く ぐ|け げ|こ ご|さ ざ|し じ|す ず|せ ぜ|そ ぞ|た だ|て で|と ど|は ば|ひ び|ふ ぶ|へ べ|ほ ぼ
カ ガ|キ ギ|ク グ|ケ ゲ|コ ゴ|サ ザ|シ ジ|ス ズ|セ ゼ|ソ ゾ|タ ダ|テ デ|ト ド|ハ バ|ヒ ビ|フ ブ|ヘ ベ|ホ ボ
क ग|त द|प ब|च ज|ट ड|म न|ल र|स श
ب ت|د ذ|س ص|ت ط|ك ق|ح ه
"""  # noqa: RUF001
# letter -> letters it is mistaken for
NEIGHBOURS: dict[str, tuple[str, ...]] = _groups(_LETTERS)

# By language: groups of number words of one kind, one of which takes another's place.
NUMBER_WORDS: dict[str, tuple[str, ...]] = {
    "en": (
        "one two three four five six seven eight nine ten eleven twelve",
        "thirteen fourteen fifteen sixteen seventeen eighteen nineteen thirty forty fifty sixty seventy eighty ninety",
        "hundred thousand million billion",
        "first second third fourth fifth sixth seventh eighth ninth tenth",
    ),
    "de": (
        "eins zwei drei vier fünf sechs sieben acht neun zehn elf zwölf",
        "dreizehn vierzehn fünfzehn sechzehn siebzehn achtzehn neunzehn",
        "zwanzig dreißig vierzig fünfzig sechzig siebzig achtzig neunzig",
        "hundert tausend",
    ),
    "fr": (
        "deux trois quatre cinq six sept huit neuf dix onze douze treize quatorze quinze seize",
        "vingt trente quarante cinquante soixante",
        "cent mille",
    ),
    "es": (
        "dos tres cuatro cinco seis siete ocho nueve diez once doce trece catorce quince",
        "veinte treinta cuarenta cincuenta sesenta setenta ochenta noventa",
        "cien mil",
    ),
    "it": (
        "due tre quattro cinque sei sette otto nove dieci undici dodici",
        "venti trenta quaranta cinquanta sessanta settanta ottanta novanta",
        "cento mille",
    ),
    "zh": ("一 二 三 四 五 六 七 八 九", "百 千 万"),
    "ja": ("一 二 三 四 五 六 七 八 九", "百 千 万"),
}
